//! `move-softmax-axis`: a Softmax along any axis but the last computes along the last, between two transpositions.
//!
//! ```text
//! y = Softmax <axis = 1> (x)
//!
//! a = Transpose <perm = [0, 2, 3, 1]> (x)   b = Softmax <axis = -1> (a)   y = Transpose <perm = [0, 3, 1, 2]> (b)
//! ```
//!
//! The runtime does so itself, but exchanges the axis with the last one, for which its Transpose has no fast path, as it has
//! for moving one axis (ONNX Runtime 1.31, `SoftmaxCPU::ComputeImplOpset13` and `transpose_helper.cc`): 335 µs against 85 µs
//! for 80 channels of 22 × 22 pixels.

use super::{Tailoring, in_float, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "move-softmax-axis", rewrite: move_axes };

fn move_axes(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    // Before 13, what comes behind the axis belongs to it.
    if model.onnx_opset() < 13 {
        return Ok(false);
    }
    let mut changed = false;
    for op in operators(model, &["Softmax", "LogSoftmax"])? {
        let rank = in_float(model.main(), op).and_then(|x| cx.rank(model, x));
        changed |= rank.is_some_and(|rank| turn(model.main_mut(), op, rank));
    }
    Ok(changed)
}

fn turn(g: &mut Graph, op: OpId, rank: usize) -> bool {
    let axis = g.op(op).int("axis").unwrap_or(-1);
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(rank);
    let (Some(x), Some(y)) = (g.operand(op, 0), g.result(op, 0)) else { return false };
    if axis + 1 >= rank {
        return false;
    }
    let origin = format!("move-softmax-axis({})", g.label(op));
    let there: Vec<i64> = (0..rank).filter(|i| *i != axis).chain([axis]).map(|i| i as i64).collect();
    let back: Vec<i64> = (0..rank)
        .map(|i| if i == axis { rank - 1 } else { i - usize::from(i > axis) })
        .map(|i| i as i64)
        .collect();
    let transpose =
        |perm: Vec<i64>| OpSpec::new("Transpose").attr("perm", perm).near(op).origin(origin.clone());
    let name = g.value(y).name().to_owned();
    let turned = g.emit(transpose(there).operands([x]), &format!("{name}_turned"), None);
    let mut along = g.op(op).clone();
    along.set_attr("axis", -1i64);
    let along = OpSpec::from_op(along).operands([turned]).near(op);
    let made = g.emit(along, &format!("{name}_along_last"), None);
    g.set_result(op, 0, None);
    let back = g.add_op(transpose(back).operands([made]));
    g.set_result(back, 0, Some(y));
    g.remove_op(op);
    true
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tailored};
    use super::*;
    use crate::fuse::testing::ops;

    fn run(opset: i64, op: &str) -> (Model, Model) {
        let (before, after) = tailored(
            &PASS,
            "cpu-vnni",
            &format!(
                "<ir_version: 8, opset_import: [\"\" : {opset}]> m (float[2,5,3,4] x) => (float[2,5,3,4] y) {{ y = {op} (x) }}"
            ),
        );
        (before, after)
    }

    #[test]
    fn any_axis_becomes_the_last() {
        for op in ["Softmax <axis = 1>", "Softmax <axis = -4>", "LogSoftmax <axis = 2>"] {
            let (before, after) = run(13, op);
            assert!(ops(&after).starts_with("Transpose ") && ops(&after).ends_with(" Transpose"), "{op}");
            assert_near(&before, &after, 1e-6, op);
        }
    }

    #[test]
    fn the_last_axis_and_old_operators_stay() {
        assert_eq!(ops(&run(13, "Softmax").1), "Softmax");
        assert_eq!(ops(&run(13, "Softmax <axis = 3>").1), "Softmax");
        assert_eq!(ops(&run(11, "Softmax <axis = 1>").1), "Softmax");
    }
}
