//! `inline-functions`: calls of model functions are replaced by the bodies of the functions.
//!
//! Exporters wrap whole modules in model-local functions (`FunctionProto`); passes, targets and executors
//! see one flat graph instead. Calls are expanded from the outside in, so that an attribute that a call
//! leaves out is known to be left out before the functions it would be passed on to are expanded. Calls are
//! found by a work list, in the main graph and in every body; [`calls::CallGraph`] shows beforehand that
//! this ends, and how large the result is. Afterwards no function is left.
//!
//! - Values and nodes of an expansion are called `call/name`, after the node that made the call, or
//!   `call/name_1` and so on where that is taken. Names are new in the whole model, as a body must not hide a
//!   name from around it.
//! - An attribute reference becomes the attribute of the call, else the default of the function, else
//!   nothing.
//! - An operand that the call omits is omitted wherever the body uses it.
//! - Operator sets that the inlined operators use are imported by the model; a model has one version of each.
//!
//! Source: ONNX IR specification (`IR.md`, Functions).

mod calls;
mod expand;

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use calls::CallGraph;
use expand::Expansion;
use rustc_hash::FxHashSet;
use squint_ir::{GraphId, Model, OpId};
use std::collections::VecDeque;

/// The pass.
pub(crate) struct InlineFunctions;

impl Pass for InlineFunctions {
    fn name(&self) -> &'static str {
        "inline-functions"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if model.functions.is_empty() {
            return Ok(Changed::No);
        }
        // Functions are read from the copy while the model changes; tensors are shared.
        let library = model.clone();
        let calls = CallGraph::new(&library)?;
        import_opsets(model, &library, &calls)?;
        let mut work: VecDeque<(GraphId, OpId)> = calls.main_calls().collect();
        let mut expansion = Expansion::new(model, &library);
        while let Some((graph, op)) = work.pop_front() {
            // What an expansion adds may be calls again.
            work.extend(expansion.expand(graph, op)?);
        }
        remove_functions(model);
        Ok(Changed::Yes)
    }
}

/// Imports what the functions that will be inlined use.
fn import_opsets(model: &mut Model, library: &Model, calls: &CallGraph<'_>) -> Result<(), PassError> {
    for (f, domain) in calls.inlined_domains() {
        let same = |d: &str| calls::normal(d) == domain;
        let Some((_, wanted)) = f.opsets.iter().find(|(d, _)| same(d)) else { continue };
        let shown = if domain.is_empty() { "ai.onnx" } else { domain };
        match model.opset(domain) {
            None => model.set_opset(domain, *wanted),
            Some(found) if found == *wanted => (),
            Some(found) => {
                // A version that the file does not name came from a function inlined before.
                let whose = if library.opset(domain).is_some() { "the model" } else { "another function" };
                return Err(PassError::Model(format!(
                    "function `{}` uses operator set {wanted} of domain `{shown}`, {whose} uses {found}: \
                     export the model again with one version of the domain",
                    calls::label(f)
                )));
            }
        }
    }
    Ok(())
}

/// Removes all functions, and imports of their domains that no operator needs.
fn remove_functions(model: &mut Model) {
    let functions = std::mem::take(&mut model.functions);
    for f in &functions {
        model.remove_graph(f.graph);
        for body in f.defaults.iter().flat_map(|a| a.value.graphs()) {
            model.remove_graph(*body);
        }
    }
    let domains: FxHashSet<&str> = functions.iter().map(|f| calls::normal(&f.domain)).collect();
    let used: FxHashSet<String> = model
        .graph_ids()
        .flat_map(|id| model.graph(id).ops().map(move |op| (id, op)))
        .map(|(id, op)| calls::normal(&model.graph(id).op(op).domain).to_owned())
        .collect();
    model.opsets.retain(|(d, _)| {
        let d = calls::normal(d);
        d.is_empty() || used.contains(d) || !domains.contains(d)
    });
}

#[cfg(test)]
mod tests;
