//! Where a plan meets the bound on error, how much more accuracy is worth its time.
//!
//! Few values often make most of the error: an input of a Concat with one loud branch, the last sum of a residual
//! stream. What reads them costs little in float. So plans at rising prices of error are weighed by what they are
//! predicted to cost and what they leave of the error, and the one with the best sum is taken: a decibel is worth
//! [`WORTH`] of the time, up to [`ENOUGH`]; where all outputs are classes, a changed answer in a hundred [`FLIP`] decibels.

use super::{Bound, fingerprint};
use crate::outputs::Expected;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan, Steering};
use crate::simulate::{Deviation, ENOUGH_ROWS, Simulator};
use squint_ir::ValueTable;

/// Signal to noise beyond which no time is paid for more, in dB.
pub(super) const ENOUGH: f64 = 30.0;

/// The share of the time of a run that a decibel is worth.
const WORTH: f64 = 0.01;

/// Plans that are simulated at most: those that look best by the errors of single values.
const TRIED: usize = 4;

/// Powers of two that are tried as prices: from a microsecond to an hour for an error as large as the signal.
pub(super) const PRICES: (i32, i32) = (10, 62);

/// Decibels that a hundredth of the answers is worth. Of some hundred pictures of which five in a hundred get another class,
/// top-1 falls by more than a hundredth in one case of four, though nothing is lost in the mean; of one in a hundred,
/// hardly ever. By that chance a model that is twice as fast loses three hundredths of its speed for each hundredth of
/// the answers.
const FLIP: f64 = 3.0;

/// The share of answers whose change is not worth looking for another plan: a quarter of them less is hardly worth the time
/// that it takes.
pub(super) const STEADY: f64 = 0.03;

/// What a plan does to what outputs are there for.
pub(super) struct Measured {
    pub(super) deviation: Deviation,
    /// Of outputs that are classes, if they are all that counts.
    expected: Option<Vec<Expected>>,
}

impl Measured {
    /// Of a plan; `classes` if outputs are nothing else.
    ///
    /// # Errors
    /// If the executor fails.
    pub(super) fn of(
        simulator: &Simulator<'_>,
        plan: &QuantPlan,
        classes: bool,
    ) -> Result<Measured, PassError> {
        if !classes {
            return Ok(Measured { deviation: simulator.deviation(plan)?, expected: None });
        }
        let (deviation, expected) = simulator.deviation_of_classes(plan)?;
        Ok(Measured { deviation, expected: Some(expected) })
    }

    /// Of measured samples.
    pub(super) fn with(deviation: Deviation, expected: Option<Vec<Expected>>) -> Measured {
        Measured { deviation, expected }
    }

    /// The share of answers that are expected to change, where they are few.
    pub(super) fn flips(&self) -> f64 {
        self.flips_at(1.0)
    }

    fn flips_at(&self, energy: f64) -> f64 {
        // Many rows are many steps or places of an answer: these are counted, and have a bound of their own.
        let few = self.expected.iter().flatten().filter(|e| e.rows() < ENOUGH_ROWS);
        few.map(|e| e.flips_at(energy)).fold(0.0, f64::max)
    }

    /// What the accuracy and the time of this plan are worth.
    fn worth(&self, nanoseconds: u64) -> f64 {
        self.worth_at(self.deviation.error, nanoseconds)
    }

    /// The same for another plan with this error.
    fn worth_at(&self, error: f64, nanoseconds: u64) -> f64 {
        match &self.expected {
            None => worth(error, nanoseconds),
            Some(_) => {
                let energy = error / self.deviation.error.max(f64::MIN_POSITIVE);
                -FLIP * 100.0 * self.flips_at(energy) - time(nanoseconds)
            }
        }
    }
}

/// The price of the best plan that meets the bound; `None` if it is the plan without a price, or if none of those that
/// look good meets it. `measured` is what that plan does.
///
/// # Errors
/// If the executor fails.
pub(super) fn price(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    simulator: &Simulator<'_>,
    steering: &Steering,
    (plan, measured): (&QuantPlan, &Measured),
    bound: Bound,
) -> Result<Option<f64>, PassError> {
    // Errors of single values do not quite add up; how far they are off is known for one plan.
    let scale = measured.deviation.error / sum(plan, steering).max(f64::MIN_POSITIVE);
    let unpriced = || measured.worth(draft.costs(plan).integer);
    let least = if bound.holds(measured.deviation) { unpriced() } else { f64::NEG_INFINITY };
    let predicted =
        |plan: &QuantPlan| measured.worth_at(scale * sum(plan, steering), draft.costs(plan).integer);
    let mut candidates: Vec<(f64, f64, QuantPlan)> = distinct(cx, draft, steering)
        .into_iter()
        .map(|(price, plan)| (predicted(&plan), price, plan))
        .filter(|(worth, _, _)| *worth > least)
        .collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let mut best = (least, None);
    for (predicted, price, plan) in candidates.into_iter().take(TRIED) {
        // What was found is as good as what is hoped for from here on; at first all hope for more than the least.
        if best.0 >= predicted {
            break;
        }
        let found = Measured::of(simulator, &plan, measured.expected.is_some())?;
        let worth = found.worth(draft.costs(&plan).integer);
        if bound.holds(found.deviation) && worth > best.0 {
            best = (worth, Some(price));
        }
    }
    Ok(best.1)
}

/// Decibels of signal to noise, those not needed left out, less what the time is worth in decibels.
pub(super) fn worth(error: f64, nanoseconds: u64) -> f64 {
    let sqnr = (-10.0 * error.max(1e-30).log10()).min(ENOUGH);
    sqnr - time(nanoseconds)
}

/// What time is worth in decibels.
fn time(nanoseconds: u64) -> f64 {
    (nanoseconds.max(1) as f64).ln() / WORTH
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

    #[test]
    fn of_classes_a_changed_answer_in_a_hundred_is_worth_three_hundredths_of_the_time() {
        use crate::outputs::{Classes, Scale};
        use squint_ir::Tensor;
        let row = |a: f32| Tensor::from_f32(&[1, 2], &[a, 0.0]);
        let mut expected = Expected::default();
        for i in 1..=32u8 {
            let (lead, change) = (f32::from(i) / 4.0, if i % 2 == 0 { 0.5 } else { -0.5 });
            expected.take(&row(lead), &row(lead + change), Classes { axis: 1, scale: Scale::Scores });
        }
        let deviation = Deviation { error: 0.01, worst: 0.01, flips: 0.0 };
        let classes = Measured::with(deviation, Some(vec![expected]));
        let flips = classes.flips();
        assert!(flips > STEADY && flips < 0.1, "{flips}");
        let lost = time(100_000) + classes.worth(100_000);
        assert!((lost + 300.0 * flips).abs() < 1e-9);
        // A quarter of the error are half the answers, whatever the decibels.
        let quarter = classes.worth_at(0.0025, 100_000) - classes.worth(100_000);
        assert!((quarter - 150.0 * flips).abs() < 0.1 * quarter, "{quarter}");
        let numbers = Measured::with(deviation, None);
        assert!(numbers.flips() == 0.0 && numbers.worth(100_000) > classes.worth(100_000));
    }
}
