//! Float weights and biases between quantized activations are quantized at load (`weight_bias_quantization.cc`).
//!
//! What callers may replace is quantized, too, in every run: it only has to be an initializer.
//!
//! A convolution that was meant to stay in float does not, if its operand is dequantized and its result quantized.

use super::linear::Linear;
use super::sim::Sim;
use squint_ir::{DType, OpId, OpSpec, Tensor, ValueId};
use squint_ops::Fact;

/// Quantizes weights and biases wherever the runtime would.
pub(super) fn quantize(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        let node = sim.g.op(op);
        if node.is_onnx() && matches!(node.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm") {
            changed |= apply(sim, op).is_some();
        }
    }
    changed
}

fn apply(sim: &mut Sim, op: OpId) -> Option<()> {
    let input = Linear::of(sim, sim.parent(op, 0).filter(|p| sim.is_dq(*p))?)?;
    if !sim.is_scalar(input.scale) || !leads_to_q(sim, op) {
        return None;
    }
    let weight = sim.g.operand(op, 1)?;
    let weight_dq = sim.parent(op, 1).filter(|p| sim.is_dq(*p));
    if weight_dq.is_none() && !(sim.is_initialized(weight) && sim.dtype(weight) == Some(DType::Float)) {
        return None;
    }
    let bias = sim.g.operand(op, 2);
    let bias_size = match bias {
        None => None,
        Some(b) => match (sim.is_initialized(b), sim.dims(b)?.as_slice()) {
            (true, [n]) => Some(*n),
            _ => return None,
        },
    };
    if weight_dq.is_some() && bias_size.is_none() {
        return None;
    }
    let mut per_channel = false;
    if let Some(dq) = weight_dq {
        let scale = Linear::of(sim, dq)?.scale;
        if !sim.is_scalar(scale) {
            per_channel = true;
            if sim.dims(scale)? != [bias_size?] || sim.g.op(dq).int("block_size").unwrap_or(0) != 0 {
                return None;
            }
            let rank = sim.fact(weight).rank().unwrap_or(0) as i64;
            let axis = sim.g.op(dq).int("axis").unwrap_or(1);
            let axis = if axis < 0 { axis + rank } else { axis };
            let node = sim.g.op(op);
            let expected = i64::from(node.op_type == "Gemm" && node.int("transB").unwrap_or(0) == 0);
            if axis != expected {
                return None;
            }
        }
    }
    let scale = match weight_dq {
        Some(dq) => Linear::of(sim, dq)?.scale,
        None => quantized_weight(sim, op, weight),
    };
    if let (Some(b), Some(n)) = (bias, bias_size) {
        quantized_bias(sim, op, b, n, scale, per_channel);
    }
    Some(())
}

/// Whether the result reaches a QuantizeLinear, with nothing but Relu and Clip on the way and no branches.
fn leads_to_q(sim: &Sim, op: OpId) -> bool {
    let mut at = op;
    loop {
        let [u] = sim.edges(at)[..] else { return false };
        match sim.g.op(u.op).op_type.as_str() {
            "QuantizeLinear" => return true,
            "Relu" | "Clip" => at = u.op,
            _ => return false,
        }
    }
}

/// A weight that has become 8-bit integers with one scale; returns the scale.
fn quantized_weight(sim: &mut Sim, op: OpId, weight: ValueId) -> ValueId {
    let fact = Fact { konst: None, ..sim.fact(weight) };
    let scale = sim.add_const("weight_scale", Tensor::scalar_f32(1.0));
    let zero = sim.add_const("weight_zero_point", Tensor::from_i8(&[], &[0]));
    let code = sim.add_value("weight_q", Fact { dtype: Some(DType::Int8), ..fact.clone() });
    if sim.is_constant(weight) {
        sim.set_computed(code);
    } else {
        let spec = OpSpec::new("QuantizeLinear").near(op).operands([weight, scale, zero]).results([code]);
        sim.add_op(spec, None);
    }
    let out = sim.add_value("weight_dq", fact);
    let spec = OpSpec::new("DequantizeLinear").near(op).operands([code, scale, zero]).results([out]);
    sim.add_op(spec, None);
    sim.g.set_operand(op, 1, Some(out));
    scale
}

/// A bias that has become 32-bit integers whose scale is exactly the product.
fn quantized_bias(
    sim: &mut Sim,
    op: OpId,
    bias: ValueId,
    n: usize,
    weight_scale: ValueId,
    per_channel: bool,
) {
    let fact = Fact { konst: None, ..sim.fact(bias) };
    let code = sim.add_value("bias_q", Fact { dtype: Some(DType::Int32), ..fact.clone() });
    sim.set_computed(code);
    let scale_fact = Fact { konst: None, ..sim.fact(weight_scale) };
    let scale = sim.add_value("bias_scale", scale_fact);
    sim.set_computed(scale);
    let out = sim.add_value("bias_dq", fact);
    let mut spec = OpSpec::new("DequantizeLinear").near(op).operands([code, scale]).results([out]);
    if per_channel && n > 0 {
        spec = spec.attr("axis", 0i64);
    }
    sim.add_op(spec, None);
    sim.g.set_operand(op, 2, Some(out));
}
