//! Conversions spread over operators that only move elements (`qdq_propagation.cc`).
//!
//! ```text
//! DQ → Reshape → Conv     becomes   DQ → Reshape → Q → DQ → Conv
//! Conv → MaxPool → Q      becomes   Conv → Q → DQ → MaxPool → Q
//! ```

use super::linear::Linear;
use super::sim::Sim;
use squint_ir::{OpId, OpSpec, Use, ValueId};

/// A value on its way to one reader; `None` is the output of the graph.
type Edge = (ValueId, Option<Use>);

/// Moves every DequantizeLinear down and every QuantizeLinear up.
pub(super) fn propagate(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.is_dq(op) {
            changed |= down(sim, op);
        }
    }
    for op in sim.order() {
        if sim.g.has_op(op) && sim.is_q(op) {
            changed |= up(sim, op);
        }
    }
    changed
}

/// Operators over which conversions spread.
fn can_pass(sim: &Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    let moves = matches!(node.op_type.as_str(), "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice");
    node.is_onnx() && (moves || (node.op_type == "MaxPool" && sim.opset >= 12))
}

fn down(sim: &mut Sim, dq: OpId) -> bool {
    let Some(linear) = Linear::of(sim, dq).filter(|l| l.constant_scalars(sim)) else { return false };
    let Some(first) = sim.only_edge(dq) else { return false };
    let mut groups = vec![next_edges(sim, first.op)];
    let mut changed = false;
    while let Some(group) = groups.pop() {
        if group.is_empty() {
            continue;
        }
        insert(sim, dq, linear, &group);
        changed = true;
        for (_, reader) in group {
            if let Some(u) = reader {
                groups.push(next_edges(sim, u.op));
            }
        }
    }
    changed
}

/// What leaves an operator over which conversions spread; nothing if a QuantizeLinear is among its readers.
fn next_edges(sim: &Sim, op: OpId) -> Vec<Edge> {
    let Some(v) = sim.result(op).filter(|_| can_pass(sim, op)) else { return Vec::new() };
    let uses = sim.g.uses(v);
    match (uses.is_empty(), sim.is_output(v)) {
        (true, true) => vec![(v, None)],
        (false, false) if !uses.iter().any(|u| sim.is_q(u.op)) => {
            uses.into_iter().map(|u| (v, Some(u))).collect()
        }
        _ => Vec::new(),
    }
}

fn up(sim: &mut Sim, q: OpId) -> bool {
    let Some(linear) = Linear::of(sim, q).filter(|l| l.constant_scalars(sim)) else { return false };
    let mut changed = false;
    let mut at = previous(sim, q);
    while let Some((v, _)) = at {
        let Some((maker, 0)) = sim.g.producer(v).filter(|(p, _)| can_pass(sim, *p)) else { break };
        let Some(edge) = previous(sim, maker) else { break };
        if sim.g.producer(edge.0).is_some_and(|(p, _)| sim.is_dq(p)) {
            break;
        }
        insert(sim, q, linear, &[edge]);
        changed = true;
        // The reader now hangs on the new DequantizeLinear; what was before it is where the next step begins.
        at = Some(edge);
    }
    changed
}

/// The edge by which an operator's data arrives, if nothing else reads it and it is no constant.
fn previous(sim: &Sim, op: OpId) -> Option<Edge> {
    let v = sim.g.operand(op, 0)?;
    let own = Use { op, slot: 0, capture: false };
    match sim.g.producer(v) {
        Some(_) => (!sim.is_output(v) && sim.g.uses(v).len() == 1).then_some((v, Some(own))),
        None => (!sim.is_constant(v)).then_some((v, Some(own))),
    }
}

/// Puts a pair, with the parameters of `like`, onto edges that leave the same value.
fn insert(sim: &mut Sim, like: OpId, linear: Linear, edges: &[Edge]) {
    let Some((v, _)) = edges.first().copied() else { return };
    let domain = sim.g.op(like).domain.clone();
    let name = sim.g.value(v).name().to_owned();
    let float = sim.fact(v);
    let dtype = super::linear::code_type(sim, like);
    let anchor = sim.g.producer(v);
    let params = [Some(linear.scale), linear.zero_point];
    let spec = |op_type: &str, data: ValueId| {
        let spec = OpSpec::new(op_type).domain(&domain);
        let spec = if let Some((a, _)) = anchor { spec.near(a) } else { spec };
        spec.operands([Some(data)].into_iter().chain(params))
    };
    let to_output = edges.iter().any(|(_, reader)| reader.is_none());
    let source = match anchor {
        // The output of the graph is what the new DequantizeLinear makes.
        Some((maker, slot)) if to_output => {
            let raw = sim.add_value(&format!("{name}_pre_q"), float.clone());
            sim.g.set_result(maker, slot, Some(raw));
            raw
        }
        _ => v,
    };
    let code = sim.add_value(&format!("{name}_q"), squint_ops::Fact { dtype, ..float.clone() });
    sim.add_op(spec("QuantizeLinear", source).results([code]), None);
    for (_, reader) in edges {
        match reader {
            Some(u) if !u.capture => {
                let out = sim.add_value(&format!("{name}_dq"), float.clone());
                sim.add_op(spec("DequantizeLinear", code).results([out]), None);
                sim.g.set_operand(u.op, u.slot, Some(out));
            }
            Some(_) => {}
            None => {
                sim.add_op(spec("DequantizeLinear", code).results([v]), None);
            }
        }
    }
}
