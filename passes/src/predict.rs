//! What a target will make of a model as it is, quantized or not, by whatever tool.
//!
//! The prediction itself is the target's; here its parts are put together: types of the values, calls of model
//! functions replaced by their bodies, multiply–accumulates counted.

use crate::config::Config;
use crate::infer_types::{infer_concrete, infer_declared};
use crate::inline_functions::InlineFunctions;
use crate::pass::{Pass, PassCx, PassError};
use crate::plan::resolve_target;
use squint_ir::types::known_dims;
use squint_ir::{Model, OpTable, ValueId, ValueTable};
use squint_ops::{Class, Fact};
use squint_targets::{Fault, Operand, Runs, Site, Subject};
use std::collections::BTreeMap;

/// What becomes of a model.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Every operator of the main graph, calls of functions replaced by their bodies, in order of execution.
    pub nodes: Vec<NodeForecast>,
    /// How often each integer kernel and each conversion stands in the graph that the runtime makes of it.
    pub kernels: BTreeMap<String, usize>,
    /// Why the runtime would refuse it: the node where it is one's fault, what is wrong, what to do.
    pub faults: Vec<(Option<String>, Fault)>,
}

/// What becomes of one operator.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeForecast {
    /// Node name, or its first result.
    pub node: String,
    /// Operator type.
    pub op_type: String,
    /// Multiply–accumulates, with 1 for lengths that the model leaves open; 0 for other operators than contractions.
    pub macs: u64,
    /// Whether it multiplies and accumulates.
    pub contraction: bool,
    /// Where it runs.
    pub runs: Runs,
    /// Position of the node whose kernel does its work, where [`Runs::Inside`] says so.
    pub inside: Option<usize>,
}

/// What a target will make of a model.
///
/// # Errors
/// If there is no such target or it predicts nothing, or the model is not well-formed.
pub fn predict(model: &Model, target: &str) -> Result<Forecast, PassError> {
    let target = resolve_target(target)?;
    let inlined = inline(model)?;
    let model = inlined.as_ref().unwrap_or(model);
    let g = model.main();
    let facts = infer_declared(model)?;
    let opset = model.onnx_opset();
    let overridable = model.ir_version >= 4;
    let subject = Subject { graph: g, facts: &facts, opset, overridable };
    let Some(prediction) = target.predict(&subject) else {
        return Err(PassError::Config(format!(
            "what the runtime of target `{}` makes of a model cannot be predicted",
            target.name()
        )));
    };
    let macs = macs(model, &facts)?;
    let mut positions = OpTable::new();
    for (i, (op, _)) in prediction.nodes.iter().enumerate() {
        positions.insert(*op, i);
    }
    let row = |op, runs: Runs| {
        let node = g.op(op);
        let row = squint_ops::row(&node.domain, &node.op_type);
        let inside = match &runs {
            Runs::Inside(by) => positions.get(*by).copied(),
            _ => None,
        };
        let macs = macs.get(op).copied();
        let contraction = macs.is_some() || row.is_some_and(|r| r.class == Class::Contraction);
        let (node, op_type, macs) = (g.label(op), node.qualified_type(), macs.unwrap_or(0));
        NodeForecast { node, op_type, macs, contraction, runs, inside }
    };
    let faults = prediction.faults.into_iter().map(|f| (f.op.map(|op| g.label(op)), f)).collect();
    let nodes = prediction.nodes.into_iter().map(|(op, runs)| row(op, runs)).collect();
    Ok(Forecast { nodes, kernels: prediction.kernels, faults })
}

/// A copy of the model without functions, if it has any.
fn inline(model: &Model) -> Result<Option<Model>, PassError> {
    if model.functions.is_empty() {
        return Ok(None);
    }
    let mut copy = model.clone();
    let config = Config::new("");
    InlineFunctions.run(&mut copy, &mut PassCx::new(&config))?;
    Ok(Some(copy))
}

/// Multiply–accumulates of the contractions whose lengths are known, or would be if every open length were 1.
fn macs(model: &Model, declared: &ValueTable<Fact>) -> Result<OpTable<u64>, PassError> {
    let g = model.main();
    let mut dims = ValueTable::new();
    for v in &g.inputs {
        if let Some(shape) = declared.get(*v).and_then(|f| f.shape.as_ref()) {
            dims.insert(*v, shape.iter().map(|d| d.known().unwrap_or(1) as usize).collect::<Vec<_>>());
        }
    }
    let concrete = infer_concrete(model, &dims)?;
    let operand = |value: ValueId| {
        let fact = match g.konst(value) {
            Some(t) => Fact::constant(t.clone()),
            None => concrete.get(value).cloned().unwrap_or_default(),
        };
        let dims = fact.shape.as_deref().and_then(known_dims);
        Operand { value, fact, dims }
    };
    let mut out = OpTable::new();
    for op in g.ops() {
        let macs = Site::new(g, op, model.onnx_opset(), operand).and_then(|s| s.multiplications());
        if let Some(macs) = macs {
            out.insert(op, macs);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
