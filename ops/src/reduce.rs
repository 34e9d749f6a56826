//! Reductions over axes, `ArgMax` and `ArgMin`, and running sums.
//!
//! Source: ONNX `Operators.md`. The axes are an attribute before version 18 (13 for `ReduceSum`) and an operand
//! since; no axes means all of them, unless `noop_with_empty_axes`.

mod kernel;

use crate::infer::{Inferred, axis, dtype, same, shape};
use crate::{Class, Fact, InferCx, InferError, Out, Port, Row};
use squint_ir::{DType, Dim, Shape};

const SINCE: &[i64] = &[1, 11, 13, 18];
const SINCE_EXTREME: &[i64] = &[1, 11, 12, 13, 18, 20];
const SINCE_LOG: &[i64] = &[1, 11, 13, 18, 28];

const fn reduce(op_type: &'static str, since: &'static [i64]) -> Row {
    Row::new(op_type, since, Class::Reduction, infer).ports(&[Port::Act, Port::Index]).eval(kernel::eval)
}

const fn running(op_type: &'static str, since: &'static [i64]) -> Row {
    Row::new(op_type, since, Class::Other, infer_running).ports(&[Port::Act, Port::Index])
}

pub(crate) const ROWS: &[Row] = &[
    reduce("ReduceMean", SINCE),
    reduce("ReduceSum", &[1, 11, 13]),
    reduce("ReduceMax", SINCE_EXTREME).outs(&[Out::Same(0)]),
    reduce("ReduceMin", SINCE_EXTREME).outs(&[Out::Same(0)]),
    reduce("ReduceProd", SINCE),
    reduce("ReduceL1", SINCE),
    reduce("ReduceL2", SINCE),
    reduce("ReduceLogSum", SINCE_LOG),
    reduce("ReduceLogSumExp", SINCE_LOG),
    reduce("ReduceSumSquare", SINCE),
    Row::new("ArgMax", &[1, 11, 12, 13], Class::Reduction, infer_arg)
        .outs(&[Out::Plain])
        .eval(kernel::eval_arg),
    Row::new("ArgMin", &[1, 11, 12, 13], Class::Reduction, infer_arg)
        .outs(&[Out::Plain])
        .eval(kernel::eval_arg),
    running("CumSum", &[11, 14]),
    running("CumProd", &[26]),
];

fn infer(cx: &InferCx<'_>) -> Inferred {
    let dtype = dtype(cx, 0);
    let Some(x) = shape(cx, 0) else { return Ok(vec![Fact::of(dtype)]) };
    let keep = cx.op.int("keepdims").unwrap_or(1) != 0;
    let axes = match cx.optional(1) {
        None => cx.op.ints("axes").map(<[i64]>::to_vec),
        Some(operand) => match operand.ints() {
            Some(axes) => Some(axes),
            // Which axes go is unknown; how many may be.
            None => {
                let count = operand.shape.as_ref().and_then(|s| s.first()).and_then(Dim::known);
                let count = count.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
                let rank = if keep { Some(x.len()) } else { count.and_then(|n| x.len().checked_sub(n)) };
                return Ok(vec![Fact::new(dtype, rank.map(|r| vec![Dim::Unknown; r]))]);
            }
        },
    };
    let noop = cx.op.int("noop_with_empty_axes").unwrap_or(0) != 0;
    let gone = reduced(axes.as_deref().unwrap_or(&[]), x.len(), noop).map_err(InferError)?;
    Ok(vec![Fact::new(dtype, Some(remaining(x, &gone, keep)))])
}

/// Which axes a list of axes reduces.
fn reduced(axes: &[i64], rank: usize, noop_if_empty: bool) -> Result<Vec<bool>, String> {
    let mut gone = vec![axes.is_empty() && !noop_if_empty; rank];
    for a in axes {
        gone[axis(*a, rank).map_err(|e| e.0)?] = true;
    }
    Ok(gone)
}

fn remaining(x: &Shape, gone: &[bool], keep: bool) -> Shape {
    let dims = x.iter().zip(gone).filter(|(_, gone)| keep || !**gone);
    dims.map(|(d, gone)| if *gone { Dim::Known(1) } else { d.clone() }).collect()
}

fn infer_arg(cx: &InferCx<'_>) -> Inferred {
    let Some(x) = shape(cx, 0) else { return Ok(vec![Fact::of(Some(DType::Int64))]) };
    let gone = reduced(&[cx.op.int("axis").unwrap_or(0)], x.len(), false).map_err(InferError)?;
    let keep = cx.op.int("keepdims").unwrap_or(1) != 0;
    Ok(vec![Fact::new(Some(DType::Int64), Some(remaining(x, &gone, keep)))])
}

fn infer_running(cx: &InferCx<'_>) -> Inferred {
    if let (Some(x), Some([a])) = (shape(cx, 0), cx.optional(1).and_then(Fact::ints).as_deref()) {
        axis(*a, x.len())?;
    }
    same(cx)
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes() {
        table(
            "
            ReduceMean-13 <axes=[2,3]> (float[N,64,H,W]) -> float[N,64,1,1]
            ReduceMean-13 <axes=[-1] keepdims=0> (float[N,64,H,W]) -> float[N,64,H]
            ReduceMean-18 (float[N,64,H,W]; int64[2] = 2 3) -> float[N,64,1,1]
            ReduceSum-13 <keepdims=0> (float[N,64]; int64[1] = -1) -> float[N]
            ReduceSum-13 (float[N,64]) -> float[1,1]
            ReduceSum-13 <keepdims=0> (int32[N,64]) -> int32[]
            ReduceSum-13 <noop_with_empty_axes=1> (float[N,64]) -> float[N,64]
            ReduceSum-13 (float[N,64]; int64[K]) -> float[?,?]
            ReduceSum-13 <keepdims=0> (float[N,64,8]; int64[2]) -> float[?]
            ReduceSum-13 <keepdims=0> (float[N,64,8]; int64[K]) -> float
            ReduceL2-11 <axes=[1]> (double) -> double
            ArgMax-13 <axis=-1> (float[N,1000]) -> int64[N,1]
            ArgMin-13 <keepdims=0> (float[N,1000]) -> int64[1000]
            CumSum-14 (float[N,10]; int64[] = 1) -> float[N,10]
            ReduceMax-13 <axes=[4]> (float[N,64]) -> error: axis 4 does not exist in rank 2
            CumSum-14 (float[N,10]; int64[] = 2) -> error: axis 2 does not exist in rank 2
            ",
        );
    }
}
