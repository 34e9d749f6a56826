//! Piecewise linear activations that exporters write out in parts.
//!
//! - `HardSigmoid(x) = max(0, min(1, α·x + β))` (ONNX, since 6);
//! - `HardSwish(x) = x·HardSigmoid(x)` with `α = 1/6`, `β = 1/2` (Howard et al. 2019; ONNX, since 14).

use super::super::{Miss, Rewrite, Rule};
use super::clamp::limits;
use squint_ir::OpSpec;

pub(super) const RULES: &[Rule] = rules! {
    /// `x·Clip(x + 3, 0, 6)/6 = HardSwish(x)`, in whatever order it is multiplied.
    "recognize-hard-swish":
        "s = Add (x, b!); c = Clip (s, lo!, hi!); m = Mul (x, c); y = Div|Mul (m, k!)",
        "s = Add (x, b!); c = Clip (s, lo!, hi!); m = Div|Mul (c, k!); y = Mul (x, m)",
        "s = Add (x, b!); c = Clip (s, lo!, hi!); m = Div|Mul (x, k!); y = Mul (m, c)",
        "h = HardSigmoid (x); y = Mul (x, h)"
        => "y = HardSwish (x)", recognize_hard_swish;

    /// `Clip(a·x + b, 0, 1)` and `Clip(x + b, 0, k)/k` are `HardSigmoid(x)` with `α = a`, or `α = 1/k` and
    /// `β = b/k`.
    "recognize-hard-sigmoid":
        "m = Mul|Div (x, a!); s = Add (m, b!); y = Clip (s, lo!, hi!)",
        "s = Add (x, b!); c = Clip (s, lo!, hi!); y = Div|Mul (c, k!)",
        "s = Add (x, b!); y = Clip (s, lo!, hi!)"
        => "y = HardSigmoid (x)", recognize_hard_sigmoid;
};

fn recognize_hard_swish(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.model.onnx_opset() < 14 {
        return Err("HardSwish needs operator set 14".into());
    }
    let (alpha, beta) = if rw.has("h") {
        let h = rw.op("h");
        (f64::from(h.float("alpha").unwrap_or(0.2)), f64::from(h.float("beta").unwrap_or(0.5)))
    } else {
        let divider = if rw.g().operands(rw.op_id("y")).contains(&Some(rw.v("k"))) { "y" } else { "m" };
        clipped_line(rw, 1.0, rw.factor(divider, "k")?)?
    };
    if !near(alpha, 1.0 / 6.0) || !near(beta, 0.5) {
        return Err(format!("{alpha}·x + {beta} is not x/6 + 1/2").into());
    }
    replace(rw, OpSpec::new("HardSwish"))
}

fn recognize_hard_sigmoid(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let slope = if rw.has("a") { rw.factor("m", "a")? } else { 1.0 };
    let scale = if rw.has("k") { rw.factor("y", "k")? } else { 1.0 };
    let (alpha, beta) = clipped_line(rw, slope, scale)?;
    replace(rw, OpSpec::new("HardSigmoid").attr("alpha", alpha as f32).attr("beta", beta as f32))
}

/// `α` and `β` of `k·Clip(a·x + b, lo, hi)`; a miss unless it runs from 0 to 1.
fn clipped_line(rw: &Rewrite<'_, '_>, a: f64, k: f64) -> Result<(f64, f64), Miss> {
    let clip = if rw.has("c") { "c" } else { "y" };
    let (lo, hi) = limits(rw.g(), rw.op_id(clip))?;
    if lo != 0.0 || !near(hi * k, 1.0) {
        return Err(format!("it runs from {} to {}", lo * k, hi * k).into());
    }
    Ok((a * k, rw.float("b")? * k))
}

/// Equal but for rounding of a constant that was written in float32.
pub(super) fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * b.abs()
}

fn replace(rw: &mut Rewrite<'_, '_>, spec: OpSpec) -> Result<(), Miss> {
    rw.expect_float("x")?;
    for k in ["a", "b", "k"] {
        if rw.has(k) {
            rw.expect_no_growth("x", k)?;
        }
    }
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    rw.replace_root(spec.name(name).operands([x]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(opset: i64, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : {opset}]> m (float[1,40] x0) => (float[] y) \
             <float three = {{3.0}}, float[1] six = {{6.0}}, float sixth = {{0.16666667}}, float zero = {{0.0}}, \
             float one = {{1.0}}, float twelve = {{12.0}}, float a = {{0.2}}, float h = {{0.5}}> {{ x = Mul (x0, twelve) {body} }}"
        )
    }

    #[test]
    fn hard_swish_in_every_order() {
        for body in [
            "s = Add (x, three) c = Clip (s, zero, six) m = Mul (x, c) y = Div (m, six)",
            "s = Add (three, x) c = Clip (s, zero, six) m = Mul (c, sixth) y = Mul (m, x)",
            "s = Add (x, three) c = Clip (s, zero, six) m = Div (x, six) y = Mul (c, m)",
            "h0 = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (x, h0)",
        ] {
            assert_eq!(fires("recognize-hard-swish", &model(14, body)), "Mul HardSwish", "{body}");
            assert!(misses("recognize-hard-swish", &model(13, body)).contains("14"));
        }
        misses("recognize-hard-swish", &model(14, "h0 = HardSigmoid (x) y = Mul (x, h0)"));
        let other = "s = Add (x, h) c = Clip (s, zero, six) m = Mul (x, c) y = Div (m, six)";
        misses("recognize-hard-swish", &model(14, other));
    }

    #[test]
    fn hard_sigmoid() {
        let rule = "recognize-hard-sigmoid";
        let line = "m = Mul (x, a) s = Add (h, m) y = Clip (s, zero, one)";
        assert_eq!(fires(rule, &model(13, line)), "Mul HardSigmoid");
        let relu6 = "s = Add (x, three) c = Clip (s, zero, six) y = Div (c, six)";
        assert_eq!(fires(rule, &model(13, relu6)), "Mul HardSigmoid");
        misses(rule, &model(13, "s = Add (x, three) c = Clip (s, zero, six) y = Mul (c, a)"));
        misses(rule, &model(13, "s = Add (x, three) y = Clip (s, three, six)"));
    }
}
