//! Tensors in `.safetensors` files, by name.
//!
//! Source: the format of the crate `safetensors`, which reads the header: 8 bytes with the length of a JSON
//! object that gives each tensor's type, shape and place, and then the data. The data is read where it
//! lies.

use super::array::{Array, open};
use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;
use squint_ir::DType;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Longest header that is read, in bytes: that of calibration data has a line for each input.
const MAX_HEADER: u64 = 16 << 20;

/// Opens a `.safetensors` file: its tensors by name, in the order of their data.
///
/// # Errors
/// What is wrong with the file, without its name.
pub(crate) fn open_safetensors(path: &Path) -> Result<Vec<(String, Array)>, String> {
    let mut file = open(path)?;
    let total = file.metadata().map_err(|e| e.to_string())?.len();
    let short = |e: std::io::Error| format!("is no `.safetensors` file, or is truncated ({e})");
    let mut lead = [0u8; 8];
    file.read_exact(&mut lead).map_err(short)?;
    let len = u64::from_le_bytes(lead);
    if len > MAX_HEADER || len + 8 > total {
        return Err(format!(
            "is no `.safetensors` file, or is truncated: a header of {len} bytes is announced, the file has {total}"
        ));
    }
    let mut header = vec![0u8; len as usize];
    file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut header)).map_err(short)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| format!("is no `.safetensors` file: its header cannot be read ({e})"))?;
    let file = Arc::new(Mutex::new(file));
    let mut out = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let array = element_type(info.dtype)
            .and_then(|dtype| Array::stored(&file, 8 + len + info.data_offsets.0 as u64, dtype, &info.shape));
        out.push((name.clone(), array.map_err(|e| format!("tensor `{name}` {e}"))?));
    }
    Ok(out)
}

fn element_type(dtype: Dtype) -> Result<DType, String> {
    Ok(match dtype {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::Uint8,
        Dtype::I8 => DType::Int8,
        Dtype::U16 => DType::Uint16,
        Dtype::I16 => DType::Int16,
        Dtype::U32 => DType::Uint32,
        Dtype::I32 => DType::Int32,
        Dtype::U64 => DType::Uint64,
        Dtype::I64 => DType::Int64,
        Dtype::F16 => DType::Float16,
        Dtype::BF16 => DType::Bfloat16,
        Dtype::F32 => DType::Float,
        Dtype::F64 => DType::Double,
        other => return Err(format!("has elements of type {other:?}, which cannot be read")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{safetensors_bytes, write};
    use squint_ir::Tensor;

    #[test]
    fn tensors_are_read_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let x = Tensor::from_f32(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let n = Tensor::from_i64(&[1], &[-7]);
        let path = write(&dir, "a.safetensors", &safetensors_bytes(&[("x", &x), ("n", &n)]));
        let arrays = open_safetensors(&path).unwrap();
        let find = |name: &str| &arrays.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(find("x").rows(1, 1).unwrap(), Tensor::from_f32(&[1, 2], &[3., 4.]));
        assert_eq!((find("x").whole().unwrap(), find("n").whole().unwrap()), (x, n));
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |bytes: &[u8]| open_safetensors(&write(&dir, "b.safetensors", bytes)).err().unwrap();
        assert!(refused(b"abc").contains("truncated"));
        assert!(refused(&[0xff; 32]).contains("is announced"));
        assert!(refused(b"\x05\0\0\0\0\0\0\0hello").contains("its header cannot be read"));
        let whole = safetensors_bytes(&[("x", &Tensor::from_f32(&[4], &[0.0; 4]))]);
        assert_eq!(
            refused(&whole[..whole.len() - 4]),
            "tensor `x` is truncated: 16 bytes of data expected, 12 found"
        );
        let huge = br#"{"x":{"dtype":"F32","shape":[9999999999,9999999999],"data_offsets":[0,16]}}"#;
        let huge = [&(huge.len() as u64).to_le_bytes(), &huge[..]].concat();
        assert!(refused(&huge).contains("its header cannot be read"));
    }
}
