//! `Resize` and `Upsample`.
//!
//! Where the operands are depends on the version: `Upsample`-7 and before have attributes; `Upsample`-9 and
//! `Resize`-10 have `(data, scales)`; from `Resize`-11 on it is `(data, roi, scales, sizes)`, with `axes` and
//! `keep_aspect_ratio_policy` since 18. Lengths are `floor(length * scale)` in single precision, as in the
//! shape inference of ONNX.
//!
//! The rows are of class `Movement`, which holds for `mode` `nearest` only (then each element of the result
//! is one of the operand). The class is static, so a target has to look at the attribute; for the other
//! modes elements are averages, and the range of the operand still bounds those of `linear`.

use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::row::{Class, Out, Port, Row};
use squint_ir::{Dim, Shape};

pub(crate) const ROWS: &[Row] = &[
    row("Resize", &[10, 11, 13, 18, 19], &[Port::Act, Port::Param, Port::Param, Port::Index]),
    row("Upsample", &[1, 7, 9, 10], &[Port::Act, Port::Param]),
];

const fn row(op: &'static str, since: &'static [i64], ports: &'static [Port]) -> Row {
    Row::onnx(op, since, Class::Movement, ports, &[Out::Same(0)], resize, None)
}

fn resize(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let axes = match cx.op.ints("axes") {
        None => (0..shape.len()).collect(),
        Some(axes) => axes.iter().map(|a| infer::axis(*a, shape.len())).collect::<Result<Vec<_>, _>>()?,
    };
    let mut out = shape.clone();
    if let Some(sizes) = cx.optional(3).filter(|f| !is_empty(f)) {
        let sizes = sizes.lengths().unwrap_or(vec![Dim::Unknown; axes.len()]);
        check_count(cx, "sizes", sizes.len(), axes.len())?;
        match cx.op.string("keep_aspect_ratio_policy").unwrap_or("stretch") {
            "stretch" => axes.iter().zip(sizes).for_each(|(a, size)| out[*a] = size),
            policy => keep_ratio(&mut out, &axes, &sizes, policy == "not_larger"),
        }
        return Ok(vec![Fact::new(data.dtype, Some(out))]);
    }
    match scales(cx) {
        Some(scales) => {
            check_count(cx, "scales", scales.len(), axes.len())?;
            for (a, scale) in axes.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return cx.error(format!("the scale of axis {a} is {scale}"));
                }
                out[*a] = match &shape[*a] {
                    d if scale == 1.0 => d.clone(),
                    Dim::Known(n) => length((*n as f32 * scale).floor()),
                    _ => Dim::Unknown,
                };
            }
        }
        None => axes.iter().for_each(|a| out[*a] = Dim::Unknown),
    }
    Ok(vec![Fact::new(data.dtype, Some(out))])
}

fn check_count(cx: &InferCx<'_>, what: &str, count: usize, axes: usize) -> Result<(), InferError> {
    if count == axes { Ok(()) } else { cx.error(format!("{count} {what} for {axes} axes")) }
}

/// The scales, if constant, from wherever the version keeps them.
fn scales(cx: &InferCx<'_>) -> Option<Vec<f32>> {
    if cx.op.is("Upsample") {
        if let Some(scales) = cx.op.floats("scales") {
            return Some(scales.to_vec());
        }
        if let (Some(height), Some(width)) = (cx.op.float("height_scale"), cx.op.float("width_scale")) {
            return Some(vec![1.0, 1.0, height, width]);
        }
    }
    let slot = if cx.op.is("Resize") && cx.opset >= 11 { 2 } else { 1 };
    Some(cx.optional(slot)?.konst.as_ref()?.to_f32s())
}

/// One scale for all axes, the smallest (or largest) that the sizes ask for.
fn keep_ratio(out: &mut Shape, axes: &[usize], sizes: &[Dim], not_larger: bool) {
    let ratio = |(a, size): (&usize, &Dim)| Some(size.known()? as f32 / out[*a].known()? as f32);
    let ratios: Option<Vec<f32>> = axes.iter().zip(sizes).map(ratio).collect();
    let scale = ratios.and_then(|r| r.into_iter().reduce(if not_larger { f32::min } else { f32::max }));
    for a in axes {
        out[*a] = match (scale, out[*a].known()) {
            (Some(scale), Some(n)) => length((scale * n as f32 + 0.5).floor()),
            _ => Dim::Unknown,
        };
    }
}

/// A length computed in floating point, if it is one that a tensor can have.
fn length(x: f32) -> Dim {
    if (0.0..9e15).contains(&x) { Dim::Known(x as u64) } else { Dim::Unknown }
}

/// An operand of no elements stands for an omitted one.
fn is_empty(fact: &Fact) -> bool {
    fact.shape.as_deref() == Some(&[Dim::Known(0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, op};
    use squint_ir::{DType, Tensor};
    use std::sync::Arc;

    #[test]
    fn sizes_decide() {
        check(&[
            ("Resize", 13, "", "float[N,3,8,8]; -; -; int64[4] = 1 3 16 20", "float[1,3,16,20]"),
            ("Resize", 13, "", "float[N,3,8,8]; -; -; int64[4]", "float[?,?,?,?]"),
            ("Resize", 18, "axes=[2,3]", "float[N,3,8,8]; -; -; int64[2] = 16 20", "float[N,3,16,20]"),
            (
                "Resize",
                18,
                "axes=[2,3] keep_aspect_ratio_policy=not_larger",
                "float[N,3,8,6]; -; -; int64[2] = 16 20",
                "float[N,3,16,12]",
            ),
            (
                "Resize",
                18,
                "axes=[2,3] keep_aspect_ratio_policy=not_smaller",
                "float[N,3,8,6]; -; -; int64[2] = 16 20",
                "float[N,3,27,20]",
            ),
            ("Resize", 13, "", "float[1,3]; -; -; int64[1] = 2", "error: 1 sizes for 2 axes"),
            ("Resize", 13, "", "float[1,3]; -; float[2]", "float[?,?]"),
        ]);
    }

    #[test]
    fn scales_are_where_the_version_has_them() {
        let n = Dim::Symbol("N".into());
        let x =
            Fact::new(Some(DType::Float), Some(vec![n.clone(), Dim::Known(3), Dim::Known(7), Dim::Known(7)]));
        let scales = Fact::constant(Arc::new(Tensor::from_f32(&[4], &[1.0, 1.0, 2.0, 1.5])));
        let run = |name: &str, opset, inputs: &[Option<Fact>]| {
            resize(&InferCx { op: &op(name, ""), opset, inputs, n_results: 1 })
                .map(|mut f| f.remove(0).shape.unwrap())
        };
        let expected = vec![n, Dim::Known(3), Dim::Known(14), Dim::Known(10)];
        let two = [Some(x.clone()), Some(scales.clone())];
        assert_eq!(run("Resize", 10, &two).unwrap(), expected);
        assert_eq!(run("Upsample", 9, &two).unwrap(), expected);
        assert_eq!(run("Resize", 13, &[Some(x.clone()), None, Some(scales)]).unwrap(), expected);
        let bad = Fact::constant(Arc::new(Tensor::from_f32(&[4], &[1.0, 1.0, f32::NAN, 1.0])));
        assert_eq!(run("Resize", 10, &[Some(x), Some(bad)]).unwrap_err().0, "the scale of axis 2 is NaN");
    }
}
