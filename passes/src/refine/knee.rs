//! Where a plan meets the bound on error, how much more accuracy is worth its time.
//!
//! Few values often make most of the error: an input of a Concat with one loud branch, the last sum of a residual
//! stream. What reads them costs little in float. So plans at rising prices of error are weighed by what they are
//! predicted to cost and what they leave of the error, and the one with the best sum is taken: a decibel is worth
//! [`WORTH`] of the time, up to [`ENOUGH`].

use super::{Bound, fingerprint};
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan, Steering};
use crate::simulate::{Deviation, Simulator};
use squint_ir::ValueTable;

/// Signal to noise beyond which no time is paid for more, in dB.
pub(super) const ENOUGH: f64 = 30.0;

/// The share of the time of a run that a decibel is worth.
const WORTH: f64 = 0.01;

/// Plans that are simulated: those that look best by the errors of single values.
const TRIED: usize = 4;

/// Powers of two that are tried as prices: from a microsecond to an hour for an error as large as the signal.
pub(super) const PRICES: (i32, i32) = (10, 62);

/// The price of the best plan that meets the bound; `None` if it is the plan without a price, or if none of those that
/// look good meets it.
///
/// # Errors
/// If the executor fails.
pub(super) fn price(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    simulator: &Simulator<'_>,
    steering: &Steering,
    (plan, deviation): (&QuantPlan, Deviation),
    bound: Bound,
) -> Result<Option<f64>, PassError> {
    let unpriced = |plan: &QuantPlan, error: f64| worth(error, draft.costs(plan).integer);
    // Errors of single values do not quite add up; how far they are off is known for one plan.
    let scale = deviation.error / sum(plan, steering).max(f64::MIN_POSITIVE);
    let least = if bound.holds(deviation) { unpriced(plan, deviation.error) } else { f64::NEG_INFINITY };
    let mut candidates: Vec<(f64, f64, QuantPlan)> = distinct(cx, draft, steering)
        .into_iter()
        .map(|(price, plan)| (unpriced(&plan, scale * sum(&plan, steering)), price, plan))
        .filter(|(worth, _, _)| *worth > least)
        .collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let mut best = (least, None);
    for (_, price, plan) in candidates.into_iter().take(TRIED) {
        let deviation = simulator.deviation(&plan)?;
        let worth = unpriced(&plan, deviation.error);
        if bound.holds(deviation) && worth > best.0 {
            best = (worth, Some(price));
        }
    }
    Ok(best.1)
}

/// Decibels of signal to noise, those not needed left out, less what the time is worth in decibels.
pub(super) fn worth(error: f64, nanoseconds: u64) -> f64 {
    let sqnr = (-10.0 * error.max(1e-30).log10()).min(ENOUGH);
    sqnr - (nanoseconds.max(1) as f64).ln() / WORTH
}

/// The error of a plan if those of single values add up.
fn sum(plan: &QuantPlan, steering: &Steering) -> f64 {
    let mut dynamic: ValueTable<()> = ValueTable::new();
    for v in plan.dynamic.iter().flat_map(|(_, d)| &d.reads) {
        dynamic.insert(*v, ());
    }
    let planned = steering.errors.iter().filter(|(v, _)| plan.values.contains(*v));
    let found =
        steering.dynamic_errors.iter().filter(|(v, _)| !plan.values.contains(*v) && dynamic.contains(*v));
    planned.chain(found).map(|(_, e)| *e).sum()
}

/// The plans at all prices, each at the lowest that makes it.
fn distinct(cx: &PassCx<'_>, draft: &Draft<'_>, steering: &Steering) -> Vec<(f64, QuantPlan)> {
    let at = |exponent: i32| {
        let price = 2f64.powi(exponent);
        let plan = draft.plan(cx, &Steering { price, ..steering.clone() }, false);
        let shape = fingerprint(&plan, steering);
        (exponent, plan, shape)
    };
    let (low, high) = PRICES;
    let mut all = vec![at(low), at(high)];
    let mut open = vec![(0usize, 1usize)];
    while let Some((a, b)) = open.pop() {
        let (low, high) = (all[a].0, all[b].0);
        if high - low > 1 && all[a].2 != all[b].2 {
            all.push(at((low + high) / 2));
            let middle = all.len() - 1;
            open.extend([(a, middle), (middle, b)]);
        }
    }
    all.sort_by_key(|(exponent, ..)| *exponent);
    all.dedup_by(|b, a| a.2 == b.2);
    all.into_iter().map(|(exponent, plan, _)| (2f64.powi(exponent), plan)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decibel_is_worth_a_hundredth_of_the_time_until_there_are_enough() {
        let at = |sqnr: f64, time: u64| worth(10f64.powf(-sqnr / 10.0), time);
        assert!(at(16.1, 100_900) > at(15.0, 100_000));
        assert!(at(15.9, 101_000) < at(15.0, 100_000));
        assert!(at(60.0, 100_001) < at(ENOUGH, 100_000));
    }
}
