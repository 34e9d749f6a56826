//! Places of Q/DQ that keep TensorRT from fusing, or leave it with half an operator in integers.

use super::{Findings, affine, dequantizer, is_onnx, is_weight, is_weighted, quantizer};
use crate::tensorrt::Version;
use squint_ir::{DType, Graph, OpId, ValueId};
use squint_ops::Class;

pub(super) fn check(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    if is_weighted(g, op) {
        return weighted(f, op);
    }
    match g.op(op).op_type.as_str() {
        _ if !g.op(op).is_onnx() => {}
        "Clip" if limits_integers(g, op) => clip_of_integers(f, op),
        "Relu" | "Clip" | "LeakyRelu" | "BatchNormalization" | "Sigmoid" | "HardSwish" | "Gelu" => {
            between(f, op)
        }
        "LayerNormalization" | "Softmax" => float_only(f, op),
        "Add" => residual(f, op),
        "QuantizeLinear" => quantizes(f, op),
        "DequantizeLinear" => output(f, op),
        _ => moved(f, op),
    }
}

/// True for a Clip between the two halves of a quantizer (the form called QCDQ).
fn limits_integers(g: &Graph, op: OpId) -> bool {
    g.operand(op, 0).and_then(|v| g.producer(v)).is_some_and(|(p, _)| is_onnx(g, p, "QuantizeLinear"))
}

/// The table of operators has INT8 for Clip up to version 9 only.
fn clip_of_integers(f: &mut Findings<'_>, op: OpId) {
    let help = "of a model in training `squint qat convert` makes one for TensorRT: 8-bit weights on the same levels";
    if f.version == Version::V8_6 {
        let message =
            "a Clip between QuantizeLinear and DequantizeLinear: the weight is quantized in every run";
        f.slow("clip-of-integers", op, message, help);
    } else {
        let message = "a Clip between QuantizeLinear and DequantizeLinear: the types of Clip are FP32, FP16 and BF16, not INT8";
        f.refuse("clip-of-integers", op, message, help);
    }
}

/// Both or none of the operands of a weighted operator are quantized.
fn weighted(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let (act, weight) = (dequantizer(g, op, 0), dequantizer(g, op, 1));
    match (act, weight) {
        (Some(_), None) if weight_behind_movement(g, op) => f.refuse(
            "weight-not-constant",
            op,
            "multi-input conv requires explicit precision: the weight is moved between DequantizeLinear and the operator",
            "fold the operator between into the weight",
        ),
        (Some(_), None) => f.slow(
            "weight-in-float",
            op,
            "its activation is quantized and its weight is not: it runs in float, with conversions",
            "quantize both, or none",
        ),
        // Weights of other types are stored so and computed with in float.
        (None, Some(d)) if is_weight(g, op, 1) && affine(g, d).is_some_and(|a| a.dtype == Some(DType::Int8)) => f
            .slow(
                "activation-in-float",
                op,
                "its weight is quantized and its activation is not: it runs in float",
                "quantize both, or none",
            ),
        _ => {}
    }
    let levels = weight.and_then(|d| g.konst(g.operand(d, 0)?)).filter(|w| w.dtype() == DType::Int8);
    if levels.is_some_and(|w| w.bytes().contains(&0x80)) {
        f.slow(
            "weight-level-128",
            op,
            "a weight has the level -128: the grid is not symmetric",
            "clip levels to [-127, 127]",
        );
    }
}

fn weight_behind_movement(g: &Graph, op: OpId) -> bool {
    let Some((p, _)) = g.operand(op, 1).and_then(|v| g.producer(v)) else { return false };
    matches!(g.op(p).op_type.as_str(), "Transpose" | "Reshape") && dequantizer(g, p, 0).is_some()
}

/// The value before the Q/DQ that makes an operand.
fn before_pair(g: &Graph, op: OpId, slot: u32) -> Option<ValueId> {
    g.operand(quantizer(g, dequantizer(g, op, slot)?)?, 0)
}

fn made_by_weight(g: &Graph, v: ValueId) -> Option<OpId> {
    g.producer(v).map(|(p, _)| p).filter(|p| is_weighted(g, *p))
}

/// Q/DQ between a weighted operator and what would be fused into it.
fn between(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    if let Some(p) = before_pair(g, op, 0).and_then(|v| made_by_weight(g, v)) {
        f.slow(
            "breaks-fusion",
            op,
            format!("Q/DQ between {} and {}: the two are not fused", g.op(p).op_type, g.op(op).op_type),
            "quantize behind the activation, at the next weighted operator",
        );
    }
}

fn float_only(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let quantized = |v: ValueId| {
        let uses = g.uses(v);
        !uses.is_empty() && uses.iter().all(|u| is_onnx(g, u.op, "QuantizeLinear"))
    };
    if dequantizer(g, op, 0).is_some() && g.results(op).into_iter().flatten().all(quantized) {
        f.slow(
            "float-only",
            op,
            format!("Q/DQ on both sides of {}, which has no INT8 kernel", g.op(op).op_type),
            "quantize only behind it, at the next weighted operator",
        );
    }
}

/// Of a residual Add only the skip connection is quantized.
fn residual(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let [Some(a), Some(b)] = [g.operand(op, 0), g.operand(op, 1)] else { return };
    if is_weight(g, op, 0) || is_weight(g, op, 1) {
        return;
    }
    let weighted = |v: Option<ValueId>| v.and_then(|v| made_by_weight(g, v)).is_some();
    let backbone = |quantized, raw| weighted(Some(quantized)) && !weighted(Some(raw));
    match (before_pair(g, op, 0), before_pair(g, op, 1)) {
        (Some(x), Some(y)) if weighted(Some(x)) || weighted(Some(y)) => f.slow(
            "residual-both",
            op,
            "Q/DQ on both operands of a residual Add: it is not fused into the convolution",
            "quantize the skip connection only",
        ),
        (Some(x), None) if backbone(x, b) => wrong_branch(f, op),
        (None, Some(y)) if backbone(y, a) => wrong_branch(f, op),
        (None, None) => {
            let integer = |v: ValueId| {
                g.only_use(v).is_some()
                    && made_by_weight(g, v).is_some_and(|p| dequantizer(g, p, 0).is_some())
            };
            let shape = |v: ValueId| g.ty(v).and_then(|t| t.shape());
            let same = shape(a).is_some() && shape(a) == shape(b);
            if same && (integer(a) || integer(b)) {
                f.slow(
                    "residual-none",
                    op,
                    "no operand of a residual Add is quantized: the convolution has to leave its result in float",
                    "quantize the skip connection",
                );
            }
        }
        _ => {}
    }
}

fn wrong_branch(f: &mut Findings<'_>, op: OpId) {
    f.slow(
        "residual-backbone",
        op,
        "Q/DQ on the operand that comes from the convolution, none on the skip connection: the two are not fused",
        "quantize the skip connection instead",
    );
}

/// One value has one scale, and integers are read through a DequantizeLinear.
fn quantizes(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let Some(v) = g.operand(op, 0) else { return };
    let scale = |q: OpId| affine(g, q).and_then(|a| a.scale.map(|s| s.to_f64s()));
    let first = g.uses(v).into_iter().map(|u| u.op).find(|o| is_onnx(g, *o, "QuantizeLinear"));
    if first.is_some_and(|first| first != op && scale(first) != scale(op)) {
        f.slow(
            "two-scales",
            op,
            format!("`{}` is quantized with two different scales", g.value(v).name()),
            "quantize it once, for all its readers",
        );
    }
    let mut readers = g.results(op).into_iter().flatten().flat_map(|r| g.uses(r));
    if readers.any(|u| is_weighted(g, u.op)) {
        f.refuse(
            "quantized-operand",
            op,
            "an operator reads integers without a DequantizeLinear between",
            "put a DequantizeLinear before the operator",
        );
    }
}

/// Q/DQ before a graph output saves nothing.
fn output(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let (Some(q), Some(result)) = (quantizer(g, op), g.result(op, 0)) else { return };
    let producer = g.operand(q, 0).and_then(|v| made_by_weight(g, v));
    let integer = producer.is_some_and(|p| dequantizer(g, p, 0).is_some());
    if integer && g.is_output(result) && g.uses(result).is_empty() {
        f.slow(
            "quantized-output",
            op,
            "Q/DQ between a weighted operator and a graph output: it rounds the output and saves nothing",
            "leave outputs in float",
        );
    }
}

/// Q and DQ pass through what moves elements only if scales on both sides are equal.
fn moved(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let Some(row) = squint_ops::row(&g.op(op).domain, &g.op(op).op_type) else { return };
    let (rule, what, operands) = match row.class {
        Class::Join => ("concat-scales", "the inputs and the output of a Concat", g.operands(op).len()),
        Class::MaxPool => ("pool-scales", "both sides of a pool", 1),
        Class::Movement => ("movement-scales", "both sides of an operator that moves elements", 1),
        _ => return,
    };
    let before = (0..operands as u32).filter_map(|slot| dequantizer(g, op, slot));
    let readers = g.results(op).into_iter().flatten().flat_map(|v| g.uses(v)).map(|u| u.op);
    let behind = readers.filter(|o| is_onnx(g, *o, "QuantizeLinear"));
    let scales: Vec<_> = before.chain(behind).filter_map(|o| Some(affine(g, o)?.scale?.to_f64s())).collect();
    if scales.windows(2).any(|w| w[0] != w[1]) {
        f.slow(
            rule,
            op,
            format!("scales on {what} differ: Q and DQ cannot pass through, and it runs in float"),
            "give them one scale",
        );
    }
}
