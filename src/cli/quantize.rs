//! `squint quantize`.

use super::evidence::EvidenceFlags;
use super::failure::Failure;
use super::model_file::{Input, Output, size_on_disk};
use super::numbers::NumberFlags;
use super::options::{CompileFlags, Format, ModelFormat};
use super::progress::Bar;
use super::summary::{Sizes, Summary};
use super::talk::Talk;
use clap::Args;
use squint::ir::text::{PrintOptions, print};
use squint::{Error, Hooks, Model};
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Quantize a model, with ranges measured on calibration data, or found in every run.
///
/// What becomes of each operator is decided by what the target runtime executes in integers; `squint
/// explain` shows it without writing anything.
#[derive(Args)]
pub(crate) struct Quantize {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    compile: CompileFlags,
    #[command(flatten)]
    numbers: NumberFlags,
    /// Write the model after each pass as text into this folder.
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// How quantized operators are written. Both forms compute the same; `squint convert` makes one of the other.
    #[arg(long, value_name = "FORMAT", default_value = "qdq")]
    format: ModelFormat,
    /// How the closing report is written: text to standard error, or JSON to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    summary: Format,
    #[command(flatten)]
    evidence: EvidenceFlags,
}

impl Quantize {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let start = Instant::now();
        let mut model = self.model.load_valid(talk)?;
        let before = size_on_disk(&self.model.path, &model)?;
        let mut config = self.compile.config(&model, talk)?;
        config.format = self.format.into();
        self.numbers.apply(&mut config)?;
        let material = self.evidence.read(&model, &config, talk)?;
        config.data_description = material.preprocessing();
        config.samples = self.evidence.samples();
        let loaded = start.elapsed().as_secs_f64();

        let dump = self.dump_ir.as_deref().map(|folder| Dump::new(folder, &model)).transpose()?;
        let write = |_: usize, pass: &str, model: &Model| {
            if let Some(dump) = &dump {
                dump.write(&format!("after-{pass}"), model);
            }
        };
        let bar = Bar::new(talk);
        let mut hooks = Hooks { progress: &bar, ..Hooks::default() };
        if dump.is_some() {
            hooks.dump = Some(&write);
        }
        let done = squint::quantize_with(&mut model, material.evidence(), &config, &hooks);
        bar.clear();
        if let Some(e) = dump.as_ref().and_then(|d| d.failure.take()) {
            return Err(e.into());
        }
        let report = done?;

        let saving = Instant::now();
        self.output.save(&model)?;
        let saved = saving.elapsed().as_secs_f64();
        let sizes = Sizes { before, after: written(&self.output.path)? };
        let summary = Summary { report: &report, config: &config, loaded, saved, sizes: Some(sizes) };
        talk.notes(&report.notes);
        match self.summary {
            Format::Text => {
                talk.say(summary.text("quantized", &self.model.path, Some(&self.output.path), talk.verbose))
            }
            Format::Json => writeln!(
                io::stdout().lock(),
                "{:#}",
                summary.json(&self.model.path, Some(&self.output.path))
            )?,
        }
        Ok(())
    }
}

/// Bytes just written: the file, and the one beside it that large models get.
fn written(output: &Path) -> Result<u64, Failure> {
    let model = squint::load(output)?;
    size_on_disk(output, &model)
}

/// Writes numbered texts into a folder.
struct Dump<'a> {
    folder: &'a Path,
    next: Cell<usize>,
    /// The first failure to write; nothing is written after it.
    failure: RefCell<Option<Error>>,
}

impl Dump<'_> {
    fn new<'a>(folder: &'a Path, model: &Model) -> Result<Dump<'a>, Error> {
        std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
        let dump = Dump { folder, next: Cell::new(0), failure: RefCell::new(None) };
        dump.write("imported", model);
        match dump.failure.take() {
            Some(e) => Err(e),
            None => Ok(dump),
        }
    }

    fn write(&self, what: &str, model: &Model) {
        if self.failure.borrow().is_some() {
            return;
        }
        let path = self.folder.join(format!("{:03}-{what}.onnxtxt", self.next.get()));
        self.next.set(self.next.get() + 1);
        let text = print(model, &PrintOptions { elide: Some(64), ..PrintOptions::default() });
        if let Err(e) = std::fs::write(&path, text) {
            *self.failure.borrow_mut() = Some(cannot_write(&path, e));
        }
    }
}

fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::File { action: "write", path: path.to_owned(), source }
}
