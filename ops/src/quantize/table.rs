//! `com.microsoft.GatherBlockQuantized`: a Gather from a table that is quantized in blocks, of which only what is picked is
//! dequantized.
//!
//! Data are levels of `int4`, `uint4` or `uint8`. Of bytes, `bits` says how many levels lie in each, in a row along the
//! last axis, the lowest bits first; zero points lie like that, too, each row of them from a byte of its own. Source: ONNX
//! Runtime's `ContribOperators.md` and `gather_block_quantized.cc`.

use super::linear::{dequantize_blocks, integers};
use crate::gather::kernel::pick;
use crate::infer::{self, Inferred, dtype, shape};
use crate::kernel::{checked_len, invalid, resolve_axis};
use crate::{EvalCx, EvalError, Fact, InferCx};
use squint_ir::{DType, Dim, Op, Tensor};

/// Levels in a byte, where levels lie in bytes.
fn in_a_byte(op: &Op, dtype: Option<DType>) -> usize {
    match (dtype, op.int("bits").unwrap_or(4)) {
        (Some(DType::Uint8), 2) => 4,
        (Some(DType::Uint8), 4) => 2,
        _ => 1,
    }
}

pub(super) fn infer(cx: &InferCx<'_>) -> Inferred {
    let result = dtype(cx, 2);
    let (Some(from), Some(at)) = (shape(cx, 0), shape(cx, 1)) else { return Ok(vec![Fact::of(result)]) };
    let axis = infer::axis(cx.op.int("gather_axis").unwrap_or(0), from.len())?;
    let mut out = [&from[..axis], at, &from[axis + 1..]].concat();
    let packed = in_a_byte(cx.op, dtype(cx, 0)) as u64;
    if let (Some(last), true) = (out.last_mut(), packed > 1 && axis + 1 < from.len()) {
        *last = match &*last {
            Dim::Known(n) => Dim::Known(n.saturating_mul(packed)),
            _ => Dim::Unknown,
        };
    }
    Ok(vec![Fact::new(result, Some(out))])
}

pub(super) fn eval(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, scale) = (cx.input(0)?, cx.input(2)?);
    if scale.dtype() != DType::Float {
        return Err(EvalError::Unsupported(format!("a table with scales of type {}", scale.dtype())));
    }
    let packed = in_a_byte(cx.op, Some(data.dtype()));
    let (dims, levels) = unpacked(data, packed, None)?;
    let axis = |name, default: i64| {
        let at = cx.op.int(name).unwrap_or(default);
        resolve_axis(at, dims.len()).ok_or_else(|| EvalError::Invalid(format!("`{name}` is {at}")))
    };
    let (picked, quantized) = (axis("gather_axis", 0)?, axis("quantize_axis", 1)?);
    let size = cx.op.int("block_size").unwrap_or(128);
    let Some(size) = usize::try_from(size).ok().filter(|s| *s > 0) else {
        return invalid(format!("`block_size` is {size}"));
    };
    let zeros = match cx.optional(3) {
        Some(t) => unpacked(t, packed, scale.dims().last().copied())?.1,
        // The middle of the levels where they lie in bytes.
        None if data.dtype() == DType::Uint8 => vec![1 << (8 / packed - 1); scale.len()],
        None => vec![0; scale.len()],
    };
    let table = Tensor::from_f32(&dims, &dequantize_blocks(&dims, &levels, quantized, size, scale, &zeros)?);
    let indices = cx.input(1)?;
    let Some(at) = indices.to_i64s() else { return invalid(format!("indices of type {}", indices.dtype())) };
    pick(&table, picked, &at, indices.dims())
}

/// Dimensions and levels of a tensor of which each byte along the last axis may hold many; no more than `most` of a row.
fn unpacked(t: &Tensor, packed: usize, most: Option<usize>) -> Result<(Vec<usize>, Vec<i32>), EvalError> {
    let mut dims = t.dims().to_vec();
    let (Some(last), true) = (dims.last_mut(), packed > 1) else { return Ok((dims, integers(t)?)) };
    let width = *last;
    *last = width.saturating_mul(packed).min(most.unwrap_or(usize::MAX));
    let length = *last;
    let n = checked_len(&dims)?;
    let bits = 8 / packed;
    let bytes = t.bytes();
    let level = |i: usize| {
        let (row, at) = (i / length, i % length);
        i32::from(bytes[row * width + at / packed] >> (at % packed * bits)) & ((1 << bits) - 1)
    };
    let levels = if n == 0 { Vec::new() } else { (0..n).map(level).collect() };
    Ok((dims, levels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            com.microsoft::GatherBlockQuantized-1 <bits=4 block_size=16> (uint8[9,16]; int64[N,2]; float[9,2]) -> float[N,2,32]
            com.microsoft::GatherBlockQuantized-1 <bits=8 block_size=16> (uint8[9,32]; int64[]; float[9,2]) -> float[32]
            com.microsoft::GatherBlockQuantized-1 <block_size=16> (uint4[9,32]; int32[3]; float16[9,2]) -> float16[3,32]
            com.microsoft::GatherBlockQuantized-1 <gather_axis=2> (uint4[9,32]; int32[3]; float[9,2]) -> error: axis 2 does not exist in rank 2
        ",
        );
    }

    fn rows(
        bits: &str,
        data: &Tensor,
        scale: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Result<Vec<f32>, EvalError> {
        let at = Tensor::from_i64(&[1], &[1]);
        let op = "com.microsoft::GatherBlockQuantized";
        let attributes = format!("bits={bits} block_size=2 quantize_axis=1");
        Ok(eval(op, 1, &attributes, &[Some(data), Some(&at), Some(scale), zeros])?[0].to_f32s())
    }

    #[test]
    fn levels_in_bytes_become_numbers() {
        // Rows of 4 levels in 2 bytes; blocks of 2.
        let data = Tensor::raw(DType::Uint8, &[2, 2], vec![0, 0, 0x51, 0xf8].into()).unwrap();
        let scale = Tensor::from_f32(&[2, 2], &[1.0, 1.0, 0.5, 2.0]);
        let zeros = Tensor::raw(DType::Uint8, &[2, 1], vec![0, 0x81].into()).unwrap();
        assert_eq!(rows("4", &data, &scale, Some(&zeros)).unwrap(), [0.0, 2.0, 0.0, 14.0]);
        // Without zero points 8 stands for zero.
        assert_eq!(rows("4", &data, &scale, None).unwrap(), [-3.5, -1.5, 0.0, 14.0]);
        let quarter = Tensor::raw(DType::Uint8, &[2, 1], vec![0, 0b11_10_01_00].into()).unwrap();
        assert_eq!(rows("2", &quarter, &scale, None).unwrap(), [-1.0, -0.5, 0.0, 2.0]);
        let bytes = Tensor::raw(DType::Uint8, &[2, 4], vec![0, 0, 0, 0, 128, 129, 0, 255].into()).unwrap();
        assert_eq!(rows("8", &bytes, &scale, None).unwrap(), [0.0, 0.5, -256.0, 254.0]);
        assert!(rows("8", &bytes, &Tensor::from_f32(&[2, 1], &[1.0, 1.0]), None).is_err());
    }
}
