//! `hold-transposes`: what an integer convolution makes goes back into the layout of float operators as integers.
//!
//! ```text
//! q = QuantizeLinear (Conv (…))   d = DequantizeLinear (q, s, z)   y = Add (d, …)
//!
//! q = QuantizeLinear (Conv (…))   h = Reshape (q, [0, 0, …])   d = DequantizeLinear (h, s, z)   y = Add (d, …)
//! ```
//!
//! ONNX Runtime computes convolutions on integers with channels last, puts a Transpose behind each, and then moves it down as
//! far as it gets: through the DequantizeLinear and what works on single elements, to an operator that has another operand
//! in another layout (`transpose_optimizer`, release 1.31). There it has four times the bytes and a slower kernel:
//! `[1, 7500, 128]` takes 1,833 µs as floats and 103 µs as integers. Nothing is moved through a Reshape, and one that
//! changes nothing costs nothing.
//!
//! Where only convolutions and quantizers read what comes out, the layout may stay, and nothing is held. Nor is it where all
//! lengths are known before the model is run: there the runtime sees that the Reshape changes nothing, and removes it.

use super::{Tailoring, operators, scalar};
use crate::elementwise::is_elementwise;
use crate::pass::{PassCx, PassError};
use crate::plan::QuantPlan;
use squint_ir::types::known_dims;
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, Use, ValueId, ValueTable};
use squint_ops::{Class, row};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "hold-transposes", rewrite: hold_all };

fn hold_all(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    let layouts = Layouts::of(model.main(), cx)?;
    for op in operators(model, &["DequantizeLinear"])? {
        let g = model.main();
        let Some((q, rank)) = of_convolution(g, cx, op).filter(|(q, _)| !is_known(cx, *q)) else { continue };
        let Some(d) = g.result(op, 0) else { continue };
        let held: Vec<Use> = g.uses(d).into_iter().filter(|u| layouts.wants_rows(g, *u)).collect();
        if !held.is_empty() || g.is_output(d) {
            hold(model.main_mut(), op, q, d, rank, &held);
            changed = true;
        }
    }
    Ok(changed)
}

/// True if all lengths of a value are known.
fn is_known(cx: &PassCx<'_>, v: ValueId) -> bool {
    cx.facts.get(v).and_then(|f| f.shape.as_deref()).and_then(known_dims).is_some()
}

/// The codes that a DequantizeLinear reads and their rank, if an integer convolution makes them.
fn of_convolution(g: &Graph, cx: &PassCx<'_>, dequantize: OpId) -> Option<(ValueId, usize)> {
    let q = g.operand(dequantize, 0)?;
    let (maker, _) = g.producer(q)?;
    let rank = |v: ValueId| cx.facts.get(v).and_then(|f| f.rank());
    if g.op(maker).is("QLinearConv") {
        return Some((q, rank(q)?));
    }
    let y = g.operand(maker, 0).filter(|_| g.op(maker).is("QuantizeLinear"))?;
    let (conv, _) = g.producer(y)?;
    (g.op(conv).is("Conv") && cx.plan.in_integers(conv)).then_some((q, rank(y)?))
}

/// What may have its channels last.
struct Layouts<'p> {
    plan: &'p QuantPlan,
    /// Of values that follow, element by element, from nothing but one result of an integer convolution: that result.
    follow: ValueTable<ValueId>,
    /// Values of which a reader does not take channels last.
    rows: ValueTable<()>,
}

impl<'p> Layouts<'p> {
    fn of(g: &Graph, cx: &'p PassCx<'_>) -> Result<Layouts<'p>, PassError> {
        let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
        let mut layouts = Layouts { plan: &cx.plan, follow: ValueTable::new(), rows: ValueTable::new() };
        for op in &order {
            let Some(result) = g.result(*op, 0) else { continue };
            let follows = if g.op(*op).is("DequantizeLinear") {
                of_convolution(g, cx, *op).map(|_| result)
            } else {
                layouts.follows(g, *op)
            };
            if let Some(first) = follows {
                layouts.follow.insert(result, first);
            }
        }
        for op in order.into_iter().rev() {
            for v in g.results(op).into_iter().flatten() {
                if g.is_output(v) || g.uses(v).into_iter().any(|u| layouts.wants_rows(g, u)) {
                    layouts.rows.insert(v, ());
                }
            }
        }
        Ok(layouts)
    }

    /// What the result of an operator follows from.
    fn follows(&self, g: &Graph, op: OpId) -> Option<ValueId> {
        let node = g.op(op);
        if is_elementwise(g, op) {
            return self.follow.get(g.operand(op, 0)?).copied();
        }
        if row(&node.domain, &node.op_type).is_none_or(|r| r.class != Class::Binary) {
            return None;
        }
        // A gate `x·f(x)`, or a number.
        let numbers = |v: &ValueId| scalar(g, *v).is_none();
        let mut from =
            g.operands(op).into_iter().flatten().filter(numbers).map(|v| self.follow.get(v).copied());
        let first = from.next()??;
        from.all(|other| other == Some(first)).then_some(first)
    }

    /// True if a reader does not take channels last: convolutions do, in float in blocks, operators on integers, quantizers,
    /// and functions of single elements of whose results the same is true.
    fn wants_rows(&self, g: &Graph, u: Use) -> bool {
        let op = g.op(u.op);
        let takes_any = ["Conv", "QuantizeLinear"].iter().any(|t| op.is(t)) || self.plan.in_integers(u.op);
        let result = g.result(u.op, 0);
        let passed_on = result.filter(|v| self.follow.contains(*v));
        u.capture || !takes_any && passed_on.is_none_or(|v| self.rows.contains(v))
    }
}

/// Lets these readers, or who reads the model's outputs, have what is dequantized behind a Reshape.
fn hold(g: &mut Graph, dequantize: OpId, q: ValueId, d: ValueId, rank: usize, readers: &[Use]) {
    let origin = format!("hold-transposes({})", g.label(dequantize));
    let name = g.value(q).name().to_owned();
    let same = g.add_const(&format!("{name}_same"), Tensor::from_i64(&[rank], &vec![0; rank]));
    let spec = OpSpec::new("Reshape").operands([q, same]).near(dequantize).origin(origin.clone());
    let ty = g.ty(q).cloned();
    let held = g.emit(spec, &format!("{name}_held"), ty);
    if g.is_output(d) || readers.len() == g.uses(d).len() {
        g.set_operand(dequantize, 0, Some(held));
        return;
    }
    // The others go on with what is dequantized where it was.
    let operands: Vec<Option<ValueId>> =
        std::iter::once(Some(held)).chain(g.operands(dequantize).into_iter().skip(1)).collect();
    let spec = OpSpec::from_op(g.op(dequantize).clone());
    let label = format!("{}_held", g.label(dequantize));
    let spec = spec.name(g.fresh_name(&label)).operands(operands).near(dequantize).origin(origin);
    let (name, ty) = (g.value(d).name().to_owned(), g.ty(d).cloned());
    let other = g.emit(spec, &format!("{name}_held"), ty);
    g.redirect_uses(d, other, |op| readers.iter().any(|u| u.op == op));
}

#[cfg(test)]
mod tests {
    use super::super::testing::rewritten;
    use super::*;
    use crate::fuse::testing::{ops, outputs, parse};
    use crate::plan::OpPlan;

    /// What becomes of a convolution on integers and what follows: `d` is dequantized, `x` a value in rows.
    fn run(target: &str, body: &str) -> String {
        run_on("N", target, body)
    }

    fn run_on(batch: &str, target: &str, body: &str) -> String {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[{batch},4,6,6] x) => (float[{batch},4,6,6] y) \
             <float s = {{0.01}}, uint8 z = {{100}}, float[4,4,1,1] w = [\"location\": \"gen:randn\"], float k = {{3}}> \
             {{ c = Conv (x, w) q = QuantizeLinear (c, s, z) d = DequantizeLinear (q, s, z) {body} }}"
        ));
        let (after, _) = rewritten(&before, target, &[&PASS], |model, cx| {
            let conv = model.main().ops().next().unwrap();
            cx.plan.ops.insert(conv, OpPlan::Integer("QLinearConv"));
        });
        assert_eq!(outputs(&before), outputs(&after), "{body}");
        ops(&after)
    }

    #[test]
    fn what_goes_into_rows_is_held() {
        let held = "Conv QuantizeLinear Reshape DequantizeLinear Add";
        assert_eq!(run("cpu-vnni", "y = Add (d, x)"), held);
        assert_eq!(run("tensorrt", "y = Add (d, x)"), "Conv QuantizeLinear DequantizeLinear Add");
        assert!(run("cpu-vnni", "r = Relu (d) y = Add (r, x)").contains("Reshape"));
        assert!(
            !run_on("1", "cpu-vnni", "y = Add (d, x)").contains("Reshape"),
            "the runtime would remove it"
        );
        assert!(run("cpu-vnni", "g = Sigmoid (d) y = Mul (d, g)").contains("Reshape"), "it is an output");
    }

    #[test]
    fn what_goes_into_convolutions_keeps_its_layout() {
        for body in [
            "y = Conv (d, w)",
            "r = Relu (d) y = Conv (r, w)",
            "g = Sigmoid (d) m = Mul (d, g) t = Mul (k, m) y = Conv (t, w)",
        ] {
            assert!(!run("cpu-vnni", body).contains("Reshape"), "{body}");
        }
    }

    #[test]
    fn readers_of_both_kinds_get_what_they_take() {
        let both = run("cpu-vnni", "a = Conv (d, w) b = Add (d, x) y = Add (a, b)");
        assert_eq!(both.matches("DequantizeLinear").count(), 2, "{both}");
        assert_eq!(both.matches("Reshape").count(), 1, "{both}");
    }
}
