//! `optimize-bodies`: the passes over the float graph, on the bodies of If, Loop and Scan.
//!
//! A body is optimized as a model of its own, outer bodies before those inside. What is known outside comes
//! along: captured values have the types they have there, and captured constants are lent to the body as its
//! own; those that are still used afterwards are captured again, so that no weight is written twice. Values
//! that a body no longer uses are no longer captured, which may make what computes them dead.

use crate::canonicalize::Canonicalize;
use crate::eliminate_dead_code::EliminateDeadCode;
use crate::flush_denormals::FlushDenormals;
use crate::fold_constants::FoldConstants;
use crate::fuse::Fuse;
use crate::inline_branches::InlineBranches;
use crate::merge_common_subexpressions::MergeCommonSubexpressions;
use crate::names::uncover_names;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::rule_out_branches::RuleOutBranches;
use rustc_hash::FxHashSet;
use squint_ir::{GraphId, Model, OpId, ValueId};

/// The passes over a body, in the order of the pipeline.
const PASSES: &[&dyn Pass] = &[
    &Canonicalize,
    &FoldConstants,
    &RuleOutBranches,
    &InlineBranches,
    &Fuse,
    &FlushDenormals,
    &MergeCommonSubexpressions,
    &EliminateDeadCode,
];

/// The pass.
pub(crate) struct OptimizeBodies;

impl Pass for OptimizeBodies {
    fn name(&self) -> &'static str {
        "optimize-bodies"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let main = model.main_id();
        let changed = for_each_body(model, cx, main, &mut |model, cx| run(PASSES, model, cx))?;
        if changed {
            // What was made in a body was named without a look around.
            uncover_names(model);
        }
        Ok(changed.into())
    }
}

/// What is done to a body, which stands in the place of the main graph; returns whether it changed.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&mut Model, &mut PassCx<'_>) -> Result<bool, PassError>;

/// Works on all bodies inside a graph, about whose values `cx` knows: on a body before those inside it.
pub(crate) fn for_each_body(
    model: &mut Model,
    cx: &mut PassCx<'_>,
    graph: GraphId,
    work: Work<'_>,
) -> Result<bool, PassError> {
    let mut changed = false;
    let order = model.graph(graph).topo().map_err(|c| PassError::Model(c.to_string()))?;
    for op in order {
        let bodies: Vec<GraphId> = model.graph(graph).op(op).bodies().collect();
        for body in &bodies {
            let lent = lend(model, cx, graph, op, *body);
            let outside = std::mem::take(&mut cx.facts);
            let done = model.within(*body, |model| -> Result<bool, PassError> {
                let mut changed = work(model, cx)?;
                if for_each_body(model, cx, *body, work)? {
                    changed = true;
                    EliminateDeadCode.run(model, cx)?;
                }
                Ok(changed)
            });
            cx.facts = outside;
            take_back(model, *body, lent);
            changed |= done?;
        }
        if !bodies.is_empty() {
            changed |= drop_captures(model, graph, op);
        }
    }
    Ok(changed)
}

fn run(passes: &[&dyn Pass], model: &mut Model, cx: &mut PassCx<'_>) -> Result<bool, PassError> {
    passes.iter().try_fold(false, |changed, pass| Ok(changed | (pass.run(model, cx)? == Changed::Yes)))
}

/// Gives the captured values of a body the types they have outside, and makes constants the body's own.
/// Returns these with their slots.
fn lend(model: &mut Model, cx: &PassCx<'_>, graph: GraphId, op: OpId, body: GraphId) -> Vec<(ValueId, u32)> {
    let mut lent = Vec::new();
    for v in model.graph(body).values().collect::<Vec<_>>() {
        let Some(slot) = model.graph(body).value(v).captured else { continue };
        let Some(outer) = model.capture(graph, op, slot) else { continue };
        let fact = model.within(graph, |model| cx.fact(model, outer));
        let known = model.graph(graph).konst(outer).filter(|_| !model.graph(graph).is_input(outer)).cloned();
        let g = model.graph_mut(body);
        if let Some(ty) = fact.to_type() {
            g.set_type(v, Some(ty));
        }
        if known.is_some() {
            g.value_mut(v).captured = None;
            g.set_const(v, known);
            lent.push((v, slot));
        }
    }
    lent
}

/// Makes constants captured values again.
fn take_back(model: &mut Model, body: GraphId, lent: Vec<(ValueId, u32)>) {
    let g = model.graph_mut(body);
    for (v, slot) in lent {
        if g.has_value(v) {
            g.set_const(v, None);
            g.value_mut(v).captured = Some(slot);
        }
    }
}

/// Empties the capture slots that no body of an operator uses, and returns whether there were any.
fn drop_captures(model: &mut Model, graph: GraphId, op: OpId) -> bool {
    let mut used = FxHashSet::default();
    for body in model.graph(graph).op(op).bodies().collect::<Vec<_>>() {
        let g = model.graph_mut(body);
        for v in g.values().filter(|v| g.value(*v).captured.is_some()).collect::<Vec<_>>() {
            if g.is_used(v) {
                used.extend(g.value(v).captured);
            } else {
                g.remove_value(v);
            }
        }
    }
    let captures = model.graph(graph).captures(op);
    let unused = (0u32..).zip(captures).filter(|(slot, v)| v.is_some() && !used.contains(slot));
    let unused: Vec<u32> = unused.map(|(slot, _)| slot).collect();
    for slot in &unused {
        model.graph_mut(graph).remove_capture(op, *slot);
    }
    !unused.is_empty()
}
