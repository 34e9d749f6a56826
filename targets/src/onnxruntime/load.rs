//! What the runtime refuses to load or to run.

use super::sim::Sim;
use crate::prediction::{Fault, Subject};
use squint_ir::{DType, OpId, ValueId};

/// The newest default operator set of release 1.31.
const NEWEST_OPSET: i64 = 26;

/// Domains that the runtime knows without libraries of custom operators.
const DOMAINS: &[&str] = &[
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
];

/// Why a session cannot be made of the graph.
pub(super) fn faults(subject: &Subject<'_>) -> Vec<Fault> {
    let mut out = Vec::new();
    if subject.opset > NEWEST_OPSET {
        out.push(Fault {
            op: None,
            problem: format!("its operator set {} is newer than {NEWEST_OPSET}", subject.opset),
            remedy: "export the model with an older operator set".into(),
        });
    }
    for op in subject.graph.topo().unwrap_or_default() {
        let fault = unknown(subject, op).or_else(|| linear(subject, op)).or_else(|| pool(subject, op));
        out.extend(fault.or_else(|| permutation(subject, op)));
    }
    out
}

fn unknown(subject: &Subject<'_>, op: OpId) -> Option<Fault> {
    let node = subject.graph.op(op);
    let fault = |problem: String, remedy: &str| Some(Fault { op: Some(op), problem, remedy: remedy.into() });
    if !DOMAINS.contains(&node.domain.as_str()) {
        return fault(
            format!("the domain `{}` of {} is not built in", node.domain, node.op_type),
            "register the library of custom operators, or replace the operator",
        );
    }
    let row = squint_ops::row(&node.domain, &node.op_type)?;
    let since = *row.since.first()?;
    if node.is_onnx() && since > subject.opset {
        return fault(
            format!("{} came with operator set {since}, the model has {}", node.op_type, subject.opset),
            "raise the operator set of the model",
        );
    }
    None
}

/// QuantizeLinear and DequantizeLinear by operator set: per channel since 13, 8-bit floats since 19, 4 and 16 bits
/// since 21, 2 bits since 25.
fn linear(subject: &Subject<'_>, op: OpId) -> Option<Fault> {
    let g = subject.graph;
    let node = g.op(op);
    if !node.is_onnx() || !matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear") {
        return None;
    }
    let dtype = |v: Option<ValueId>| {
        let v = v?;
        g.konst(v).map(|t| t.dtype()).or_else(|| subject.facts.get(v)?.dtype)
    };
    let side = if node.op_type == "QuantizeLinear" { g.result(op, 0) } else { g.operand(op, 0) };
    let scale = g.operand(op, 1)?;
    let rank = g.konst(scale).map(|t| t.len()).filter(|n| *n > 1);
    let needs = match dtype(side).or_else(|| dtype(g.operand(op, 2))) {
        Some(DType::Int2 | DType::Uint2) => 25,
        Some(DType::Int4 | DType::Uint4 | DType::Int16 | DType::Uint16) => 21,
        Some(d) if d.is_float() => 19,
        _ if node.int("block_size").unwrap_or(0) != 0 => 21,
        _ if rank.is_some() || node.attr("axis").is_some() => 13,
        _ => return None,
    };
    (needs > subject.opset).then(|| Fault {
        op: Some(op),
        problem: format!(
            "such a {} needs operator set {needs}, the model has {}",
            node.op_type, subject.opset
        ),
        remedy: "raise the operator set of the model".into(),
    })
}

/// MaxPool takes 8-bit integers since operator set 12.
fn pool(subject: &Subject<'_>, op: OpId) -> Option<Fault> {
    let g = subject.graph;
    let node = g.op(op);
    let x = g.operand(op, 0)?;
    let integers = matches!(subject.facts.get(x)?.dtype, Some(DType::Int8 | DType::Uint8));
    (node.is("MaxPool") && integers && subject.opset < 12).then(|| Fault {
        op: Some(op),
        problem: format!("MaxPool of integers needs operator set 12, the model has {}", subject.opset),
        remedy: "raise the operator set of the model".into(),
    })
}

/// Inference of shapes refuses a permutation that names axes which the operand does not have. What is inferred counts,
/// whatever the file declares.
fn permutation(subject: &Subject<'_>, op: OpId) -> Option<Fault> {
    let g = subject.graph;
    let node = g.op(op);
    let x = g.operand(op, 0).filter(|_| node.is("Transpose"))?;
    let rank = g.konst(x).map(|t| t.dims().len()).or_else(|| subject.facts.get(x)?.rank())?;
    let perm = node.ints("perm")?;
    let missing = perm.iter().find(|axis| usize::try_from(**axis).map_or(true, |a| a >= rank))?;
    Some(Fault {
        op: Some(op),
        problem: format!("it permutes axis {missing}, and its operand has {rank} axes"),
        remedy: "check what made its operand: a value of another name may have been meant".into(),
    })
}

/// What the rewritten graph is refused for, or fails with when it runs.
pub(super) fn rewritten_faults(sim: &Sim) -> Vec<Fault> {
    let mut out = Vec::new();
    for op in sim.order() {
        let node = sim.g.op(op);
        if node.is("AveragePool") && node.attr("dilations").is_some() && between_conversions(sim, op) {
            out.push(Fault {
                op: Some(op),
                problem:
                    "its integer kernel has no attribute `dilations`, and the runtime fuses it all the same"
                        .into(),
                remedy: "remove the attribute where all are 1, or keep the operator in float".into(),
            });
        }
        let (weight, scale) = match node.op_type.as_str() {
            "QLinearMatMul" => (3, 4),
            "MatMulIntegerToFloat" => (1, 3),
            _ => continue,
        };
        let dims = |slot| sim.g.operand(op, slot).and_then(|v| sim.dims(v));
        let (Some(w), Some(s)) = (dims(weight), dims(scale)) else { continue };
        let n: usize = s.iter().product();
        if n > 1 && w.last() != Some(&n) {
            out.push(Fault {
                op: Some(op),
                problem: format!(
                    "its weight has {n} scales for {} columns: it fails when it runs",
                    w.last().unwrap_or(&0)
                ),
                remedy: "use one scale for each column (the last axis of the weight), or one for all".into(),
            });
        }
    }
    out
}

fn between_conversions(sim: &Sim, op: OpId) -> bool {
    sim.parent(op, 0).is_some_and(|p| sim.is_dq(p)) && sim.only_edge(op).is_some_and(|u| sim.is_q(u.op))
}
