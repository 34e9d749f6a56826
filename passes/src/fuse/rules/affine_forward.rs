//! Affine operators before a contraction, folded into its weight and bias.
//!
//! A contraction of `x·m + a`, with `m` and `a` constant along every axis but the input channels, is the
//! contraction with `W' = W·m` (along the input-channel axis) and `b' = b + Σ W·a`. Zero padding happens
//! after the shift in one and before it in the other: with a shift, the rules ask for no padding.

use super::super::{Miss, Rewrite, Rule};
use super::affine::{add_bias, batch_normalization, group};
use super::gelu::ends_gelu;
use squint_ir::{DType, Op, OpSpec, Tensor};
use squint_ops::kernel::strides;

pub(super) const RULES: &[Rule] = rules! {
    /// `W * (m·x + a) + b = (W·m) * x + (b + Σ W·a)`, with `m = γ/√(σ²+ε)` and `a = β − μ·m`.
    "fold-batch-normalization-forward":
        "n = BatchNormalization (x, gamma!, beta!, mean!, var!); y = Conv|ConvTranspose|Gemm (n, w!, b!?)"
        => "y = Conv|ConvTranspose|Gemm (x, w', b')", fold_batch_normalization_forward;

    /// `W * (k·x) + b = (k·W) * x + b`, with one `k`, or one for each input channel; a quotient likewise with
    /// `1/k`. The half at the end of a Gelu stays, as runtimes know the function by it.
    "fold-scale-forward":
        "s = Mul|Div (x, k!); y = Conv|ConvTranspose|Gemm|MatMul (s, w!, b?)"
        => "y = Conv|ConvTranspose|Gemm|MatMul (x, w', b)", fold_scale_forward;

    /// `W * (x + k) + b = W * x + (b + Σ W·k)`, unless zeros are padded after the shift.
    "fold-shift-forward":
        "s = Add|Sub (x, k!); y = Conv|Gemm (s, w!, b!?)"
        => "y = Conv|Gemm (x, w, b')", fold_shift_forward;
};

fn fold_batch_normalization_forward(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (m, a) = batch_normalization(rw, "n")?;
    fold_before_contraction(rw, &m, &a)
}

fn fold_scale_forward(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if ends_gelu(rw.g(), rw.v("x")) {
        return Err("it is the half of a Gelu".into());
    }
    let m = per_input_channel(rw, "k")?;
    let divides = rw.op("s").op_type == "Div";
    let m: Vec<f64> = if divides { m.iter().map(|k| 1.0 / k).collect() } else { m };
    fold_before_contraction(rw, &m, &[0.0])
}

fn fold_shift_forward(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let a = per_input_channel(rw, "k")?;
    let subtracts = rw.op("s").op_type == "Sub";
    let a: Vec<f64> = if subtracts { a.iter().map(|k| -k).collect() } else { a };
    fold_before_contraction(rw, &[1.0], &a)
}

/// The elements of a constant that is broadcast over the data `x` of the contraction `y`: one, or one for
/// each input channel. A miss if it varies along another axis or enlarges the data.
fn per_input_channel(rw: &Rewrite<'_, '_>, k: &str) -> Result<Vec<f64>, Miss> {
    rw.expect_no_growth("x", k)?;
    let k = rw.konst(k)?;
    if k.dtype() != DType::Float {
        return Err("a constant that is not float32".into());
    }
    // The channel axis counted from the back.
    let channel = match rw.op("y").op_type.as_str() {
        "Conv" | "ConvTranspose" => rw.konst("w")?.rank().saturating_sub(1),
        _ => 1,
    };
    if k.dims().iter().rev().enumerate().any(|(i, n)| *n != 1 && i + 1 != channel) {
        return Err("the constant varies along another axis than the input channels".into());
    }
    Ok(k.to_f64s())
}

/// Replaces the root, a contraction of operands `w` and `b`, by one that reads `x`, whose input channels
/// are scaled by `m` and shifted by `a` (each of one element, or one for each input channel).
fn fold_before_contraction(rw: &mut Rewrite<'_, '_>, m: &[f64], a: &[f64]) -> Result<(), Miss> {
    let op = rw.op("y").clone();
    let w = rw.konst("w")?;
    if w.dtype() != DType::Float {
        return Err("weights that are not float32 are left as they are".into());
    }
    if m.iter().chain(a).any(|x| !x.is_finite()) {
        return Err("a factor is not finite".into());
    }
    if m.len() != 1 {
        rw.expect_free_weight("w")?;
    }
    let (inputs, outputs) = channel_axes(&op, w.rank())?;
    // The weight of a grouped Conv has the input channels of one group on its axis.
    let groups = if op.op_type == "Conv" { group(&op) } else { 1 };
    let channels = w.dims()[inputs].checked_mul(groups).ok_or("`group` is too large")?;
    if w.dims()[outputs] % groups != 0 || [m.len(), a.len()].iter().any(|n| *n != 1 && *n != channels) {
        return Err(format!("{} factors for {channels} input channels", m.len().max(a.len())).into());
    }
    let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
    let shifts = a.iter().any(|a| *a != 0.0);
    let out_channels = w.dims()[outputs];
    let bias = if shifts { Some(old_bias(rw, &op, out_channels)?) } else { None };
    let stride = strides(w.dims());
    let (data, mut sums) = (w.f32s(), vec![0.0f64; out_channels]);
    let per_group = (out_channels / groups).max(1);
    let mut weights = Vec::with_capacity(data.len());
    for (i, x) in data.iter().enumerate() {
        let out = i / stride[outputs] % out_channels;
        let input = out / per_group * w.dims()[inputs] + i / stride[inputs] % w.dims()[inputs];
        sums[out] += f64::from(*x) * at(a, input);
        weights.push((f64::from(*x) * at(m, input)) as f32);
    }
    let old = rw.v("w");
    let w = rw.add_const("w", Tensor::from_f32(w.dims(), &weights));
    rw.scaled_weight(old, w, inputs, m);
    let b = match bias {
        None => rw.opt("b"),
        Some(old) => {
            // Gemm scales the product, and with it the shift, but not the bias.
            let alpha = if op.op_type == "Gemm" { f64::from(op.float("alpha").unwrap_or(1.0)) } else { 1.0 };
            let bias: Vec<f32> = old.iter().zip(&sums).map(|(b, s)| (b + alpha * s) as f32).collect();
            Some(add_bias(rw, &bias))
        }
    };
    let mut op = op;
    if shifts {
        op.remove_attr("beta");
    }
    let x = rw.v("x");
    let operands = if b.is_some() { vec![Some(x), Some(w), b] } else { vec![Some(x), Some(w)] };
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// The axes of a weight that count input and output channels.
fn channel_axes(op: &Op, rank: usize) -> Result<(usize, usize), Miss> {
    match op.op_type.as_str() {
        "Conv" if rank >= 2 => Ok((1, 0)),
        "ConvTranspose" if rank >= 2 => Ok((0, 1)),
        "Gemm" if rank == 2 && op.int("transA").unwrap_or(0) == 0 => {
            Ok(if op.int("transB").unwrap_or(0) == 0 { (0, 1) } else { (1, 0) })
        }
        "MatMul" if rank >= 2 => Ok((rank - 2, rank - 1)),
        _ => Err("the weight has no axis of input channels".into()),
    }
}

/// The bias for each output channel, where a shift can be folded.
fn old_bias(rw: &Rewrite<'_, '_>, op: &Op, channels: usize) -> Result<Vec<f64>, Miss> {
    let pads = op.ints("pads").is_some_and(|p| p.iter().any(|p| *p != 0));
    let same = !matches!(op.string("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID" | "");
    let factor = match op.op_type.as_str() {
        "Conv" if pads || same => return Err("padding comes after the shift".into()),
        "Conv" => 1.0,
        "Gemm" => f64::from(op.float("beta").unwrap_or(1.0)),
        // At the border of a ConvTranspose fewer products are summed.
        _ => return Err("a shift before it is not a bias".into()),
    };
    if !rw.has("b") {
        return Ok(vec![0.0; channels]);
    }
    let b = rw.konst("b")?;
    match (b.dtype(), b.len()) {
        (DType::Float, 1) => Ok(vec![b.to_f64s()[0] * factor; channels]),
        (DType::Float, n) if n == channels && b.dims().last() == Some(&n) => {
            Ok(b.to_f64s().into_iter().map(|b| b * factor).collect())
        }
        _ => Err("its bias is not one number per output channel".into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(input: &str, output: &str, w: &str, b: &str, body: &str) -> String {
        let r = "= [\"location\": \"gen:randn\"]";
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x) => (float{output} y) \
             <float{w} w {r}, float{b} b {r}, float[4] g {r}, float[4] h {r}, float[4] k {r}, float z = {{3.5}}, \
             float[4] zero = {{0, 0, 0, 0}}, float[4] var = {{0.5, 1.0, 2.0, 4.0}}> {{ {body} }}"
        )
    }

    const BN: &str = "n = BatchNormalization (x, g, h, k, var)";

    #[test]
    fn batch_normalization_before_an_unpadded_contraction() {
        let rule = "fold-batch-normalization-forward";
        let body = format!("{BN} y = Conv (n, w, b)");
        assert_eq!(fires(rule, &model("[1,4,4,4]", "[1,6,2,2]", "[6,4,3,3]", "[6]", &body)), "Conv");
        let body = format!("{BN} y = Conv <group = 2> (n, w)");
        assert_eq!(fires(rule, &model("[1,4,4,4]", "[1,6,2,2]", "[6,2,3,3]", "[6]", &body)), "Conv");
        for (w, t) in [("[4,6]", 0), ("[6,4]", 1)] {
            let body = format!("{BN} y = Gemm <transB = {t}, alpha = 0.5, beta = 3.0> (n, w, b)");
            assert_eq!(fires(rule, &model("[2,4]", "[2,6]", w, "[6]", &body)), "Gemm");
        }
    }

    #[test]
    fn padding_refuses_a_shift_but_not_a_scale() {
        let rule = "fold-batch-normalization-forward";
        let conv = "y = Conv <pads = [1,1,1,1]> (n, w, b)";
        let m = model("[1,4,3,3]", "[1,6,3,3]", "[6,4,3,3]", "[6]", &format!("{BN} {conv}"));
        assert!(misses(rule, &m).contains("padding"));
        let m = m.replace("(x, g, h, k, var)", "(x, g, zero, zero, var)");
        assert_eq!(fires(rule, &m), "Conv");
        let up = format!("{BN} y = ConvTranspose <group = 2> (n, w)");
        let m = model("[1,4,3,3]", "[1,6,4,4]", "[4,3,2,2]", "[6]", &up);
        assert!(misses(rule, &m).contains("not a bias"));
        assert_eq!(fires(rule, &m.replace("(x, g, h, k, var)", "(x, g, zero, zero, var)")), "ConvTranspose");
    }

    #[test]
    fn scalars_before_contractions() {
        let conv = "s = Div (x, z) y = Conv <pads = [1,1,1,1]> (s, w, b)";
        let m = model("[1,4,3,3]", "[1,6,3,3]", "[6,4,3,3]", "[6]", conv);
        assert_eq!(fires("fold-scale-forward", &m), "Conv");
        let m = model("[2,3,4]", "[2,3,6]", "[4,6]", "[6]", "s = Mul (z, x) y = MatMul (s, w)");
        assert_eq!(fires("fold-scale-forward", &m), "MatMul");
        let m = model("[2,4]", "[2,6]", "[4,6]", "[6]", "s = Mul (x, g) y = MatMul (s, w)");
        assert_eq!(fires("fold-scale-forward", &m), "MatMul");
        let m = model("[1,4,3,4]", "[1,6,1,2]", "[6,4,3,3]", "[6]", "s = Mul (x, g) y = Conv (s, w)");
        assert!(misses("fold-scale-forward", &m).contains("another axis"));
        let gelu = "e = Erf (x) a = Add (e, g) m = Mul (x, a) s = Mul (m, z) y = MatMul (s, w)";
        assert!(
            misses("fold-scale-forward", &model("[2,4]", "[2,6]", "[4,6]", "[6]", gelu)).contains("Gelu")
        );
    }

    #[test]
    fn shifts_before_contractions() {
        let rule = "fold-shift-forward";
        let m = model("[2,4]", "[2,6]", "[4,6]", "[6]", "s = Sub (x, g) y = Gemm (s, w, b)");
        assert_eq!(fires(rule, &m), "Gemm");
        let m = model("[1,4,3,3]", "[1,6,1,1]", "[6,4,3,3]", "[6]", "s = Add (z, x) y = Conv (s, w)");
        assert_eq!(fires(rule, &m), "Conv");
        let m = m.replace("Conv (s, w)", "Conv <pads = [1,1,1,1]> (s, w)");
        assert!(misses(rule, &m).contains("padding"));
    }
}
