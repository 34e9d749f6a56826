//! Refines decisions by trying them: plans are simulated on a few samples, and what hurts is taken back.
//!
//! 1. *Ranges.* No method of choosing ranges is best for every network: one clips outliers that another
//!    network lives on. With the method `auto`, each of a few methods is tried as a whole, weights rounded, and
//!    the one with the least error at the outputs is taken. With an effort of 3, ranges are refined one by one
//!    afterwards.
//! 2. *Placement.* If the outputs are still worse than the bound, each quantized value is tried alone; its
//!    error becomes a price on quantizing it, which the minimum cut of the placement weighs against speed.
//!    The lowest price of error at which the simulated plan meets the bound is found by bisection: the
//!    fastest plan, as costs go, that is accurate enough. A scale found in every run has a price of its own, so that
//!    an operator that planned scales hurt goes over to those where they are cheaper than float. Where outputs are
//!    not just scores of classes, accuracy beyond the bound is bought while it is cheap: [`knee`].
//! 3. *Recurrences.* A model that feeds states back is tried over a sequence of steps ([`crate::feedback`]).

mod each;
mod knee;
mod methods;
mod verdict;

pub(crate) use verdict::{Verdict, all_in_float, verdict, why_float};

use crate::calibrate::prepare;
use crate::calibration::{Method, Range};
use crate::config::Scheme;
use crate::feedback::{Sequence, states};
use crate::float_graph::FloatGraph;
use crate::outputs::classes_only;
use crate::pass::{PassCx, PassError};
use crate::plan::{Draft, OpPlan, QuantPlan, Steering};
use crate::runner::Progress;
use crate::simulate::{Deviation, Simulator, round};
use crate::weights::rounded;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Graph, Model, ValueId, ValueTable};

/// Name of the stage.
pub(crate) const NAME: &str = "refine";

/// Share of rows whose class may change, see [`Deviation::flips`].
const MAX_FLIPS: f64 = 0.01;

/// Sets `cx.steering` to the best found, with `min_sqnr` dB at the outputs at least.
///
/// # Errors
/// If a sample cannot be read or run.
pub(crate) fn refine(
    model: &Model,
    cx: &mut PassCx<'_>,
    executor: &dyn Execute,
    session: &FloatGraph<'_>,
    samples: &dyn Samples,
    min_sqnr: f64,
    progress: &dyn Progress,
) -> Result<(), PassError> {
    if cx.config.effort == 0 {
        return Ok(());
    }
    let draft = Draft::new(model, cx)?;
    let auto = cx.config.method == Method::Auto;
    let mut steering = methods::by(cx, &draft, if auto { methods::FIRST } else { cx.config.method });
    let mut plan = draft.plan(cx, &steering, false);
    if plan.is_float() {
        return Ok(());
    }
    let observed = cx.observed.clone();
    let numbers = cx.trials.tried_on();
    let simulator = Simulator::on(model, session, &observed, samples, &numbers, cx.config)?;
    let states = states(model);
    // Which class is best is all that scores are for; other numbers are used as they are.
    let classes = states.is_empty() && classes_only(model.main(), cx.config.class_axis);
    // Scores or embeddings: no single number decides.
    let rows = simulator.kinds().iter().all(|k| k.classes().is_some());
    // What the plan does with rounded weights, where that is known.
    let mut with_weights = None;
    if auto || cx.config.effort > 2 {
        // Weights are rounded alike whatever the ranges of activations.
        let rounded = rounded(model, &draft.plan(cx, &steering, true))?;
        let rounded = prepare(&rounded, &observed, executor)?;
        let errors = |plan: &QuantPlan| simulator.errors_in(rounded.as_ref(), plan);
        let measured = |plan: &QuantPlan, samples| {
            let roundings = simulator.roundings(plan);
            simulator.measure(rounded.as_ref(), samples, &|slot, _, data| round(&roundings, slot, data))
        };
        let question = methods::Question { open: auto, rows, samples: numbers.len() };
        let (best, of_best);
        methods::Choice { steering, plan, errors: best, measured: of_best } =
            methods::choose(cx, &draft, (steering, plan), question, &measured)?;
        let expected = classes.then(|| simulator.expected_of(&of_best));
        with_weights = Some(knee::Measured::with(best.deviation(), expected));
        if cx.config.effort > 2 {
            with_weights = None;
            let alone = simulator.error_of_each(&plan, cx.trials.single_runs())?;
            let mut order: Vec<(ValueId, f64)> = alone.iter().map(|(v, error)| (v, *error)).collect();
            order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            let order: Vec<ValueId> = order.into_iter().map(|(v, _)| v).collect();
            let held_back = cx.trials.held_back(&numbers);
            let others = (held_back != numbers)
                .then(|| Simulator::on(model, session, &observed, samples, &held_back, cx.config))
                .transpose()?;
            let others = others.as_ref().map(|s| |plan: &QuantPlan| s.errors_in(rounded.as_ref(), plan));
            let bench = each::Bench {
                draft: &draft,
                errors: &errors,
                others: others.as_ref().map(|f| f as &each::Measure<'_>),
                samples: numbers.len(),
                progress,
            };
            bench.refine(cx, &order, &mut steering, &mut plan, best)?;
        }
    }
    if cx.config.guide.is_some() && states.is_empty() {
        // What single values cost is known: every plan above was placed by it.
        cx.steering = steering;
        return Ok(());
    }
    // In training, what rounding costs is learnt back.
    if cx.config.training.is_some() && min_sqnr == f64::NEG_INFINITY {
        cx.steering = steering;
        return Ok(());
    }
    let wanted = if !states.is_empty() { min_sqnr.max(FEEDBACK_SQNR) } else { min_sqnr };
    // Who wants no bound on the error wants none on classes either.
    let unbounded = min_sqnr == f64::NEG_INFINITY;
    let flips = if unbounded { 1.0 } else { MAX_FLIPS };
    let bound = Bound { error: 10f64.powf(-wanted / 10.0), flips };
    let enough = unbounded || !states.is_empty();
    let is_enough = |m: &knee::Measured| {
        let steady = || if classes { m.flips() <= knee::STEADY } else { m.deviation.sqnr() >= knee::ENOUGH };
        bound.holds(m.deviation) && (enough || steady())
    };
    // What is enough with rounded weights, and not far from being enough to spare some, is enough.
    let spare = to_spare(&steering, rows);
    let certain =
        |m: &knee::Measured| is_enough(m) && !(spare - OF_WEIGHTS..spare).contains(&m.deviation.sqnr());
    let measured = match with_weights.filter(certain) {
        Some(measured) => measured,
        None => knee::Measured::of(&simulator, &plan, classes)?,
    };
    if is_enough(&measured) {
        cx.steering = steering;
        if auto && measured.deviation.sqnr() >= spare {
            widen(model, cx, &draft, &simulator, rows)?;
        }
        return Ok(());
    }
    // Very few samples may mislead: more are asked before speed is given up.
    let decide = cx.trials.decided_on();
    let (simulator, measured) = if decide == numbers {
        (simulator, measured)
    } else {
        let simulator = Simulator::on(model, session, &observed, samples, &decide, cx.config)?;
        let measured = knee::Measured::of(&simulator, &plan, classes)?;
        (simulator, measured)
    };
    let deviation = measured.deviation;
    let held = bound.holds(deviation);
    if !is_enough(&measured) {
        if states.is_empty() {
            steering.errors = simulator.error_of_each(&plan, cx.trials.single_runs())?;
            steering.dynamic_errors =
                simulator.error_of_each_dynamic(&draft.dynamic_reads(), cx.trials.single_runs())?;
            let worth = match enough {
                true => None,
                false => knee::price(cx, &draft, &simulator, &steering, (&plan, &measured), bound)?,
            };
            steering.price = match worth {
                Some(price) => price,
                None if held => 0.0,
                None => {
                    let holds = |plan: &QuantPlan| Ok(bound.holds(simulator.deviation(plan)?));
                    price(cx, &draft, &steering, &holds)?
                }
            };
        } else {
            feed_back(
                cx,
                &draft,
                &simulator,
                &Sequence::new(&states, &simulator, samples, STEPS)?,
                &mut steering,
            )?;
        }
        let before = deviation.worst_sqnr();
        let instead = match cx.config.scheme {
            Scheme::Auto if !draft.dynamic_reads().is_empty() => {
                "find their scales in every run or stay in float"
            }
            _ => "stay in float",
        };
        let had = format!(
            "with all in integers that pays, the outputs had {before:.1} dB and {:.1} % other classes on {} samples",
            deviation.flips.max(measured.flips()) * 100.0,
            decide.len()
        );
        if !held {
            let bound = format!("(bound: {wanted:.1} dB, {:.1} %)", flips * 100.0);
            cx.notes.add("", format!("{had} {bound}: the worst operators {instead}"));
        } else if steering.price > 0.0 {
            cx.notes
                .add("", format!("{had}: the operators that cost most accuracy for their speed {instead}"));
        }
    }
    cx.steering = steering;
    Ok(())
}

/// The bound on single steps of models that feed states back, where errors add up from step to step, also those too
/// small to be told on single steps.
const FEEDBACK_SQNR: f64 = 60.0;

/// The bound on a sequence of steps of such models, in dB.
const SEQUENCE_SQNR: f64 = 30.0;

/// Steps of the sequence.
const STEPS: usize = 32;

/// Prices for a model that feeds states back: no scale is planned, since states leave their ranges; and of operators
/// that find scales in every run, as many stay in float as a sequence of steps needs.
fn feed_back(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    simulator: &Simulator<'_>,
    sequence: &Sequence<'_>,
    steering: &mut Steering,
) -> Result<(), PassError> {
    steering.errors = verdict::prohibitive(cx);
    steering.price = 1.0;
    let bound = Bound { error: 10f64.powf(-SEQUENCE_SQNR / 10.0), flips: MAX_FLIPS };
    let holds = |plan: &QuantPlan| Ok(bound.holds(sequence.deviation(simulator, plan)?));
    let plan = draft.plan(cx, steering, false);
    if !plan.is_float() && !holds(&plan)? {
        steering.dynamic_errors =
            simulator.error_of_each_dynamic(&draft.dynamic_reads(), cx.trials.single_runs())?;
        steering.price = price(cx, draft, steering, &holds)?;
    }
    Ok(())
}

/// Decibels that the rounding of weights may cost at most, for plans that are enough with it.
const OF_WEIGHTS: f64 = 6.0;

/// Widens the ranges of `cx.steering` if accuracy allows.
fn widen(
    model: &Model,
    cx: &mut PassCx<'_>,
    draft: &Draft<'_>,
    simulator: &Simulator<'_>,
    rows: bool,
) -> Result<(), PassError> {
    let Some(wider) = widened(model.main(), &cx.steering) else { return Ok(()) };
    let sqnr = simulator.deviation(&draft.plan(cx, &wider, false))?.sqnr();
    if sqnr >= to_spare(&wider, rows) {
        let percent = (MARGIN - 1.0) * 100.0;
        let than = match wider.ranges {
            Some((method, _)) if method != Method::MinMax => format!("{method} finds them"),
            _ => "what was seen".into(),
        };
        cx.notes.add("", format!("ranges are {percent:.0} % wider than {than}: {sqnr:.1} dB remain"));
        cx.steering = wider;
    }
    Ok(())
}

/// Signal to noise in dB, on samples, from which accuracy is given for safety. Ranges that clip were chosen by the samples,
/// and fit them better than other data: they get their margin sooner, but where outputs are
/// [rows](methods::Question::rows).
fn to_spare(steering: &Steering, rows: bool) -> f64 {
    match steering.ranges {
        Some((method, _)) if method != Method::MinMax && !rows => knee::ENOUGH,
        _ => 40.0,
    }
}

/// What ranges are widened by then: 2 dB at most.
const MARGIN: f32 = 1.25;

/// Ranges wider than what calibration saw, if accuracy stays far beyond what is needed: data in use reaches further, the
/// more so the less it is like the calibration data. Ranges that a Clip ends stay.
fn widened(g: &Graph, steering: &Steering) -> Option<Steering> {
    let (method, ranges) = steering.ranges.as_ref()?;
    let mut wider = ValueTable::new();
    for (v, range) in ranges.iter() {
        let clipped = g.producer(v).is_some_and(|(op, _)| g.op(op).is("Clip"));
        let factor = if clipped { 1.0 } else { MARGIN };
        wider.insert(v, Range { lo: range.lo * factor, hi: range.hi * factor, ..*range });
    }
    Some(Steering { ranges: Some((*method, wider.into())), ..steering.clone() })
}

#[derive(Clone, Copy)]
struct Bound {
    error: f64,
    flips: f64,
}

impl Bound {
    fn holds(self, d: Deviation) -> bool {
        d.worst <= self.error && d.flips <= self.flips
    }
}

/// The lowest price, to within a factor of two, at which the plan meets the bound. At the highest nothing is
/// quantized, which always does.
fn price(
    cx: &PassCx<'_>,
    draft: &Draft<'_>,
    steering: &Steering,
    holds: &dyn Fn(&QuantPlan) -> Result<bool, PassError>,
) -> Result<f64, PassError> {
    let (mut low, mut high) = knee::PRICES;
    let mut seen: Vec<(Vec<bool>, bool)> = Vec::new();
    while high - low > 1 {
        let middle = (low + high) / 2;
        let plan = draft.plan(cx, &Steering { price: 2f64.powi(middle), ..steering.clone() }, false);
        let shape = fingerprint(&plan, steering);
        let known = seen.iter().find(|(s, _)| *s == shape).map(|(_, ok)| *ok);
        let ok = match known {
            Some(ok) => ok,
            None => holds(&plan)?,
        };
        seen.push((shape, ok));
        if ok { high = middle } else { low = middle }
    }
    Ok(2f64.powi(high))
}

/// Which of the values that can be quantized are, and which operators quantize theirs in every run.
fn fingerprint(plan: &QuantPlan, steering: &Steering) -> Vec<bool> {
    let values = steering.errors.iter().map(|(v, _)| plan.values.contains(v));
    values.chain(plan.ops.iter().map(|(_, decision)| matches!(decision, OpPlan::Dynamic(_)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_clip_get_their_margin_sooner() {
        let by =
            |method| Steering { ranges: Some((method, ValueTable::new().into())), ..Steering::default() };
        assert!(to_spare(&by(Method::Mse), false) < to_spare(&by(Method::MinMax), false));
        assert_eq!(to_spare(&by(Method::Mse), true), to_spare(&by(Method::MinMax), true));
    }

    #[test]
    fn a_bound_holds_for_both_measures() {
        let bound = Bound { error: 0.01, flips: 0.02 };
        assert!(bound.holds(Deviation { error: 0.01, worst: 0.01, flips: 0.0 }));
        assert!(!bound.holds(Deviation { error: 0.011, worst: 0.011, flips: 0.0 }));
        assert!(!bound.holds(Deviation { error: 0.0, worst: 0.0, flips: 0.03 }));
    }
}
