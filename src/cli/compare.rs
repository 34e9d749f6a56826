//! `squint compare`.

mod page;
mod svg;
mod table;

use super::failure::Failure;
use super::model_file::Trust;
use super::options::{DataFlags, Format};
use super::progress::Bar;
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use squint::Config;
use squint::passes::compare::Comparison;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Compare a quantized model with its float model on data: at the outputs, and value by value.
///
/// Any quantized model will do, whatever tool wrote it. Each value inside has two errors: the accumulated one, with
/// everything before it quantized, and the local one, which its own weights and its own rounding add when everything
/// before it is in float. Values are matched by how they are computed, whatever their names.
#[derive(Args)]
pub(crate) struct Compare {
    /// The float model, `.onnx` or `.onnxtxt`.
    #[arg(value_name = "FLOAT")]
    float: PathBuf,
    /// The quantized model.
    #[arg(value_name = "QUANTIZED")]
    quantized: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// Order of the values: by local error or by accumulated error, the worst first, or in order of execution.
    #[arg(long, value_name = "BY", default_value = "local")]
    sort: Sort,
    /// The axis of classes of outputs that are no Softmax and no row of scores, counted from the end if it is negative: 1 for
    /// a segmentation whose scores lie at pixels.
    #[arg(long, value_name = "AXIS", allow_negative_numbers = true)]
    class_axis: Option<i64>,
    /// Show the first N values of that order. 0 for all.
    #[arg(long, value_name = "N", default_value_t = 16)]
    top: usize,
    /// How it is written to standard output. JSON has all values, in order of execution.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Write a page with plots of the errors, the distributions and ranges of all values, and what runs in
    /// integers: one HTML file that needs no other.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Threads that run samples. The result does not depend on it. [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// An order of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    Local,
    Accumulated,
    Execution,
}

impl Compare {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let float = self.trust.load_valid(&self.float, talk)?;
        let quantized = self.trust.load_valid(&self.quantized, talk)?;
        let data = self.data.open_for("comparing needs data: both models are run on it", &float, talk)?;
        let mut config = Config::new("cpu-vnni");
        config.threads = self.threads.map(NonZeroUsize::get);
        config.class_axis = self.class_axis;
        let executor = self.runtime.executor(talk)?;
        let bar = Bar::new(talk);
        let done = squint::compare(
            &float,
            &quantized,
            executor.as_ref(),
            &data,
            self.report.is_some(),
            &config,
            &bar,
        );
        bar.clear();
        let found = done?;
        self.note(&found, talk);
        if let Some(path) = &self.report {
            let page = page::page(&self.title(), &found, &quantized);
            squint::write_whole(path, page.as_bytes())?;
            talk.say(format_args!("report: `{}`", path.display()));
        }
        let mut out = io::stdout().lock();
        match self.format {
            Format::Text => out.write_all(table::text(&found, &self.order(&found)).as_bytes())?,
            Format::Json => writeln!(out, "{:#}", table::json(&found))?,
        }
        Ok(())
    }

    fn title(&self) -> String {
        let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{} beside {}", name(&self.quantized), name(&self.float))
    }

    /// What keeps the comparison from being complete.
    fn note(&self, found: &Comparison, talk: &Talk) {
        for output in found.outputs.iter().filter(|o| o.error.is_none()) {
            talk.say(format_args!(
                "note: output `{}` is no float tensor of the same shape in both models: not compared",
                output.name
            ));
        }
        if found.values.is_empty() {
            talk.say("note: no value inside could be matched: is it the same network?");
        } else if found.unmatched > 0 {
            talk.detail(format_args!(
                "{} values of the fused float graph have no counterpart in the quantized one",
                found.unmatched
            ));
        }
    }

    /// Positions of the values to show.
    fn order(&self, found: &Comparison) -> Vec<usize> {
        let mut order: Vec<usize> = (0..found.values.len()).collect();
        let by = |of: &dyn Fn(usize) -> f64, order: &mut Vec<usize>| {
            order.sort_by(|a, b| of(*b).total_cmp(&of(*a)));
        };
        match self.sort {
            Sort::Local => by(&|i| found.values[i].local.relative(), &mut order),
            Sort::Accumulated => by(&|i| found.values[i].accumulated.relative(), &mut order),
            Sort::Execution => {}
        }
        if self.top > 0 {
            order.truncate(self.top);
        }
        order
    }
}
