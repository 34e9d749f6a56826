//! `squint check`.

use super::failure::Failure;
use super::forecast::{Totals, View};
use super::model_file::Input;
use super::options::{Format, known_target};
use super::talk::Talk;
use clap::Args;
use serde_json::json;
use squint::ir::Model;
use squint::passes::predict::{Forecast, NodeForecast};
use squint::targets::{Finding, Kind, Placement, Runs, Severity, Target};
use std::io::{self, Write};

/// Check that the target's runtime loads a quantized model and runs in integers what it is meant to. Exit status 1 if
/// not.
///
/// An operator is in float by accident if its weight is quantized, or all that it reads and makes, and still one of the
/// conditions of its integer kernel is missing. What was left in float on purpose passes, unless `--strict` or
/// `--min-integer` ask for more. A model of which nothing runs in integers does not pass.
///
/// For `tensorrt` the rules of its manual and of its parser are checked: what it refuses, and Q/DQ that keep it from
/// fusing. The kernels that it would fuse operators into are listed.
#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    model: Input,
    /// The runtime and processor that the model is for; `host` is that of this machine.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
    /// Let no contraction (Conv, Gemm, MatMul) pass that is in float and has an integer kernel.
    #[arg(long)]
    strict: bool,
    /// Least part of the multiply-accumulates that must run in integers, in percent.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_integer: Option<f64>,
    /// How findings are written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Check {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let model = self.model.load_valid(talk)?;
        let target = known_target(&self.target)?;
        if let Some(t) = squint::targets::target(target).filter(|t| t.placement() == Placement::Inputs) {
            return self.lint(&model, t);
        }
        let forecast = squint::predict(&model, target)?;
        let view = View { forecast: &forecast, model: &self.model.path, target };
        let totals = Totals::of(&forecast);
        let findings = self.findings(&forecast, &view, &totals);
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => {
                let mut value = view.json();
                value["ok"] = json!(findings.is_empty());
                value["findings"] = json!(findings);
                writeln!(out, "{value:#}")?;
            }
            Format::Text => {
                for finding in &findings {
                    writeln!(out, "{finding}")?;
                }
                if findings.is_empty() {
                    writeln!(out, "{}", passed(&view, &totals))?;
                }
            }
        }
        self.verdict(findings.len())
    }

    fn verdict(&self, findings: usize) -> Result<(), Failure> {
        match findings {
            0 => Ok(()),
            1 => Err(Failure::Found(format!("`{}` does not pass: 1 finding", self.model.path.display()))),
            n => Err(Failure::Found(format!("`{}` does not pass: {n} findings", self.model.path.display()))),
        }
    }

    /// For runtimes that are known by the rules of their manuals, not predicted kernel by kernel.
    fn lint(&self, model: &Model, target: &dyn Target) -> Result<(), Failure> {
        if self.strict || self.min_integer.is_some() {
            return Err(Failure::new(format!(
                "kernels of `{}` are not predicted: `--strict` and `--min-integer` cannot be checked",
                target.name()
            )));
        }
        let findings = target.lint(model);
        let forecast = squint::predict(model, target.name())?;
        let kernels = kernels(&forecast);
        let severity = |f: &Finding| match f.severity {
            Severity::Refused => "refused",
            Severity::Slow => "slow",
        };
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => {
                let row = |f: &Finding| json!({ "rule": f.rule, "severity": severity(f), "node": f.node, "message": f.message, "help": f.help });
                let value = json!({
                    "model": self.model.path.display().to_string(),
                    "target": target.name(),
                    "ok": findings.is_empty(),
                    "findings": findings.iter().map(row).collect::<Vec<_>>(),
                    "kernels": kernels.iter().map(Fused::json).collect::<Vec<_>>(),
                });
                writeln!(out, "{value:#}")?;
            }
            Format::Text => {
                for f in &findings {
                    writeln!(out, "{} [{}]: `{}`: {}; {}", severity(f), f.rule, f.node, f.message, f.help)?;
                }
                for k in kernels.iter().filter(|k| k.int8 || k.nodes.len() > 1) {
                    writeln!(out, "{}", k.text())?;
                }
                if findings.is_empty() {
                    writeln!(out, "`{}` passes the rules of {}", self.model.path.display(), target.name())?;
                }
            }
        }
        self.verdict(findings.len())
    }

    /// What is wrong, a line for each; nothing if the model passes.
    fn findings(&self, forecast: &Forecast, view: &View<'_>, totals: &Totals) -> Vec<String> {
        let mut out: Vec<String> =
            view.faults().into_iter().map(|f| format!("refused by the runtime: {f}")).collect();
        for n in &forecast.nodes {
            let Runs::Float(why) = &n.runs else { continue };
            let wanted = match why.kind {
                Kind::Accident => true,
                Kind::LeftInFloat => self.strict && n.contraction,
                Kind::NoKernel => false,
            };
            if wanted {
                out.push(in_float(n, &why.reason, &why.remedy));
            }
        }
        let (integer, all) = totals.contractions;
        if totals.integer == 0 && all > 0 {
            out.push(format!("nothing runs in integers: all {all} contractions are in float"));
        }
        if let Some(least) = self.min_integer
            && 100.0 * totals.share() < least
        {
            let share = 100.0 * totals.share();
            out.push(format!(
                "{share:.1} % of the multiply-accumulates run in integers ({integer} of {all} contractions), less \
                 than {least} %"
            ));
        }
        out
    }
}

/// Operators that run in one kernel.
struct Fused<'a> {
    kernel: &'a str,
    int8: bool,
    /// Names of their nodes, in order of execution.
    nodes: Vec<&'a str>,
}

impl Fused<'_> {
    fn text(&self) -> String {
        let precision = if self.int8 { self.kernel } else { "float" };
        format!("{precision}: {}", self.nodes.join(" + "))
    }

    fn json(&self) -> serde_json::Value {
        json!({ "kernel": self.kernel, "precision": if self.int8 { "INT8" } else { "float" }, "nodes": self.nodes })
    }
}

/// The kernels that the runtime would make of a model.
fn kernels(forecast: &Forecast) -> Vec<Fused<'_>> {
    let mut members = vec![Vec::new(); forecast.nodes.len()];
    for (i, n) in forecast.nodes.iter().enumerate() {
        members[n.inside.unwrap_or(i)].push(n.node.as_str());
    }
    let fused = forecast.nodes.iter().zip(members).filter_map(|(n, nodes)| match &n.runs {
        Runs::Integer { kernel, .. } => Some(Fused { kernel, int8: true, nodes }),
        Runs::Float(_) => Some(Fused { kernel: &n.op_type, int8: false, nodes }),
        _ => None,
    });
    fused.collect()
}

fn in_float(n: &NodeForecast, reason: &str, remedy: &str) -> String {
    let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
    format!("in float: {} `{}`: {reason}{remedy}", n.op_type, n.node)
}

fn passed(view: &View<'_>, totals: &Totals) -> String {
    let (integer, all) = totals.contractions;
    let share = if totals.macs.1 == 0 {
        String::new()
    } else {
        format!(" ({:.1} % of the multiply-accumulates)", 100.0 * totals.share())
    };
    format!(
        "`{}` passes for {}: {integer} of {all} contractions in integers{share}",
        view.model.display(),
        view.target
    )
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=100.0).contains(&x) => Ok(x),
        _ => Err(format!("`{text}` is not a number from 0 to 100")),
    }
}
