//! The models that a command reads and writes.

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use squint::ir::Tensor;
use squint::ir::verify::{Severity, verify};
use squint::{Error, Examination, External, LoadOptions, Model, SaveOptions};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A model that a command reads.
#[derive(Args)]
pub(crate) struct Input {
    /// The model, `.onnx` or `.onnxtxt`.
    #[arg(id = "model", value_name = "MODEL")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// How far models are trusted.
#[derive(Args, Clone, Copy)]
pub(crate) struct Trust {
    /// Let external data lie outside the model's folder. A model from a stranger could name any file.
    #[arg(long)]
    allow_external_anywhere: bool,
}

impl Input {
    /// Loads the model and passes on what is to be said about it.
    ///
    /// # Errors
    /// If the file is no model.
    pub(crate) fn load(&self, talk: &Talk) -> Result<Model, Failure> {
        self.trust.load(&self.path, talk)
    }

    /// Loads a model that is to be compiled: it must be well-formed.
    ///
    /// # Errors
    /// If the file is no model, or something is wrong with the model.
    pub(crate) fn load_valid(&self, talk: &Talk) -> Result<Model, Failure> {
        self.trust.load_valid(&self.path, talk)
    }
}

impl Input {
    /// Reads the model as far as it can be read, with all that is wrong with it. Checksums are compared.
    ///
    /// # Errors
    /// If there is nothing to be read.
    pub(crate) fn examine(&self) -> Result<Examination, Failure> {
        Ok(squint::examine(&self.path, &LoadOptions { verify_checksums: true, ..self.trust.options() })?)
    }
}

impl Trust {
    fn options(self) -> LoadOptions {
        LoadOptions { allow_external_anywhere: self.allow_external_anywhere, ..LoadOptions::default() }
    }

    /// Loads a model and passes on what is to be said about it.
    ///
    /// # Errors
    /// If the file is no model.
    pub(crate) fn load(self, path: &Path, talk: &Talk) -> Result<Model, Failure> {
        let (model, notes) = squint::load_with(path, &self.options())?;
        talk.notes(notes);
        Ok(model)
    }

    /// Loads a model that is to be compiled or run: it must be well-formed.
    ///
    /// # Errors
    /// If the file is no model, or something is wrong with the model.
    pub(crate) fn load_valid(self, path: &Path, talk: &Talk) -> Result<Model, Failure> {
        let model = self.load(path, talk)?;
        let errors: Vec<_> = verify(&model).into_iter().filter(|v| v.severity == Severity::Error).collect();
        let Some(first) = errors.first() else { return Ok(model) };
        let more =
            if errors.len() > 1 { format!(" (and {} more errors)", errors.len() - 1) } else { String::new() };
        let path = path.display();
        let message = format!("`{path}` is not a valid model: {}: {}{more}", first.label, first.message);
        Err(Failure::with_help(message, format!("`squint inspect {path} --check` shows all that is wrong")))
    }
}

/// A model that a command writes.
#[derive(Args)]
pub(crate) struct Output {
    /// The file to write.
    #[arg(id = "output", short, long, value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// Whether weights go into a file of their own, `FILE.data`: auto where the model would pass the 2 GiB
    /// that protobuf can hold; keep leaves those of the input that lie in other files in files of the same
    /// names and layout, which are copied beside the output.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    external_data: ExternalData,
}

/// [`External`] as it is spelled on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum ExternalData {
    Auto,
    Always,
    Never,
    Keep,
}

impl Output {
    /// Checks, before any work is done, that the file can be written and is not the input.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, input: &Input) -> Result<(), Failure> {
        check_output(&self.path, &input.path)
    }

    /// Writes the model.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&self, model: &Model) -> Result<(), Failure> {
        let external = match self.external_data {
            ExternalData::Auto => External::Auto,
            ExternalData::Always => External::Always,
            ExternalData::Never => External::Never,
            ExternalData::Keep => External::Keep,
        };
        Ok(squint::save_with(model, &self.path, &SaveOptions { external })?)
    }
}

/// Checks, before any work is done, that `output` can be written and is not one of the inputs.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_output(output: &Path, input: &Path) -> Result<(), Failure> {
    let cannot = |why: &str| format!("cannot write `{}`: {why}", output.display());
    if output.file_name().is_none() || output.is_dir() {
        return Err(Failure::with_help(cannot("it is a folder"), "name the file to write"));
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failure::new(cannot(&format!("there is no folder `{}`", folder.display()))));
    }
    if let (Ok(a), Ok(b)) = (output.canonicalize(), input.canonicalize())
        && a == b
    {
        return Err(Failure::with_help(cannot("it is the input"), "give the output a name of its own"));
    }
    // Asking for the permission would be wrong where it changes; a file that is made and vanishes is sure.
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::new(cannot(&reason(&e)))),
    }
}

/// What the system says, without the name of the temporary file.
fn reason(e: &std::io::Error) -> String {
    e.kind().to_string()
}

/// Bytes of a model in files: its own and those of its external data.
pub(crate) fn size_on_disk(path: &Path, model: &Model) -> Result<u64, Failure> {
    let own = std::fs::metadata(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut seen = BTreeSet::new();
    let elsewhere: usize = constants(model)
        .filter_map(|t| t.source.as_ref().map(|s| (s, t.bytes().len())))
        .filter(|(s, _)| *s.path != *path && seen.insert((s.path.clone(), s.offset)))
        .map(|(_, bytes)| bytes)
        .sum();
    Ok(own.len() + elsewhere as u64)
}

/// Constants of all graphs.
pub(crate) fn constants(model: &Model) -> impl Iterator<Item = &Tensor> {
    model
        .graph_ids()
        .map(|id| model.graph(id))
        .flat_map(|g| g.values().filter_map(|v| g.konst(v)))
        .map(|t| &**t)
}
