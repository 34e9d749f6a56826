//! The report of a comparison: one HTML page that needs no other file.

use super::svg;
use super::table::{decibels, kind};
use squint::Fate;
use squint::Model;
use squint::passes::calibration::Sketch;
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
td:first-child,th:first-child{text-align:left}td:last-child{white-space:nowrap}svg{background:#fafafa;border:1px solid #ddd}\
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
    worst(out, found)?;
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

/// Values in the table of the worst.
const WORST: usize = 20;

fn worst(out: &mut String, found: &Comparison) -> fmt::Result {
    let mut order: Vec<usize> = (0..found.values.len()).collect();
    let of = |i: &usize| found.values[*i].local.relative();
    order.retain(|i| of(i) > 0.0);
    order.sort_by(|a, b| of(b).total_cmp(&of(a)));
    order.truncate(WORST);
    out.write_str(
        "<h2>Where the error arises</h2>\n<p>The values with most error of their own (local), the worst first. What they do \
         to the outputs says <code>squint sensitivity</code>.</p>\n<table><tr><th>value<th>operator<th>local \
         dB<th>accumulated dB<th>max error<th>grid<th>beyond it</tr>\n",
    )?;
    for i in order {
        let v = &found.values[i];
        let (name, kind) = (escaped(&v.name), escaped(kind(v)));
        let (local, accumulated, largest) =
            (decibels(&v.local), decibels(&v.accumulated), v.accumulated.largest);
        write!(
            out,
            "<tr><td><a href=\"#v{i}\">{name}</a><td>{kind}<td>{local}<td>{accumulated}<td>{largest:.3e}"
        )?;
        match v.rounding {
            Some(r) => write!(out, "<td>{} {:.4} to {:.4}", r.dtype, r.range().0, r.range().1)?,
            None => out.write_str(if v.rounded { "<td>one for each channel" } else { "<td>float" })?,
        }
        let beyond = v.sketch.as_ref().zip(v.rounding).map(|(s, r)| share_beyond(s, r.range()));
        match beyond {
            Some(share) => writeln!(out, "<td>{}</tr>", percent(share))?,
            None => out.write_str("<td>-</tr>\n")?,
        }
    }
    out.write_str("</table>\n")
}

/// The share of what a sketch counts that lies beyond a range, to within a bin.
fn share_beyond(sketch: &Sketch, (lo, hi): (f32, f32)) -> f64 {
    let bins = (sketch.first_bin()..).zip(sketch.bin_counts());
    let (mut all, mut beyond) = (sketch.n_zeros(), 0);
    for (bin, count) in bins {
        let middle = (f64::from(bin) + 0.5) * sketch.bin_width();
        all += count;
        if middle < f64::from(lo) || middle > f64::from(hi) {
            beyond += count;
        }
    }
    beyond as f64 / all.max(1) as f64
}

/// A share with as many digits as tell something.
fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "none".into(),
        x if x < 0.001 => "&lt; 0.001 %".into(),
        x => format!("{x:.3} %"),
    }
}

/// Operators in float beyond which their list is folded.
const MANY: usize = 12;

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
    if float == 0 {
        return Ok(());
    }
    let open = if float <= MANY { " open" } else { "" };
    writeln!(out, "<details{open}><summary>The {float} in float, and why</summary>")?;
    out.write_str("<table><tr><th>in float<th>operator<th>why</tr>\n")?;
    for n in &nodes {
        if let Fate::Float(why) = &n.fate {
            let (node, op_type) = (escaped(&n.node), escaped(&n.op_type));
            writeln!(out, "<tr><td>{node}<td>{op_type}<td>{}</tr>", escaped(why))?;
        }
    }
    out.write_str("</table></details>\n")
}

fn activations(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Activations</h2>\n<p>Distribution in float (heights are logarithms of counts), where channels are scaled as in \
         the quantized model. Red lines are the ends of the grid; what lies beyond is clipped.</p>\n\
         <div class=\"figures\">\n",
    )?;
    for (i, v) in found.values.iter().enumerate() {
        let Some(sketch) = &v.sketch else { continue };
        let range = v.rounding.map(|r| r.range());
        let mut caption =
            format!("{} ({}), local {} dB", escaped(&v.name), escaped(kind(v)), decibels(&v.local));
        match range {
            Some(range) => write!(caption, ", beyond the grid {}", percent(share_beyond(sketch, range)))?,
            None if v.rounded => caption.push_str(", a grid for each channel"),
            None => caption.push_str(", float"),
        }
        if v.scaled {
            caption.push_str(", channels scaled");
        }
        svg::histogram(out, &format!("v{i}"), &caption, sketch, range)?;
    }
    out.write_str("</div>\n")
}

fn weights(out: &mut String, found: &Comparison) -> fmt::Result {
    out.write_str(
        "<h2>Weights</h2>\n<p>Distribution in float, where channels are scaled as in the quantized model; red lines are the \
         smallest and the largest number that the codes stand for.</p>\n<div class=\"figures\">\n",
    )?;
    for (i, w) in found.weights.iter().enumerate() {
        let (node, op_type) = (escaped(&w.node), escaped(&w.op_type));
        let scaled = if w.scaled { ", channels scaled" } else { "" };
        let caption = format!("{node} ({op_type}), {} dB{scaled}", decibels(&w.error));
        svg::histogram(out, &format!("w{i}"), &caption, &w.sketch, Some(w.range))?;
    }
    out.write_str("</div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_a_grid_is_counted() {
        let mut sketch = Sketch::new();
        sketch.observe(&[0.0, 0.1, 0.5, 0.9, 3.0, -2.0, 0.2, 0.3]);
        assert_eq!(share_beyond(&sketch, (-1.0, 1.0)), 0.25);
        assert_eq!(
            (percent(0.25), percent(0.0), percent(1e-7)),
            ("25.000 %".into(), "none".into(), "&lt; 0.001 %".into())
        );
        assert_eq!(share_beyond(&Sketch::new(), (0.0, 1.0)), 0.0);
    }
}
