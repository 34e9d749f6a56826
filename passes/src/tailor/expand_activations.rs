//! `expand-activations`: activations without vectorised kernels become operators that have some.
//!
//! | activation | in parts | ONNX Runtime 1.31, ns for an element | in parts |
//! |---|---|---|---|
//! | Mish, `x·tanh(softplus(x))` | `x·n/(n + 2)` with `n = e·(e + 2)`, `e = exp(Clip(x, −80, 20))` | 10.6 | 1.6 |
//! | Softplus, `log(1 + exp(x))` | `Relu(x) + log(1 + exp(−Abs(x)))` | 9.9 | 2.7 |
//! | Elu with `alpha = 1`, `exp(x) − 1` below zero | `Max(x, exp(Clip(x, −80, 0)) − 1)` | 1.6 | 0.85 |
//!
//! With `e = exp(x)`, `tanh(log(1 + e)) = ((1 + e)² − 1) / ((1 + e)² + 1)`. Beyond 20 the quotient is 1 in float32; below −80 the
//! exponential would be denormal. As `exp(x) − 1 ≥ x`, the greater of the two is the right one on both sides of zero.
//! (Misra 2019; Clevert et al. 2015; ONNX `Operators.md`.)

use super::parts::Parts;
use super::{Tailoring, is_large, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, ValueId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "expand-activations", rewrite: expand };

fn expand(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    // Clip has its limits as operands since 11.
    if model.onnx_opset() < 11 {
        return Ok(false);
    }
    let mut changed = false;
    // Products first: a Mish in parts has a Softplus among them.
    for op in operators(model, &["Mul"])?.into_iter().chain(operators(model, &["Mish", "Softplus", "Elu"])?) {
        let g = model.main_mut();
        if !g.has_op(op) {
            continue;
        }
        let x = match g.op(op).op_type.as_str() {
            "Mul" => mish_in_parts(g, op),
            "Elu" if g.op(op).float("alpha").unwrap_or(1.0) != 1.0 => None,
            _ => g.operand(op, 0),
        };
        let Some(x) = x.filter(|x| is_large(&cx.facts, *x)) else { continue };
        match g.op(op).op_type.as_str() {
            "Mul" | "Mish" => write_mish(g, op, x),
            "Softplus" => write_softplus(g, op, x),
            _ => write_elu(g, op, x),
        }
        changed = true;
    }
    Ok(changed)
}

/// `x` of a Mul that computes `x·Tanh(Softplus(x))`.
fn mish_in_parts(g: &Graph, product: OpId) -> Option<ValueId> {
    let of = |v: ValueId, op_type: &str| {
        let (op, _) = g.producer(v).filter(|(op, _)| g.op(*op).is(op_type))?;
        g.only_use(v)?;
        g.operand(op, 0)
    };
    let [a, b] = [g.operand(product, 0)?, g.operand(product, 1)?];
    [(a, b), (b, a)]
        .into_iter()
        .find(|(x, t)| of(*t, "Tanh").and_then(|s| of(s, "Softplus")) == Some(*x))
        .map(|(x, _)| x)
}

fn write_mish(g: &mut Graph, op: OpId, x: ValueId) {
    let mut parts = Parts::of(g, op, PASS.name);
    let (lowest, highest) = (parts.number("lowest", -80.0), parts.number("highest", 20.0));
    let two = parts.number("two", 2.0);
    let clipped = parts.apply("Clip", &[x, lowest, highest]);
    let e = parts.apply("Exp", &[clipped]);
    let more = parts.apply("Add", &[e, two]);
    let n = parts.apply("Mul", &[e, more]);
    let below = parts.apply("Add", &[n, two]);
    let gate = parts.apply("Div", &[n, below]);
    parts.end("Mul", &[x, gate]);
}

fn write_softplus(g: &mut Graph, op: OpId, x: ValueId) {
    let mut parts = Parts::of(g, op, PASS.name);
    let one = parts.number("one", 1.0);
    let positive = parts.apply("Relu", &[x]);
    let distance = parts.apply("Abs", &[x]);
    let negative = parts.apply("Neg", &[distance]);
    let e = parts.apply("Exp", &[negative]);
    let more = parts.apply("Add", &[e, one]);
    let rest = parts.apply("Log", &[more]);
    parts.end("Add", &[positive, rest]);
}

fn write_elu(g: &mut Graph, op: OpId, x: ValueId) {
    let mut parts = Parts::of(g, op, PASS.name);
    let (lowest, zero, one) =
        (parts.number("lowest", -80.0), parts.number("zero", 0.0), parts.number("one", 1.0));
    let clipped = parts.apply("Clip", &[x, lowest, zero]);
    let e = parts.apply("Exp", &[clipped]);
    let below = parts.apply("Sub", &[e, one]);
    parts.end("Max", &[x, below]);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, rewritten};
    use super::*;
    use crate::eliminate_dead_code::EliminateDeadCode;
    use crate::fuse::testing::{ops, parse};

    fn run(target: &str, n: usize, body: &str) -> String {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 18]> m (float[1,{n}] x0) => (float[1,{n}] y) \
             <float far = {{120}}> {{ x = Mul (x0, far) {body} }}"
        ));
        let (after, _) = rewritten(&before, target, &[&PASS, &EliminateDeadCode], |_, _| {});
        assert_near(&before, &after, 1e-6, body);
        ops(&after)
    }

    #[test]
    fn parts_compute_the_same() {
        let mish = "Mul Clip Exp Add Mul Add Div Mul";
        assert_eq!(run("cpu-vnni", 5000, "y = Mish (x)"), mish);
        assert_eq!(run("cpu-vnni", 5000, "s = Softplus (x) t = Tanh (s) y = Mul (x, t)"), mish);
        assert_eq!(run("cpu-vnni", 5000, "s = Softplus (x) t = Tanh (s) y = Mul (t, x)"), mish);
        assert_eq!(run("cpu-vnni", 5000, "y = Softplus (x)"), "Mul Relu Abs Neg Exp Add Log Add");
        assert_eq!(run("cpu-vnni", 5000, "y = Elu (x)"), "Mul Clip Exp Sub Max");
    }

    #[test]
    fn others_stay() {
        assert_eq!(run("cpu-vnni", 50, "y = Mish (x)"), "Mul Mish");
        assert_eq!(run("cpu-vnni", 5000, "y = Elu <alpha = 0.5> (x)"), "Mul Elu");
        assert_eq!(run("tensorrt", 5000, "y = Softplus (x)"), "Mul Softplus");
    }
}
