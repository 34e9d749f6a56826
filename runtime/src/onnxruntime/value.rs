//! Tensors between squint and ONNX Runtime.

use super::api::{Api, Handle};
use ort_sys::{ONNXTensorElementDataType as Element, OrtValue};
use squint_ir::{DType, Tensor};
use std::ffi::{CString, c_void};
use std::{ptr, slice};

/// An input of a run.
///
/// # Errors
/// If ONNX Runtime takes no such tensors from outside, or cannot make one.
pub(super) fn to_value(api: Api, tensor: &Tensor) -> Result<Handle<OrtValue>, String> {
    let element = element(tensor.dtype())
        .ok_or_else(|| format!("ONNX Runtime takes no {} tensors as inputs", tensor.dtype()))?;
    let dims: Vec<i64> = tensor.dims().iter().map(|d| *d as i64).collect();
    let mut out = ptr::null_mut();
    // SAFETY: the default allocator is never released; the dimensions are read during the call.
    let value = unsafe {
        let mut allocator = ptr::null_mut();
        api.check((api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
        api.check((api.CreateTensorAsOrtValue)(allocator, dims.as_ptr(), dims.len(), element, &mut out))?;
        Handle::new(out, api.ReleaseValue)?
    };
    if let Some(strings) = tensor.as_strings() {
        let owned = strings.iter().map(|s| CString::new(&s[..])).collect::<Result<Vec<_>, _>>();
        let owned = owned.map_err(|e| format!("a string has a zero byte in it: {e}"))?;
        let pointers: Vec<_> = owned.iter().map(|s| s.as_ptr()).collect();
        // SAFETY: there are as many strings as elements; they are copied.
        api.check(unsafe { (api.FillStringTensor)(value.ptr(), pointers.as_ptr(), pointers.len()) })?;
        return Ok(value);
    }
    let bytes = tensor.bytes();
    // SAFETY: the new tensor has as many elements of the same width as this one.
    unsafe {
        let data = data(api, value.ptr())?;
        if !bytes.is_empty() {
            ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len());
        }
    }
    Ok(value)
}

/// An output of a run.
///
/// # Errors
/// If it is not a tensor of numbers or booleans.
pub(super) fn from_value(api: Api, value: *const OrtValue) -> Result<Tensor, String> {
    let (dtype, dims) = describe(api, value)?;
    let count: usize = dims.iter().product();
    let len = dtype.packed_len(count).ok_or_else(|| format!("an output of type {dtype}"))?;
    // SAFETY: the data lives as long as the value, and has this length.
    let bytes = unsafe {
        let data = data(api, value.cast_mut())?;
        if len == 0 { Vec::new() } else { slice::from_raw_parts(data.cast::<u8>(), len).to_vec() }
    };
    Tensor::raw(dtype, &dims, bytes.into()).map_err(|e| e.to_string())
}

/// Element type and dimensions of a tensor.
///
/// # Errors
/// If it is something else than a tensor.
pub(super) fn describe(api: Api, value: *const OrtValue) -> Result<(DType, Vec<usize>), String> {
    // SAFETY: the value is valid; what is written has the size of what it is written to. The element type is
    // read as a number, because a later release may have types that `ort_sys` does not know.
    unsafe {
        let mut is_tensor = 0;
        api.check((api.IsTensor)(value, &mut is_tensor))?;
        if is_tensor == 0 {
            return Err("a value that is not a tensor".into());
        }
        let mut info = ptr::null_mut();
        api.check((api.GetTensorTypeAndShape)(value, &mut info))?;
        let info = Handle::new(info, api.ReleaseTensorTypeAndShapeInfo)?;
        let (mut code, mut rank) = (0_i32, 0);
        api.check((api.GetTensorElementType)(info.ptr(), (&raw mut code).cast()))?;
        api.check((api.GetDimensionsCount)(info.ptr(), &mut rank))?;
        let mut dims = vec![0_i64; rank];
        api.check((api.GetDimensions)(info.ptr(), dims.as_mut_ptr(), rank))?;
        let dtype = known(code).ok_or_else(|| format!("a tensor of the unknown element type {code}"))?;
        let dims = dims.into_iter().map(usize::try_from).collect::<Result<_, _>>();
        Ok((dtype, dims.map_err(|_| "a tensor with a negative dimension".to_owned())?))
    }
}

/// Where the elements of a tensor lie.
///
/// # Safety
/// The value must be a tensor, and not of strings.
pub(super) unsafe fn data(api: Api, value: *mut OrtValue) -> Result<*mut c_void, String> {
    let mut data = ptr::null_mut();
    // SAFETY: the value is a valid tensor.
    api.check(unsafe { (api.GetTensorMutableData)(value, &mut data) })?;
    Ok(data)
}

/// The element type of one of ONNX Runtime's codes, which are those of ONNX up to `UINT4`, `INT4` and
/// `FLOAT4E2M1`.
fn known(code: i32) -> Option<DType> {
    if code <= 23 { DType::from_code(code) } else { None }
}

/// The code of an element type that whole bytes are given in.
fn element(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::Float => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::String => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DType::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::Float16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::Double => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_types_are_those_of_onnx() {
        for dtype in DType::ALL {
            if let Some(e) = element(*dtype) {
                assert_eq!(known(e as i32), Some(*dtype));
            }
        }
        assert_eq!(known(24), None, "a code that means something else in ONNX");
    }
}
