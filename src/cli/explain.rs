//! `squint explain`.

use super::evidence::EvidenceFlags;
use super::failure::Failure;
use super::forecast::View;
use super::model_file::Input;
use super::options::{CompileFlags, Format, known_target};
use super::progress::Bar;
use super::summary::Summary;
use super::talk::Talk;
use clap::Args;
use squint::{Fate, Hooks, NodeReport};
use std::io::{self, Write};
use std::time::Instant;

/// Show what will run in integers, what will stay in float, and why.
///
/// Without data: what the target's runtime makes of the model as it is, quantized or not, by whatever tool, and what
/// would change it. With data or statistics: does all that `squint quantize` does up to the plan, and writes no model.
#[derive(Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    compile: CompileFlags,
    /// Print the plan itself: scale, zero point and reason of each value.
    #[arg(long, conflicts_with = "format")]
    plan: bool,
    /// How the report is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    evidence: EvidenceFlags,
}

impl Explain {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        if !self.plan && self.evidence.is_empty() && !self.compile.is_dynamic() {
            return self.forecast(talk);
        }
        let start = Instant::now();
        let mut model = self.model.load_valid(talk)?;
        let config = self.compile.config(&model, talk)?;
        let material = self.evidence.read(&model, &config, talk)?;
        let loaded = start.elapsed().as_secs_f64();
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let done = squint::plan(&mut model, material.evidence(), &config, &hooks);
        bar.clear();
        let (report, plan) = done?;
        talk.notes(&report.notes);
        let mut out = io::stdout().lock();
        if self.plan {
            out.write_all(plan.to_text(model.main()).as_bytes())?;
            return Ok(());
        }
        let summary = Summary { report: &report, config: &config, loaded, saved: 0.0, sizes: None };
        match self.format {
            Format::Json => writeln!(out, "{:#}", summary.json(&self.model.path, None))?,
            Format::Text => {
                table(&mut out, &report.nodes)?;
                writeln!(out, "\n{}", summary.text("quantized", &self.model.path, None, talk.verbose))?;
            }
        }
        Ok(())
    }

    /// What becomes of the model as it is.
    fn forecast(&self, talk: &Talk) -> Result<(), Failure> {
        let model = self.model.load_valid(talk)?;
        let target = known_target(self.compile.target())?;
        let forecast = squint::predict(&model, target)?;
        let view = View { forecast: &forecast, model: &self.model.path, target };
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => writeln!(out, "{:#}", view.json())?,
            Format::Text => {
                view.table(&mut out)?;
                writeln!(out, "\n{}", view.summary())?;
            }
        }
        Ok(())
    }
}

/// Longest node name that widens the column; longer ones push the rest of their line to the right.
const MAX_NAME: usize = 48;

/// A line for each operator, in order of execution: where it runs, its type, its name, and kernel or reason.
fn table(out: &mut impl Write, nodes: &[NodeReport]) -> io::Result<()> {
    let shown: Vec<&NodeReport> = nodes.iter().filter(|n| n.fate != Fate::Plain).collect();
    let width =
        |text: fn(&NodeReport) -> &str| shown.iter().map(|n| text(n).chars().count()).max().unwrap_or(0);
    let (types, names) = (width(|n| &n.op_type), width(|n| &n.node).min(MAX_NAME));
    for n in shown {
        let (runs, detail) = match &n.fate {
            Fate::Integer(kernel) => ("integer", *kernel),
            Fate::Float(reason) => ("float", reason.as_str()),
            Fate::Plain => continue,
        };
        writeln!(out, "{runs:<8} {:<types$}  {:<names$}  {detail}", n.op_type, n.node)?;
    }
    let plain = nodes.iter().filter(|n| n.fate == Fate::Plain).count();
    if plain > 0 {
        writeln!(out, "and {plain} operators on shapes and indices, where there is nothing to quantize")?;
    }
    Ok(())
}
