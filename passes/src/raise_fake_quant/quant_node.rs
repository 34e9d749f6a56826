//! `Quant` of QONNX and Brevitas: quantizer and dequantizer in one operator.
//!
//! `y = (round(clamp(x / scale + zero_point, min, max)) − zero_point) · scale`, with the limits of `bitwidth` bits:
//! `signed` takes one bit for the sign, `narrow` leaves one level out (`quant_op.md`).

use super::quantizer::{Quantizer, Rounding, Unsaid, leave_out, parameter};
use crate::pass::{PassCx, PassError};
use squint_ir::{Model, OpId};

/// Raises an operator of a training tool.
///
/// # Errors
/// If it is no quantizer that ONNX can say.
pub(super) fn raise(model: &mut Model, cx: &mut PassCx<'_>, op: OpId) -> Result<(), PassError> {
    let g = model.main();
    let label = g.label(op);
    let (x, y) = (g.operand(op, 0), g.result(op, 0));
    let read = match (g.op(op).op_type.as_str(), x, y) {
        (_, Some(x), Some(y)) => read(model, op).map(|q| (q, x, y)),
        _ => Err(Unsaid::Refused("it reads or makes nothing".into())),
    };
    let written = read.and_then(|(q, x, y)| match q.write(model, cx, op, y) {
        Err(Unsaid::LeftOut(why)) => {
            leave_out(model, op, x, y);
            Ok(Some(why))
        }
        other => other.map(|()| None),
    });
    match written {
        Ok(None) => Ok(()),
        Ok(Some(why)) => {
            cx.notes.add(label, format!("this quantizer is left out, its value stays in float: {why}"));
            Ok(())
        }
        Err(Unsaid::LeftOut(why) | Unsaid::Refused(why)) => {
            let op_type = model.main().op(op).op_type.clone();
            Err(PassError::Model(format!("`{label}`: this {op_type} cannot be said in integers: {why}")))
        }
    }
}

fn read(model: &Model, id: OpId) -> Result<Quantizer, Unsaid> {
    let g = model.main();
    let op = g.op(id);
    match op.op_type.as_str() {
        "Quant" | "IntQuant" => {}
        "BipolarQuant" => {
            let why = "numbers of one bit, -1 and 1, have no zero, and no target computes with them";
            return Err(Unsaid::Refused(why.into()));
        }
        "Trunc" => {
            return Err(Unsaid::Refused(
                "it cuts bits off integers; train with averages that are rounded".into(),
            ));
        }
        other => return Err(Unsaid::Refused(format!("{other} is not known"))),
    }
    let operand = |slot: u32, what: &str| {
        let v = g.operand(id, slot).ok_or_else(|| Unsaid::Refused(format!("it has no {what}")))?;
        let t = parameter(model, v).ok_or_else(|| Unsaid::Refused(format!("its {what} is computed")))?;
        Ok((v, t))
    };
    let x = g.operand(id, 0).ok_or_else(|| Unsaid::Refused("it reads nothing".into()))?;
    let (_, scale) = operand(1, "scale")?;
    let (_, zeros) = operand(2, "zero point")?;
    let (_, bits) = operand(3, "bit width")?;
    let scales = scale.to_f32s();
    if let Some(s) = scales.iter().find(|s| !(s.is_normal() && **s > 0.0)) {
        return Err(Unsaid::Refused(format!(
            "{s} is no scale: scales are positive, finite and not subnormal"
        )));
    }
    let zeros = zeros.to_f64s();
    let zero = zeros.first().copied().unwrap_or(0.0);
    if zeros.iter().any(|z| *z != zero) {
        return Err(Unsaid::Refused("its zero points differ by channel".into()));
    }
    if zero.fract() != 0.0 || zero.abs() > 1e6 {
        return Err(Unsaid::Refused(format!("its zero point {zero} is no level")));
    }
    let bits =
        bits.scalar_value().ok_or_else(|| Unsaid::Refused("its bit width differs by channel".into()))?;
    if !((1.0..=32.0).contains(&bits) && bits.fract() == 0.0) {
        return Err(Unsaid::Refused(format!("{bits} is no number of bits")));
    }
    let (signed, narrow) = (op.int("signed").unwrap_or(1) != 0, op.int("narrow").unwrap_or(0));
    let (lowest, highest) = limits(bits as u32, signed, narrow != 0);
    if lowest == highest {
        return Err(Unsaid::Refused(format!("{bits} bits of this kind have one level")));
    }
    let rounding = match op.string("rounding_mode").unwrap_or("ROUND").to_ascii_uppercase().as_str() {
        "ROUND" | "HALF_EVEN" => Rounding::Nearest,
        "CEIL" => Rounding::Other(f64::ceil),
        "FLOOR" => Rounding::Other(f64::floor),
        "UP" => Rounding::Other(|x| x.abs().ceil().copysign(x)),
        "DOWN" | "ROUND_TO_ZERO" => Rounding::Other(f64::trunc),
        "HALF_UP" => Rounding::Other(f64::round),
        "HALF_DOWN" => Rounding::Other(|x| (x.abs() - 0.5).ceil().copysign(x)),
        other => return Err(Unsaid::Refused(format!("the rounding `{other}` is not known"))),
    };
    Ok(Quantizer { x, scale, zero_point: zero as i64, lowest, highest, rounding })
}

/// The lowest and highest level of so many bits.
fn limits(bits: u32, signed: bool, narrow: bool) -> (i64, i64) {
    let narrow = i64::from(narrow);
    match signed {
        true => (-(1i64 << (bits - 1)) + narrow, (1i64 << (bits - 1)) - 1),
        false => (0, (1i64 << bits) - 1 - narrow),
    }
}

#[cfg(test)]
mod tests {
    use super::limits;

    #[test]
    fn limits_are_those_of_qonnx() {
        assert_eq!(limits(4, true, false), (-8, 7));
        assert_eq!(limits(4, true, true), (-7, 7));
        assert_eq!(limits(8, false, false), (0, 255));
        assert_eq!(limits(8, false, true), (0, 254));
        assert_eq!(limits(1, true, false), (-1, 0));
    }
}
