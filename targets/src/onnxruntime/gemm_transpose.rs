//! A Transpose before or behind a Gemm becomes one of its attributes (`gemm_transpose_fusion.cc`).

use super::sim::{Gone, Sim};
use squint_ir::OpId;

/// Joins every Gemm with the transposes around it.
pub(super) fn join(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.g.op(op).is("Gemm") {
            for (slot, name) in [(0, "transA"), (1, "transB")] {
                changed |= before(sim, op, slot, name).is_some();
            }
            changed |= behind(sim, op).is_some();
        }
    }
    changed
}

/// Whether an operator exchanges the two axes of a matrix, for one reader alone.
fn exchanges(sim: &Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    node.is("Transpose") && node.ints("perm").is_none_or(|p| p == [1, 0])
}

fn toggled(sim: &Sim, op: OpId, name: &str) -> i64 {
    i64::from(sim.g.op(op).int(name).unwrap_or(0) == 0)
}

fn before(sim: &mut Sim, op: OpId, slot: u32, name: &str) -> Option<()> {
    let transpose = sim.parent(op, slot).filter(|p| exchanges(sim, *p))?;
    let x = sim.g.operand(transpose, 0)?;
    let value = toggled(sim, op, name);
    sim.g.set_operand(op, slot, Some(x));
    sim.g.op_mut(op).set_attr(name, value);
    if sim.edges(transpose).is_empty() && !sim.makes_output(transpose) {
        sim.remove(transpose, Gone::Into(op));
    }
    Some(())
}

/// `(A·B)ᵀ` is `Bᵀ·Aᵀ`, if nothing is added to it.
fn behind(sim: &mut Sim, op: OpId) -> Option<()> {
    if sim.g.operand(op, 2).is_some() {
        return None;
    }
    let transpose = sim.only_edge(op).filter(|u| exchanges(sim, u.op))?.op;
    let (a, b, y) = (sim.g.operand(op, 0)?, sim.g.operand(op, 1)?, sim.result(transpose)?);
    let (trans_a, trans_b) = (toggled(sim, op, "transB"), toggled(sim, op, "transA"));
    sim.g.set_operand(op, 0, Some(b));
    sim.g.set_operand(op, 1, Some(a));
    let node = sim.g.op_mut(op);
    node.set_attr("transA", trans_a);
    node.set_attr("transB", trans_b);
    sim.remove(transpose, Gone::Into(op));
    sim.g.set_result(op, 0, Some(y));
    Some(())
}
