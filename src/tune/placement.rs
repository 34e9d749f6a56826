//! Which operators go back to float: the fewest nanoseconds for the accuracy that is missing.
//!
//! Each value's effect on the outputs is measured ([`sensitivity`]), and becomes a price that the placement weighs
//! against the time that the target's cost model says it saves. The lowest price at which the bound holds is found by
//! bisection. What a price means for the placement follows from statistics alone, so prices that place alike are one
//! trial. Last, the placements without the worst half of the values, and of the layers, are tried where they would be faster:
//! what is found is never slower than those, if they meet the bound.

use super::Subset;
use super::trials::{Made, Subject, Trials, speedup};
use crate::stats::{CalibrateOptions, DataRecord, Recording, calibrate};
use crate::{Error, Evidence, Hooks};
use squint_ir::Model;
use squint_passes::compare::{Effect, sensitivity};
use squint_passes::config::{Config, Guide};
use squint_passes::plan::{OpPlan, QuantPlan};
use std::fmt::Write as _;

/// Samples on which the effect of single values is measured.
const SENSITIVITY_SAMPLES: usize = 16;
/// Prices of error that are tried, as powers of two of nanoseconds: from a microsecond to an hour.
const PRICES: (f64, f64) = (10.0, 62.0);
/// The difference of two exponents at which the bisection ends.
const FINE: f64 = 0.125;

/// Looks for the fastest model within the bound, all other things made as `from`.
pub(super) fn give_up_speed(trials: &mut Trials<'_>, from: &Made) -> Result<(), Error> {
    let effects = effects(trials, from)?;
    let errors: Vec<(String, f64)> = effects.iter().map(|e| (e.value.clone(), e.error)).collect();
    let forecast = Forecast::new(trials, &from.config)?;
    let guided = |errors: &[(String, f64)], price: f64| {
        let guide = Guide { errors: errors.to_vec(), price };
        Config { guide: Some(guide), ..from.config.clone() }
    };
    let mut seen: Vec<(String, bool)> = vec![(forecast.of(&guided(&errors, 0.0))?.0, false)];
    let (mut low, mut high) = PRICES;
    while high - low > FINE {
        let middle = (low + high) / 2.0;
        let config = guided(&errors, middle.exp2());
        let (placed, _) = forecast.of(&config)?;
        let known = seen.iter().find(|(p, _)| *p == placed).map(|(_, holds)| *holds);
        let holds = match known {
            Some(holds) => holds,
            None => {
                let Some(made) = trials.try_one(&format!("price of error 2^{middle:.2} ns"), &config)? else {
                    return Ok(());
                };
                trials.holds(&made)
            }
        };
        seen.push((placed, holds));
        if holds { high = middle } else { low = middle }
    }
    if trials.best().is_none() {
        // Nothing that was measured to have an effect is quantized.
        trials.try_one("float for all that counts", &guided(&errors, f64::INFINITY))?;
    }
    if trials.best().is_none() {
        by_bounds(trials, &from.config)?;
    }
    let values = guided(&errors[..errors.len().div_ceil(2)], f64::INFINITY);
    let layers = Config { keep_float: worst_layers(&effects, &from.config), ..from.config.clone() };
    for (what, config) in [("values", values), ("layers", layers)] {
        let (_, speedup) = forecast.of(&config)?;
        if trials.best().is_none_or(|b| b.speedup < speedup) {
            trials.try_one(&format!("float for the worst half of the {what}"), &config)?;
        }
    }
    Ok(())
}

/// The worst half of the layers, and what stays in float anyway.
fn worst_layers(effects: &[Effect], config: &Config) -> Vec<String> {
    let mut ranked: Vec<&String> = Vec::new();
    for layer in effects.iter().filter_map(|e| e.layer.as_ref()) {
        if !ranked.contains(&layer) {
            ranked.push(layer);
        }
    }
    ranked.truncate(ranked.len().div_ceil(2));
    config.keep_float.iter().chain(ranked).cloned().collect()
}

/// Bounds on the error of the outputs on calibration samples, in dB, that `quantize` is held to where prices of single
/// values lead nowhere: operators that find their scales in every run have none.
const BOUNDS: [f64; 6] = [16.0, 18.0, 20.0, 23.0, 26.0, 30.0];

/// Looks for the loosest such bound, and ends with the float model, which loses nothing.
fn by_bounds(trials: &mut Trials<'_>, base: &Config) -> Result<(), Error> {
    for sqnr in BOUNDS {
        let config = Config { min_sqnr: sqnr, guide: None, effort: base.effort.max(1), ..base.clone() };
        match trials.try_one(&format!("at least {sqnr} dB on calibration samples"), &config)? {
            Some(made) if !trials.holds(&made) => {}
            _ => return Ok(()),
        }
    }
    trials.try_one("all in float", &Config { keep_float: vec!["*".into()], guide: None, ..base.clone() })?;
    Ok(())
}

/// The effect of each value on the outputs, the worst first.
fn effects(trials: &Trials<'_>, from: &Made) -> Result<Vec<Effect>, Error> {
    let Subject { float, executor, calibration, hooks } = trials.subject;
    let n = calibration.len();
    let few = n.min(SENSITIVITY_SAMPLES);
    let samples = Subset { samples: calibration, picks: (0..few).map(|i| i * n / few).collect() };
    // Each value is put into the float model by itself, so all must be in its units.
    let mut same_units = from.model.clone();
    if same_units.metadata_value("squint.equalized").is_some() {
        same_units.clone_from(float);
        let config = Config { equalize: false, ..from.config.clone() };
        crate::quantize_with(&mut same_units, trials.subject.evidence(), &config, hooks)?;
    }
    let found = sensitivity(float, &same_units, executor, &samples, &from.config, hooks.progress)?;
    Ok(found.effects.into_iter().filter(|e| e.error > 0.0).collect())
}

/// What the placement will be, without running the network.
struct Forecast<'a> {
    float: &'a Model,
    recording: Recording,
}

impl<'a> Forecast<'a> {
    fn new(trials: &Trials<'a>, config: &Config) -> Result<Forecast<'a>, Error> {
        let options =
            CalibrateOptions { each: config.method.depends_on_order(), ..CalibrateOptions::default() };
        let Subject { float, executor, calibration, hooks } = trials.subject;
        let (mut model, data) = (float.clone(), DataRecord::default());
        let recording = calibrate(&mut model, executor, calibration, data, &options, config, hooks)?;
        Ok(Forecast { float, recording })
    }

    /// The placement as text, and the speed-up that it promises.
    fn of(&self, config: &Config) -> Result<(String, f64), Error> {
        let mut model = self.float.clone();
        let config = Config { effort: 0, ..config.clone() };
        let evidence = Evidence::recording(&self.recording);
        let (report, plan) = crate::plan(&mut model, evidence, &config, &Hooks::default())?;
        Ok((placement(&plan), speedup(&report)))
    }
}

/// Which values are quantized and which operators find scales in every run: all that a price decides.
fn placement(plan: &QuantPlan) -> String {
    let mut text = String::new();
    for (op, decision) in plan.ops.iter() {
        match decision {
            OpPlan::Integer(_) => text.push('i'),
            OpPlan::Dynamic(_) => text.push('d'),
            _ => text.push('f'),
        }
        let _ = write!(text, "{} ", op.index());
    }
    text
}
