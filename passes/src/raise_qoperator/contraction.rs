//! Products of quantized operands: QLinearConv, QLinearMatMul, QGemm, and the forms with a float result.
//!
//! A 32-bit bias stands on the grid of the accumulator, whose scale is the product of the operands' scales.

use super::site::{Levels, Site};
use super::{MICROSOFT, Miss, ONNX, Raise, raise};
use squint_ir::{DType, OpSpec, Type, ValueId};

pub(super) const TABLE: &[Raise] = &[
    raise(ONNX, "QLinearConv", conv),
    raise(MICROSOFT, "QLinearConv", conv),
    raise(ONNX, "QLinearMatMul", matmul),
    raise(MICROSOFT, "QGemm", gemm),
    raise(MICROSOFT, "MatMulIntegerToFloat", matmul_to_float),
    raise(MICROSOFT, "DynamicQuantizeMatMul", dynamic_matmul),
];

/// `y = Q(Conv(DQ(x), DQ(w), DQ(b)))`; the weight `[M, C / group, k…]` has its output channels first.
fn conv(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (x, w) = (site.levels([0, 1, 2])?, site.levels([3, 4, 5])?);
    let (y_scale, y_zero) = (site.operand(6)?, site.optional(7));
    site.expect_one_scale(x)?;
    let axis = site.along(w.scale, 0)?;
    let channels_last = site.op().int("channels_last").unwrap_or(0) != 0;
    let rank = if channels_last { site.rank(w.data).or_else(|_| site.rank(x.data))? } else { 0 };
    let bias = site.optional(8);
    let operands = [
        Some(site.dequantize(x, None)),
        Some(site.dequantize(w, axis)),
        bias.map(|b| dequantize_bias(site, b, x.scale, w.scale, 1.0, axis.map(|_| 0))),
    ];
    site.become_op("Conv", &operands[..if bias.is_some() { 3 } else { 2 }]);
    site.op_mut().remove_attr("channels_last");
    site.quantize_result(0, y_scale, y_zero, None, x.data)?;
    if channels_last { site.channels_first(rank) } else { Ok(()) }
}

/// `y = Q(MatMul(DQ(a), DQ(b)))`. A vector of scales is for the rows of `a` and of `y`, and the columns of `b`.
fn matmul(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (a, b) = (site.levels([0, 1, 2])?, site.levels([3, 4, 5])?);
    let (y_scale, y_zero) = (site.operand(6)?, site.optional(7));
    let (rows, columns) = (rows(site, a)?, columns(site, b)?);
    let y_rows =
        site.along(y_scale, site.result().and_then(|y| site.rank(y)).map_or(-2, |r| r as i64 - 2))?;
    let operands = [Some(site.dequantize(a, rows)), Some(site.dequantize(b, columns))];
    site.become_op("MatMul", &operands);
    site.quantize_result(0, y_scale, y_zero, y_rows, a.data)
}

/// The last axis but one of a left operand with a scale for each row, counted from the front where the rank is known.
pub(super) fn rows(site: &Site<'_, '_>, a: Levels) -> Result<Option<i64>, Miss> {
    site.along(a.scale, site.rank(a.data).map_or(-2, |r| r as i64 - 2))
}

/// The last axis of a right operand with a scale for each column, counted from the front where the rank is known.
fn columns(site: &Site<'_, '_>, b: Levels) -> Result<Option<i64>, Miss> {
    site.along(b.scale, site.rank(b.data).map_or(-1, |r| r as i64 - 1))
}

/// `y = Q(Gemm(DQ(a), DQ(b), DQ(c)))`, without the Q where no scale for `y` is given. `c` stands on the grid of the
/// accumulator, to which `alpha` belongs (`quant_gemm.cc`): its scale is `alpha · as · bs`.
fn gemm(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (a, b) = (site.levels([0, 1, 2])?, site.levels([3, 4, 5])?);
    let (c, y_scale, y_zero) = (site.optional(6), site.optional(7), site.optional(8));
    site.expect_one_scale(a)?;
    let transposed = site.op().int("transB").unwrap_or(0) != 0;
    let axis = site.along(b.scale, i64::from(!transposed))?;
    let alpha = site.op().float("alpha").unwrap_or(1.0);
    let c = match c {
        Some(c) => {
            let rank = site.rank(c)?;
            let last = axis.map(|_| rank as i64 - 1);
            let n = site.scales(b.scale)? as u64;
            let fits = site.shape(c).and_then(|s| s.last()?.known()) == Some(n);
            if axis.is_some() && !fits {
                return Err("its bias has not one element for each of the weight's scales".into());
            }
            Some(dequantize_bias(site, c, a.scale, b.scale, alpha, last))
        }
        None => None,
    };
    let operands = [Some(site.dequantize(a, None)), Some(site.dequantize(b, axis)), c];
    site.become_op("Gemm", &operands[..if c.is_some() { 3 } else { 2 }]);
    match y_scale {
        Some(scale) => site.quantize_result(0, scale, y_zero, None, a.data),
        None => Ok(()),
    }
}

/// `y = MatMul(DQ(a), DQ(b)) + bias`, in float.
fn matmul_to_float(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (a, b) = (site.levels([0, 2, 4])?, site.levels([1, 3, 5])?);
    let bias = site.optional(6);
    let (rows, columns) = (rows(site, a)?, columns(site, b)?);
    let operands = [Some(site.dequantize(a, rows)), Some(site.dequantize(b, columns))];
    site.become_op("MatMul", &operands);
    add_bias(site, bias)
}

/// `y = MatMul(DQ(DynamicQuantize(a)), DQ(b)) + bias`: the grid of `a` follows from its content.
fn dynamic_matmul(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (a, b) = (site.operand(0)?, site.levels([1, 2, 3])?);
    let (bias, columns) = (site.optional(4), columns(site, b)?);
    let a = site.quantize_dynamically(a);
    let operands = [Some(site.dequantize(a, None)), Some(site.dequantize(b, columns))];
    site.become_op("MatMul", &operands);
    add_bias(site, bias)
}

/// Adds a float bias behind the operator.
fn add_bias(site: &mut Site<'_, '_>, bias: Option<ValueId>) -> Result<(), Miss> {
    let Some(bias) = bias else { return Ok(()) };
    let y = site.result()?;
    let product = site.move_result(0, "product")?;
    let name = site.fresh(&format!("{}_Add", site.name(y)));
    let spec = site.beside(OpSpec::new("Add").name(name).operands([product, bias]).results([y]));
    site.g_mut().add_op(spec);
    Ok(())
}

/// The float form of a bias of 32-bit integers.
fn dequantize_bias(
    site: &mut Site<'_, '_>,
    bias: ValueId,
    x_scale: ValueId,
    w_scale: ValueId,
    alpha: f32,
    axis: Option<i64>,
) -> ValueId {
    let name = site.name(bias).to_owned();
    let scale = site.product(&name, x_scale, w_scale, alpha);
    site.dequantize(Levels { data: bias, scale, zero_point: None }, axis)
}

impl Site<'_, '_> {
    /// A float value quantized with the range that it has when it comes.
    pub(super) fn quantize_dynamically(&mut self, x: ValueId) -> Levels {
        let base = self.name(x).to_owned();
        let q = self.fresh(&format!("{base}_quantized"));
        let (scale, zero) = (self.fresh(&format!("{base}_scale")), self.fresh(&format!("{base}_zero_point")));
        let shape = self.shape(x);
        let name = self.fresh(&format!("{base}_DynamicQuantizeLinear"));
        let spec = self.beside(OpSpec::new("DynamicQuantizeLinear").name(name).operands([x]));
        let g = self.g_mut();
        let data = g.add_value(&q, Some(Type::tensor(DType::Uint8, shape)));
        let scale = g.add_value(&scale, Some(Type::tensor(DType::Float, Some(vec![]))));
        let zero = g.add_value(&zero, Some(Type::tensor(DType::Uint8, Some(vec![]))));
        g.add_op(spec.results([data, scale, zero]));
        Levels { data, scale, zero_point: Some(zero) }
    }
}
