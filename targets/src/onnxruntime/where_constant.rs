//! A scalar constant beside a dequantized operand of Where is quantized (`where_dummy_dq.cc`).

use super::linear::code_type;
use super::sim::Sim;
use squint_ir::{DType, OpId, OpSpec, Tensor};
use squint_ops::Fact;

/// Quantizes scalar operands of every Where between conversions.
pub(super) fn quantize(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.op(op).is("Where") {
            changed |= apply(sim, op).is_some();
        }
    }
    changed
}

fn apply(sim: &mut Sim, op: OpId) -> Option<()> {
    let [u] = sim.edges(op)[..] else { return None };
    let q = sim.is_q(u.op).then_some(u.op)?;
    let dq = |slot| sim.parent(op, slot).filter(|p| sim.is_dq(*p));
    let (dq, slot) = match (dq(1), dq(2)) {
        (Some(dq), None) => (dq, 2),
        (None, Some(dq)) => (dq, 1),
        _ => return None,
    };
    let scalar = sim.g.operand(op, slot)?;
    let fits = sim.is_constant(scalar) && sim.fact(scalar).rank() == Some(0);
    let dtype = code_type(sim, dq)?;
    if !fits || sim.dtype(scalar) != Some(DType::Float) || code_type(sim, q) != Some(dtype) {
        return None;
    }
    sim.g.operand(dq, 2)?;
    let code = sim.add_value("where_q", Fact::new(Some(dtype), Some(Vec::new())));
    sim.set_computed(code);
    let scale = sim.add_const("where_scale", Tensor::scalar_f32(1.0));
    let zero = sim.add_value("where_zero_point", Fact::new(Some(dtype), Some(Vec::new())));
    sim.set_computed(zero);
    let out = sim.add_value("where_dq", Fact::new(Some(DType::Float), Some(Vec::new())));
    let spec = OpSpec::new("DequantizeLinear").near(op).operands([code, scale, zero]).results([out]);
    sim.add_op(spec, None);
    sim.g.set_operand(op, slot, Some(out));
    Some(())
}
