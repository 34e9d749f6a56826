//! ONNX Runtime's operators on integers that are neither products nor moves: each is the float operator of the same
//! attributes between its grids.

use super::site::{Levels, Site};
use super::{MICROSOFT, Miss, Raise, raise};
use squint_ir::{DType, OpSpec, Type};

pub(super) const TABLE: &[Raise] = &[
    raise(MICROSOFT, "QLinearAdd", |s| binary(s, "Add")),
    raise(MICROSOFT, "QLinearMul", |s| binary(s, "Mul")),
    raise(MICROSOFT, "QLinearSigmoid", |s| unary(s, "Sigmoid")),
    raise(MICROSOFT, "QLinearLeakyRelu", |s| unary(s, "LeakyRelu")),
    raise(MICROSOFT, "QLinearSoftmax", softmax),
    raise(MICROSOFT, "QLinearAveragePool", |s| pool(s, "AveragePool")),
    raise(MICROSOFT, "QLinearGlobalAveragePool", |s| pool(s, "GlobalAveragePool")),
    raise(MICROSOFT, "QLinearReduceMean", reduce_mean),
    raise(MICROSOFT, "QLinearConcat", concat),
    raise(MICROSOFT, "QLinearWhere", choose),
    raise(MICROSOFT, "QuantizeLinear", standard),
    raise(MICROSOFT, "DequantizeLinear", standard),
];

fn binary(site: &mut Site<'_, '_>, op_type: &str) -> Result<(), Miss> {
    let (a, b) = (site.levels([0, 1, 2])?, site.levels([3, 4, 5])?);
    let (scale, zero_point) = (site.operand(6)?, site.optional(7));
    between(site, op_type, &[a, b], scale, zero_point)
}

fn unary(site: &mut Site<'_, '_>, op_type: &str) -> Result<(), Miss> {
    let x = site.levels([0, 1, 2])?;
    let (scale, zero_point) = (site.operand(3)?, site.optional(4));
    between(site, op_type, &[x], scale, zero_point)
}

/// The float operator on the float forms of `parts`, its result quantized.
fn between(
    site: &mut Site<'_, '_>,
    op_type: &str,
    parts: &[Levels],
    scale: squint_ir::ValueId,
    zero_point: Option<squint_ir::ValueId>,
) -> Result<(), Miss> {
    let first = parts.first().ok_or("it has no operands")?.data;
    for p in parts {
        site.expect_one_scale(*p)?;
    }
    let operands: Vec<_> = parts.iter().map(|p| Some(site.dequantize(*p, None))).collect();
    site.become_op(op_type, &operands);
    site.quantize_result(0, scale, zero_point, None, first)
}

/// `opset` says which Softmax is meant: before 13 it works on the matrix that comes of flattening at `axis`.
fn softmax(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let flattens = site.op().int("opset").unwrap_or(0) < 13;
    let axis = site.op().int("axis").unwrap_or(if flattens { 1 } else { -1 });
    let x = site.operand(0)?;
    let rank = site.rank(x);
    let last = axis == -1 || rank.as_ref().is_ok_and(|r| axis == *r as i64 - 1);
    unary(site, "Softmax")?;
    site.op_mut().remove_attr("opset");
    if !flattens || last {
        site.op_mut().set_attr("axis", if last { -1 } else { axis });
        return Ok(());
    }
    flatten_around(site, axis)
}

/// Flattens the operand to a matrix at `axis`, and gives the result its shape back.
fn flatten_around(site: &mut Site<'_, '_>, axis: i64) -> Result<(), Miss> {
    site.op_mut().set_attr("axis", -1i64);
    let (x, y, id) = (site.operand(0)?, site.result()?, site.id);
    let matrix = Some(Type::tensor(DType::Float, None));
    let base = site.name(y).to_owned();
    let flat = OpSpec::new("Flatten").attr("axis", axis).operands([x]);
    let flat = site.emit(flat, &format!("{base}_flat"), matrix.clone());
    site.g_mut().set_operand(id, 0, Some(flat));
    let shape = Some(Type::tensor(DType::Int64, None));
    let shape = site.emit(OpSpec::new("Shape").operands([x]), &format!("{base}_shape"), shape);
    let inner = site.move_result(0, "matrix")?;
    site.g_mut().set_type(inner, matrix);
    let name = site.fresh(&format!("{base}_Reshape"));
    let spec = OpSpec::new("Reshape").name(name).operands([inner, shape]).results([y]);
    let spec = site.beside(spec);
    site.g_mut().add_op(spec);
    Ok(())
}

fn pool(site: &mut Site<'_, '_>, op_type: &str) -> Result<(), Miss> {
    let channels_last = site.op().int("channels_last").unwrap_or(0) != 0;
    let kernel = site.op().ints("kernel_shape").map(|k| k.len() + 2);
    let rank = match (channels_last, kernel) {
        (false, _) => None,
        (true, Some(rank)) => Some(rank),
        (true, None) => Some(site.rank(site.operand(0)?)?),
    };
    unary(site, op_type)?;
    site.op_mut().remove_attr("channels_last");
    rank.map_or(Ok(()), |rank| site.channels_first(rank))
}

/// Its axes are an attribute; those of ReduceMean became an operand at 18.
fn reduce_mean(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    unary(site, "ReduceMean")?;
    if site.opset() >= 18
        && let Some(axes) = site.op().ints("axes").map(<[i64]>::to_vec)
    {
        site.op_mut().remove_attr("axes");
        let name = format!("{}_axes", site.name(site.result()?));
        let axes = site.add_const(&name, squint_ir::Tensor::from_i64(&[axes.len()], &axes));
        let id = site.id;
        site.g_mut().set_operand(id, 1, Some(axes));
    }
    Ok(())
}

/// Operands: scale and zero point of the result, then data, scale and zero point of each part.
fn concat(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (scale, zero_point) = (site.operand(0)?, site.optional(1));
    let n = site.g().operands(site.id).len() as u32;
    let parts = (2..n).step_by(3).map(|s| site.levels([s, s + 1, s + 2])).collect::<Result<Vec<_>, _>>()?;
    between(site, "Concat", &parts, scale, zero_point)
}

/// `y = Q(Where(condition, DQ(a), DQ(b)))`.
fn choose(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (condition, a, b) = (site.operand(0)?, site.levels([1, 2, 3])?, site.levels([4, 5, 6])?);
    let (scale, zero_point) = (site.operand(7)?, site.optional(8));
    site.expect_one_scale(a)?;
    site.expect_one_scale(b)?;
    let operands = [Some(condition), Some(site.dequantize(a, None)), Some(site.dequantize(b, None))];
    site.become_op("Where", &operands);
    site.quantize_result(0, scale, zero_point, None, a.data)
}

/// QuantizeLinear and DequantizeLinear of ONNX Runtime's domain mean what those of ONNX mean, for types that the
/// operator set of the model has.
fn standard(site: &mut Site<'_, '_>) -> Result<(), Miss> {
    let (op_type, operands) = (site.op().op_type.clone(), site.g().operands(site.id));
    let levels = if op_type == "QuantizeLinear" {
        site.optional(2).map_or(Some(DType::Uint8), |z| site.dtype(z))
    } else {
        site.dtype(site.operand(0)?)
    };
    let since = match levels {
        Some(DType::Uint8 | DType::Int8) => 10,
        Some(DType::Int32) if op_type == "DequantizeLinear" => 10,
        Some(DType::Uint16 | DType::Int16 | DType::Uint4 | DType::Int4) => 21,
        Some(other) => return Err(format!("ONNX has no {op_type} of {other}").into()),
        None => return Err("the type of its integers is unknown".into()),
    };
    let opset = site.opset();
    if opset < since {
        return Err(format!("operator set {opset} has no {op_type} of 16 or 4 bits").into());
    }
    site.become_op(&op_type, &operands);
    Ok(())
}
