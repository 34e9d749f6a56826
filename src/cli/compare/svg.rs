//! Figures of the report, as inline SVG.

use super::page::escaped;
use squint::passes::calibration::Sketch;
use std::fmt::{self, Write as _};

/// A place on the horizontal axis of a plot of lines.
pub(super) struct Point {
    /// Shown when the pointer rests on it.
    pub(super) name: String,
    /// Levels in dB of the local and of the accumulated error.
    pub(super) levels: [f64; 2],
}

/// Highest level that is drawn; what is exact lies there.
const TOP: f64 = 80.0;
/// Names of the lines, which are their classes.
const LINES: [&str; 2] = ["local", "accumulated"];

/// A plot of both errors over the values of a network.
pub(super) fn lines(out: &mut String, points: &[Point]) -> fmt::Result {
    let (width, height, left) = (1000.0, 320.0, 40.0);
    let bounded = |level: f64| if level.is_nan() { 0.0 } else { level.clamp(0.0, TOP) };
    let step = (width - left - 10.0) / points.len().max(2) as f64;
    let x = |i: usize| left + step * (i as f64 + 0.5);
    let y = |level: f64| 10.0 + (height - 20.0) * (1.0 - bounded(level) / TOP);
    write!(out, "<svg viewBox=\"0 0 {width} {height}\" width=\"100%\" role=\"img\">")?;
    for level in [0, 20, 40, 60, 80] {
        let y = y(f64::from(level));
        write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"axis\" x=\"4\" y=\"{:.1}\">{level}</text>",
            y + 4.0
        )?;
    }
    for (line, class) in LINES.iter().enumerate() {
        let x = width - 190.0 + 80.0 * line as f64;
        write!(
            out,
            "<circle class=\"{class}\" r=\"4\" cx=\"{x}\" cy=\"22\"/><text class=\"axis\" x=\"{}\" y=\"26\">{class}</text>",
            x + 8.0
        )?;
    }
    for (line, class) in LINES.iter().enumerate() {
        write!(out, "<polyline class=\"{class}\" style=\"fill:none\" points=\"")?;
        for (i, p) in points.iter().enumerate() {
            write!(out, "{:.1},{:.1} ", x(i), y(p.levels[line]))?;
        }
        out.write_str("\"/>")?;
        for (i, p) in points.iter().enumerate() {
            write!(
                out,
                "<circle class=\"{class}\" r=\"2.5\" cx=\"{:.1}\" cy=\"{:.1}\"><title>{}: {class} {:.2} dB</title></circle>",
                x(i),
                y(p.levels[line]),
                escaped(&p.name),
                p.levels[line]
            )?;
        }
    }
    out.write_str("</svg>\n")
}

/// A square for each (class, name).
pub(super) fn squares(out: &mut String, cells: &[(&str, String)]) -> fmt::Result {
    let (columns, size) = (60, 16);
    let rows = cells.len().div_ceil(columns).max(1);
    write!(out, "<svg viewBox=\"0 0 {} {}\" width=\"100%\" role=\"img\">", columns * size, rows * size)?;
    for (i, (class, name)) in cells.iter().enumerate() {
        let (x, y) = (i % columns * size, i / columns * size);
        write!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\"><title>{}</title></rect>",
            escaped(name)
        )?;
    }
    out.write_str("</svg>\n")
}

/// Bars of a histogram.
const BARS: usize = 64;

/// The distribution of a tensor, and the ends of a range if there is one; `caption` is HTML.
pub(super) fn histogram(
    out: &mut String,
    id: &str,
    caption: &str,
    sketch: &Sketch,
    range: Option<(f32, f32)>,
) -> fmt::Result {
    let Some((min, max)) = sketch.extremes() else { return Ok(()) };
    let (mut lo, mut hi) = (f64::from(min), f64::from(max));
    if let Some((a, b)) = range {
        (lo, hi) = (lo.min(f64::from(a)), hi.max(f64::from(b)));
    }
    let span = (hi - lo).max(f64::MIN_POSITIVE);
    let (width, height) = (256.0, 80.0);
    let mut counts = [0.0f64; BARS];
    let mut add = |x: f64, count: u64| {
        let bar = (x - lo) / span * BARS as f64;
        counts[bar.clamp(0.0, BARS as f64 - 1.0) as usize] += count as f64;
    };
    for (bin, count) in (sketch.first_bin()..).zip(sketch.bin_counts()) {
        add((f64::from(bin) + 0.5) * sketch.bin_width(), *count);
    }
    add(0.0, sketch.n_zeros());
    let highest = counts.iter().fold(0.0f64, |a, b| a.max(*b)).ln_1p().max(f64::MIN_POSITIVE);
    write!(out, "<figure id=\"{id}\"><svg viewBox=\"0 0 {width} {}\" width=\"{width}\">", height + 16.0)?;
    // One outline is a tenth of what as many rectangles take.
    write!(out, "<path class=\"bar\" d=\"M0 {height}")?;
    for count in counts {
        let top = height - count.ln_1p() / highest * (height - 4.0);
        write!(out, "V{top:.0}h{}", width / BARS as f64)?;
    }
    write!(out, "V{height}z\"/>")?;
    for end in range.into_iter().flat_map(|(a, b)| [a, b]) {
        let x = (f64::from(end) - lo) / span * width;
        write!(out, "<line class=\"range\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>")?;
    }
    writeln!(
        out,
        "<text class=\"axis\" x=\"2\" y=\"{y}\">{lo:.4}</text><text class=\"axis\" x=\"{x}\" y=\"{y}\" \
         text-anchor=\"end\">{hi:.4}</text></svg><figcaption>{}</figcaption></figure>",
        caption,
        x = width - 2.0,
        y = height + 12.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_well_formed_whatever_the_numbers() {
        let mut out = String::new();
        let point = |name: &str, a, b| Point { name: name.into(), levels: [a, b] };
        let points = [point("a<b", f64::INFINITY, f64::NAN), point("c", -3.0, 200.0)];
        lines(&mut out, &points).unwrap();
        lines(&mut out, &[]).unwrap();
        squares(&mut out, &[("integer", "\"x\"".into())]).unwrap();
        let mut sketch = Sketch::new();
        histogram(&mut out, "a", "empty", &sketch, None).unwrap();
        sketch.observe(&[0.0, 0.0]);
        histogram(&mut out, "b", "zeros", &sketch, Some((0.0, 0.0))).unwrap();
        sketch.observe(&[-1e30, 1e30, f32::NAN]);
        histogram(&mut out, "c", "wide", &sketch, Some((-1.0, 1.0))).unwrap();
        assert!(out.contains("a&lt;b") && !out.contains("\"NaN") && out.matches("<figure ").count() == 2);
        assert_eq!(out.matches("<svg").count(), out.matches("</svg>").count());
    }
}
