//! Which method of choosing ranges suits the network: each is tried as a whole.
//!
//! Samples are few, and the first of them mislead. So all methods are tried on a part of them, which tells those that
//! are out of question, and only two on all: that of the least squared error, and the best of the others.

use super::Steering;
use crate::calibration::Method;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan};
use crate::simulate::{Errors, Measured};
use std::ops::Range;

/// Methods tried by `auto`, those first that clip least. The first, which clips nothing, is kept unless another is clearly
/// better, also in its largest errors; and each one unless one behind it is [`AHEAD`]: what calibration has seen rarely,
/// deployment may see more often.
const CANDIDATES: [Method; 5] = [FIRST, TRUSTED, Method::Percentile(99.99), Method::Auto, Method::Entropy];

/// The method that minimises what it is judged by, value by value and on all samples of calibration: it is always tried
/// on all samples of the trial, and where outputs are rows of scores or embeddings it replaces the first if it is [`AHEAD`] in
/// the mean. Of other numbers, a few large errors are what counts, which are seen too rarely for that.
const TRUSTED: Method = Method::Mse;

/// The method that clips nothing.
pub(super) const FIRST: Method = Method::MinMax;

/// A method replaces the first only if its error is smaller by so many decibels, the standard error taken off: few samples
/// decide.
const CLEARLY: f64 = 1.0;

/// Decibels by which a method that clips more must be better than one that clips less.
const AHEAD: f64 = 0.5;

/// All methods are tried on one of so many samples, and two on the others.
const FEW: usize = 3;

/// The ranges of a method, the plan that follows, and its errors on all samples.
pub(super) struct Choice {
    pub(super) steering: Steering,
    pub(super) plan: QuantPlan,
    pub(super) errors: Errors,
    pub(super) measured: Vec<Measured>,
}

/// A method on a part of the samples, and by how many decibels it leads the first there.
struct Trial {
    method: Method,
    lead: f64,
    steering: Steering,
    plan: QuantPlan,
    measured: Vec<Measured>,
}

/// Ranges by a method.
pub(super) fn by(cx: &PassCx<'_>, draft: &Draft<'_>, method: Method) -> Steering {
    Steering { ranges: Some((method, draft.solve(cx, method))), ..Steering::default() }
}

/// Which methods are compared, and for what.
pub(super) struct Question {
    /// Whether they are at all, or the given one stays.
    pub(super) open: bool,
    /// Whether outputs are rows of numbers, scores or embeddings, of which no single one decides.
    pub(super) rows: bool,
    /// Samples that there are to try them on.
    pub(super) samples: usize,
}

/// The best method, if that is the question, or the one of `steering` and `plan`: the first, or another that was asked
/// for. `measured` says what a plan does to some of the samples.
pub(super) fn choose(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    (steering, plan): (Steering, QuantPlan),
    Question { open, rows, samples }: Question,
    measured: &impl Fn(&QuantPlan, Range<usize>) -> Result<Vec<Measured>, PassError>,
) -> Result<Choice, PassError> {
    let of_first = measured(&plan, 0..samples)?;
    let first = Choice { steering, plan, errors: Errors::of(&of_first), measured: of_first };
    if !open {
        return Ok(first);
    }
    let few = samples.div_ceil(FEW).max(2).min(samples);
    let first_on_few = Errors::of(&first.measured[..few]);
    // The trusted one, and that of the others which is furthest ahead.
    let (mut trusted, mut other): (Option<Trial>, Option<Trial>) = (None, None);
    for method in CANDIDATES.into_iter().skip(1) {
        let steering = by(cx, draft, method);
        let plan = draft.plan(cx, &steering, false);
        let on_few = measured(&plan, 0..few)?;
        let lead = Errors::of(&on_few).lead_over(&first_on_few);
        let place = if method == TRUSTED { &mut trusted } else { &mut other };
        if lead > place.as_ref().map_or(0.0, |t| t.lead) {
            *place = Some(Trial { method, lead, steering, plan, measured: on_few });
        }
    }
    let (mut best, mut least) = (None, CLEARLY);
    for Trial { method, steering, plan, measured: mut all, .. } in trusted.into_iter().chain(other) {
        all.extend(measured(&plan, few..samples)?);
        let errors = Errors::of(&all);
        let gain = errors.gain_over(&first.errors);
        if replaces_first(method, rows, (&errors, &first.errors), least) {
            (best, least) =
                (Some(Choice { steering, plan, errors, measured: all }), CLEARLY.max(gain + AHEAD));
        }
    }
    Ok(best.unwrap_or(first))
}

/// Whether a method with these errors is taken instead of the first, if its gain must be more than `least`.
fn replaces_first(method: Method, rows: bool, (errors, of_first): (&Errors, &Errors), least: f64) -> bool {
    let likely = rows && method == TRUSTED && errors.lead_over(of_first) > AHEAD;
    (errors.gain_over(of_first) > least || likely) && errors.peaks_no_more_than(of_first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::{Error, OutputErrors};

    /// Errors on three samples by energy and peak.
    fn errors(samples: [(f64, f64); 3]) -> Errors {
        let one = |(noise, peak): (f64, f64)| Measured {
            differences: vec![Error { signal: 1.0, noise, largest: peak.sqrt(), ..Error::default() }],
            sums: OutputErrors::default(),
            outputs: vec![],
        };
        Errors::of(&samples.map(one))
    }

    #[test]
    fn what_is_likely_is_enough_for_the_trusted_method_on_rows() {
        let first = errors([(1.0, 1.0); 3]);
        // 0.9 dB in the mean, the samples disagree.
        let likely = errors([(0.5, 0.9), (0.9, 0.9), (1.1, 0.9)]);
        let taken = |method, rows, e: &Errors| replaces_first(method, rows, (e, &first), CLEARLY);
        assert!(likely.gain_over(&first) < CLEARLY && likely.lead_over(&first) > AHEAD);
        assert!(taken(TRUSTED, true, &likely));
        assert!(!taken(TRUSTED, false, &likely) && !taken(Method::Entropy, true, &likely));
        // A gain of 3 dB is clear, unless errors are larger where they are largest.
        assert!(taken(Method::Entropy, false, &errors([(0.5, 0.9); 3])));
        assert!(!taken(TRUSTED, true, &errors([(0.5, 1.1); 3])));
    }
}
