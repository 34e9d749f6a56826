//! `resize-in-blocks`: a picture is enlarged, linearly and by whole factors, in the layout of float convolutions.
//!
//! ```text
//! y = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (x, , scales)
//!
//! b = Conv <group = C> (x, ones)   y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (b, , scales)
//! ```
//!
//! ONNX Runtime's kernel for blocks of channels takes half the time of the plain one, and `nchwc_transformer.cc` takes it for
//! values that are in blocks already, and for three of the ways to count coordinates. `pytorch_half_pixel` is none of them; it
//! differs from `half_pixel` in results of one element only, which a whole factor makes of one element, where both read that.
//! A value that is not in blocks, as behind integers, gets there by a convolution of each channel by one. (ONNX Runtime
//! 1.31, 32 channels of 20 × 20 pixels doubled: 107 µs, and 53 with the convolution; 64 channels from blocks: 221 and 119.)

use super::layouts::{blocked, channels, shape};
use super::{Tailoring, convolution_of_each, konst, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, Tensor, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "resize-in-blocks", rewrite: resize };

/// Ways to count coordinates that the kernel knows.
const KNOWN: &[&str] = &["half_pixel", "asymmetric", "align_corners"];

fn resize(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    let Some(block) = kernels.block else { return Ok(false) };
    let mut changed = false;
    for op in operators(model, &["Resize"])? {
        let g = model.main_mut();
        if enlarges_linearly(g, op, &cx.facts) {
            changed |= rewrite(g, op, &cx.facts, block);
        }
    }
    Ok(changed)
}

/// True for a Resize of pictures, linear and by whole factors, that runs in blocks but for its coordinates and its operand.
fn enlarges_linearly(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> bool {
    let node = g.op(op);
    let plain = ["antialias", "exclude_outside"].iter().all(|a| node.int(a).unwrap_or(0) == 0);
    let linear = node.string("mode") == Some("linear") && plain && node.attr("axes").is_none();
    let known = KNOWN.contains(&coordinates(g, op)) || coordinates(g, op) == "pytorch_half_pixel";
    linear && known && factors(g, op, facts).is_some_and(|f| f.iter().any(|f| *f > 1))
}

fn coordinates(g: &Graph, op: OpId) -> &str {
    g.op(op).string("coordinate_transformation_mode").unwrap_or("half_pixel")
}

/// Whole factors along both axes of a picture, whether written as such or as lengths.
pub(super) fn factors(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> Option<[u64; 2]> {
    let x = shape(facts, g.operand(op, 0)?)?;
    let scales = g.operand(op, 2).and_then(|v| konst(g, v)).filter(|s| s.len() == 4).map(|s| s.to_f64s());
    if let Some(scales) = scales {
        let whole = scales.iter().all(|s| s.fract() == 0.0 && (1.0..1e6).contains(s));
        return (whole && scales[..2] == [1.0, 1.0]).then(|| [scales[2] as u64, scales[3] as u64]);
    }
    g.operand(op, 3).and_then(|v| konst(g, v))?;
    let y = shape(facts, g.result(op, 0)?)?;
    let ratio = |axis: usize| {
        let (from, to) = (x[axis].known().filter(|n| *n > 0)?, y[axis].known()?);
        to.is_multiple_of(from).then_some(to / from).filter(|f| *f > 0)
    };
    let same = |axis: usize| x[axis] == y[axis];
    if same(0) && same(1) { Some([ratio(2)?, ratio(3)?]) } else { None }
}

fn rewrite(g: &mut Graph, op: OpId, facts: &ValueTable<Fact>, block: usize) -> bool {
    let Some(x) = g.operand(op, 0) else { return false };
    let there = blocked(g, x, facts, block);
    let Some(n) = channels(facts, x).filter(|n| there || n % block == 0) else { return false };
    let known = KNOWN.contains(&coordinates(g, op));
    if there && known {
        return false;
    }
    let origin = format!("resize-in-blocks({})", g.label(op));
    if !known {
        g.op_mut(op).set_attr("coordinate_transformation_mode", "half_pixel");
    }
    if !there {
        let name = format!("{}_blocks", g.value(x).name());
        let ones = g.add_const(&format!("{name}_ones"), Tensor::from_f32(&[n, 1, 1, 1], &vec![1.0; n]));
        let spec = convolution_of_each(n).name(name.clone()).operands([x, ones]).near(op);
        let ty = g.ty(x).cloned();
        let in_blocks = g.emit(spec.origin(origin.clone()), &name, ty);
        g.set_operand(op, 0, Some(in_blocks));
    }
    g.op_mut(op).origin.push(origin);
    true
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::ops;

    /// The operators afterwards, and how the Resize counts coordinates. (What they compute is compared in the oracle.)
    fn run(target: &str, channels: usize, resize: &str) -> (String, String) {
        let (_, model) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,{channels},4,3] x) => (float[N,M,H,W] y) \
             <float[4] twice = {{1, 1, 2, 2}}, float[4] half = {{1, 1, 1.5, 2}}, int64[4] to = {{1, {channels}, 8, 9}}, \
              float[{channels},{channels},1,1] w = [\"location\": \"gen:randn\"]> {{ {resize} }}"
            ),
        );
        let g = model.main();
        let op = g.ops().find(|op| g.op(*op).is("Resize")).unwrap();
        (ops(&model), coordinates(g, op).to_owned())
    }

    #[test]
    fn what_is_not_in_blocks_gets_there() {
        for (attrs, operands) in [
            ("", "x, , twice"),
            ("coordinate_transformation_mode = \"asymmetric\",", "x, , , to"),
            ("coordinate_transformation_mode = \"pytorch_half_pixel\",", "x, , twice"),
        ] {
            let (ops, coordinates) =
                run("cpu-vnni", 16, &format!("y = Resize <{attrs} mode = \"linear\"> ({operands})"));
            assert_eq!(ops, "Conv Resize", "{attrs}");
            assert_ne!(coordinates, "pytorch_half_pixel");
        }
    }

    #[test]
    fn what_is_in_blocks_gets_coordinates_that_are_known() {
        let pytorch =
            "<mode = \"linear\", coordinate_transformation_mode = \"pytorch_half_pixel\"> (c, , twice)";
        let (ops, coordinates) = run("cpu-vnni", 16, &format!("c = Conv (x, w) y = Resize {pytorch}"));
        assert_eq!((ops.as_str(), coordinates.as_str()), ("Conv Resize", "half_pixel"));
    }

    #[test]
    fn others_stay() {
        for (target, channels, resize) in [
            ("cpu-vnni", 16, "<mode = \"linear\"> (x, , half)"),
            ("cpu-vnni", 16, "<mode = \"nearest\"> (x, , twice)"),
            ("cpu-vnni", 16, "<mode = \"cubic\"> (x, , twice)"),
            ("cpu-vnni", 6, "<mode = \"linear\"> (x, , twice)"),
            ("tensorrt", 16, "<mode = \"linear\"> (x, , twice)"),
        ] {
            assert_eq!(run(target, channels, &format!("y = Resize {resize}")).0, "Resize", "{resize}");
        }
    }
}
