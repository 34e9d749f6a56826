//! `floor-nearest`: repeating pixels by whole factors counts coordinates from the corner.
//!
//! ```text
//! y = Resize <mode = "nearest", coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"> (x, , s)
//!
//! y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , s)
//! ```
//!
//! Pixel `q·s + r` of the result lies at `q + (r + ½)/s − ½`, less than half a pixel from `q`: rounded or not, it is pixel `q` of
//! the operand. ONNX Runtime has a fast kernel, and one for blocks, for the second spelling only (`upsample.cc`,
//! `nchwc_transformer.cc`; 1.31: 0.8 ns for an element of the operand with factors of 2, in the first one 2.4).

use super::resize_in_blocks::factors;
use super::{Tailoring, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "floor-nearest", rewrite: respell };

fn respell(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["Resize"])? {
        let g = model.main_mut();
        let whole = factors(g, op, &cx.facts).is_some_and(|f| f.iter().any(|f| *f > 1));
        if whole && repeats_pixels(g, op) {
            let node = g.op_mut(op);
            node.set_attr("coordinate_transformation_mode", "asymmetric");
            node.set_attr("nearest_mode", "floor");
            changed = true;
        }
    }
    Ok(changed)
}

/// True for another spelling of the same with whole factors.
fn repeats_pixels(g: &Graph, op: OpId) -> bool {
    let node = g.op(op);
    let coordinates = node.string("coordinate_transformation_mode").unwrap_or("half_pixel");
    let rounding = node.string("nearest_mode").unwrap_or("round_prefer_floor");
    let plain = ["antialias", "exclude_outside"].iter().all(|a| node.int(a).unwrap_or(0) == 0);
    let same = match coordinates {
        "half_pixel" | "pytorch_half_pixel" => rounding.starts_with("round_prefer"),
        "tf_half_pixel_for_nn" => rounding == "floor",
        _ => false,
    };
    node.string("mode").unwrap_or("nearest") == "nearest" && plain && node.attr("axes").is_none() && same
}

#[cfg(test)]
mod tests {
    use super::super::testing::rewritten;
    use super::*;
    use crate::fuse::testing::parse;
    use crate::pass::Changed;

    fn run(attributes: &str, scales: &str) -> bool {
        let model = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,4,5,5] x) => (float[1,4,H,W] y) \
             <float[4] s = {{{scales}}}> {{ y = Resize {attributes} (x, , s) }}"
        ));
        rewritten(&model, "cpu-vnni", &[&PASS], |_, _| {}).1 == Changed::Yes
    }

    #[test]
    fn whole_factors_have_one_spelling() {
        assert!(run("<mode = \"nearest\">", "1, 1, 2, 3"));
        assert!(run("<nearest_mode = \"round_prefer_ceil\">", "1, 1, 2, 2"));
        assert!(run(
            "<coordinate_transformation_mode = \"tf_half_pixel_for_nn\", nearest_mode = \"floor\">",
            "1, 1, 2, 2"
        ));
    }

    #[test]
    fn what_is_another_function_stays() {
        assert!(!run("<mode = \"nearest\">", "1, 1, 1.5, 2"));
        assert!(!run("<mode = \"nearest\">", "1, 2, 2, 2"));
        assert!(!run("<mode = \"linear\">", "1, 1, 2, 2"));
        assert!(!run("<nearest_mode = \"floor\">", "1, 1, 2, 2"));
        assert!(!run(
            "<coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\">",
            "1, 1, 2, 2"
        ));
    }
}
