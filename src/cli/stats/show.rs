//! `squint stats show`.

use super::super::failure::Failure;
use super::super::options::Format;
use super::super::talk::Talk;
use super::{note_missing, read_all};
use clap::Args;
use serde_json::{Value, json};
use squint::passes::calibrate::Seen;
use squint::passes::calibration::{ChannelSketches, Sketch};
use squint::stats::Recording;
use std::io::{self, Write};
use std::path::PathBuf;

/// Show what was measured: a line for each value, with its distribution.
#[derive(Args)]
pub(super) struct Show {
    /// The statistics; several files are parts of one calibration.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show only the N values that are hardest to quantize: with infinities or NaN, then those whose extremes
    /// lie farthest beyond the bulk of their values.
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Show channels, too, of the values of which they were measured (`squint calibrate --per-channel`).
    #[arg(long)]
    per_channel: bool,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Quantiles shown, with their names.
const QUANTILES: [(&str, f64); 3] = [("0.1%", 0.001), ("50%", 0.5), ("99.9%", 0.999)];
/// Characters of a histogram.
const BARS: usize = 24;
/// Longest name that widens the column.
const MAX_NAME: usize = 40;

impl Show {
    pub(super) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let recording = read_all(&self.files)?;
        note_missing(&recording, talk);
        let mut values: Vec<(&str, &Seen)> =
            recording.names.iter().map(String::as_str).zip(recording.tally.values()).collect();
        if let Some(n) = self.top {
            values.sort_by(|a, b| hardness(&b.1.sketch).total_cmp(&hardness(&a.1.sketch)));
            values.truncate(n);
        }
        if self.per_channel && values.iter().all(|(_, seen)| seen.channels.is_none()) {
            talk.say(format_args!(
                "note: no channels of these values were measured; `squint calibrate --per-channel VALUE` does"
            ));
        }
        let mut out = io::stdout().lock();
        match self.format {
            Format::Text => table(&mut out, &recording, &values, self.per_channel)?,
            Format::Json => writeln!(out, "{:#}", report(&recording, &values, self.per_channel))?,
        }
        Ok(())
    }
}

/// How far the extremes lie beyond the bulk of the values: the ratio of the largest magnitude to the larger of
/// the outer quantiles' magnitudes.
fn hardness(s: &Sketch) -> f64 {
    if s.n_non_finite() > 0 {
        return f64::INFINITY;
    }
    let Some((min, max)) = s.extremes() else { return 0.0 };
    let quantile = |q| s.quantile(q).map_or(0.0, |x| f64::from(x.abs()));
    let bulk = quantile(0.001).max(quantile(0.999)).max(f64::from(f32::MIN_POSITIVE));
    f64::from(max.max(-min)) / bulk
}

fn table(
    out: &mut impl Write,
    recording: &Recording,
    values: &[(&str, &Seen)],
    per_channel: bool,
) -> io::Result<()> {
    let data = &recording.data;
    writeln!(out, "data           {}", data.source)?;
    writeln!(out, "preprocessing  {}", data.preprocessing)?;
    writeln!(out, "samples        {} of {}", recording.tally.done().len(), data.total)?;
    writeln!(out, "graph          {}\n", short(&recording.graph.hash))?;
    let width = values.iter().map(|(n, _)| n.chars().count()).max().unwrap_or(0).clamp(5, MAX_NAME);
    write!(out, "{:<width$} {:>10} {:>10} {:>10}", "value", "count", "min", "max")?;
    for (name, _) in QUANTILES {
        write!(out, " {name:>10}")?;
    }
    writeln!(out, " {:>6} {:>7}  distribution (log)", "zeros", "inf/nan")?;
    for (name, seen) in values {
        row(out, name, &seen.sketch, width)?;
        for (c, sketch) in channels(seen, per_channel).iter().enumerate() {
            row(out, &format!("  [{c}]"), sketch, width)?;
        }
    }
    Ok(())
}

fn row(out: &mut impl Write, name: &str, s: &Sketch, width: usize) -> io::Result<()> {
    write!(out, "{name:<width$} {:>10}", s.n_finite().saturating_add(s.n_non_finite()))?;
    let (min, max) = s.extremes().map_or((None, None), |(a, b)| (Some(a), Some(b)));
    for x in [min, max].into_iter().chain(QUANTILES.map(|(_, q)| s.quantile(q))) {
        write!(out, " {:>10}", x.map_or("-".into(), number))?;
    }
    let zeros = 100.0 * s.n_zeros() as f64 / s.n_finite().max(1) as f64;
    writeln!(out, " {zeros:>5.1}% {:>7}  {}", s.n_non_finite(), bars(s))
}

/// The channels that are shown of a value.
fn channels(seen: &Seen, wanted: bool) -> &[Sketch] {
    seen.channels.as_ref().filter(|_| wanted).map_or(&[], ChannelSketches::sketches)
}

fn report(recording: &Recording, values: &[(&str, &Seen)], per_channel: bool) -> Value {
    let value = |(name, seen): &(&str, &Seen)| {
        let mut out = json!({"name": name, "dims": seen.first.as_ref().map(|f| &f.dims)});
        let of_value = figures(&seen.sketch);
        if let (Some(out), Value::Object(more)) = (out.as_object_mut(), of_value) {
            out.extend(more);
        }
        if let (true, Some(axis)) = (per_channel, seen.axis()) {
            let channels: Vec<Value> = channels(seen, true).iter().map(figures).collect();
            out["channels"] = json!({"axis": axis, "of": channels});
        }
        out
    };
    json!({
        "squint": recording.version,
        "graph": recording.graph.hash,
        "data": recording.data.source,
        "preprocessing": recording.data.preprocessing,
        "counted": recording.tally.counted().name(),
        "samples": {"measured": recording.tally.done().len(), "total": recording.data.total},
        "values": values.iter().map(value).collect::<Vec<_>>(),
    })
}

fn figures(s: &Sketch) -> Value {
    let (min, max) = s.extremes().map_or((None, None), |(a, b)| (Some(a), Some(b)));
    let quantiles: serde_json::Map<String, Value> =
        QUANTILES.iter().map(|(n, q)| ((*n).to_owned(), json!(s.quantile(*q)))).collect();
    json!({
        "samples": s.n_samples(),
        "finite": s.n_finite(),
        "zeros": s.n_zeros(),
        "non_finite": s.n_non_finite(),
        "min": min,
        "max": max,
        "mean": s.mean(),
        "mean_square": s.mean_square(),
        "quantiles": quantiles,
    })
}

/// A histogram in one line, from the least to the greatest value; heights are logarithms of counts.
fn bars(s: &Sketch) -> String {
    const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some((min, max)) = s.extremes().filter(|(a, b)| a < b) else { return String::new() };
    let (min, span) = (f64::from(min), f64::from(max) - f64::from(min));
    let mut counts = [0.0; BARS];
    let mut add = |x: f64, count: u64| {
        let i = ((x - min) / span * BARS as f64).clamp(0.0, BARS as f64 - 1.0) as usize;
        counts[i] += count as f64;
    };
    for (bin, count) in (s.first_bin()..).zip(s.bin_counts()) {
        add((f64::from(bin) + 0.5) * s.bin_width(), *count);
    }
    add(0.0, s.n_zeros());
    let highest = counts.iter().fold(0.0, |a: f64, b| a.max(*b)).ln_1p();
    let height =
        |c: &f64| if *c == 0.0 { 0 } else { (c.ln_1p() / highest * 8.0).round().clamp(1.0, 8.0) as usize };
    counts.iter().map(|c| HEIGHTS[height(c)]).collect()
}

/// Four digits.
fn number(x: f32) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if (1e-3..1e5).contains(&a) => format!("{x:.4}"),
        _ => format!("{x:.3e}"),
    }
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_in_a_line() {
        let mut s = Sketch::new();
        assert_eq!(bars(&s), "");
        s.observe(&[vec![0.0; 1000], vec![24.0]].concat());
        let line = bars(&s);
        assert!(line.starts_with('█') && line.ends_with('▁') && line.chars().count() == BARS, "{line}");
    }

    #[test]
    fn outliers_are_hard() {
        let sketch = |extra: f32| {
            let mut s = Sketch::new();
            let mut data: Vec<f32> = (0..10_000).map(|i| i as f32 / 1e4).collect();
            data.push(extra);
            s.observe(&data);
            hardness(&s)
        };
        assert!(sketch(50.0) > 40.0 && sketch(0.5) < 1.1 && sketch(f32::NAN) == f64::INFINITY);
    }
}
