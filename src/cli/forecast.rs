//! What a runtime makes of a model as it is, for people and for programs.

use serde_json::{Map, Value, json};
use squint::passes::predict::{Forecast, NodeForecast};
use squint::targets::{Kind, Runs};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

/// Longest node name that widens the column; longer ones push the rest of their line to the right.
const MAX_NAME: usize = 48;

/// A forecast with what it is of.
pub(crate) struct View<'a> {
    /// The forecast.
    pub(crate) forecast: &'a Forecast,
    /// The model's file.
    pub(crate) model: &'a Path,
    /// The target.
    pub(crate) target: &'a str,
}

impl View<'_> {
    /// A line for each operator, in order of execution: where it runs, its type, its name, and kernel or reason.
    /// Conversions that are part of a kernel are left out.
    pub(crate) fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let shown: Vec<&NodeForecast> = self.forecast.nodes.iter().filter(|n| is_shown(n)).collect();
        let width = |text: fn(&NodeForecast) -> &str| {
            shown.iter().map(|n| text(n).chars().count()).max().unwrap_or(0)
        };
        let (types, names) = (width(|n| &n.op_type), width(|n| &n.node).min(MAX_NAME));
        for n in &shown {
            let (runs, detail) = self.words(n);
            let line = format!("{runs:<8} {:<types$}  {:<names$}  {detail}", n.op_type, n.node);
            writeln!(out, "{}", line.trim_end())?;
        }
        let count = |f: fn(&NodeForecast) -> bool| self.forecast.nodes.iter().filter(|n| f(n)).count();
        let folded = count(|n| n.runs == Runs::Folded);
        let plain = count(|n| n.runs == Runs::Plain);
        if folded + plain > 0 {
            writeln!(
                out,
                "and {folded} operators that do nothing at run time, {plain} on shapes and indices, where there is \
                 nothing to quantize"
            )?;
        }
        Ok(())
    }

    /// Totals; a line for each subject.
    pub(crate) fn summary(&self) -> String {
        let totals = Totals::of(self.forecast);
        let mut out = String::new();
        let mut line = |label: &str, text: String| {
            let _ = writeln!(out, "  {label:<26}{text}");
        };
        line("contractions in integers", format!("{}/{}", totals.contractions.0, totals.contractions.1));
        if totals.macs.1 > 0 {
            line("multiply-accumulates", format!("{:.1} % in integers", 100.0 * totals.share()));
        }
        line("operators in integers", format!("{} of {}", totals.integer, totals.integer + totals.float));
        line("conversions that run", totals.conversions.to_string());
        let kernels: Vec<String> = self.forecast.kernels.iter().map(|(k, n)| format!("{n} {k}")).collect();
        if !kernels.is_empty() {
            line("kernels", kernels.join(", "));
        }
        for (i, (reason, n)) in float_reasons(self.forecast).into_iter().enumerate() {
            line(if i == 0 { "in float" } else { "" }, format!("{n}: {reason}"));
        }
        for (i, fault) in self.faults().into_iter().enumerate() {
            line(if i == 0 { "refused by the runtime" } else { "" }, fault);
        }
        format!("`{}` as it runs on {}\n{}", self.model.display(), self.target, out.trim_end())
    }

    /// Why the runtime would refuse the model; a line for each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let line = |(node, fault): &(Option<String>, squint::targets::Fault)| {
            let place = node.as_ref().map_or(String::new(), |n| format!("`{n}`: "));
            format!("{place}{}; {}", fault.problem, fault.remedy)
        };
        self.forecast.faults.iter().map(line).collect()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let totals = Totals::of(self.forecast);
        let reasons: Vec<Value> = float_reasons(self.forecast)
            .into_iter()
            .map(|(why, n)| json!({"reason": why, "operators": n}))
            .collect();
        let faults: Vec<Value> = self
            .forecast
            .faults
            .iter()
            .map(|(node, f)| json!({"node": node, "problem": f.problem, "remedy": f.remedy}))
            .collect();
        json!({
            "model": self.model.display().to_string(),
            "target": self.target,
            "contractions": {"integer": totals.contractions.0, "all": totals.contractions.1},
            "macs": {"integer": totals.macs.0, "all": totals.macs.1},
            "operators": {
                "integer": totals.integer,
                "float": totals.float,
                "conversions": totals.conversions,
                "plain": totals.plain,
                "folded": totals.folded,
            },
            "kernels": self.forecast.kernels,
            "float_reasons": reasons,
            "faults": faults,
            "nodes": self.forecast.nodes.iter().map(|n| self.node(n)).collect::<Vec<_>>(),
        })
    }

    /// Where it runs, and what there is to say about it.
    fn words(&self, n: &NodeForecast) -> (&'static str, String) {
        match &n.runs {
            Runs::Integer { kernel, note } => {
                ("integer", note.as_ref().map_or(kernel.clone(), |note| format!("{kernel}; {note}")))
            }
            Runs::Converts => ("convert", String::new()),
            Runs::Float(why) if why.remedy.is_empty() => ("float", why.reason.clone()),
            Runs::Float(why) => ("float", format!("{}; {}", why.reason, why.remedy)),
            Runs::Inside(_) => ("inside", self.host(n).unwrap_or_default().to_owned()),
            Runs::Folded => ("folded", String::new()),
            Runs::Plain => ("plain", String::new()),
        }
    }

    fn node(&self, n: &NodeForecast) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
        put("node", json!(n.node));
        put("op_type", json!(n.op_type));
        put("macs", json!(n.macs));
        put("runs", json!(self.words(n).0));
        match &n.runs {
            Runs::Integer { kernel, note } => {
                put("kernel", json!(kernel));
                if let Some(note) = note {
                    put("note", json!(note));
                }
            }
            Runs::Float(why) => {
                put("reason", json!(why.reason));
                put("remedy", json!(why.remedy));
                put("kind", json!(kind(why.kind)));
            }
            Runs::Inside(_) => {
                put("into", json!(self.host(n)));
            }
            _ => {}
        }
        Value::Object(out)
    }

    /// Name of the node whose kernel does the work of this one.
    fn host(&self, n: &NodeForecast) -> Option<&str> {
        Some(self.forecast.nodes.get(n.inside?)?.node.as_str())
    }
}

/// Sums over the operators.
pub(crate) struct Totals {
    /// Contractions in integers, and all of them.
    pub(crate) contractions: (usize, usize),
    /// Multiply-accumulates in integers, and all of them.
    pub(crate) macs: (u64, u64),
    /// Operators in integers, or swallowed by one that is.
    pub(crate) integer: usize,
    /// Operators in float.
    pub(crate) float: usize,
    /// Conversions that run by themselves.
    pub(crate) conversions: usize,
    /// Operators on shapes and indices.
    pub(crate) plain: usize,
    /// Operators that do nothing at run time.
    pub(crate) folded: usize,
}

impl Totals {
    /// Sums of a forecast.
    pub(crate) fn of(forecast: &Forecast) -> Totals {
        let in_integers = |n: &NodeForecast| {
            let by = n.inside.and_then(|i| forecast.nodes.get(i)).unwrap_or(n);
            matches!(by.runs, Runs::Integer { .. })
        };
        let mut t = Totals {
            contractions: (0, 0),
            macs: (0, 0),
            integer: 0,
            float: 0,
            conversions: 0,
            plain: 0,
            folded: 0,
        };
        for n in &forecast.nodes {
            let integer = in_integers(n);
            if n.contraction {
                t.contractions.0 += usize::from(integer);
                t.contractions.1 += 1;
                t.macs.0 += if integer { n.macs } else { 0 };
                t.macs.1 += n.macs;
            }
            match n.runs {
                Runs::Converts => t.conversions += 1,
                Runs::Plain => t.plain += 1,
                Runs::Folded => t.folded += 1,
                Runs::Float(_) => t.float += 1,
                Runs::Inside(_) if is_conversion(n) => {}
                _ if integer => t.integer += 1,
                _ => t.float += 1,
            }
        }
        t
    }

    /// Multiply-accumulates in integers as a part of all.
    pub(crate) fn share(&self) -> f64 {
        if self.macs.1 == 0 { 0.0 } else { self.macs.0 as f64 / self.macs.1 as f64 }
    }
}

/// Reasons for float with the number of operators, most frequent first. Names of values are left out, so that the
/// same reason is counted once.
fn float_reasons(forecast: &Forecast) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for n in &forecast.nodes {
        if let Runs::Float(why) = &n.runs {
            let parts: Vec<&str> = why.reason.split('`').collect();
            let general: Vec<&str> = parts.iter().step_by(2).map(|s| s.trim()).collect();
            *counts.entry(general.join(" ").trim().to_owned()).or_default() += 1;
        }
    }
    let mut out: Vec<_> = counts.into_iter().collect();
    out.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    out
}

fn is_conversion(n: &NodeForecast) -> bool {
    n.op_type.ends_with("QuantizeLinear") || n.op_type.ends_with("DequantizeLinear")
}

fn is_shown(n: &NodeForecast) -> bool {
    match n.runs {
        Runs::Folded | Runs::Plain => false,
        Runs::Inside(_) => !is_conversion(n),
        _ => true,
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::NoKernel => "no-kernel",
        Kind::LeftInFloat => "left-in-float",
        Kind::Accident => "accident",
    }
}
