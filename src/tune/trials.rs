//! Models that are tried: each is quantized, judged and remembered.

use super::judge::Judge;
use super::{Metric, Tuned};
use crate::{Error, Evidence, Hooks, Report};
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_ir::fingerprint::Fingerprint;
use squint_passes::config::Config;
use squint_passes::pass::PassError;
use std::collections::BTreeMap;

/// The share of the predicted speed-up that a model made from all samples must have.
const AS_FAST: f64 = 0.99;

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

/// A trial with all that belongs to it.
#[derive(Clone)]
pub(super) struct Made {
    /// Its position among the trials.
    pub(super) number: usize,
    pub(super) drop: f64,
    pub(super) speedup: f64,
    pub(super) model: Model,
    pub(super) config: Config,
    report: Report,
}

/// What is tuned.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The float model.
    pub(super) float: &'a Model,
    pub(super) executor: &'a dyn Execute,
    /// Samples that calibrate.
    pub(super) calibration: &'a dyn Samples,
    pub(super) hooks: &'a Hooks<'a>,
}

impl<'a> Subject<'a> {
    pub(super) fn evidence(&self) -> Evidence<'a> {
        Evidence::samples(self.executor, self.calibration)
    }
}

/// What the target's cost model says of a model: 1 where it says nothing.
pub(super) fn speedup(report: &Report) -> f64 {
    match (report.costs.float, report.costs.integer) {
        (0, _) | (_, 0) => 1.0,
        (float, integer) => float as f64 / integer as f64,
    }
}

/// All that is tried, within a budget.
pub(super) struct Trials<'a> {
    pub(super) subject: Subject<'a>,
    /// The most that may be lost.
    pub(super) bound: f64,
    judge: Judge<'a>,
    budget: usize,
    all: Vec<Trial>,
    /// What models lost, by their content.
    judged: BTreeMap<String, f64>,
    best: Option<Made>,
}

impl<'a> Trials<'a> {
    pub(super) fn new(subject: Subject<'a>, judge: Judge<'a>, bound: f64, budget: usize) -> Trials<'a> {
        let (all, judged) = (Vec::new(), BTreeMap::new());
        Trials { subject, bound, judge, budget, all, judged, best: None }
    }

    /// The fastest within the bound; of equally fast ones the most accurate.
    pub(super) fn best(&self) -> Option<&Made> {
        self.best.as_ref()
    }

    /// Whether another model may be judged.
    pub(super) fn affords_another(&self) -> bool {
        self.all.len() < self.budget
    }

    /// Quantizes and judges; `None` if the budget is spent. A model that was judged under another description is not
    /// judged again, and counts once.
    pub(super) fn try_one(&mut self, what: &str, config: &Config) -> Result<Option<Made>, Error> {
        if !self.affords_another() {
            return Ok(None);
        }
        let Subject { float, hooks, .. } = self.subject;
        let mut model = float.clone();
        let report = crate::quantize_with(&mut model, self.subject.evidence(), config, hooks)?;
        let hash = Fingerprint::of(&model).map_err(|c| PassError::Model(c.to_string()))?.hash;
        let speedup = speedup(&report);
        let known = self.judged.get(&hash).copied();
        let drop = match known {
            Some(drop) => drop,
            None => {
                hooks.progress.pass("judge");
                self.judge.drop(&model)?
            }
        };
        if known.is_none() {
            self.judged.insert(hash, drop);
            let contractions = report.integer_contractions();
            self.all.push(Trial { what: what.to_owned(), drop, speedup, contractions });
        }
        let made = Made { number: self.all.len() - 1, drop, speedup, model, config: config.clone(), report };
        if known.is_none() && self.is_better(&made) {
            self.best = Some(made.clone());
        }
        Ok(Some(made))
    }

    /// Whether a model meets the bound.
    pub(super) fn holds(&self, made: &Made) -> bool {
        made.drop <= self.bound
    }

    fn is_better(&self, made: &Made) -> bool {
        let order = |m: &Made| (m.speedup, -m.drop);
        self.holds(made) && self.best.as_ref().is_none_or(|b| order(made) > order(b))
    }

    /// The result, made again from all samples.
    ///
    /// # Errors
    /// If nothing met the bound.
    pub(super) fn tuned(
        self,
        metric: Metric,
        all_samples: &dyn Samples,
        samples: (usize, usize),
    ) -> Result<Tuned, Error> {
        let Some(best) = &self.best else {
            let least = self.all.iter().map(|t| t.drop).fold(f64::INFINITY, f64::min);
            let what = format!(
                "no model meets a drop of {} %; of {} that were tried the best lost {:.3} %{}",
                self.bound * 100.0,
                self.all.len(),
                least * 100.0,
                if self.all.len() < self.budget { "" } else { ": a larger budget may find one" }
            );
            return Err(PassError::Config(what).into());
        };
        let again = self.made_from_all(best, all_samples)?;
        let from_all = again.as_ref().map(|m| m.drop);
        let Made { number: chosen, model, report, config, .. } = again.unwrap_or_else(|| best.clone());
        Ok(Tuned { model, report, config, trials: self.all, chosen, metric, samples, from_all })
    }

    /// A model made in the same way from all samples: more of them describe ranges better. `None` if it does not meet the
    /// bound, or if it is slower although nothing but the bound decides over speed: what was placed by measured errors may
    /// be placed otherwise.
    fn made_from_all(&self, made: &Made, samples: &dyn Samples) -> Result<Option<Made>, Error> {
        let Subject { float, executor, hooks, .. } = self.subject;
        let config = Config { samples: Some(samples.len()), ..made.config.clone() };
        let mut model = float.clone();
        let report = crate::quantize_with(&mut model, Evidence::samples(executor, samples), &config, hooks)?;
        let speedup = speedup(&report);
        let fastest = config.min_sqnr == f64::NEG_INFINITY;
        if fastest && speedup < made.speedup * AS_FAST {
            return Ok(None);
        }
        hooks.progress.pass("judge");
        let drop = self.judge.drop(&model)?;
        let again = Made { number: made.number, drop, speedup, model, config, report };
        Ok(self.holds(&again).then_some(again))
    }
}
