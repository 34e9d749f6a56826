//! Pooling: windows (`MaxPool`, `AveragePool`, `LpPool`) and whole feature maps (`Global*`).
//!
//! Source: ONNX `Operators.md`. With `ceil_mode` a window that would start in the trailing padding is dropped,
//! as in PyTorch; see [`crate::window`].

use crate::infer::{Inferred, dtype, shape};
use crate::window::{Window, kernel_shape};
use crate::{Class, Fact, InferCx, InferError, Out, Row};
use squint_ir::{DType, Dim, Op, Shape};

pub(crate) const ROWS: &[Row] = &[
    Row::new("MaxPool", &[1, 8, 10, 11, 12, 22], Class::MaxPool, infer_max_pool)
        .outs(&[Out::Same(0), Out::Plain]),
    Row::new("AveragePool", &[1, 7, 10, 11, 19, 22], Class::AveragePool, infer_pool),
    Row::new("LpPool", &[1, 2, 11, 18, 22], Class::Other, infer_pool),
    Row::new("GlobalMaxPool", &[1, 22], Class::MaxPool, infer_global).outs(&[Out::Same(0)]),
    Row::new("GlobalAveragePool", &[1, 22], Class::AveragePool, infer_global),
    Row::new("GlobalLpPool", &[1, 2, 22], Class::Other, infer_global),
];

fn infer_pool(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(dtype(cx, 0), pool_shape(cx.op, shape(cx, 0), false)?)])
}

fn infer_max_pool(cx: &InferCx<'_>) -> Inferred {
    let out = pool_shape(cx.op, shape(cx, 0), false)?;
    Ok(vec![Fact::new(dtype(cx, 0), out.clone()), Fact::new(Some(DType::Int64), out)])
}

/// The shape of a pooled `[N, C, D1, ..]` tensor, or `[N, D1, .., C]` if `channels_last`.
///
/// # Errors
/// If the attributes do not fit the data.
pub(crate) fn pool_shape(
    op: &Op,
    data: Option<&Shape>,
    channels_last: bool,
) -> Result<Option<Shape>, InferError> {
    let Some(x) = data else { return Ok(None) };
    let spatial = spatial_axes(x, channels_last)?;
    let Some(kernel) = kernel_shape(op, None)? else {
        return Err(InferError("`kernel_shape` is missing".into()));
    };
    let mut out = x.clone();
    out.splice(spatial.clone(), Window::of(op, kernel)?.slide(&x[spatial])?);
    Ok(Some(out))
}

fn infer_global(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(dtype(cx, 0), global_shape(shape(cx, 0), false)?)])
}

/// The shape of a tensor whose spatial axes are pooled to length 1.
///
/// # Errors
/// If the data has no channel axis.
pub(crate) fn global_shape(data: Option<&Shape>, channels_last: bool) -> Result<Option<Shape>, InferError> {
    let Some(mut out) = data.cloned() else { return Ok(None) };
    let spatial = spatial_axes(&out, channels_last)?;
    out[spatial].fill(Dim::Known(1));
    Ok(Some(out))
}

fn spatial_axes(data: &Shape, channels_last: bool) -> Result<std::ops::Range<usize>, InferError> {
    match data.len() {
        r @ (0 | 1) => Err(InferError(format!("data of rank {r} has no channel axis"))),
        r if channels_last => Ok(1..r - 1),
        r => Ok(2..r),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes() {
        table(
            "
            MaxPool-12 <kernel_shape=[3,3] strides=[2,2] pads=[1,1,1,1]>
                (float[N,8,112,112]) -> float[N,8,56,56]; int64[N,8,56,56]
            MaxPool-12 <kernel_shape=[3,3] strides=[2,2] ceil_mode=1>
                (float[1,8,112,?]) -> float[1,8,56,?]; int64[1,8,56,?]
            MaxPool-12 <kernel_shape=[2] strides=[3] ceil_mode=1> (float[1,1,4]) -> float[1,1,2]; int64[1,1,2]
            MaxPool-22 <kernel_shape=[1] strides=[2] ceil_mode=1> (float[1,1,4]) -> float[1,1,2]; int64[1,1,2]
            MaxPool-22 <kernel_shape=[1] strides=[3] pads=[0,2] ceil_mode=1>
                (float[1,1,4]) -> float[1,1,2]; int64[1,1,2]
            MaxPool-12 <kernel_shape=[3] dilations=[2] strides=[2]>
                (float[1,1,9]) -> float[1,1,3]; int64[1,1,3]
            AveragePool-19 <kernel_shape=[2,2,2] strides=[2,1,2] auto_pad=SAME_UPPER>
                (float[1,4,5,6,7]) -> float[1,4,3,6,4]
            AveragePool-11 <kernel_shape=[3,3] strides=[2,2] auto_pad=VALID>
                (float[1,4,8,9]) -> float[1,4,3,4]
            AveragePool-11 <kernel_shape=[3,3] pads=[1,1,1,1]> (float[N,4,H,W]) -> float[N,4,H,W]
            AveragePool-11 <kernel_shape=[3,3]> (float) -> float
            LpPool-18 <kernel_shape=[2,2] strides=[2,2]> (float[1,4,8,9]) -> float[1,4,4,4]
            GlobalAveragePool-1 (float[N,64,H,W]) -> float[N,64,1,1]
            GlobalMaxPool-1 (float16[2,64,7]) -> float16[2,64,1]
            ",
        );
    }

    #[test]
    fn hostile_attributes_are_errors() {
        table(
            "
            MaxPool-12 <kernel_shape=[3]>
                (float[1,1,2]) -> error: a window of 3 does not fit padded length 2 of spatial axis 0
            MaxPool-12 <kernel_shape=[0]> (float[1,1,2]) -> error: `kernel_shape` has 0, which is not positive
            MaxPool-12 <kernel_shape=[2] strides=[0]>
                (float[1,1,2]) -> error: `strides` has 0, which is not positive
            MaxPool-12 <kernel_shape=[2] pads=[-1,0]>
                (float[1,1,2]) -> error: `pads` has -1, which is negative
            MaxPool-12 <kernel_shape=[2] pads=[0]> (float[1,1,2]) -> error: `pads` has 1 entries, not 2
            MaxPool-12 <kernel_shape=[2,2]> (float[1,1,2]) -> error: kernel has 2 spatial axes, input 1
            MaxPool-12 (float[1,1,2]) -> error: `kernel_shape` is missing
            GlobalMaxPool-1 (float[4]) -> error: data of rank 1 has no channel axis
            LpPool-18 <kernel_shape=[9223372036854775807] dilations=[9223372036854775807]>
                (float[1,1,2])
                -> error: a window of 85070591730234615838173535747377725443 does not fit padded length 2 of spatial axis 0
            LpPool-18 <kernel_shape=[1] pads=[9223372036854775807,9223372036854775807]>
                (float[1,1,2]) -> error: length of spatial axis 0 becomes 18446744073709551616
            ",
        );
    }
}
