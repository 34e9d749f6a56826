//! Each reader of a DequantizeLinear gets a copy of its own (`ensure_unique_dq_for_node_unit.cc`).

use super::sim::Sim;
use squint_ir::{OpId, OpSpec};

/// Copies every DequantizeLinear that several operators read, or that makes a graph output too.
pub(super) fn copy_shared(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.is_dq(op) {
            changed |= copy(sim, op);
        }
    }
    changed
}

fn copy(sim: &mut Sim, dq: OpId) -> bool {
    let Some(v) = sim.result(dq) else { return false };
    let output = sim.is_output(v);
    let uses = sim.g.uses(v);
    if uses.is_empty() || (uses.len() == 1 && !output) {
        return false;
    }
    let captured = uses.iter().any(|u| u.capture);
    let readers: Vec<_> = uses.into_iter().filter(|u| !u.capture).collect();
    let keep = usize::from(!captured && !output);
    let mut changed = false;
    for u in readers.into_iter().skip(keep) {
        let mut node = sim.g.op(dq).clone();
        node.name.push_str("/duplicated");
        let (name, fact) = (sim.g.value(v).name().to_owned(), sim.fact(v));
        let out = sim.add_value(&format!("{name}/duplicated"), fact);
        let spec = OpSpec::from_op(node).near(dq).operands(sim.g.operands(dq)).results([out]);
        sim.add_op(spec, Some(dq));
        sim.g.set_operand(u.op, u.slot, Some(out));
        changed = true;
    }
    changed
}
