//! Refines decisions by trying them: plans are simulated on a few samples, and what hurts is taken back.
//!
//! 1. *Ranges.* No method of choosing ranges is best for every network: one clips outliers that another
//!    network lives on. With the method `auto`, each of a few methods is tried as a whole and the one with
//!    the least error at the outputs is taken.
//! 2. *Placement.* If the outputs are still worse than the bound, each quantized value is tried alone; its
//!    error becomes a price on quantizing it, which the minimum cut of the placement weighs against speed.
//!    The lowest price of error at which the simulated plan meets the bound is found by bisection: the
//!    fastest plan, as costs go, that is accurate enough.

use crate::calibration::Method;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, QuantPlan, Steering};
use crate::simulate::{Deviation, Simulator};
use squint_ir::execute::{Samples, Session};
use squint_ir::{Model, Type, ValueId};

/// Name of the stage.
pub(crate) const NAME: &str = "refine";

/// Methods tried by `auto`. The first is kept unless another is clearly better.
const CANDIDATES: [Method; 3] = [Method::Auto, Method::MinMax, Method::Entropy];

/// Samples that plans are tried on.
const SAMPLES: usize = 3;

/// Samples that decide whether operators go back to float.
const MORE_SAMPLES: usize = 8;

/// Runs that measuring single values may take: about as many as calibration takes.
const SINGLE_RUNS: usize = 128;

/// Share of rows whose class may change.
const MAX_FLIPS: f64 = 0.01;

/// Sets `cx.steering` to the best found.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn refine(
    model: &Model,
    cx: &mut PassCx<'_>,
    session: &dyn Session,
    samples: &dyn Samples,
) -> Result<(), PassError> {
    if cx.config.effort == 0 {
        return Ok(());
    }
    let draft = Draft::new(model, cx)?;
    let solved = |method| Steering { ranges: Some((method, draft.solve(cx, method))), ..Steering::default() };
    let mut steering = solved(cx.config.method);
    let mut plan = draft.plan(cx, &steering, false);
    if plan.values.iter().next().is_none() {
        return Ok(());
    }
    let observed = cx.observed.clone();
    let simulator = Simulator::new(model, session, &observed, samples, SAMPLES, cx.config)?;
    let mut deviation = simulator.deviation(&plan)?;
    if cx.config.method == Method::Auto {
        for method in CANDIDATES.into_iter().skip(1) {
            let tried = solved(method);
            let other = draft.plan(cx, &tried, false);
            let d = simulator.deviation(&other)?;
            if d.error < deviation.error * CLEARLY {
                (steering, plan, deviation) = (tried, other, d);
            }
        }
    }
    let wanted = if feeds_back(model) { cx.config.min_sqnr.max(FEEDBACK_SQNR) } else { cx.config.min_sqnr };
    let bound = Bound { error: 10f64.powf(-wanted / 10.0), flips: MAX_FLIPS };
    if bound.holds(deviation) {
        cx.steering = steering;
        return Ok(());
    }
    // So few samples may mislead: more are asked before speed is given up.
    let simulator = Simulator::new(model, session, &observed, samples, MORE_SAMPLES, cx.config)?;
    let deviation = simulator.deviation(&plan)?;
    if !bound.holds(deviation) {
        if feeds_back(model) {
            // Errors would add up from step to step, also those too small to be told on single steps.
            for (v, _) in plan.values.iter() {
                steering.errors.insert(v, 1.0);
            }
            steering.price = f64::MAX;
        } else {
            steering.errors = simulator.error_of_each(&plan, SINGLE_RUNS)?;
            steering.price = price(cx, &draft, &simulator, &steering, bound)?;
        }
        let before = deviation.sqnr();
        cx.notes.add(
            "",
            format!(
                "with all in integers that pays, the outputs had {before:.1} dB and {:.1} % other classes on {MORE_SAMPLES} \
                 samples (bound: {wanted:.1} dB, {:.1} %): the worst operators stay in float",
                deviation.flips * 100.0,
                MAX_FLIPS * 100.0
            ),
        );
    }
    cx.steering = steering;
    Ok(())
}

/// The bound for models that feed states back, where errors add up from step to step.
const FEEDBACK_SQNR: f64 = 60.0;

/// True if a model looks like one step of a recurrence: besides its data it has an input and an output of
/// the same type and shape, but perhaps for the batch: the state. (A cache that grows has another shape.)
fn feeds_back(model: &Model) -> bool {
    let g = model.main();
    let same = |i: &Type, o: &Type| match (i.shape(), o.shape()) {
        (Some(a), Some(b)) if a.len() > 1 && a.len() == b.len() && i.dtype() == o.dtype() => {
            let mut lengths = a.iter().zip(b).map(|(a, b)| (a.known(), b.known()));
            let batch = lengths.next().is_none_or(|(a, b)| a.is_none() || b.is_none() || a == b);
            batch && lengths.all(|(a, b)| a.is_some() && a == b)
        }
        _ => false,
    };
    let state =
        |o: &ValueId| g.inputs.iter().any(|i| g.ty(*i).zip(g.ty(*o)).is_some_and(|(i, o)| same(i, o)));
    g.inputs.len() > 1 && g.outputs.len() > 1 && g.outputs.iter().any(state)
}

/// A method replaces another only if its error is this much smaller: few samples decide.
const CLEARLY: f64 = 0.95;

#[derive(Clone, Copy)]
struct Bound {
    error: f64,
    flips: f64,
}

impl Bound {
    fn holds(self, d: Deviation) -> bool {
        d.error <= self.error && d.flips <= self.flips
    }
}

/// The lowest price, to within a factor of two, at which the plan meets the bound. At the highest nothing is
/// quantized, which always does.
fn price(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    simulator: &Simulator<'_>,
    steering: &Steering,
    bound: Bound,
) -> Result<f64, PassError> {
    // From a microsecond to an hour for an error as large as the signal.
    let (mut low, mut high) = (10i32, 62i32);
    let mut seen: Vec<(Vec<bool>, bool)> = Vec::new();
    while high - low > 1 {
        let middle = (low + high) / 2;
        let plan = draft.plan(cx, &Steering { price: 2f64.powi(middle), ..steering.clone() }, false);
        let shape = fingerprint(&plan, steering);
        let known = seen.iter().find(|(s, _)| *s == shape).map(|(_, ok)| *ok);
        let ok = match known {
            Some(ok) => ok,
            None => bound.holds(simulator.deviation(&plan)?),
        };
        seen.push((shape, ok));
        if ok { high = middle } else { low = middle }
    }
    Ok(2f64.powi(high))
}

/// Which of the values that can be quantized are.
fn fingerprint(plan: &QuantPlan, steering: &Steering) -> Vec<bool> {
    steering.errors.iter().map(|(v, _)| plan.values.contains(v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{DType, Dim};

    fn model(inputs: &[u64], outputs: &[u64]) -> Model {
        let mut m = Model::new("g", 17);
        let g = m.main_mut();
        let ty = |n: &u64| Some(Type::tensor(DType::Float, Some(vec![Dim::Known(1), Dim::Known(*n)])));
        g.inputs = inputs.iter().map(|n| g.add_value("x", ty(n))).collect();
        g.outputs = outputs.iter().map(|n| g.add_value("y", ty(n))).collect();
        m
    }

    #[test]
    fn states_are_told_from_data() {
        assert!(feeds_back(&model(&[257, 128], &[257, 128])));
        assert!(feeds_back(&model(&[512, 64], &[1, 64])));
        let mut symbolic = model(&[512, 64], &[1, 64]);
        let state = symbolic.main().outputs[1];
        let shape = vec![Dim::Symbol("N".into()), Dim::Known(64)];
        symbolic.main_mut().set_type(state, Some(Type::tensor(DType::Float, Some(shape))));
        assert!(feeds_back(&symbolic));
        // One step of nothing: a filter, and a network of several heads.
        assert!(!feeds_back(&model(&[512], &[512])));
        assert!(!feeds_back(&model(&[512], &[4, 512])));
        assert!(!feeds_back(&model(&[3, 5], &[7, 9])));
    }

    #[test]
    fn a_bound_holds_for_both_measures() {
        let bound = Bound { error: 0.01, flips: 0.02 };
        assert!(bound.holds(Deviation { error: 0.01, flips: 0.0 }));
        assert!(!bound.holds(Deviation { error: 0.011, flips: 0.0 }));
        assert!(!bound.holds(Deviation { error: 0.0, flips: 0.03 }));
    }
}
