//! Per-channel affine operators after a contraction, folded into its weight and bias.
//!
//! A contraction followed by `y ↦ y·m + a`, with `m` and `a` constant along every axis but the output
//! channels, is the contraction with `W' = W·m` (along the output-channel axis) and `b' = b·m + a`.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{OpSpec, Tensor};
use squint_ops::{Port, row};

pub(super) const RULES: &[Rule] = &[Rule::new(
    "fold-batch-normalization",
    "c = Conv|ConvTranspose|Gemm (x, w, b?); y = BatchNormalization (c, gamma, beta, mean, var)",
    fold_batch_normalization,
)];

/// `m = γ/√(σ²+ε)`, `a = β − μ·m` (Ioffe and Szegedy 2015, at inference).
fn fold_batch_normalization(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let bn = rw.op("y");
    if bn.int("training_mode").unwrap_or(0) != 0 {
        return Err("it normalises by statistics of the batch".into());
    }
    let eps = f64::from(bn.float("epsilon").unwrap_or(1e-5));
    let (gamma, beta) = (rw.konst("gamma")?.to_f64s(), rw.konst("beta")?.to_f64s());
    let (mean, var) = (rw.konst("mean")?.to_f64s(), rw.konst("var")?.to_f64s());
    let m: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + eps).sqrt()).collect();
    let a: Vec<f64> = beta.iter().zip(&mean).zip(&m).map(|((b, mu), m)| b - mu * m).collect();
    fold_into_contraction(rw, "c", &m, &a)
}

/// Replaces the root by the contraction `c` with its output channels scaled by `m` and shifted by `a`
/// (each of one element, or one for each output channel). Operands of `c` are bound to `x`, `w`, `b`.
pub(super) fn fold_into_contraction(rw: &mut Rewrite<'_, '_>, c: &str, m: &[f64], a: &[f64]) -> Result<(), Miss> {
    let op = rw.op(c).clone();
    let w = rw.konst("w")?;
    let bias = rw.opt("b").map(|_| rw.konst("b")).transpose()?;
    if w.dtype() != squint_ir::DType::Float || bias.as_ref().is_some_and(|b| b.dtype() != w.dtype()) {
        return Err("weights that are not float32 are left as they are".into());
    }
    let axis = match row("", &op.op_type).map(|r| r.port(1)) {
        Some(Port::Weight(axis)) => axis.resolve(&op, w.rank()).ok_or("the weight has too few axes")?,
        _ => return Err("not a contraction".into()),
    };
    // The weight of a grouped ConvTranspose has the channels of one group on its axis.
    let groups = if op.op_type == "ConvTranspose" { op.int("group").unwrap_or(1).max(1) as usize } else { 1 };
    let channels = w.dims()[axis] * groups;
    let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
    if [m.len(), a.len()].iter().any(|n| *n != 1 && *n != channels) {
        return Err(format!("{} factors for {channels} output channels", m.len().max(a.len())).into());
    }
    if m.iter().chain(a).any(|x| !x.is_finite()) {
        return Err("a factor is not finite".into());
    }
    let beta = match op.op_type.as_str() {
        "Gemm" => f64::from(op.float("beta").unwrap_or(1.0)),
        _ => 1.0,
    };
    let old_bias: Vec<f64> = match &bias {
        None => vec![0.0; channels],
        Some(b) if b.len() == channels => b.to_f64s(),
        Some(b) if b.len() == 1 => vec![b.to_f64s()[0]; channels],
        Some(_) => return Err("its bias is not one number per output channel".into()),
    };
    let weights = scale_axis(&w, axis, groups, |i| at(m, i));
    let shifted: Vec<f32> =
        (0..channels).map(|i| ((old_bias[i] * beta) * at(m, i) + at(a, i)) as f32).collect();
    let weight = Tensor::from_f32(w.dims(), &weights);
    let (w, b) = (rw.add_const("w", weight), Tensor::from_f32(&[channels], &shifted));
    let b = match rw.opt("b") {
        Some(_) => rw.add_const("b", b),
        None => {
            let name = format!("{}_bias", rw.g().value(rw.v("w")).name());
            rw.g_mut().add_const(&name, b)
        }
    };
    let mut op = op;
    // Gemm computes alpha·A·B + beta·C: the factor of the product stays, that of the bias is folded.
    if beta != 1.0 {
        op.set_attr("beta", 1.0f32);
    }
    let x = rw.v("x");
    rw.replace_root(OpSpec::from_op(op).operands([x, w, b]));
    Ok(())
}

/// Multiplies a tensor along an axis. With groups, the leading axis is cut into that many runs, each with
/// its own part of the factors.
fn scale_axis(w: &Tensor, axis: usize, groups: usize, m: impl Fn(usize) -> f64) -> Vec<f32> {
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
