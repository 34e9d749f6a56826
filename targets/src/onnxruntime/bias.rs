//! Whether the scale of a quantized bias is what the kernel assumes.

use super::linear::Linear;
use super::select::Miss;
use super::sim::Sim;
use squint_ir::OpId;

/// Largest relative error of a bias scale that is let pass, and an absolute one beside it.
const TOLERANCE: (f64, f64) = (1e-2, 1e-6);

/// A bias in 32-bit integers is added to products of data and weight as it is, so its scale has to be the product of
/// theirs, and its zero point 0.
///
/// # Errors
/// What does not fit.
pub(super) fn matches(sim: &Sim, data: OpId, weight: OpId, bias: OpId) -> Result<(), Miss> {
    let all = [data, weight, bias].map(|op| Linear::of(sim, op));
    let [Some(x), Some(w), Some(b)] = all else { return Ok(()) };
    let zero = |l: Linear| match l.zero_point {
        None => true,
        Some(z) => sim.tensor(z).and_then(|t| t.to_i64s()).is_some_and(|z| z.iter().all(|z| *z == 0)),
    };
    if !zero(b) {
        return Err(Miss::BiasParams("the zero point of its bias is not 0"));
    }
    let numbers = |l: Linear| sim.tensor(l.scale).map(|t| t.to_f64s());
    let (Some(xs), Some(ws), Some(bs)) = (numbers(x), numbers(w), numbers(b)) else { return Ok(()) };
    if bs.len() != ws.len() {
        return Err(Miss::BiasParams("its bias has another number of scales than its weight"));
    }
    let [xs] = xs[..] else { return Ok(()) };
    let mut worst: f64 = 0.0;
    for (w, b) in ws.iter().zip(&bs) {
        let product = xs * w;
        if (b - product).abs() > TOLERANCE.0 * product.abs() + TOLERANCE.1 {
            worst = worst.max((b / product - 1.0).abs());
        }
    }
    if worst > 0.0 { Err(Miss::BiasScale(worst)) } else { Ok(()) }
}
