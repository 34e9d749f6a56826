//! What the version of TensorRT is too old for.

use super::{Affine, Findings, affine};
use crate::Severity;
use crate::lint::Finding;
use crate::tensorrt::Version;
use squint_ir::{DType, OpId};

/// The operator set of the model.
pub(super) fn opset(f: &mut Findings<'_>, opset: i64) {
    let (version, range) = (f.version.text(), f.version.opsets());
    if range.contains(&opset) {
        return;
    }
    let (message, help) = if f.version == Version::V8_6 && opset < *range.start() {
        let least = range.start();
        let message = format!(
            "TensorRT supports ONNX graphs generated with at least opset {least}: the model uses operator set {opset}"
        );
        (message, "raise the operator set")
    } else if f.version == Version::V8_6 {
        let message = format!(
            "TensorRT {version} supports operators up to Opset {}: the model uses operator set {opset}",
            range.end()
        );
        (message, "export with an older operator set, or use a newer TensorRT")
    } else {
        let message = format!(
            "TensorRT {version} supports operators in the inclusive range of opset {} to opset {}: the model uses \
             operator set {opset}",
            range.start(),
            range.end()
        );
        (message, "convert the model to an operator set between")
    };
    let node = f.g.name.clone();
    f.list.push(Finding { rule: "opset", severity: Severity::Refused, node, message, help });
}

pub(super) fn check(f: &mut Findings<'_>, op: OpId, opset: i64) {
    let g = f.g;
    let node = g.op(op);
    if node.is_onnx() && !f.version.imports(&node.op_type) {
        let message = format!(
            "No importer registered for op: {}. Attempting to import as plugin: TensorRT {} has no such operator",
            node.op_type,
            f.version.text()
        );
        f.refuse("no-importer", op, message, "write it with other operators, or register a plugin");
    }
    half(f, op);
    let Some(a) = affine(g, op) else { return };
    if let Some(d) = a.dtype.filter(|d| !f.version.has(*d)) {
        let message = format!(
            "Unsupported ONNX data type: {} ({}): TensorRT {} quantizes to INT8 only",
            d.to_string().to_uppercase(),
            d.code(),
            f.version.text()
        );
        f.refuse("type-of-version", op, message, "quantize to int8, or use TensorRT 10 or newer");
    }
    if f.version == Version::V8_6 {
        oldest(f, op, &a);
    } else {
        scale_type(f, op, &a, opset);
    }
}

/// Data of a type that the version lacks.
fn half(f: &mut Findings<'_>, op: OpId) {
    let g = f.g;
    let makes =
        |d: DType| g.results(op).into_iter().flatten().any(|v| g.ty(v).and_then(|t| t.dtype()) == Some(d));
    if makes(DType::Bfloat16) && !f.version.has(DType::Bfloat16) {
        let message = format!(
            "Unsupported ONNX data type: BFLOAT16 (16): TensorRT {} computes in FP32 and FP16",
            f.version.text()
        );
        f.refuse("type-of-version", op, message, "use float16, or TensorRT 10 or newer");
    }
}

/// What only TensorRT 8.6 asks of quantizers.
fn oldest(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>) {
    if f.g.operand(op, 2).is_none() && a.dtype == Some(DType::Int8) {
        f.refuse(
            "zero-point-missing",
            op,
            "This version of TensorRT requires 3 inputs for the INT8 QuantizeLinear/DequantizeLinear operator",
            "write the zero point 0",
        );
    }
    let blocked = f.g.op(op).int("block_size").unwrap_or(0) > 0 || a.scale.is_some_and(|s| s.rank() > 1);
    if blocked {
        f.refuse(
            "blocks-of-version",
            op,
            "The number of scales is not equal to the number of output channels: TensorRT 8.6 has no scales of blocks",
            "give one scale for each output channel, or use TensorRT 10 or newer",
        );
    }
}

/// In a network that is strongly typed a quantizer and its scale have one type; before operator set 19 the parser casts.
fn scale_type(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>, opset: i64) {
    let g = f.g;
    let data = a.data.and_then(|v| g.ty(v)?.dtype()).filter(|_| a.quantizes && opset >= 19);
    let typed = |v| g.konst(v).map(|t| t.dtype()).or_else(|| g.ty(v)?.dtype());
    let scale = g.operand(op, 1).and_then(typed);
    if let (Some(data), Some(scale)) = (data, scale)
        && data != scale
    {
        f.refuse(
            "scale-type",
            op,
            format!("the scale is {scale} and the data {data}: a strongly typed network needs them equal"),
            "give the scale the type of the data",
        );
    }
}
