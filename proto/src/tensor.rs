//! `TensorProto`, both ways.
//!
//! Source: `TensorProto` in `proto/onnx-ml.proto`, whose comments say which typed field holds which element
//! type. All of them become raw little-endian bytes here, with elements below a byte packed.

use crate::error::{LoadProblem, SaveError};
use crate::files::Files;
use crate::onnx::{TensorProto, tensor_proto::DataLocation};
use crate::types;
use bytes::Bytes;
use prost::Message;
use squint_ir::{DType, FileSlice, Tensor, TensorError, tensor};

/// The tensor of a message. Its name stays with the caller, who clears it from the message unless the
/// tensor should keep it. `place` names the tensor in errors.
///
/// Nothing is allocated before the dimensions and the length of the data agree.
pub(crate) fn import(mut proto: TensorProto, place: &str, files: &mut Files) -> Result<Tensor, LoadProblem> {
    let fail = |detail: String| LoadProblem::Tensor { place: place.to_owned(), detail };
    let code = proto.data_type();
    let dtype =
        DType::from_code(code).ok_or_else(|| LoadProblem::DataType { place: place.to_owned(), code })?;
    let dims = import_dims(&proto.dims).map_err(&fail)?;
    let residue = residue(&mut proto);
    let mismatch = |error| LoadProblem::TensorLength { place: place.to_owned(), error };
    if proto.data_location() == DataLocation::External {
        if dtype == DType::String {
            return Err(fail("strings cannot be external data".into()));
        }
        let expected = byte_len(dtype, &dims).map_err(mismatch)?;
        let (bytes, source) = files.external(&proto, expected, place)?;
        let mut tensor = Tensor::raw(dtype, &dims, bytes).map_err(mismatch)?;
        (tensor.source, tensor.residue) = (Some(source), residue);
        return Ok(tensor);
    }
    let raw = proto.raw_data.take().filter(|raw| !raw.is_empty());
    let typed = typed_entries(&proto);
    if raw.is_some() && typed > 0 {
        return Err(fail("both raw and typed data are given".into()));
    }
    let mut tensor = match raw {
        Some(_) if dtype == DType::String => return Err(fail("strings cannot be raw data".into())),
        None if dtype == DType::String => {
            Tensor::strings(&dims, std::mem::take(&mut proto.string_data)).map_err(mismatch)?
        }
        Some(raw) => {
            let source = files.model.as_ref().and_then(|file| file.locate(&raw));
            let mut tensor = Tensor::raw(dtype, &dims, raw).map_err(mismatch)?;
            tensor.source = source;
            tensor
        }
        None if typed == 0 && !dims.contains(&0) => {
            return Err(LoadProblem::NoData { place: place.to_owned() });
        }
        None => {
            let bytes = typed_to_raw(&proto, dtype, &dims).map_err(mismatch)?;
            let read = entries_for(&proto, dtype);
            if read != typed {
                return Err(fail(format!(
                    "{} of {typed} data entries are in a field of another type",
                    typed - read
                )));
            }
            Tensor::raw(dtype, &dims, bytes).map_err(mismatch)?
        }
    };
    tensor.residue = residue;
    Ok(tensor)
}

/// Moves external data into the message, for a tensor that stays encoded: where it lay would be forgotten.
pub(crate) fn inline(proto: &mut TensorProto, place: &str, files: &mut Files) -> Result<(), LoadProblem> {
    if proto.data_location() != DataLocation::External {
        return Ok(());
    }
    let tensor = import(proto.clone(), place, files)?;
    proto.raw_data = Some(tensor.bytes().clone());
    proto.data_location = None;
    proto.external_data.clear();
    Ok(())
}

/// The message of a tensor, with its data in `raw_data` (shared, not copied) or `string_data`; with `keep`, data
/// from an external file stay there. `name` of `None` leaves the name that the tensor had as an attribute.
pub(crate) fn export(tensor: &Tensor, name: Option<&str>, keep: bool) -> Result<TensorProto, SaveError> {
    let mut proto = TensorProto::decode(tensor.residue.clone())
        .map_err(|_| SaveError::Residue { place: format!("tensor `{}`", name.unwrap_or_default()) })?;
    proto.dims = tensor.dims().iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
    proto.data_type = Some(tensor.dtype().code());
    if let Some(name) = name {
        proto.name = Some(name.to_owned());
    }
    let external = tensor.source.as_ref().and_then(|s| s.external.as_deref()).filter(|_| keep);
    match (tensor.as_strings(), external) {
        (Some(strings), _) => proto.string_data = strings.to_vec(),
        (None, None) => proto.raw_data = Some(tensor.bytes().clone()),
        (None, Some(entries)) => {
            proto.external_data = types::export_entries(entries);
            proto.data_location = Some(DataLocation::External as i32);
        }
    }
    Ok(proto)
}

/// Dimensions as lengths.
pub(crate) fn import_dims(dims: &[i64]) -> Result<Vec<usize>, String> {
    dims.iter()
        .map(|d| usize::try_from(*d).map_err(|_| format!("dimension {d} of {dims:?} is negative")))
        .collect()
}

/// Moves the fields that the IR does not model out of a message, encoded.
fn residue(proto: &mut TensorProto) -> Bytes {
    let rest = TensorProto {
        name: proto.name.take(),
        doc_string: proto.doc_string.take().filter(|s| !s.is_empty()),
        metadata_props: std::mem::take(&mut proto.metadata_props),
        segment: proto.segment.take(),
        ..TensorProto::default()
    };
    rest.encode_to_vec().into()
}

fn byte_len(dtype: DType, dims: &[usize]) -> Result<usize, TensorError> {
    let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    n.and_then(|n| dtype.packed_len(n)).ok_or_else(|| TensorError::Overflow(dims.to_vec()))
}

/// Entries of all typed data fields.
fn typed_entries(p: &TensorProto) -> usize {
    let numbers = p.float_data.len() + p.double_data.len() + p.int32_data.len();
    numbers + p.int64_data.len() + p.uint64_data.len() + p.string_data.len()
}

/// Entries of the typed data field that an element type is stored in.
fn entries_for(p: &TensorProto, dtype: DType) -> usize {
    use DType::*;
    match dtype {
        Float | Complex64 => p.float_data.len(),
        Double | Complex128 => p.double_data.len(),
        Int64 => p.int64_data.len(),
        Uint32 | Uint64 => p.uint64_data.len(),
        String => p.string_data.len(),
        _ => p.int32_data.len(),
    }
}

/// Raw bytes of a typed data field, once its length is known to be right.
fn typed_to_raw(p: &TensorProto, dtype: DType, dims: &[usize]) -> Result<Bytes, TensorError> {
    use DType::*;
    // Bytes that one entry of the field becomes; elements below a byte come packed, a byte an entry.
    let width = match dtype {
        Complex64 => 4,
        Complex128 => 8,
        _ => dtype.bits().div_ceil(8),
    };
    let expected = byte_len(dtype, dims)?;
    if matches!(dtype, Float6e2m3 | Float6e3m2) {
        // These come unpacked, an element an entry.
        let (expected, actual) = (dims.iter().product(), p.int32_data.len());
        if actual != expected {
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), expected, actual });
        }
        return Ok(tensor::pack_bits(p.int32_data.iter().map(|x| i64::from(*x)), dtype.bits()));
    }
    let actual = entries_for(p, dtype) * width;
    if actual != expected {
        return Err(TensorError::Length { dtype, dims: dims.to_vec(), expected, actual });
    }
    Ok(match dtype {
        Float | Complex64 => gather(&p.float_data, |x| x.to_le_bytes()),
        Double | Complex128 => gather(&p.double_data, |x| x.to_le_bytes()),
        Int64 => gather(&p.int64_data, |x| x.to_le_bytes()),
        Uint64 => gather(&p.uint64_data, |x| x.to_le_bytes()),
        Uint32 => gather(&p.uint64_data, |x| (x as u32).to_le_bytes()),
        Int32 => gather(&p.int32_data, |x| x.to_le_bytes()),
        Bool => gather(&p.int32_data, |x| [u8::from(x != 0)]),
        _ if width == 2 => gather(&p.int32_data, |x| (x as u16).to_le_bytes()),
        _ => gather(&p.int32_data, |x| [x as u8]),
    })
}

fn gather<T: Copy, const N: usize>(entries: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    entries.iter().flat_map(|x| bytes(*x)).collect::<Vec<u8>>().into()
}

/// True if the bytes of a tensor lie unchanged in a file, at least `min` of them.
pub(crate) fn file_slice(tensor: &Tensor, min: usize) -> Option<&FileSlice> {
    tensor.source.as_ref().filter(|_| tensor.bytes().len() >= min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadOptions;

    fn read(proto: TensorProto) -> Result<Tensor, LoadProblem> {
        import(proto, "initializer `w`", &mut Files::new(None, None, &LoadOptions::default()))
    }

    fn typed(dtype: DType, dims: &[i64]) -> TensorProto {
        TensorProto { data_type: Some(dtype.code()), dims: dims.to_vec(), ..TensorProto::default() }
    }

    #[test]
    fn typed_fields_become_raw_bytes() {
        let t = read(TensorProto { float_data: vec![1.5, -2.0], ..typed(DType::Float, &[2]) }).unwrap();
        assert_eq!(t.to_f32s(), [1.5, -2.0]);
        let t =
            read(TensorProto { int32_data: vec![0x3c00, 0xbc00], ..typed(DType::Float16, &[2]) }).unwrap();
        assert_eq!(t.to_f32s(), [1.0, -1.0]);
        let t = read(TensorProto { int32_data: vec![-3, 200], ..typed(DType::Int8, &[2]) }).unwrap();
        assert_eq!(t.to_i64s().unwrap(), [-3, -56]);
        let t = read(TensorProto { int32_data: vec![0x78, 0x0f], ..typed(DType::Int4, &[3]) }).unwrap();
        assert_eq!(t.to_i64s().unwrap(), [-8, 7, -1]);
        let six = TensorProto { int32_data: vec![0x1f, 0x20, 8], ..typed(DType::Float6e3m2, &[3]) };
        assert_eq!(read(six).unwrap().to_f64s(), [28.0, -0.0, 0.5]);
        let t = read(TensorProto { uint64_data: vec![7, 1 << 31], ..typed(DType::Uint32, &[2]) }).unwrap();
        assert_eq!(t.to_i64s().unwrap(), [7, 1 << 31]);
        let t = read(TensorProto { float_data: vec![1.0; 4], ..typed(DType::Complex64, &[2]) }).unwrap();
        assert_eq!(t.bytes().len(), 16);
        let t = read(TensorProto { int32_data: vec![0, 5], ..typed(DType::Bool, &[2]) }).unwrap();
        assert_eq!(t.bytes()[..], [0, 1]);
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        let raw = |dims: &[i64], n: usize| {
            read(TensorProto { raw_data: Some(vec![0; n].into()), ..typed(DType::Float, dims) })
        };
        assert!(raw(&[2, 3], 24).is_ok() && raw(&[0, 1 << 40], 0).is_ok());
        assert!(matches!(raw(&[2, 3], 23), Err(LoadProblem::TensorLength { .. })));
        assert!(matches!(raw(&[1 << 40], 4), Err(LoadProblem::TensorLength { .. })));
        assert!(matches!(raw(&[1 << 40, 1 << 40], 4), Err(LoadProblem::TensorLength { .. })));
        assert!(matches!(raw(&[-1], 4), Err(LoadProblem::Tensor { .. })));
        let e = read(TensorProto { float_data: vec![1.0], ..typed(DType::Float, &[2]) }).unwrap_err();
        assert_eq!(e.to_string(), "initializer `w`: float tensor of shape [2] needs 8 bytes, has 4");
        let e = read(TensorProto { float_data: vec![1.0], int64_data: vec![1], ..typed(DType::Float, &[1]) });
        assert!(matches!(e, Err(LoadProblem::Tensor { .. })));
        assert!(matches!(read(TensorProto::default()), Err(LoadProblem::DataType { code: 0, .. })));
    }

    #[test]
    fn strings_names_and_notes_survive() {
        let proto = TensorProto {
            string_data: vec![Bytes::from_static(b"a"), Bytes::from_static(b"\xff")],
            name: Some("inner".into()),
            doc_string: Some("why".into()),
            ..typed(DType::String, &[2])
        };
        let t = read(proto.clone()).unwrap();
        assert_eq!(export(&t, None, false).unwrap(), proto);
        assert_eq!(export(&t, Some("new"), true).unwrap().name(), "new");
    }
}
