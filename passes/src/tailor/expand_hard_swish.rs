//! `expand-hard-swish`: `x·Clip(x + b, 0, h)` in float becomes `x·HardSigmoid(x)`, times a constant that goes into the
//! weights behind.
//!
//! ```text
//! s = Add (x, 3)   c = Clip (s, 0, 6)   m = Mul (x, c)   y = Conv (m, w)
//!
//! h = HardSigmoid <alpha = 1/6, beta = 1/2> (x)   m = Mul (x, h)   y = Conv (m, 6·w)
//! ```
//!
//! Integers want the first form: an addition, whose range does the clipping, and a product. For float kernels the second is
//! one pass over the data less; and ONNX Runtime leaves the layout of convolutions before a Clip (`nchwc_transformer.cc`
//! knows Relu, Sigmoid, Tanh and, since 1.23, HardSigmoid), which costs two more.

use super::{Tailoring, factor, is_read_by_convolutions, operators, with_scalar};
use crate::fuse::limits;
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, ValueId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "expand-hard-swish", rewrite: expand };

fn expand(model: &mut Model, _: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["Clip"])? {
        if let Some(found) = HardSwish::of(model.main(), op) {
            changed |= found.rewrite(model.main_mut());
        }
    }
    Ok(changed)
}

/// `product = x·factor·HardSigmoid(x)`.
struct HardSwish {
    x: ValueId,
    alpha: f64,
    beta: f64,
    /// Left over behind the product.
    factor: f64,
    /// The Mul with `x`.
    product: OpId,
    /// Operators whose result the product no longer needs, readers first.
    unused: Vec<OpId>,
    /// A product with or quotient by a constant behind, which the factor includes.
    scaled: Option<OpId>,
}

impl HardSwish {
    fn of(g: &Graph, clip: OpId) -> Option<HardSwish> {
        let (lo, hi) = limits(g, clip).ok()?;
        let sum = g.operand(clip, 0)?;
        let (add, _) = g.producer(sum).filter(|(p, _)| g.op(*p).is("Add"))?;
        g.only_use(sum)?;
        let (x, b) = with_scalar(g, add)?;
        if lo != 0.0 || !(hi.is_finite() && hi > 0.0) || g.konst(x).is_some() {
            return None;
        }
        let mut unused = vec![clip, add];
        let (mut clipped, mut factor) = (g.result(clip, 0)?, hi);
        let mut user = g.only_use(clipped)?.op;
        if let Some(k) = scale(g, user, clipped) {
            factor *= k;
            unused.insert(0, user);
            clipped = g.result(user, 0)?;
            user = g.only_use(clipped)?.op;
        }
        let operands = g.operands(user);
        if !g.op(user).is("Mul") || ![[x, clipped], [clipped, x]].iter().any(|o| operands == o.map(Some)) {
            return None;
        }
        let result = g.result(user, 0)?;
        let scaled = g.only_use(result).filter(|u| scale(g, u.op, result).is_some()).map(|u| u.op);
        factor *= scaled.and_then(|op| scale(g, op, result)).unwrap_or(1.0);
        Some(HardSwish { x, alpha: 1.0 / hi, beta: b / hi, factor, product: user, unused, scaled })
    }

    /// False if there is no place for the factor.
    fn rewrite(self, g: &mut Graph) -> bool {
        let end = self.scaled.unwrap_or(self.product);
        let Some(result) = g.result(end, 0) else { return false };
        let neutral = (self.factor - 1.0).abs() <= 4.0 * f64::from(f32::EPSILON);
        let forward = !neutral && is_read_by_convolutions(g, result);
        // Where a constant stands already another does no harm.
        if !neutral && !forward && self.scaled.is_none() {
            return false;
        }
        let origin = format!("expand-hard-swish({})", g.label(self.unused[self.unused.len() - 2]));
        let name = g.value(result).name().to_owned();
        let gate = OpSpec::new("HardSigmoid")
            .attr("alpha", self.alpha as f32)
            .attr("beta", self.beta as f32)
            .operands([self.x])
            .near(self.product)
            .origin(origin.clone());
        let gate = g.emit(gate, &format!("{name}_gate"), None);
        let mut product = OpSpec::new("Mul").operands([self.x, gate]).near(end).origin(origin.clone());
        if forward {
            scale_readers(g, result, self.factor as f32);
        } else if !neutral {
            let gated = g.emit(product, &format!("{name}_gated"), None);
            let factor = Tensor::scalar_f32(self.factor as f32);
            let factor = g.add_const(&format!("{name}_factor"), factor);
            product = OpSpec::new("Mul").operands([gated, factor]).near(end).origin(origin);
        }
        g.set_result(end, 0, None);
        let product = g.add_op(product.name(g.op(end).name.clone()));
        g.set_result(product, 0, Some(result));
        for op in self.scaled.iter().chain([&self.product]).chain(&self.unused) {
            g.remove_op_and_results(*op);
        }
        true
    }
}

/// `k`, if an operator computes `k·v` and nothing else.
fn scale(g: &Graph, op: OpId, v: ValueId) -> Option<f64> {
    factor(g, op).filter(|(x, k)| *x == v && k.is_finite() && *k > 0.0).map(|(_, k)| k)
}

fn scale_readers(g: &mut Graph, v: ValueId, factor: f32) {
    for u in g.uses(v) {
        let Some(w) = g.operand(u.op, 1) else { continue };
        let Some(weight) = g.konst(w).cloned() else { continue };
        let scaled: Vec<f32> = weight.f32s().iter().map(|x| x * factor).collect();
        let name = format!("{}_scaled", g.value(w).name());
        let scaled = g.add_const(&name, Tensor::from_f32(weight.dims(), &scaled));
        g.set_operand(u.op, 1, Some(scaled));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tailored};
    use super::*;
    use crate::fuse::testing::ops;

    fn run(body: &str) -> (Model, Model) {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 13]> m (float[1,2,3,4] x0) => (float[1,2,3,4] y) \
             <float three = {{3}}, float[1] six = {{6}}, float zero = {{0}}, float five = {{5}}, \
             float[2,2,1,1] w = [\"location\": \"gen:randn\"]> {{ x = Mul (x0, five) {body} }}"
        );
        let (before, after) = tailored(&PASS, "cpu-vnni", &text);
        assert_near(&before, &after, 1e-5, body);
        (before, after)
    }

    #[test]
    fn all_spellings_become_one_gate_and_one_product() {
        for body in [
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) y = Div (m, six)",
            "s = Add (three, x) c = Clip (s, zero, six) d = Div (c, six) y = Mul (d, x)",
        ] {
            assert_eq!(ops(&run(body).1), "Mul HardSigmoid Mul", "{body}");
        }
    }

    #[test]
    fn what_is_left_over_goes_into_the_weights_behind() {
        let body = "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) y = Conv (m, w)";
        assert_eq!(ops(&run(body).1), "Mul HardSigmoid Mul Conv");
    }

    #[test]
    fn a_constant_behind_takes_it_up() {
        let body =
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) d = Mul (m, five) y = Add (d, three)";
        assert_eq!(ops(&run(body).1), "Mul HardSigmoid Mul Mul Add");
    }

    #[test]
    fn where_there_is_no_place_for_the_factor_or_the_parts_are_needed_nothing_changes() {
        for body in [
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) y = Relu (m)",
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) d = Div (m, six) y = Add (d, c)",
            "s = Add (x, three) c = Clip (s, three, six) m = Mul (x, c) y = Div (m, six)",
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) y = Sub (six, m)",
        ] {
            let (before, after) = run(body);
            assert_eq!(ops(&before), ops(&after), "{body}");
        }
    }
}
