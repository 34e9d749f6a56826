//! Ranges that other tools chose, as overrides.
//!
//! | file | what is read |
//! |---|---|
//! | AIMET encodings, versions 0.6 and 1.0 | `activation_encodings` with one scale; those of type float keep their tensor in float |
//! | PPQ's JSON | scales and offsets of `configs`, or of `values` where a configuration refers to them |
//! | names with ranges, as NNCF and ONNX Runtime dump them | `{"min": .., "max": ..}`, `{"min_values": .., "max_values": ..}`, `{"lowest": .., "highest": ..}` or `[lo, hi]` under the name of a tensor |
//!
//! Ranges of weights are not taken over: squint chooses theirs by output channel.

use crate::Error;
use serde_json::Value;
use squint_ir::Graph;
use squint_passes::overrides::{Override, Pattern, Wish};
use squint_passes::pass::PassError;
use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// The ranges of a file that belong to tensors of a graph, and how many belong to none.
///
/// # Errors
/// If the file cannot be read, is of no known form, or none of its ranges belongs to the graph.
pub fn overrides(path: &Path, g: &Graph) -> Result<(Vec<Override>, usize), Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let wrong = |why: String| PassError::Config(format!("ranges `{}`: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_BYTES {
        return Err(wrong(format!("{length} bytes; at most {MAX_BYTES} are read")).into());
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("no JSON: {e}")))?;
    let all = wishes(&json);
    let n = all.len();
    let known = all.into_iter().filter(|(name, _)| g.value_named(name).is_some());
    let found: Vec<Override> =
        known.map(|(name, wish)| Override { pattern: Pattern::tensor(&name), wish }).collect();
    if found.is_empty() {
        let what = "it holds no ranges of activations in a form that is known";
        let what = if n == 0 { what.to_owned() } else { format!("none of its {n} tensors is in the model") };
        return Err(wrong(what).into());
    }
    let unknown = n - found.len();
    Ok((found, unknown))
}

/// Every tensor with what is said of it.
fn wishes(json: &Value) -> Vec<(String, Wish)> {
    if let Some(encodings) = json.get("activation_encodings") {
        return aimet(encodings);
    }
    if let Some(configs) = json.get("configs").and_then(Value::as_object) {
        return ppq(configs, &json["values"]);
    }
    let entries = json.as_object().into_iter().flatten();
    let plain = entries.filter_map(|(name, v)| Some((name.clone(), ranged(extremes(v)?)?)));
    plain.collect()
}

/// A wish for a range, if it is one.
fn ranged((lo, hi): (f64, f64)) -> Option<Wish> {
    let range = (lo.min(0.0) as f32, hi.max(0.0) as f32);
    let fits = range.0 < range.1 && range.0.is_finite() && range.1.is_finite();
    fits.then(|| Wish { range: Some(range), ..Wish::default() })
}

fn extremes(v: &Value) -> Option<(f64, f64)> {
    if let Some([lo, hi]) = v.as_array().map(Vec::as_slice) {
        return Some((lo.as_f64()?, hi.as_f64()?));
    }
    let pairs = [("min", "max"), ("min_values", "max_values"), ("lowest", "highest")];
    pairs.iter().find_map(|(lo, hi)| Some((number(v.get(lo)?)?, number(v.get(hi)?)?)))
}

/// A number, or the only one of nested lists.
fn number(v: &Value) -> Option<f64> {
    match v {
        Value::Array(items) => match items.as_slice() {
            [one] => number(one),
            _ => None,
        },
        other => other.as_f64(),
    }
}

/// `{name: [{min, max, ..}]}`, or `[{name, scale: [..], offset: [..], bw, ..}]`.
fn aimet(encodings: &Value) -> Vec<(String, Wish)> {
    let float = |e: &Value| {
        let is_float = e["dtype"].as_str().is_some_and(|d| d.eq_ignore_ascii_case("float"));
        is_float.then(|| Wish { float: Some(true), ..Wish::default() })
    };
    match encodings {
        Value::Object(named) => {
            let one = |(name, list): (&String, &Value)| {
                let [e] = list.as_array()?.as_slice() else { return None };
                Some((name.clone(), float(e).or_else(|| ranged(extremes(e)?))?))
            };
            named.iter().filter_map(one).collect()
        }
        Value::Array(list) => {
            let one = |e: &Value| {
                let levels = 2f64.powi(i32::try_from(e["bw"].as_i64()?).ok()?) - 1.0;
                // The offset is the lowest level of a grid that ends `levels` above it.
                ranged(grid(number(&e["scale"])?, number(&e["offset"])?, levels))
            };
            let named = list
                .iter()
                .filter_map(|e| Some((e["name"].as_str()?.to_owned(), float(e).or_else(|| one(e))?)));
            named.collect()
        }
        _ => Vec::new(),
    }
}

/// The ends of a grid of so many steps whose lowest level is `lowest`.
fn grid(scale: f64, lowest: f64, steps: f64) -> (f64, f64) {
    (scale * lowest, scale * (lowest + steps))
}

/// `configs: {operator: {tensor: {scale, offset, quant_min, quant_max} or {hash, dominator, quant_min, ..}}}` and
/// `values: {hash: {scale, offset}}`. A tensor that several operators name has the same range in all.
fn ppq(configs: &serde_json::Map<String, Value>, values: &Value) -> Vec<(String, Wish)> {
    let mut found: Vec<(String, Wish)> = Vec::new();
    let tensors = configs.values().filter_map(Value::as_object).flatten();
    for (name, config) in tensors {
        let refers = |key: &str| {
            let id = config.get(key)?;
            values.get(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
        };
        let owner = if config.get("scale").is_some() {
            Some(config)
        } else {
            refers("dominator").or_else(|| refers("hash"))
        };
        let read = owner.and_then(|owner| {
            let zero = owner.get("offset").or_else(|| owner.get("zero_point"));
            let (scale, zero) = (number(owner.get("scale")?)?, zero.and_then(number).unwrap_or(0.0));
            let (qmin, qmax) = (number(config.get("quant_min")?)?, number(config.get("quant_max")?)?);
            ranged(grid(scale, qmin - zero, qmax - qmin))
        });
        if let Some(wish) = read.filter(|_| found.iter().all(|(n, _)| n != name)) {
            found.push((name.clone(), wish));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ranges(json: &Value) -> Vec<(String, Option<(f32, f32)>)> {
        wishes(json).into_iter().map(|(name, wish)| (name, wish.range)).collect()
    }

    #[test]
    fn the_forms_of_several_tools_are_read() {
        let x = |lo, hi| vec![("x".to_owned(), Some((lo, hi)))];
        let aimet = json!({"version": "0.6.1", "activation_encodings": {
            "x": [{"bitwidth": 8, "dtype": "int", "max": 3.0, "min": -1.0, "offset": -64, "scale": 0.0157}],
            "w": [{"max": 1.0, "min": 0.0}, {"max": 2.0, "min": 0.0}],
        }, "param_encodings": {}});
        assert_eq!(ranges(&aimet), x(-1.0, 3.0));
        let newer = json!({"version": "1.0.0", "activation_encodings": [
            {"name": "x", "bw": 8, "dtype": "INT", "scale": [0.5], "offset": [-2], "is_sym": false},
        ]});
        assert_eq!(ranges(&newer), x(-1.0, 126.5));
        let ppq = json!({"configs": {
            "Conv_0": {"x": {"quant_min": 0, "quant_max": 255, "hash": 7, "dominator": 7}},
            "Conv_1": {"x": {"quant_min": 0, "quant_max": 255, "scale": 9.0, "offset": 0}},
        }, "values": {"7": {"scale": 0.5, "offset": 2}}});
        assert_eq!(ranges(&ppq), x(-1.0, 126.5));
        for plain in [
            json!({"x": {"min": -1.0, "max": 3}}),
            json!({"x": {"min_values": [[-1.0]], "max_values": [[3.0]]}}),
            json!({"x": {"lowest": -1, "highest": 3.0}}),
            json!({"x": [-1, 3], "y": [0, 0], "z": "text"}),
        ] {
            assert_eq!(ranges(&plain), x(-1.0, 3.0));
        }
        let float = json!({"activation_encodings": {"x": [{"bitwidth": 16, "dtype": "float"}]}});
        assert_eq!(wishes(&float)[0].1.float, Some(true));
    }
}
