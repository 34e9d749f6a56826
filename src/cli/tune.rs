//! `squint tune`.

use super::failure::Failure;
use super::model_file::{Input, Output};
use super::options::{CompileFlags, DataFlags, Format};
use super::progress::Bar;
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use serde_json::json;
use squint::Hooks;
use squint::tune::{BUDGET, Metric, TuneOptions, Tuned};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;

/// Find the fastest quantized model within a bound on accuracy.
///
/// Half of the samples calibrate, the other half judge. Ways to quantize are tried with all in integers that pays, the
/// least work first, and where none is accurate enough, what costs most accuracy for its speed goes back to float.
/// Speed is what the target's cost model predicts. What was found is made again from all samples.
#[derive(Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    /// The most that may be lost against float, as 1% or 0.01.
    #[arg(long, value_name = "DROP", default_value = "1%", value_parser = share)]
    max_drop: f64,
    /// What is bounded: the accuracy that is expected to be lost if labels are as probable as the float model says,
    /// the share of samples whose best class changes, the energy of the error over that of the outputs (1% is 20 dB),
    /// accuracy on labels, or the score that a command finds. [default: accuracy for a classifier, else sqnr]
    #[arg(long, value_name = "METRIC")]
    metric: Option<MetricName>,
    /// For top1: the class of each sample, see `squint evaluate --help`.
    #[arg(long, value_name = "FILE", required_if_eq("metric", "top1"))]
    labels: Option<String>,
    /// For top1: a label that is not counted, see `squint evaluate --help`.
    #[arg(long, value_name = "LABEL")]
    ignore_label: Option<i64>,
    /// For command: run in a shell, with `{}` for the path of a model; the last number that it prints is the score,
    /// and more is better. The drop is relative to that of float.
    #[arg(long, value_name = "COMMAND", required_if_eq("metric", "command"))]
    command: Option<String>,
    /// Search efforts, methods for ranges and for weights, and schemes, also beyond the first model that meets the
    /// bound: one at a time, from the best so far, until none helps any more.
    #[arg(long)]
    search: bool,
    /// Judge no more than this many models.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(BUDGET).unwrap_or(NonZeroUsize::MIN))]
    budget: NonZeroUsize,
    /// How the report is written: text to standard error, or JSON to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    summary: Format,
    #[command(flatten)]
    compile: CompileFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// A metric by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MetricName {
    Accuracy,
    Agreement,
    Sqnr,
    Top1,
    Command,
}

/// A share, with or without a percent sign.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim(), 0.01),
        None => (text.trim(), 1.0),
    };
    let share = number.parse::<f64>().ok().map(|x| x * unit).filter(|x| (0.0..=1.0).contains(x));
    share.ok_or_else(|| format!("`{text}` is no share; write 1% or 0.01"))
}

impl Tune {
    pub(crate) fn run(mut self, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        self.data.halve_evenly();
        let model = self.model.load_valid(talk)?;
        let mut config = self.compile.config(&model, talk)?;
        let data =
            self.data.open_for("tuning needs data: half of it calibrates, half judges", &model, talk)?;
        config.data_description = data.preprocessing();
        let options = TuneOptions {
            metric: self.metric(&data)?,
            max_drop: self.max_drop,
            search: self.search,
            budget: self.budget.get(),
        };
        let executor = self.runtime.executor(talk)?;
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let tuned = squint::tune::tune(&model, executor.as_ref(), &data, &options, &config, &hooks);
        bar.clear();
        let tuned = tuned?;
        self.output.save(&tuned.model)?;
        match self.summary {
            Format::Text => talk.say(self.text(&tuned)),
            Format::Json => writeln!(io::stdout().lock(), "{:#}", self.json(&tuned))?,
        }
        Ok(())
    }

    fn metric(&self, data: &squint::Dataset) -> Result<Option<Metric>, Failure> {
        Ok(match self.metric {
            None => None,
            Some(MetricName::Accuracy) => Some(Metric::Accuracy),
            Some(MetricName::Agreement) => Some(Metric::Agreement),
            Some(MetricName::Sqnr) => Some(Metric::Sqnr),
            Some(MetricName::Top1) => {
                let argument = self.labels.as_deref().unwrap_or_default();
                Some(Metric::Top1(super::evaluate::labels_of(argument, self.ignore_label, data)?))
            }
            Some(MetricName::Command) => Some(Metric::Command(self.command.clone().unwrap_or_default())),
        })
    }

    fn text(&self, tuned: &Tuned) -> String {
        let mut out = format!(
            "tuned `{}` to `{}`: {} drop at most {:.2}%, {} samples to calibrate, {} to judge\n",
            self.model.path.display(),
            self.output.path.display(),
            name(&tuned.metric),
            100.0 * self.max_drop,
            tuned.samples.0,
            tuned.samples.1
        );
        let width = tuned.trials.iter().map(|t| t.what.chars().count()).max().unwrap_or(0);
        let _ = writeln!(out, "  {:<width$}  {:>8}  {:>9}  {:>9}", "", "drop", "speed-up", "integers");
        for (i, t) in tuned.trials.iter().enumerate() {
            let mark = match (i == tuned.chosen, tuned.is_pareto(i)) {
                (true, _) => "  chosen",
                (false, true) => "  best of its speed",
                _ => "",
            };
            let integers = format!("{}/{}", t.contractions.0, t.contractions.1);
            let _ = writeln!(
                out,
                "  {:<width$}  {:>7.2}%  {:>8.2}x  {integers:>9}{mark}",
                t.what,
                100.0 * t.drop,
                t.speedup
            );
        }
        out.push_str("  (speed-up over float as the target's cost model predicts it)\n");
        match tuned.from_all {
            Some(drop) => {
                let all = tuned.samples.0 + tuned.samples.1;
                let _ = write!(out, "  written: made again from all {all} samples, drop {:.2}%", 100.0 * drop);
            }
            None => out.push_str(
                "  written: made from the samples that calibrate; from all it is slower or does not meet the bound",
            ),
        }
        out
    }

    fn json(&self, tuned: &Tuned) -> serde_json::Value {
        let trials = tuned.trials.iter().enumerate().map(|(i, t)| {
            json!({
                "what": t.what,
                "drop": t.drop,
                "predicted_speedup": t.speedup,
                "contractions": {"integer": t.contractions.0, "all": t.contractions.1},
                "pareto": tuned.is_pareto(i),
            })
        });
        json!({
            "model": self.model.path.display().to_string(),
            "output": self.output.path.display().to_string(),
            "metric": name(&tuned.metric),
            "max_drop": self.max_drop,
            "samples": {"calibration": tuned.samples.0, "held_back": tuned.samples.1},
            "trials": trials.collect::<Vec<_>>(),
            "chosen": tuned.chosen,
            "from_all_samples": tuned.from_all.map(|drop| json!({"drop": drop})),
        })
    }
}

fn name(metric: &Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "accuracy",
        Metric::Agreement => "agreement",
        Metric::Sqnr => "sqnr",
        Metric::Top1(_) => "top1",
        Metric::Command(_) => "command",
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_written_in_two_ways() {
        assert_eq!((share("1%"), share(" 0.5 %"), share("0.02")), (Ok(0.01), Ok(0.005), Ok(0.02)));
        assert!(share("two").is_err() && share("101%").is_err() && share("-1%").is_err());
    }
}
