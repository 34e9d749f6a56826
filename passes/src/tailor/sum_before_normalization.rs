//! `sum-before-normalization`: a residual sum in front of a LayerNormalization is written as a Sum.
//!
//! ```text
//! s = Add (x, z)   y = LayerNormalization (s, scale, bias)
//!
//! s = Sum (x, z)   y = LayerNormalization (s, scale, bias)
//! ```
//!
//! ONNX Runtime makes one SkipLayerNormalization of an Add and a LayerNormalization (`skip_layer_norm_fusion.cc`), whose
//! kernel goes element by element, while those of the two operators use vectors. It does not look for a Sum, which has the
//! kernel of the Add. (1.31, AVX-512, one thread, 128 rows of 768: 495 µs, and 66 as Sum and LayerNormalization; 64 rows of 384:
//! 128 and 21; 8 rows: 21 and 9.)

use super::{Tailoring, konst, operators, replace};
use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "sum-before-normalization", rewrite: sum };

fn sum(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["Add"])? {
        let g = model.main_mut();
        if adds_activations(g, op, &cx.facts) && is_normalized(g, op) {
            let spec = OpSpec::new("Sum").operands(g.operands(op));
            changed |= replace(g, op, spec, "sum-before-normalization");
        }
    }
    Ok(changed)
}

/// True for a sum of two floats neither of which is a constant: others go into the product before them.
fn adds_activations(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> bool {
    let float = g.result(op, 0).and_then(|y| facts.get(y)).and_then(|f| f.dtype) == Some(DType::Float);
    float && g.operands(op).into_iter().flatten().all(|v| konst(g, v).is_none())
}

/// True if a LayerNormalization reads the result, or one in parts: a mean, and a difference.
fn is_normalized(g: &Graph, op: OpId) -> bool {
    let Some(y) = g.result(op, 0) else { return false };
    let uses = g.uses(y);
    let read = |by: &str| uses.iter().any(|u| u.slot == 0 && g.op(u.op).is(by));
    read("LayerNormalization") || (read("ReduceMean") && read("Sub"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::{ops, outputs};

    fn run(target: &str, body: &str) -> String {
        let (before, after) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[2,3,4] x, float[2,3,4] z) => (float[2,3,4] y) \
             <float[4] g = [\"location\": \"gen:randn\"], float[4] b = [\"location\": \"gen:randn\"]> {{ {body} }}"
            ),
        );
        assert_eq!(outputs(&before), outputs(&after), "{body}");
        ops(&after)
    }

    #[test]
    fn residual_sums_are_no_adds() {
        let body = "s = Add (x, z) n = LayerNormalization (s, g, b) y = Add (n, s)";
        assert_eq!(run("cpu-vnni", body), "Sum LayerNormalization Add");
        let parts = "s = Add (x, z) m = ReduceMean <axes = [-1]> (s) d = Sub (s, m) y = Mul (d, g)";
        assert_eq!(run("cpu-vnni", parts), "Sum ReduceMean Sub Mul");
    }

    #[test]
    fn others_stay() {
        for (target, body, expected) in [
            ("cpu-vnni", "s = Add (x, b) y = LayerNormalization (s, g, b)", "Add LayerNormalization"),
            ("cpu-vnni", "s = Add (x, z) y = Mul (s, g)", "Add Mul"),
            ("tensorrt", "s = Add (x, z) y = LayerNormalization (s, g, b)", "Add LayerNormalization"),
        ] {
            assert_eq!(run(target, body), expected, "{body}");
        }
    }
}
