//! `raise-opset`: brings the model to an operator set that can say what the target needs.
//!
//! Per-channel QuantizeLinear needs operator set 13, so models of sets 7 to 12 are raised to 13; newer
//! ones are left as they are. An adapter is one function for one operator and one version at which its
//! definition changed incompatibly; [`steps::STEPS`] lists them. An operator goes through every step
//! between the version of the model and the target's, in ascending order, and may change its type on the
//! way (Upsample 7 → Upsample 9 → Resize 10 → Resize 11). What is not listed kept its meaning between 7 and
//! 25 (23 to 25 brought element types, and operators); beyond 13, [`raise_to`] serves rewriting rules that make operators of newer sets, and element types that
//! quantizers have in newer sets. Operators of other domains, and calls of model functions, are not touched; bodies of If and Loop
//! are raised with the graph around them.
//!
//! Source: ONNX `Changelog.md`.

mod site;
mod softmax;
mod steps;

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use site::Site;
use squint_ir::{GraphId, Model, OpId};

/// The oldest operator set that can be raised.
const OLDEST: i64 = 7;

/// The operator set up to which there are adapters.
const NEWEST: i64 = 25;

/// The pass.
pub(crate) struct RaiseOpset;

impl Pass for RaiseOpset {
    fn name(&self) -> &'static str {
        "raise-opset"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let name = &cx.config.target;
        let target =
            squint_targets::target(name).ok_or_else(|| PassError::Config(format!("no target `{name}`")))?;
        let (there, most) = (model.onnx_opset(), target.max_opset());
        if there > most {
            return Err(PassError::Model(format!(
                "the model uses operator set {there}, and {name} supports operators up to Opset {most}: export the \
                 model again with an older operator set, or choose a newer target"
            )));
        }
        raise_to(model, cx, target.min_opset(), &format!("`{name}`"))
    }
}

/// Raises the model to operator set `to`, which `who` needs, if it is older.
///
/// # Errors
/// If there are no adapters from or to such a set, or an operator has no counterpart.
pub(crate) fn raise_to(
    model: &mut Model,
    cx: &mut PassCx<'_>,
    to: i64,
    who: &str,
) -> Result<Changed, PassError> {
    let from = model.onnx_opset();
    if from >= to {
        return Ok(Changed::No);
    }
    let operators = operators(model)?;
    if (from < OLDEST && !operators.is_empty()) || to > NEWEST {
        return Err(PassError::Model(format!(
            "the model uses operator set {from}, {who} needs {to}, and squint raises sets {OLDEST} to {NEWEST}: \
             export the model again with a newer operator set, or convert it with `onnx.version_converter`"
        )));
    }
    // The ranks of operands decide how Softmax is raised.
    InferTypes.run(model, cx)?;
    for (graph, op) in operators {
        raise(&mut Site::new(model, cx, graph, op), from, to)?;
    }
    model.set_opset("", to);
    let ir = match to {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    };
    model.ir_version = model.ir_version.max(ir);
    Ok(Changed::Yes)
}

/// Every operator of the default domain that is not a call of a model function, in the outermost graph and
/// in the bodies inside it.
fn operators(model: &Model) -> Result<Vec<(GraphId, OpId)>, PassError> {
    let is_call =
        |op: &squint_ir::Op| model.functions.iter().any(|f| f.domain.is_empty() && f.name == op.op_type);
    let mut outermost = model.main_id();
    while let Some((around, _)) = model.graph(outermost).owner {
        outermost = around;
    }
    let (mut work, mut found) = (vec![outermost], Vec::new());
    while let Some(id) = work.pop() {
        let g = model.graph(id);
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            work.extend(g.op(op).bodies());
            if g.op(op).is_onnx() && !is_call(g.op(op)) {
                found.push((id, op));
            }
        }
    }
    Ok(found)
}

/// Takes one operator through its steps.
fn raise(site: &mut Site<'_, '_>, from: i64, to: i64) -> Result<(), PassError> {
    let mut version = from;
    loop {
        let op_type = &site.op().op_type;
        let ahead =
            steps::STEPS.iter().filter(|s| s.op_type == *op_type && s.version > version && s.version <= to);
        let Some(step) = ahead.min_by_key(|s| s.version) else { return Ok(()) };
        (step.adapt)(site)?;
        version = step.version;
    }
}

#[cfg(test)]
mod tests;
