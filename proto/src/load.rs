//! Files and bytes to models.

use crate::error::{LoadError, LoadProblem};
use crate::files::{Files, Mapped, folder_of};
use crate::onnx::{ModelProto, TensorProto};
use crate::{import, onnx, tensor, wire};
use bytes::Bytes;
use prost::Message;
use squint_ir::{Model, Tensor};
use std::path::Path;

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Lets external data lie outside the model's folder. Off by default: a model from a stranger could
    /// name any file. Needed where the model is a link into a cache of downloads.
    pub allow_external_anywhere: bool,
    /// Maps files into memory instead of reading them. On by default: weights are then read when they are
    /// used, and never copied. Turn it off where a file may be changed in place while the model is in use.
    pub mmap: bool,
    /// Compares external files with the checksums that the model gives for them, which reads them whole. Off
    /// by default.
    pub verify_checksums: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { allow_external_anywhere: false, mmap: true, verify_checksums: false }
    }
}

/// Loads a model from a file.
///
/// # Errors
/// [`LoadError`] names the file and says what is wrong with it.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Model, LoadError> {
    load_with_notes(path, options).map(|(model, _)| model)
}

/// What reading a model brings to light besides the model.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong, in the order of the file.
    pub(crate) problems: Vec<LoadProblem>,
    /// What is strange, or will be lost by saving.
    pub(crate) notes: Vec<String>,
}

/// A model with everything that is wrong with its file.
#[derive(Debug)]
pub struct Examination {
    /// The model, as far as it could be read. If there are problems, it is for looking at only: constants may lack
    /// their data, and names that nothing defines are values without a source, of which the verifier
    /// complains, too.
    pub model: Model,
    /// What keeps the model from being loaded, in the order of the file.
    pub problems: Vec<LoadProblem>,
    /// What is strange, or would be lost by saving, in a line each.
    pub notes: Vec<String>,
}

impl Examination {
    /// The model if nothing is wrong.
    fn sound(self, path: Option<&Path>) -> Result<(Model, Vec<String>), LoadError> {
        let more = self.problems.len().saturating_sub(1);
        match self.problems.into_iter().next() {
            Some(first) => Err(LoadError { more, ..first.at(path.map(Path::to_owned)) }),
            None => Ok((self.model, self.notes)),
        }
    }
}

/// The `ir_version` of the schema.
const IR_VERSION: i64 = onnx::Version::IrVersion as i64;

/// Loads a model from a file, and says in one line each what of it saving would lose: fields that are
/// newer than the ONNX release whose schema squint has.
///
/// # Errors
/// As [`load`].
pub fn load_with_notes(path: &Path, options: &LoadOptions) -> Result<(Model, Vec<String>), LoadError> {
    examine(path, options)?.sound(Some(path))
}

/// Reads a model as far as it can be read, and says all that is wrong with it.
///
/// # Errors
/// If there is nothing to be read: no file, no ONNX model, or one that is cut off.
pub fn examine(path: &Path, options: &LoadOptions) -> Result<Examination, LoadError> {
    let read = || {
        let file = Mapped::open(path, options.mmap)?;
        let bytes = file.bytes.clone();
        decode(bytes, Files::new(Some(file), Some(folder_of(path)), options))
    };
    read().map_err(|problem: LoadProblem| problem.at(Some(path.to_owned())))
}

/// Reads a model from memory. External data is relative to `folder`, and an error without one.
///
/// # Errors
/// As [`load`], without a file name.
pub fn from_bytes(bytes: Bytes, folder: Option<&Path>) -> Result<Model, LoadError> {
    examine_bytes(bytes, folder)?.sound(None).map(|(model, _)| model)
}

/// As [`examine`], from memory. External data is relative to `folder`, and a problem without one.
///
/// # Errors
/// As [`examine`], without a file name.
pub fn examine_bytes(bytes: Bytes, folder: Option<&Path>) -> Result<Examination, LoadError> {
    if bytes.is_empty() {
        return Err(LoadProblem::Empty.at(None));
    }
    let files = Files::new(None, folder.map(Path::to_owned), &LoadOptions::default());
    decode(bytes, files).map_err(|problem| problem.at(None))
}

/// Reads an encoded `TensorProto`, such as the `input_0.pb` of an ONNX test data set, with its name.
///
/// # Errors
/// If the bytes are no such message, or the tensor has external data.
pub fn tensor_from_bytes(bytes: Bytes) -> Result<(String, Tensor), LoadError> {
    let read = || {
        let mut proto = TensorProto::decode(bytes).map_err(|e| wire::not_onnx(&e.to_string()))?;
        let name = proto.name.take().unwrap_or_default();
        let mut files = Files::new(None, None, &LoadOptions::default());
        let tensor = tensor::import(proto, &format!("tensor `{name}`"), &mut files)?;
        Ok((name, tensor))
    };
    read().map_err(|problem: LoadProblem| problem.at(None))
}

fn decode(bytes: Bytes, mut files: Files) -> Result<Examination, LoadProblem> {
    let unknown = wire::scan(&bytes)?;
    let proto = ModelProto::decode(bytes.clone()).map_err(|e| {
        let detail = e.to_string();
        if detail.contains("UTF-8") { LoadProblem::Utf8 { detail } } else { wire::not_onnx(&detail) }
    })?;
    if proto.graph.is_none() && wire::is_text(&bytes) {
        return Err(LoadProblem::Text { hint: wire::text_hint(&bytes) });
    }
    if proto.graph.is_none() && proto.ir_version.is_none() {
        return Err(wire::not_onnx("it has neither an IR version nor a graph"));
    }
    let mut findings = Findings::default();
    let model = import::model(proto, &mut files, &mut findings)?;
    let Findings { problems, mut notes } = findings;
    if model.ir_version > IR_VERSION {
        notes.push(format!("the model has IR version {}, squint knows {IR_VERSION}", model.ir_version));
    }
    notes.extend(unknown.into_iter().map(|((message, tag), n)| {
        format!(
            "field {tag} of {message} ({n} times) is unknown to IR version {IR_VERSION} and will not be saved"
        )
    }));
    Ok(Examination { model, problems, notes })
}
