//! Signed activations become unsigned where x86 has no kernel for them (`qdq_s8_to_u8.cc`).
//!
//! Only pairs in the model are rewritten: a signed constant or graph input behind a lone DequantizeLinear stays signed,
//! and what reads it stays in float.

use super::linear::Linear;
use super::sim::Sim;
use squint_ir::{DType, OpId, Tensor};
use squint_ops::Fact;

/// Rewrites every QuantizeLinear whose only reader is a DequantizeLinear, with signed zero points.
pub(super) fn make_unsigned(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.is_q(op) {
            changed |= rewrite(sim, op).is_some();
        }
    }
    changed
}

fn rewrite(sim: &mut Sim, q: OpId) -> Option<()> {
    let dq = sim.only_edge(q).filter(|u| sim.is_dq(u.op) && u.slot == 0)?.op;
    let (a, b) = (Linear::of(sim, q)?, Linear::of(sim, dq)?);
    let signed = |l: Linear| {
        (sim.dtype(l.zero_point?)? == DType::Int8).then_some(())?;
        l.zero_point(sim)
    };
    let zero = signed(a)?;
    (signed(b)? == zero).then_some(())?;
    let zero = sim.add_const("unsigned_zero_point", Tensor::from_u8(&[], &[(zero + 128) as u8]));
    sim.g.set_operand(q, 2, Some(zero));
    sim.g.set_operand(dq, 2, Some(zero));
    let code = sim.result(q)?;
    let fact = Fact { dtype: Some(DType::Uint8), konst: None, ..sim.fact(code) };
    sim.g.set_type(code, fact.to_type());
    sim.learn(code, fact);
    Some(())
}
