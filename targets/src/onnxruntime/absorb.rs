//! Relu and Clip that a QuantizeLinear behind them implies (`IsClipMadeRedundantByQ` in `qdq_util.cc`,
//! `clip_quantizelinear.cc`, `relu_quantizelinear.cc`).

use super::linear::{Linear, code_type};
use super::sim::{Gone, Sim};
use squint_ir::{DType, OpId};

/// Why a Relu or Clip does something that quantizing does not.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kept {
    /// The scale or zero point is not a constant of rank 0.
    NotScalar,
    /// Its limits are not constants.
    Limits,
    /// The integers go below its lower limit: the zero point, and what it would have to be.
    Below(i64, i64),
    /// The range of the integers, in real numbers, is wider than its limits.
    Wider {
        /// Smallest and largest number that the integers stand for.
        range: (f32, f32),
        /// The limits.
        limits: (f32, f32),
    },
}

/// Whether quantizing gives the same without `clamp` before it.
///
/// # Errors
/// Why not.
pub(super) fn redundant(sim: &Sim, clamp: OpId, q: OpId) -> Result<(), Kept> {
    let (scale, zero, (lo, hi)) = params(sim, q).ok_or(Kept::NotScalar)?;
    if sim.g.op(clamp).op_type == "Relu" {
        return if zero == lo { Ok(()) } else { Err(Kept::Below(zero, lo)) };
    }
    let limits = limits(sim, clamp).ok_or(Kept::Limits)?;
    let code = |x: f32| (f64::from(x / scale).round_ties_even() as i64).saturating_add(zero);
    if code(limits.0) <= lo && code(limits.1) >= hi {
        return Ok(());
    }
    let real = |code: i64| (code - zero) as f32 * scale;
    Err(Kept::Wider { range: (real(lo), real(hi)), limits })
}

/// Removes Relu and Clip before a QuantizeLinear that implies them, whatever makes their operand.
pub(super) fn remove_redundant(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        let node = sim.g.op(op);
        if !(node.is("Relu") || node.is("Clip")) {
            continue;
        }
        let Some(q) = sim.only_edge(op).filter(|u| sim.is_q(u.op)) else { continue };
        let explicit = Linear::of(sim, q.op).is_some_and(|l| l.zero_point.is_some());
        if !explicit || redundant(sim, op, q.op).is_err() {
            continue;
        }
        if let Some(x) = sim.g.operand(op, 0) {
            sim.g.set_operand(q.op, 0, Some(x));
            sim.remove(op, Gone::Into(q.op));
            changed = true;
        }
    }
    changed
}

/// Scale, zero point and levels of a QuantizeLinear with constants of rank 0.
fn params(sim: &Sim, q: OpId) -> Option<(f32, i64, (i64, i64))> {
    let l = Linear::of(sim, q)?;
    let rank_0 = |v| sim.tensor(v).is_some_and(|t| t.rank() == 0);
    if !rank_0(l.scale) || !l.zero_point.is_none_or(rank_0) || sim.dtype(l.scale) != Some(DType::Float) {
        return None;
    }
    let zero = if l.zero_point.is_some() { l.zero_point(sim)? } else { 0 };
    let levels = match code_type(sim, q)? {
        DType::Uint8 => (0, 255),
        DType::Int8 => (-128, 127),
        DType::Uint16 => (0, 65535),
        DType::Int16 => (-32768, 32767),
        _ => return None,
    };
    Some((l.scale(sim)?, zero, levels))
}

/// The limits of a Clip, if they are constants.
fn limits(sim: &Sim, clip: OpId) -> Option<(f32, f32)> {
    let limit = |slot: u32, name: &str, missing: f32| match sim.g.operand(clip, slot) {
        Some(v) => sim.tensor(v)?.scalar_value().map(|x| x as f32),
        None => Some(sim.g.op(clip).float(name).unwrap_or(missing)),
    };
    Some((limit(1, "min", f32::MIN)?, limit(2, "max", f32::MAX)?))
}
