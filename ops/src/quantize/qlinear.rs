//! Types and shapes of the `QLinear*` family and of the integer products.
//!
//! Shapes are those of the float operator; the element type is that of the result's zero point.

use crate::conv::conv_shape;
use crate::infer::{Inferred, axis, dtype, equal, shape};
use crate::kernel::broadcast_shapes;
use crate::matmul::{gemm_shape, matmul_shape};
use crate::pool::{global_shape, pool_shape};
use crate::{Fact, InferCx, InferError};
use squint_ir::{DType, Dim, Shape};

/// The type of the zero point at a slot, or that of the data where the zero point is left out.
fn level_type(cx: &InferCx<'_>, zero_point: usize, data: usize) -> Option<DType> {
    match cx.optional(zero_point) {
        Some(f) => f.dtype,
        None => dtype(cx, data),
    }
}

fn channels_last(cx: &InferCx<'_>) -> bool {
    cx.op.int("channels_last").unwrap_or(0) != 0
}

pub(super) fn conv(cx: &InferCx<'_>) -> Inferred {
    let (x, weight, bias) = (shape(cx, 0), shape(cx, 3), shape(cx, 8));
    let out = if channels_last(cx) {
        let first = x.map(|x| {
            let mut x = x.clone();
            if x.len() > 1 {
                x[1..].rotate_right(1);
            }
            x
        });
        conv_shape(cx.op, first.as_ref(), weight, bias)?.map(|mut y| {
            y[1..].rotate_left(1);
            y
        })
    } else {
        conv_shape(cx.op, x, weight, bias)?
    };
    Ok(vec![Fact::new(level_type(cx, 7, 0), out)])
}

pub(super) fn conv_integer(cx: &InferCx<'_>) -> Inferred {
    let out = conv_shape(cx.op, shape(cx, 0), shape(cx, 1), None)?;
    Ok(vec![Fact::new(Some(DType::Int32), out)])
}

pub(super) fn matmul(cx: &InferCx<'_>) -> Inferred {
    let out = matmul_shape(shape(cx, 0), shape(cx, 3))?;
    Ok(vec![Fact::new(level_type(cx, 7, 0), out)])
}

pub(super) fn matmul_integer(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(Some(DType::Int32), matmul_shape(shape(cx, 0), shape(cx, 1))?)])
}

pub(super) fn matmul_to_float(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(Some(DType::Float), matmul_shape(shape(cx, 0), shape(cx, 1))?)])
}

/// The weight is packed; its logical shape `[K, N]` stands in the attributes.
pub(super) fn matmul_n_bits(cx: &InferCx<'_>) -> Inferred {
    let length = |name: &str| match cx.op.int(name).map(u64::try_from) {
        Some(Ok(n)) => Ok(Dim::Known(n)),
        Some(Err(_)) => Err(InferError(format!("`{name}` is negative"))),
        None => Ok(Dim::Unknown),
    };
    let weight = vec![length("K")?, length("N")?];
    Ok(vec![Fact::new(dtype(cx, 0), matmul_shape(shape(cx, 0), Some(&weight))?)])
}

/// Without a scale for the result, the result is float.
pub(super) fn gemm(cx: &InferCx<'_>) -> Inferred {
    let out = gemm_shape(cx, shape(cx, 0), shape(cx, 3), shape(cx, 6))?;
    let dtype = if cx.optional(7).is_some() { level_type(cx, 8, 0) } else { Some(DType::Float) };
    Ok(vec![Fact::new(dtype, Some(out))])
}

pub(super) fn unary(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(level_type(cx, 4, 0), shape(cx, 0).cloned())])
}

pub(super) fn binary(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(level_type(cx, 7, 0), broadcast(cx, &[0, 3])?)])
}

pub(super) fn choose(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(level_type(cx, 8, 1), broadcast(cx, &[0, 1, 4])?)])
}

fn broadcast(cx: &InferCx<'_>, slots: &[usize]) -> Result<Option<Shape>, InferError> {
    let shapes: Option<Vec<&Shape>> = slots.iter().map(|s| shape(cx, *s)).collect();
    let Some(shapes) = shapes else { return Ok(None) };
    match broadcast_shapes(&shapes) {
        None => cx.error(format!("operands {slots:?} do not broadcast")),
        out => Ok(out),
    }
}

pub(super) fn average_pool(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(level_type(cx, 4, 0), pool_shape(cx.op, shape(cx, 0), channels_last(cx))?)])
}

pub(super) fn global_average_pool(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(level_type(cx, 4, 0), global_shape(shape(cx, 0), channels_last(cx))?)])
}

/// Operands: scale and zero point of the result, then data, scale and zero point of each part.
pub(super) fn concat(cx: &InferCx<'_>) -> Inferred {
    let dtype = dtype(cx, 1);
    let parts: Option<Vec<&Shape>> = (2..cx.inputs.len()).step_by(3).map(|s| shape(cx, s)).collect();
    let Some([first, rest @ ..]) = parts.as_deref() else { return Ok(vec![Fact::of(dtype)]) };
    let Some(a) = cx.op.int("axis") else { return cx.error("`axis` is missing") };
    let a = axis(a, first.len())?;
    let mut out = (*first).clone();
    for part in rest {
        if part.len() != out.len() {
            return cx.error(format!("parts have ranks {} and {}", out.len(), part.len()));
        }
        for (i, (o, p)) in out.iter_mut().zip(part.iter()).enumerate() {
            *o = match (&*o, p) {
                (Dim::Known(x), Dim::Known(y)) if i == a => {
                    x.checked_add(*y).map_or(Dim::Unknown, Dim::Known)
                }
                _ if i == a => Dim::Unknown,
                (x, y) => equal(x, y, &format!("lengths of axis {i}"))?,
            };
        }
    }
    Ok(vec![Fact::new(dtype, Some(out))])
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes_of_the_standard() {
        table(
            "
            QLinearConv-10 <pads=[1,1,1,1]>
                (uint8[N,3,8,8]; float[]; uint8[]; int8[4,3,3,3]; float[4]; int8[4]; float[]; int8[];
                int32[4]) -> int8[N,4,8,8]
            QLinearMatMul-10
                (uint8[N,3]; float[]; uint8[]; int8[3,4]; float[]; int8[]; float[]; int8[]) -> int8[N,4]
            ConvInteger-10 <strides=[2,2]> (uint8[N,3,8,8]; int8[4,3,3,3]; uint8[]) -> int32[N,4,3,3]
            MatMulInteger-10 (uint8[2,N,3]; int8[3,4]) -> int32[2,N,4]
            ",
        );
    }

    #[test]
    fn shapes_of_the_contributed() {
        table(
            "
            com.microsoft::QLinearConv-1 <channels_last=1>
                (uint8[N,8,9,3]; float[]; uint8[]; int8[4,3,3,3]; float[]; int8[]; float[]; uint8[])
                -> uint8[N,6,7,4]
            com.microsoft::QLinearConv-1 <channels_last=1>
                (uint8[]; float[]; uint8[]; int8[4,3,3,3]) -> error: the weight has rank 4, not 0
            com.microsoft::QLinearAdd-1
                (uint8[N,3,1]; float[]; uint8[]; uint8[4]; float[]; uint8[]; float[]; uint8[]) -> uint8[N,3,4]
            com.microsoft::QLinearMul-1
                (int8[2]; float[]; -; int8[3]; float[]; -; float[]) -> error: operands [0, 3] do not broadcast
            com.microsoft::QLinearSigmoid-1 (int8[N,3]; float[]; int8[]; float[]) -> int8[N,3]
            com.microsoft::QLinearAveragePool-1 <kernel_shape=[2,2] strides=[2,2] channels_last=1>
                (uint8[N,8,8,3]; float[]; uint8[]; float[]; uint8[]) -> uint8[N,4,4,3]
            com.microsoft::QLinearGlobalAveragePool-1 <channels_last=0>
                (uint8[N,3,8,8]; float[]; uint8[]; float[]; uint8[]) -> uint8[N,3,1,1]
            com.microsoft::QLinearConcat-1 <axis=1>
                (float[]; uint8[]; uint8[N,3]; float[]; uint8[]; uint8[N,4]; float[]; uint8[]) -> uint8[N,7]
            com.microsoft::QLinearWhere-1
                (bool[3,1]; uint8[4]; float[]; uint8[]; uint8[]; float[]; uint8[]; float[]; uint8[])
                -> uint8[3,4]
            com.microsoft::QGemm-1 <transB=1>
                (uint8[N,3]; float[]; uint8[]; int8[4,3]; float[]; int8[]; int32[4]; float[]; uint8[])
                -> uint8[N,4]
            com.microsoft::QGemm-1 <transB=1>
                (uint8[N,3]; float[]; uint8[]; int8[4,3]; float[]; int8[]) -> float[N,4]
            com.microsoft::MatMulIntegerToFloat-1 (uint8[N,3]; int8[3,4]; float[]; float[]) -> float[N,4]
            com.microsoft::DynamicQuantizeMatMul-1 (float[2,N,3]; int8[3,4]; float[4]) -> float[2,N,4]
            com.microsoft::MatMulNBits-1 <K=64 N=32 bits=4>
                (float[2,S,64]; uint8[32,2,16]; float[64]) -> float[2,S,32]
            com.microsoft::DynamicQuantizeLSTM:1-1 <hidden_size=7>
                (float[S,N,3]; int8[1,3,28]; int8[1,7,28]) -> float[S,1,N,7]
            ",
        );
        assert_eq!(crate::row("com.microsoft", "QGemm").map(|r| r.port(6)), Some(crate::Port::Bias));
    }
}
