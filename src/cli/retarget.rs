//! `squint retarget`: a quantized model, of whatever tool, for another runtime.

use super::evidence::{EvidenceFlags, Material};
use super::failure::Failure;
use super::model_file::{Input, Output, size_on_disk};
use super::options::{Format, ModelFormat, known_target};
use super::progress::Bar;
use super::summary::{Sizes, Summary};
use super::talk::Talk;
use clap::Args;
use serde_json::{Value, json};
use squint::passes::frozen::{Difference, DifferenceKind};
use squint::passes::retarget::Retargeted;
use squint::{Config, Hooks, Method};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Instant;

/// Compile a quantized model for another runtime, with the scales and integers that it has.
///
/// Reads QuantizeLinear and DequantizeLinear, integer operators (QLinearConv ...) and the quantizers of training tools,
/// and places them as the target wants them. Grids are kept to the bit where the target can express them, and what
/// differs is listed. Where the target wants a scale and the model has none, operators stay in float, unless data or
/// statistics say the range.
#[derive(Args)]
pub(crate) struct Retarget {
    #[command(flatten)]
    door: Door,
}

/// What both ways into a quantized model take.
#[derive(Args)]
pub(crate) struct Door {
    #[command(flatten)]
    model: Input,
    #[command(flatten)]
    output: Output,
    /// The runtime and processor that the result is for; `host` is that of this machine.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
    /// How quantized operators are written.
    #[arg(long, value_name = "FORMAT", default_value = "qdq")]
    format: ModelFormat,
    /// Leave operators in float that are faster so, although their operands and results were quantized. Their values are
    /// no longer rounded, and are listed.
    #[arg(long)]
    by_cost: bool,
    /// Keep the node of this name in float; `*` stands for any characters. May be given again.
    #[arg(long, visible_alias = "float", value_name = "NAME")]
    keep_float: Vec<String>,
    /// How ranges of values without a scale of their own are chosen, where data or statistics are given: auto, minmax,
    /// percentile[:P], entropy, mse, lp:P, mean-minmax or moving-average[:WEIGHT].
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    method: Method,
    /// How the closing report is written: text to standard error, or JSON to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    summary: Format,
    #[command(flatten)]
    evidence: EvidenceFlags,
}

impl Retarget {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        self.door.run("retargeted", "the file", talk)
    }
}

/// Differences of a kind beyond this number are only counted, unless everything is wanted.
const MAX_SHOWN: usize = 5;

impl Door {
    /// Compiles the model. `word` is the word for it, `origin` who should have quantized what is not covered.
    pub(crate) fn run(self, word: &'static str, origin: &str, talk: &Talk) -> Result<(), Failure> {
        self.output.check(&self.model)?;
        let start = Instant::now();
        let mut model = self.model.load_valid(talk)?;
        let before = size_on_disk(&self.model.path, &model)?;
        let mut config = Config::new(known_target(&self.target)?);
        config.format = self.format.into();
        config.keep_float = self.keep_float.clone();
        config.faithful = !self.by_cost;
        config.method = self.method;
        // Nothing is tried on the data.
        config.effort = 0;
        let material = match self.evidence.is_empty() {
            true => None,
            false => Some(self.evidence.read(&model, &config, talk)?),
        };
        if let Some(material) = &material {
            config.data_description = material.preprocessing();
            config.samples = self.evidence.samples();
        }
        let loaded = start.elapsed().as_secs_f64();
        let bar = Bar::new(talk);
        let hooks = Hooks { progress: &bar, ..Hooks::default() };
        let evidence = material.as_ref().map(Material::evidence).unwrap_or_default();
        let done = squint::retarget_with(&mut model, evidence, &config, &hooks);
        bar.clear();
        let found = done?;
        let saving = Instant::now();
        self.output.save(&model)?;
        let saved = saving.elapsed().as_secs_f64();
        let after = size_on_disk(&self.output.path, &squint::load(&self.output.path)?)?;
        let sizes = Some(Sizes { before, after });
        let summary = Summary { report: &found.report, config: &config, loaded, saved, sizes };
        let (input, output) = (&self.model.path, &self.output.path);
        talk.notes(&found.report.notes);
        if let Some((first, rest)) = found.uncovered.split_first() {
            let others = if rest.is_empty() { String::new() } else { format!(" and {} others", rest.len()) };
            talk.say(format_args!(
                "warning: `{first}`{others} would run in integers on this target, but {origin} does not say how a \
                 weight or value there is quantized: float; with `--data` values get scales by their ranges"
            ));
        }
        match self.summary {
            Format::Text => {
                let text = summary.text(word, input, Some(output), talk.verbose);
                talk.say(format_args!("{text}\n{}", differences(&found, talk.verbose)));
            }
            Format::Json => {
                let mut out = summary.json(input, Some(output));
                out["kept"] = json!({
                    "values": found.kept.values,
                    "of_values": found.kept.of_values,
                    "weights": found.kept.weights,
                    "of_weights": found.kept.of_weights,
                });
                out["differences"] = found.differences.iter().map(difference).collect();
                out["uncovered"] = json!(found.uncovered);
                writeln!(io::stdout().lock(), "{out:#}")?;
            }
        }
        Ok(())
    }
}

fn difference(d: &Difference) -> Value {
    json!({"value": d.value, "kind": d.kind.name(), "was": d.was, "is": d.is})
}

/// What is as it was, and what is not, kind by kind.
fn differences(found: &Retargeted, verbose: bool) -> String {
    let mut out = String::new();
    let k = found.kept;
    let _ = writeln!(
        out,
        "  {:<26}{}/{} values, {}/{} weights",
        "grids kept exactly", k.values, k.of_values, k.weights, k.of_weights
    );
    let mut by_kind: BTreeMap<DifferenceKind, Vec<&Difference>> = BTreeMap::new();
    for d in &found.differences {
        by_kind.entry(d.kind).or_default().push(d);
    }
    for (kind, all) in by_kind {
        let _ = writeln!(out, "  {}", heading(kind, all.len()));
        let shown = if verbose { all.len() } else { MAX_SHOWN };
        for d in all.iter().take(shown) {
            let _ = writeln!(out, "    {}: {} -> {}", d.value, d.was, d.is);
        }
        if all.len() > shown {
            let _ = writeln!(out, "    and {} more; `--verbose` shows them", all.len() - shown);
        }
    }
    out.trim_end().to_owned()
}

fn heading(kind: DifferenceKind, n: usize) -> String {
    let what = match kind {
        DifferenceKind::Refused => "left in float: quantizers that no target has",
        DifferenceKind::Merged => "quantized once instead of twice",
        DifferenceKind::Regridded => "on a new grid for the same range",
        DifferenceKind::Unquantized => "not rounded any more",
        DifferenceKind::Measured => "rounded that were not, on grids for the ranges that calibration saw",
        DifferenceKind::Inherited => "rounded that were not, on grids that follow from others",
        DifferenceKind::Weight => "weights with other integers",
    };
    format!("{n} {what}:")
}
