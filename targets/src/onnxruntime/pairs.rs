//! Pairs of conversions that the runtime joins or drops.
//!
//! `double_qdq_pairs_remover.cc` joins quantizing twice in a row, with the range that both have in common;
//! `qdq_final_cleanup.cc` drops what dequantizes only to quantize in the same way.

use super::linear::{Linear, code_type, same};
use super::sim::{Gone, Sim};
use squint_ir::{DType, OpId, Tensor};

/// Q → DQ → Q → DQ becomes Q → DQ, with as many of the last as there are.
pub(super) fn join_double(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.is_dq(op) {
            changed |= join(sim, op).is_some();
        }
    }
    changed
}

fn join(sim: &mut Sim, dq: OpId) -> Option<()> {
    let child = sim.only_edge(dq).filter(|u| sim.is_q(u.op))?.op;
    // Copies of one DequantizeLinear, for readers of its own each, all are rewritten.
    let grandchildren: Vec<OpId> = sim.edges(child).into_iter().map(|u| u.op).collect();
    if grandchildren.is_empty() || sim.makes_output(child) {
        return None;
    }
    let parent = sim.parent(dq, 0).filter(|p| sim.is_q(*p) && sim.only_edge(*p).is_some())?;
    same(sim, parent, dq).ok()?;
    for grandchild in &grandchildren {
        if !sim.is_dq(*grandchild) {
            return None;
        }
        same(sim, child, *grandchild).ok()?;
    }
    let dtype = code_type(sim, dq)?;
    let (lo, hi) = match dtype {
        DType::Uint8 => (0, 255),
        DType::Int8 => (-128, 127),
        _ => return None,
    };
    let (outer, inner) = (Linear::of(sim, dq)?, Linear::of(sim, child)?);
    let (s1, z1) = (outer.scale(sim)?, outer.zero_point(sim)?);
    let (s2, z2) = (inner.scale(sim)?, inner.zero_point(sim)?);
    if code_type(sim, child)? != dtype || sim.dtype(outer.scale) != Some(DType::Float) {
        return None;
    }
    if (s1, z1) != (s2, z2) {
        let edge = |q: i64, z: i64, s: f32| (q - z) as f32 * s;
        let real_lo = edge(lo, z1, s1).max(edge(lo, z2, s2));
        let real_hi = edge(hi, z1, s1).min(edge(hi, z2, s2));
        let scale = (real_hi - real_lo) / (hi - lo) as f32;
        let zero = (lo as f32 - real_lo / scale).round() as i64;
        let scale = sim.add_const("joined_scale", Tensor::scalar_f32(scale));
        let zero = match dtype {
            DType::Uint8 => Tensor::from_u8(&[], &[zero as u8]),
            _ => Tensor::from_i8(&[], &[zero as i8]),
        };
        let zero = sim.add_const("joined_zero_point", zero);
        for op in grandchildren.iter().copied().chain([parent]) {
            sim.g.set_operand(op, 1, Some(scale));
            sim.g.set_operand(op, 2, Some(zero));
        }
    }
    for grandchild in &grandchildren {
        sim.g.set_operand(*grandchild, 0, Some(outer.data));
    }
    sim.remove(child, Gone::Into(parent));
    sim.remove(dq, Gone::Into(grandchildren[0]));
    Some(())
}

/// DQ → Q of the same parameters vanishes, unless several operators read the result.
pub(super) fn clean_up(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.is_dq(op) {
            changed |= drop_pair(sim, op).is_some();
        }
    }
    changed
}

fn drop_pair(sim: &mut Sim, dq: OpId) -> Option<()> {
    let q = sim.only_edge(dq).filter(|u| sim.is_q(u.op))?.op;
    same(sim, q, dq).ok()?;
    let (x, y) = (sim.g.operand(dq, 0)?, sim.result(q)?);
    let by = sim.g.producer(x);
    if sim.is_output(y) {
        if !sim.g.uses(y).is_empty() {
            return None;
        }
        if let Some((maker, slot)) = by {
            sim.remove(q, Gone::Into(maker));
            sim.remove(dq, Gone::Into(maker));
            sim.g.set_result(maker, slot, Some(y));
            return Some(());
        }
    } else {
        if sim.g.uses(y).len() != 1 {
            return None;
        }
        sim.replace(y, x);
    }
    let gone = by.map_or(Gone::Folded, |(p, _)| Gone::Into(p));
    sim.remove(q, gone);
    sim.remove(dq, gone);
    Some(())
}
