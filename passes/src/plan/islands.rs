//! Islands: parts of a model that are quantized already. They are left as they are, and what lies beside them takes over
//! their grids, so that nothing is quantized twice.
//!
//! - A DequantizeLinear makes its value, and a QuantizeLinear reads its, in integers: at no cost, and whatever else is
//!   planned ([`is_border`]).
//! - A value that one of them makes or reads has its grid ([`given`]); a signed grid is moved to unsigned levels, or
//!   back, where the target wants that.
//! - Operators inside ([`is_inside`]) are the model's own business.

use squint_ir::affine::QuantParams;
use squint_ir::{DType, Graph, OpId, Type, ValueId};
use squint_ops::Class;
use squint_targets::{Format, Site};

/// Element type, scale and zero point of a QuantizeLinear or DequantizeLinear, if they are constant, for the whole tensor
/// and of 8 bits.
pub(crate) fn grid(g: &Graph, op: OpId) -> Option<(DType, QuantParams)> {
    let node = g.op(op);
    let quantizes = node.op_type == "QuantizeLinear";
    if !(quantizes || node.op_type == "DequantizeLinear")
        || !(node.is_onnx() || node.domain == squint_ops::MICROSOFT)
    {
        return None;
    }
    let konst = |slot| g.operand(op, slot).map(|v| g.konst(v).filter(|_| !g.is_input(v)));
    let scale = konst(1)??;
    if scale.dtype() != DType::Float || scale.len() != 1 {
        return None;
    }
    let levels = if quantizes { g.result(op, 0) } else { g.operand(op, 0) };
    let declared = || levels.and_then(|v| g.konst(v).map(|t| t.dtype()).or(g.ty(v).and_then(Type::dtype)));
    let (dtype, zero_point) = match konst(2) {
        Some(zero) => (zero?.dtype(), *zero?.to_i64s()?.first()? as i32),
        None => (declared().unwrap_or(DType::Uint8), 0),
    };
    let params = QuantParams { scale: *scale.f32s().first()?, zero_point };
    matches!(dtype, DType::Uint8 | DType::Int8).then_some((dtype, params))
}

/// True for an operator at the border of an island whose grid others can take over.
pub(crate) fn is_border(g: &Graph, op: OpId) -> bool {
    grid(g, op).is_some()
}

/// The grid that a value has already, as a grid of the target's element type.
pub(crate) fn given(g: &Graph, v: ValueId, format: Format) -> Option<QuantParams> {
    let made = g.producer(v).filter(|(op, _)| g.op(*op).op_type == "DequantizeLinear");
    let read = || {
        g.uses(v).into_iter().find(|u| u.slot == 0 && !u.capture && g.op(u.op).op_type == "QuantizeLinear")
    };
    let (dtype, p) = grid(g, made.map(|(op, _)| op).or_else(|| Some(read()?.op))?)?;
    let zero_point = match (dtype, format.dtype) {
        (a, b) if a == b => p.zero_point,
        (DType::Int8, DType::Uint8) => p.zero_point + 128,
        (DType::Uint8, DType::Int8) => p.zero_point - 128,
        _ => return None,
    };
    // A symmetric grid has its zero point in the middle.
    let fits = !format.grid.symmetric || zero_point == format.grid.params(0.0, 0.0).zero_point;
    fits.then_some(QuantParams { zero_point, ..p })
}

/// True if an operator works on dequantized values for the model itself: it has a quantized weight; or all that it reads
/// is dequantized and all that it makes quantized; or it makes real numbers of an integer product.
pub(crate) fn is_inside(g: &Graph, op: OpId, site: &Site<'_>) -> bool {
    let made_by =
        |v: ValueId, op_type: &str| g.producer(v).is_some_and(|(op, _)| g.op(op).op_type == op_type);
    let dequantized = |v: ValueId| made_by(v, "DequantizeLinear");
    if site.row.class == Class::Contraction {
        return g.operand(op, 1).is_some_and(dequantized);
    }
    let reads: Vec<ValueId> = site.activations().into_iter().filter_map(|s| g.operand(op, s)).collect();
    if reads.iter().any(|v| made_by(*v, "DynamicQuantizeLinear") || is_integer_product(g, *v)) {
        return true;
    }
    let quantized = |v: ValueId| {
        let uses = g.uses(v);
        !uses.is_empty() && !g.is_output(v) && uses.iter().all(|u| g.op(u.op).op_type == "QuantizeLinear")
    };
    let makes = g.results(op).into_iter().flatten();
    !reads.is_empty() && reads.into_iter().all(dequantized) && makes.into_iter().all(quantized)
}

/// True for `Cast` of an integer product, and for that times its scale.
fn is_integer_product(g: &Graph, v: ValueId) -> bool {
    let operands = |v: ValueId| g.producer(v).map(|(op, _)| (&g.op(op).op_type, g.operands(op)));
    let is_cast = |v: ValueId| match operands(v) {
        Some((op_type, of)) if op_type == "Cast" => of.first().copied().flatten().is_some_and(|p| {
            operands(p).is_some_and(|(t, _)| matches!(t.as_str(), "MatMulInteger" | "ConvInteger"))
        }),
        _ => false,
    };
    is_cast(v)
        || operands(v).is_some_and(|(op_type, of)| op_type == "Mul" && of.into_iter().flatten().any(is_cast))
}
