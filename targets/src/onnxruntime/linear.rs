//! QuantizeLinear and DequantizeLinear as the runtime compares them (`qdq_util.cc`).

use super::sim::Sim;
use squint_ir::{DType, OpId, Tensor, ValueId};
use std::sync::Arc;

/// The operands of a QuantizeLinear or DequantizeLinear.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    /// What is converted.
    pub(super) data: ValueId,
    /// The scale.
    pub(super) scale: ValueId,
    /// The zero point, if it is given.
    pub(super) zero_point: Option<ValueId>,
}

impl Linear {
    /// The operands of `op`; `None` if it lacks one.
    pub(super) fn of(sim: &Sim, op: OpId) -> Option<Linear> {
        let operand = |slot| sim.g.operand(op, slot);
        Some(Linear { data: operand(0)?, scale: operand(1)?, zero_point: operand(2) })
    }

    /// Whether scale and zero point, if there is one, are constant scalars.
    pub(super) fn constant_scalars(self, sim: &Sim) -> bool {
        let fits = |v: ValueId| sim.is_scalar(v) && sim.is_constant(v);
        fits(self.scale) && self.zero_point.is_none_or(fits)
    }

    /// The scale, if it is a constant scalar.
    pub(super) fn scale(self, sim: &Sim) -> Option<f32> {
        sim.tensor(self.scale)?.scalar_value().map(|x| x as f32)
    }

    /// The zero point, if it is given as a constant scalar.
    pub(super) fn zero_point(self, sim: &Sim) -> Option<i64> {
        match sim.tensor(self.zero_point?)?.to_i64s()?.as_slice() {
            [z] => Some(*z),
            _ => None,
        }
    }
}

/// The integer type on the integer side of a QuantizeLinear or DequantizeLinear.
pub(super) fn code_type(sim: &Sim, op: OpId) -> Option<DType> {
    let l = Linear::of(sim, op)?;
    if sim.is_dq(op) {
        return sim.dtype(l.data).or_else(|| sim.dtype(l.zero_point?));
    }
    let declared = || DType::from_code(i32::try_from(sim.g.op(op).int("output_dtype")?).ok()?);
    let zero_point = l.zero_point.and_then(|z| sim.dtype(z));
    zero_point.or_else(declared).or_else(|| sim.dtype(sim.result(op)?)).or(Some(DType::Uint8))
}

/// Why two conversions are not the same in both directions.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Differs {
    /// One lacks a zero point, which the runtime does not take for 0 here.
    NoZeroPoint,
    /// A scale or zero point is no constant scalar.
    NotScalar,
    /// The zero points differ in type or number.
    ZeroPoint,
    /// The scales differ.
    Scale(f32, f32),
}

/// Whether a QuantizeLinear and a DequantizeLinear have the same constant scalars.
///
/// # Errors
/// How they differ.
pub(super) fn same(sim: &Sim, q: OpId, dq: OpId) -> Result<(), Differs> {
    let (Some(a), Some(b)) = (Linear::of(sim, q), Linear::of(sim, dq)) else {
        return Err(Differs::NotScalar);
    };
    let (Some(za), Some(zb)) = (a.zero_point, b.zero_point) else { return Err(Differs::NoZeroPoint) };
    let scalar = |v: ValueId| -> Option<&Arc<Tensor>> { sim.tensor(v).filter(|_| sim.is_scalar(v)) };
    let (Some(sa), Some(sb), Some(za), Some(zb)) = (scalar(a.scale), scalar(b.scale), scalar(za), scalar(zb))
    else {
        return Err(Differs::NotScalar);
    };
    if za.dtype() != zb.dtype() || za.bytes() != zb.bytes() {
        return Err(Differs::ZeroPoint);
    }
    let number = |t: &Tensor| t.scalar_value().unwrap_or(f64::NAN) as f32;
    let (sa, sb) = (number(sa), number(sb));
    if sa == sb { Ok(()) } else { Err(Differs::Scale(sa, sb)) }
}
