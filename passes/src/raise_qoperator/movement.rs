//! Operators that move integers, or pick the largest, between operators of known grids: they do the same to the float
//! values, because a larger level is a larger number.
//!
//! ```text
//! y = MaxPool (x)                                       x on the grid (s, z)
//!
//! x_f = DequantizeLinear (x, s, z)    y_f = MaxPool (x_f)    y = QuantizeLinear (y_f, s, z)
//! ```
//!
//! The result is on the same grid, so quantizing it again loses nothing. An operator whose grid is not known (it reads
//! a graph input of integers) stays as it is.

use super::Miss;
use super::site::{Levels, Site};
use squint_ir::affine::dequantize;
use squint_ir::{DType, OpId, Tensor};
use squint_ops::{Class, row};

/// Raises the operator if it is such a one, and returns whether it was. Not being raised is no loss worth a note.
pub(super) fn raise(site: &mut Site<'_, '_>) -> bool {
    match common_grid(site) {
        Some(grid) if moves(site) => raise_on(site, grid).is_ok(),
        _ => false,
    }
}

fn moves(site: &Site<'_, '_>) -> bool {
    let op = site.op();
    if !op.is_onnx() || op.bodies().next().is_some() {
        return false;
    }
    match (op.op_type.as_str(), row("", &op.op_type).map(|r| r.class)) {
        ("Cast" | "CastLike" | "Dropout", _) => false,
        ("Resize" | "Upsample", _) => op.string("mode").unwrap_or("nearest") == "nearest",
        ("Pad", _) => site.optional(3).is_none(),
        (_, Some(Class::Movement | Class::Join | Class::MaxPool)) => true,
        _ => false,
    }
}

/// The grid on which all data operands stand.
fn common_grid(site: &Site<'_, '_>) -> Option<Levels> {
    let first = site.grid(site.optional(0)?)?;
    let same = |v: squint_ir::ValueId| {
        site.grid(v).is_some_and(|g| {
            let equal = |a, b| a == b || site.konst(a).zip(site.konst(b)).is_some_and(|(a, b)| a == b);
            let zeros = match (g.zero_point, first.zero_point) {
                (Some(a), Some(b)) => equal(a, b),
                (a, b) => a == b,
            };
            equal(g.scale, first.scale) && zeros
        })
    };
    let joined = if site.op().is("Concat") { site.g().operands(site.id) } else { Vec::new() };
    joined.into_iter().flatten().all(same).then_some(first)
}

fn raise_on(site: &mut Site<'_, '_>, grid: Levels) -> Result<(), Miss> {
    let padding = padding(site, grid)?;
    let (id, op_type) = (site.id, site.op().op_type.clone());
    let mut operands = site.g().operands(id);
    let data = if op_type == "Concat" { operands.len() } else { 1 };
    for v in operands.iter_mut().take(data) {
        if let Some(x) = *v {
            let levels = site.grid(x).unwrap_or(Levels { data: x, ..grid });
            *v = Some(site.dequantize(levels, None));
        }
    }
    if let Some(value) = padding {
        let name = format!("{}_value", site.g().label(id));
        operands[2] = value.map(|v| site.add_const(&name, Tensor::scalar_f32(v)));
    }
    site.become_op(&op_type, &operands);
    for slot in 0..results(site, id) {
        // A second result of MaxPool holds positions.
        if slot > 0 && op_type == "MaxPool" {
            break;
        }
        if site.g().result(id, slot).is_some() {
            site.quantize_result(slot, grid.scale, grid.zero_point, None, grid.data)?;
        }
    }
    Ok(())
}

fn results(site: &Site<'_, '_>, id: OpId) -> u32 {
    site.g().results(id).len() as u32
}

/// The real number that Pad fills with (`None` inside for zero, its default); `None` for another operator.
fn padding(site: &Site<'_, '_>, grid: Levels) -> Result<Option<Option<f32>>, Miss> {
    if !site.op().is("Pad") || site.op().string("mode").unwrap_or("constant") != "constant" {
        return Ok(None);
    }
    let integer = |v| site.konst(v).and_then(|t| t.to_i64s()?.first().copied());
    let zero = match grid.zero_point {
        Some(z) => integer(z).ok_or("its zero point is computed")?,
        None => 0,
    };
    let level = match site.optional(2) {
        Some(v) => integer(v).ok_or("its padding is computed")?,
        None => 0,
    };
    if level == zero {
        return Ok(Some(None));
    }
    let scale = site.konst(grid.scale).filter(|t| t.dtype() == DType::Float);
    let scale = scale.and_then(|t| t.f32s().first().copied()).ok_or("its scale is computed")?;
    Ok(Some(Some(dequantize(level as i32, scale, zero as i32))))
}
