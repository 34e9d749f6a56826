//! What a comparison found, for people and for programs.

use serde_json::{Value, json};
use squint::passes::compare::{Comparison, OutputComparison, ValueComparison};
use squint::passes::outputs::{Error, Scale};
use std::fmt::Write as _;

/// Longest name that widens a column; longer ones push the rest of their line to the right.
const MAX_NAME: usize = 48;

/// A table of outputs, and one of the values at these positions.
pub(super) fn text(found: &Comparison, order: &[usize]) -> String {
    let mut out = String::new();
    let width = width(found.outputs.iter().map(|o| o.name.as_str()), "output");
    let _ = writeln!(
        out,
        "{:<width$}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
        "output", "SQNR dB", "cosine", "max error", "agreement", "KL nats"
    );
    for o in &found.outputs {
        let Some(e) = &o.error else {
            let _ = writeln!(out, "{:<width$}  {:>8}", o.name, "-");
            continue;
        };
        let _ = write!(out, "{:<width$}  {}", o.name, columns(&e.error));
        match &e.classes {
            Some(c) => {
                let _ = writeln!(out, "  {:>8.2}%  {:>9.3e}", 100.0 * c.agreement(), c.kl());
            }
            None => {
                let _ = writeln!(out, "  {:>9}  {:>9}", "-", "-");
            }
        }
    }
    values(&mut out, found, order);
    out
}

fn values(out: &mut String, found: &Comparison, order: &[usize]) {
    if order.is_empty() {
        return;
    }
    let shown = || order.iter().map(|i| &found.values[*i]);
    let width = width(shown().map(|v| v.name.as_str()), "value");
    let types = shown().map(|v| kind(v).chars().count()).max().unwrap_or(0).max("operator".len());
    let _ = writeln!(
        out,
        "\n{:<width$}  {:<types$}  {:>8}  {:>8}  {:>9}  {:>9}  range",
        "value", "operator", "local", "accum.", "cosine", "max error"
    );
    for v in shown() {
        let range = match v.rounding.map(|r| (r.dtype, r.range())) {
            Some((dtype, (lo, hi))) => format!("{dtype} {lo:.4}..{hi:.4}"),
            None if v.rounded => "one for each channel".into(),
            None => "float".into(),
        };
        let line = format!(
            "{:<width$}  {:<types$}  {:>8}  {}  {range}",
            v.name,
            kind(v),
            decibels(&v.local),
            columns(&v.accumulated),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if order.len() < found.values.len() {
        let _ = writeln!(out, "and {} more", found.values.len() - order.len());
    }
}

/// What makes a value.
pub(super) fn kind(v: &ValueComparison) -> &str {
    if v.op_type.is_empty() { "input" } else { &v.op_type }
}

/// Signal to noise, cosine and largest error.
fn columns(e: &Error) -> String {
    format!("{:>8}  {:>9.6}  {:>9.3e}", decibels(e), e.cosine(), e.largest)
}

/// Signal to noise in dB; `exact` if there is no difference.
pub(super) fn decibels(e: &Error) -> String {
    match e.sqnr() {
        x if x == f64::INFINITY => "exact".into(),
        x if x.is_nan() => "NaN".into(),
        x => format!("{x:.2}"),
    }
}

fn width<'a>(names: impl Iterator<Item = &'a str>, head: &str) -> usize {
    names.map(|n| n.chars().count()).max().unwrap_or(0).clamp(head.len(), MAX_NAME)
}

/// Everything; numbers that JSON has no name for (no difference: infinitely many dB) are null.
pub(super) fn json(found: &Comparison) -> Value {
    json!({
        "samples": found.samples,
        "outputs": found.outputs.iter().map(output).collect::<Vec<_>>(),
        "values": found.values.iter().map(value).collect::<Vec<_>>(),
        "unmatched": found.unmatched,
    })
}

fn output(o: &OutputComparison) -> Value {
    let mut out = json!({"name": o.name});
    let Some(e) = &o.error else { return out };
    out["error"] = error(&e.error);
    if let Some(c) = &e.classes {
        out["classes"] = json!({
            "from": o.kind.classes().map_or(Scale::Scores, |c| c.scale).name(),
            "axis": o.kind.classes().map(|c| c.axis),
            "rows": c.rows,
            "agreement": c.agreement(),
            "expected_lost_accuracy": c.lost_accuracy(),
            "kl_nats": c.kl(),
        });
    }
    out
}

fn value(v: &ValueComparison) -> Value {
    let mut out = json!({
        "name": v.name,
        "quantized_name": v.quantized_name,
        "node": v.node,
        "op_type": v.op_type,
        "rounded": v.rounded,
        "local": error(&v.local),
        "accumulated": error(&v.accumulated),
    });
    if let Some(r) = v.rounding {
        out["grid"] = json!({
            "type": r.dtype.to_string(),
            "scale": r.params.scale,
            "zero_point": r.params.zero_point,
            "range": [r.range().0, r.range().1],
        });
    }
    out
}

fn error(e: &Error) -> Value {
    json!({
        "sqnr_db": e.sqnr(),
        "cosine": e.cosine(),
        "max_error": e.largest,
        "relative": e.relative(),
        "elements": e.elements,
    })
}
