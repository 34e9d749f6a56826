//! Floats in fewer bits: half precision for tensors and scales, and the 8-bit E4M3 of quantizers.
//!
//! Rounding is to the nearest, ties to even. Where a finite number is too large it becomes the largest finite one: a
//! mask of -3.4e38 stays one that a Softmax turns to zero, and infinities stay infinities.

use crate::{DType, Tensor};
use half::{bf16, f16};

/// The largest finite number of a type of 16 bits; `None` for other types.
pub fn largest(dtype: DType) -> Option<f32> {
    match dtype {
        DType::Float16 => Some(f16::MAX.to_f32()),
        DType::Bfloat16 => Some(bf16::MAX.to_f32()),
        _ => None,
    }
}

/// The least positive number of a type of 16 bits; `None` for other types.
pub fn least(dtype: DType) -> Option<f32> {
    match dtype {
        DType::Float16 => Some(f16::MIN_POSITIVE_SUBNORMAL.to_f32()),
        DType::Bfloat16 => Some(bf16::MIN_POSITIVE.to_f32()),
        _ => None,
    }
}

/// The tensor in a type of 16 bits; `None` if it is not float32, or the type is another.
pub fn half(t: &Tensor, dtype: DType) -> Option<Tensor> {
    if t.dtype() != DType::Float {
        return None;
    }
    let most = largest(dtype)?;
    let bits = |x: f32| {
        let x = if x.is_finite() { x.clamp(-most, most) } else { x };
        match dtype {
            DType::Float16 => f16::from_f32(x).to_bits(),
            _ => bf16::from_f32(x).to_bits(),
        }
    };
    let bytes: Vec<u8> = t.f32s().iter().flat_map(|x| bits(*x).to_le_bytes()).collect();
    Tensor::raw(dtype, t.dims(), bytes.into()).ok()
}

/// The least number of a type of 16 bits that is not below a positive scale, which then still covers its range; the
/// scale itself for other types.
pub fn scale_up(scale: f32, dtype: DType) -> f32 {
    let (Some(least), Some(most)) = (least(dtype), largest(dtype)) else { return scale };
    if !scale.is_finite() || scale >= most {
        return most;
    }
    if scale <= least {
        return least;
    }
    let next = |nearest: f32, above: f32| if nearest >= scale { nearest } else { above };
    match dtype {
        DType::Float16 => {
            let nearest = f16::from_f32(scale);
            next(nearest.to_f32(), f16::from_bits(nearest.to_bits() + 1).to_f32())
        }
        _ => {
            let nearest = bf16::from_f32(scale);
            next(nearest.to_f32(), bf16::from_bits(nearest.to_bits() + 1).to_f32())
        }
    }
}

/// The largest number of E4M3.
pub const E4M3_MAX: f32 = 448.0;

/// The code of a number in `float8e4m3fn`: one bit of sign, 4 of exponent with bias 7, 3 of mantissa, no infinities.
/// Larger numbers, infinities among them, saturate, as QuantizeLinear does by default; NaN stays NaN.
pub fn e4m3(x: f32) -> u8 {
    const SMALLEST_NORMAL: f32 = 0.015_625;
    const SUBNORMAL_STEPS: f32 = 512.0;
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs().min(E4M3_MAX);
    if magnitude < SMALLEST_NORMAL {
        // A step below the smallest normal number follows its own code: 8 steps are that number.
        return sign | (magnitude * SUBNORMAL_STEPS).round_ties_even() as u8;
    }
    let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
    let eighths = (f64::from(magnitude) * 2f64.powi(3 - exponent)).round_ties_even() as i32;
    // 16 eighths carry over into the exponent.
    sign | (((exponent + 7) << 3) + (eighths - 8)) as u8
}

/// The number of a code in `float8e4m3fn`.
pub fn e4m3_value(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0xf), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (mantissa + 8.0) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_codes_are_those_of_tensors() {
        for code in 0..=0xff_u8 {
            let there =
                Tensor::raw(DType::Float8e4m3fn, &[1], vec![code].into()).unwrap().to_f64s()[0] as f32;
            assert!(there == e4m3_value(code) || there.is_nan() && e4m3_value(code).is_nan(), "{code:#x}");
        }
    }

    #[test]
    fn every_code_of_e4m3_comes_back_and_numbers_between_go_to_the_nearest() {
        let finite = |code: &u8| e4m3_value(*code).is_finite();
        for code in (0..=0xff_u8).filter(finite) {
            assert_eq!(e4m3(e4m3_value(code)), code, "{code:#x}");
        }
        for code in 0..0x7e_u8 {
            let (a, b) = (e4m3_value(code), e4m3_value(code + 1));
            let middle = a + (b - a) / 2.0;
            assert_eq!(e4m3(middle), code + (code & 1), "tie above {a}");
            assert_eq!(e4m3(middle.next_down()), code);
            assert_eq!(e4m3(-middle.next_up()), 0x80 | (code + 1));
        }
        assert_eq!([e4m3(1e9), e4m3(f32::NEG_INFINITY), e4m3(f32::NAN)], [0x7e, 0xfe, 0x7f]);
    }

    #[test]
    fn scales_never_get_smaller() {
        for dtype in [DType::Float16, DType::Bfloat16] {
            for i in 0..2000 {
                let scale = 1e-6 * 1.01f32.powi(i);
                let up = scale_up(scale, dtype);
                let back = half(&Tensor::scalar_f32(up), dtype).unwrap().to_f32s()[0];
                assert!(back == up && up >= scale, "{scale} {up} {back}");
                assert_eq!(scale_up(up, dtype), up);
                let bound = if scale > 1e-4 { 1.0 / 128.0 } else { 1.0 };
                assert!(up <= scale * (1.0 + bound) || up == largest(dtype).unwrap(), "{scale} {up}");
            }
        }
        assert_eq!(scale_up(0.3, DType::Float), 0.3);
    }

    #[test]
    fn what_is_too_large_becomes_the_largest() {
        let t = Tensor::from_f32(&[4], &[-3.4e38, 1e5, 0.1, f32::INFINITY]);
        let h = half(&t, DType::Float16).unwrap();
        assert_eq!(h.to_f32s(), [-65504.0, 65504.0, f16::from_f32(0.1).to_f32(), f32::INFINITY]);
        assert_eq!(half(&h, DType::Float16), None);
        assert_eq!(half(&t, DType::Double), None);
    }
}
