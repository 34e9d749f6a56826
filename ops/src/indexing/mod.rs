//! Operators that find, order or make indices, and those that sample at computed places.
//!
//! Source: ONNX operator documentation. `NonMaxSuppression`, `Unique`, `RoiAlign`, `GridSample` and
//! `MaxUnpool` have no kernel: they do not occur in constant sub-expressions.

mod kernel;

use crate::fact::{Fact, InferCx, InferError};
use crate::infer::{self, dtype, expect_rank, shape};
use crate::row::{Class, Out, Port, Row};
use squint_ir::{DType, Dim, Op, Shape};

pub(crate) const ROWS: &[Row] = &[
    Row::onnx(
        "TopK",
        &[1, 10, 11, 24],
        Class::Other,
        ACT_INDEX,
        &[Out::Same(0), Out::Plain],
        top_k,
        Some(kernel::top_k),
    ),
    Row::onnx(
        "NonMaxSuppression",
        &[10, 11],
        Class::Index,
        &[Port::Act, Port::Act, Port::Index, Port::Param, Port::Param],
        PLAIN,
        non_max_suppression,
        None,
    ),
    Row::onnx("NonZero", &[9, 13], Class::Index, ACT, PLAIN, non_zero, Some(kernel::non_zero)),
    Row::onnx("Unique", &[11, 28], Class::Other, ACT, &[Out::Same(0), Out::Plain], unique, None),
    // Zeros are put in, which every quantization range contains.
    Row::onnx("Trilu", &[14], Class::Other, ACT_INDEX, &[Out::Same(0)], infer::same, Some(kernel::trilu)),
    Row::onnx("EyeLike", &[9, 22], Class::Index, ACT, PLAIN, eye_like, Some(kernel::eye_like)),
    Row::onnx("RoiAlign", &[10, 16, 22], Class::Other, ROI, &[Out::Act], roi_align, None),
    Row::onnx(
        "GridSample",
        &[16, 20, 22],
        Class::Other,
        &[Port::Act, Port::Param],
        &[Out::Act],
        grid_sample,
        None,
    ),
    Row::onnx(
        "MaxUnpool",
        &[9, 11, 22],
        Class::Other,
        &[Port::Act, Port::Index, Port::Index],
        &[Out::Same(0)],
        max_unpool,
        None,
    ),
    Row::onnx(
        "ReverseSequence",
        &[10, 28],
        Class::Movement,
        ACT_INDEX,
        &[Out::Same(0)],
        infer::same,
        Some(kernel::reverse_sequence),
    ),
];

const ACT: &[Port] = &[Port::Act];
const ACT_INDEX: &[Port] = &[Port::Act, Port::Index];
const ROI: &[Port] = &[Port::Act, Port::Param, Port::Index];
const PLAIN: &[Out] = &[Out::Plain];

/// Values and indices: the axis shrinks to `k`, an attribute before version 10.
fn top_k(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(mut out) = data.shape.clone() else {
        return Ok(vec![Fact::of(data.dtype), Fact::of(Some(DType::Int64))]);
    };
    let axis = infer::axis(cx.op.int("axis").unwrap_or(-1), out.len())?;
    let k = match cx.op.int("k") {
        Some(k) if cx.opset < 10 => u64::try_from(k).ok().map(Dim::Known),
        _ => cx.optional(1).and_then(Fact::lengths).and_then(|l| l.into_iter().next()),
    };
    let k = k.unwrap_or(Dim::Unknown);
    if let (Dim::Known(k), Dim::Known(n)) = (&k, &out[axis])
        && k > n
    {
        return cx.error(format!("the {k} largest of {n}"));
    }
    out[axis] = k;
    Ok(vec![Fact::new(data.dtype, Some(out.clone())), Fact::new(Some(DType::Int64), Some(out))])
}

/// One row of batch, class and box for each box selected.
fn non_max_suppression(_: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    Ok(vec![Fact::new(Some(DType::Int64), Some(vec![Dim::Unknown, Dim::Known(3)]))])
}

/// One column for each element that is not zero.
fn non_zero(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let rank = cx.input(0)?.rank().map_or(Dim::Unknown, Dim::from);
    Ok(vec![Fact::new(Some(DType::Int64), Some(vec![rank, Dim::Unknown]))])
}

fn unique(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let out = match (cx.op.int("axis"), data.shape.clone()) {
        (None, _) => Some(vec![Dim::Unknown]),
        (Some(axis), Some(mut shape)) => {
            let axis = infer::axis(axis, shape.len())?;
            shape[axis] = Dim::Unknown;
            Some(shape)
        }
        (Some(_), None) => None,
    };
    let indices = Fact::new(Some(DType::Int64), Some(vec![Dim::Unknown]));
    Ok(vec![Fact::new(data.dtype, out), indices.clone(), indices.clone(), indices])
}

fn eye_like(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let like = cx.input(0)?;
    if let Some(shape) = &like.shape {
        expect_rank(shape, 2, "operand 0")?;
    }
    let dtype = cx.op.int("dtype").and_then(|d| i32::try_from(d).ok()).and_then(DType::from_code);
    Ok(vec![Fact::new(dtype.or(like.dtype), like.shape.clone())])
}

/// `[N, C, H, W]` and `R` regions give `[R, C, output_height, output_width]`.
fn roi_align(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let channels = match &data.shape {
        Some(s) => {
            expect_rank(s, 4, "operand 0")?;
            s[1].clone()
        }
        None => Dim::Unknown,
    };
    let regions = shape(cx, 1).and_then(|s| s.first().cloned()).unwrap_or(Dim::Unknown);
    let regions = match (regions, shape(cx, 2).and_then(|s| s.first())) {
        (known @ Dim::Known(_), _) | (known, None) => known,
        (_, Some(d)) => d.clone(),
    };
    let (height, width) = (output_length(cx.op, "output_height"), output_length(cx.op, "output_width"));
    Ok(vec![Fact::new(data.dtype, Some(vec![regions, channels, height, width]))])
}

fn output_length(op: &Op, name: &str) -> Dim {
    u64::try_from(op.int(name).unwrap_or(1)).map_or(Dim::Unknown, Dim::Known)
}

/// Batch and channels of the data, spatial axes of the grid.
fn grid_sample(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let out = match (&data.shape, shape(cx, 1)) {
        (Some(x), Some(grid)) => {
            expect_rank(grid, x.len(), "operand 1")?;
            let [n, c, ..] = x.as_slice() else { return cx.error(format!("operand 0 has rank {}", x.len())) };
            let batch = infer::equal(n, &grid[0], "batch lengths")?;
            Some([&[batch, c.clone()], &grid[1..grid.len() - 1]].concat())
        }
        (Some(x), None) if x.len() >= 2 => Some([&x[..2], &vec![Dim::Unknown; x.len() - 2]].concat()),
        _ => None,
    };
    Ok(vec![Fact::new(data.dtype, out)])
}

/// `output_shape` if given, else `(length - 1) * stride + kernel - pads`.
fn max_unpool(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(x) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let Some(spatial) = x.len().checked_sub(2) else {
        return cx.error(format!("operand 0 has rank {}", x.len()));
    };
    let mut out: Shape = x[..2].to_vec();
    if let Some(given) = cx.optional(2) {
        out = given.lengths().filter(|l| l.len() == x.len()).unwrap_or(vec![Dim::Unknown; x.len()]);
        return Ok(vec![Fact::new(dtype(cx, 0), Some(out))]);
    }
    let attr = |name: &str, i: usize, default: i64| {
        i128::from(cx.op.ints(name).and_then(|v| v.get(i).copied()).unwrap_or(default))
    };
    for i in 0..spatial {
        let length = x[2 + i].known().and_then(|n| {
            let pads = attr("pads", i, 0).checked_add(attr("pads", i + spatial, 0))?;
            let steps = (i128::from(n) - 1).checked_mul(attr("strides", i, 1))?;
            u64::try_from(steps.checked_add(attr("kernel_shape", i, 1))?.checked_sub(pads)?).ok()
        });
        out.push(length.map_or(Dim::Unknown, Dim::Known));
    }
    Ok(vec![Fact::new(dtype(cx, 0), Some(out))])
}

#[cfg(test)]
mod tests {
    use crate::testing::check;

    #[test]
    fn shapes() {
        check(&[
            ("TopK", 11, "axis=1", "float[N,9]; int64[1] = 3", "float[N,3]; int64[N,3]"),
            ("TopK", 9, "k=2", "float[N,9]", "float[N,2]; int64[N,2]"),
            ("TopK", 11, "", "float[N,9]; int64[1]", "float[N,?]; int64[N,?]"),
            ("TopK", 11, "", "float[N,9]; int64[1] = 10", "error: the 10 largest of 9"),
            ("NonMaxSuppression", 11, "", "float[1,8,4]; float[1,2,8]", "int64[?,3]"),
            ("NonZero", 13, "", "float[N,9]", "int64[2,?]"),
            ("Unique", 11, "axis=1", "float[N,9]", "float[N,?]; int64[?]; int64[?]; int64[?]"),
            ("EyeLike", 9, "dtype=7", "float[2,N]", "int64[2,N]"),
            (
                "RoiAlign",
                16,
                "output_height=7 output_width=5",
                "float[N,8,H,W]; float[R,4]; int64[R]",
                "float[R,8,7,5]",
            ),
            ("GridSample", 16, "", "float[N,8,6,6]; float[N,3,4,2]", "float[N,8,3,4]"),
            ("GridSample", 16, "", "float[N,8,6,6]; float[N,3,2]", "error: operand 1 has rank 3, not 4"),
            (
                "MaxUnpool",
                11,
                "kernel_shape=[2,2] strides=[2,2]",
                "float[N,1,2,2]; int64[N,1,2,2]",
                "float[N,1,4,4]",
            ),
            ("Trilu", 14, "", "float[N,4]", "float[N,4]"),
            ("ReverseSequence", 10, "", "float[4,N]; int64[N]", "float[4,N]"),
        ]);
    }
}
