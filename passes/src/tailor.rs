//! Rewrites of what stays in float, for a runtime that has its own float kernels and does not make them itself.
//!
//! They run when all decisions have been carried out: what is quantized is seen to be, and nothing that is planned changes.
//! All are exact but for rounding.

pub(crate) mod align_channels;
pub(crate) mod avoid_denormals;
pub(crate) mod enter_layout;
pub(crate) mod expand_activations;
pub(crate) mod expand_hard_swish;
pub(crate) mod expand_lrn;
pub(crate) mod expand_prelu;
pub(crate) mod floor_nearest;
pub(crate) mod fuse_gelu;
pub(crate) mod fuse_silu;
pub(crate) mod hold_quantizers;
pub(crate) mod hold_transposes;
mod layouts;
pub(crate) mod lift_convolutions;
pub(crate) mod move_softmax_axis;
pub(crate) mod pack_narrow_convolutions;
pub(crate) mod part_transposes;
mod parts;
pub(crate) mod resize_in_blocks;
pub(crate) mod restore_transposed;
pub(crate) mod scale_in_blocks;
pub(crate) mod sum_before_normalization;
#[cfg(test)]
mod testing;

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::resolve_target;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::{Fact, MICROSOFT};
use squint_targets::FloatKernels;
use std::sync::Arc;

/// A pass for targets that have float kernels of their own; for others it does nothing.
pub(crate) struct Tailoring {
    name: &'static str,
    rewrite: Rewrite,
}

/// Rewrites the main graph as these kernels want it, and says whether it changed.
type Rewrite = fn(&mut Model, &mut PassCx<'_>, &FloatKernels) -> Result<bool, PassError>;

impl Pass for Tailoring {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        match resolve_target(&cx.config.target)?.float_kernels() {
            Some(kernels) => (self.rewrite)(model, cx, kernels).map(Changed::from),
            None => Ok(Changed::No),
        }
    }
}

/// The operators of the main graph of these types, in the order of execution.
fn operators(model: &Model, op_types: &[&str]) -> Result<Vec<OpId>, PassError> {
    let g = model.main();
    let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
    Ok(order.into_iter().filter(|op| op_types.iter().any(|t| g.op(*op).is(t))).collect())
}

/// Puts an operator in the place of another one, under its name; true if there was a result to give.
fn replace(g: &mut Graph, old: OpId, spec: OpSpec, by: &str) -> bool {
    let Some(y) = g.result(old, 0) else { return false };
    let origin = format!("{by}({})", g.label(old));
    let spec = spec.name(g.op(old).name.clone()).near(old).origin(origin);
    g.set_result(old, 0, None);
    let new = g.add_op(spec);
    g.set_result(new, 0, Some(y));
    g.remove_op_and_results(old);
    true
}

/// Declares that the model has operators of ONNX Runtime's own.
pub(crate) fn need_microsoft(model: &mut Model) {
    if model.opset(MICROSOFT).is_none() {
        model.set_opset(MICROSOFT, 1);
    }
}

/// Elements from which several operators take less time than one that goes element by element.
const ELEMENTS: u64 = 4096;

/// True for float32 values of so many elements, or of unknown size.
fn is_large(facts: &ValueTable<Fact>, x: ValueId) -> bool {
    let Some(fact) = facts.get(x).filter(|f| f.dtype == Some(DType::Float)) else { return false };
    let dims = fact.shape.as_deref().unwrap_or_default();
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?)).is_none_or(|n| n >= ELEMENTS)
}

/// A constant that no caller can replace.
fn konst(g: &Graph, v: ValueId) -> Option<&Arc<Tensor>> {
    (!g.is_input(v)).then(|| g.konst(v)).flatten()
}

/// The only element of a float constant.
fn scalar(g: &Graph, v: ValueId) -> Option<f32> {
    let tensor = konst(g, v)?;
    (tensor.len() == 1 && tensor.dtype() == DType::Float).then(|| tensor.f32s()[0])
}

/// The operand of an operator that is no number, and the number.
fn with_scalar(g: &Graph, op: OpId) -> Option<(ValueId, f64)> {
    let (a, b) = (g.operand(op, 0)?, g.operand(op, 1)?);
    let other = |x, k| scalar(g, k).map(|k| (x, f64::from(k)));
    other(a, b).or_else(|| other(b, a))
}

/// `x` and `k` of an operator that computes `k·x`.
fn factor(g: &Graph, op: OpId) -> Option<(ValueId, f64)> {
    let (x, k) = with_scalar(g, op)?;
    match g.op(op) {
        node if node.is("Mul") => Some((x, k)),
        node if node.is("Div") && g.operand(op, 0) == Some(x) => Some((x, 1.0 / k)),
        _ => None,
    }
}

/// True for the result of a DequantizeLinear.
fn is_dequantized(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|(op, _)| g.op(op).is("DequantizeLinear"))
}

/// The operand of a function of one operand, if the operator is not one on integers.
fn in_float(g: &Graph, op: OpId) -> Option<ValueId> {
    g.operand(op, 0).filter(|x| !is_dequantized(g, *x))
}

/// True if a value is read, and only as the data of convolutions with constant float weights.
fn is_read_by_convolutions(g: &Graph, v: ValueId) -> bool {
    let weight = |op| konst(g, g.operand(op, 1)?);
    let reads = |op| g.op(op).is("Conv") && weight(op).is_some_and(|w| w.dtype() == DType::Float);
    let uses = g.uses(v);
    !g.is_output(v) && !uses.is_empty() && uses.iter().all(|u| u.slot == 0 && reads(u.op))
}

/// A convolution of each of so many channels with one tap.
fn convolution_of_each(channels: usize) -> OpSpec {
    OpSpec::new("Conv").attr("group", channels as i64).attr("kernel_shape", vec![1, 1])
}
