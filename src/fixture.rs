//! Fixtures: small models as text that say in their header which passes to run on them.
//!
//! ```text
//! #! passes = ["fuse-relu"] target = "cpu-vnni"
//! #! ranges = ["x -1 1"]
//! # Intent of the case.
//! <ir_version: 8, opset_import: ["" : 17]>
//! g (float[1,4] x) => (float[1,4] y) { y = Relu (x) }
//! ```
//!
//! Constants may be given by formula, `["location": "gen:randn?seed=1"]` ([`squint_ir::text::generate`]).
//! Lines that begin with `#!` hold settings: a name, `=`, and a string or a list of strings in brackets.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `passes` | names of passes and of fusion rules, in order | none |
//! | `target` | the target | `cpu-vnni` |
//! | `scheme` | when activations are quantized | `auto` |
//! | `quantize-to` | `int8` or `fp8` | `int8` |
//! | `compute` | `float16` or `bfloat16`, and perhaps `inputs-and-outputs` | float32 |
//! | `block-size` | weights that share a scale | that of the target |
//! | `weight-bits`, `table-bits` | bits of weights and tables in blocks | 4, and tables stay in float |
//! | `keep-float` | nodes kept in float | none |
//! | `override` | wishes for nodes and tensors, as on the command line | none |
//! | `training` | that the result is to be trained, with `weight-bits=4`, `keep-batch-normalization` or neither | not |
//! | `ranges` | what calibration would have seen: value, smallest and largest element | -1 and 1 for each |
//!
//! What a pass needs and a user would only repeat is done without being asked: a fixture is taken to be
//! canonical where a pass needs that, types are inferred before a pass that needs them, and between
//! `insert-observers` and a pass that needs statistics, each observed value gets its declared range, unless the grids of a
//! quantized model were taken out of it (`freeze-quantizers`): then `spread-grids` says what is known.

use crate::Error;
use squint_ir::text::{generate, parse_with};
use squint_ir::{DType, Model, ValueId};
use squint_passes::calibration::Sketch;
use squint_passes::config::{Config, Quantized, Training, WeightBits};
use squint_passes::pass::{PassCx, PassError, Phase};
use squint_passes::pipeline::{pass_named, settled};
use squint_passes::plan::QuantPlan;
use squint_passes::report::Note;
use std::path::Path;

/// A model with what is to be done to it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The model before any pass.
    pub model: Model,
    /// Names of the passes to run.
    pub passes: Vec<String>,
    /// Target and choices of the user.
    pub config: Config,
    /// Range of observed values, by name.
    pub ranges: Vec<(String, f32, f32)>,
}

/// What the passes made of a fixture.
#[derive(Debug)]
pub struct Outcome {
    /// The model after the last pass.
    pub model: Model,
    /// The plan, empty unless `plan-quantization` or `plan-weight-blocks` was among the passes.
    pub plan: QuantPlan,
    /// Values of the main graph that are watched, empty unless `insert-observers` was among the passes.
    pub observed: Vec<ValueId>,
    /// What the passes noted.
    pub notes: Vec<Note>,
}

impl Fixture {
    /// Reads a fixture from a file.
    ///
    /// # Errors
    /// If the file cannot be read, its header is wrong, or its text is no model.
    pub fn load(path: &Path) -> Result<Fixture, Error> {
        Fixture::parse(&crate::files::read_text(path)?, path)
    }

    /// Reads a fixture from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Fixture::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Fixture, Error> {
        let failed = |problem: String| Error::Fixture { path: path.to_owned(), problem };
        let model = parse_with(text, &mut generate)
            .map_err(|source| Error::Text { path: path.to_owned(), source })?;
        let mut fixture =
            Fixture { model, passes: Vec::new(), config: Config::new("cpu-vnni"), ranges: Vec::new() };
        for (i, line) in text.lines().enumerate() {
            let Some(header) = line.trim_start().strip_prefix("#!") else { continue };
            for (name, values) in settings(header).map_err(|e| failed(format!("line {}: {e}", i + 1)))? {
                fixture.set(&name, values).map_err(|e| failed(format!("line {}: {e}", i + 1)))?;
            }
        }
        Ok(fixture)
    }

    fn set(&mut self, name: &str, values: Vec<String>) -> Result<(), String> {
        match name {
            "passes" => self.passes = values,
            "keep-float" => self.config.keep_float = values,
            "ranges" => {
                for v in values {
                    let mut words = v.rsplitn(3, ' ');
                    let mut number = || words.next().and_then(|w| w.parse().ok());
                    let (hi, lo) = (number(), number());
                    let (Some(hi), Some(lo), Some(value)) = (hi, lo, words.next()) else {
                        return Err(format!("`{v}` is not of the form `value smallest largest`"));
                    };
                    self.ranges.push((value.to_owned(), lo, hi));
                }
            }
            "target" => match <[String; 1]>::try_from(values) {
                Ok([target]) => self.config.target = target,
                Err(_) => return Err("`target` is one string".into()),
            },
            "scheme" => match &values[..] {
                [scheme] => self.config.scheme = scheme.parse()?,
                _ => return Err("`scheme` is one string".into()),
            },
            "quantize-to" => {
                self.config.quantized = match values.first().map(String::as_str) {
                    Some("int8") => Quantized::Int8,
                    Some("fp8") => Quantized::Float8,
                    _ => return Err("`quantize-to` is int8 or fp8".into()),
                };
            }
            "compute" => {
                self.config.compute = match values.first().map(String::as_str) {
                    Some("float16") => Some(DType::Float16),
                    Some("bfloat16") => Some(DType::Bfloat16),
                    _ => return Err("`compute` is float16 or bfloat16".into()),
                };
                self.config.compute_io = values.get(1).is_some_and(|v| v == "inputs-and-outputs");
            }
            "block-size" | "weight-bits" | "table-bits" => {
                let number = values.first().and_then(|v| v.parse().ok());
                let number: u8 = number.ok_or_else(|| format!("`{name}` is a number"))?;
                let blocks = &mut self.config.blocks;
                match name {
                    "block-size" => blocks.size = Some(usize::from(number)),
                    "weight-bits" => blocks.bits = number,
                    _ => blocks.table_bits = Some(number),
                }
            }
            "override" => {
                self.config.overrides = values.iter().map(|v| v.parse()).collect::<Result<_, String>>()?;
            }
            "training" => {
                let mut training = Training::default();
                for v in values {
                    match v.as_str() {
                        "weight-bits=4" => training.weight_bits = WeightBits::Four,
                        "keep-batch-normalization" => training.keep_batch_normalization = true,
                        _ => return Err(format!("`{v}` is none of weight-bits=4, keep-batch-normalization")),
                    }
                }
                self.config.training = Some(training);
            }
            _ => {
                return Err(format!(
                    "unknown setting `{name}`; there are `passes`, `target`, `scheme`, `quantize-to`, `compute`, \
                     `block-size`, `weight-bits`, `table-bits`, `keep-float`, `override`, `ranges` and `training`"
                ));
            }
        }
        Ok(())
    }

    /// Runs the passes.
    ///
    /// # Errors
    /// If a pass is unknown, comes too early, or fails.
    pub fn run(self) -> Result<Outcome, Error> {
        let Fixture { mut model, passes, config, ranges } = self;
        let config = settled(&config)?;
        let mut cx = PassCx::new(&config);
        let mut phase = Phase::Imported;
        for name in &passes {
            let unknown = || PassError::Config(format!("there is no pass `{name}`"));
            let pass = pass_named(name).ok_or_else(unknown)?;
            if pass.needs() == Phase::Canonical {
                phase = phase.max(Phase::Canonical);
            }
            if pass.needs() >= Phase::Typed && name != "infer-types" {
                let infer = pass_named("infer-types").ok_or_else(unknown)?;
                infer.run(&mut model, &mut cx)?;
                phase = phase.max(Phase::Typed);
            }
            // A model that was quantized brings its ranges along.
            if phase == Phase::Observed && cx.frozen.is_none() {
                observe(&model, &mut cx, &ranges);
                phase = Phase::Calibrated;
            }
            if pass.needs() > phase {
                let why =
                    format!("pass `{name}` comes too early: it needs a model that is {:?}", pass.needs());
                return Err(PassError::Config(why).into());
            }
            pass.run(&mut model, &mut cx)?;
            phase = pass.reaches().unwrap_or(phase).max(phase);
        }
        let notes = cx.notes.iter().cloned().collect();
        Ok(Outcome {
            plan: std::mem::take(&mut cx.plan),
            observed: std::mem::take(&mut cx.observed),
            notes,
            model,
        })
    }
}

/// Fills the statistics with the declared ranges.
fn observe(model: &Model, cx: &mut PassCx<'_>, ranges: &[(String, f32, f32)]) {
    cx.statistics.samples = 1;
    for v in &cx.observed {
        let name = model.main().value(*v).name();
        let declared = ranges.iter().find(|(n, ..)| n == name);
        let (lo, hi) = declared.map_or((-1.0, 1.0), |(_, lo, hi)| (*lo, *hi));
        let mut sketch = Sketch::new();
        sketch.observe(&[lo, hi]);
        cx.statistics.sketches.insert(*v, sketch);
    }
}

/// Splits `name = "value" name = ["a", "b"]`.
fn settings(mut text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut out = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Ok(out);
        }
        let wrong = || format!("expected `name = \"value\"` or `name = [\"value\", ..]`, found `{text}`");
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let value = value.trim_start();
        let list = value.strip_prefix('[');
        let mut rest = list.unwrap_or(value).trim_start();
        let mut values = Vec::new();
        while let Some(opened) = rest.strip_prefix('"') {
            let (one, after) = opened.split_once('"').ok_or_else(wrong)?;
            values.push(one.to_owned());
            rest = after;
            if list.is_none() {
                break;
            }
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        if list.is_some() {
            rest = rest.strip_prefix(']').ok_or_else(wrong)?;
        } else if values.is_empty() {
            return Err(wrong());
        }
        out.push((name.trim().to_owned(), values));
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_hold_settings() {
        let read = settings(" passes = [\"a\", \"b\"] target = \"t\"").unwrap();
        assert_eq!(
            read,
            [("passes".into(), vec!["a".into(), "b".into()]), ("target".into(), vec!["t".to_owned()])]
        );
        assert_eq!(settings("passes = []").unwrap(), [("passes".to_owned(), vec![])]);
        for wrong in ["passes", "passes = a", "passes = [\"a\"", "target = \"t"] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }
}
