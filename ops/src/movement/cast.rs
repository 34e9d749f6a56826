//! `Cast` and `CastLike`.
//!
//! Floats truncate towards zero, then wrap to the width of the integer type; NaN becomes 0. Strings and
//! 8-bit and 4-bit floats as targets have no kernel.

use crate::fact::{Fact, InferCx, InferError};
use crate::kernel::{self, Element, values};
use crate::row::{EvalCx, EvalError};
use half::{bf16, f16};
use squint_ir::tensor::pack_bits;
use squint_ir::{Bytes, DType, Op, Tensor};

pub(super) fn cast(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let dtype = target(cx.op, cx.optional(1).and_then(|f| f.dtype));
    let fact = Fact::new(dtype, data.shape.clone());
    let lengths = data.dims.clone().filter(|_| matches!(dtype, Some(DType::Int64 | DType::Int32)));
    Ok(vec![fact.with_lengths(lengths)])
}

/// The attribute `to`, a name in version 1; without it the type of the second operand.
fn target(op: &Op, like: Option<DType>) -> Option<DType> {
    if op.is("CastLike") {
        return like;
    }
    match (op.int("to"), op.string("to")) {
        (Some(code), _) => i32::try_from(code).ok().and_then(DType::from_code),
        (None, Some(name)) => name.to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

pub(super) fn kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let data = cx.input(0)?;
    let Some(to) = target(cx.op, cx.optional(1).map(Tensor::dtype)) else {
        return kernel::invalid("`to` is no element type");
    };
    if to == data.dtype() {
        return Ok(vec![data.clone()]);
    }
    let bytes = match (data.to_i64s(), data.dtype()) {
        // Values above the range of signed 64 bits.
        (_, DType::Uint64) if to.is_float() => {
            from_floats(values::<u64>(data)?.into_iter().map(|x| x as f64), to)
        }
        (Some(ints), _) => from_ints(&ints, to),
        (None, DType::String | DType::Complex64 | DType::Complex128) => None,
        (None, _) => from_floats(data.to_f64s().into_iter(), to),
    };
    match bytes {
        Some(bytes) => Ok(vec![Tensor::raw(to, data.dims(), bytes)?]),
        None => kernel::unsupported(format!("cast from {} to {to}", data.dtype())),
    }
}

fn from_ints(ints: &[i64], to: DType) -> Option<Bytes> {
    let ints = ints.iter().copied();
    Some(match to {
        DType::Bool => bytes(ints.map(|x| x != 0)),
        DType::Float => bytes(ints.map(|x| x as f32)),
        DType::Double | DType::Float16 | DType::Bfloat16 => return from_floats(ints.map(|x| x as f64), to),
        DType::Uint8 => bytes(ints.map(|x| x as u8)),
        DType::Int8 => bytes(ints.map(|x| x as i8)),
        DType::Uint16 => bytes(ints.map(|x| x as u16)),
        DType::Int16 => bytes(ints.map(|x| x as i16)),
        DType::Uint32 => bytes(ints.map(|x| x as u32)),
        DType::Int32 => bytes(ints.map(|x| x as i32)),
        DType::Uint64 => bytes(ints.map(|x| x as u64)),
        DType::Int64 => bytes(ints),
        DType::Uint4 | DType::Int4 | DType::Uint2 | DType::Int2 => pack_bits(ints, to.bits()),
        _ => return None,
    })
}

fn from_floats(floats: impl Iterator<Item = f64>, to: DType) -> Option<Bytes> {
    Some(match to {
        DType::Bool => bytes(floats.map(|x| x != 0.0)),
        DType::Float => bytes(floats.map(|x| x as f32)),
        DType::Double => bytes(floats),
        DType::Float16 => bytes(floats.map(|x| f16::from_f64(x).to_bits())),
        DType::Bfloat16 => bytes(floats.map(|x| bf16::from_f64(x).to_bits())),
        DType::Uint64 => bytes(floats.map(|x| if x < 0.0 { x as i64 as u64 } else { x as u64 })),
        _ => {
            // Float to integer casts saturate and map NaN to zero.
            let ints: Vec<i64> = floats.map(|x| x as i64).collect();
            return from_ints(&ints, to);
        }
    })
}

fn bytes<T: Element>(elements: impl Iterator<Item = T>) -> Bytes {
    let mut bytes = vec![];
    elements.for_each(|x| x.write(&mut bytes));
    bytes.into()
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::{DType, Tensor};

    #[test]
    fn types() {
        check(&[
            ("Cast", 13, "to=7", "float[N,2]", "int64[N,2]"),
            ("Cast", 1, "to=FLOAT", "int64[2]", "float[2]"),
            ("Cast", 13, "to=99", "int64[2]", "?[2]"),
            ("CastLike", 15, "", "int64[2]; float16", "float16[2]"),
        ]);
    }

    #[test]
    fn every_numeric_type_casts() {
        let x = Tensor::from_f32(&[4], &[1.75, -2.5, 0.0, 1e-3]);
        let to = |t: &Tensor, code: i64| {
            eval("Cast", 13, &format!("to={code}"), &[Some(t)]).map(|mut v| v.remove(0))
        };
        for dtype in DType::ALL.iter().filter(|d| d.bits() >= 2 && d.bits() <= 64) {
            let back = to(&x, dtype.code().into());
            let small_float = dtype.is_float() && dtype.bits() <= 8;
            assert_eq!(back.is_ok(), !small_float && *dtype != DType::Complex64, "{dtype}");
            let Ok(back) = back else { continue };
            let floats = to(&back, 1).unwrap().to_f32s();
            let expected = match dtype {
                DType::Bool => [1.0, 1.0, 0.0, 1.0],
                DType::Uint4 => [1.0, 14.0, 0.0, 0.0],
                DType::Uint2 => [1.0, 2.0, 0.0, 0.0],
                d if d.is_float() => [1.75, -2.5, 0.0, floats[3]],
                d => [1.0, if d.int_range().unwrap().0 < 0 { -2.0 } else { floats[1] }, 0.0, 0.0],
            };
            assert_eq!(floats, expected, "{dtype}");
            assert!((floats[3] - 1e-3).abs() < 1e-5 || !dtype.is_float(), "{dtype}");
        }
    }

    #[test]
    fn large_numbers_keep_their_value() {
        let run =
            |t: &Tensor, code: i64| eval("Cast", 13, &format!("to={code}"), &[Some(t)]).unwrap().remove(0);
        let big = run(&Tensor::from_f64(&[1], &[1.8e19]), 13);
        assert_eq!(run(&big, 11).to_f64s(), [1.8e19]);
        assert_eq!(run(&Tensor::from_i64(&[1], &[300]), 2).to_i64s().unwrap(), [44]);
        assert_eq!(
            run(&Tensor::from_f32(&[2], &[f32::NAN, f32::INFINITY]), 7).to_i64s().unwrap(),
            [0, i64::MAX]
        );
    }
}
