//! How a model was made, in the form of a configuration file: `squint quantize --config MODEL` reads it from the
//! model and makes it again.
//!
//! Keys are the flags of the command line. What is the default is left out, except for the target, whose default
//! depends on the machine.

use crate::config::Config;
use crate::overrides::{Override, Pattern, Wish};
use std::fmt::Write as _;

/// The configuration as TOML. `in_float` are values that were left in float for accuracy's sake: they become
/// overrides.
pub(crate) fn recipe<'a>(config: &Config, in_float: impl Iterator<Item = &'a str>) -> String {
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
    if config.weight_method != default.weight_method {
        line("weight-method", quoted(&config.weight_method.to_string()));
    }
    if config.scheme != default.scheme {
        line("scheme", quoted(&config.scheme.to_string()));
    }
    if config.format != default.format {
        line("format", quoted(config.format.name()));
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
    let list =
        |words: Vec<String>| format!("[{}]", words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", "));
    if !config.keep_float.is_empty() {
        line("keep-float", list(config.keep_float.clone()));
    }
    let wish = Wish { float: Some(true), ..Wish::default() };
    let left = in_float.map(|name| Override { pattern: Pattern::tensor(name), wish: wish.clone() });
    // What the user asked for comes last: it holds.
    let overrides: Vec<String> =
        left.map(|o| o.to_string()).chain(config.overrides.iter().map(ToString::to_string)).collect();
    if !overrides.is_empty() {
        line("override", list(overrides));
    }
    out
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
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

    #[test]
    fn only_what_differs_is_said() {
        let mut config = Config::new("cpu-vnni");
        assert_eq!(recipe(&config, std::iter::empty()), "target = \"cpu-vnni\"\n");
        config.method = Method::Percentile(99.9);
        config.weight_method = Method::Lp(2.4);
        config.constraints.power_of_two = true;
        config.keep_float = vec!["a\\b\"".into()];
        config.overrides = vec!["conv1: range=-1..3".parse().unwrap()];
        let expected = "target = \"cpu-vnni\"\nmethod = \"percentile:99.9\"\nweight-method = \"lp:2.4\"\n\
                        power-of-two = true\nkeep-float = [\"a\\\\b\\\"\"]\n\
                        override = [\"tensor=x: float\", \"conv1: range=-1..3\"]\n";
        assert_eq!(recipe(&config, ["x"].into_iter()), expected);
    }
}
