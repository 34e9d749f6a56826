//! Runs of a plan that differ in some values, and share all that comes before the first of them.
//!
//! The plan is stepped through once. Where an observed value is made that a group changes, the rest of the plan is run for
//! that group at once, on the results that are alive then; afterwards the first run goes on. So nothing is computed twice
//! that does not depend on a change or come after it, and no more is kept than the values that are alive: those of the
//! first run, shared, and those of one variant.

use crate::guard;
use crate::observe::{Observe, elements, replacement};
use squint_ir::execute::Change;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_core::plan::eval;

/// Results of nodes that have been computed and are still read.
type Live = Vec<Option<TVec<TValue>>>;

/// Runs a plan, and again for each of `groups` with what `change` gives for its values. `current` is the node at work.
pub(crate) fn run(
    plan: &Arc<TypedSimplePlan>,
    inputs: TVec<TValue>,
    groups: &[Vec<usize>],
    change: &Change<'_>,
    each: &mut dyn FnMut(usize, TVec<TValue>),
    current: &mut Option<usize>,
) -> TractResult<TVec<TValue>> {
    let model = plan.model();
    let order = plan.order_without_consts();
    let variants = Variants { model, order, dead: dead(model, order), change };
    let mut live = variants.given(&inputs);
    let mut begun = vec![false; groups.len()];
    let mut step = 0;
    let outputs = plan.spawn()?.run_plan_with_eval(inputs, |ctx, state, node, inputs| {
        *current = Some(node.id);
        let results = if let Some(Observe { slots }) = node.op_as::<Observe>() {
            for (i, group) in groups.iter().enumerate() {
                if !begun[i] && slots.iter().any(|s| group.contains(s)) {
                    begun[i] = true;
                    let outputs = variants.rest(ctx, step, live.clone(), group, current)?;
                    guard::aloud(|| each(i, outputs));
                }
            }
            variants.bury(step, &mut live);
            inputs
        } else {
            // Before the node is run, so that it may write over what nobody else reads.
            variants.bury(step, &mut live);
            eval(ctx, state, node, inputs)?
        };
        live[node.id] = Some(results.clone());
        step += 1;
        TractResult::Ok(results)
    })?;
    *current = None;
    // Constants cannot be changed, so nothing else does either.
    for (i, _) in begun.iter().enumerate().filter(|(_, begun)| !**begun) {
        guard::aloud(|| each(i, outputs.clone()));
    }
    Ok(outputs)
}

struct Variants<'a> {
    model: &'a TypedModel,
    order: &'a [usize],
    /// For each step, the nodes whose results nothing reads any more once its operands are taken.
    dead: Vec<Vec<usize>>,
    change: &'a Change<'a>,
}

impl Variants<'_> {
    /// What is there before the first step: constants and inputs.
    fn given(&self, inputs: &[TValue]) -> Live {
        let mut live: Live = vec![None; self.model.nodes().len()];
        for node in self.model.nodes() {
            if let Some(constant) = node.op_as::<Const>() {
                live[node.id] = Some(tvec!(constant.val().clone().into_tvalue()));
            }
        }
        for (outlet, input) in self.model.inputs.iter().zip(inputs) {
            live[outlet.node] = Some(tvec!(input.clone()));
        }
        live
    }

    fn bury(&self, step: usize, live: &mut Live) {
        for id in &self.dead[step] {
            live[*id] = None;
        }
    }

    /// The outputs if, from a step on, the values of a group are changed.
    fn rest(
        &self,
        ctx: &EvalContext<'_>,
        from: usize,
        mut live: Live,
        group: &[usize],
        current: &mut Option<usize>,
    ) -> TractResult<TVec<TValue>> {
        for (step, id) in self.order.iter().enumerate().skip(from) {
            let node = self.model.node(*id);
            if node.op_is::<TypedSource>() {
                continue;
            }
            *current = Some(*id);
            let inputs = node.inputs.iter().map(|o| value(&live, *o)).collect::<TractResult<TVec<_>>>()?;
            self.bury(step, &mut live);
            let results = match node.op_as::<Observe>() {
                Some(Observe { slots }) => self.changed(slots, group, inputs)?,
                None => {
                    // What an operator keeps from one run to the next is not kept here: ONNX has no such thing.
                    let ctx = EvalContext { node_id: *id, ..*ctx };
                    let mut state = node.op().state(&ctx)?;
                    eval(&ctx, state.as_deref_mut(), node, inputs)?
                }
            };
            live[*id] = Some(results);
        }
        self.model.outputs.iter().map(|o| value(&live, *o)).collect()
    }

    fn changed(&self, slots: &[usize], group: &[usize], inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut replaced = None;
        for slot in slots.iter().filter(|s| group.contains(s)) {
            let elements = elements(&inputs[0])?;
            replaced = guard::aloud(|| (self.change)(*slot, inputs[0].shape(), &elements)).or(replaced);
        }
        match replaced {
            None => Ok(inputs),
            Some(elements) => Ok(tvec!(replacement(&inputs[0], &elements)?.into_tvalue())),
        }
    }
}

fn value(live: &Live, outlet: OutletId) -> TractResult<TValue> {
    let results = live[outlet.node].as_ref();
    results.and_then(|r| r.get(outlet.slot)).cloned().context("a result is read before it is computed")
}

/// For each step the nodes that are read there for the last time; outputs, constants and inputs stay.
fn dead(model: &TypedModel, order: &[usize]) -> Vec<Vec<usize>> {
    let mut last = vec![None; model.nodes().len()];
    for (step, id) in order.iter().enumerate() {
        for outlet in &model.node(*id).inputs {
            last[outlet.node] = Some(step);
        }
    }
    let stays = |id: usize| {
        let node = model.node(id);
        node.op_is::<Const>() || node.op_is::<TypedSource>() || model.outputs.iter().any(|o| o.node == id)
    };
    let mut dead = vec![vec![]; order.len()];
    for (id, step) in last.iter().enumerate() {
        if let Some(step) = step.filter(|_| !stays(id)) {
            dead[step].push(id);
        }
    }
    dead
}
