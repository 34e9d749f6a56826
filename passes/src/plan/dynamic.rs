//! Operators that quantize their activations in every run: what is planned of them.
//!
//! Activations get scale and zero point when they are there, from the smallest and largest element of the whole
//! tensor (ONNX `DynamicQuantizeLinear`), so only weights are planned, one scale for each output channel. To its
//! neighbours such an operator is one in float: it reads and leaves float values.

use super::params::weight_params;
use super::{DynamicPlan, WeightPlan};
use crate::pass::PassCx;
use squint_ir::{Tensor, ValueId};
use squint_targets::{Dynamic, DynamicKernel, Site, Target};

/// The kernel of an operator that could quantize its activations in every run, or why it has none.
pub(super) fn kernel(target: &dyn Target, site: &Site<'_>) -> Result<DynamicKernel, &'static str> {
    match target.dynamic(site) {
        Dynamic::Kernel(kernel) => Ok(kernel),
        Dynamic::None { reason } => Err(reason),
    }
}

/// The activations that such an operator quantizes, without those left out.
pub(crate) fn reads<'a>(
    site: &'a Site<'_>,
    kernel: &DynamicKernel,
) -> impl Iterator<Item = ValueId> + use<'a> {
    kernel.activations.iter().filter_map(|slot| site.operand(*slot as usize)).map(|o| o.value)
}

/// The plan of such an operator, with scales of weights only on request; `None` if a weight does not fit.
pub(super) fn plan(
    cx: &PassCx<'_>,
    target: &dyn Target,
    site: &Site<'_>,
    kernel: &DynamicKernel,
    weights: bool,
) -> Option<DynamicPlan> {
    let slots = if weights { kernel.weights } else { &[] };
    let weights = slots.iter().map(|slot| weight(cx, target, site, *slot)).collect::<Option<_>>()?;
    Some(DynamicPlan { reads: reads(site, kernel).collect(), weights })
}

fn weight(cx: &PassCx<'_>, target: &dyn Target, site: &Site<'_>, slot: u32) -> Option<WeightPlan> {
    let t = site.operand(slot as usize)?.konst()?;
    let (matrix, axis) = match site.weight() {
        Some((s, _, axis)) if s == slot && t.rank() == 2 => (t.as_ref().clone(), axis?),
        _ => (rows(t)?, 0),
    };
    let (params, pairs, qmax) = weight_params(cx, target, site.op, &matrix, Some(axis))?;
    Some(WeightPlan {
        slot,
        dtype: target.weights().dtype,
        qmax,
        axis: Some(axis),
        params,
        bias_scales: Vec::new(),
        pairs,
        chosen: None,
        bias: None,
    })
}

/// Weights of a recurrent operator, `[directions, gates * hidden, n]`, as a matrix `[directions * gates * hidden, n]`
/// of one row for each channel.
pub(crate) fn rows(t: &Tensor) -> Option<Tensor> {
    let [directions, gates, n] = *t.dims() else { return None };
    t.reshaped(&[directions * gates, n]).ok()
}
