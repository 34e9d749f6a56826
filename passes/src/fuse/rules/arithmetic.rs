//! Elementwise arithmetic with scalar constants.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{OpSpec, Tensor};

pub(super) const RULES: &[Rule] = rules! {
    /// `x·1 = x/1 = x^1 = x`, `x + 0 = x − 0 = x`.
    "drop-neutral-arithmetic":
        "y = Mul|Add (x, k!)",
        "y = Div|Sub|Pow (x, k!)"
        => "y = x", drop_neutral_arithmetic;

    /// `(x·a)·b = x·(a·b)`, with `1/a` where the operator divides.
    "merge-scales":
        "m = Mul|Div (x, a!); y = Mul|Div (m, b!)"
        => "y = Mul (x, k')", merge_scales;

    /// `(x + a) + b = x + (a + b)`, with `−a` where the operator subtracts.
    "merge-shifts":
        "m = Add|Sub (x, a!); y = Add|Sub (m, b!)"
        => "y = Add (x, k')", merge_shifts;

    /// A Sum of two is an Add, for which runtimes have integer kernels.
    "sum-to-add":
        "y = Sum (a, b)"
        => "y = Add (a, b)", sum_to_add;

    /// `x / 2ⁿ = x · 2⁻ⁿ`, exactly. Runtimes multiply in integers, but do not divide.
    "divide-by-power-of-two":
        "y = Div (x, k!)"
        => "y = Mul (x, k')", divide_by_power_of_two;

    /// `x^½ = √x`, `x^−1 = 1/x`. Powers are taken one by one: in ONNX Runtime a root is twelve times as fast.
    "power-to-root":
        "y = Pow (x, k!)"
        => "y = Sqrt|Reciprocal (x)", power_to_root;
};

fn drop_neutral_arithmetic(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let k = rw.konst("k")?;
    let neutral = match rw.op("y").op_type.as_str() {
        "Add" | "Sub" => 0.0,
        _ => 1.0,
    };
    if k.is_empty() || k.as_strings().is_some() || k.to_f64s().iter().any(|x| *x != neutral) {
        return Err(format!("not every element is {neutral}").into());
    }
    rw.expect_no_growth("x", "k")?;
    rw.replace_root_by(rw.v("x"))
}

fn power_to_root(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.expect_float("x")?;
    rw.expect_no_growth("x", "k")?;
    let op = match rw.scalar("k")? {
        0.5 => "Sqrt",
        -1.0 => "Reciprocal",
        k => return Err(format!("{k} is neither 1/2 nor -1").into()),
    };
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    rw.replace_root(OpSpec::new(op).name(name).operands([x]));
    Ok(())
}

fn sum_to_add(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (operands, name) = ([rw.v("a"), rw.v("b")], rw.op("y").name.clone());
    rw.replace_root(OpSpec::new("Add").name(name).operands(operands));
    Ok(())
}

fn merge_scales(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let factor = rw.factor("m", "a")? * rw.factor("y", "b")?;
    merge(rw, "Mul", factor)
}

fn merge_shifts(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let sign = |op: &str| if rw.op(op).op_type == "Sub" { -1.0 } else { 1.0 };
    let sum = sign("m") * rw.float("a")? + sign("y") * rw.float("b")?;
    merge(rw, "Add", sum)
}

/// Replaces two operators with scalar constants `a` and `b` by one. The constant has the higher rank of
/// the two, so that the result does.
fn merge(rw: &mut Rewrite<'_, '_>, op_type: &str, k: f64) -> Result<(), Miss> {
    let k = k as f32;
    // A product that leaves the range of normal numbers is not what two steps compute.
    if !k.is_finite() || (op_type == "Mul" && !k.is_normal()) {
        return Err("the merged constant is out of range".into());
    }
    let rank = rw.konst("a")?.rank().max(rw.konst("b")?.rank());
    let k = rw.add_const("b", Tensor::from_f32(&vec![1; rank], &[k]));
    let x = rw.v("x");
    let name = rw.op("y").name.clone();
    rw.replace_root(OpSpec::new(op_type).name(name).operands([x, k]));
    Ok(())
}

fn divide_by_power_of_two(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let k = rw.float("k")?;
    let inverse = (1.0 / k) as f32;
    let mantissa = (k as f32).to_bits() & 0x007f_ffff;
    if mantissa != 0 || !(k as f32).is_normal() || !inverse.is_normal() {
        return Err("the divisor is not a power of two".into());
    }
    let dims = rw.konst("k")?.dims().to_vec();
    let k = rw.add_const("k", Tensor::from_f32(&dims, &[inverse]));
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    rw.replace_root(OpSpec::new("Mul").name(name).operands([x, k]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3] x) => (float[] y) \
             <float one = {{1.0}}, float[1,3] ones = {{1, 1, 1}}, float[2,1,1] tall = {{1, 1}}, float[1] zero = {{0.0}}, \
             float a = {{3.0}}, float[1,1] b = {{4.0}}, float tiny = {{1e-30}}, float half = {{0.5}}, float[1] minus = {{-1.0}}, float[1,1,1] deep = {{1.0}}> {{ {body} }}"
        )
    }

    #[test]
    fn neutral_constants_disappear() {
        let rule = "drop-neutral-arithmetic";
        for k in [
            "Mul (one, r)",
            "Mul (r, ones)",
            "Div (r, one)",
            "Pow (r, one)",
            "Add (zero, r)",
            "Sub (r, zero)",
        ] {
            assert_eq!(fires(rule, &model(&format!("r = Relu (x) s = {k} y = Exp (s)"))), "Relu Exp");
        }
        for k in ["Mul (r, tall)", "Mul (r, deep)", "Mul (r, zero)", "Add (r, one)"] {
            misses(rule, &model(&format!("r = Relu (x) s = {k} y = Exp (s)")));
        }
        misses(rule, &model("y = Sub (zero, x)"));
    }

    #[test]
    fn an_output_keeps_its_name() {
        assert_eq!(fires("drop-neutral-arithmetic", &model("r = Relu (x) y = Mul (r, one)")), "Relu");
        let why = misses("drop-neutral-arithmetic", &model("y = Mul (x, one)"));
        assert!(why.contains("output"), "{why}");
    }

    #[test]
    fn sums_of_two_are_additions() {
        assert_eq!(fires("sum-to-add", &model("r = Relu (x) y = Sum (r, ones)")), "Relu Add");
        misses("sum-to-add", &model("r = Relu (x) y = Sum (r, x, ones)"));
    }

    #[test]
    fn powers_are_roots_and_reciprocals() {
        let rule = "power-to-root";
        assert_eq!(fires(rule, &model("r = Relu (x) y = Pow (r, half)")), "Relu Sqrt");
        assert_eq!(fires(rule, &model("e = Exp (x) y = Pow (e, minus)")), "Exp Reciprocal");
        assert!(misses(rule, &model("y = Pow (x, a)")).contains("neither"));
    }

    #[test]
    fn chains_merge() {
        assert_eq!(fires("merge-scales", &model("m = Mul (x, a) y = Div (m, b)")), "Mul");
        assert_eq!(fires("merge-scales", &model("m = Div (x, deep) n = Mul (b, m) y = Mul (n, a)")), "Mul");
        assert_eq!(fires("merge-shifts", &model("m = Sub (x, a) y = Add (b, m)")), "Add");
        misses("merge-scales", &model("m = Mul (x, tiny) y = Mul (m, tiny)"));
        misses("merge-scales", &model("m = Mul (x, a) z = Exp (m) w = Mul (m, b) y = Add (z, w)"));
        misses("merge-scales", &model("m = Mul (x, ones) y = Mul (m, a)"));
        misses("merge-scales", &model("m = Mul (x, a) y = Div (b, m)"));
    }

    #[test]
    fn powers_of_two_divide_exactly() {
        assert_eq!(fires("divide-by-power-of-two", &model("y = Div (x, b)")), "Mul");
        misses("divide-by-power-of-two", &model("y = Div (x, a)"));
        misses("divide-by-power-of-two", &model("y = Div (x, zero)"));
    }
}
