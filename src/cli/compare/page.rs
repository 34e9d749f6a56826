//! The report of a comparison: one HTML page that needs no other file.

use super::svg;
use super::table::{decibels, kind};
use squint::Fate;
use squint::Model;
use squint::passes::compare::{Comparison, coverage};
use std::fmt::{self, Write as _};

/// The page.
pub(super) fn page(title: &str, found: &Comparison, quantized: &Model) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, title, found, quantized);
    out
}

/// Text with the characters that HTML gives a meaning replaced.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}svg{background:#fafafa;border:1px solid #ddd}\
.figures{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0}figcaption{max-width:260px;overflow-wrap:anywhere;font-size:12px}\
.local{stroke:#c0392b;fill:#c0392b}.accumulated{stroke:#2471a3;fill:#2471a3}.bar{fill:#7f8c8d}.range{stroke:#c0392b}\
.axis{fill:#555;font-size:11px}.grid{stroke:#ddd}.integer{fill:#27ae60}.float{fill:#e67e22}.plain{fill:#bdc3c7}";

fn write(out: &mut String, title: &str, found: &Comparison, quantized: &Model) -> fmt::Result {
    let title = escaped(title);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         </head><body>\n<h1>{title}</h1>\n<p>{} samples; written by squint {}.</p>\n",
        found.samples,
        env!("CARGO_PKG_VERSION")
    )?;
    outputs(out, found)?;
    errors(out, found)?;
    map(out, quantized)?;
    activations(out, found)?;
    weights(out, found)?;
    out.write_str("</body></html>\n")
}

fn outputs(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Outputs</h2>\n<table><tr><th>output<th>SQNR dB<th>cosine<th>max error<th>agreement<th>KL nats</tr>\n",
    )?;
    for o in &found.outputs {
        write!(out, "<tr><td>{}", escaped(&o.name))?;
        let Some(e) = &o.error else {
            out.write_str("<td colspan=5>not compared</tr>\n")?;
            continue;
        };
        let (sqnr, cosine, largest) = (decibels(&e.error), e.error.cosine(), e.error.largest);
        write!(out, "<td>{sqnr}<td>{cosine:.6}<td>{largest:.3e}")?;
        match &e.classes {
            Some(c) => writeln!(out, "<td>{:.2} %<td>{:.3e}</tr>", 100.0 * c.agreement(), c.kl())?,
            None => out.write_str("<td>-<td>-</tr>\n")?,
        }
    }
    out.write_str("</table>\n")
}

fn errors(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Error of each value</h2>\n<p>Signal to quantization noise in dB, in order of execution; higher is \
         better. <b class=\"accumulated\">Accumulated</b>: with everything before the value quantized. \
         <b class=\"local\">Local</b>: what the value's own weights and rounding add when everything before it is \
         in float.</p>\n",
    )?;
    let points: Vec<svg::Point> = found
        .values
        .iter()
        .map(|v| svg::Point {
            name: format!("{} ({})", v.name, kind(v)),
            levels: [v.local.sqnr(), v.accumulated.sqnr()],
        })
        .collect();
    svg::lines(out, &points)
}

fn map(out: &mut String, quantized: &Model) -> fmt::Result {
    let nodes = coverage(quantized);
    let count = |f: fn(&Fate) -> bool| nodes.iter().filter(|n| f(&n.fate)).count();
    let integer = count(|f| matches!(f, Fate::Integer(_)));
    let float = count(|f| matches!(f, Fate::Float(_)));
    write!(
        out,
        "<h2>What is quantized</h2>\n<p>A square for each operator, in order of execution: {integer} between \
         quantizers (green), {float} in float (orange), {} on shapes and indices (grey).</p>\n",
        nodes.len() - integer - float
    )?;
    let cells = nodes.iter().map(|n| {
        let (class, why) = match &n.fate {
            Fate::Integer(how) => ("integer", *how),
            Fate::Float(why) => ("float", why.as_str()),
            Fate::Plain => ("plain", "shapes and indices"),
        };
        (class, format!("{} {}: {why}", n.op_type, n.node))
    });
    svg::squares(out, &cells.collect::<Vec<_>>())?;
    out.write_str("<table><tr><th>in float<th>operator<th>why</tr>\n")?;
    for n in &nodes {
        if let Fate::Float(why) = &n.fate {
            let (node, op_type) = (escaped(&n.node), escaped(&n.op_type));
            writeln!(out, "<tr><td>{node}<td>{op_type}<td>{}</tr>", escaped(why))?;
        }
    }
    out.write_str("</table>\n")
}

fn activations(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Activations</h2>\n<p>Distribution in float (heights are logarithms of counts); red lines are the ends \
         of the grid.</p>\n<div class=\"figures\">\n",
    )?;
    for v in &found.values {
        let Some(sketch) = &v.sketch else { continue };
        let caption = format!("{} ({}), local {} dB", v.name, kind(v), decibels(&v.local));
        svg::histogram(out, &caption, sketch, v.rounding.map(|r| r.range()))?;
    }
    out.write_str("</div>\n")
}

fn weights(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Weights</h2>\n<p>Distribution in float; red lines are the smallest and the largest number that the \
         codes stand for.</p>\n<div class=\"figures\">\n",
    )?;
    for w in &found.weights {
        let caption = format!("{} ({}), {} dB", w.node, w.op_type, decibels(&w.error));
        svg::histogram(out, &caption, &w.sketch, Some(w.range))?;
    }
    out.write_str("</div>\n")
}
