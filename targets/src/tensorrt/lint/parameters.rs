//! Scales, zero points, axes and element types of QuantizeLinear and DequantizeLinear.

use super::{Affine, Findings, affine, is_weighted};
use crate::tensorrt::numbers::INT4_BLOCKS;
use squint_ir::{DType, OpId};

pub(super) fn check(f: &mut Findings<'_>, op: OpId, opset: i64) {
    let g = f.g;
    let Some(a) = affine(g, op) else { return };
    element_type(f, op, &a, opset);
    zero_point(f, op, &a);
    scale(f, op, &a);
    if g.op(op).int("block_size").unwrap_or(0) > 0 {
        blocks(f, op, &a, opset);
    } else {
        axis(f, op, &a);
    }
}

fn element_type(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>, opset: i64) {
    let constant = root(f, a).is_some();
    let raise = "raise the operator set";
    match a.dtype {
        Some(DType::Uint8) => f.refuse(
            "uint8",
            op,
            "TensorRT only supports symmetric quantization: uint8 is read as int8, so the range is another",
            "quantize to int8 with zero point 0",
        ),
        Some(DType::Int32) => f.refuse(
            "int32-bias",
            op,
            "a bias of 32-bit integers behind a DequantizeLinear: TensorRT derives it from the float bias itself",
            "leave the bias in float",
        ),
        Some(DType::Int16 | DType::Uint16) => {
            f.refuse("16-bit", op, "quantized types of 16 bits are not supported", "quantize to int8")
        }
        Some(DType::Uint4) => f.refuse("uint4", op, "UINT4 is not supported: only INT4", "quantize weights to int4"),
        Some(DType::Int2 | DType::Uint2) => {
            f.refuse("2-bit", op, "types of 2 bits are not supported", "quantize weights to int4 or int8")
        }
        Some(DType::Int4) if !constant => f.refuse(
            "int4-activation",
            op,
            "INT4 is for weights only",
            "quantize activations to int8, or leave them in float16",
        ),
        Some(DType::Int4) if opset < 21 => {
            f.refuse("int4-opset", op, format!("INT4 needs operator set 21, the model has {opset}"), raise)
        }
        Some(DType::Float8e5m2 | DType::Float8e4m3fnuz | DType::Float8e5m2fnuz) => f.refuse(
            "fp8-format",
            op,
            "of the 8-bit float types only E4M3FN is supported",
            "quantize to float8e4m3fn",
        ),
        Some(DType::Float8e4m3fn) if opset < 19 => {
            f.refuse("fp8-opset", op, format!("FP8 needs operator set 19, the model has {opset}"), raise)
        }
        _ => {}
    }
}

fn zero_point(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>) {
    let g = f.g;
    if g.operand(op, 2).is_some() && a.zero.is_none() {
        return f.refuse(
            "zero-point-not-constant",
            op,
            "the zero point must be an initializer",
            "make it a constant 0",
        );
    }
    let Some(z) = a.zero else { return };
    if z.to_f64s().iter().any(|z| *z != 0.0) {
        f.refuse(
            "zero-point",
            op,
            "Non-zero zero point is not supported: TensorRT only supports symmetric quantization",
            "quantize symmetrically",
        );
    }
    if let Some(s) = a.scale
        && s.len() != z.len()
    {
        f.refuse(
            "zero-point-shape",
            op,
            format!("the zero point has {} elements, the scale {}", z.len(), s.len()),
            "give both the same shape",
        );
    }
    let written = g.op(op).int("output_dtype").and_then(|code| DType::from_code(code as i32));
    if let Some(d) = written.filter(|d| a.quantizes && *d != z.dtype()) {
        f.refuse(
            "zero-point-type",
            op,
            format!("the zero point is {} and output_dtype says {d}", z.dtype()),
            "make them agree",
        );
    }
}

fn scale(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>) {
    let Some(s) = a.scale else {
        return f.refuse(
            "scale-not-constant",
            op,
            "the scale must be an initializer: dynamic quantization is not supported",
            "quantize statically",
        );
    };
    let values = s.to_f64s();
    if values.is_empty() {
        f.refuse("scale-empty", op, "the scale is empty", "give one number, or one for each channel");
    } else if values.iter().any(|x| !x.is_finite()) {
        f.refuse("scale-not-finite", op, "a scale is NaN or infinite", "calibrate again, on finite data");
    } else if values.iter().any(|x| *x <= 0.0) {
        f.refuse(
            "scale-not-positive",
            op,
            "Scale coefficients must all be positive",
            "give dead channels a small positive scale",
        );
    }
}

fn axis(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>) {
    let g = f.g;
    let Some(count) = a.scale.map(|s| s.len()).filter(|n| *n > 1) else { return };
    let Some(dims) = root(f, a) else {
        return f.refuse(
            "per-channel-activation",
            op,
            format!("an activation with {count} scales: activations have one"),
            "quantize activations per tensor",
        );
    };
    let Some(axis) = g.op(op).int("axis") else {
        return f.refuse(
            "axis-missing",
            op,
            format!("{count} scales without an axis: ONNX reads axis 1, TensorRT axis 0"),
            "write the axis",
        );
    };
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let Some(length) = usize::try_from(axis).ok().and_then(|a| dims.get(a)) else {
        let message = format!("axis {axis} of a tensor of rank {}", dims.len());
        return f.refuse("axis-range", op, message, "name the axis of output channels");
    };
    if *length != count {
        let message = format!("K == scale.count() fails: {count} scales for {length} channels");
        return f.refuse("scale-count", op, message, "give one scale for each channel");
    }
    let Some(reader) = g.result(op, 0).and_then(|v| g.only_use(v)).filter(|_| !a.quantizes) else { return };
    if reader.slot != 1 || !is_weighted(g, reader.op) {
        return;
    }
    let transposed = g.op(reader.op).int("transB").unwrap_or(0) != 0;
    let (wanted, why) = match g.op(reader.op).op_type.as_str() {
        "Conv" => (0, "Conv has its output channels on axis 0"),
        "ConvTranspose" => (1, "ConvTranspose has its output channels on axis 1"),
        "Gemm" if transposed => (0, "Gemm with transB has its outputs on axis 0"),
        "Gemm" => (1, "Gemm has its outputs on axis 1"),
        _ => (dims.len() as i64 - 1, "MatMul has its outputs on the last axis"),
    };
    if axis != wanted {
        f.refuse(
            "weight-axis",
            op,
            format!("scales along axis {axis}: {why}"),
            "quantize along output channels",
        );
    }
}

fn blocks(f: &mut Findings<'_>, op: OpId, a: &Affine<'_>, opset: i64) {
    let (Some(s), Some(dims)) = (a.scale, root(f, a)) else { return };
    let size = f.g.op(op).int("block_size").unwrap_or(0);
    if opset < 21 {
        let message = format!("block_size needs operator set 21, the model has {opset}");
        f.refuse("block-opset", op, message, "raise the operator set");
    }
    if s.rank() != dims.len() {
        let message = format!("blocked scales of rank {} for data of rank {}", s.rank(), dims.len());
        return f.refuse("block-rank", op, message, "give scales the rank of the data");
    }
    let blocked: Vec<usize> = (0..dims.len()).filter(|d| s.dims()[*d] != dims[*d]).collect();
    if blocked.len() > 1 {
        f.refuse("block-axes", op, "more than one axis is blocked", "block the inner axis only");
    }
    if blocked.iter().any(|d| dims[*d] as i64 % size != 0) {
        let message = format!("blocks of {size} do not divide the axis");
        f.refuse("block-divides", op, message, "choose a size that divides it");
    }
    if a.dtype == Some(DType::Int4) {
        if !usize::try_from(size).is_ok_and(|size| INT4_BLOCKS.contains(&size)) {
            f.refuse("int4-block", op, format!("INT4 with blocks of {size}"), "use blocks of 64 or 128");
        }
        if dims.last().is_some_and(|n| n % 2 != 0) {
            f.refuse(
                "int4-odd",
                op,
                "INT4 needs an even last dimension",
                "pad the weight, or leave it in float16",
            );
        }
    }
}

/// Dimensions of the constant that is quantized or dequantized; `None` for activations.
fn root(f: &Findings<'_>, a: &Affine<'_>) -> Option<Vec<usize>> {
    let mut v = a.data?;
    for _ in 0..3 {
        if let Some(t) = f.g.konst(v) {
            return Some(t.dims().to_vec());
        }
        let (p, _) = f.g.producer(v)?;
        if affine(f.g, p).is_none() && !f.g.op(p).is("Clip") {
            return None;
        }
        v = f.g.operand(p, 0)?;
    }
    None
}
