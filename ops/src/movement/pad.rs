//! `Pad`.
//!
//! Pads are all leading ones, then all trailing ones; a negative pad removes. Since version 11 they are an
//! operand, since version 18 an operand may name the axes they are for.

use super::{numbers, show};
use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::kernel::{self, Sink, Source, remap, resolve_axis, result_dims};
use crate::row::{EvalCx, EvalError};
use squint_ir::{DType, Dim, Op, Tensor};

pub(super) fn pad(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let unknown = Fact::new(data.dtype, Some(vec![Dim::Unknown; shape.len()]));
    let pads = match attribute(cx.op, cx.opset) {
        Some(pads) => Some(pads.iter().copied().map(Some).collect()),
        None => cx.optional(1).and_then(numbers),
    };
    let axes = match cx.optional(3) {
        None => Some((0..shape.len() as i64).collect()),
        Some(axes) => axes.ints(),
    };
    let (Some(pads), Some(axes)) = (pads, axes) else { return Ok(vec![unknown]) };
    if axes.len().checked_mul(2) != Some(pads.len()) {
        return cx.error(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut out = shape.clone();
    for (i, axis) in axes.iter().enumerate() {
        let axis = infer::axis(*axis, shape.len())?;
        out[axis] = match (pads[i], pads[i + axes.len()], &shape[axis]) {
            (Some(0), Some(0), d) => d.clone(),
            (Some(before), Some(after), Dim::Known(n)) => {
                let sum = i128::from(*n) + i128::from(before) + i128::from(after);
                match u64::try_from(sum) {
                    Ok(n) => Dim::Known(n),
                    Err(_) => {
                        return cx
                            .error(format!("pads make the length of axis {axis} of {} {sum}", show(shape)));
                    }
                }
            }
            _ => Dim::Unknown,
        };
    }
    Ok(vec![Fact::new(data.dtype, Some(out))])
}

/// The attribute of versions before 11.
fn attribute(op: &Op, opset: i64) -> Option<&[i64]> {
    if opset >= 11 {
        return None;
    }
    op.ints("pads").or_else(|| op.ints("paddings"))
}

pub(super) fn kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let data = cx.input(0)?;
    let dims = result_dims(cx, pad)?;
    if dims.contains(&0) {
        return Ok(vec![Sink::new(data.dtype(), 0).finish(&dims)?]);
    }
    let pads = match attribute(cx.op, cx.opset) {
        Some(pads) => Some(pads.to_vec()),
        None => cx.optional(1).and_then(Tensor::to_i64s),
    };
    let axes = match cx.optional(3) {
        None => Some((0..dims.len() as i64).collect()),
        Some(axes) => axes.to_i64s(),
    };
    let (Some(pads), Some(axes)) = (pads, axes) else {
        return kernel::invalid("`pads` or `axes` is missing");
    };
    let mode = cx.op.string("mode").unwrap_or("constant");
    let mut before = vec![0; dims.len()];
    for (axis, pad) in axes.iter().zip(&pads) {
        if let Some(axis) = resolve_axis(*axis, dims.len()) {
            before[axis] = *pad;
        }
    }
    let mut maps = Vec::with_capacity(dims.len());
    for ((&to, &from), &before) in dims.iter().zip(data.dims()).zip(&before) {
        if from == 0 && mode != "constant" {
            return kernel::invalid(format!("`{mode}` padding of an axis of length 0"));
        }
        let source = |i: usize| source_index(i as i128 - i128::from(before), from as i128, mode);
        maps.push((0..to).map(source).collect::<Result<Vec<_>, _>>()?);
    }
    let fill = match (attribute(cx.op, cx.opset), cx.optional(2)) {
        (Some(_), _) => match (cx.op.float("value").unwrap_or(0.0), data.dtype()) {
            (0.0, _) => None,
            (value, DType::Float) => Some(Tensor::scalar_f32(value)),
            (value, dtype) => return kernel::unsupported(format!("padding of {dtype} with {value}")),
        },
        (None, fill) => fill.filter(|f| f.len() == 1).cloned(),
    };
    if fill.as_ref().is_some_and(|f| f.dtype() != data.dtype()) {
        return kernel::invalid("the constant is not of the type of the data");
    }
    Ok(vec![remap(data, &maps, fill.as_ref().map(Source::new).as_ref())?])
}

/// Where the element at `i`, counted from the first unpadded one, comes from on an axis of length `n`.
fn source_index(i: i128, n: i128, mode: &str) -> Result<Option<usize>, EvalError> {
    let at = match mode {
        "constant" if !(0..n).contains(&i) => return Ok(None),
        "constant" => i,
        "edge" => i.clamp(0, n - 1),
        "wrap" => i.rem_euclid(n),
        "reflect" => {
            let period = (2 * (n - 1)).max(1);
            let i = i.rem_euclid(period);
            if i < n { i } else { period - i }
        }
        _ => return kernel::unsupported(format!("`mode` `{mode}`")),
    };
    Ok(Some(at as usize))
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::Tensor;

    #[test]
    fn shapes() {
        check(&[
            ("Pad", 13, "", "float[N,3]; int64[4] = 0 1 0 2", "float[N,6]"),
            ("Pad", 2, "pads=[1,0,1,0]", "float[2,N]", "float[4,N]"),
            ("Pad", 18, "", "float[N,3,H]; int64[2] = 1 1; -; int64[1] = 1", "float[N,5,H]"),
            ("Pad", 13, "", "float[N,3]; int64[4]", "float[?,?]"),
            ("Pad", 13, "", "float[2]; int64[2] = -2 -1", "error: pads make the length of axis 0 of [2] -1"),
            ("Pad", 13, "", "float[2]; int64[1] = 1", "error: 1 pads for 1 axes"),
        ]);
    }

    #[test]
    fn modes() {
        let x = Tensor::from_i64(&[3], &[1, 2, 3]);
        let pads = Tensor::from_i64(&[2], &[2, 3]);
        let run = |mode: &str| {
            let out = eval("Pad", 19, &format!("mode={mode}"), &[Some(&x), Some(&pads)]);
            out.unwrap().remove(0).to_i64s().unwrap()
        };
        assert_eq!(run("constant"), [0, 0, 1, 2, 3, 0, 0, 0]);
        assert_eq!(run("edge"), [1, 1, 1, 2, 3, 3, 3, 3]);
        assert_eq!(run("reflect"), [3, 2, 1, 2, 3, 2, 1, 2]);
        assert_eq!(run("wrap"), [2, 3, 1, 2, 3, 1, 2, 3]);
        let nine = Tensor::scalar_i64(9);
        let crop = Tensor::from_i64(&[2], &[-1, 1]);
        let out = eval("Pad", 13, "", &[Some(&x), Some(&crop), Some(&nine)]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [2, 3, 9]);
    }
}
