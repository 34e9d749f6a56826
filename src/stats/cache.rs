//! Calibration caches of other tools, written from statistics.
//!
//! - **TensorRT** (up to 10): text; a header `TRT-<version>-<calibrator>`, then `name: scale` for each tensor, the
//!   scale as the hexadecimal digits of a big-endian binary32. Scales are symmetric, `amax / 127`.
//! - **ONNX Runtime**: the JSON of `quantize_static(calibration_cache_path=...)`; lowest and highest value of each
//!   tensor. It is always declared as of method `MinMax`, the default of that function: the ranges are final, and
//!   another declaration would only make the function refuse them.
//!
//! Both find tensors by name, and know nothing of the model. The names are those of the model after fusion.

use serde_json::{Map, Value, json};
use squint_passes::calibration::{Grid, Method, solve};
use squint_passes::recording::Recording;
use std::fmt::Write as _;

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
