//! Writing `.npz` archives.

use squint_ir::{DType, Tensor};
use std::io::{Cursor, Write as _};
use zip::write::{SimpleFileOptions, ZipWriter};

/// An uncompressed archive of named arrays, as `numpy.savez` writes it.
///
/// # Errors
/// If NumPy has no such element type.
pub fn npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, tensor) in arrays {
        let header = header(tensor).ok_or_else(|| format!("`{name}`: NumPy has no {}", tensor.dtype()))?;
        zip.start_file(format!("{name}.npy"), options).map_err(|e| format!("`{name}`: {e}"))?;
        zip.write_all(&header).and_then(|()| zip.write_all(tensor.bytes())).map_err(|e| e.to_string())?;
    }
    Ok(zip.finish().map_err(|e| e.to_string())?.into_inner())
}

/// The header of a `.npy` file, version 1.0, padded to 64 bytes.
fn header(tensor: &Tensor) -> Option<Vec<u8>> {
    let descr = match tensor.dtype() {
        DType::Float => "<f4",
        DType::Double => "<f8",
        DType::Float16 => "<f2",
        DType::Bool => "|b1",
        DType::Uint8 => "|u1",
        DType::Int8 => "|i1",
        DType::Uint16 => "<u2",
        DType::Int16 => "<i2",
        DType::Uint32 => "<u4",
        DType::Int32 => "<i4",
        DType::Uint64 => "<u8",
        DType::Int64 => "<i8",
        _ => return None,
    };
    let axes: String = tensor.dims().iter().map(|d| format!("{d}, ")).collect();
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", axes.trim_end());
    let padding = (64 - (10 + text.len() + 1) % 64) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
    out.extend(text.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::array::open_npz;
    use super::super::testing::write;
    use super::*;

    #[test]
    fn archives_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let arrays = vec![
            ("a/b".to_owned(), Tensor::from_f32(&[2, 1], &[1.5, -2.0])),
            ("c".to_owned(), Tensor::from_i64(&[], &[3])),
        ];
        let path = write(&dir, "x.npz", &npz(&arrays).unwrap());
        let read = open_npz(&path).unwrap();
        let read: Vec<_> = read.into_iter().map(|(name, array)| (name, array.whole().unwrap())).collect();
        assert_eq!(read, arrays);
        let strings = Tensor::strings(&[1], vec!["x".into()]).unwrap();
        assert!(npz(&[("s".into(), strings)]).unwrap_err().contains("`s`"));
    }
}
