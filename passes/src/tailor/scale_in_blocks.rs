//! `scale-in-blocks`: a factor and a summand for each channel, between blocked values, become a convolution of each channel
//! with one tap.
//!
//! ```text
//! m = Mul (x, a)   s = Add (m, b)   y = Conv (s, w)
//!
//! s = Conv <group = C> (x, a', b)   y = Conv (s, w)
//! ```
//!
//! ONNX Runtime leaves the blocked layout of convolutions for a Mul or Add with a constant (`nchwc_transformer.cc`:
//! `TransformBinary` wants blocked operands only) and goes back behind: four passes over the data, or three, where the
//! convolution takes one. What could go into the convolution in front or behind has gone there long before: these
//! constants stand behind an activation, and a summand in front of padding (the affine blocks of PP-LCNetV3, Baidu 2023).

use super::layouts::{blocked, channels};
use super::{Tailoring, convolution_of_each, is_read_by_convolutions, konst, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Graph, Model, OpId, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "scale-in-blocks", rewrite: scale };

fn scale(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    let Some(block) = kernels.block else { return Ok(false) };
    let mut changed = false;
    for op in operators(model, &["Mul", "Add"])? {
        let g = model.main_mut();
        // The second of two goes with the first.
        let affine = if g.has_op(op) { Affine::of(g, op, &cx.facts) } else { None };
        let Some(affine) = affine else { continue };
        if blocked(g, affine.x, &cx.facts, block) && is_read_by_convolutions(g, affine.y) {
            affine.rewrite(g);
            changed = true;
        }
    }
    Ok(changed)
}

/// `y = a·x + b`.
struct Affine {
    x: ValueId,
    y: ValueId,
    factors: Vec<f32>,
    summands: Option<Vec<f32>>,
    /// The operators, the last of which gives the result.
    ops: Vec<OpId>,
}

impl Affine {
    fn of(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> Option<Affine> {
        let (x, first) = with_channels(g, op, facts)?;
        let y = g.result(op, 0)?;
        if g.op(op).is("Add") {
            return Some(Affine {
                x,
                y,
                factors: vec![1.0; first.len()],
                summands: Some(first),
                ops: vec![op],
            });
        }
        let add = g.only_use(y).map(|u| u.op).filter(|add| g.op(*add).is("Add"));
        let shifted = add.and_then(|add| Some((add, g.result(add, 0)?, with_channels(g, add, facts)?.1)));
        Some(match shifted {
            Some((add, y, summands)) => {
                Affine { x, y, factors: first, summands: Some(summands), ops: vec![op, add] }
            }
            None => Affine { x, y, factors: first, summands: None, ops: vec![op] },
        })
    }

    fn rewrite(self, g: &mut Graph) {
        let y = self.y;
        let Some(end) = self.ops.last().copied() else { return };
        let (name, label) = (g.value(y).name().to_owned(), g.label(end));
        let n = self.factors.len();
        let mut operands = vec![self.x];
        operands
            .push(g.add_const(&format!("{name}_factors"), Tensor::from_f32(&[n, 1, 1, 1], &self.factors)));
        if let Some(summands) = &self.summands {
            operands.push(g.add_const(&format!("{name}_summands"), Tensor::from_f32(&[n], summands)));
        }
        let spec = convolution_of_each(n)
            .name(g.op(end).name.clone())
            .operands(operands)
            .near(end)
            .origin(format!("scale-in-blocks({label})"));
        g.set_result(end, 0, None);
        let conv = g.add_op(spec);
        g.set_result(conv, 0, Some(y));
        self.ops.iter().rev().for_each(|op| g.remove_op_and_results(*op));
    }
}

/// The operand of a Mul or Add that is no constant, of rank 4, and the constant with one number for each of its channels.
fn with_channels(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> Option<(ValueId, Vec<f32>)> {
    let (a, b) = (g.operand(op, 0)?, g.operand(op, 1)?);
    let numbers = |x: ValueId, k: ValueId| {
        let (n, k) = (channels(facts, x)?, konst(g, k).filter(|k| k.dtype() == DType::Float)?);
        match *k.dims() {
            _ if k.len() == 1 && k.rank() <= 4 => Some(vec![k.f32s()[0]; n]),
            [1, c, 1, 1] | [c, 1, 1] if c == n => Some(k.f32s().to_vec()),
            _ => None,
        }
    };
    if konst(g, a).is_some() {
        return Some((b, numbers(b, a)?));
    }
    Some((a, numbers(a, b)?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tailored};
    use super::*;
    use crate::fuse::testing::ops;

    fn run(target: &str, body: &str) -> String {
        let (before, after) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,3,6,6] x) => (float[N,M,H,W] y) \
             <float[16,3,3,3] w = [\"location\": \"gen:randn\"], float[16,16,3,3] v = [\"location\": \"gen:randn\"], \
              float[1,16,1,1] a = [\"location\": \"gen:randn\"], float b = {{0.5}}, float[16,1,1] c = [\"location\": \"gen:randn\"], \
              float[6] l = {{1, 2, 3, 4, 5, 6}}> {{ k = Conv <pads = [1, 1, 1, 1]> (x, w) {body} }}"
            ),
        );
        assert_near(&before, &after, 1e-4, body);
        ops(&after)
    }

    #[test]
    fn constants_behind_activations_become_one_convolution() {
        for body in [
            "r = Sigmoid (k) m = Mul (r, a) s = Add (m, b) y = Conv <pads = [1, 1, 1, 1]> (s, v)",
            "r = Sigmoid (k) s = Add (c, r) y = Conv <pads = [1, 1, 1, 1]> (s, v)",
        ] {
            assert_eq!(run("cpu-vnni", body), "Conv Sigmoid Conv Conv", "{body}");
        }
        let gated = "r = HardSigmoid (k) g = Mul (k, r) m = Mul (b, g) s = Add (m, a) y = Conv (s, v)";
        assert_eq!(run("cpu-vnni", gated), "Conv HardSigmoid Mul Conv Conv");
    }

    #[test]
    fn what_is_not_in_blocks_stays() {
        for (target, body, expected) in [
            ("cpu-vnni", "r = Sigmoid (k) m = Mul (r, a) y = Relu (m)", "Conv Sigmoid Mul Relu"),
            ("cpu-vnni", "r = Sigmoid (k) m = Mul (r, l) y = Conv (m, v)", "Conv Sigmoid Mul Conv"),
            ("cpu-vnni", "r = LeakyRelu (k) m = Mul (r, a) y = Conv (m, v)", "Conv LeakyRelu Mul Conv"),
            ("tensorrt", "r = Sigmoid (k) m = Mul (r, a) y = Conv (m, v)", "Conv Sigmoid Mul Conv"),
        ] {
            assert_eq!(run(target, body), expected, "{body}");
        }
    }
}
