//! Rewrites of what stays in float, for a runtime that has its own float kernels and does not make them itself.
//!
//! They run when all decisions have been carried out: what is quantized is seen to be, and nothing that is planned changes.
//! All are exact but for rounding.

pub(crate) mod align_channels;
pub(crate) mod avoid_denormals;
pub(crate) mod enter_layout;
pub(crate) mod expand_hard_swish;
pub(crate) mod fuse_gelu_tanh;
pub(crate) mod hold_quantizers;
mod layouts;
pub(crate) mod lift_convolutions;
pub(crate) mod move_softmax_axis;
pub(crate) mod pack_narrow_convolutions;
pub(crate) mod scale_in_blocks;

use crate::pass::{PassCx, PassError};
use crate::plan::resolve_target;
use squint_ir::{DType, Graph, OpId, OpSpec, Tensor, ValueId};
use squint_ops::{Class, row};
use squint_targets::FloatKernels;
use std::sync::Arc;

/// What the float kernels of the target prefer.
fn float_kernels(cx: &PassCx<'_>) -> Result<Option<&'static FloatKernels>, PassError> {
    Ok(resolve_target(&cx.config.target)?.float_kernels())
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

/// The operand of a function of one operand, if the operator is not one on integers.
fn in_float(g: &Graph, op: OpId) -> Option<ValueId> {
    let x = g.operand(op, 0)?;
    let dequantized = g.producer(x).is_some_and(|(p, _)| g.op(p).is("DequantizeLinear"));
    (!dequantized).then_some(x)
}

/// True if an operator computes each element of its only result from one element of its first operand.
pub(crate) fn is_elementwise(g: &Graph, id: OpId) -> bool {
    let op = g.op(id);
    let class = row(&op.domain, &op.op_type).map(|r| r.class);
    let rows = ["Softmax", "LogSoftmax", "Hardmax"].iter().any(|t| op.is(t));
    let scalars = g.operands(id).into_iter().skip(1).flatten();
    matches!(class, Some(Class::Clamp | Class::Unary | Class::Bounded))
        && !rows
        && g.results(id).len() == 1
        && scalars.into_iter().all(|v| g.konst(v).is_some_and(|k| k.len() == 1))
}

/// The operators behind one, each the only reader of what comes before, that are [`is_elementwise`]; and a QuantizeLinear
/// with one scale behind them.
pub(crate) fn elementwise_behind(g: &Graph, id: OpId) -> Vec<OpId> {
    let mut chain = Vec::new();
    let mut last = id;
    loop {
        let next = g.result(last, 0).and_then(|v: ValueId| g.only_use(v)).filter(|u| u.slot == 0);
        let Some(next) =
            next.map(|u| u.op).filter(|op| is_elementwise(g, *op) || quantizes_with_one_scale(g, *op))
        else {
            return chain;
        };
        last = next;
        chain.push(last);
        if g.op(last).is("QuantizeLinear") {
            return chain;
        }
    }
}

fn quantizes_with_one_scale(g: &Graph, op: OpId) -> bool {
    let mut parameters = g.operands(op).into_iter().skip(1).flatten();
    g.op(op).is("QuantizeLinear") && parameters.all(|v| konst(g, v).is_some_and(|k| k.len() == 1))
}

/// Replaces an operator, and `between`, the [`elementwise_behind`] it, by `first` and copies of them, whose results have
/// `suffix` in their names; and the result of the last of them by what `put` makes of the new one: an operator that has no
/// result yet. It is given the operator that its own is to stand near.
pub(crate) fn replace_with_elementwise(
    g: &mut Graph,
    id: OpId,
    first: OpSpec,
    suffix: &str,
    put: impl FnOnce(&mut Graph, ValueId, OpId) -> OpSpec,
) {
    let between = elementwise_behind(g, id);
    let end = between.last().copied().unwrap_or(id);
    let Some(result) = g.result(end, 0) else { return };
    let named = |g: &Graph, op: OpId| {
        let name = g.result(op, 0).map_or(String::new(), |v| g.value(v).name().to_owned());
        format!("{name}_{suffix}")
    };
    let name = named(g, id);
    let mut value = g.emit(first, &name, None);
    for next in &between {
        let name = named(g, *next);
        let mut operands = g.operands(*next);
        operands[0] = Some(value);
        value = g.emit(OpSpec::from_op(g.op(*next).clone()).operands(operands).near(*next), &name, None);
    }
    let last = put(g, value, end);
    g.set_result(end, 0, None);
    let last = g.add_op(last);
    g.set_result(last, 0, Some(result));
    // From the end, so that nothing reads what is removed.
    for op in between.iter().rev().chain([&id]) {
        g.remove_op_and_results(*op);
    }
}
