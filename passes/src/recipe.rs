//! How a model was made, in the form of a configuration file: `squint quantize --config MODEL` reads it from the
//! model and makes it again.
//!
//! Keys are the flags of the command line. What is the default is left out, except for the target, whose default
//! depends on the machine.

use crate::config::{Config, Scheme, WeightBits};
use crate::overrides::{Override, Pattern, Wish};
use std::fmt::Write as _;

/// The configuration as TOML. `decided` are values that have no planned scale for accuracy's sake, each with whether
/// its scale is found in every run: they become overrides.
pub(crate) fn recipe<'a>(config: &Config, decided: impl Iterator<Item = (&'a str, bool)>) -> String {
    let default = Config::new(&config.target);
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{key} = {value}");
    };
    line("target", quoted(&config.target));
    if config.method != default.method {
        line("method", quoted(&config.method.to_string()));
    }
    // Weights of blocks have another default.
    if config.weight_method != default.weight_method || config.scheme == Scheme::WeightOnly {
        line("weight-method", quoted(&config.weight_method.to_string()));
    }
    if config.effort != default.effort {
        line("effort", config.effort.to_string());
    }
    if !config.equalize {
        line("no-equalize", "true".into());
    }
    if config.min_sqnr != default.min_sqnr {
        line("min-sqnr", float(config.min_sqnr));
    }
    if let Some(axis) = config.class_axis {
        line("class-axis", axis.to_string());
    }
    if config.scheme != default.scheme {
        line("scheme", quoted(&config.scheme.to_string()));
    }
    if config.format != default.format {
        line("format", quoted(config.format.name()));
    }
    if config.quantized != default.quantized {
        line("quantize-to", quoted(config.quantized.name()));
    }
    if config.scheme == Scheme::WeightOnly {
        line("weight-bits", config.blocks.bits.to_string());
        if let Some(bits) = config.blocks.table_bits {
            line("table-bits", bits.to_string());
        }
        if let Some(size) = config.blocks.size {
            line("block-size", size.to_string());
        }
        if config.blocks.rounding != default.blocks.rounding {
            line("weight-rounding", quoted(&config.blocks.rounding.to_string()));
        }
    }
    if let Some(dtype) = config.compute {
        line("compute", quoted(&dtype.to_string()));
    }
    if config.compute_io {
        line("compute-io", "true".into());
    }
    if config.constraints.power_of_two {
        line("power-of-two", "true".into());
    }
    if config.constraints.narrow_range {
        line("narrow-range", "true".into());
    }
    if config.constraints.min_range > 0.0 {
        line("min-range", config.constraints.min_range.to_string());
    }
    if let Some(samples) = config.samples {
        line("samples", samples.to_string());
    }
    if let Some(training) = config.training {
        if training.weight_bits == WeightBits::Four {
            line("weight-bits", "4".into());
        }
        if training.keep_batch_normalization {
            line("keep-batch-normalization", "true".into());
        }
    }
    let list =
        |words: Vec<String>| format!("[{}]", words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", "));
    if !config.keep_float.is_empty() {
        line("keep-float", list(config.keep_float.clone()));
    }
    let wish = |dynamic| match dynamic {
        true => Wish { dynamic: Some(true), ..Wish::default() },
        false => Wish { float: Some(true), ..Wish::default() },
    };
    let left =
        decided.map(|(name, dynamic)| Override { pattern: Pattern::tensor(name), wish: wish(dynamic) });
    // What the user asked for comes last: it holds.
    let overrides: Vec<String> =
        left.map(|o| o.to_string()).chain(config.overrides.iter().map(ToString::to_string)).collect();
    if !overrides.is_empty() {
        line("override", list(overrides));
    }
    out
}

/// A TOML float, which has a point, an exponent or a word.
fn float(x: f64) -> String {
    let text = x.to_string();
    if text.contains(['.', 'e', 'n']) { text } else { format!("{text}.0") }
}

/// A TOML basic string, which is a JSON string, too.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Method;
    use crate::config::Quantized;

    #[test]
    fn only_what_differs_is_said() {
        let mut config = Config::new("cpu-vnni");
        assert_eq!(recipe(&config, std::iter::empty()), "target = \"cpu-vnni\"\n");
        config.method = Method::Percentile(99.9);
        config.weight_method = Method::Lp(2.4);
        config.constraints.power_of_two = true;
        config.keep_float = vec!["a\\b\"".into()];
        config.overrides = vec!["conv1: range=-1..3".parse().unwrap()];
        config.samples = Some(32);
        (config.effort, config.equalize, config.min_sqnr) = (2, false, f64::NEG_INFINITY);
        let expected = "target = \"cpu-vnni\"\nmethod = \"percentile:99.9\"\nweight-method = \"lp:2.4\"\n\
                        effort = 2\nno-equalize = true\nmin-sqnr = -inf\npower-of-two = true\nsamples = 32\nkeep-float = [\"a\\\\b\\\"\"]\n\
                        override = [\"tensor=x: float\", \"tensor=y: dynamic\", \"conv1: range=-1..3\"]\n";
        assert_eq!(recipe(&config, [("x", false), ("y", true)].into_iter()), expected);
        let mut config = Config::new("tensorrt");
        (config.scheme, config.blocks.size) = (Scheme::WeightOnly, Some(128));
        (config.compute, config.compute_io) = (Some(squint_ir::DType::Float16), true);
        config.quantized = Quantized::Float8;
        let expected = "target = \"tensorrt\"\nweight-method = \"minmax\"\nscheme = \"weight-only\"\n\
                        quantize-to = \"fp8\"\nweight-bits = 4\nblock-size = 128\ncompute = \"float16\"\ncompute-io = true\n";
        assert_eq!(recipe(&config, std::iter::empty()), expected);
        assert_eq!(
            (float(20.0), float(-0.5), float(1e300)),
            ("20.0".into(), "-0.5".into(), format!("{}.0", 1e300))
        );
    }
}
