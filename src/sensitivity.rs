//! Sensitivities, kept in a file so that they are measured once.

use crate::{Error, Progress};
use serde_json::{Value, json};
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_ir::fingerprint::Fingerprint;
use squint_passes::calibrate::DataHash;
use squint_passes::compare::{self, Effect, Sensitivity};
use squint_passes::config::Config;
use squint_passes::pass::PassError;
use std::path::Path;

/// What quantizing each value alone does to the outputs ([`compare::sensitivity`]), and whether it was found in
/// `cache`. A cache belongs to the content of both models and of the samples, and to a version of squint; one that
/// belongs to something else is measured anew and replaced.
///
/// # Errors
/// If a model is not well-formed, the executor cannot run it, the data does not fit, or the cache cannot be written.
pub fn sensitivity(
    float: &Model,
    quantized: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    cache: Option<&Path>,
    config: &Config,
    progress: &dyn Progress,
) -> Result<(Sensitivity, bool), Error> {
    let measure = || compare::sensitivity(float, quantized, executor, samples, config, progress);
    let Some(path) = cache else { return Ok((measure()?, false)) };
    let key = key(float, quantized, samples)?;
    let kept = std::fs::read(path).ok().and_then(|bytes| read(&bytes, &key));
    if let Some(found) = kept {
        return Ok((found, true));
    }
    let found = measure()?;
    crate::write_whole(path, format!("{:#}\n", write(&found, &key)).as_bytes())?;
    Ok((found, false))
}

/// What a measurement depends on.
fn key(float: &Model, quantized: &Model, samples: &dyn Samples) -> Result<String, Error> {
    let print = |m| Fingerprint::of(m).map(|f| f.hash).map_err(|c| PassError::Model(c.to_string()));
    let data = DataHash::of_all(samples).map_err(PassError::Data)?;
    let data: String = data.0.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{} {} {} {data}", env!("CARGO_PKG_VERSION"), print(float)?, print(quantized)?))
}

fn write(found: &Sensitivity, key: &str) -> Value {
    // Numbers as texts: they are read back to the bit.
    let effects = found.effects.iter().map(|e| {
        json!({
            "value": e.value,
            "node": e.node,
            "op_type": e.op_type,
            "layer": e.layer,
            "error": e.error.to_string(),
            "kl_nats": e.kl.map(|kl| kl.to_string()),
        })
    });
    json!({"key": key, "samples": found.samples, "effects": effects.collect::<Vec<_>>()})
}

/// What a file keeps; `None` if it is of another key, or no such file.
fn read(bytes: &[u8], key: &str) -> Option<Sensitivity> {
    let file: Value = serde_json::from_slice(bytes).ok()?;
    if file["key"].as_str()? != key {
        return None;
    }
    let effect = |e: &Value| {
        let text = |field: &str| e[field].as_str().map(str::to_owned);
        let (value, node, op_type) = (text("value")?, text("node")?, text("op_type")?);
        let number = |field: &str| e[field].as_str().and_then(|x| x.parse::<f64>().ok());
        let layer = text("layer");
        Some(Effect { value, node, op_type, layer, error: number("error")?, kl: number("kl_nats") })
    };
    let effects = file["effects"].as_array()?.iter().map(effect).collect::<Option<_>>()?;
    Some(Sensitivity { samples: usize::try_from(file["samples"].as_u64()?).ok()?, effects })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_read_back_under_its_key_only() {
        let effect = |error, kl: Option<f64>| Effect {
            value: "v".into(),
            node: "n".into(),
            op_type: "Conv".into(),
            layer: kl.map(|_| "n".into()),
            error,
            kl,
        };
        let found =
            Sensitivity { samples: 3, effects: vec![effect(0.1 + 0.2, Some(1e-9)), effect(0.0, None)] };
        let bytes = write(&found, "k").to_string().into_bytes();
        assert_eq!(read(&bytes, "k"), Some(found));
        assert_eq!(read(&bytes, "other"), None);
        assert_eq!(read(b"{}", "k"), None);
        assert_eq!(read(b"", "k"), None);
    }
}
