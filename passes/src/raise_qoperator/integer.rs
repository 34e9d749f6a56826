//! Products with integer results: MatMulInteger and ConvInteger.
//!
//! What tools write for dynamic quantization is found as a whole and raised as a whole:
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear (x)
//! p = MatMulInteger (q, w, z, wz)    f = Cast <to = float> (p)    k = Mul (s, ws)    y = Mul (f, k)
//!
//! x_f = DequantizeLinear (q, s, z)   w_f = DequantizeLinear (w, ws, wz)              y = MatMul (x_f, w_f)
//! ```
//!
//! Any other product is raised with scales of 1, and cast back to integers where they are read as such. In float32 it
//! is exact up to 2²⁴; beyond, it is off by less than one part in 10⁷.

use super::contraction::rows;
use super::site::{Levels, Site};
use super::{Miss, ONNX, Raise, raise};
use squint_ir::{DType, OpId, OpSpec, Tensor, Type, ValueId};

pub(super) const TABLE: &[Raise] = &[
    raise(ONNX, "MatMulInteger", |s| product(s, "MatMul")),
    raise(ONNX, "ConvInteger", |s| product(s, "Conv")),
];

fn product(site: &mut Site<'_, '_>, op_type: &str) -> Result<(), Miss> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let (a_zero, b_zero) = (site.optional(2), site.optional(3));
    if let Some(scaled) = scaled(site, a, op_type) {
        let a = Levels { data: a, scale: scaled.a_scale, zero_point: a_zero };
        let b_scale = scaled.b_scale(site)?;
        let b = Levels { data: b, scale: b_scale, zero_point: b_zero };
        let axis = weight_axis(site, b, op_type)?;
        let operands = [Some(site.dequantize(a, None)), Some(site.dequantize(b, axis))];
        site.become_op(op_type, &operands);
        return scaled.take_over(site);
    }
    for zero in [a_zero, b_zero].into_iter().flatten() {
        site.scales(zero)?;
    }
    let one = ones(site, a_zero, "a")?;
    let a = Levels { data: a, scale: one, zero_point: a_zero };
    let rows = rows(site, a)?;
    let one = ones(site, b_zero, "b")?;
    let b = Levels { data: b, scale: one, zero_point: b_zero };
    let axis = weight_axis(site, b, op_type)?;
    let operands = [Some(site.dequantize(a, rows)), Some(site.dequantize(b, axis))];
    site.become_op(op_type, &operands);
    cast_back(site)
}

/// The axis of the right operand's scales: columns of a matrix, output channels of a convolution's weight.
fn weight_axis(site: &Site<'_, '_>, b: Levels, op_type: &str) -> Result<Option<i64>, Miss> {
    let last = site.rank(b.data).map_or(-1, |r| r as i64 - 1);
    site.along(b.scale, if op_type == "Conv" { 0 } else { last })
}

/// Scales of 1 of the shape of a zero point.
fn ones(site: &mut Site<'_, '_>, zero_point: Option<ValueId>, which: &str) -> Result<ValueId, Miss> {
    let n = match zero_point {
        Some(z) => site.scales(z)?,
        None => 1,
    };
    let name = format!("{}_{which}_scale", site.g().label(site.id));
    let dims: &[usize] = if n == 1 { &[] } else { &[n] };
    Ok(site.add_const(&name, Tensor::from_f32(dims, &vec![1.0; n])))
}

/// The operators behind a product that make real numbers of it.
struct Scaled {
    cast: OpId,
    /// The last multiplication.
    mul: OpId,
    /// The multiplication of the scales.
    scales: OpId,
    /// The result of `mul`.
    y: ValueId,
    a_scale: ValueId,
    b_scale: ValueId,
    /// Of the right operand, if its scales are a constant vector.
    b_dims: Option<Vec<usize>>,
}

/// Finds `Mul(Cast(product), Mul(a_scale, b_scale))` with the scale that DynamicQuantizeLinear gave to operand `a`.
fn scaled(site: &Site<'_, '_>, a: ValueId, op_type: &str) -> Option<Scaled> {
    let g = site.g();
    let (dynamic, 0) = g.producer(a)? else { return None };
    if !g.op(dynamic).is("DynamicQuantizeLinear") {
        return None;
    }
    let a_scale = g.result(dynamic, 1)?;
    let cast = g.only_use(g.result(site.id, 0)?)?.op;
    if !g.op(cast).is("Cast") || g.op(cast).int("to") != Some(i64::from(DType::Float.code())) {
        return None;
    }
    let real = g.result(cast, 0)?;
    let mul = g.only_use(real)?.op;
    let other = |op: OpId, one: ValueId| match g.operands(op)[..] {
        [Some(x), Some(y)] if g.op(op).is("Mul") && x == one => Some(y),
        [Some(x), Some(y)] if g.op(op).is("Mul") && y == one => Some(x),
        _ => None,
    };
    let scales = other(mul, real)?;
    let scales = g.producer(scales)?.0;
    let b_scale = other(scales, a_scale)?;
    let b_dims = site.konst(b_scale).map(|t| t.dims().to_vec())?;
    // A factor for each output channel: the last axis of a matrix, the second of a picture.
    let fits = match (b_dims.iter().filter(|d| **d != 1).count(), op_type) {
        (0, _) => true,
        (1, "Conv") => {
            let rank = site.rank(site.optional(1)?).ok()?;
            b_dims.get((b_dims.len() + 1).checked_sub(rank)?) != Some(&1)
        }
        (1, _) => b_dims.last() != Some(&1),
        _ => false,
    };
    let y = g.result(mul, 0)?;
    fits.then_some(Scaled { cast, mul, scales, y, a_scale, b_scale, b_dims: Some(b_dims) })
}

impl Scaled {
    /// The right operand's scales as a scalar or vector.
    fn b_scale(&self, site: &mut Site<'_, '_>) -> Result<ValueId, Miss> {
        let n: usize = self.b_dims.iter().flatten().product();
        let rank = self.b_dims.as_ref().map_or(0, Vec::len);
        match site.konst(self.b_scale).cloned() {
            Some(t) if rank > 1 => {
                let dims: &[usize] = if n == 1 { &[] } else { &[n] };
                let flat = t.reshaped(dims).map_err(|e| Miss(e.to_string()))?;
                let name = site.name(self.b_scale).to_owned();
                Ok(site.add_const(&name, flat))
            }
            _ => Ok(self.b_scale),
        }
    }

    /// The product makes the real numbers itself.
    fn take_over(self, site: &mut Site<'_, '_>) -> Result<(), Miss> {
        let (id, y) = (site.id, self.y);
        let g = site.g_mut();
        let integers = g.result(id, 0);
        g.set_result(id, 0, None);
        g.remove_op(self.mul);
        g.set_result(id, 0, Some(y));
        if g.result(self.scales, 0).is_none_or(|v| !g.is_used(v)) {
            g.remove_op_and_results(self.scales);
        }
        g.remove_op_and_results(self.cast);
        if let Some(v) = integers {
            g.remove_value(v);
        }
        Ok(())
    }
}

/// The product is real; what `Cast <to = float>` made of it before, it makes itself, and for readers of integers it is
/// cast back.
fn cast_back(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (id, p) = (site.id, site.result()?);
    let shape = site.shape(p);
    let g = site.g_mut();
    let to_float =
        |op: OpId| g.op(op).is("Cast") && g.op(op).int("to") == Some(i64::from(DType::Float.code()));
    let cast = g.uses(p).into_iter().filter(|u| !u.capture).map(|u| u.op).find(|op| to_float(*op));
    let real = match cast.and_then(|cast| Some((cast, g.result(cast, 0)?))) {
        Some((cast, real)) => {
            g.remove_op(cast);
            g.set_result(id, 0, Some(real));
            real
        }
        None => site.move_result(0, "product")?,
    };
    if !site.g().is_used(p) {
        site.g_mut().remove_value(p);
        return Ok(());
    }
    let name = site.fresh(&format!("{}_Cast", site.name(p)));
    let spec = OpSpec::new("Cast").name(name).attr("to", i64::from(DType::Int32.code())).operands([real]);
    let spec = site.beside(spec).results([p]);
    site.g_mut().set_type(p, Some(Type::tensor(DType::Int32, shape)));
    site.g_mut().add_op(spec);
    Ok(())
}
