//! Normalisations that exporters write out in parts.
//!
//! - `LayerNormalization(x, γ, β) = (x − μ)/√(σ² + ε)·γ + β`, with mean and variance over the trailing axes
//!   (Ba et al. 2016; ONNX, since 17);
//! - `RMSNormalization(x, γ) = x/√(mean(x²) + ε)·γ` (Zhang and Sennrich 2019; ONNX, since 23).
//!
//! As one operator they keep their parts out of the planner's hands: a product with `γ` that ran in integers
//! would stop the runtime from fusing the rest.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, OpSpec, Tensor};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// `(x − μ)/√(σ² + ε)` is LayerNormalization with `γ = 1`, if both means are over the same trailing axes. A
    /// model of operator set 13 to 16 is raised to 17 for it.
    "recognize-layer-normalization":
        "m = ReduceMean (x, a!?); d = Sub (x, m); p = Pow (d, two!); v = ReduceMean (p, a2!?); e = Add (v, eps!); s = Sqrt (e); y = Div (d, s)",
        "m = ReduceMean (x, a!?); d = Sub (x, m); p = Mul (d, d); v = ReduceMean (p, a2!?); e = Add (v, eps!); s = Sqrt (e); y = Div (d, s)"
        => "y = LayerNormalization (x, gamma')", recognize_layer_normalization;

    /// `x/√(mean(x²) + ε)` is RMSNormalization with `γ = 1`. It needs operator set 23; before that, the form in
    /// parts is what runtimes fuse.
    "recognize-rms-normalization":
        "p = Pow (x, two!); v = ReduceMean (p, a!?); e = Add (v, eps!); s = Sqrt (e); y = Div (x, s)",
        "p = Mul (x, x); v = ReduceMean (p, a!?); e = Add (v, eps!); s = Sqrt (e); y = Div (x, s)",
        "p = Pow (x, two!); v = ReduceMean (p, a!?); e = Add (v, eps!); s = Sqrt (e); r = Reciprocal (s); y = Mul (x, r)",
        "p = Mul (x, x); v = ReduceMean (p, a!?); e = Add (v, eps!); s = Sqrt (e); r = Reciprocal (s); y = Mul (x, r)"
        => "y = RMSNormalization (x, gamma')", recognize_rms_normalization;

    /// `LN(x, γ, β)·k = LN(x, γ·k, β·k)`, where `k` is one number for each normalised element; RMSNormalization
    /// likewise.
    "fold-scale-into-normalization":
        "n = LayerNormalization|RMSNormalization (x, gamma!, beta!?); y = Mul (n, k!)"
        => "y = LayerNormalization|RMSNormalization (x, gamma', beta')", fold_scale_into_normalization;

    /// `LN(x, γ, β) + k = LN(x, γ, β + k)`.
    "fold-shift-into-normalization":
        "n = LayerNormalization (x, gamma!, beta!?); y = Add (n, k!)"
        => "y = LayerNormalization (x, gamma, beta')", fold_shift_into_normalization;
};

fn recognize_layer_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let site = site(rw, &[("m", "a"), ("v", "a2")])?;
    rw.raise_opset(17)?;
    site.replace(rw, "LayerNormalization");
    Ok(())
}

fn recognize_rms_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let site = site(rw, &[("v", "a")])?;
    if rw.model.onnx_opset() < 23 {
        return Err("RMSNormalization needs operator set 23".into());
    }
    site.replace(rw, "RMSNormalization");
    Ok(())
}

fn fold_scale_into_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let k = over_axes(rw, "k")?.f32s().into_owned();
    let scaled = |t: &Tensor| {
        let product: Vec<f32> = t.f32s().iter().zip(&k).map(|(x, k)| x * k).collect();
        Tensor::from_f32(t.dims(), &product)
    };
    let gamma = scaled(&*parameter(rw, "gamma")?);
    let beta = if rw.has("beta") { Some(scaled(&*parameter(rw, "beta")?)) } else { None };
    replace_parameters(rw, Some(gamma), beta);
    Ok(())
}

fn fold_shift_into_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let k = over_axes(rw, "k")?;
    let beta = match rw.has("beta") {
        false => k,
        true => {
            let beta = parameter(rw, "beta")?;
            let sum: Vec<f32> = beta.f32s().iter().zip(k.f32s().iter()).map(|(x, k)| x + k).collect();
            Tensor::from_f32(beta.dims(), &sum)
        }
    };
    replace_parameters(rw, None, Some(beta));
    Ok(())
}

/// Replaces the root by the normalisation `n` with other parameters; `None` for the one it has.
fn replace_parameters(rw: &mut Rewrite<'_, '_>, gamma: Option<Tensor>, beta: Option<Tensor>) {
    let op = rw.op("n").clone();
    let gamma = gamma.map_or(rw.v("gamma"), |t| rw.add_const("gamma", t));
    let beta = match beta {
        Some(t) if rw.has("beta") => Some(rw.add_const("beta", t)),
        Some(t) => Some(rw.add_const("k", t)),
        None => rw.opt("beta"),
    };
    let operands = [Some(rw.v("x")), Some(gamma)].into_iter().chain(beta.map(Some));
    rw.replace_root(OpSpec::from_op(op).operands(operands));
}

/// A parameter of a normalisation; a miss unless it is float32 with one number for each normalised element.
fn parameter(rw: &Rewrite<'_, '_>, name: &str) -> Result<std::sync::Arc<Tensor>, Miss> {
    let (t, gamma) = (rw.konst(name)?, rw.konst("gamma")?);
    if t.dtype() != DType::Float || t.len() != gamma.len() {
        return Err("weights that are not float32 are left as they are".into());
    }
    Ok(t)
}

/// What a normalisation in parts normalises over.
struct Site {
    /// The first of the trailing axes.
    axis: usize,
    /// Their lengths.
    lengths: Vec<usize>,
    epsilon: f32,
}

impl Site {
    fn replace(&self, rw: &mut Rewrite<'_, '_>, op_type: &str) {
        let ones = Tensor::from_f32(&self.lengths, &vec![1.0; self.lengths.iter().product()]);
        let name = format!("{}_scale", rw.g().value(rw.v("y")).name());
        let operands = [rw.v("x"), rw.g_mut().add_const(&name, ones)];
        let spec = OpSpec::new(op_type).name(rw.op("y").name.clone()).attr("axis", self.axis as i64);
        rw.replace_root(spec.attr("epsilon", self.epsilon).operands(operands));
    }
}

/// The normalisation whose means are the operators of the given results, over axes that are attributes or (of
/// this variable) operands.
fn site(rw: &Rewrite<'_, '_>, means: &[(&str, &str)]) -> Result<Site, Miss> {
    rw.expect_float("x")?;
    if rw.has("two") && rw.float("two")? != 2.0 {
        return Err("the exponent is not 2".into());
    }
    let epsilon = rw.float("eps")? as f32;
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        return Err("`eps` is not a small positive number".into());
    }
    let shape = rw.fact("x").shape.ok_or("the rank is unknown")?;
    let mut first = None;
    for (mean, axes) in means {
        let op = rw.op(mean);
        if op.int("keepdims") == Some(0) {
            return Err("a mean drops its axes".into());
        }
        let axes = match (rw.has(axes), op.ints("axes")) {
            (true, _) => rw.konst(axes)?.to_i64s().ok_or("axes that are no integers")?,
            (false, Some(axes)) => axes.to_vec(),
            (false, None) => return Err("a mean over all axes".into()),
        };
        let axes: Option<Vec<usize>> = axes.iter().map(|a| resolve_axis(*a, shape.len())).collect();
        let mut axes = axes.ok_or("an axis does not exist")?;
        axes.sort_unstable();
        let trailing = axes.first().is_some_and(|f| axes.iter().copied().eq(*f..shape.len()));
        if !trailing || first.is_some_and(|f| f != axes[0]) {
            return Err("the means are not over the same trailing axes".into());
        }
        first = Some(axes[0]);
    }
    let axis = first.ok_or("there is no mean")?;
    let lengths = shape[axis..].iter().map(|d| usize::try_from(d.known()?).ok()).collect::<Option<_>>();
    let lengths: Vec<usize> = lengths.ok_or("a normalised length is unknown")?;
    Ok(Site { axis, lengths, epsilon })
}

/// A float32 constant in the shape of `gamma`, of the same length.
fn over_axes(rw: &Rewrite<'_, '_>, k: &str) -> Result<Tensor, Miss> {
    let (t, gamma) = (rw.konst(k)?, rw.konst("gamma")?);
    if [&t, &gamma].iter().any(|t| t.dtype() != DType::Float) {
        return Err("weights that are not float32 are left as they are".into());
    }
    rw.expect_no_growth("n", k)?;
    let lengths = gamma.dims();
    let own: Vec<usize> = t.dims().iter().copied().skip_while(|d| *d == 1).collect();
    let wanted: Vec<usize> = lengths.iter().copied().skip_while(|d| *d == 1).collect();
    match (t.len(), own == wanted) {
        (_, true) => Ok(Tensor::from_f32(lengths, &t.f32s())),
        (1, _) => Ok(Tensor::from_f32(lengths, &vec![t.to_f32s()[0]; gamma.len()])),
        _ => Err(format!("`{k}` is not one number for each normalised element").into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{apply, fires, misses};

    fn model(opset: i64, body: &str) -> String {
        let r = "= [\"location\": \"gen:randn\"]";
        format!(
            "<ir_version: 8, opset_import: [\"\" : {opset}]> m (float[N,3,4] x0) => (float[] y) \
             <float[4] g {r}, float[4] b {r}, float[1,1,4] h {r}, float[3,1] tall {r}, float two = {{2.0}}, \
             float[1] eps = {{0.01}}, float three = {{3.0}}> {{ x = Exp (x0) {body} }}"
        )
    }

    const HEAD: &str = "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m)";
    const TAIL: &str = "v = ReduceMean <axes = [2]> (p) e = Add (eps, v) s = Sqrt (e) y = Div (d, s)";

    #[test]
    fn layer_normalization_in_its_spellings() {
        let rule = "recognize-layer-normalization";
        for square in ["p = Pow (d, two)", "p = Mul (d, d)"] {
            for opset in [13, 17] {
                let text = model(opset, &format!("{HEAD} {square} {TAIL}"));
                assert_eq!(fires(rule, &text), "Exp LayerNormalization", "{square}");
                assert_eq!(apply(rule, &text).0.onnx_opset(), 17);
            }
        }
        let all = format!("{HEAD} p = Pow (d, two) {TAIL}");
        for (from, to, why) in
            [("(d, two)", "(d, three)", "exponent"), ("axes = [2]", "axes = [1]", "trailing")]
        {
            let why_not = misses(rule, &model(17, &all.replace(from, to)));
            assert!(why_not.contains(why), "{why_not}");
        }
    }

    #[test]
    fn parameters_take_in_what_follows() {
        let (scale, shift) = ("fold-scale-into-normalization", "fold-shift-into-normalization");
        for (rule, body) in [
            (scale, "n = LayerNormalization (x, g) y = Mul (h, n)"),
            (scale, "n = LayerNormalization (x, g, b) y = Mul (n, two)"),
            (shift, "n = LayerNormalization (x, g) y = Add (n, b)"),
            (shift, "n = LayerNormalization (x, g, b) y = Add (n, h)"),
        ] {
            assert_eq!(fires(rule, &model(17, body)), "Exp LayerNormalization", "{body}");
        }
        let why = misses(scale, &model(17, "n = LayerNormalization (x, g) y = Mul (n, tall)"));
        assert!(why.contains("normalised element"), "{why}");
    }

    #[test]
    fn rms_normalization_needs_a_new_operator_set() {
        let rule = "recognize-rms-normalization";
        let body = format!("p = Pow (x, two) {TAIL}").replace("(d, s)", "(x, s)");
        assert!(misses(rule, &model(17, &body)).contains("23"));
        // Axes are an operand since 18.
        let body = body.replace("ReduceMean <axes = [2]> (p)", "ReduceMean (p, last)");
        let text = model(23, &body).replace("float two", "int64[1] last = {-1}, float two");
        assert_eq!(fires(rule, &text), "Exp RMSNormalization");
    }
}
