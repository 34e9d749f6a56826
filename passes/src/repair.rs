//! `repair`: makes a plan more accurate without changing what runs in which kernel.
//!
//! The plan has scales; what is left to choose are the integers of the weights and the biases. Each step works
//! on a part of the samples and is kept only if the plan, simulated with weights on others, comes closer to the
//! float graph:
//!
//! 1. [`rounding`]: integers of the weights that keep the results of each layer, not those nearest to the
//!    weights; at an effort of 2 and more.
//! 2. [`bias`]: biases that take back shifts that rounding has caused.

mod bias;
mod lockstep;
mod moments;
mod rounding;

use crate::calibrate::{prepare, threads};
use crate::config::Config;
use crate::float_graph::FloatGraph;
use crate::pass::{PassCx, PassError};
use crate::plan::QuantPlan;
use crate::simulate::{Deviation, Simulator};
use crate::trials::Split;
use crate::weights::rounded;
use squint_ir::execute::{Execute, Sample, Samples};
use squint_ir::{Model, ValueId};

/// Name of the stage.
pub(crate) const NAME: &str = "repair";

/// Samples that steps learn from.
pub(crate) const LEARNT_FROM: usize = 12;

/// Samples that say how good the result is.
const JUDGED_ON: usize = 8;

/// Repairs `cx.plan`. What the plan does to the outputs, weights rounded, of samples that are held back, and if these are few
/// of others, too; `None` if no weight is rounded.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn repair(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    float: &FloatGraph<'_>,
    samples: &dyn Samples,
) -> Result<Option<Deviation>, PassError> {
    if samples.is_empty() || cx.plan.weights.iter().next().is_none() {
        return Ok(None);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(cx.config)).build();
    let pool = pool.map_err(|e| PassError::Config(format!("threads for repairs: {e}")))?;
    pool.install(|| try_steps(model, cx, executor, float, samples)).map(Some)
}

fn try_steps(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    float: &FloatGraph<'_>,
    samples: &dyn Samples,
) -> Result<Deviation, PassError> {
    let Split { learnt_from, held_back } = cx.trials.split(LEARNT_FROM);
    let observed = cx.observed.clone();
    let work =
        Work { config: cx.config, model, executor, observed: &observed, samples, numbers: &learnt_from };
    let corrected = |plan: &QuantPlan| bias::correct(&work, plan);
    let mut candidates = Vec::new();
    candidates.extend(corrected(&cx.plan)?.map(|plan| ("biases corrected", plan)));
    if cx.config.effort > 1 {
        let rounded = rounding::round(&work, &cx.plan)?;
        let both = corrected(&rounded)?;
        candidates.extend(
            both.map(|plan| ("weights rounded by the results of their layers and biases corrected", plan)),
        );
        candidates.push(("weights rounded by the results of their layers", rounded));
    }
    let simulator = Simulator::on(model, float, &observed, samples, &held_back, cx.config)?;
    let session = |plan: &QuantPlan| prepare(&rounded(model, plan)?, &observed, executor);
    let measured = |plan: &QuantPlan| simulator.errors_in(session(plan)?.as_ref(), plan);
    let errors = measured(&cx.plan)?;
    let mut best = (CLEARLY, errors.clone(), None);
    for (what, plan) in candidates {
        let repaired = measured(&plan)?;
        let gain = repaired.gain_over(&errors);
        if gain > best.0 {
            best = (gain, repaired, Some((what, plan)));
        }
    }
    let (gain, errors, found) = best;
    if let Some((what, plan)) = found {
        cx.notes.add("", format!("{what}: {gain:.1} dB less error on samples held back"));
        cx.plan = plan;
    }
    let others: Vec<usize> = learnt_from.iter().copied().filter(|i| !held_back.contains(i)).collect();
    let more = &others[..JUDGED_ON.saturating_sub(held_back.len()).min(others.len())];
    if more.is_empty() || cx.config.min_sqnr == f64::NEG_INFINITY {
        return Ok(errors.deviation());
    }
    let simulator = Simulator::on(model, float, &observed, samples, more, cx.config)?;
    let session = session(&cx.plan)?;
    Ok(errors.deviation_with(&simulator.errors_in(session.as_ref(), &cx.plan)?))
}

/// A plan is kept if its error is smaller by so many decibels.
const CLEARLY: f64 = 0.05;

/// What steps work with.
struct Work<'a> {
    config: &'a Config,
    model: &'a Model,
    executor: &'a dyn Execute,
    observed: &'a [ValueId],
    samples: &'a dyn Samples,
    /// The samples that steps learn from.
    numbers: &'a [usize],
}

impl Work<'_> {
    fn sample(&self, number: usize) -> Result<Sample, PassError> {
        self.samples.get(number).map_err(PassError::Data)
    }
}
