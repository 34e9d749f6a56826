//! `squint stats`: what is in files of statistics.

mod show;

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, Subcommand, ValueEnum};
use show::Show;
use squint::stats::{self, Recording, cache};
use squint::{Error, Method};
use std::path::{Path, PathBuf};

/// Show, merge and export statistics that `squint calibrate` measured.
#[derive(Args)]
pub(crate) struct Stats {
    #[command(subcommand)]
    command: StatsCommand,
}

/// Each is described where it is defined.
#[derive(Subcommand)]
enum StatsCommand {
    Show(Show),
    Merge(Merge),
    Export(Export),
}

/// Merge parts of one calibration.
///
/// The result is what one calibration of all the samples would have written, byte for byte, in whatever order
/// the parts are named.
#[derive(Args)]
struct Merge {
    /// The parts.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Write ranges as the calibration cache of another tool.
///
/// The names in it are those of the model after fusion: `squint optimize` writes that model.
#[derive(Args)]
struct Export {
    /// The statistics.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The tool.
    #[arg(long)]
    format: CacheFormat,
    /// How ranges are chosen; see `squint quantize --help`.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    method: Method,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum CacheFormat {
    /// TensorRT's calibration cache, version 10 and earlier.
    Trt,
    /// The JSON file of ONNX Runtime's `quantize_static(calibration_cache_path=...)`.
    Ort,
}

impl Stats {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        match self.command {
            StatsCommand::Show(c) => c.run(talk),
            StatsCommand::Merge(c) => c.run(talk),
            StatsCommand::Export(c) => c.run(talk),
        }
    }
}

impl Merge {
    fn run(self, talk: &Talk) -> Result<(), Failure> {
        let merged = read_all(&self.files)?;
        stats::write(&merged, &self.output)?;
        let (done, total) = (merged.tally.done().len(), merged.data.total);
        talk.say(format_args!("merged {done} of {total} samples: `{}`", self.output.display()));
        note_missing(&merged, talk);
        Ok(())
    }
}

impl Export {
    fn run(self, talk: &Talk) -> Result<(), Failure> {
        let recording = stats::read(&self.file)?;
        note_missing(&recording, talk);
        let text = match self.format {
            CacheFormat::Trt => cache::tensorrt(&recording, self.method),
            CacheFormat::Ort => cache::onnxruntime(&recording, self.method),
        };
        std::fs::write(&self.output, text)
            .map_err(|source| Error::File { action: "write", path: self.output.clone(), source }.into())
    }
}

/// Reads parts of a calibration, of which there must be one, and merges them.
///
/// # Errors
/// If one cannot be read, or they do not go together.
pub(crate) fn read_all(files: &[PathBuf]) -> Result<Recording, Failure> {
    let (first, rest) = files.split_first().expect("invariant: the command line asks for a file");
    let mut merged = stats::read(first)?;
    for file in rest {
        let part = stats::read(file)?;
        merged.merge(&part).map_err(|why| cannot_merge(first, file, &why))?;
    }
    Ok(merged)
}

fn cannot_merge(first: &Path, file: &Path, why: &str) -> Failure {
    Failure::with_help(
        format!("cannot merge `{}` with `{}`: {why}", file.display(), first.display()),
        "parts of one calibration are made by the same command with different `--shard`",
    )
}

/// Says so if samples are missing.
pub(crate) fn note_missing(recording: &Recording, talk: &Talk) {
    let (done, total) = (recording.tally.done(), recording.data.total);
    if let Some(first) = (0..total).find(|i| !done.contains(i)) {
        talk.say(format_args!(
            "note: the statistics cover {} of {total} samples; the first that is missing is {first}",
            done.len()
        ));
    }
}
