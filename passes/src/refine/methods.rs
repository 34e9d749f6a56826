//! Which method of choosing ranges suits the network: each is tried as a whole.
//!
//! Samples are few, and the first of them mislead. So all methods are tried on a part of them, which tells those that
//! are out of question, and only the best on all.

use super::Steering;
use crate::calibration::Method;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan};
use crate::simulate::{Errors, Measured};
use std::ops::Range;

/// Methods tried by `auto`, those first that clip least. The first, which clips nothing, is kept unless another is clearly
/// better, also in its largest errors; and each one unless one behind it is [`AHEAD`]: what calibration has seen rarely,
/// deployment may see more often.
const CANDIDATES: [Method; 5] =
    [FIRST, Method::Mse, Method::Percentile(99.99), Method::Auto, Method::Entropy];

/// The method that clips nothing.
pub(super) const FIRST: Method = Method::MinMax;

/// A method replaces the first only if its error is smaller by so many decibels: few samples decide.
const CLEARLY: f64 = 1.0;

/// Decibels by which a method that clips more must be better than one that clips less.
const AHEAD: f64 = 0.5;

/// All methods are tried on one of so many samples,
const FEW: usize = 3;

/// and so many on the others.
const BEST: usize = 2;

/// The ranges of a method, the plan that follows, and its errors on all samples.
pub(super) struct Choice {
    pub(super) steering: Steering,
    pub(super) plan: QuantPlan,
    pub(super) errors: Errors,
    pub(super) measured: Vec<Measured>,
}

/// Ranges by a method.
pub(super) fn by(cx: &PassCx<'_>, draft: &Draft<'_>, method: Method) -> Steering {
    Steering { ranges: Some((method, draft.solve(cx, method))), ..Steering::default() }
}

/// The best method, if all are `compared`, or the one of `steering` and `plan`: the first, or another that was asked for.
/// `measured` says what a plan does to some of so many samples.
pub(super) fn choose(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    (steering, plan): (Steering, QuantPlan),
    compared: bool,
    samples: usize,
    measured: &impl Fn(&QuantPlan, Range<usize>) -> Result<Vec<Measured>, PassError>,
) -> Result<Choice, PassError> {
    let of_first = measured(&plan, 0..samples)?;
    let first = Choice { steering, plan, errors: Errors::of(&of_first), measured: of_first };
    if !compared {
        return Ok(first);
    }
    let few = samples.div_ceil(FEW).max(2).min(samples);
    let first_on_few = Errors::of(&first.measured[..few]);
    let mut ahead = Vec::new();
    for (i, method) in CANDIDATES.into_iter().enumerate().skip(1) {
        let steering = by(cx, draft, method);
        let plan = draft.plan(cx, &steering, false);
        let on_few = measured(&plan, 0..few)?;
        let lead = Errors::of(&on_few).lead_over(&first_on_few);
        if lead > 0.0 {
            ahead.push((i, lead, steering, plan, on_few));
        }
    }
    ahead.sort_by(|(_, a, ..), (_, b, ..)| b.total_cmp(a));
    ahead.truncate(BEST);
    ahead.sort_by_key(|(i, ..)| *i);
    let (mut best, mut least) = (None, CLEARLY);
    for (_, _, steering, plan, mut all) in ahead {
        all.extend(measured(&plan, few..samples)?);
        let errors = Errors::of(&all);
        let gain = errors.gain_over(&first.errors);
        if gain > least && errors.peaks_no_more_than(&first.errors) {
            (best, least) = (Some(Choice { steering, plan, errors, measured: all }), gain + AHEAD);
        }
    }
    Ok(best.unwrap_or(first))
}
