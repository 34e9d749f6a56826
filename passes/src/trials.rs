//! Which samples stages learn from and try plans on.
//!
//! A run of a small network costs nothing and a few samples mislead, so many are run; of a large one, fewer. Calibration
//! runs all samples; what stages run besides is bounded by the multiply–accumulates and the elements of a run, not by
//! seconds: the same input gives the same bytes on a slow machine, too.

use crate::infer_types::dims_of_first;
use crate::pass::{PassCx, PassError};
use crate::plan::sites_where;
use squint_ir::execute::Samples;
use squint_ir::{Model, ValueTable};
use std::ops::RangeInclusive;

/// What a run costs, and of how many samples there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trials {
    samples: usize,
    /// Dimensions of values in the first sample, as far as they follow from those of the inputs.
    pub(crate) dims: ValueTable<Vec<usize>>,
    /// Of the observed values of a run together.
    elements: usize,
    /// Multiply–accumulates of a run.
    pub(crate) macs: u64,
}

/// Numbers of samples by what they are used for.
pub(crate) struct Split {
    /// Steps learn from these.
    pub(crate) learnt_from: Vec<usize>,
    /// These decide; others, if there are enough.
    pub(crate) held_back: Vec<usize>,
}

/// Samples that decide whether a step is kept.
const HELD_BACK: RangeInclusive<usize> = 6..=24;

/// Samples that plans are tried on first: by fewer than eight the wrong method was chosen, and of few samples a quarter is
/// run, since a trial runs each many times.
const TRIED_ON: RangeInclusive<usize> = 4..=24;
const OF_MANY: usize = 8;
const QUARTER: usize = 4;

/// Samples that decide whether operators go back to float, at least.
const DECIDED_ON: usize = 8;

/// Elements that the samples of a comparison may have together, if they are not too few then.
const ELEMENTS: usize = 1 << 24;

/// Elements of outputs that are small enough to be kept of many samples, and of how many.
pub(crate) const SMALL: usize = 1 << 14;
const REMEMBERED: usize = 256;

/// Multiply–accumulates of a run from which on fewer samples than usual are run: a fifth of a second of one core.
const LARGE: u64 = 1 << 32;

/// A large network is run on one of so many samples at least.
const LEAST: usize = 3;

/// Runs that measuring single values may take. Fewer where one run takes seconds.
const SINGLE_RUNS: RangeInclusive<u64> = 24..=128;

/// Multiply–accumulates that they may take together: half a minute of one core.
const SINGLE_WORK: u64 = 1 << 39;

impl Trials {
    /// By what a run of the first sample costs. `cx` has the facts and the observed values of the graph.
    ///
    /// # Errors
    /// If the sample cannot be read or the graph has a cycle.
    pub(crate) fn of(model: &Model, cx: &PassCx<'_>, samples: &dyn Samples) -> Result<Trials, PassError> {
        if samples.is_empty() {
            return Ok(Trials::default());
        }
        let dims = dims_of_first(model, samples)?;
        let elements = cx.observed.iter().filter_map(|v| dims.get(*v)).map(|d| d.iter().product::<usize>());
        let elements = elements.sum();
        let sites = sites_where(model, cx, &dims)?;
        let macs = sites.iter().map(|(_, site)| site.macs()).fold(0, u64::saturating_add);
        Ok(Trials { samples: samples.len(), elements, macs, dims })
    }

    /// For a step that learns from so many samples; from half of those there are, at most.
    pub(crate) fn split(&self, learnt_from: usize) -> Split {
        let learnt_from = self.fewer(learnt_from).min(self.samples.div_ceil(2));
        let learnt_from = spread(self.samples, learnt_from, 0.0);
        let held_back = self.held_back(&learnt_from);
        Split { learnt_from, held_back }
    }

    /// Those that decide on what was learnt from others, unless there are no others.
    pub(crate) fn held_back(&self, learnt_from: &[usize]) -> Vec<usize> {
        let others: Vec<usize> = (0..self.samples).filter(|i| !learnt_from.contains(i)).collect();
        if others.is_empty() {
            return learnt_from.to_vec();
        }
        let chosen = spread(others.len(), self.affordable(HELD_BACK), 0.5);
        chosen.into_iter().map(|i| others[i]).collect()
    }

    /// Those that plans are tried on first.
    pub(crate) fn tried_on(&self) -> Vec<usize> {
        let least = (self.samples / QUARTER).clamp(*TRIED_ON.start(), OF_MANY);
        spread(self.samples, self.affordable(least..=*TRIED_ON.end()), 0.0)
    }

    /// Those that decide whether operators go back to float: those that plans are tried on, unless they are too few.
    pub(crate) fn decided_on(&self) -> Vec<usize> {
        let (tried_on, least) = (self.tried_on(), self.fewer(DECIDED_ON));
        if tried_on.len() < least { spread(self.samples, least, 0.0) } else { tried_on }
    }

    /// Those whose outputs are kept although no plan is tried on them, if outputs of so many elements are small: they tell
    /// how narrow the leads of classes are.
    pub(crate) fn remembered(&self, elements: usize) -> Vec<usize> {
        if elements > SMALL { Vec::new() } else { spread(self.samples, REMEMBERED, 0.0) }
    }

    /// Runs that measuring single values may take.
    pub(crate) fn single_runs(&self) -> usize {
        // As many as calibration takes, since half of each is shared.
        let like_calibration = 2 * self.samples as u64;
        let allowed = (SINGLE_WORK / self.macs.max(1)).min(like_calibration);
        allowed.clamp(*SINGLE_RUNS.start(), *SINGLE_RUNS.end()) as usize
    }

    /// So many samples that a comparison of plans takes: more where samples are small and chance is large.
    fn affordable(&self, range: RangeInclusive<usize>) -> usize {
        self.fewer((ELEMENTS / self.elements.max(1)).clamp(*range.start(), *range.end()))
    }

    /// So many runs, or fewer of a large network.
    fn fewer(&self, runs: usize) -> usize {
        let allowed = (runs as u64 * LARGE / self.macs.max(1)) as usize;
        allowed.clamp(runs.div_ceil(LEAST), runs)
    }
}

/// So many samples of `n`, evenly spread, beginning at a part of their distance.
pub(crate) fn spread(n: usize, count: usize, offset: f64) -> Vec<usize> {
    let count = count.clamp(1, n.max(1));
    let mut all: Vec<usize> =
        (0..count).map(|i| ((i as f64 + offset) * n as f64 / count as f64) as usize).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread() {
        assert_eq!(spread(10, 4, 0.0), [0, 2, 5, 7]);
        assert_eq!(spread(2, 8, 0.5), [0, 1]);
        let trials = Trials { samples: 10, elements: 1 << 30, ..Trials::default() };
        assert_eq!((trials.tried_on(), trials.decided_on().len()), (vec![0, 2, 5, 7], 8));
        let more = Trials { samples: 64, ..trials.clone() };
        assert_eq!(more.tried_on(), [0, 8, 16, 24, 32, 40, 48, 56]);
        let Split { learnt_from, held_back } = trials.split(4);
        assert_eq!((learnt_from, held_back), (vec![0, 2, 5, 7], vec![1, 3, 4, 6, 8, 9]));
        for learnt_from in 1..=64 {
            let Split { learnt_from, held_back } = more.split(learnt_from);
            assert_eq!(held_back.len(), *HELD_BACK.start(), "{learnt_from:?}");
            assert!(held_back.iter().all(|i| !learnt_from.contains(i)), "{learnt_from:?} {held_back:?}");
        }
        let one = Trials { samples: 1, ..trials }.split(4);
        assert_eq!((one.learnt_from, one.held_back), (vec![0], vec![0]));
    }

    #[test]
    fn many_small_samples_are_run_and_few_large_ones() {
        let of = |elements, macs| Trials { samples: 64, elements, macs, ..Trials::default() };
        assert_eq!(of(1 << 20, 0).tried_on().len(), 16);
        assert_eq!(of(1 << 10, 0).tried_on().len(), 24);
        assert_eq!(of(1 << 24, LARGE).decided_on().len(), 8);
        assert_eq!(of(1 << 24, 2 * LARGE).decided_on().len(), 4);
        let huge = of(1 << 24, u64::MAX);
        assert_eq!(
            (huge.decided_on().len(), huge.tried_on().len(), huge.split(12).learnt_from.len()),
            (3, 3, 4)
        );
        assert_eq!((huge.single_runs(), of(0, 0).single_runs()), (24, 128));
    }
}
