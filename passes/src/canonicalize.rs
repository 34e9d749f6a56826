//! `canonicalize`: one way to write each thing.
//!
//! - `Constant` nodes become constants (through folding, which knows their attribute forms);
//! - initializers stop being graph inputs (files before IR version 4 had to list them there);
//! - Identity, inference-time Dropout and Cast to the same type disappear;
//! - every node gets a name of its own, because runtimes and reports refer to nodes by name;
//! - values of bodies do not have the names of values around them.

use crate::names::{Names, uncover_names};
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Graph, Model, OpId};

/// The pass.
pub(crate) struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Canonical)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = demote_inputs(model, cx);
        changed |= merge_opset_imports(model);
        if model.main().owner.is_none() {
            changed |= uncover_names(model);
        }
        let g = model.main_mut();
        let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
        for op in &order {
            if is_identity(g, *op) {
                changed |= bypass(g, *op);
            }
        }
        changed |= name_nodes(g, &order);
        Ok(changed.into())
    }
}

/// Removes an operator that returns its first operand unchanged. Returns false if it must stay: a graph
/// output that is also an input, a constant, or another output needs an operator of its own.
pub(crate) fn bypass(g: &mut Graph, op: OpId) -> bool {
    let (Some(x), Some(y)) = (g.operand(op, 0), g.result(op, 0)) else { return false };
    if !g.is_output(y) {
        g.replace_uses(y, x);
        g.remove_op_and_results(op);
        return true;
    }
    let Some((producer, slot)) = g.producer(x) else { return false };
    if g.is_output(x) {
        return false;
    }
    // The output keeps its name: what made `x` makes `y` now.
    g.remove_op(op);
    g.set_result(producer, slot, Some(y));
    g.replace_uses(x, y);
    g.remove_value(x);
    true
}

fn is_identity(g: &Graph, id: OpId) -> bool {
    let op = g.op(id);
    let used = |slot: usize| g.results(id).get(slot).copied().flatten().is_some_and(|v| g.is_used(v));
    match op.op_type.as_str() {
        "Identity" if op.is_onnx() => true,
        "Dropout" if op.is_onnx() => {
            let training = op.int("is_test") == Some(0)
                || g.operand(id, 2).is_some_and(|t| g.konst(t).is_none_or(|t| t.scalar_value() != Some(0.0)));
            !training && !used(1)
        }
        _ => false,
    }
}

fn demote_inputs(model: &mut Model, cx: &mut PassCx<'_>) -> bool {
    let overridable = model.ir_version >= 4;
    let g = model.main_mut();
    let (constant, inputs): (Vec<_>, Vec<_>) = g.inputs.iter().partition(|v| g.konst(**v).is_some());
    if constant.is_empty() {
        return false;
    }
    if overridable {
        let place = g.value(constant[0]).name().to_owned();
        cx.notes.add(place, format!("{} inputs with defaults became constants", constant.len()));
    }
    g.inputs = inputs;
    model.ir_version = model.ir_version.max(4);
    true
}

/// Some exporters import a domain twice, or the default domain under both of its names.
fn merge_opset_imports(model: &mut Model) -> bool {
    let before = model.opsets.len();
    let mut merged: Vec<(String, i64)> = Vec::with_capacity(before);
    for (domain, version) in std::mem::take(&mut model.opsets) {
        let domain = if domain == "ai.onnx" { String::new() } else { domain };
        match merged.iter_mut().find(|(d, _)| *d == domain) {
            Some((_, v)) => *v = version.max(*v),
            None => merged.push((domain, version)),
        }
    }
    model.opsets = merged;
    model.opsets.len() != before
}

fn name_nodes(g: &mut Graph, order: &[OpId]) -> bool {
    let mut names = Names::default();
    let mut changed = false;
    for op in order.iter().filter(|op| g.has_op(**op)).copied().collect::<Vec<_>>() {
        let wanted = match g.op(op).name.as_str() {
            "" => format!("{}_{}", g.op(op).op_type, g.label(op)),
            name => name.to_owned(),
        };
        let name = names.take(&wanted);
        if g.op(op).name != name {
            g.op_mut(op).name = name;
            changed = true;
        }
    }
    changed
}
