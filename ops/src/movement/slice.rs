//! `Slice`.
//!
//! Since version 10 starts, ends, axes and steps are operands, before they were attributes (and steps 1).

use super::numbers;
use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::kernel::{self, View, gather_view, resolve_axis};
use crate::row::{EvalCx, EvalError};
use squint_ir::{Dim, Tensor};

pub(super) fn slice(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let unknown = Fact::new(data.dtype, Some(vec![Dim::Unknown; shape.len()]));
    let Some(starts) = list(cx, "starts", 1) else { return Ok(vec![unknown]) };
    let n = starts.len();
    let ends = list(cx, "ends", 2).unwrap_or(vec![None; n]);
    let end_symbols = cx.optional(2).and_then(|f| f.dims.clone()).unwrap_or_default();
    let present = |name: &str, slot| cx.op.ints(name).is_some() || cx.optional(slot).is_some();
    let axes: Vec<i64> = match list(cx, "axes", 3) {
        Some(axes) => match axes.into_iter().collect() {
            Some(axes) => axes,
            None => return Ok(vec![unknown]),
        },
        None if present("axes", 3) => return Ok(vec![unknown]),
        None => (0..n as i64).collect(),
    };
    let steps = match list(cx, "steps", 4) {
        Some(steps) => steps,
        None if present("steps", 4) => vec![None; n],
        None => vec![Some(1); n],
    };
    if [ends.len(), axes.len(), steps.len()] != [n; 3] {
        let counts = [n, ends.len(), axes.len(), steps.len()];
        return cx.error(format!("starts, ends, axes and steps are {counts:?} in number"));
    }
    let mut out = shape.clone();
    let mut lengths = data.dims.clone().filter(|_| shape.len() == 1);
    for i in 0..n {
        let axis = infer::axis(axes[i], shape.len())?;
        if steps[i] == Some(0) {
            return cx.error("a step is 0");
        }
        let range = match (shape[axis].known(), starts[i], ends[i], steps[i]) {
            (Some(len), Some(start), Some(end), Some(step)) => Some(range(len, start, end, step)),
            _ => None,
        };
        let to_own_length =
            matches!(&shape[axis], Dim::Symbol(_)) && end_symbols.get(i) == Some(&shape[axis]);
        out[axis] = match range {
            Some((_, len)) => Dim::Known(len),
            None if is_whole(starts[i], ends[i], steps[i], to_own_length) => continue,
            None => Dim::Unknown,
        };
        lengths = match (lengths, range, steps[i]) {
            (Some(d), Some((first, len)), Some(step)) => {
                let at = |k: u64| usize::try_from(i128::from(first) + i128::from(k) * i128::from(step)).ok();
                (0..len).map(|k| d.get(at(k)?).cloned()).collect()
            }
            _ => None,
        };
    }
    Ok(vec![Fact::new(data.dtype, Some(out)).with_lengths(lengths)])
}

/// First index and number of elements of a slice of an axis of length `len`.
fn range(len: u64, start: i64, end: i64, step: i64) -> (u64, u64) {
    let (n, step) = (i128::from(len), i128::from(step));
    let from_front = |i: i64| if i < 0 { i128::from(i) + n } else { i128::from(i) };
    let (start, end) = (from_front(start), from_front(end));
    let (start, span, stride) = if step > 0 {
        let start = start.clamp(0, n);
        (start, end.clamp(0, n) - start, step)
    } else {
        let start = start.clamp(-1, n - 1);
        (start, start - end.clamp(-1, n - 1), -step)
    };
    let count = if span <= 0 { 0 } else { (span + stride - 1) / stride };
    if count == 0 { (0, 0) } else { (start as u64, count as u64) }
}

/// Whether a slice takes all of an axis, whatever its length.
fn is_whole(start: Option<i64>, end: Option<i64>, step: Option<i64>, to_own_length: bool) -> bool {
    const FAR: i64 = i32::MAX as i64;
    match (start, step) {
        (Some(0), Some(1)) => to_own_length || end.is_some_and(|e| e >= FAR),
        (Some(s), Some(-1)) => (s == -1 || s >= FAR) && end.is_some_and(|e| e <= -FAR),
        _ => false,
    }
}

/// Numbers from an attribute or an operand.
fn list(cx: &InferCx<'_>, attr: &str, slot: usize) -> Option<Vec<Option<i64>>> {
    match cx.op.ints(attr) {
        Some(v) if cx.opset < 10 => Some(v.iter().copied().map(Some).collect()),
        _ => numbers(cx.optional(slot)?),
    }
}

pub(super) fn kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let data = cx.input(0)?;
    let list = |attr: &str, slot: usize| match cx.op.ints(attr) {
        Some(v) if cx.opset < 10 => Some(v.to_vec()),
        _ => cx.optional(slot).and_then(Tensor::to_i64s),
    };
    let (Some(starts), Some(ends)) = (list("starts", 1), list("ends", 2)) else {
        return kernel::invalid("`starts` or `ends` is missing");
    };
    let n = starts.len();
    let axes = list("axes", 3).unwrap_or((0..n as i64).collect());
    let steps = list("steps", 4).unwrap_or(vec![1; n]);
    if [ends.len(), axes.len(), steps.len()] != [n; 3] || steps.contains(&0) {
        return kernel::invalid("starts, ends, axes and steps do not fit each other");
    }
    let mut view = View::new(data.dims());
    for i in 0..n {
        let axis = resolve_axis(axes[i], data.rank());
        let sliced = axis.and_then(|axis| {
            let (first, len) = range(data.dims()[axis] as u64, starts[i], ends[i], steps[i]);
            view.clone().slice(axis, first as usize, steps[i] as isize, len as usize)
        });
        let Some(sliced) = sliced else {
            return kernel::invalid(format!(
                "axis {} does not exist, or twice, in rank {}",
                axes[i],
                data.rank()
            ));
        };
        view = sliced;
    }
    Ok(vec![gather_view(data, &view)?])
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::Tensor;

    #[test]
    fn shapes() {
        check(&[
            ("Slice", 9, "starts=[1,0] ends=[3,-1]", "float[5,4]", "float[2,3]"),
            ("Slice", 9, "starts=[0] ends=[9] axes=[-1]", "float[N,4]", "float[N,4]"),
            (
                "Slice",
                13,
                "",
                "float[20]; int64[1] = -1; int64[1] = -21; int64[1] = 0; int64[1] = -3",
                "float[7]",
            ),
            (
                "Slice",
                13,
                "",
                "float[N,3]; int64[1] = 0; int64[1] = 9223372036854775807; int64[1] = 0",
                "float[N,3]",
            ),
            (
                "Slice",
                13,
                "",
                "float[N,3]; int64[1] = 1; int64[1] = 9223372036854775807; int64[1] = 0",
                "float[?,3]",
            ),
            (
                "Slice",
                13,
                "",
                "float[N,8]; int64[1] = 0; int64[1] = 9223372036854775807; int64[1] = 1; int64[1] = 2",
                "float[N,4]",
            ),
            (
                "Slice",
                13,
                "",
                "float[N]; int64[1] = -1; int64[1] = -9223372036854775808; int64[1] = 0; int64[1] = -1",
                "float[N]",
            ),
            ("Slice", 13, "", "float[5,3]; int64[1]; int64[1]; int64[1] = 0", "float[?,?]"),
            ("Slice", 13, "", "float[5]; int64[1] = 3; int64[1] = 1", "float[0]"),
            (
                "Slice",
                13,
                "",
                "float[5]; int64[1] = 0; int64[2] = 1 2",
                "error: starts, ends, axes and steps are [1, 2, 1, 1] in number",
            ),
            (
                "Slice",
                13,
                "",
                "float[5]; int64[1] = 0; int64[1] = 1; int64[1] = 0; int64[1] = 0",
                "error: a step is 0",
            ),
        ]);
    }

    #[test]
    fn kernels() {
        let x = Tensor::from_i64(&[2, 5], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let v = |x: i64| Tensor::from_i64(&[1], &[x]);
        let run = |start, end, axis, step| {
            let out = eval(
                "Slice",
                13,
                "",
                &[Some(&x), Some(&v(start)), Some(&v(end)), Some(&v(axis)), Some(&v(step))],
            );
            out.unwrap().remove(0).to_i64s().unwrap()
        };
        assert_eq!(run(-1, i64::MIN, 1, -2), [4, 2, 0, 9, 7, 5]);
        assert_eq!(run(1, 2, 0, 1), [5, 6, 7, 8, 9]);
        assert_eq!(run(3, i64::MAX, 1, i64::MAX), [3, 8]);
        assert_eq!(run(9, 3, 1, 1), [0_i64; 0]);
    }
}
