//! The fastest model within a bound on accuracy.
//!
//! Part of the samples is held back: the others calibrate, these judge. A ladder of ways to quantize is climbed, the
//! cheap ones first, each with all in integers that pays. The first that meets the bound is the fastest there is. If
//! none does, the best of them is taken, every value's effect on the outputs is measured ([`sensitivity`]), and the
//! effects become a price that the placement weighs against speed; the lowest price at which the bound holds is found
//! by bisection, so that the number of whole-network evaluations does not grow with the network.

mod judge;

pub use judge::Metric;

use crate::{Error, Evidence, Hooks, Report, Tract};
use judge::Judge;
use squint_ir::Model;
use squint_ir::execute::{Sample, Samples};
use squint_passes::calibration::Method;
use squint_passes::calibration::weights::WeightMethod;
use squint_passes::compare::sensitivity;
use squint_passes::config::{Config, Guide};
use squint_passes::pass::PassError;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct TuneOptions {
    /// What is bounded; `None` for what suits the model: expected accuracy for a classifier, else the error of the
    /// outputs.
    pub metric: Option<Metric>,
    /// The most that may be lost: 0.01 is one percent.
    pub max_drop: f64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The fastest model within the bound.
    pub model: Model,
    /// Its report.
    pub report: Report,
    /// How it was made: `quantize` with this configuration and the calibration samples makes it again.
    pub config: Config,
    /// Every model that was tried, in order.
    pub trials: Vec<Trial>,
    /// Which of them it is.
    pub chosen: usize,
    /// The metric that was bounded.
    pub metric: Metric,
    /// Samples that calibrated, and samples that judged.
    pub samples: (usize, usize),
}

/// A model that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// How it was made.
    pub what: String,
    /// Loss on the samples held back.
    pub drop: f64,
    /// Predicted time of float over that of this model, by the target's cost model.
    pub speedup: f64,
    /// Contractions in integers, and all.
    pub contractions: (usize, usize),
}

impl Tuned {
    /// True if no other trial is at once faster and more accurate.
    pub fn is_pareto(&self, i: usize) -> bool {
        let t = &self.trials[i];
        !self.trials.iter().any(|o| {
            (o.speedup >= t.speedup && o.drop < t.drop) || (o.speedup > t.speedup && o.drop <= t.drop)
        })
    }
}

/// The least number of samples: some to calibrate and some to judge.
const LEAST_SAMPLES: usize = 8;
/// Samples on which the effect of single values is measured.
const SENSITIVITY_SAMPLES: usize = 8;
/// Prices of error that are tried, as powers of two of nanoseconds: from a microsecond to an hour.
const PRICES: (f64, f64) = (10.0, 62.0);
/// The difference of two exponents at which the bisection ends.
const FINE: f64 = 0.25;

/// Which samples of every four judge; the others calibrate.
fn judges(i: usize) -> bool {
    i % 4 == 3 || i % 4 == 1
}

/// Tunes a model. `labels` of [`Metric::Top1`] belong to all samples.
///
/// # Errors
/// If there are too few samples, the metric does not suit the model, or whatever quantizing may fail with.
pub fn tune(
    model: &Model,
    samples: &dyn Samples,
    options: &TuneOptions,
    base: &Config,
    hooks: &Hooks<'_>,
) -> Result<Tuned, Error> {
    let n = samples.len();
    if n < LEAST_SAMPLES {
        let what =
            format!("tuning needs at least {LEAST_SAMPLES} samples, of which half judge; there are {n}");
        return Err(PassError::Data(what).into());
    }
    let calibration = Subset { samples, picks: (0..n).filter(|i| !judges(*i)).collect() };
    let held_back = Subset { samples, picks: (0..n).filter(|i| judges(*i)).collect() };
    let metric = options.metric.clone().unwrap_or_else(|| Judge::natural(model));
    let own = match &metric {
        Metric::Top1(labels) => Metric::Top1(held_back.picks.iter().map(|i| labels[*i]).collect()),
        other => other.clone(),
    };
    hooks.progress.pass("float outputs");
    let judge = Judge::new(model, &own, &held_back)?;
    let mut search =
        Search { model, calibration: &calibration, judge, hooks, trials: Vec::new(), best: None };
    let bound = options.max_drop;
    let mut least: Option<(f64, Config, Model)> = None;
    for (what, config) in ladder(base) {
        let (drop, made) = search.try_one(what, &config, bound)?;
        if least.as_ref().is_none_or(|(d, ..)| drop < *d) {
            least = Some((drop, config, made));
        }
        if drop <= bound {
            break;
        }
    }
    if let (None, Some((_, config, made))) = (&search.best, least) {
        search.price(&config, &made, bound)?;
    }
    let samples = (calibration.len(), held_back.len());
    let Some((chosen, model, report, config)) = search.best else {
        let what = format!("no model meets a drop of {} %, not even with everything in float", bound * 100.0);
        return Err(PassError::Config(what).into());
    };
    Ok(Tuned { model, report, config, trials: search.trials, chosen, metric, samples })
}

/// Ways to quantize with all in integers that pays, the quickest first.
fn ladder(base: &Config) -> Vec<(String, Config)> {
    // What goes back to float is decided here, not by a bound on the way.
    let base =
        Config { effort: base.effort.max(1), min_sqnr: f64::NEG_INFINITY, guide: None, ..base.clone() };
    let mut rungs = vec![(format!("ranges {}", base.method), base.clone())];
    if base.method == Method::Auto {
        for method in [Method::Mse, Method::Percentile(99.99)] {
            rungs.push((format!("ranges {method}"), Config { method, ..base.clone() }));
        }
    }
    if base.weight_method == WeightMethod::MinMax {
        let weight_method = WeightMethod::Mse;
        rungs.push(("weights by mse".into(), Config { weight_method, ..base }));
    }
    rungs
}

struct Search<'a> {
    model: &'a Model,
    calibration: &'a dyn Samples,
    judge: Judge<'a>,
    hooks: &'a Hooks<'a>,
    trials: Vec<Trial>,
    /// The fastest within the bound: its trial, and all of it.
    best: Option<(usize, Model, Report, Config)>,
}

impl Search<'_> {
    /// Quantizes and judges. The drop, and the model.
    fn try_one(&mut self, what: String, config: &Config, bound: f64) -> Result<(f64, Model), Error> {
        let mut model = self.model.clone();
        let report = crate::quantize_with(
            &mut model,
            Evidence::samples(&Tract, self.calibration),
            config,
            self.hooks,
        )?;
        self.hooks.progress.pass("judge");
        let drop = self.judge.drop(&model)?;
        let costs = report.costs;
        let speedup = costs.float as f64 / costs.integer.max(1) as f64;
        let contractions = report.integer_contractions();
        self.trials.push(Trial { what, drop, speedup, contractions });
        let faster = |best: &(usize, Model, Report, Config)| speedup > self.trials[best.0].speedup;
        if drop <= bound && self.best.as_ref().is_none_or(faster) {
            self.best = Some((self.trials.len() - 1, model.clone(), report, config.clone()));
        }
        Ok((drop, model))
    }

    /// Gives up speed where it costs most accuracy: the lowest price of error, to within a fifth, at which the bound
    /// holds.
    fn price(&mut self, config: &Config, made: &Model, bound: f64) -> Result<(), Error> {
        let few = self.calibration.len().min(SENSITIVITY_SAMPLES);
        let spread = (0..few).map(|i| i * self.calibration.len() / few).collect();
        let samples = Subset { samples: self.calibration, picks: spread };
        let progress = self.hooks.progress;
        // Each value is put into the float model by itself, so all must be in its units.
        let mut same_units = made.clone();
        if made.metadata_value("squint.equalized").is_some() {
            same_units.clone_from(self.model);
            let config = Config { equalize: false, ..config.clone() };
            let evidence = Evidence::samples(&Tract, self.calibration);
            crate::quantize_with(&mut same_units, evidence, &config, self.hooks)?;
        }
        let found = sensitivity(self.model, &same_units, &Tract, &samples, config, progress)?;
        let errors: Vec<(String, f64)> =
            found.effects.into_iter().filter(|e| e.error > 0.0).map(|e| (e.value, e.error)).collect();
        let (mut low, mut high) = PRICES;
        while high - low > FINE {
            let middle = (low + high) / 2.0;
            let guide = Guide { errors: errors.clone(), price: middle.exp2() };
            let config = Config { guide: Some(guide), ..config.clone() };
            let (drop, _) = self.try_one(format!("price of error 2^{middle:.2} ns"), &config, bound)?;
            if drop <= bound { high = middle } else { low = middle }
        }
        if self.best.is_none() {
            // Nothing that was measured to have an effect is quantized.
            let guide = Guide { errors, price: high.exp2() };
            let config = Config { guide: Some(guide), ..config.clone() };
            self.try_one("float for all that counts".into(), &config, bound)?;
        }
        Ok(())
    }
}

/// Some of the samples.
struct Subset<'a> {
    samples: &'a dyn Samples,
    picks: Vec<usize>,
}

impl Samples for Subset<'_> {
    fn len(&self) -> usize {
        self.picks.len()
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        self.samples.get(self.picks[index])
    }
}
