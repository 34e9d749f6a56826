//! Whether a plan is good enough once its weights are rounded.
//!
//! Plans are tried with the weights of the float graph, as their rounding is small beside that of activations at 8 bits.
//! In most networks: where a depthwise weight has channels of very different sizes, or little is quantized, weights may be
//! most of the error. So the plan that was chosen, weights and all, is measured on samples that did not choose it, and if
//! it falls short, one is chosen again that is held to more.

use super::knee;
use crate::feedback::states;
use crate::outputs::classes_only;
use crate::pass::PassCx;
use crate::plan::Steering;
use crate::simulate::Deviation;
use squint_ir::{Model, ValueTable};

/// What becomes of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It stays.
    Enough,
    /// Another one is to be chosen, of at least so many decibels.
    Stricter(f64),
    /// Nothing is quantized.
    Float,
}

/// Plans that are chosen at most.
const TRIES: usize = 3;

/// Decibels by which the bound of the next plan is higher, at most: what little was quantized may be to blame.
const STEP: f64 = 6.0;

/// Decibels below the bound that samples which did not choose may differ by, and by which the trade of accuracy for time
/// may be off, before a plan is given up.
const SLACK: f64 = 2.0;

/// The verdict on the plan of `cx`, the `tries`-th that was chosen, held to `wanted` dB.
pub(crate) fn verdict(
    model: &Model,
    cx: &PassCx<'_>,
    measured: Deviation,
    wanted: f64,
    tries: usize,
) -> Verdict {
    let unbounded = cx.config.min_sqnr == f64::NEG_INFINITY;
    // A model that feeds states back was held to a sequence of steps.
    if unbounded || cx.config.guide.is_some() || !states(model).is_empty() {
        return Verdict::Enough;
    }
    let short = cx.config.min_sqnr - measured.worst_sqnr();
    let costs = cx.plan.costs;
    let lost = knee::worth(0.0, costs.float) - knee::worth(measured.error, costs.integer);
    if short <= SLACK && (classes_only(model.main(), cx.config.class_axis) || lost <= SLACK) {
        Verdict::Enough
    } else if tries < TRIES && short > SLACK {
        Verdict::Stricter(wanted + (short + 1.0).min(STEP))
    } else {
        Verdict::Float
    }
}

/// What is said where nothing is quantized in the end.
pub(crate) fn why_float(cx: &PassCx<'_>, measured: Deviation) -> String {
    let costs = cx.plan.costs;
    let share = 100.0 * costs.integer as f64 / costs.float.max(1) as f64;
    format!(
        "what pays in integers had {:.1} dB with rounded weights on samples held back, and was predicted to take {share:.0} % of \
         the time: all stays in float",
        measured.worst_sqnr()
    )
}

/// Steering towards a plan that quantizes nothing.
pub(crate) fn all_in_float(cx: &PassCx<'_>) -> Steering {
    let errors = prohibitive(cx);
    Steering { errors: errors.clone(), dynamic_errors: errors, price: 1.0, ..cx.steering.clone() }
}

/// Errors at which no value is quantized, whatever their price.
pub(super) fn prohibitive(cx: &PassCx<'_>) -> ValueTable<f64> {
    let mut errors = ValueTable::new();
    for v in &cx.observed {
        errors.insert(*v, f64::INFINITY);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use squint_targets::Costs;

    fn of(dims: &str, sqnr: f64, integer: u64, tries: usize) -> Verdict {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 13]> m (float[1,4] x) => (float[1,{dims}] y) {{ {} }}",
            if dims == "8" { "z = Concat<axis = 1> (x, x) y = Softmax (z)" } else { "y = Neg (x)" }
        );
        let model = crate::fuse::testing::parse(&text);
        let config = Config::new("cpu-vnni");
        let mut cx = PassCx::new(&config);
        cx.plan.costs = Costs { integer, float: 100_000 };
        let error = 10f64.powf(-sqnr / 10.0);
        verdict(&model, &cx, Deviation { error, worst: error, flips: 0.0 }, 15.0, tries)
    }

    #[test]
    fn plans_that_fall_short_are_chosen_again_and_given_up_in_the_end() {
        assert_eq!(of("8", 14.0, 50_000, 1), Verdict::Enough);
        assert_eq!(of("8", 12.0, 50_000, 1), Verdict::Stricter(19.0));
        assert_eq!(of("8", 3.0, 50_000, 2), Verdict::Stricter(21.0));
        assert_eq!(of("8", 12.0, 50_000, 3), Verdict::Float);
    }

    #[test]
    fn little_time_is_not_worth_much_accuracy_where_outputs_are_not_classes() {
        assert_eq!(of("4", 16.0, 95_000, 1), Verdict::Float);
        assert_eq!(of("4", 16.0, 80_000, 1), Verdict::Enough);
        assert_eq!(of("4", 28.0, 96_000, 1), Verdict::Enough);
        assert_eq!(of("8", 16.0, 95_000, 1), Verdict::Enough);
    }
}
