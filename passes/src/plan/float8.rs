//! A plan of 8-bit integers as one of 8-bit floats (E4M3): the same operators and values, other scales.
//!
//! A range that the levels -127..127 cover, `t = 127 s`, is covered by the numbers -448..448 with the scale `t / 448`.
//! (NVIDIA's exporter for PyTorch has the same; its tool for ONNX multiplies by 448 / 127 instead.) The codes of weights
//! are chosen here, so that emission writes them as they are.

use super::{OpPlan, QuantPlan};
use crate::config::Config;
use crate::pass::PassError;
use crate::weights;
use squint_ir::narrow::{E4M3_MAX, e4m3};
use squint_ir::{DType, Graph};
use squint_targets::Target;

/// Kernels for integers, and their counterparts.
const KERNELS: &[(&str, &str)] =
    &[("INT8 convolution", "FP8 convolution"), ("INT8 matrix product", "FP8 matrix product")];

/// Rewrites the plan.
///
/// # Errors
/// If the plan does not fit the graph.
pub(super) fn convert(
    g: &Graph,
    config: &Config,
    target: &dyn Target,
    plan: &mut QuantPlan,
) -> Result<(), PassError> {
    let ratio = |levels: i32| f64::from(levels) / f64::from(E4M3_MAX);
    let wider = |scale: f32, ratio: f64| config.constraints.scale((f64::from(scale) * ratio) as f32);
    let activations = ratio(target.activations().grid.qmax);
    let ids: Vec<_> = plan.values.iter().map(|(v, _)| v).collect();
    for v in ids {
        if let Some(p) = plan.values.get_mut(v) {
            (p.dtype, p.codes) = (DType::Float8e4m3fn, None);
            p.params.scale = wider(p.params.scale, activations);
        }
    }
    let decided: Vec<_> = plan.ops.iter().map(|(op, _)| op).collect();
    for op in decided {
        if let Some(OpPlan::Integer(kernel)) = plan.ops.get_mut(op) {
            *kernel = KERNELS.iter().find(|(int8, _)| int8 == kernel).map_or(*kernel, |(_, float8)| float8);
        }
    }
    let ops: Vec<_> = plan.weights.iter().map(|(op, _)| op).collect();
    for op in ops {
        let Some(w) = plan.weights.get_mut(op) else { continue };
        let (_, t) = weights::weight(g, op, w)?;
        w.dtype = DType::Float8e4m3fn;
        let weights = ratio(i32::from(w.qmax));
        for p in &mut w.params {
            p.scale = wider(p.scale, weights);
        }
        let layout = w.layout(t).ok_or_else(|| weights::misfit(g, op))?;
        let channel = |i: usize| (i / layout.inner.max(1)) % layout.channels;
        let codes =
            t.f32s().iter().enumerate().map(|(i, x)| e4m3(x / w.params[channel(i)].scale) as i8).collect();
        w.chosen = Some(codes);
    }
    Ok(())
}
