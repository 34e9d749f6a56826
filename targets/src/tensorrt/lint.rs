//! A linter of models with Q/DQ for TensorRT: what its parser refuses, and what keeps it from fusing.
//!
//! The rules are those of TensorRT's developer guide and of the checks in onnx-tensorrt (`onnxOpImporters.cpp`,
//! `docs/operators.md`); where the parser has a message of its own, the finding quotes it. A rule is a function of one
//! node; [`lint`] applies all of them to all nodes of the main graph, in order of execution.

mod fusion;
mod operators;
mod parameters;
#[cfg(test)]
mod tests;
mod version;

use super::Version;
use crate::lint::{Finding, Severity};
use squint_ir::{DType, Graph, Model, OpId, Tensor, ValueId};
use std::sync::Arc;

/// Everything that a version of TensorRT would refuse or not fuse.
pub(crate) fn lint(model: &Model, version: Version) -> Vec<Finding> {
    let g = model.main();
    let mut findings = Findings { g, version, list: Vec::new() };
    version::opset(&mut findings, model.onnx_opset());
    let order = g.topo().unwrap_or_else(|_| g.ops().collect());
    for op in order {
        operators::check(&mut findings, op);
        version::check(&mut findings, op, model.onnx_opset());
        parameters::check(&mut findings, op, model.onnx_opset());
        fusion::check(&mut findings, op);
    }
    findings.list
}

/// Findings so far.
struct Findings<'a> {
    g: &'a Graph,
    version: Version,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn refuse(&mut self, rule: &'static str, op: OpId, message: impl Into<String>, help: &'static str) {
        self.add(Severity::Refused, rule, op, message.into(), help);
    }

    fn slow(&mut self, rule: &'static str, op: OpId, message: impl Into<String>, help: &'static str) {
        self.add(Severity::Slow, rule, op, message.into(), help);
    }

    fn add(&mut self, severity: Severity, rule: &'static str, op: OpId, message: String, help: &'static str) {
        self.list.push(Finding { rule, severity, node: self.g.label(op), message, help });
    }
}

/// A QuantizeLinear or DequantizeLinear with its parameters.
pub(super) struct Affine<'a> {
    quantizes: bool,
    data: Option<ValueId>,
    pub(super) scale: Option<&'a Arc<Tensor>>,
    zero: Option<&'a Arc<Tensor>>,
    /// Element type of the integers.
    pub(super) dtype: Option<DType>,
}

pub(super) fn is_onnx(g: &Graph, op: OpId, op_type: &str) -> bool {
    g.op(op).is_onnx() && g.op(op).op_type == op_type
}

pub(super) fn affine(g: &Graph, op: OpId) -> Option<Affine<'_>> {
    let quantizes = is_onnx(g, op, "QuantizeLinear");
    if !quantizes && !is_onnx(g, op, "DequantizeLinear") {
        return None;
    }
    let konst = |slot| g.operand(op, slot).and_then(|v| g.konst(v));
    let (data, zero) = (g.operand(op, 0), konst(2));
    let typed = |v: Option<ValueId>| {
        let v = v?;
        g.konst(v).map(|t| t.dtype()).or_else(|| g.ty(v)?.dtype())
    };
    let declared =
        g.op(op).int("output_dtype").and_then(|code| DType::from_code(code as i32)).filter(|_| quantizes);
    let integers = if quantizes { g.result(op, 0) } else { data };
    // Without any word about it QuantizeLinear makes uint8; a zero point that is computed is a word.
    let standard = (quantizes && g.operand(op, 2).is_none()).then_some(DType::Uint8);
    let dtype = zero.map(|z| z.dtype()).or(declared).or_else(|| typed(integers)).or(standard);
    Some(Affine { quantizes, data, scale: konst(1), zero, dtype })
}

/// The DequantizeLinear that makes an operand.
pub(super) fn dequantizer(g: &Graph, op: OpId, slot: u32) -> Option<OpId> {
    let (producer, _) = g.producer(g.operand(op, slot)?)?;
    is_onnx(g, producer, "DequantizeLinear").then_some(producer)
}

/// The QuantizeLinear before a DequantizeLinear; `None` if it reads integers of another origin.
pub(super) fn quantizer(g: &Graph, dequantizer: OpId) -> Option<OpId> {
    let (producer, _) = g.producer(g.operand(dequantizer, 0)?)?;
    is_onnx(g, producer, "QuantizeLinear").then_some(producer)
}

/// Slot of the weight of an operator that has one.
fn is_weighted(g: &Graph, op: OpId) -> bool {
    g.op(op).is_onnx() && matches!(g.op(op).op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
}

/// True if an operand is a constant, at most behind Q and DQ, with a Clip between them.
pub(super) fn is_weight(g: &Graph, op: OpId, slot: u32) -> bool {
    let Some(mut v) = g.operand(op, slot) else { return false };
    for _ in 0..3 {
        if g.konst(v).is_some() {
            return true;
        }
        let Some((p, _)) = g.producer(v) else { return false };
        if affine(g, p).is_none() && !is_onnx(g, p, "Clip") {
            return false;
        }
        let Some(data) = g.operand(p, 0) else { return false };
        v = data;
    }
    g.konst(v).is_some()
}
