//! The Gaussian error linear unit (Hendrycks and Gimpel 2016; ONNX `Gelu`, since 20).
//!
//! Before operator set 20 the parts stay: runtimes know them, and fuse them with a bias in front.

use super::super::{Miss, Rewrite, Rule};
use super::activations::near;
use squint_ir::{Graph, OpSpec, ValueId};

pub(super) const RULES: &[Rule] = rules! {
    /// `x/2·(1 + erf(x/√2)) = Gelu(x)`, in whatever order it is multiplied.
    "recognize-gelu":
        "d = Mul|Div (x, k!); e = Erf (d); a = Add (e, one!); m = Mul (x, a); y = Mul|Div (m, half!)",
        "d = Mul|Div (x, k!); e = Erf (d); a = Add (e, one!); m = Mul|Div (a, half!); y = Mul (x, m)",
        "d = Mul|Div (x, k!); e = Erf (d); a = Add (e, one!); m = Mul|Div (x, half!); y = Mul (m, a)"
        => "y = Gelu (x)", recognize_gelu;

    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` is the approximate Gelu.
    "recognize-gelu-tanh":
        "p = Pow (x, three!); q = Mul (p, c!); r = Add (x, q); d = Mul (r, k!); e = Tanh (d); a = Add (e, one!); m = Mul (x, a); y = Mul|Div (m, half!)",
        "p = Pow (x, three!); q = Mul (p, c!); r = Add (x, q); d = Mul (r, k!); e = Tanh (d); a = Add (e, one!); m = Mul|Div (a, half!); y = Mul (x, m)",
        "p = Pow (x, three!); q = Mul (p, c!); r = Add (x, q); d = Mul (r, k!); e = Tanh (d); a = Add (e, one!); m = Mul|Div (x, half!); y = Mul (m, a)"
        => "y = Gelu (x)", recognize_gelu_tanh;
};

fn recognize_gelu(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    expect(rw.factor("d", "k")?, std::f64::consts::FRAC_1_SQRT_2, "the factor under erf")?;
    replace(rw, "none")
}

fn recognize_gelu_tanh(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    expect(rw.float("three")?, 3.0, "the exponent")?;
    expect(rw.float("c")?, 0.044_715, "the factor of the cube")?;
    expect(rw.float("k")?, (2.0 / std::f64::consts::PI).sqrt(), "the factor under tanh")?;
    replace(rw, "tanh")
}

fn expect(is: f64, wanted: f64, what: &str) -> Result<(), Miss> {
    // Exporters round these to a few digits.
    if near(is, wanted) || (is - wanted).abs() < 1e-6 {
        Ok(())
    } else {
        Err(format!("{what} is {is}, not {wanted}").into())
    }
}

fn replace(rw: &mut Rewrite<'_, '_>, approximate: &str) -> Result<(), Miss> {
    rw.expect_float("x")?;
    expect(rw.float("one")?, 1.0, "the summand")?;
    let halves = if rw.g().operands(rw.op_id("y")).contains(&Some(rw.v("half"))) { "y" } else { "m" };
    expect(rw.factor(halves, "half")?, 0.5, "the factor")?;
    for k in ["k", "one", "half", "three", "c"] {
        if rw.has(k) {
            rw.expect_no_growth("x", k)?;
        }
    }
    if rw.model.onnx_opset() < 20 {
        return Err("Gelu needs operator set 20".into());
    }
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    let spec = OpSpec::new("Gelu").name(name).operands([x]);
    rw.replace_root(if approximate == "none" { spec } else { spec.attr("approximate", approximate) });
    Ok(())
}

/// True for `x·(1 + erf(…))` and `x·(1 + tanh(…))`: all of a Gelu but the half.
pub(super) fn ends_gelu(g: &Graph, v: ValueId) -> bool {
    let made_by =
        |v: ValueId, op_type: &str| g.producer(v).map(|(op, _)| op).filter(|op| g.op(*op).is(op_type));
    let operands = |op| g.operands(op).into_iter().flatten();
    let curve = |v: ValueId| made_by(v, "Erf").or(made_by(v, "Tanh")).is_some();
    let sum = |v: ValueId| made_by(v, "Add").is_some_and(|add| operands(add).any(curve));
    made_by(v, "Mul").is_some_and(|product| operands(product).any(sum))
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(opset: i64, body: &str) -> String {
        format!(
            "<ir_version: 9, opset_import: [\"\" : {opset}]> m (float[2,3] x0) => (float[] y) \
             <float root = {{1.4142135}}, float inverse = {{0.70710677}}, float one = {{1.0}}, float half = {{0.5}}, \
             float two = {{2.0}}, float three = {{3.0}}, float c = {{0.044715}}, float k = {{0.7978846}}> \
             {{ x = Sin (x0) {body} }}"
        )
    }

    #[test]
    fn both_forms_in_every_order() {
        let erf = "d = Div (x, root) e = Erf (d) a = Add (e, one)";
        let other = "d = Mul (inverse, x) e = Erf (d) a = Add (one, e)";
        let tanh =
            "p = Pow (x, three) q = Mul (p, c) r = Add (x, q) d = Mul (k, r) e = Tanh (d) a = Add (e, one)";
        for (head, rule) in
            [(erf, "recognize-gelu"), (other, "recognize-gelu"), (tanh, "recognize-gelu-tanh")]
        {
            for tail in [
                "m = Mul (x, a) y = Mul (m, half)",
                "m = Mul (a, half) y = Mul (x, m)",
                "m = Mul (x, half) y = Mul (m, a)",
                "m = Mul (x, a) y = Div (m, two)",
            ] {
                let body = format!("{head} {tail}");
                assert_eq!(fires(rule, &model(20, &body)), "Sin Gelu", "{body}");
                assert!(misses(rule, &model(17, &body)).contains("20"));
                assert!(
                    misses(
                        rule,
                        &model(20, &body.replace("(e, one)", "(e, half)").replace("(one, e)", "(half, e)"))
                    )
                    .contains("summand")
                );
            }
        }
        let wrong = "d = Mul (x, half) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)";
        assert!(misses("recognize-gelu", &model(20, wrong)).contains("under erf"));
    }
}
