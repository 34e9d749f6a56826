//! Per-channel affine operators after a contraction, folded into its weight and bias.
//!
//! A contraction followed by `y ↦ y·m + a`, with `m` and `a` constant along every axis but the output
//! channels, is the contraction with `W' = W·m` (along the output-channel axis) and `b' = b·m + a`.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Op, OpSpec, Tensor};
use squint_ops::{Port, row};

pub(super) const RULES: &[Rule] = rules! {
    /// `m = γ/√(σ²+ε)`, `a = β − μ·m` (Ioffe and Szegedy 2015, at inference).
    "fold-batch-normalization":
        "c = Conv|ConvTranspose|Gemm (x, w!, b!?); y = BatchNormalization (c, gamma!, beta!, mean!, var!)"
        => "y = Conv|ConvTranspose|Gemm (x, w', b')", fold_batch_normalization;

    /// `BN([u, v, …]) = [BN(u), BN(v), …]` along the channels, each folded into the contraction that makes it.
    "fold-batch-normalization-through-concat":
        "c = Concat (u, ..); y = BatchNormalization (c, gamma!, beta!, mean!, var!)"
        => "u' = Conv|ConvTranspose|Gemm (x, w', b'); y = Concat (u', ..)", fold_batch_normalization_through_concat;

    /// `(W*x + b)·k = (W·k)*x + b·k`; a quotient likewise with `1/k`, a negation with `-1`.
    "fold-scale":
        "c = Conv|ConvTranspose|Gemm|MatMul (x, w!, b!?); y = Mul|Div (c, k!)",
        "c = Conv|ConvTranspose|Gemm|MatMul (x, w!, b!?); y = Neg (c)"
        => "y = Conv|ConvTranspose|Gemm|MatMul (x, w', b')", fold_scale;

    /// `(W*x + b) + k = W*x + (b + k)`, `(W*x + b) − k = W*x + (b − k)`, `k − (W*x + b) = (−W)*x + (k − b)`.
    "fold-shift":
        "c = Conv|ConvTranspose|Gemm (x, w!, b!?); y = Add|Sub (c, k!)",
        "c = Conv|ConvTranspose|Gemm (x, w!, b!?); y = Sub (k!, c)"
        => "y = Conv|ConvTranspose|Gemm (x, w', b')", fold_shift;
};

fn fold_batch_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (m, a) = batch_normalization(rw, "y")?;
    fold_into_contraction(rw, "c", &m, &a)
}

fn fold_batch_normalization_through_concat(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (m, a) = batch_normalization(rw, "y")?;
    let g = rw.g();
    let concat = rw.op_id("c");
    let rank = rw.fact("c").rank().ok_or("the rank is unknown")?;
    let axis = g.op(concat).int("axis").and_then(|a| squint_ops::kernel::resolve_axis(a, rank));
    if axis != Some(1) {
        return Err("it does not join channels".into());
    }
    let mut scaled = Vec::new();
    let mut first = 0;
    for v in g.operands(concat).into_iter().flatten() {
        let made_here = || Miss(format!("`{}` is not made by a contraction for it alone", g.value(v).name()));
        g.only_use(v).ok_or_else(made_here)?;
        let (id, _) = g.producer(v).ok_or_else(made_here)?;
        let op = g.op(id);
        if !(op.is_onnx() && matches!(op.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm")) {
            return Err(made_here());
        }
        let konst =
            |slot| g.operand(id, slot).map(|v| g.konst(v).filter(|_| !g.is_input(v)).ok_or_else(made_here));
        let (w, b) = (konst(1).ok_or_else(made_here)??, konst(2).transpose()?);
        let axis = if op.op_type == "Conv" { 0 } else { 1 };
        let channels = match op.op_type.as_str() {
            "Gemm" => w.dims().get(usize::from(op.int("transB").unwrap_or(0) == 0)).copied(),
            "ConvTranspose" => w.dims().get(axis).and_then(|n| n.checked_mul(group(op))),
            _ => w.dims().get(axis).copied(),
        };
        let last = channels.and_then(|n| n.checked_add(first)).filter(|n| *n <= m.len());
        let last = last.ok_or("its parameters differ in length from the channels")?;
        let own = scale_outputs(op, w, b.map(|b| &**b), &m[first..last], &a[first..last])?;
        scaled.push((id, own, first..last));
        first = last;
    }
    if first != m.len() {
        return Err("its parameters differ in length from the channels".into());
    }
    rw.replace_root_by(rw.v("c"))?;
    for (id, Scaled { op, weight, bias }, channels) in scaled {
        let axis = output_axis(&op, weight.rank())?;
        let old = rw.g().operand(id, 1);
        let g = rw.g_mut();
        let name = |slot| g.operand(id, slot).map(|v| g.value(v).name().to_owned());
        let (w, b) = (name(1).unwrap_or_default(), name(2));
        let b = b.unwrap_or_else(|| format!("{w}_bias"));
        let weight = g.add_const(&w, weight);
        g.set_operand(id, 1, Some(weight));
        if let Some(bias) = bias {
            let bias = g.add_const(&b, Tensor::from_f32(&[bias.len()], &bias));
            g.set_operand(id, 2, Some(bias));
        }
        g.op_mut(id).attributes = op.attributes;
        if let Some(old) = old {
            rw.scaled_weight(old, weight, axis, &m[channels]);
        }
        rw.touch(id);
    }
    Ok(())
}

fn fold_scale(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if !rw.has("k") {
        return fold_into_contraction(rw, "c", &[-1.0], &[0.0]);
    }
    let k = per_channel(rw, "c", "k")?;
    let m: Vec<f64> = match rw.op("y").op_type.as_str() {
        "Div" => k.iter().map(|k| 1.0 / k).collect(),
        _ => k,
    };
    fold_into_contraction(rw, "c", &m, &[0.0])
}

fn fold_shift(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let k = per_channel(rw, "c", "k")?;
    let subtracts = rw.op("y").op_type == "Sub";
    let from_constant = subtracts && rw.g().operand(rw.op_id("y"), 0) == Some(rw.v("k"));
    match (subtracts, from_constant) {
        (false, _) => fold_into_contraction(rw, "c", &[1.0], &k),
        (true, false) => fold_into_contraction(rw, "c", &[1.0], &k.iter().map(|k| -k).collect::<Vec<_>>()),
        (true, true) => fold_into_contraction(rw, "c", &[-1.0], &k),
    }
}

/// The factor and shift of each channel of a BatchNormalization whose operands are bound to `gamma`,
/// `beta`, `mean` and `var`.
pub(super) fn batch_normalization(rw: &Rewrite<'_, '_>, bn: &str) -> Result<(Vec<f64>, Vec<f64>), Miss> {
    let bn = rw.op(bn);
    if bn.int("training_mode").unwrap_or(0) != 0 || bn.int("spatial") == Some(0) {
        return Err("it normalises by statistics of the batch".into());
    }
    let eps = f64::from(bn.float("epsilon").unwrap_or(1e-5));
    let (gamma, beta) = (rw.konst("gamma")?.to_f64s(), rw.konst("beta")?.to_f64s());
    let (mean, var) = (rw.konst("mean")?.to_f64s(), rw.konst("var")?.to_f64s());
    if [beta.len(), mean.len(), var.len()].iter().any(|n| *n != gamma.len()) {
        return Err("its parameters differ in length".into());
    }
    let m: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + eps).sqrt()).collect();
    let a: Vec<f64> = beta.iter().zip(&mean).zip(&m).map(|((b, mu), m)| b - mu * m).collect();
    Ok((m, a))
}

/// The elements of a constant that is broadcast over the result of a contraction: one, or one for each
/// output channel. A miss if it varies along another axis or would enlarge the result.
fn per_channel(rw: &Rewrite<'_, '_>, c: &str, k: &str) -> Result<Vec<f64>, Miss> {
    let k = rw.konst(k)?;
    if k.dtype() != DType::Float {
        return Err("a constant that is not float32".into());
    }
    let w_rank = rw.konst("w")?.rank();
    // How many axes the result has at least, and its channel axis counted from the back.
    let (rank, channel) = match rw.op(c).op_type.as_str() {
        "Conv" | "ConvTranspose" => (w_rank, w_rank.checked_sub(1).ok_or("the weight has too few axes")?),
        "Gemm" => (2, 1),
        _ => (rw.fact("x").rank().unwrap_or(1), 1),
    };
    if k.rank() > rank {
        return Err("the constant has more axes than the result".into());
    }
    if k.dims().iter().rev().enumerate().any(|(i, n)| *n != 1 && i + 1 != channel) {
        return Err("the constant varies along another axis than the channels".into());
    }
    Ok(k.to_f64s())
}

/// Replaces the root by the contraction `c` with its output channels scaled by `m` and shifted by `a`
/// (each of one element, or one for each output channel). Operands of `c` are bound to `x`, `w`, `b`.
pub(super) fn fold_into_contraction(
    rw: &mut Rewrite<'_, '_>,
    c: &str,
    m: &[f64],
    a: &[f64],
) -> Result<(), Miss> {
    let bias = rw.opt("b").map(|_| rw.konst("b")).transpose()?;
    let Scaled { op, weight, bias } = scale_outputs(rw.op(c), &*rw.konst("w")?, bias.as_deref(), m, a)?;
    let axis = output_axis(&op, weight.rank())?;
    let weight = rw.add_const("w", weight);
    rw.scaled_weight(rw.v("w"), weight, axis, m);
    let mut operands = vec![rw.v("x"), weight];
    if let Some(bias) = bias {
        operands.push(add_bias(rw, &bias));
    }
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// A contraction with scaled output channels.
pub(super) struct Scaled {
    pub(super) op: Op,
    pub(super) weight: Tensor,
    /// One number for each output channel, if it has a bias or needs one.
    pub(super) bias: Option<Vec<f32>>,
}

/// The contraction `op` of a weight and a bias with its output channels scaled by `m` and shifted by `a`
/// (each of one element, or one for each output channel).
pub(super) fn scale_outputs(
    op: &Op,
    w: &Tensor,
    bias: Option<&Tensor>,
    m: &[f64],
    a: &[f64],
) -> Result<Scaled, Miss> {
    if w.dtype() != DType::Float || bias.is_some_and(|b| b.dtype() != w.dtype()) {
        return Err("weights that are not float32 are left as they are".into());
    }
    let axis = output_axis(op, w.rank())?;
    if op.op_type == "MatMul" && w.rank() < 2 {
        return Err("a vector as weight has no output channels".into());
    }
    // The weight of a grouped ConvTranspose has the channels of one group on its axis.
    let groups = if op.op_type == "ConvTranspose" { group(op) } else { 1 };
    let channels = w.dims()[axis].checked_mul(groups).ok_or("`group` is too large")?;
    let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
    if !w.dims()[0].is_multiple_of(groups) || [m.len(), a.len()].iter().any(|n| *n != 1 && *n != channels) {
        return Err(format!("{} factors for {channels} output channels", m.len().max(a.len())).into());
    }
    if m.iter().chain(a).any(|x| !x.is_finite()) {
        return Err("a factor is not finite".into());
    }
    let beta = if op.op_type == "Gemm" { f64::from(op.float("beta").unwrap_or(1.0)) } else { 1.0 };
    let old_bias: Vec<f64> = match bias {
        None => vec![0.0; channels],
        Some(b) if b.len() == 1 => vec![b.to_f64s()[0]; channels],
        Some(b) if b.len() == channels && b.dims().last() == Some(&channels) => b.to_f64s(),
        Some(_) => return Err("its bias is not one number per output channel".into()),
    };
    let needs_bias = bias.is_some() || a.iter().any(|a| *a != 0.0);
    if needs_bias && op.op_type == "MatMul" {
        return Err("MatMul has no bias".into());
    }
    let weight = Tensor::from_f32(w.dims(), &scale_axis(w, axis, groups, |i| at(m, i)));
    let shifted = || (0..channels).map(|i| (old_bias[i] * beta * at(m, i) + at(a, i)) as f32).collect();
    let bias = needs_bias.then(shifted);
    let mut op = op.clone();
    // Gemm computes alpha·A·B + beta·C: the factor of the product stays, that of the bias is folded.
    op.remove_attr("beta");
    Ok(Scaled { op, weight, bias })
}

/// The axis of output channels of the weight of a contraction.
fn output_axis(op: &Op, rank: usize) -> Result<usize, Miss> {
    match row("", &op.op_type).map(|r| r.port(1)) {
        Some(Port::Weight(axis)) => Ok(axis.resolve(op, rank).ok_or("the weight has too few axes")?),
        _ => Err("not a contraction".into()),
    }
}

/// Adds a bias constant, named after the old one or after the weight.
pub(super) fn add_bias(rw: &mut Rewrite<'_, '_>, bias: &[f32]) -> squint_ir::ValueId {
    let tensor = Tensor::from_f32(&[bias.len()], bias);
    if rw.has("b") {
        return rw.add_const("b", tensor);
    }
    let name = format!("{}_bias", rw.g().value(rw.v("w")).name());
    rw.g_mut().add_const(&name, tensor)
}

/// `group`, 1 if it is absent or nonsense.
pub(super) fn group(op: &Op) -> usize {
    op.int("group").and_then(|g| usize::try_from(g).ok()).unwrap_or(1).max(1)
}

/// Multiplies a tensor along an axis. With groups, the leading axis is cut into that many runs, each with
/// its own part of the factors.
pub(super) fn scale_axis(w: &Tensor, axis: usize, groups: usize, m: impl Fn(usize) -> f64) -> Vec<f32> {
    let dims = w.dims();
    let inner: usize = dims[axis + 1..].iter().product();
    let n = dims[axis];
    let lead = dims.first().copied().unwrap_or(1) / groups.max(1);
    let stride: usize = dims.iter().skip(1).product();
    let data = w.f32s();
    data.iter()
        .enumerate()
        .map(|(i, x)| {
            let group = if groups > 1 { i / stride / lead.max(1) } else { 0 };
            (f64::from(*x) * m(group * n + i / inner % n)) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    /// A model of one input, random constants `c`, and a body.
    fn model(input: &str, output: &str, constants: &str, body: &str) -> String {
        let random = |c: &str| format!("float{c} = [\"location\": \"gen:randn\"]");
        let constants: Vec<String> = constants.split(';').map(|c| random(c.trim())).collect();
        let constants = constants.join(", ");
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x) => (float{output} y) \
             <{constants}, float[4] var = {{0.5, 1.0, 2.0, 4.0}}> {{ {body} }}"
        )
    }

    #[test]
    fn batch_normalization_follows_every_contraction() {
        let bn = "y = BatchNormalization <epsilon = 0.01> (c, g, h, k, var)";
        let conv = format!("c = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w, b) {bn}");
        let params = "[4] g; [4] h; [4] k; [4] b";
        let m = model("[1,2,5,5]", "[1,4,3,5]", &format!("[4,2,3,3] w; {params}"), &conv);
        assert_eq!(fires("fold-batch-normalization", &m), "Conv");
        let up = format!("c = ConvTranspose <group = 2, strides = [2, 2]> (x, w) {bn}");
        let m = model("[1,6,3,3]", "[1,4,7,7]", &format!("[6,2,3,3] w; {params}"), &up);
        assert_eq!(fires("fold-batch-normalization", &m), "ConvTranspose");
        for (dims, trans) in [("[3,4]", 0), ("[4,3]", 1)] {
            let gemm = format!("c = Gemm <transB = {trans}, alpha = 0.5, beta = 2.0> (x, w, b) {bn}");
            let m = model("[2,3]", "[2,4]", &format!("{dims} w; {params}"), &gemm);
            assert_eq!(fires("fold-batch-normalization", &m), "Gemm");
        }
    }

    #[test]
    fn scales_fold_where_they_are_per_channel() {
        let conv = "c = Conv (x, w) y = Mul (k, c)";
        for k in ["[4,1,1]", "[1,4,1,1]", "[1]", "[1,1,1,1]"] {
            let m = model("[1,2,4,4]", "[1,4,2,2]", &format!("[4,2,3,3] w; {k} k"), conv);
            assert_eq!(fires("fold-scale", &m), "Conv");
        }
        for (k, y) in [
            ("[4,4]", "[1,4,4,4]"),
            ("[1,4,1]", "[1,4,4,4]"),
            ("[1,1,1,1,1]", "[1,1,4,4,4]"),
            ("[2,1,1,1]", "[2,4,4,4]"),
        ] {
            let m = model("[1,2,4,4]", y, &format!("[4,2,1,1] w; {k} k"), conv);
            assert!(misses("fold-scale", &m).contains("the constant"), "{k}");
        }
        let m = model("[2,5,3]", "[2,5,4]", "[3,4] w; [4] k", "c = MatMul (x, w) y = Div (c, k)");
        assert_eq!(fires("fold-scale", &m), "MatMul");
        let m = model("[5,3]", "[1,5,4]", "[3,4] w; [1,1,4] k", "c = MatMul (x, w) y = Div (c, k)");
        assert!(misses("fold-scale", &m).contains("more axes"));
    }

    #[test]
    fn a_contraction_with_another_use_is_left_alone() {
        let body = "c = Conv (x, w) d = Mul (c, k) y = Add (c, d)";
        let m = model("[1,2,4,4]", "[1,4,4,4]", "[4,2,1,1] w; [1] k", body);
        assert_eq!(misses("fold-scale", &m), "");
    }

    #[test]
    fn shifts_fold_into_the_bias() {
        let w = "[4,2,3,3] w; [4] b; [4,1,1] k";
        for body in ["y = Add (k, c)", "y = Sub (c, k)", "y = Sub (k, c)"] {
            for conv in ["c = Conv (x, w)", "c = Conv <pads = [1,0,0,1]> (x, w, b)"] {
                let out = if conv.contains("pads") { "[1,4,3,3]" } else { "[1,4,2,2]" };
                let m = model("[1,2,4,4]", out, w, &format!("{conv} {body}"));
                assert_eq!(fires("fold-shift", &m), "Conv");
            }
        }
        let m = model("[2,3]", "[2,4]", "[3,4] w; [2,4] b; [4] k", "c = Gemm (x, w, b) y = Add (c, k)");
        assert!(misses("fold-shift", &m).contains("bias"));
        let m = model("[1,3]", "[2,4]", "[3,4] w; [2,4] k", "c = Gemm (x, w) y = Add (c, k)");
        assert!(misses("fold-shift", &m).contains("another axis"));
    }
}
