//! `squint evaluate`.

use super::failure::Failure;
use super::model_file::Input;
use super::options::{DataFlags, Format};
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::Args;
use serde_json::json;
use squint::data::labels;
use squint::{Dataset, EvaluateOptions, Samples};
use std::io::{self, Write};

/// Measure how good a model is, float or quantized: top-1 and top-5 on labelled data, or the score that a command
/// of your own finds.
#[derive(Args)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    model: Input,
    /// The class of each sample, or of each pixel of each sample: a `.txt` or `.csv` file whose lines end in it, a `.npy`
    /// file, or an array of an `.npz` file (FILE.npz:ARRAY; `labels` if none is named).
    #[arg(long, value_name = "FILE", required_unless_present = "command")]
    labels: Option<String>,
    /// The output that holds the scores of classes. [default: the first]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// The axis of classes in that output, counted from the end if it is negative. [default: that of the Softmax that makes
    /// it, else 1 of an array of rank 4 and more, and the last one of others]
    #[arg(long, value_name = "AXIS", allow_negative_numbers = true)]
    class_axis: Option<i64>,
    /// A label of what belongs to no class, as 255 often is: it is not counted. Negative labels never are.
    #[arg(long, value_name = "LABEL")]
    ignore_label: Option<i64>,
    /// Run this command instead, in a shell; `{}` stands for the model's path. The last number that it prints is
    /// the score.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["labels", "output", "class_axis", "data"])]
    command: Option<String>,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// The labels of the samples that are used, of those of all samples; `ignored` ones become negative.
///
/// # Errors
/// If there are not as many labels for each sample.
pub(crate) fn labels_of(argument: &str, ignored: Option<i64>, data: &Dataset) -> Result<Vec<i64>, Failure> {
    let all = labels(argument)?;
    let each = all.len() / data.total().max(1);
    if each == 0 || all.len() != each * data.total() {
        let (n, m) = (all.len(), data.total());
        return Err(Failure::new(format!("`{argument}` has {n} labels, and the data {m} samples")));
    }
    let label = |label: &i64| if Some(*label) == ignored { -1 } else { *label };
    Ok(data.numbers().iter().flat_map(|n| all[n * each..][..each].iter().map(label)).collect())
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
        let labels = labels_of(argument, self.ignore_label, &data)?;
        let executor = self.runtime.executor(talk)?;
        let options = EvaluateOptions { output: self.output, class_axis: self.class_axis };
        let score = squint::evaluate(&model, executor.as_ref(), &data, &labels, &options)?;
        match self.format {
            Format::Text => writeln!(
                out,
                "top-1 {:.2}% ({} of {}), top-5 {:.2}%",
                100.0 * score.top1(),
                score.top1,
                score.rows,
                100.0 * score.top5()
            )?,
            Format::Json => writeln!(
                out,
                "{:#}",
                json!({"samples": data.len(), "rows": score.rows, "top1": score.top1(), "top5": score.top5()})
            )?,
        }
        Ok(())
    }
}
