//! From a float model to its plan: what is learnt of it, what is planned, and what becomes of a plan that falls short.

use super::{OBSERVE, OPTIMIZE, PREPARE, op_count};
use crate::config::{Config, Scheme};
use crate::evidence::Evidence;
use crate::float_graph::FloatGraph;
use crate::pass::{Pass, PassCx, PassError};
use crate::reach::Reach;
use crate::refine::Verdict;
use crate::report::Report;
use crate::runner::{Hooks, run};
use crate::trials::Trials;
use crate::{calibrate, equalize, numbers, plan, refine, repair, retarget, weight_blocks};
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use std::time::Instant;

/// Plans a model and runs `last`, the passes that plan and those that carry the plan out.
pub(super) fn plan_until(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
    last: &[&dyn Pass],
) -> Result<(Report, plan::QuantPlan), PassError> {
    let config = numbers::settled(evidence.settled(config))?;
    let mut cx = PassCx::new(&config);
    let ops_before = op_count(model);
    let mut timing = run(PREPARE, model, &mut cx, hooks)?;
    retarget::expect_float(model, &mut cx)?;
    timing.extend(run(OPTIMIZE, model, &mut cx, hooks)?);
    let ops_fused = op_count(model);
    timing.extend(run(OBSERVE, model, &mut cx, hooks)?);
    let outputs = model.main().outputs.clone();
    let weights_only = cx.config.scheme == Scheme::WeightOnly;
    let mut evidence = match weights_only {
        true => Evidence { samples: blocks_learn_from(&config, evidence)?, ..evidence },
        false => evidence,
    };
    let reach = Reach::of(model, evidence)?;
    // How far it gets after all, if it fails to load what it said it could.
    let nearer;
    if let Some(reach) = &reach {
        evidence = reach.enter(model, &mut cx, evidence);
    }
    if let Some((_, samples)) = evidence.samples {
        cx.trials = Trials::of(model, &cx, samples)?;
    }
    let float = if weights_only {
        None
    } else {
        let before = (model.clone(), cx.notes.clone());
        match (learn(model, &mut cx, evidence, hooks, &mut timing), &reach) {
            (Err(failure), Some(reach)) => {
                (*model, cx.notes) = before;
                nearer = reach.after(model, failure)?;
                evidence = nearer.enter(model, &mut cx, evidence);
                learn(model, &mut cx, evidence, hooks, &mut timing)?
            }
            (learnt, _) => learnt?,
        }
    };
    let rounding = config.blocks.rounding;
    let blocks = evidence.samples.filter(|_| weights_only);
    if let Some((executor, samples)) = blocks.filter(|_| rounding.scales()) {
        stage(weight_blocks::NAME_OF_SCALING, hooks, &mut timing, || {
            weight_blocks::scale(model, &mut cx, executor, samples)
        })?;
    }
    let (planning, rest) = last.split_at(1);
    // Weights that are trained are not rounded yet.
    let repaired = config.effort > 0 && config.training.is_none() && !rest.is_empty();
    let tried = float.as_ref().zip(evidence.samples);
    let notes = cx.notes.clone();
    // The signal to noise that plans are held to; none once nothing is to be quantized.
    let mut wanted = Some(config.min_sqnr);
    for tries in 1.. {
        if let (Some((float, (executor, samples))), Some(wanted)) = (tried, wanted) {
            stage(refine::NAME, hooks, &mut timing, || {
                refine::refine(model, &mut cx, executor, float, samples, wanted, hooks.progress)
            })?;
        }
        timing.extend(run(planning, model, &mut cx, hooks)?);
        let Some((float, (executor, samples))) = tried.filter(|_| repaired) else { break };
        let measured = stage(repair::NAME, hooks, &mut timing, || {
            repair::repair(model, &mut cx, executor, float, samples)
        })?;
        let (Some(measured), Some(held_to)) = (measured, wanted) else { break };
        match refine::verdict(model, &cx, measured, held_to, tries) {
            Verdict::Enough => break,
            Verdict::Stricter(sqnr) => {
                cx.notes = notes.clone();
                wanted = Some(sqnr);
            }
            Verdict::Float => {
                cx.notes = notes.clone();
                cx.notes.add("", refine::why_float(&cx, measured));
                cx.steering = refine::all_in_float(&cx);
                wanted = None;
            }
        }
    }
    if let Some((executor, samples)) = blocks.filter(|_| rounding.compensates() && !rest.is_empty()) {
        stage(weight_blocks::NAME_OF_ROUNDING, hooks, &mut timing, || {
            weight_blocks::round(model, &mut cx, executor, samples)
        })?;
    }
    drop(float);
    model.main_mut().outputs = outputs;
    timing.extend(run(rest, model, &mut cx, hooks)?);
    let notes = cx.notes.iter().cloned().collect();
    let (samples, costs, nodes) = (cx.statistics.samples, cx.plan.costs, cx.plan.report.clone());
    let rewrites = cx.rewrites.iter().map(|(rule, n)| (*rule, *n)).collect();
    Ok((Report { nodes, notes, samples, costs, ops_before, ops_fused, rewrites, timing }, cx.plan))
}

/// What weights in blocks learn from, if that is asked for: an executor and samples.
///
/// # Errors
/// If there are no samples for what needs some.
fn blocks_learn_from<'e>(
    config: &Config,
    evidence: Evidence<'e>,
) -> Result<Option<(&'e dyn Execute, &'e dyn Samples)>, PassError> {
    let rounding = config.blocks.rounding;
    if config.effort == 0 && !rounding.needs_samples() {
        return Ok(None);
    }
    let samples = evidence.samples.filter(|(_, samples)| !samples.is_empty());
    if samples.is_none() && rounding.needs_samples() {
        return Err(PassError::Config(format!(
            "weights are rounded by `{rounding}` on samples, and there are none"
        )));
    }
    Ok(samples)
}

/// What is learnt of the float graph: the statistics of its values. The graph as it was run, if it was.
fn learn<'e>(
    model: &mut Model,
    cx: &mut PassCx<'_>,
    evidence: Evidence<'e>,
    hooks: &Hooks<'_>,
    timing: &mut Vec<(&'static str, f64)>,
) -> Result<Option<FloatGraph<'e>>, PassError> {
    let mut begun = None;
    // Ranges that are known already are those of the graph as it is; and steps of training would be out of proportion
    // to channels that are scaled.
    let planned = cx.config.scheme != Scheme::Dynamic && cx.config.training.is_none();
    let wanted = cx.config.effort > 0 && cx.config.equalize && planned;
    if let (Some((executor, samples)), None, true) = (evidence.samples, evidence.known, wanted) {
        begun = stage(equalize::NAME, hooks, timing, || {
            let outcome = equalize::equalize(model, cx, executor, samples)?;
            if let Some(scaled) = outcome.model {
                *model = scaled;
            }
            if cx.config.effort > 1
                && let Some(shifted) = equalize::absorb(model, cx, executor, samples)?
            {
                *model = shifted;
                return Ok(None);
            }
            Ok(outcome.begun)
        })?;
    }
    stage(calibrate::NAME, hooks, timing, || evidence.learn(model, cx, begun, hooks.progress))
}

/// Runs a stage that is no pass, and notes its time in seconds.
fn stage<T>(
    name: &'static str,
    hooks: &Hooks<'_>,
    timing: &mut Vec<(&'static str, f64)>,
    run: impl FnOnce() -> Result<T, PassError>,
) -> Result<T, PassError> {
    hooks.progress.pass(name);
    let start = Instant::now();
    let result = run()?;
    timing.push((name, start.elapsed().as_secs_f64()));
    Ok(result)
}
