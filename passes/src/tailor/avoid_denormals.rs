//! `avoid-denormals`: a Softmax does not compute powers that are too small for normal numbers.
//!
//! ```text
//! y = Softmax (x)
//!
//! m = ReduceMax <axes = [-1]> (x)   f = Sub (m, 64)   l = Max (x, f)   y = Softmax (l)
//! ```
//!
//! Behind a mask of attention, half of the elements are so far below the greatest of their row that `exp` of the difference
//! is denormal, which processors compute in microcode, a hundred times slower; and so is each product with such an element
//! in the matrix product behind. No element changes by more than `exp(−64) = 1.6·10⁻²⁸`, and no sum, which is at least 1, at
//! all. (ONNX Runtime 1.31 clamps the exponent at −103.97, `MlasSumExpF32Kernel` and `ExpConstants` in `compute.cpp`; with 2 %
//! of denormals in rows of 256 elements Softmax and MatMul take 1.7 times as long as this form, with 20 % four times, and
//! without any 0.6 times.)
//!
//! Whether there are such elements follows from what calibration saw.

use super::{Tailoring, in_float, operators};
use crate::calibration::Sketch;
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, ValueId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "avoid-denormals", rewrite: avoid };

/// `exp(−87.4)` is the least normal float32.
const DENORMAL: f64 = -87.4;

/// From so far below the greatest element nothing reaches a sum of float32.
const NEGLIGIBLE: f32 = 64.0;

/// From this share of such elements on it pays.
const SHARE: f64 = 0.02;

fn avoid(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let opset = model.onnx_opset();
    let mut changed = false;
    for op in operators(model, &["Softmax"])? {
        let Some(x) = in_float(model.main(), op) else { continue };
        if cx.statistics.sketch(x).is_some_and(|s| share_of_denormals(s) >= SHARE) {
            limit(model.main_mut(), op, x, opset);
            changed = true;
        }
    }
    Ok(changed)
}

/// The share of elements that is certainly so far below the greatest of all.
fn share_of_denormals(sketch: &Sketch) -> f64 {
    match sketch.extremes() {
        Some((_, greatest)) => sketch.share_below(f64::from(greatest) + DENORMAL),
        None => 0.0,
    }
}

fn limit(g: &mut Graph, op: OpId, x: ValueId, opset: i64) {
    let origin = format!("avoid-denormals({})", g.label(op));
    let axis = g.op(op).int("axis").unwrap_or(-1);
    let (name, ty) = (g.value(x).name().to_owned(), g.ty(x).cloned());
    let spec = |op_type: &str| OpSpec::new(op_type).near(op).origin(origin.clone());
    // Axes have been an operand since 18.
    let reduce = match opset {
        ..18 => spec("ReduceMax").attr("axes", vec![axis]).operands([x]),
        _ => {
            let axes = g.add_const(&format!("{name}_axis"), Tensor::from_i64(&[1], &[axis]));
            spec("ReduceMax").operands([x, axes])
        }
    };
    let greatest = g.emit(reduce, &format!("{name}_greatest"), None);
    let distance = g.add_const(&format!("{name}_negligible"), Tensor::from_f32(&[], &[NEGLIGIBLE]));
    let least = g.emit(spec("Sub").operands([greatest, distance]), &format!("{name}_least"), None);
    let limited = g.emit(spec("Max").operands([x, least]), &format!("{name}_limited"), ty);
    g.set_operand(op, 0, Some(limited));
}

#[cfg(test)]
mod tests {
    use super::super::testing::rewritten;
    use super::*;
    use crate::fuse::testing::{ops, outputs, parse};
    use crate::pass::Changed;

    fn model(opset: i64) -> Model {
        parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : {opset}]> m (float[2,3,4] a) => (float[2,3,4] y) \
             <float[4] mask = {{0, -1000000000, 0, -1000000000}}, float ten = {{10}}> \
             {{ b = Mul (a, ten) x = Add (b, mask) y = Softmax <axis = -1> (x) }}"
        ))
    }

    /// The model after the pass, when calibration saw these elements.
    fn after(model: &Model, target: &str, seen: &[f32]) -> (Model, Changed) {
        rewritten(model, target, &[&PASS], |model, cx| {
            let mut sketch = Sketch::new();
            sketch.observe(seen);
            cx.statistics.sketches.insert(model.main().value_named("x").unwrap(), sketch);
        })
    }

    #[test]
    fn masked_rows_are_limited_and_compute_the_same() {
        for opset in [13, 17, 18] {
            let before = model(opset);
            let (after, _) = after(&before, "cpu-vnni", &[1.0, 2.0, -1e9, 5.0]);
            assert_eq!(ops(&after), "Mul Add ReduceMax Sub Max Softmax");
            let [(_, a), (_, b)] = [&outputs(&before)[0], &outputs(&after)[0]];
            assert!(a.f32s().iter().zip(b.f32s().iter()).all(|(a, b)| (a - b).abs() <= 1.7e-28));
        }
    }

    #[test]
    fn where_nothing_is_denormal_nothing_changes() {
        assert_eq!(after(&model(17), "cpu-vnni", &[1.0, 2.0, -50.0, 5.0]).1, Changed::No);
        let mut rare = vec![0.0; 99];
        rare.push(-1e9);
        assert_eq!(after(&model(17), "cpu-vnni", &rare).1, Changed::No, "too rare to pay");
        assert_eq!(after(&model(17), "tensorrt", &[1.0, -1e9]).1, Changed::No);
    }

    #[test]
    fn infinities_count_as_far_below() {
        let (after, _) = after(&model(17), "cpu-vnni", &[1.0, f32::NEG_INFINITY, 0.5]);
        assert_eq!(ops(&after), "Mul Add ReduceMax Sub Max Softmax");
    }
}
