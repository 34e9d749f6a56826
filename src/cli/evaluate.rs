//! `squint evaluate`.

use super::failure::Failure;
use super::model_file::Input;
use super::options::{DataFlags, Format};
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::Args;
use serde_json::json;
use squint::data::labels;
use squint::{Dataset, Samples};
use std::io::{self, Write};

/// Measure how good a model is, float or quantized: top-1 and top-5 on labelled data, or the score that a command
/// of your own finds.
#[derive(Args)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    model: Input,
    /// The class of each sample: a `.txt` or `.csv` file whose lines end in it, a `.npy` file, or an array of an
    /// `.npz` file (FILE.npz:ARRAY; `labels` if none is named).
    #[arg(long, value_name = "FILE", required_unless_present = "command")]
    labels: Option<String>,
    /// The output that holds the scores of classes. [default: the first]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Run this command instead, in a shell; `{}` stands for the model's path. The last number that it prints is
    /// the score.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["labels", "output", "data"])]
    command: Option<String>,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// The labels of the samples that are used, of those of all samples.
///
/// # Errors
/// If there are more or fewer labels than samples.
pub(crate) fn labels_of(argument: &str, all: Vec<i64>, data: &Dataset) -> Result<Vec<i64>, Failure> {
    if all.len() != data.total() {
        let (n, m) = (all.len(), data.total());
        return Err(Failure::new(format!("`{argument}` has {n} labels, and the data {m} samples")));
    }
    Ok(data.numbers().iter().map(|n| all[*n]).collect())
}

impl Evaluate {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if let Some(command) = &self.command {
            let score = squint::score_by_command(command, &self.model.path)?;
            match self.format {
                Format::Text => writeln!(out, "{score}")?,
                Format::Json => writeln!(out, "{:#}", json!({"score": score}))?,
            }
            return Ok(());
        }
        let model = self.model.load_valid(talk)?;
        let data = self.data.open_for("evaluating needs data: the model is run on it", &model, talk)?;
        let argument = self.labels.as_deref().unwrap_or_default();
        let labels = labels_of(argument, labels(argument)?, &data)?;
        let executor = self.runtime.executor(talk)?;
        let score = squint::evaluate(&model, executor.as_ref(), &data, &labels, self.output.as_deref())?;
        match self.format {
            Format::Text => writeln!(
                out,
                "top-1 {:.2}% ({} of {}), top-5 {:.2}%",
                100.0 * score.top1(),
                score.top1,
                data.len(),
                100.0 * score.top5()
            )?,
            Format::Json => writeln!(
                out,
                "{:#}",
                json!({"samples": score.rows, "top1": score.top1(), "top5": score.top5()})
            )?,
        }
        Ok(())
    }
}
