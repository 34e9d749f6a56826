//! Products: Conv, MatMul and Gemm.
//!
//! Kernels: QLinearConv, QLinearMatMul and QGemm; without a QuantizeLinear behind it QGemm with a float result, and
//! MatMulIntegerToFloat.

use super::site::{Levels, Site};
use super::{Lower, Miss, lower};
use squint_ir::affine::quantize_bias;
use squint_ir::{DType, Tensor, ValueId};

pub(super) const TABLE: &[Lower] = &[lower("Conv", conv), lower("MatMul", matmul), lower("Gemm", gemm)];

fn conv(site: &mut Site<'_>) -> Result<(), Miss> {
    let (x, w, y) = (site.activation(0)?, weight(site, 0)?, site.target()?);
    if x.dtype != y.levels.dtype {
        return Err("its operand and result have different types".into());
    }
    let bias = bias(site, &x, &w, 1.0, 1.0)?;
    let bias = bias.map(|b| b.place(site));
    let mut operands = [&site.triple(&x)[..], &site.triple(&w), &site.pair(&y.levels)].concat();
    operands.extend(bias.map(Some));
    site.become_op(false, "QLinearConv", &operands);
    site.take_over(y);
    Ok(())
}

fn matmul(site: &mut Site<'_>) -> Result<(), Miss> {
    let a = site.activation(0)?;
    let b = match site.levels(1)? {
        b if b.axis.is_none() => weight(site, 0)?,
        b => {
            let rank = site.konst(b.data).map(|t| t.rank());
            if rank != Some(2) {
                return Err("the kernel for stacked matrices takes one scale".into());
            }
            weight(site, 1)?
        }
    };
    match site.target() {
        Ok(y) if a.dtype == y.levels.dtype => {
            let operands = [&site.triple(&a)[..], &site.triple(&b), &site.pair(&y.levels)].concat();
            site.become_op(false, "QLinearMatMul", &operands);
            site.take_over(y);
        }
        Ok(_) => return Err("its operand and result have different types".into()),
        Err(_) => {
            let zeros = [Some(site.zero_point(&a)), Some(site.zero_point(&b))];
            let mut operands =
                vec![Some(a.data), Some(b.data), Some(a.scale), Some(b.scale), zeros[0], zeros[1]];
            operands.extend(take_summand(site, b.data).map(Some));
            site.become_op(true, "MatMulIntegerToFloat", &operands);
        }
    }
    Ok(())
}

/// The constant that is all that is added to the product, one number for each column of the weight `b`. The product
/// makes the sum itself then.
fn take_summand(site: &mut Site<'_>, b: ValueId) -> Option<ValueId> {
    let g = &*site.g;
    let columns = *site.konst(b)?.dims().last()?;
    let product = g.result(site.id, 0)?;
    let add = g.only_use(product)?.op;
    let summand = g.operands(add).into_iter().flatten().find(|v| *v != product)?;
    let t = site.konst(summand)?;
    if !g.op(add).is("Add") || t.dtype() != DType::Float || t.dims() != [columns] {
        return None;
    }
    let sum = g.result(add, 0)?;
    site.g.remove_op(add);
    site.g.set_result(site.id, 0, Some(sum));
    site.g.remove_value(product);
    Some(summand)
}

/// QGemm has no `beta`, and scales its bias with the rest: both are put into the bias.
fn gemm(site: &mut Site<'_>) -> Result<(), Miss> {
    let transposed = site.op().int("transB").unwrap_or(0) != 0;
    let (a, b) = (site.activation(0)?, weight(site, i64::from(!transposed))?);
    let (alpha, beta) = (site.op().float("alpha").unwrap_or(1.0), site.op().float("beta").unwrap_or(1.0));
    let bias = bias(site, &a, &b, alpha, beta)?;
    let y = site.target().ok();
    if y.as_ref().is_some_and(|y| y.levels.dtype != a.dtype) {
        return Err("its operand and result have different types".into());
    }
    let bias = bias.map(|b| b.place(site));
    let mut operands = [&site.triple(&a)[..], &site.triple(&b), &[bias]].concat();
    if let Some(y) = &y {
        operands.extend(site.pair(&y.levels));
    }
    site.become_op(true, "QGemm", &operands);
    site.g.op_mut(site.id).remove_attr("beta");
    if let Some(y) = y {
        site.take_over(y);
    }
    Ok(())
}

/// The right operand: 8 bits, with one scale or one for each output channel.
fn weight(site: &Site<'_>, axis: i64) -> Result<Levels, Miss> {
    let w = site.levels(1)?;
    let rank = site.konst(w.data).map_or(0, |t| t.rank() as i64);
    let front = w.axis.map(|a| if a < 0 { a + rank } else { a });
    match (front, w.dtype) {
        (_, d) if !matches!(d, DType::Uint8 | DType::Int8) => Err("its weight has not 8 bits".into()),
        (Some(a), _) if a != axis => {
            Err("its weight has scales along another axis than its output channels".into())
        }
        // A signed operand needs a signed weight.
        (_, DType::Uint8) if site.levels(0)?.dtype == DType::Int8 => {
            Err("there is no kernel for signed data with unsigned weights".into())
        }
        _ => Ok(w),
    }
}

/// A bias on the grid of the accumulator.
enum Bias {
    /// As it is in the graph.
    Kept(ValueId),
    /// New integers, with the name of the bias.
    Made(String, Tensor),
}

impl Bias {
    fn place(self, site: &mut Site<'_>) -> ValueId {
        match self {
            Bias::Kept(v) => v,
            Bias::Made(name, t) => site.g.add_const(&name, t),
        }
    }
}

/// Scales of a bias may be so far from the product of scales: they were rounded from it once.
const ROUNDED_ONCE: f64 = 1e-6;

/// The bias, times `beta`, on the grid whose scale is `alpha` times the scales of data and weight.
fn bias(site: &Site<'_>, x: &Levels, w: &Levels, alpha: f32, beta: f32) -> Result<Option<Bias>, Miss> {
    if !site.has(2) {
        return Ok(None);
    }
    let grid: Vec<f64> =
        w.scales.iter().map(|s| f64::from(alpha) * f64::from(x.scales[0]) * f64::from(*s)).collect();
    if grid.iter().any(|s| !(*s as f32).is_normal()) {
        return Err("the scale of its accumulator is no normal number".into());
    }
    let (dims, reals) = match site.levels(2) {
        Ok(b) => {
            let t = site.konst(b.data).ok_or("its bias is computed")?;
            let scale =
                |i: usize| f64::from(b.scales[if b.scales.len() > 1 { i % b.scales.len() } else { 0 }]);
            let close = |i: usize| (scale(i) / grid[i % grid.len()] - 1.0).abs() < ROUNDED_ONCE;
            let n = t.len().max(b.scales.len());
            if b.dtype == DType::Int32 && beta == 1.0 && (0..n).all(close) && fits(t.dims(), grid.len()) {
                return Ok(Some(Bias::Kept(b.data)));
            }
            let levels = t.to_i64s().ok_or("its bias holds no integers")?;
            (
                t.dims().to_vec(),
                levels.iter().enumerate().map(|(i, q)| *q as f64 * scale(i)).collect::<Vec<_>>(),
            )
        }
        Err(_) => {
            let v = site.g.operand(site.id, 2).ok_or("an operand is missing")?;
            let t = site.konst(v).filter(|t| t.dtype() == DType::Float).ok_or("its bias is computed")?;
            (t.dims().to_vec(), t.to_f64s())
        }
    };
    if !fits(&dims, grid.len()) {
        return Err("its bias is not one number for each output channel".into());
    }
    let levels: Vec<i32> = reals
        .iter()
        .enumerate()
        .map(|(i, b)| quantize_bias((b * f64::from(beta)) as f32, grid[i % grid.len()] as f32))
        .collect();
    let v = site.g.operand(site.id, 2).ok_or("an operand is missing")?;
    let name = format!("{}_quantized", site.g.value(v).name());
    Ok(Some(Bias::Made(name, Tensor::from_i32(&dims, &levels))))
}

/// One number for each scale; with one scale, any vector.
fn fits(dims: &[usize], scales: usize) -> bool {
    match dims {
        [n] | [1, n] => scales == 1 || *n == scales,
        _ => false,
    }
}
