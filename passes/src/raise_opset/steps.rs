//! The adapters, one for each operator and version.

use super::site::Site;
use super::softmax::softmax_13;
use crate::pass::PassError;
use squint_ir::{AttrValue, Tensor};

/// What happens to an operator at a version of the operator set.
pub(super) struct Step {
    /// Operator type before the step.
    pub(super) op_type: &'static str,
    /// The version at which the change came.
    pub(super) version: i64,
    /// Rewrites an operator of the version before.
    pub(super) adapt: fn(&mut Site<'_, '_>) -> Result<(), PassError>,
}

const fn step(
    op_type: &'static str,
    version: i64,
    adapt: fn(&mut Site<'_, '_>) -> Result<(), PassError>,
) -> Step {
    Step { op_type, version, adapt }
}

/// Every incompatible change between 7 and 25.
pub(super) const STEPS: &[Step] = &[
    step("BatchNormalization", 9, batch_normalization_9),
    step("BatchNormalization", 14, batch_normalization_14),
    step("Clip", 11, clip_11),
    step("DFT", 20, dft_20),
    step("Dropout", 10, dropout_10),
    step("Dropout", 12, dropout_12),
    step("GridSample", 20, grid_sample_20),
    step("GroupNormalization", 21, group_normalization_21),
    step("Hardmax", 13, softmax_13),
    step("LogSoftmax", 13, softmax_13),
    step("Pad", 11, pad_11),
    step("ReduceL1", 18, axes_13),
    step("ReduceL2", 18, axes_13),
    step("ReduceLogSum", 18, axes_13),
    step("ReduceLogSumExp", 18, axes_13),
    step("ReduceMax", 18, axes_13),
    step("ReduceMean", 18, axes_13),
    step("ReduceMin", 18, axes_13),
    step("ReduceProd", 18, axes_13),
    step("ReduceSum", 13, axes_13),
    step("ReduceSumSquare", 18, axes_13),
    step("Resize", 11, resize_11),
    step("RoiAlign", 16, roi_align_16),
    step("Scan", 9, scan_9),
    step("Scatter", 11, scatter_11),
    step("Slice", 10, slice_10),
    step("Softmax", 13, softmax_13),
    step("Split", 13, split_13),
    step("Split", 18, split_18),
    step("Squeeze", 13, axes_13),
    step("TopK", 10, top_k_10),
    step("Unsqueeze", 13, axes_13),
    step("Upsample", 9, upsample_9),
    step("Upsample", 10, upsample_10),
];

/// `spatial` went: statistics are per channel always.
fn batch_normalization_9(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    if site.op().int("spatial") == Some(0) {
        return site.refuse("with `spatial = 0` has no counterpart");
    }
    site.op_mut().remove_attr("spatial");
    Ok(())
}

/// The statistics of training became three results, from five.
fn batch_normalization_14(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    if (1..5).any(|slot| site.uses(slot)) {
        return site.refuse("that trains has other results");
    }
    site.drop_results(1);
    Ok(())
}

/// Limits became operands.
fn clip_11(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.float_to_operand("min", 1);
    site.float_to_operand("max", 2);
    Ok(())
}

/// The mask became boolean.
fn dropout_10(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    if site.uses(1) {
        return site.refuse("with a mask that is used has another type of mask");
    }
    Ok(())
}

/// `ratio` became an operand. At inference it has no effect, and inference is the default.
fn dropout_12(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    if let Some(ratio) = site.op().float("ratio") {
        site.op_mut().remove_attr("ratio");
        site.set_const(1, "ratio", Tensor::scalar_f32(ratio));
    }
    Ok(())
}

/// `pads` and `value` became operands.
fn pad_11(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.ints_to_operand("pads", 1);
    if site.op().float("value") == Some(0.0) {
        site.op_mut().remove_attr("value");
    }
    site.float_to_operand("value", 2);
    Ok(())
}

/// `axes` became an operand.
fn axes_13(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.ints_to_operand("axes", 1);
    Ok(())
}

/// `split` became an operand.
fn split_13(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.ints_to_operand("split", 1);
    Ok(())
}

/// The number of equal pieces is said where their lengths are not.
fn split_18(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    if site.operand(1).is_none() {
        let pieces = site.n_results();
        site.op_mut().set_attr("num_outputs", pieces as i64);
    }
    Ok(())
}

/// `axis` became an operand; it counted without the last axis.
fn dft_20(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let axis = site.op().int("axis").unwrap_or(1);
    site.op_mut().remove_attr("axis");
    site.set_const(2, "axis", Tensor::scalar_i64(axis));
    Ok(())
}

/// Modes got the names that Resize has for them.
fn grid_sample_20(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let mode = match site.op().string("mode") {
        None | Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        _ => return Ok(()),
    };
    site.op_mut().set_attr("mode", mode);
    Ok(())
}

/// Scale and bias are per channel, not per group.
fn group_normalization_21(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.refuse("has a scale for each group before operator set 21")
}

/// Version 10 samples at `x / scale`: `asymmetric` coordinates. Its nearest neighbour is the one before,
/// but, in ONNX Runtime, the one behind when it makes an image smaller.
fn resize_11(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let scales = site.operand(1);
    let shrinks = site.konst(1).is_some_and(|t| {
        let scales = t.to_f64s();
        scales.iter().all(|s| *s <= 1.0) && scales.iter().any(|s| *s < 1.0)
    });
    site.set_operand(1, None);
    site.set_operand(2, scales);
    let op = site.op_mut();
    op.set_attr("coordinate_transformation_mode", "asymmetric");
    if op.string("mode").unwrap_or("nearest") == "nearest" {
        op.set_attr("nearest_mode", if shrinks { "ceil" } else { "floor" });
    }
    Ok(())
}

/// Coordinates may be half a pixel off, and are by default.
fn roi_align_16(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.op_mut().set_attr("coordinate_transformation_mode", "output_half_pixel");
    Ok(())
}

/// The batch axis of the body went.
fn scan_9(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.refuse("scans over batches")
}

/// Another name.
fn scatter_11(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    site.op_mut().op_type = "ScatterElements".into();
    Ok(())
}

/// `starts`, `ends` and `axes` became operands.
fn slice_10(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    for (slot, attr) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        site.ints_to_operand(attr, slot);
    }
    Ok(())
}

/// `k` became an operand.
fn top_k_10(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let Some(k) = site.op().int("k") else { return site.refuse("lacks `k`") };
    site.op_mut().remove_attr("k");
    site.set_const(1, "k", Tensor::from_i64(&[1], &[k]));
    Ok(())
}

/// `scales` became an operand.
fn upsample_9(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    match site.op_mut().remove_attr("scales") {
        Some(AttrValue::Floats(s)) => site.set_const(1, "scales", Tensor::from_f32(&[s.len()], &s)),
        _ => return site.refuse("lacks `scales`"),
    }
    Ok(())
}

/// Another name; `bilinear` was an alias of `linear`.
fn upsample_10(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let op = site.op_mut();
    op.op_type = "Resize".into();
    if op.string("mode") == Some("bilinear") {
        op.set_attr("mode", "linear");
    }
    Ok(())
}
