//! The closing report of a quantization.

use serde_json::{Value, json};
use squint::targets::Costs;
use squint::{Config, Fate, Report};
use std::fmt::Write as _;
use std::path::Path;

/// What there is to say.
pub(crate) struct Summary<'a> {
    /// What the compiler says.
    pub(crate) report: &'a Report,
    /// What was asked for.
    pub(crate) config: &'a Config,
    /// Seconds for reading the model and looking at the data.
    pub(crate) loaded: f64,
    /// Seconds for writing the result.
    pub(crate) saved: f64,
    /// Bytes in files; `None` if nothing was written.
    pub(crate) sizes: Option<Sizes>,
}

/// Bytes of the model in files.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// The float model.
    pub(crate) before: u64,
    /// The quantized one.
    pub(crate) after: u64,
}

/// Stages that run the model, between the rewriting of the float graph and quantization.
const RUNNING: [&str; 6] = squint::passes::pipeline::RUNNING;

impl Summary<'_> {
    /// For people; a line for each subject. `done` is the word for what was done.
    pub(crate) fn text(&self, done: &str, input: &Path, output: Option<&Path>, verbose: bool) -> String {
        let r = self.report;
        let mut out = String::new();
        let mut line = |label: &str, text: String| {
            let _ = writeln!(out, "  {label:<26}{text}");
        };
        let (integer, all) = r.integer_contractions();
        line("contractions in integers", format!("{integer}/{all}"));
        let counts = Counts::of(r);
        line(
            "operators in integers",
            format!("{} of {} ({} before fusion)", counts.integer, counts.quantizable(), r.ops_before),
        );
        for (i, (reason, n)) in r.float_reasons().into_iter().enumerate() {
            line(if i == 0 { "kept in float" } else { "" }, format!("{n}: {reason}"));
        }
        if let Some(share) = self.predicted() {
            line("predicted time", format!("{:.0} % of the optimised float model's", 100.0 * share));
        }
        if let Some(Sizes { before, after }) = self.sizes {
            let percent = 100.0 * after as f64 / before.max(1) as f64;
            line("size", format!("{} before, {} after ({percent:.0}%)", bytes(before), bytes(after)));
        }
        let stages = self.stages();
        let total: f64 = stages.iter().map(|(_, s)| s).sum();
        let parts: Vec<String> = stages.iter().map(|(name, s)| format!("{name} {s:.2}")).collect();
        line("time", format!("{total:.2} s ({})", parts.join(", ")));
        if verbose {
            for (pass, seconds) in &r.timing {
                line("", format!("{seconds:9.3} s  {pass}"));
            }
        }
        let head = match output {
            Some(o) => format!("{done} `{}` to `{}`", input.display(), o.display()),
            None => format!("`{}`", input.display()),
        };
        let data = match r.samples {
            0 => "without data".to_owned(),
            n => format!("with {n} samples"),
        };
        format!("{head} for {} {data}\n{}", self.config.target, out.trim_end())
    }

    /// For programs.
    pub(crate) fn json(&self, input: &Path, output: Option<&Path>) -> Value {
        let r = self.report;
        let (integer, all) = r.integer_contractions();
        let counts = Counts::of(r);
        let reasons: Vec<Value> =
            r.float_reasons().into_iter().map(|(why, n)| json!({"reason": why, "operators": n})).collect();
        let mut out = json!({
            "model": input.display().to_string(),
            "output": output.map(|o| o.display().to_string()),
            "target": self.config.target,
            "scheme": self.config.scheme.to_string(),
            "method": self.config.method.to_string(),
            "weight_method": self.config.weight_method.to_string(),
            "samples": r.samples,
            "contractions": {"integer": integer, "all": all},
            "operators": {
                "before_fusion": r.ops_before,
                "integer": counts.integer,
                "float": counts.float,
                "plain": counts.plain,
            },
            "float_reasons": reasons,
            "predicted_time": self.predicted(),
            "nodes": r.nodes.iter().map(node).collect::<Vec<_>>(),
            "notes": r.notes.iter().map(|n| json!({"place": n.place, "message": n.message})).collect::<Vec<_>>(),
            "seconds": self.stages().into_iter().map(|(n, s)| (n.to_owned(), json!(s))).collect::<serde_json::Map<_, _>>(),
            "passes": r.timing.iter().map(|(n, s)| json!({"pass": n, "seconds": s})).collect::<Vec<_>>(),
        });
        if let Some(Sizes { before, after }) = self.sizes {
            out["bytes"] = json!({"before": before, "after": after});
        }
        out
    }

    /// The time of a run over that of the float graph, as the target's cost model has it; `None` where it counts nothing,
    /// or nothing is quantized.
    fn predicted(&self) -> Option<f64> {
        let Costs { integer, float } = self.report.costs;
        (float > 0 && integer != float).then(|| integer as f64 / float as f64)
    }

    /// Seconds by stage.
    fn stages(&self) -> Vec<(&'static str, f64)> {
        let timing = &self.report.timing;
        let running = |name: &str| RUNNING.contains(&name);
        let first = timing.iter().position(|(name, _)| running(name)).unwrap_or(timing.len());
        let (float, rest) = timing.split_at(first);
        let mut stages = vec![("load", self.loaded), ("optimize", float.iter().map(|(_, s)| s).sum())];
        stages.extend(rest.iter().filter(|(name, _)| running(name)));
        let other = rest.iter().filter(|(name, _)| !running(name));
        stages.push(("quantize", other.map(|(_, s)| s).sum()));
        stages.push(("save", self.saved));
        stages
    }
}

/// Operators by fate.
struct Counts {
    integer: usize,
    float: usize,
    plain: usize,
}

impl Counts {
    fn of(r: &Report) -> Counts {
        let count = |f: fn(&Fate) -> bool| r.nodes.iter().filter(|n| f(&n.fate)).count();
        Counts {
            integer: count(|f| matches!(f, Fate::Integer(_))),
            float: count(|f| matches!(f, Fate::Float(_))),
            plain: count(|f| matches!(f, Fate::Plain)),
        }
    }

    fn quantizable(&self) -> usize {
        self.integer + self.float
    }
}

/// What became of an operator.
fn node(n: &squint::NodeReport) -> Value {
    let (runs, detail) = match &n.fate {
        Fate::Integer(kernel) => ("integer", ("kernel", json!(kernel))),
        Fate::Float(reason) => ("float", ("reason", json!(reason))),
        Fate::Plain => ("plain", ("reason", Value::Null)),
    };
    let mut out = json!({"node": n.node, "op_type": n.op_type, "macs": n.macs, "runs": runs});
    out[detail.0] = detail.1;
    out
}

/// A number of bytes in a unit that suits it.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let (mut x, mut unit) = (n as f64 / 1000.0, 0);
    while x >= 999.5 && unit + 1 < UNITS.len() {
        x /= 1000.0;
        unit += 1;
    }
    let digits = if x < 9.995 { 2 } else { usize::from(x < 99.95) };
    format!("{x:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_three_digits() {
        let shown: Vec<String> =
            [0, 999, 1000, 9_999, 12_345, 999_499, 999_500, 3_000_000_000].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "10.0 kB", "12.3 kB", "999 kB", "1.00 MB", "3.00 GB"]);
    }
}
