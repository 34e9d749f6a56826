//! Convolutions: `Conv` and `ConvTranspose` in one to three (or more) spatial dimensions.
//!
//! Source: ONNX `Operators.md`. Data is `[N, C, D1, .., Dn]`; the weight of `Conv` is `[M, C / group, k1, ..]`,
//! that of `ConvTranspose` is `[C, M / group, k1, ..]`.

use crate::infer::{Inferred, dtype, equal, expect_rank, shape};
use crate::window::{Window, kernel_shape};
use crate::{Class, Fact, InferCx, InferError, Out, Port, Row, WeightAxis};
use squint_ir::{Dim, Op, Shape};

pub(crate) const ROWS: &[Row] = &[
    Row::new("Conv", &[1, 11, 22], Class::Contraction, infer_conv)
        .ports(&[Port::Act, Port::Weight(WeightAxis::First), Port::Bias])
        .outs(&[Out::Act]),
    Row::new("ConvTranspose", &[1, 11, 22], Class::Contraction, infer_transposed)
        .ports(&[Port::Act, Port::Weight(WeightAxis::Second), Port::Bias])
        .outs(&[Out::Act]),
];

fn infer_conv(cx: &InferCx<'_>) -> Inferred {
    let out = conv_shape(cx.op, shape(cx, 0), shape(cx, 1), shape(cx, 2))?;
    Ok(vec![Fact::new(dtype(cx, 0).or(dtype(cx, 1)), out)])
}

/// The shape of a convolution's result, from data, weight and bias; `None` if not even the rank is known.
///
/// # Errors
/// If ranks, channels or attributes contradict each other.
pub(crate) fn conv_shape(
    op: &Op,
    data: Option<&Shape>,
    weight: Option<&Shape>,
    bias: Option<&Shape>,
) -> Result<Option<Shape>, InferError> {
    let group = group(op)?;
    let Some(rank) = rank(data, weight)? else { return Ok(None) };
    let mut out = vec![Dim::Unknown; rank];
    if let Some(w) = weight {
        out[1] = w[0].clone();
        if let Dim::Known(m) = w[0] {
            divides(group, m, "output channels")?;
        }
        if let (Some(x), Dim::Known(c)) = (data, &w[1]) {
            equal(&x[1], &Dim::Known(times(*c, group)?), "input channels and `group` times the weight's")?;
        }
    }
    if let Some(b) = bias {
        expect_rank(b, 1, "bias")?;
        out[1] = equal(&out[1], &b[0], "output channels and bias")?;
    }
    if let Some(x) = data {
        out[0] = x[0].clone();
        if let Some(kernel) = kernel_shape(op, weight.map(|w| &w[2..]))? {
            out.splice(2.., Window::of(op, kernel)?.slide(&x[2..])?);
        }
    }
    Ok(Some(out))
}

fn infer_transposed(cx: &InferCx<'_>) -> Inferred {
    let (data, weight) = (shape(cx, 0), shape(cx, 1));
    let group = group(cx.op)?;
    let dtype = dtype(cx, 0).or(dtype(cx, 1));
    let Some(rank) = rank(data, weight)? else { return Ok(vec![Fact::of(dtype)]) };
    let mut out = vec![Dim::Unknown; rank];
    if let Some(w) = weight {
        if let Dim::Known(m) = w[1] {
            out[1] = Dim::Known(times(m, group)?);
        }
        if let Dim::Known(c) = w[0] {
            divides(group, c, "input channels")?;
        }
        if let Some(x) = data {
            equal(&x[1], &w[0], "input channels and the weight's")?;
        }
    }
    if let Some(b) = shape(cx, 2) {
        expect_rank(b, 1, "bias")?;
        out[1] = equal(&out[1], &b[0], "output channels and bias")?;
    }
    if let Some(x) = data {
        out[0] = x[0].clone();
        if let Some(lengths) = cx.op.ints("output_shape") {
            // Some exporters write the whole shape instead of its spatial part.
            let spatial = if lengths.len() == rank { &lengths[2..] } else { lengths };
            if spatial.len() != rank - 2 {
                return cx.error(format!("`output_shape` has {} entries, not {}", lengths.len(), rank - 2));
            }
            for (dim, n) in out[2..].iter_mut().zip(spatial) {
                let n = u64::try_from(*n).map_err(|_| InferError(format!("`output_shape` has {n}")))?;
                *dim = Dim::Known(n);
            }
        } else if let Some(kernel) = kernel_shape(cx.op, weight.map(|w| &w[2..]))? {
            let extra = cx.op.ints("output_padding").unwrap_or(&[]);
            if !extra.is_empty() && extra.len() != rank - 2 {
                return cx.error(format!("`output_padding` has {} entries, not {}", extra.len(), rank - 2));
            }
            out.splice(2.., Window::of(cx.op, kernel)?.spread(&x[2..], extra)?);
        }
    }
    Ok(vec![Fact::new(dtype, Some(out))])
}

/// The rank that data and weight share, at least 2.
fn rank(data: Option<&Shape>, weight: Option<&Shape>) -> Result<Option<usize>, InferError> {
    if let (Some(x), Some(w)) = (data, weight) {
        expect_rank(w, x.len(), "the weight")?;
    }
    match data.or(weight).map(Vec::len) {
        Some(r @ (0 | 1)) => Err(InferError(format!("data of rank {r} has no channel axis"))),
        r => Ok(r),
    }
}

fn group(op: &Op) -> Result<u64, InferError> {
    let group = op.int("group").unwrap_or(1);
    u64::try_from(group).ok().filter(|g| *g > 0).ok_or_else(|| InferError(format!("`group` is {group}")))
}

fn divides(group: u64, channels: u64, what: &str) -> Result<(), InferError> {
    if channels.is_multiple_of(group) {
        return Ok(());
    }
    Err(InferError(format!("{channels} {what} do not divide into {group} groups")))
}

fn times(channels: u64, group: u64) -> Result<u64, InferError> {
    channels
        .checked_mul(group)
        .ok_or_else(|| InferError(format!("{channels} channels times {group} groups overflow")))
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes() {
        table(
            "
            Conv-11 <strides=[2,2] pads=[3,3,3,3]>
                (float[N,3,224,224]; float[64,3,7,7]; float[64]) -> float[N,64,112,112]
            Conv-11 <pads=[1,1,1,1] group=8> (float[1,8,14,15]; float[8,1,3,3]) -> float[1,8,14,15]
            Conv-11 <dilations=[2] strides=[3]> (float[1,4,50]; float[6,4,5]) -> float[1,6,14]
            Conv-11 <auto_pad=SAME_LOWER strides=[2,2,2]>
                (float[1,1,7,8,9]; float[2,1,3,3,3]) -> float[1,2,4,4,5]
            Conv-11 <auto_pad=VALID strides=[2,3]> (float[1,1,7,8]; float[2,1,3,3]) -> float[1,2,3,2]
            Conv-11 <auto_pad=SAME_UPPER strides=[1,2]> (float[N,1,H,W]; float[2,1,3,3]) -> float[N,2,H,?]
            Conv-11 <kernel_shape=[3,3] pads=[1,1,1,1]> (float[N,1,H,W]; float) -> float[N,?,H,W]
            Conv-11 (float; float[2,1,3,3]) -> float[?,2,?,?]
            Conv-11 (float; float) -> float
            ConvTranspose-11 <strides=[2,2]> (float[1,8,7,7]; float[8,4,2,2]; float[4]) -> float[1,4,14,14]
            ConvTranspose-11 <strides=[2,3] pads=[1,0,1,1] output_padding=[1,2] group=2>
                (float[N,8,5,6]; float[8,3,3,3]) -> float[N,6,10,19]
            ConvTranspose-11 <strides=[2] auto_pad=SAME_UPPER> (float[1,2,5]; float[2,3,4]) -> float[1,3,10]
            ConvTranspose-11 <strides=[2] output_shape=[11]> (float[1,2,5]; float[2,3,4]) -> float[1,3,11]
            ConvTranspose-11 <dilations=[2]> (float[1,2,L]; float[2,3,4]) -> float[1,3,?]
            ",
        );
    }

    #[test]
    fn contradictions_are_errors_with_numbers() {
        table(
            "
            Conv-11
                (float[1,3,8,8]; float[4,2,3,3])
                -> error: input channels and `group` times the weight's: 3 is not 2
            Conv-11 <group=3>
                (float[1,3,8,8]; float[4,1,3,3]) -> error: 4 output channels do not divide into 3 groups
            Conv-11 <group=0> (float[1,3,8,8]; float[4,1,3,3]) -> error: `group` is 0
            Conv-11 (float[1,3,8]; float[4,3,3,3]) -> error: the weight has rank 4, not 3
            Conv-11 (float[1,3,8]; float[4,3,3]; float[5]) -> error: output channels and bias: 4 is not 5
            Conv-11 <kernel_shape=[5]>
                (float[1,3,8]; float[4,3,3]) -> error: `kernel_shape` and weight disagree: 5 is not 3
            Conv-11 <auto_pad=MAYBE> (float[1,3,8]; float[4,3,3]) -> error: `auto_pad` is `MAYBE`
            ConvTranspose-11 <pads=[9,9]>
                (float[1,2,5]; float[2,3,4]) -> error: length of spatial axis 0 becomes -10
            ConvTranspose-11 <strides=[9223372036854775807]>
                (float[1,2,5]; float[2,3,4]) -> error: length of spatial axis 0 becomes 36893488147419103232
            ",
        );
    }
}
