//! Calibration caches of other tools: written from statistics, and read as ranges.
//!
//! - **TensorRT** (up to 10): text; a header `TRT-<version>-<calibrator>`, then `name: scale` for each tensor, the
//!   scale as the hexadecimal digits of a big-endian binary32. Scales are symmetric, `amax / 127`.
//! - **ONNX Runtime**: the JSON of `quantize_static(calibration_cache_path=...)`; lowest and highest value of each
//!   tensor. It is always declared as of method `MinMax`, the default of that function: the ranges are final, and
//!   another declaration would only make the function refuse them.
//!
//! Both find tensors by name, and know nothing of the model. The names are those of the model after fusion.

use super::StatsError;
use crate::Error;
use serde_json::{Map, Value, json};
use squint_passes::calibration::{Grid, Method, solve};
use squint_passes::evidence::GivenRanges;
use squint_passes::recording::Recording;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The cache as TensorRT reads it.
pub fn tensorrt(recording: &Recording, method: Method) -> String {
    let calibrator = if method == Method::MinMax { "MinMaxCalibration" } else { "EntropyCalibration2" };
    let mut out = format!("TRT-8601-{calibrator}\n");
    for (name, seen) in recording.names.iter().zip(recording.tally.values()) {
        let range = solve(&seen.sketch, method, &Grid::I8_SYMMETRIC);
        let scale = Grid::I8_SYMMETRIC.params(range.lo, range.hi).scale;
        let _ = writeln!(out, "{name}: {:08x}", scale.to_bits());
    }
    out
}

/// The cache as ONNX Runtime's quantization tool reads it.
pub fn onnxruntime(recording: &Recording, method: Method) -> String {
    let data: Map<String, Value> = recording
        .names
        .iter()
        .zip(recording.tally.values())
        .map(|(name, seen)| {
            let range = solve(&seen.sketch, method, &Grid::U8);
            (name.clone(), json!({"lowest": range.lo, "highest": range.hi, "CLS": "TensorData"}))
        })
        .collect();
    let cache = json!({
        "CLS": "TensorsData",
        "data": data,
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
        "smooth_quant": false,
    });
    format!("{cache}\n")
}

/// The ranges in a cache. Symmetric scales are read as ranges either side of zero; of ranges per channel, the
/// widest is taken.
///
/// # Errors
/// If the file cannot be read or is no such cache.
pub fn read(path: &Path) -> Result<GivenRanges, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let ranges = match text.starts_with("TRT-") {
        true => from_tensorrt(&text),
        false => from_onnxruntime(&text),
    };
    match ranges {
        Ok(ranges) => Ok(GivenRanges { source: format!("`{}`", path.display()), ranges }),
        Err(problem) => Err(StatsError { path: path.to_owned(), problem }.into()),
    }
}

type Ranges = BTreeMap<String, (f32, f32)>;

fn from_tensorrt(text: &str) -> Result<Ranges, String> {
    let mut ranges = Ranges::new();
    for (i, line) in text.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty()) {
        // Names may have colons in them; scales have none.
        let entry = line.rsplit_once(':').and_then(|(name, digits)| {
            let scale = f32::from_bits(u32::from_str_radix(digits.trim(), 16).ok()?);
            (scale.is_finite() && scale >= 0.0).then_some((name, scale * 127.0))
        });
        let (name, bound) =
            entry.ok_or_else(|| format!("line {} is not `name: scale` in hexadecimal digits", i + 1))?;
        ranges.insert(name.to_owned(), (-bound, bound));
    }
    Ok(ranges)
}

fn from_onnxruntime(text: &str) -> Result<Ranges, String> {
    let cache: Value = serde_json::from_str(text)
        .map_err(|e| format!("it is neither a TensorRT cache (`TRT-...`) nor JSON ({e})"))?;
    // `calibration_cache_path` has the table as `data`; `write_calibration_table` writes it bare.
    let table = cache.get("data").filter(|_| cache["CLS"] == "TensorsData").unwrap_or(&cache);
    let table = table.as_object().ok_or("it has no table of tensors")?;
    let mut ranges = Ranges::new();
    for (name, entry) in table {
        let bound = |key: &str, pick: fn(f64, f64) -> f64| {
            let mut numbers = Vec::new();
            collect(entry.get(key)?, &mut numbers)?;
            numbers.into_iter().reduce(pick)
        };
        let (Some(lo), Some(hi)) = (bound("lowest", f64::min), bound("highest", f64::max)) else {
            return Err(format!("tensor `{name}` has no `lowest` and `highest`"));
        };
        ranges.insert(name.clone(), (lo as f32, hi as f32));
    }
    Ok(ranges)
}

/// The numbers of a bare number, of nested lists, or of an encoded array (`{"data": ...}`).
fn collect(value: &Value, out: &mut Vec<f64>) -> Option<()> {
    match value {
        Value::Number(n) => out.push(n.as_f64()?),
        Value::Array(list) => return list.iter().try_for_each(|v| collect(v, out)),
        Value::Object(o) => return collect(o.get("data")?, out),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(&str, f32, f32)]) -> Ranges {
        list.iter().map(|(n, lo, hi)| ((*n).to_owned(), (*lo, *hi))).collect()
    }

    #[test]
    fn tensorrt_caches_are_read() {
        let text =
            "TRT-8601-EntropyCalibration2\nx: 3c010204\n(Unnamed Layer* 0) [Conv]_output:0: 3f800000\n\n";
        let expected = [("x", -1.0, 1.0), ("(Unnamed Layer* 0) [Conv]_output:0", -127.0, 127.0)];
        let read = from_tensorrt(text).unwrap();
        for (name, lo, hi) in expected {
            let (a, b) = read[name];
            assert!((a - lo).abs() < 1e-4 && (b - hi).abs() < 1e-4, "{name} {a} {b}");
        }
        for bad in ["TRT-1\nx: 1.5", "TRT-1\nx", "TRT-1\nx: 7fc00000", "TRT-1\nx: bf800000"] {
            assert!(from_tensorrt(bad).unwrap_err().starts_with("line 2 "), "{bad}");
        }
    }

    #[test]
    fn caches_of_onnxruntime_are_read() {
        let array = |x: &str| format!(r#"{{"data": {x}, "dtype": "float32", "CLS": "numpy.array"}}"#);
        let entry =
            |lo: &str, hi: &str| format!(r#"{{"lowest": {lo}, "highest": {hi}, "CLS": "TensorData"}}"#);
        let table = format!(
            r#"{{"x": {}, "y": {}}}"#,
            entry(&array("-1.5"), &array("2.0")),
            entry(&array("[[-1.0, -3.0]]"), "4")
        );
        let expected = ranges(&[("x", -1.5, 2.0), ("y", -3.0, 4.0)]);
        assert_eq!(from_onnxruntime(&table).unwrap(), expected);
        let whole = format!(
            r#"{{"CLS": "TensorsData", "data": {table}, "calibration_method": {{"CLS": "CalibrationMethod", "value":
            "CalibrationMethod.MinMax"}}, "smooth_quant": false}}"#
        );
        assert_eq!(from_onnxruntime(&whole).unwrap(), expected);
        for bad in
            ["", "[1]", r#"{"x": {"lowest": 1}}"#, r#"{"x": {"lowest": "a", "highest": 1}}"#, r#"{"x": 3}"#]
        {
            assert!(from_onnxruntime(bad).is_err(), "{bad}");
        }
    }
}
