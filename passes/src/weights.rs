//! What stands for the weight and bias of a planned contraction, for emission, simulation and repair alike.

use crate::pass::PassError;
use crate::plan::{QuantPlan, WeightPlan};
use squint_ir::affine::{ChannelLayout, dequantize, quantize_bias};
use squint_ir::{Graph, Model, OpId, Tensor, ValueId};

/// The integers of a bias, one for each output channel.
pub(crate) fn bias_codes(bias: &[f32], plan: &WeightPlan) -> Vec<i32> {
    let scales = &plan.bias_scales;
    let scale = |i: usize| if scales.len() > 1 { scales[i] } else { scales[0] };
    bias.iter().enumerate().map(|(i, x)| quantize_bias(*x, scale(i))).collect()
}

/// The constant weight of a planned contraction.
///
/// # Errors
/// If it has none, which is a fault of planning.
pub(crate) fn weight<'g>(
    g: &'g Graph,
    op: OpId,
    plan: &WeightPlan,
) -> Result<(ValueId, &'g std::sync::Arc<Tensor>), PassError> {
    let found = g.operand(op, plan.slot).and_then(|v| Some((v, g.konst(v)?)));
    found.ok_or_else(|| PassError::Model(format!("`{}`: its weight is no constant", g.label(op))))
}

/// The bias that a planned contraction gets: that of the plan, or else that of the graph if it is to be rounded; `None`
/// if the operator keeps the one it has.
pub(crate) fn bias(g: &Graph, op: OpId, plan: &WeightPlan) -> Option<Vec<f32>> {
    match &plan.bias {
        Some(b) => Some(b.to_vec()),
        None if plan.bias_scales.is_empty() => None,
        None => Some(g.konst(g.operand(op, 2)?)?.to_f32s()),
    }
}

/// What that bias stands for once it is rounded.
pub(crate) fn real_bias(g: &Graph, op: OpId, w: &WeightPlan) -> Option<Vec<f32>> {
    let bias = bias(g, op, w)?;
    if w.bias_scales.is_empty() {
        return Some(bias);
    }
    let scale = |i: usize| if w.bias_scales.len() > 1 { w.bias_scales[i] } else { w.bias_scales[0] };
    let codes = bias_codes(&bias, w).into_iter().enumerate();
    Some(codes.map(|(i, q)| (f64::from(q) * f64::from(scale(i))) as f32).collect())
}

/// The float graph with weights and biases where the plan's integers put them: what is left of the error of
/// quantization is that of the activations.
///
/// # Errors
/// If the plan does not fit the graph.
pub(crate) fn rounded(model: &Model, plan: &QuantPlan) -> Result<Model, PassError> {
    let mut out = model.clone();
    for (op, blocks) in plan.blocks.iter() {
        let g = out.main_mut();
        let name = model.main().label(op);
        let weight = g.add_const(&format!("{name}_rounded"), blocks.real());
        g.set_operand(op, blocks.slot, Some(weight));
    }
    for (op, w) in plan.weights.iter() {
        let g = model.main();
        let (v, t) = weight(g, op, w)?;
        let values = w.layout(t).zip(w.levels(t)).map(|(layout, codes)| real(&codes, layout, w));
        let values = values.ok_or_else(|| misfit(g, op))?;
        let bias = real_bias(g, op, w);
        let name = g.value(v).name().to_owned();
        let old = g.operand(op, 2);
        let weight = Tensor::from_f32(t.dims(), &values);
        let g = out.main_mut();
        let weight = g.add_const(&format!("{name}_rounded"), weight);
        g.set_operand(op, w.slot, Some(weight));
        if let Some(b) = bias {
            // One number per output channel, whatever shape the float bias had.
            let name = old.map_or(format!("{name}_bias"), |b| g.value(b).name().to_owned());
            let bias = g.add_const(&format!("{name}_rounded"), Tensor::from_f32(&[b.len()], &b));
            g.set_operand(op, 2, Some(bias));
        }
    }
    Ok(out)
}

/// Said where the scales of a plan do not fit a weight.
pub(crate) fn misfit(g: &Graph, op: OpId) -> PassError {
    PassError::Model(format!("`{}`: scales do not fit its weight", g.label(op)))
}

/// What the integers of a weight stand for.
fn real(codes: &[i8], layout: ChannelLayout, plan: &WeightPlan) -> Vec<f32> {
    let channel = |i: usize| (i / layout.inner.max(1)) % layout.channels;
    codes
        .iter()
        .enumerate()
        .map(|(i, q)| dequantize(i32::from(*q), plan.params[channel(i)].scale, 0))
        .collect()
}
