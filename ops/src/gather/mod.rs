//! Operators that read or write elements at places given by indices.
//!
//! Source: ONNX operator documentation. Indices count from the back where negative; one out of range is an
//! error. The scatter kernels know `reduction` `none` only.

pub(crate) mod kernel;

use crate::fact::{Fact, InferCx, InferError};
use crate::infer::{self, shape};
use crate::row::{Class, Out, Port, Row};
use squint_ir::{DType, Dim, Shape};

pub(crate) const ROWS: &[Row] = &[
    gather_row("Gather", &[1, 11, 13], gather, kernel::gather),
    gather_row("GatherElements", &[11, 13], gather_elements, kernel::gather_elements),
    gather_row("GatherND", &[11, 12, 13], gather_nd, kernel::gather_nd),
    gather_row("Compress", &[9, 11, 28], compress, kernel::compress),
    scatter_row("ScatterElements", &[11, 13, 16, 18], kernel::scatter_elements),
    scatter_row("ScatterND", &[11, 13, 16, 18], kernel::scatter_nd),
    scatter_row("Scatter", &[9, 11], kernel::scatter_elements),
    Row::onnx(
        "OneHot",
        &[9, 11, 28],
        Class::Index,
        &[Port::Index, Port::Index, Port::Param],
        &[Out::Plain],
        one_hot,
        Some(kernel::one_hot),
    ),
];

type Infer = fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>;
type Eval = fn(&crate::EvalCx<'_>) -> Result<Vec<squint_ir::Tensor>, crate::EvalError>;

const fn gather_row(op: &'static str, since: &'static [i64], infer: Infer, eval: Eval) -> Row {
    Row::onnx(op, since, Class::Movement, &[Port::Act, Port::Index], &[Out::Same(0)], infer, Some(eval))
}

/// Data and updates are mixed, so the range is that of both.
const fn scatter_row(op: &'static str, since: &'static [i64], eval: Eval) -> Row {
    let ports = &[Port::Act, Port::Index, Port::Act];
    Row::onnx(op, since, Class::Other, ports, &[Out::Unify], infer::same, Some(eval))
}

/// The shape of the indices stands in place of the axis.
fn gather(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let (Some(from), Some(at)) = (&data.shape, &indices.shape) else { return Ok(vec![Fact::of(data.dtype)]) };
    let axis = infer::axis(cx.op.int("axis").unwrap_or(0), from.len())?;
    let out = [&from[..axis], at, &from[axis + 1..]].concat();
    let lengths = match (&data.dims, indices.ints()) {
        (Some(d), Some(indices)) if from.len() == 1 && at.len() <= 1 => {
            let pick = |i: i64| crate::kernel::resolve_axis(i, d.len()).map(|i| d[i].clone());
            indices.into_iter().map(pick).collect()
        }
        _ => None,
    };
    Ok(vec![Fact::new(data.dtype, Some(out)).with_lengths(lengths)])
}

fn gather_elements(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    if let (Some(data), Some(indices)) = (shape(cx, 0), shape(cx, 1)) {
        infer::expect_rank(indices, data.len(), "operand 1")?;
    }
    Ok(vec![Fact::new(cx.input(0)?.dtype, shape(cx, 1).cloned())])
}

/// The last axis of the indices holds places in the leading axes of the data, behind `batch_dims`.
fn gather_nd(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let (Some(from), Some((depth, lead))) = (&data.shape, shape(cx, 1).and_then(|s| s.split_last())) else {
        return Ok(vec![Fact::of(data.dtype)]);
    };
    let batch = cx.op.int("batch_dims").unwrap_or(0);
    let Dim::Known(depth) = depth else { return Ok(vec![Fact::of(data.dtype)]) };
    let skipped = u64::try_from(batch).ok().and_then(|b| b.checked_add(*depth));
    let Some(rest) = skipped.and_then(|n| from.get(usize::try_from(n).ok()?..)) else {
        let rank = from.len();
        return cx.error(format!("`batch_dims` {batch} and indices of {depth} axes exceed rank {rank}"));
    };
    Ok(vec![Fact::new(data.dtype, Some([lead, rest].concat()))])
}

fn compress(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(axis) = cx.op.int("axis") else {
        return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown]))]);
    };
    let Some(mut out) = data.shape.clone() else { return Ok(vec![Fact::of(data.dtype)]) };
    let axis = infer::axis(axis, out.len())?;
    out[axis] = Dim::Unknown;
    Ok(vec![Fact::new(data.dtype, Some(out))])
}

fn one_hot(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let dtype: Option<DType> = infer::dtype(cx, 2);
    let Some(at) = shape(cx, 0) else { return Ok(vec![Fact::of(dtype)]) };
    let axis = infer::axis(cx.op.int("axis").unwrap_or(-1), at.len() + 1)?;
    let depth = cx.optional(1).and_then(|f| match &f.konst {
        Some(t) => t.scalar_value().filter(|d| *d >= 0.0).map(|d| Dim::Known(d as u64)),
        None => f.dims.as_ref()?.first().cloned(),
    });
    let mut out: Shape = at.clone();
    out.insert(axis, depth.unwrap_or(Dim::Unknown));
    Ok(vec![Fact::new(dtype, Some(out))])
}

#[cfg(test)]
mod tests {
    use crate::testing::check;

    #[test]
    fn shapes() {
        check(&[
            ("Gather", 13, "axis=1", "float[N,3,4]; int64[5,K]", "float[N,5,K,4]"),
            ("Gather", 13, "", "float[N,3]; int64[]", "float[3]"),
            ("Gather", 13, "axis=2", "float[N,3]; int64[]", "error: axis 2 does not exist in rank 2"),
            ("GatherElements", 13, "axis=1", "float[N,3]; int64[N,2]", "float[N,2]"),
            ("GatherElements", 13, "", "float[N,3]; int64[2]", "error: operand 1 has rank 1, not 2"),
            ("GatherND", 13, "", "float[2,3,4]; int64[5,2]", "float[5,4]"),
            ("GatherND", 13, "batch_dims=1", "float[2,3,4]; int64[2,1]", "float[2,4]"),
            (
                "GatherND",
                13,
                "",
                "float[2]; int64[5,2]",
                "error: `batch_dims` 0 and indices of 2 axes exceed rank 1",
            ),
            ("Compress", 11, "axis=1", "float[N,3]; bool[3]", "float[N,?]"),
            ("Compress", 11, "", "float[N,3]; bool[3]", "float[?]"),
            ("ScatterND", 16, "", "float[N,3]; int64[1,1]; float[1,3]", "float[N,3]"),
            ("OneHot", 11, "", "int64[N]; int64[] = 10; float[2]", "float[N,10]"),
            ("OneHot", 11, "axis=0", "int64[N]; int64[]; float[2]", "float[?,N]"),
        ]);
    }
}
