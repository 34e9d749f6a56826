//! Tensors and element types between squint and tract.

use squint_ir::{DType, Tensor};
use tract_data::prelude::f16;
use tract_onnx::prelude::{DatumType, Tensor as Array, TractResult, tract_data};

/// tract's name of an element type, `None` if it cannot hold such tensors.
pub(crate) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::Float => DatumType::F32,
        DType::Float16 => DatumType::F16,
        DType::Double => DatumType::F64,
        DType::Bool => DatumType::Bool,
        DType::Uint8 => DatumType::U8,
        DType::Uint16 => DatumType::U16,
        DType::Uint32 => DatumType::U32,
        DType::Uint64 => DatumType::U64,
        DType::Int8 => DatumType::I8,
        DType::Int16 => DatumType::I16,
        DType::Int32 => DatumType::I32,
        DType::Int64 => DatumType::I64,
        DType::String => DatumType::String,
        _ => return None,
    })
}

/// An input of a run.
///
/// # Errors
/// If tract has no such element type.
pub(crate) fn to_array(tensor: &Tensor) -> TractResult<Array> {
    let (dims, bytes) = (tensor.dims(), tensor.bytes());
    macro_rules! array {
        ($t:ty) => {{
            let elements = bytes.as_chunks::<{ size_of::<$t>() }>().0.iter().map(|c| <$t>::from_le_bytes(*c));
            Array::from_shape(dims, &elements.collect::<Vec<_>>())
        }};
    }
    match tensor.dtype() {
        DType::Float => Array::from_shape(dims, &tensor.f32s()),
        DType::Float16 => array!(f16),
        DType::Double => array!(f64),
        DType::Bool => Array::from_shape(dims, &bytes.iter().map(|b| *b != 0).collect::<Vec<_>>()),
        DType::Uint8 => Array::from_shape(dims, bytes),
        DType::Uint16 => array!(u16),
        DType::Uint32 => array!(u32),
        DType::Uint64 => array!(u64),
        DType::Int8 => array!(i8),
        DType::Int16 => array!(i16),
        DType::Int32 => array!(i32),
        DType::Int64 => array!(i64),
        other => Err(tract_onnx::prelude::TractError::msg(format!("tract has no {other} tensors"))),
    }
}

/// An output of a run. tract's symbolic integers, which its shape arithmetic makes, are `int64` in ONNX.
///
/// # Errors
/// If the element type is not one of ONNX's numeric types.
pub(crate) fn from_array(array: &Array) -> TractResult<Tensor> {
    let symbolic = array.datum_type() == DatumType::TDim;
    let array = if symbolic { array.cast_to::<i64>()? } else { std::borrow::Cow::Borrowed(array) };
    macro_rules! tensor {
        ($t:ty, $dtype:ident) => {{
            let elements: &[$t] = array.try_as_plain_ram()?.as_slice()?;
            let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
            Ok(Tensor::raw(DType::$dtype, array.shape(), bytes.into())?)
        }};
    }
    match array.datum_type() {
        DatumType::F32 => tensor!(f32, Float),
        DatumType::F16 => tensor!(f16, Float16),
        DatumType::F64 => tensor!(f64, Double),
        DatumType::Bool => {
            let elements: &[bool] = array.try_as_plain_ram()?.as_slice()?;
            Ok(Tensor::from_bool(array.shape(), elements))
        }
        DatumType::U8 => tensor!(u8, Uint8),
        DatumType::U16 => tensor!(u16, Uint16),
        DatumType::U32 => tensor!(u32, Uint32),
        DatumType::U64 => tensor!(u64, Uint64),
        DatumType::I8 => tensor!(i8, Int8),
        DatumType::I16 => tensor!(i16, Int16),
        DatumType::I32 => tensor!(i32, Int32),
        DatumType::I64 => tensor!(i64, Int64),
        other => Err(tract_onnx::prelude::TractError::msg(format!("an output of type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_there_and_back() {
        let bytes = |n: usize| (0..n as u8).collect::<Vec<_>>();
        for dtype in DType::ALL.iter().copied().filter(|d| datum_type(*d).is_some() && *d != DType::String) {
            let n = dtype.packed_len(6).unwrap();
            let data = if dtype == DType::Bool { vec![1, 0, 0, 1, 1, 0] } else { bytes(n) };
            let t = Tensor::raw(dtype, &[2, 3], data.into()).unwrap();
            let array = to_array(&t).unwrap();
            assert_eq!(Some(array.datum_type()), datum_type(dtype));
            assert_eq!(from_array(&array).unwrap(), t);
        }
        assert!(to_array(&Tensor::raw(DType::Bfloat16, &[1], vec![0, 0].into()).unwrap()).is_err());
    }
}
