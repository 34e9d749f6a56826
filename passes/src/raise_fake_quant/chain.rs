//! Quantizers written out in arithmetic: `Div, Add, Round, Clip, Sub, Mul` and their like.
//!
//! Read upwards from the last Mul or Div: what scales the levels back, a zero point taken off, rounding and clamping in
//! either order, the zero point put on, what scales to levels, and perhaps a Clip of real numbers before that. It is a
//! quantizer only if all of that agrees: one scale on both sides, whole zero points, and limits on both ends that are
//! levels.

use super::quantizer::{Quantizer, Rounding, Unsaid, parameter};
use crate::pass::PassCx;
use squint_ir::{DType, Model, OpId, Tensor, ValueId};
use std::sync::Arc;

/// One step upwards.
enum Step {
    /// Adds a number.
    Shift(f64),
    /// Rounds to the nearest whole number.
    Round,
    /// Keeps within limits.
    Clamp(f64, f64),
}

/// Raises the quantizer that ends with an operator, if one does. Whether it did.
pub(super) fn raise(model: &mut Model, cx: &mut PassCx<'_>, op: OpId) -> bool {
    let Some(y) = model.main().result(op, 0) else { return false };
    let Some(quantizer) = read(model, op) else { return false };
    let label = model.main().label(op);
    match quantizer.write(model, cx, op, y) {
        Ok(()) => true,
        Err(Unsaid::LeftOut(why) | Unsaid::Refused(why)) => {
            // It still computes what it says.
            cx.notes.add(label, format!("looks like a quantizer, but is left as it is: {why}"));
            false
        }
    }
}

fn read(model: &Model, last: OpId) -> Option<Quantizer> {
    let (mut at, out_scale) = scaling(model, last, true)?;
    let mut steps = Vec::new();
    // Steps of the longest spelling; what is longer is something else.
    for _ in 0..6 {
        let (op, _) = model.main().producer(at)?;
        model.main().only_use(at)?;
        if model.main().is_output(at) {
            return None;
        }
        if let Some((x, step)) = step(model, op) {
            steps.push(step);
            at = x;
            continue;
        }
        let (x, in_scale) = scaling(model, op, false)?;
        if !alike(&in_scale, &out_scale) {
            return None;
        }
        steps.reverse();
        return quantizer(model, x, if exact(model, op) { in_scale } else { out_scale }, &steps);
    }
    None
}

/// True if an operator divides by the scale itself.
fn exact(model: &Model, op: OpId) -> bool {
    model.main().op(op).is("Div")
}

/// The other operand of a Mul or Div by constants, and the scale that stands in it: the factor of what scales back, the
/// divisor of what scales to levels.
fn scaling(model: &Model, op: OpId, back: bool) -> Option<(ValueId, Arc<Tensor>)> {
    let g = model.main();
    let node = g.op(op);
    let (a, b) = (g.operand(op, 0)?, g.operand(op, 1)?);
    let divides = node.is("Div");
    if !divides && !node.is("Mul") {
        return None;
    }
    let (x, k) = match (parameter(model, a), parameter(model, b)) {
        (None | Some(_), Some(k)) => (a, k),
        (Some(k), None) if !divides => (b, k),
        _ => return None,
    };
    if k.dtype() != DType::Float {
        return None;
    }
    let k = if divides == back {
        let inverse: Vec<f32> = k.f32s().iter().map(|k| (1.0 / f64::from(*k)) as f32).collect();
        Arc::new(Tensor::from_f32(k.dims(), &inverse))
    } else {
        k
    };
    k.f32s().iter().all(|s| s.is_normal() && *s > 0.0).then_some((x, k))
}

/// Scales that differ by no more than roundings.
fn alike(a: &Tensor, b: &Tensor) -> bool {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 4.0 * f32::EPSILON * b.abs();
    a.len() == b.len() && a.f32s().iter().zip(b.f32s().iter()).all(near)
}

fn step(model: &Model, op: OpId) -> Option<(ValueId, Step)> {
    let g = model.main();
    let node = g.op(op);
    let x = g.operand(op, 0)?;
    let number = |slot: u32| -> Option<Option<f64>> {
        match g.operand(op, slot) {
            None => Some(None),
            Some(v) => parameter(model, v)?.scalar_value().map(Some),
        }
    };
    let both = || match (number(0), number(1)) {
        (_, Some(Some(k))) => Some((x, k)),
        (Some(Some(k)), _) => Some((g.operand(op, 1)?, k)),
        _ => None,
    };
    if !node.is_onnx() {
        return None;
    }
    match node.op_type.as_str() {
        "Round" => Some((x, Step::Round)),
        "Clip" => {
            let (lo, hi) = (number(1)?.unwrap_or(f64::NEG_INFINITY), number(2)?.unwrap_or(f64::INFINITY));
            Some((x, Step::Clamp(lo, hi)))
        }
        "Max" => both().map(|(x, k)| (x, Step::Clamp(k, f64::INFINITY))),
        "Min" => both().map(|(x, k)| (x, Step::Clamp(f64::NEG_INFINITY, k))),
        "Relu" => Some((x, Step::Clamp(0.0, f64::INFINITY))),
        "Add" => both().map(|(x, k)| (x, Step::Shift(k))),
        "Sub" => number(1)?.map(|k| (x, Step::Shift(-k))),
        _ => None,
    }
}

/// What the steps from a scaled value to a level say, all together.
fn quantizer(model: &Model, mut x: ValueId, scale: Arc<Tensor>, steps: &[Step]) -> Option<Quantizer> {
    // What is added so far, and the limits counted from real zero.
    let (mut offset, mut zero_point, mut rounds) = (0.0, 0.0, false);
    let (mut lowest, mut highest) = (f64::NEG_INFINITY, f64::INFINITY);
    for step in steps {
        match step {
            Step::Shift(k) => offset += k,
            Step::Round if rounds || offset.fract() != 0.0 => return None,
            Step::Round => rounds = true,
            Step::Clamp(lo, hi) => {
                (lowest, highest) = (lowest.max(lo - offset), highest.min(hi - offset));
                zero_point = offset;
            }
        }
    }
    if !rounds || offset != 0.0 {
        return None;
    }
    if !(lowest.is_finite() && highest.is_finite())
        && let Some((of, (lo, hi))) = real_limits(model, x)
        && scale.len() == 1
    {
        let s = f64::from(scale.f32s()[0]);
        (lowest, highest) = (lowest.max(lo / s), highest.min(hi / s));
        x = of;
    }
    let whole = |k: f64| (k - k.round()).abs() < 1e-3 && k.abs() < 1e9;
    if !(whole(lowest) && whole(highest) && whole(zero_point)) || lowest > 0.0 || highest <= 0.0 {
        return None;
    }
    let z = zero_point.round() as i64;
    Some(Quantizer {
        x,
        scale,
        zero_point: z,
        lowest: lowest.round() as i64 + z,
        highest: highest.round() as i64 + z,
        rounding: Rounding::Nearest,
    })
}

/// The value before a Clip of real numbers that only a quantizer reads, and its limits.
fn real_limits(model: &Model, x: ValueId) -> Option<(ValueId, (f64, f64))> {
    let g = model.main();
    let (op, _) = g.producer(x)?;
    g.only_use(x)?;
    match step(model, op)? {
        (of, Step::Clamp(lo, hi)) if g.op(op).is("Clip") && lo.is_finite() && hi.is_finite() => {
            Some((of, (lo, hi)))
        }
        _ => None,
    }
}
