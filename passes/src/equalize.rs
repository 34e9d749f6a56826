//! `equalize`: scales channels between operators, so that all of them use the range that their value is
//! quantized with. The float function stays the same.
//!
//! A value is quantized with one scale. A channel that lives in a hundredth of the range is left with two or
//! three levels of 256. Behind a contraction, whose weight takes a factor for each output channel, and before
//! another, which takes its inverse for each input channel, a channel can be scaled up for nothing:
//!
//! ```text
//! relu(W₁x + b₁) W₂  =  relu(S W₁x + S b₁) (S⁻¹ W₂)       S = diag(s), s > 0
//! ```
//!
//! 1. [`classes`]: which channels can be scaled, and which only together.
//! 2. [`ranges`]: what a few samples show of each channel.
//! 3. [`factors`]: the factor of each class.
//! 4. [`apply`]: constants are scaled.
//!
//! Samples that were not looked at decide whether the scaled graph is kept: quantized, weights included, its
//! outputs must be closer to those of the float graph than without.
//!
//! A Clip commutes with a factor only for channels that stay below its bound: those that reach it on data
//! keep the factor 1, and others are scaled no further than the bound.

mod absorb;
mod apply;
mod classes;
mod coordinates;
mod factors;
mod ranges;

use crate::calibrate::{Tally, prepare, threads};
use crate::float_graph::FloatGraph;
use crate::in_order::in_order;
use crate::overrides::of_tensor;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan, Steering};
use crate::simulate::Simulator;
use crate::trials::Split;
use crate::weights::rounded;
pub(crate) use absorb::absorb;
use classes::{Channels, Classes};
use factors::Solution;
use ranges::Ranges;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, ValueId};

/// The key of the metadata that has the names of scaled values, one a line: they are not to be compared with those
/// of the float model.
pub(crate) const SCALED: &str = "squint.equalized";

/// Name of the stage.
pub(crate) const NAME: &str = "equalize";

/// Samples that are looked at.
const LOOKED_AT: usize = 16;

/// Bytes of weights of which no two more copies are held.
const LARGE: usize = 64 << 20;

/// The scaled graph is kept if its error is smaller by so many decibels.
const CLEARLY: f64 = 0.1;

/// Decibels that factors must be expected to bring to be tried.
const WORTH_TRYING: f64 = 0.25;

/// What the stage found out.
#[derive(Default)]
pub(crate) struct Outcome<'e> {
    /// The graph to go on with, if it is another.
    pub(crate) model: Option<Model>,
    /// That graph as it was run, and what samples have shown of it already.
    pub(crate) begun: Option<(FloatGraph<'e>, Tally)>,
}

/// Looks for a better scaled graph.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn equalize<'e>(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &'e dyn Execute,
    samples: &dyn Samples,
) -> Result<Outcome<'e>, PassError> {
    if samples.is_empty() {
        return Ok(Outcome::default());
    }
    let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
    let mut classes = Classes::new(model, &order, &cx.trials.dims);
    // Ranges that are asked for are in the units of the float model.
    let asked_for = |v: &&ValueId| of_tensor(&cx.config.overrides, model.main(), **v).range.is_some();
    cx.observed.iter().filter(asked_for).for_each(|v| classes.pin(*v));
    let wanted = |v: &ValueId| {
        classes.of(*v).filter(|c| c.ids.iter().any(|id| !classes.pinned(classes.class(*id)))).cloned()
    };
    let watched: Vec<Option<Channels>> = cx.observed.iter().map(wanted).collect();
    if watched.iter().all(Option::is_none) {
        return Ok(Outcome::default());
    }
    let observed = cx.observed.clone();
    let Split { learnt_from: looked_at, held_back } = cx.trials.split(LOOKED_AT);
    let mut float = FloatGraph::for_trials(model, &observed, executor, &cx.trials)?;
    float.keep(&held_back);
    let watch = Watch {
        observed: &observed,
        watched: &watched,
        samples,
        threads: threads(cx.config),
        each: cx.config.method.depends_on_order(),
    };
    let (mut tally, seen) = watch.run(&float, &looked_at)?;
    let Solution { factors, gain } = factors::solve(model.main(), &classes, &seen);
    let stays = |float, tally| Ok(Outcome { model: None, begun: Some((float, tally)) });
    if factors.iter().all(|s| *s == 1.0) || gain < WORTH_TRYING {
        return stays(float, tally);
    }
    let planned = |cx: &mut PassCx<'_>, model: &Model, tally: &Tally| {
        cx.statistics = tally.clone().statistics(model, &observed);
        Ok::<_, PassError>(Draft::new(model, cx)?.plan(cx, &Steering::default(), true))
    };
    let plan = planned(cx, model, &tally)?;
    if plan.is_float() {
        return stays(float, tally);
    }
    let mut scaled = apply::apply(model, &classes, &factors);
    let g = model.main();
    let names: Vec<&str> = classes.scaled(&factors).into_iter().map(|v| g.value(v).name()).collect();
    scaled.set_metadata(SCALED, &names.join("\n"));
    let float_scaled = FloatGraph::for_trials(&scaled, &observed, executor, &cx.trials)?;
    let nothing = Watch { watched: &vec![None; watched.len()], ..watch };
    let (tally_of_scaled, _) = nothing.run(&float_scaled, &looked_at)?;
    let plans = [plan, planned(cx, &scaled, &tally_of_scaled)?];

    // Samples held back are run in float for their outputs. What they show of values besides counts if the graph stays; no
    // range knows of it here: of scaled channels many reach the end of the range, and what goes beyond shows what other
    // data will do.
    let others: Vec<usize> = held_back.iter().copied().filter(|i| !tally.done().contains(i)).collect();
    let (tally_of_others, _) = nothing.run(&float, &others)?;
    let simulator = Simulator::on(model, &float, &observed, samples, &held_back, cx.config)?;
    let session = |(model, plan): (&Model, &QuantPlan)| prepare(&rounded(model, plan)?, &observed, executor);
    // Four layouts of the weights at once are too much where they are large: those that are not used are made again.
    let large =
        plans[0].weights.iter().filter_map(|(op, w)| model.main().konst(model.main().operand(op, w.slot)?));
    let large = large.map(|w| w.bytes().len()).sum::<usize>() > LARGE;
    if large {
        float.session().release();
        float_scaled.session().release();
    }
    let (before, after) = simulator.errors_of_two(
        !large,
        || session((model, &plans[0])).map(|s| (s, &plans[0])),
        || session((&scaled, &plans[1])).map(|s| (s, &plans[1])),
    )?;
    let gain = after.gain_over(&before);
    if gain > CLEARLY {
        cx.notes.add("", format!("channels equalised: {gain:.1} dB less error on samples held back"));
        Ok(Outcome { model: Some(scaled), begun: Some((float_scaled, tally_of_scaled)) })
    } else {
        tally.merge(&tally_of_others);
        stays(float, tally)
    }
}

/// What a sample shows of watched channels, by the number of the value; `None` where they do not fit it.
type Shown = Vec<(usize, Option<Ranges>)>;

/// Which channels are watched in runs of some samples.
struct Watch<'a> {
    observed: &'a [ValueId],
    watched: &'a [Option<Channels>],
    samples: &'a dyn Samples,
    threads: usize,
    /// Whether each sample is remembered by itself.
    each: bool,
}

impl Watch<'_> {
    /// What the samples of these numbers show, of values and of watched channels. A value whose channels do
    /// not fit some sample is left out.
    fn run(
        &self,
        float: &FloatGraph<'_>,
        numbers: &[usize],
    ) -> Result<(Tally, Vec<(ValueId, Ranges)>), PassError> {
        let mut tally = Tally::new(self.observed.len(), self.each);
        let mut seen: Vec<Option<Ranges>> = vec![None; self.observed.len()];
        let mut misfit = vec![false; self.observed.len()];
        // Merged in the order of samples, since sums depend on it.
        in_order(
            numbers,
            self.threads,
            |i| self.one(float, i),
            |_, (part, ranges)| {
                tally.merge(&part);
                for (slot, r) in ranges {
                    match (&mut seen[slot], r) {
                        (_, None) => misfit[slot] = true,
                        (Some(all), Some(r)) => all.merge(&r),
                        (all, Some(r)) => *all = Some(r),
                    }
                }
                Ok::<_, PassError>(())
            },
        )?;
        let all = self.observed.iter().zip(seen).zip(misfit);
        Ok((tally, all.filter(|(_, misfit)| !misfit).filter_map(|((v, r), _)| Some((*v, r?))).collect()))
    }

    fn one(&self, float: &FloatGraph<'_>, i: usize) -> Result<(Tally, Shown), PassError> {
        let sample = self.samples.get(i).map_err(PassError::Data)?;
        let mut tally = Tally::new(self.observed.len(), self.each);
        tally.begin(i, &sample, false);
        let mut ranges = Vec::new();
        float.run(i, &sample, &mut |slot, dims, data| {
            tally.observe(i, slot, dims, data);
            if let Some(channels) = &self.watched[slot] {
                ranges.push((slot, Ranges::of(channels, dims, data)));
            }
        })?;
        Ok((tally, ranges))
    }
}

#[cfg(test)]
mod tests;
