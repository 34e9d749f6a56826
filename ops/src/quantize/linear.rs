//! `QuantizeLinear`, `DequantizeLinear` and `DynamicQuantizeLinear`.
//!
//! Scale and zero point hold for the whole tensor, for each index of `axis` (a vector), or for blocks of
//! `block_size` along `axis` (a tensor of the data's rank). Arithmetic: [`squint_ir::affine`].

use crate::infer::{Inferred, axis, dtype, same, shape};
use crate::kernel::{checked_len, float::float_input, invalid};
use crate::{EvalCx, EvalError, Fact, InferCx, InferError};
use squint_ir::tensor::pack_bits;
use squint_ir::types::known_dims;
use squint_ir::{Bytes, DType, Op, Tensor, affine};

pub(super) fn infer_quantize(cx: &InferCx<'_>) -> Inferred {
    check_scale(cx)?;
    let dtype = match cx.optional(2) {
        Some(zero_point) => zero_point.dtype,
        None => output_dtype(cx.op).or(Some(DType::Uint8)),
    };
    Ok(vec![Fact::new(dtype, shape(cx, 0).cloned())])
}

pub(super) fn infer_dequantize(cx: &InferCx<'_>) -> Inferred {
    check_scale(cx)?;
    let dtype = output_dtype(cx.op).or(dtype(cx, 1));
    Ok(vec![Fact::new(dtype, shape(cx, 0).cloned())])
}

pub(super) fn infer_dynamic(cx: &InferCx<'_>) -> Inferred {
    let data = same(cx)?.remove(0);
    let scalar = |d| Fact::new(Some(d), Some(Vec::new()));
    Ok(vec![Fact { dtype: Some(DType::Uint8), ..data }, scalar(DType::Float), scalar(DType::Uint8)])
}

/// The attribute `output_dtype`, in which 0 means that it is not given.
fn output_dtype(op: &Op) -> Option<DType> {
    op.int("output_dtype").and_then(|c| DType::from_code(i32::try_from(c).ok()?))
}

fn check_scale(cx: &InferCx<'_>) -> Result<(), InferError> {
    let dims = |slot| shape(cx, slot).and_then(|s| known_dims(s));
    match (dims(0), dims(1)) {
        (Some(x), Some(scale)) => Scales::new(cx.op, &x, &scale).map(|_| ()).map_err(InferError),
        _ => Ok(()),
    }
}

/// Which scale belongs to which element.
#[derive(Clone, Copy)]
enum Scales {
    One,
    /// `inner` neighbours share one of `length` scales.
    Axis {
        length: usize,
        inner: usize,
    },
    /// As many blocks of `size` along the axis as cover its length.
    Blocks {
        length: usize,
        inner: usize,
        size: usize,
    },
}

impl Scales {
    fn new(op: &Op, dims: &[usize], scale: &[usize]) -> Result<Scales, String> {
        if scale.iter().all(|d| *d == 1) && scale.len() <= 1 {
            return Ok(Scales::One);
        }
        let axis = axis(op.int("axis").unwrap_or(1), dims.len()).map_err(|e| e.0)?;
        let (length, inner) =
            (dims[axis], dims[axis + 1..].iter().fold(1_usize, |n, d| n.saturating_mul(*d)));
        if let [n] = scale
            && (op.int("block_size").unwrap_or(0) == 0 || dims.len() > 1)
        {
            if *n == length {
                return Ok(Scales::Axis { length, inner });
            }
            return Err(format!("{n} scales for length {length} of axis {axis}"));
        }
        let size = op.int("block_size").unwrap_or(0);
        let size =
            usize::try_from(size).ok().filter(|s| *s > 0).ok_or_else(|| format!("`block_size` is {size}"))?;
        let blocks = dims.iter().enumerate().map(|(i, d)| if i == axis { d.div_ceil(size) } else { *d });
        if scale.len() != dims.len() || !blocks.eq(scale.iter().copied()) {
            return Err(format!("scales of shape {scale:?} for blocks of {size} on axis {axis} of {dims:?}"));
        }
        Ok(Scales::Blocks { length, inner, size })
    }

    /// Position of the scale of the element at a position.
    fn of(self, i: usize) -> usize {
        match self {
            Scales::One => 0,
            Scales::Axis { length, inner } => i / inner % length,
            Scales::Blocks { length, inner, size } => {
                let (outer, along) = (i / inner / length, i / inner % length);
                (outer * length.div_ceil(size) + along / size) * inner + i % inner
            }
        }
    }
}

/// Scales and zero points of an operator on constants.
struct Parameters {
    at: Scales,
    scale: Vec<f32>,
    zero_point: Option<Vec<i32>>,
}

/// What levels in blocks of `size` along `axis` stand for; zero points lie as the scales do.
pub(super) fn dequantize_blocks(
    dims: &[usize],
    levels: &[i32],
    axis: usize,
    size: usize,
    scale: &Tensor,
    zero_points: &[i32],
) -> Result<Vec<f32>, EvalError> {
    let (length, inner) = (dims[axis], dims[axis + 1..].iter().product());
    let blocks: Vec<usize> =
        dims.iter().enumerate().map(|(i, d)| if i == axis { d.div_ceil(size) } else { *d }).collect();
    if scale.dims() != blocks || zero_points.len() != scale.len() {
        return invalid(format!(
            "scales of shape {:?} for blocks of {size} on axis {axis} of {dims:?}",
            scale.dims()
        ));
    }
    let (at, scale) = (Scales::Blocks { length, inner, size }, scale.to_f32s());
    let real = |(i, q): (usize, &i32)| affine::dequantize(*q, scale[at.of(i)], zero_points[at.of(i)]);
    Ok(levels.iter().enumerate().map(real).collect())
}

impl Parameters {
    fn read(cx: &EvalCx<'_>, x: &Tensor) -> Result<Parameters, EvalError> {
        checked_len(x.dims())?;
        let scale = float_input(cx, 1)?;
        let at = Scales::new(cx.op, x.dims(), scale.dims()).map_err(EvalError::Invalid)?;
        let zero_point = match cx.optional(2) {
            None => None,
            Some(t) if t.len() != scale.len() => {
                return invalid(format!("{} zero points for {} scales", t.len(), scale.len()));
            }
            // Floats have no zero point but zero.
            Some(t) if t.dtype() == DType::Float8e4m3fn && t.to_f64s().iter().all(|z| *z == 0.0) => None,
            Some(t) => Some(integers(t)?),
        };
        Ok(Parameters { at, scale: scale.to_f32s(), zero_point })
    }

    fn of(&self, i: usize) -> (f32, i32) {
        let at = self.at.of(i);
        (self.scale[at], self.zero_point.as_ref().map_or(0, |z| z[at]))
    }
}

/// Elements of an integer tensor of at most 32 bits.
pub(super) fn integers(t: &Tensor) -> Result<Vec<i32>, EvalError> {
    let values = t.to_i64s().unwrap_or_default();
    match values.into_iter().map(|v| i32::try_from(v).ok()).collect::<Option<Vec<i32>>>() {
        Some(v) if v.len() == t.len() => Ok(v),
        _ => Err(EvalError::Unsupported(format!("quantized elements of type {}", t.dtype()))),
    }
}

pub(super) fn eval_quantize(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = float_input(cx, 0)?;
    let parameters = Parameters::read(cx, x)?;
    let dtype = cx.optional(2).map(Tensor::dtype).or(output_dtype(cx.op)).unwrap_or(DType::Uint8);
    // Wider grids are not exact in binary32.
    let range = dtype.int_range().filter(|_| dtype.bits() <= 16);
    let Some((Ok(qmin), Ok(qmax))) = range.map(|(lo, hi)| (i32::try_from(lo), i32::try_from(hi))) else {
        return Err(EvalError::Unsupported(format!("quantization to {dtype}")));
    };
    let data = x.f32s();
    let levels = data.iter().enumerate().map(|(i, x)| {
        let (scale, zero_point) = parameters.of(i);
        affine::quantize(*x, scale, zero_point, qmin, qmax)
    });
    let raw: Bytes = match dtype.bits() {
        8 => levels.map(|q| q as u8).collect(),
        16 => levels.flat_map(|q| (q as u16).to_le_bytes()).collect(),
        bits => pack_bits(levels.map(i64::from), bits),
    };
    Ok(vec![Tensor::raw(dtype, x.dims(), raw)?])
}

pub(super) fn eval_dequantize(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let parameters = Parameters::read(cx, x)?;
    if output_dtype(cx.op).is_some_and(|d| d != DType::Float) {
        return Err(EvalError::Unsupported("DequantizeLinear to another type than float".into()));
    }
    if x.dtype() == DType::Float8e4m3fn {
        let values = x.to_f64s().into_iter().enumerate();
        let y: Vec<f32> = values.map(|(i, x)| x as f32 * parameters.of(i).0).collect();
        return Ok(vec![Tensor::from_f32(x.dims(), &y)]);
    }
    let levels = integers(x)?;
    let y: Vec<f32> = levels
        .into_iter()
        .enumerate()
        .map(|(i, q)| {
            let (scale, zero_point) = parameters.of(i);
            affine::dequantize(q, scale, zero_point)
        })
        .collect();
    Ok(vec![Tensor::from_f32(x.dims(), &y)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            QuantizeLinear-13 (float[N,3]; float[]; int8[]) -> int8[N,3]
            QuantizeLinear-13 (float[N,3]; float[]) -> uint8[N,3]
            QuantizeLinear-21 <output_dtype=22> (float[N,3]; float[]) -> int4[N,3]
            DequantizeLinear-19 (int8[N,3]; float16[]; int8[]) -> float16[N,3]
            DequantizeLinear-21 <axis=0 block_size=2> (int4[5,3]; float[3,3]) -> float[5,3]
            DynamicQuantizeLinear-11 (float[N,3]) -> uint8[N,3]; float[]; uint8[]
            com.microsoft::DequantizeLinear-1 (uint16[2]; float[]; uint16[]) -> float[2]
            DequantizeLinear-13 <axis=0> (int8[4,3]; float[3]) -> error: 3 scales for length 4 of axis 0
            DequantizeLinear-13 <axis=2> (int8[4,3]; float[3]) -> error: axis 2 does not exist in rank 2
            DequantizeLinear-21 <axis=0> (int8[4,3]; float[2,3]) -> error: `block_size` is 0
            ",
        );
    }

    #[test]
    fn rounding_is_half_to_even_and_saturates() {
        let x = Tensor::from_f32(&[5], &[0.5, 1.5, -1.0, 300.0, f32::NAN]);
        let (s, z) = (Tensor::scalar_f32(1.0), Tensor::from_u8(&[], &[1]));
        let y = eval("QuantizeLinear", 13, "", &[Some(&x), Some(&s), Some(&z)]).expect("kernel");
        assert_eq!(y[0].bytes()[..], [1, 3, 0, 255, 0]);
    }

    #[test]
    fn scales_per_axis_and_per_block() {
        let x = Tensor::from_i8(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let s = Tensor::from_f32(&[2], &[1.0, 10.0]);
        let z = Tensor::from_i8(&[2], &[0, 4]);
        let y = eval("DequantizeLinear", 13, "axis=0", &[Some(&x), Some(&s), Some(&z)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [1., 2., 3., 0., 10., 20.]);
        let s = Tensor::from_f32(&[2, 2], &[1.0, 10.0, 100.0, 1000.0]);
        let y = eval("DequantizeLinear", 21, "axis=1 block_size=2", &[Some(&x), Some(&s)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [1., 2., 30., 400., 500., 6000.]);
    }

    #[test]
    fn four_bit_levels_survive_a_round_trip() {
        let x = Tensor::from_f32(&[3], &[-8.0, 7.0, -1.0]);
        let s = Tensor::scalar_f32(1.0);
        let q = eval("QuantizeLinear", 21, "output_dtype=22", &[Some(&x), Some(&s)]).expect("kernel");
        assert_eq!((q[0].dtype(), q[0].bytes()[..].to_vec()), (DType::Int4, vec![0x78, 0x0f]));
        let y = eval("DequantizeLinear", 21, "", &[Some(&q[0]), Some(&s)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), x.to_f32s());
    }

    #[test]
    fn eight_bit_floats_dequantize() {
        let codes = |codes: &[u8]| {
            Tensor::raw(DType::Float8e4m3fn, &[codes.len()], codes.to_vec().into()).expect("a tensor")
        };
        let (x, s) = (codes(&[0x7e, 0xb8]), Tensor::from_f32(&[2], &[0.5, 2.0]));
        for (zero, expected) in [(0, Some(vec![224.0, -2.0])), (0x38, None)] {
            let zero = codes(&[zero, 0x80]);
            let y = eval("DequantizeLinear", 19, "axis=0", &[Some(&x), Some(&s), Some(&zero)]);
            assert_eq!(y.ok().map(|y| y[0].to_f32s()), expected);
        }
    }

    #[test]
    fn int32_biases_dequantize() {
        let x = Tensor::from_i32(&[2], &[-100_000, 3]);
        let s = Tensor::from_f32(&[2], &[0.5, 2.0]);
        let y = eval("DequantizeLinear", 13, "axis=0", &[Some(&x), Some(&s)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [-50_000.0, 6.0]);
    }
}
