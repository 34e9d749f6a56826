//! Ranges refined one by one, by what they do to the outputs.
//!
//! The whole network is run for every range that is tried, on several samples, so the values whose rounding costs most
//! come first and the work is bounded: in multiply–accumulates, not in seconds, since the same input must give the
//! same bytes on a slow machine, too. What was gained is checked on other samples, and taken back if they lose by it.

use super::Steering;
use crate::calibration::Range;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan};
use crate::runner::Progress;
use crate::simulate::Errors;
use squint_ir::{ValueId, ValueTable};

/// Factors on ranges that are tried.
const FACTORS: [f32; 3] = [0.85, 0.7, 1.15];

/// A range is changed if the error is smaller by so many decibels.
const SLIGHTLY: f64 = 0.01;

/// Multiply–accumulates that all runs together may take: a few minutes of two cores.
const WORK: u64 = 1 << 39;

/// Runs that are made at most, and at least: a network without contractions still takes time.
const RUNS: std::ops::RangeInclusive<u64> = 64..=16384;

/// What a plan does to some samples.
pub(super) type Measure<'a> = dyn Fn(&QuantPlan) -> Result<Errors, PassError> + 'a;

/// How plans are measured.
pub(super) struct Bench<'a> {
    pub(super) draft: &'a Draft<'a>,
    /// What a plan does to the samples that ranges are chosen by.
    pub(super) errors: &'a Measure<'a>,
    /// What it does to other samples, if there are any.
    pub(super) others: Option<&'a Measure<'a>>,
    /// Samples in a measurement of `errors`.
    pub(super) samples: usize,
    pub(super) progress: &'a dyn Progress,
}

impl Bench<'_> {
    /// Refines the ranges of `steering`, which makes `plan` with the error `least`. `order` are the values, the worst
    /// first.
    pub(super) fn refine(
        &self,
        cx: &PassCx<'_>,
        order: &[ValueId],
        steering: &mut Steering,
        plan: &mut QuantPlan,
        mut least: Errors,
    ) -> Result<(), PassError> {
        let before = (steering.clone(), plan.clone());
        let tries = tries(self.draft.macs(), self.samples).min(order.len() * FACTORS.len());
        let mut tried = 0;
        'values: for v in order {
            for factor in FACTORS {
                if tried == tries {
                    break 'values;
                }
                tried += 1;
                self.progress.samples(tried, tries);
                let Some(other) = scaled(steering, *v, factor) else { continue };
                let with = self.draft.plan(cx, &other, false);
                // Ranges that another one rules change nothing.
                if with.values.iter().eq(plan.values.iter()) {
                    continue;
                }
                let now = (self.errors)(&with)?;
                if now.gain_over(&least) > SLIGHTLY {
                    (*steering, *plan, least) = (other, with, now);
                    break;
                }
            }
        }
        if let Some(others) = self.others
            && others(plan)?.gain_over(&others(&before.1)?) <= 0.0
        {
            (*steering, *plan) = before;
        }
        Ok(())
    }
}

/// Ranges with one of them scaled; `None` if there is none for the value.
fn scaled(steering: &Steering, v: ValueId, factor: f32) -> Option<Steering> {
    let (method, ranges) = steering.ranges.as_ref()?;
    let range = *ranges.get(v)?;
    let mut changed = ValueTable::clone(ranges);
    changed.insert(v, Range { lo: range.lo * factor, hi: range.hi * factor, ..range });
    Some(Steering { ranges: Some((*method, changed.into())), ..steering.clone() })
}

/// Ranges that are tried on a network of so many multiply–accumulates.
fn tries(macs: u64, samples: usize) -> usize {
    let runs = (WORK / macs.max(1)).clamp(*RUNS.start(), *RUNS.end());
    usize::try_from(runs).unwrap_or(usize::MAX) / samples.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_networks_are_tried_less_often() {
        assert_eq!(tries(0, 4), 4096);
        assert_eq!(tries(300_000_000, 4), 458);
        assert_eq!(tries(u64::MAX, 4), 16);
    }
}
