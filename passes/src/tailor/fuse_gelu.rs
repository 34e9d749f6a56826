//! `fuse-gelu`: a Gelu that is written out becomes one operator.
//!
//! ```text
//! x/2·(1 + erf(x/√2))                             =   com.microsoft.Gelu (x)
//! x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))        =   com.microsoft.FastGelu (x)
//! ```
//!
//! ONNX has the operator since 20 (`Gelu`), ONNX Runtime of its own. The runtime looks for some spellings of both
//! (`gelu_fusion.cc`, `fast_gelu_fusion.cc`), but not behind a DequantizeLinear: of that it makes one for each reader, and
//! the spelling has two. Here any is found: what stands under the curve is read as a polynomial.

use super::{Tailoring, factor, need_microsoft, operators, replace, scalar, with_scalar};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec, ValueId};
use squint_ops::MICROSOFT;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "fuse-gelu", rewrite: fuse };

fn fuse(model: &mut Model, _: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for curve in operators(model, &["Erf", "Tanh"])? {
        let g = model.main_mut();
        let Some((x, end)) = gelu(g, curve) else { continue };
        let op_type = if g.op(curve).is("Erf") { "Gelu" } else { "FastGelu" };
        changed |= replace(g, end, OpSpec::new(op_type).domain(MICROSOFT).operands([x]), "fuse-gelu");
    }
    if changed {
        need_microsoft(model);
    }
    Ok(changed)
}

/// The operand of a Gelu, and the operator that gives its result.
fn gelu(g: &Graph, curve: OpId) -> Option<(ValueId, OpId)> {
    let add = g.only_use(g.result(curve, 0)?)?.op;
    let (_, one) = with_scalar(g, add)?;
    let sum = g.result(add, 0).filter(|_| g.op(add).is("Add") && one == 1.0)?;
    let (product, other) = only_product(g, sum)?;
    // Half of it, times the operand; times the operand, half of it; or times half the operand.
    let (x, end) = match other {
        Factor::Number(half) => match only_product(g, g.result(product, 0)?)? {
            (end, Factor::Value(x)) if half == 0.5 => (x, end),
            _ => return None,
        },
        Factor::Value(v) => {
            let halved = g.producer(v).and_then(|(p, _)| factor(g, p)).filter(|(_, k)| *k == 0.5);
            match (halved, g.result(product, 0).and_then(|v| only_product(g, v))) {
                (Some((x, _)), _) if is_argument(g, curve, x) => (x, product),
                (_, Some((end, Factor::Number(0.5)))) => (v, end),
                _ => return None,
            }
        }
    };
    is_argument(g, curve, x).then_some((x, end))
}

/// What else is multiplied.
enum Factor {
    Number(f64),
    Value(ValueId),
}

/// The only reader of a value, if it multiplies it with something.
fn only_product(g: &Graph, v: ValueId) -> Option<(OpId, Factor)> {
    let op = g.only_use(v)?.op;
    if let Some((x, k)) = factor(g, op) {
        return (x == v).then_some((op, Factor::Number(k)));
    }
    let (a, b) = (g.operand(op, 0)?, g.operand(op, 1)?);
    g.op(op).is("Mul").then(|| (op, Factor::Value(if a == v { b } else { a })))
}

/// True if the curve is `erf(x/√2)` or `tanh(√(2/π)·(x + 0.044715·x³))`, to the digits that exporters write.
fn is_argument(g: &Graph, curve: OpId, x: ValueId) -> bool {
    let Some(is) = g.operand(curve, 0).and_then(|d| polynomial(g, d, x, 12)) else {
        return false;
    };
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    let wanted = match g.op(curve).is("Erf") {
        true => [0.0, std::f64::consts::FRAC_1_SQRT_2, 0.0, 0.0],
        false => [0.0, slope, 0.0, slope * 0.044_715],
    };
    is.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6)
}

/// Coefficients, constant first, if a value is a polynomial of another of degree 3 at most.
fn polynomial(g: &Graph, v: ValueId, x: ValueId, depth: usize) -> Option<[f64; 4]> {
    if v == x {
        return Some([0.0, 1.0, 0.0, 0.0]);
    }
    if let Some(k) = scalar(g, v) {
        return Some([f64::from(k), 0.0, 0.0, 0.0]);
    }
    let (op, _) = g.producer(v).filter(|_| depth > 0)?;
    let operand = |slot| polynomial(g, g.operand(op, slot)?, x, depth - 1);
    if !g.op(op).is_onnx() {
        return None;
    }
    match g.op(op).op_type.as_str() {
        "Mul" => product(operand(0)?, operand(1)?),
        "Div" => {
            let k = f64::from(scalar(g, g.operand(op, 1)?)?);
            Some(operand(0)?.map(|c| c / k))
        }
        "Add" => {
            let (a, b) = (operand(0)?, operand(1)?);
            Some(std::array::from_fn(|i| a[i] + b[i]))
        }
        "Pow" => {
            let (base, exponent) = (operand(0)?, scalar(g, g.operand(op, 1)?)?);
            let squared = product(base, base)?;
            match exponent {
                2.0 => Some(squared),
                3.0 => product(squared, base),
                _ => None,
            }
        }
        _ => None,
    }
}

fn product(a: [f64; 4], b: [f64; 4]) -> Option<[f64; 4]> {
    let mut c = [0.0; 7];
    for (i, a) in a.iter().enumerate() {
        for (j, b) in b.iter().enumerate() {
            c[i + j] += a * b;
        }
    }
    c[4..].iter().all(|c| *c == 0.0).then(|| [c[0], c[1], c[2], c[3]])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, rewritten};
    use super::*;
    use crate::eliminate_dead_code::EliminateDeadCode;
    use crate::fuse::testing::{ops, parse};

    fn run(body: &str) -> String {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[3,5] x0) => (float[3,5] y) \
             <float three = {{3}}, float two = {{2}}, float c = {{0.044715}}, float k = {{0.7978846}}, float one = {{1}}, \
              float half = {{0.5}}, float kc = {{0.035677407}}, float root = {{1.4142135}}, float inverse = {{0.70710677}}> {{ x = Sin (x0) {body} }}"
        ));
        let (after, _) = rewritten(&before, "cpu-vnni", &[&PASS, &EliminateDeadCode], |_, _| {});
        assert_near(&before, &after, 1e-5, body);
        ops(&after)
    }

    const ARGUMENTS: [&str; 4] = [
        "p = Pow (x, three) q = Mul (p, c) r = Add (x, q) d = Mul (r, k)",
        "p = Mul (c, x) q = Mul (x, p) u = Mul (x, q) r = Add (x, u) d = Mul (k, r)",
        "p = Mul (x, x) q = Mul (p, c) u = Add (one, q) r = Mul (x, k) d = Mul (r, u)",
        "p = Pow (x, two) q = Mul (p, x) u = Mul (q, kc) r = Mul (k, x) d = Add (r, u)",
    ];

    #[test]
    fn every_spelling_is_one_operator() {
        for argument in ARGUMENTS {
            for tail in [
                "m = Mul (x, a) y = Mul (m, half)",
                "m = Mul (half, a) y = Mul (x, m)",
                "m = Mul (x, half) y = Mul (m, a)",
                "m = Div (a, two) y = Mul (m, x)",
            ] {
                let body = format!("{argument} e = Tanh (d) a = Add (e, one) {tail}");
                assert_eq!(run(&body), "Sin FastGelu", "{body}");
            }
        }
    }

    #[test]
    fn the_exact_one_has_an_operator_of_its_own() {
        for argument in ["d = Div (x, root)", "d = Mul (inverse, x)"] {
            for tail in ["m = Mul (x, a) y = Mul (m, half)", "m = Mul (x, half) y = Mul (m, a)"] {
                let body = format!("{argument} e = Erf (d) a = Add (one, e) {tail}");
                assert_eq!(run(&body), "Sin Gelu", "{body}");
            }
        }
    }

    #[test]
    fn other_curves_stay() {
        assert!(
            run("d = Mul (x, k) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)")
                .contains("Erf")
        );
        for body in [
            "d = Mul (x, k) e = Tanh (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
            "p = Pow (x, three) q = Mul (p, c) r = Add (x, q) d = Mul (r, k) e = Tanh (d) a = Add (e, half) \
             m = Mul (x, a) y = Mul (m, half)",
            "p = Pow (x, three) q = Mul (p, c) r = Add (x, q) d = Mul (r, k) e = Tanh (d) a = Add (e, one) \
             m = Mul (q, a) y = Mul (m, half)",
        ] {
            assert!(run(body).contains("Tanh"), "{body}");
        }
    }
}
