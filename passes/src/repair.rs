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
mod moments;
mod rounding;

use crate::calibrate::{prepare, threads};
use crate::config::Config;
use crate::float_graph::FloatGraph;
use crate::pass::{PassCx, PassError};
use crate::plan::QuantPlan;
use crate::simulate::{Deviation, Errors, Simulator, round};
use crate::trials::Split;
use crate::weights::rounded;
use bias::Layer;
pub(crate) use bias::{ChannelSums, Channels, summed};
use squint_ir::execute::{Execute, Sample, Samples, Session};
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
    let nearest = Rounded::new(&work, &cx.plan)?;
    let corrected = |graph: &Rounded<'_>, plan: &QuantPlan| bias::correct(&work, float, graph, plan);
    let by_results = match cx.config.effort {
        0 | 1 => None,
        _ => Some(rounding::round(&work, &cx.plan)?),
    };
    let by_results =
        by_results.map(|plan| Ok::<_, PassError>((Rounded::new(&work, &plan)?, plan))).transpose()?;
    let mut candidates = Vec::new();
    candidates.extend(corrected(&nearest, &cx.plan)?.map(|plan| ("biases corrected", &nearest, plan)));
    if let Some((graph, plan)) = &by_results {
        let both = "weights rounded by the results of their layers and biases corrected";
        candidates.extend(corrected(graph, plan)?.map(|plan| (both, graph, plan)));
        candidates.push(("weights rounded by the results of their layers", graph, plan.clone()));
    }
    let simulator = Simulator::on(model, float, &observed, samples, &held_back, cx.config)?;
    let errors = nearest.errors(model, &simulator, &cx.plan)?;
    let mut best = (CLEARLY, errors.clone(), &nearest, None);
    for (what, graph, plan) in candidates {
        let repaired = graph.errors(model, &simulator, &plan)?;
        let gain = repaired.gain_over(&errors);
        if gain > best.0 {
            best = (gain, repaired, graph, Some((what, plan)));
        }
    }
    let (gain, errors, graph, found) = best;
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
    Ok(errors.deviation_with(&graph.errors(model, &simulator, &cx.plan)?))
}

/// The graph with the rounded weights of a plan, ready to run. Plans that differ in their biases share it: what they differ
/// by is added to the results.
struct Rounded<'e> {
    session: Box<dyn Session + 'e>,
    plan: QuantPlan,
    /// Layers whose biases can be chosen.
    layers: Vec<Layer>,
    /// The values that are exposed: those that are observed, and then results of layers.
    watched: Vec<ValueId>,
    /// Of exposed values the layer that they are results of.
    layer_at: Vec<Option<usize>>,
}

impl<'e> Rounded<'e> {
    fn new(work: &Work<'e>, plan: &QuantPlan) -> Result<Rounded<'e>, PassError> {
        let layers = bias::layers(work.model.main(), plan.weights.iter().map(|(op, _)| op));
        let mut watched = work.observed.to_vec();
        watched.extend(layers.iter().map(|l| l.result).filter(|v| !work.observed.contains(v)));
        let layer_at = watched.iter().map(|v| layers.iter().position(|l| l.result == *v)).collect();
        let session = prepare(&rounded(work.model, plan)?, &watched, work.executor)?;
        Ok(Rounded { session, plan: plan.clone(), layers, watched, layer_at })
    }

    /// The layer that an exposed value is the result of.
    fn layer_at(&self, slot: usize) -> Option<usize> {
        self.layer_at.get(slot).copied().flatten()
    }

    /// What a plan with these weights does to samples.
    fn errors(
        &self,
        model: &Model,
        simulator: &Simulator<'_>,
        plan: &QuantPlan,
    ) -> Result<Errors, PassError> {
        let shifts = bias::differences(model.main(), &self.layers, plan, &self.plan);
        let roundings = simulator.roundings(plan);
        simulator.errors_with(self.session.as_ref(), &|slot, dims, data| {
            if let Some(i) = self.layer_at(slot)
                && let Some(shift) = &shifts[i]
            {
                self.layers[i].shift(dims, data, shift);
            }
            round(&roundings, slot, data);
        })
    }
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
