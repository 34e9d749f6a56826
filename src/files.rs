//! Models in files: ONNX protobuf, or ONNX text where the name ends in `.onnxtxt`.

use crate::Error;
use squint_ir::Model;
use squint_ir::text::{self, PrintOptions};
use squint_proto::{Examination, LoadOptions, SaveOptions};
use std::io::Write as _;
use std::path::Path;

/// Longest text that is read: models of this size are for protobuf.
const MAX_TEXT: u64 = 256 << 20;

/// Loads a model.
///
/// # Errors
/// If the file cannot be read or is no model.
pub fn load(path: &Path) -> Result<Model, Error> {
    load_with(path, &LoadOptions::default()).map(|(model, _)| model)
}

/// Loads a model, and says in one line each what of it will be lost when it is saved.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, options: &LoadOptions) -> Result<(Model, Vec<String>), Error> {
    if !is_text(path) || path.is_dir() {
        return Ok(squint_proto::load_with_notes(path, options)?);
    }
    Ok((load_text(path)?, Vec::new()))
}

/// Reads a model as far as it can be read, and says all that is wrong with the file. (In a text, reading ends at
/// the first mistake.)
///
/// # Errors
/// If there is nothing to be read.
pub fn examine(path: &Path, options: &LoadOptions) -> Result<Examination, Error> {
    if !is_text(path) || path.is_dir() {
        return Ok(squint_proto::examine(path, options)?);
    }
    Ok(Examination { model: load_text(path)?, problems: Vec::new(), notes: Vec::new() })
}

fn load_text(path: &Path) -> Result<Model, Error> {
    let source = read_text(path)?;
    text::parse_with(&source, &mut text::generate)
        .map_err(|source| Error::Text { path: path.to_owned(), source })
}

/// Reads a text file of bounded size.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_TEXT {
        let why = format!("a text of more than {} MiB; save the model as `.onnx`", MAX_TEXT >> 20);
        return Err(failed(std::io::Error::other(why)));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Saves a model. The file appears whole or not at all.
///
/// # Errors
/// If the model has a cycle, or the file cannot be written.
pub fn save(model: &Model, path: &Path) -> Result<(), Error> {
    save_with(model, path, &SaveOptions::default())
}

/// Saves a model, with a say in where tensor data goes. (In text it is always part of the text.)
///
/// # Errors
/// As [`save`].
pub fn save_with(model: &Model, path: &Path, options: &SaveOptions) -> Result<(), Error> {
    if !is_text(path) {
        return Ok(squint_proto::save(model, path, options)?);
    }
    write_whole(path, text::print(model, &PrintOptions::default()).as_bytes())
}

/// Writes a file that appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".squint-").suffix(".tmp");
        // Temporary files are private by default; this one is to have the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)
    };
    write().map(drop).map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}

/// True if a file of this name is ONNX text.
pub fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnxtxt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_survives_text_and_protobuf() {
        let dir = tempfile::tempdir().unwrap();
        let source =
            "<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[2] x) => (float[2] y) { y = Relu (x) }";
        let (a, b, c) =
            (dir.path().join("a.onnxtxt"), dir.path().join("b.onnx"), dir.path().join("c.onnxtxt"));
        std::fs::write(&a, source).unwrap();
        save(&load(&a).unwrap(), &b).unwrap();
        save(&load(&b).unwrap(), &c).unwrap();
        assert!(text::equal(&load(&a).unwrap(), &load(&c).unwrap()));
    }
}
