//! `Softmax`, `LogSoftmax` and `Hardmax`: along one axis since version 13, over all axes from one on before.

use crate::infer::{self, Inferred};
use crate::kernel::float::float_input;
use crate::{EvalCx, EvalError, InferCx};
use squint_ir::Tensor;

pub(super) fn infer(cx: &InferCx<'_>) -> Inferred {
    if let Some(rank) = infer::shape(cx, 0).map(Vec::len) {
        start(cx.op.int("axis"), cx.opset, rank).map_err(crate::InferError)?;
    }
    infer::same(cx)
}

/// Softmax `e^(x - max) / sum` or its logarithm, on `float`.
pub(super) fn eval(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = float_input(cx, 0)?;
    let axis = start(cx.op.int("axis"), cx.opset, x.rank()).map_err(EvalError::Invalid)?;
    let dims = x.dims();
    if x.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let outer: usize = dims[..axis].iter().product();
    let (length, inner) = match cx.opset {
        ..13 => (dims[axis..].iter().product(), 1),
        _ => (dims.get(axis).copied().unwrap_or(1), dims.iter().skip(axis + 1).product::<usize>()),
    };
    let log = cx.op.op_type == "LogSoftmax";
    let mut y = x.to_f32s();
    for o in 0..outer {
        for i in 0..inner {
            let at = |l: usize| (o * length + l) * inner + i;
            let max = (0..length).map(|l| y[at(l)]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = (0..length).map(|l| f64::from(y[at(l)] - max).exp()).sum();
            for l in 0..length {
                let shifted = f64::from(y[at(l)] - max);
                y[at(l)] = if log { shifted - sum.ln() } else { shifted.exp() / sum } as f32;
            }
        }
    }
    Ok(vec![Tensor::from_f32(dims, &y)])
}

/// The axis from the front. Before version 13 it may be the rank itself, for groups of one element.
fn start(axis: Option<i64>, opset: i64, rank: usize) -> Result<usize, String> {
    let axis = axis.unwrap_or(if opset < 13 { 1 } else { -1 });
    if axis == rank as i64 && opset < 13 || rank == 0 {
        return Ok(rank);
    }
    infer::axis(axis, rank).map_err(|e| e.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            Softmax-13 <axis=-1> (float[N,10]) -> float[N,10]
            Softmax-11 <axis=2> (float[N,10]) -> float[N,10]
            LogSoftmax-13 <axis=2> (float[N,10]) -> error: axis 2 does not exist in rank 2
            ",
        );
    }

    #[test]
    fn the_axis_means_one_axis_since_version_13_and_all_that_follow_before() {
        let x = Tensor::from_f32(&[1, 2, 2], &[0.0; 4]);
        let run = |opset| eval("Softmax", opset, "axis=1", &[Some(&x)]).expect("kernel")[0].to_f32s();
        assert_eq!(run(13), [0.5; 4]);
        assert_eq!(run(11), [0.25; 4]);
        let large = Tensor::from_f32(&[2], &[1000.0, 1000.0]);
        let y = eval("LogSoftmax", 13, "", &[Some(&large)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [-(2f32.ln()); 2]);
        let empty = Tensor::from_f32(&[0, 3], &[]);
        assert_eq!(eval("Softmax", 13, "axis=0", &[Some(&empty)]).expect("kernel")[0].len(), 0);
    }
}
