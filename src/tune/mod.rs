//! The fastest model within a bound on accuracy.
//!
//! Part of the samples is held back: the others calibrate, these judge. First come ways to quantize with all in
//! integers that pays, which are equally fast: a [`ladder`] of more and more work on accuracy, or, with
//! [`TuneOptions::search`], a [`descent`] over methods and schemes. The first that meets the bound is as fast as any.
//! If none does, the best of them is taken, and [`placement`] gives up speed where it costs most accuracy. Every model
//! is judged once: the number of whole-network evaluations does not grow with the network.
//!
//! Where nobody says what outputs are used for and they are not classes, a bound on their error stands for the bound on
//! the score, which is not the same: an error of one percent may be most of what separates two objects. Then the first
//! rung is what `quantize` makes, held to that error, with all the accuracy that it buys beyond while that is cheap.
//!
//! What was found is made again from all samples, those that judged among them, and kept if it still meets the bound.

mod descent;
mod judge;
mod ladder;
mod placement;
mod trials;

pub use judge::Metric;
pub use trials::Trial;

use crate::{Error, Hooks, Report};
use judge::Judge;
use squint_ir::Model;
use squint_ir::execute::{Execute, Sample, Samples};
use squint_passes::config::Config;
use squint_passes::pass::PassError;
use trials::{Subject, Trials};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct TuneOptions {
    /// What is bounded; `None` for what suits the model: expected accuracy for a classifier, else the error of the
    /// outputs.
    pub metric: Option<Metric>,
    /// The most that may be lost: 0.01 is one percent.
    pub max_drop: f64,
    /// Whether methods and schemes are searched, also beyond the first that meets the bound.
    pub search: bool,
    /// The most models that are judged.
    pub budget: usize,
}

impl Default for TuneOptions {
    fn default() -> TuneOptions {
        TuneOptions { metric: None, max_drop: 0.01, search: false, budget: BUDGET }
    }
}

/// Models that are judged at most, if nothing else is asked for: more than the ladder and the bisection take together.
pub const BUDGET: usize = 24;

/// What was found.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The fastest model within the bound.
    pub model: Model,
    /// Its report.
    pub report: Report,
    /// How it was made: `quantize` with this configuration and the samples that it names makes it again.
    pub config: Config,
    /// Every model that was judged, in order.
    pub trials: Vec<Trial>,
    /// Which of them it is.
    pub chosen: usize,
    /// The metric that was bounded.
    pub metric: Metric,
    /// Samples that calibrated, and samples that judged.
    pub samples: (usize, usize),
    /// What the model loses on the samples that judged, made from all samples; `None` if it is the one of the trial, made
    /// from the samples that calibrated.
    pub from_all: Option<f64>,
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

/// Tunes a model. `labels` of [`Metric::Top1`] belong to all samples.
///
/// # Errors
/// If there are too few samples, the metric does not suit the model, nothing within the budget meets the bound, or
/// whatever quantizing may fail with.
pub fn tune(
    model: &Model,
    executor: &dyn Execute,
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
    // An even number of them: the first of every two are what `--samples` takes of the data if it is told their number,
    // so that `quantize` can be told to calibrate on them again.
    let pairs = n / 2;
    let calibration = Subset { samples, picks: (0..pairs).map(|i| 2 * i).collect() };
    let held_back = Subset { samples, picks: (0..pairs).map(|i| 2 * i + 1).collect() };
    let metric = match &options.metric {
        Some(metric) => metric.clone(),
        None => Judge::natural(model, base)?,
    };
    let own = match &metric {
        Metric::Top1(labels) => {
            let each = labels.len() / n;
            let of = |i: &usize| labels[i * each..][..each].iter().copied();
            Metric::Top1(held_back.picks.iter().flat_map(of).collect())
        }
        other => other.clone(),
    };
    hooks.progress.pass("float outputs");
    let judge = Judge::new(model, &own, executor, &held_back, &calibration, base)?;
    let subject = Subject { float: model, executor, calibration: &calibration, hooks };
    let mut trials = Trials::new(subject, judge, options.max_drop, options.budget);
    let config = Config { guide: None, samples: Some(pairs), ..base.clone() };
    if options.metric.is_none() && metric == Metric::Sqnr && !options.search {
        ladder::climb_held(&mut trials, &config, -10.0 * options.max_drop.log10())?;
    } else {
        // What goes back to float is decided here, not by a bound on the way.
        let config = Config { min_sqnr: f64::NEG_INFINITY, ..config };
        let most_accurate = match options.search {
            true => descent::descend(&mut trials, &config)?,
            false => ladder::climb(&mut trials, &config)?,
        };
        if trials.best().is_none() {
            placement::give_up_speed(&mut trials, &most_accurate)?;
        }
    }
    let samples_of_each = (calibration.picks.len(), held_back.picks.len());
    trials.tuned(metric, samples, samples_of_each)
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
