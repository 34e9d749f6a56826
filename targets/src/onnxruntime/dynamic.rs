//! Products of integers whose scales are found at run time (`matmul_integer_to_float.cc`,
//! `dynamic_quantize_matmul_fusion.cc`).

use super::sim::{Gone, Sim};
use squint_ir::{OpId, ValueId};

/// MatMulInteger → Cast → Mul by the product of scales (→ Add of a constant) becomes MatMulIntegerToFloat.
pub(super) fn join_scales(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.g.op(op).is("Mul") {
            changed |= scale(sim, op).is_some();
        }
    }
    changed
}

fn scale(sim: &mut Sim, mul: OpId) -> Option<()> {
    let parent =
        |op: OpId, op_type: &str| (0..2).filter_map(|s| sim.parent(op, s)).find(|p| sim.g.op(*p).is(op_type));
    let cast = parent(mul, "Cast")?;
    let product = sim.parent(cast, 0).filter(|p| sim.g.op(*p).is("MatMulInteger"))?;
    let scales = parent(mul, "Mul")?;
    for op in [cast, product, scales] {
        sim.only_edge(op)?;
    }
    let add = sim.only_edge(mul).filter(|u| sim.g.op(u.op).is("Add")).filter(|u| {
        let bias = sim.g.operand(u.op, 1);
        bias.is_some_and(|b| sim.is_constant(b) && sim.dims(b).is_some_and(|d| bias_fits(&d)))
    });
    let end = add.map_or(mul, |u| u.op);
    let (out, [a, b]) = (sim.result(end)?, [sim.g.operand(scales, 0), sim.g.operand(scales, 1)]);
    let zeros: [Option<ValueId>; 2] = [sim.g.operand(product, 2), sim.g.operand(product, 3)];
    let bias = add.and_then(|u| sim.g.operand(u.op, 1));
    for gone in [cast, scales, mul].into_iter().chain(add.map(|u| u.op)) {
        sim.remove(gone, Gone::Into(product));
    }
    let node = sim.g.op_mut(product);
    node.op_type = "MatMulIntegerToFloat".into();
    node.domain = "com.microsoft".into();
    for (slot, v) in (2u32..).zip([a, b, zeros[0], zeros[1], bias]) {
        sim.g.set_operand(product, slot, v);
    }
    sim.g.set_result(product, 0, Some(out));
    Some(())
}

/// One number for each column, and more than one.
fn bias_fits(dims: &[usize]) -> bool {
    match dims {
        [ones @ .., n] => ones.iter().all(|d| *d == 1) && *n > 1,
        [] => false,
    }
}

/// DynamicQuantizeLinear → MatMulIntegerToFloat of a constant becomes DynamicQuantizeMatMul.
pub(super) fn join_quantizer(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.g.op(op).op_type == "MatMulIntegerToFloat" {
            changed |= quantizer(sim, op).is_some();
        }
    }
    changed
}

fn quantizer(sim: &mut Sim, product: OpId) -> Option<()> {
    let operand = |slot| sim.g.operand(product, slot);
    for slot in [1, 3] {
        operand(slot).filter(|v| sim.is_constant(*v))?;
    }
    if [5, 6].into_iter().filter_map(operand).any(|v| !sim.is_constant(v)) {
        return None;
    }
    let quantizer = (0..5)
        .find_map(|s| sim.parent(product, s).filter(|p| sim.g.op(*p).op_type == "DynamicQuantizeLinear"))?;
    if sim.edges(quantizer).len() != 3 || sim.makes_output(quantizer) {
        return None;
    }
    let operands = [sim.g.operand(quantizer, 0), operand(1), operand(3), operand(5), operand(6)];
    sim.remove(quantizer, Gone::Into(product));
    sim.g.op_mut(product).op_type = "DynamicQuantizeMatMul".into();
    for slot in 0..7u32 {
        sim.g.set_operand(product, slot, operands.get(slot as usize).copied().flatten());
    }
    Some(())
}
