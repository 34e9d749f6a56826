//! Encoded ONNX tensors: `.pb` files, and the folders of them that ONNX models are tested with.
//!
//! Source: `onnx/backend/test` and the ONNX model zoo. A test data set is a folder `test_data_set_0` with
//! `input_0.pb`, `input_1.pb` and so on, one for each input of the model, and the outputs expected, which
//! are passed over. Each file is a `TensorProto`. Many exporters leave its name empty or write one that the
//! model does not know; then the number in the file's name is the position of the input.

use super::array::Array;
use squint_proto::LoadProblem;
use std::path::{Path, PathBuf};

/// Reads a `.pb` file: the name in it, which may be empty, and the tensor.
///
/// # Errors
/// What is wrong with the file, without its name.
pub(crate) fn open_pb(path: &Path) -> Result<(String, Array), String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be opened: {e}"))?;
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    let (name, tensor) = squint_proto::tensor_from_bytes(bytes.into()).map_err(|e| match e.problem {
        LoadProblem::NotOnnx { detail } => format!("is no encoded ONNX tensor ({detail})"),
        other => format!("cannot be read as an ONNX tensor: {other}"),
    })?;
    Ok((name, Array::of(tensor)?))
}

/// The number of an `input_K.pb` file, `None` for other files.
pub(crate) fn position(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("input_")?.strip_suffix(".pb")?.parse().ok()
}

/// Whether a folder is a test data set.
pub(crate) fn is_set(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|e| position(&e.path()).is_some()))
}

/// Reads the inputs in a test data set, under the names of the model's inputs; what is for no input comes
/// under its own name.
///
/// # Errors
/// What is wrong with the folder, without its name.
pub(crate) fn open_set(folder: &Path, inputs: &[&str]) -> Result<Vec<(String, Array)>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut files: Vec<(usize, PathBuf)> =
        entries.flatten().filter_map(|e| Some((position(&e.path())?, e.path()))).collect();
    files.sort();
    let mut out: Vec<(String, Array)> = Vec::new();
    for (k, path) in files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (own, array) = open_pb(&path).map_err(|e| format!("has a file `{file}` that {e}"))?;
        let name = match inputs.get(k) {
            _ if inputs.contains(&own.as_str()) => own,
            Some(input) => (*input).to_owned(),
            None => file.clone(),
        };
        if out.iter().any(|(n, _)| *n == name) {
            return Err(format!("has two tensors for input `{name}`, the second in `{file}`"));
        }
        out.push((name, array));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{pb_bytes, write};
    use squint_ir::Tensor;

    #[test]
    fn names_are_stronger_than_positions() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, tensor: &str, x: f32| {
            write(&dir, name, &pb_bytes(tensor, &Tensor::from_f32(&[1], &[x])));
        };
        let read = |inputs: &[&str]| {
            let set = open_set(dir.path(), inputs)?;
            Ok(set.into_iter().map(|(n, a)| (n, a.whole().unwrap().to_f32s()[0])).collect::<Vec<_>>())
        };
        let named = |pairs: &[(&str, f32)]| Ok(pairs.iter().map(|(n, x)| ((*n).to_owned(), *x)).collect());
        put("input_0.pb", "b", 0.0);
        put("input_1.pb", "a", 1.0);
        put("output_0.pb", "y", 9.0);
        assert!(is_set(dir.path()));
        assert_eq!(read(&["a", "b"]), named(&[("b", 0.0), ("a", 1.0)]));
        assert_eq!(read(&["x", "y"]), named(&[("x", 0.0), ("y", 1.0)]));
        assert_eq!(read(&["x"]), named(&[("x", 0.0), ("input_1.pb", 1.0)]));
        let e: Result<Vec<(String, f32)>, String> = read(&["x", "b"]);
        assert_eq!(e.unwrap_err(), "has two tensors for input `b`, the second in `input_1.pb`");
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |bytes: &[u8]| open_pb(&write(&dir, "x.pb", bytes)).err().unwrap();
        assert_eq!(refused(b""), "is empty");
        assert!(refused(b"\xff\xff\xff").starts_with("is no encoded ONNX tensor ("));
        let whole = pb_bytes("x", &Tensor::from_f32(&[4], &[0.0; 4]));
        assert!(refused(&whole[..whole.len() - 3]).starts_with("is no encoded ONNX tensor ("));
    }
}
