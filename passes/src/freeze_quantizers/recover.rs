//! Integers of weights that were rounded before the model was written.
//!
//! Some exporters compute what quantizers make of weights, and fold BatchNormalization into that (TensorFlow's training
//! through tf2onnx): the file has float weights without a quantizer, but each output channel is a multiple of integers
//! still. Its largest magnitude is the scale times one of 1 to 127 (or 128, for one that is negative), of which the first is
//! taken that makes integers of all others. What was found stands for the same numbers, up to the rounding of
//! float32, so that nothing is lost where a weight lies on a grid by chance.

use crate::frozen::{Frozen, FrozenWeight};
use squint_ir::affine::ChannelLayout;
use squint_ir::{DType, Graph, Tensor};
use squint_ops::{Class, Port};

/// How far a weight may be from its level, in parts of the largest one of its channel: some roundings of float32.
const NEAR: f64 = 2e-6;

/// Adds the integers of weights without a quantizer that lie on a grid; returns how many weights do.
pub(super) fn recover(g: &Graph, frozen: &mut Frozen) -> usize {
    let mut n = 0;
    for op in g.ops() {
        let node = g.op(op);
        let row = squint_ops::row(&node.domain, &node.op_type).filter(|r| r.class == Class::Contraction);
        let Some(row) = row else { continue };
        for (slot, v) in (0u32..).zip(g.operands(op)) {
            let (Port::Weight(axis), Some(v)) = (row.port(slot), v) else { continue };
            let Some(t) = g.konst(v).filter(|t| t.dtype() == DType::Float && !g.is_input(v)) else {
                continue;
            };
            if frozen.weights.contains(v) {
                continue;
            }
            if let Some(found) = on_a_grid(t, axis.resolve(node, t.rank())) {
                frozen.weights.insert(v, found);
                n += 1;
            }
        }
    }
    n
}

/// The integers of a weight, with a scale for each index of an axis; `None` if it does not lie on such a grid.
fn on_a_grid(t: &Tensor, axis: Option<usize>) -> Option<FrozenWeight> {
    let data = t.f32s();
    let layout = ChannelLayout::along(t.dims(), axis)?;
    let mut scales = Vec::with_capacity(layout.channels);
    for c in 0..layout.channels {
        let channel: Vec<f32> = layout.channel(&data, c).flatten().copied().collect();
        scales.push(scale(&channel)?);
    }
    let of = |i: usize| scales[i / layout.inner.max(1) % layout.channels.max(1)];
    let levels = data.iter().enumerate().map(|(i, w)| (f64::from(*w) / f64::from(of(i))).round() as i16);
    Some(FrozenWeight { levels: levels.collect(), axis, scales: scales.into(), bounds: (-128, 127) })
}

/// A scale of which all numbers are multiples, 127 times it at most, or -128 times; `None` if there is none.
fn scale(channel: &[f32]) -> Option<f32> {
    let largest = channel.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    if largest == 0.0 {
        return Some(1.0);
    }
    if !largest.is_finite() || channel.iter().any(|w| w.is_nan()) {
        return None;
    }
    let most = f64::from(largest) * NEAR;
    let below = !channel.contains(&largest);
    let levels = (1..=127).rev().chain(below.then_some(128));
    let scales = levels.map(|k| (f64::from(largest) / f64::from(k)) as f32);
    let fits = |s: &f32| {
        let s = f64::from(*s);
        channel.iter().map(|w| f64::from(*w)).all(|w| ((w / s).round() * s - w).abs() <= most)
    };
    scales.filter(|s| s.is_normal()).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_weights_have_their_integers() {
        let levels: [i16; 8] = [127, -3, 64, 0, -128, 5, 90, 1];
        let of = |i: usize| if i < 4 { 0.0123f32 } else { 0.0045 * 1.37 };
        let data: Vec<f32> = levels.iter().enumerate().map(|(i, k)| f32::from(*k) * of(i)).collect();
        let found = on_a_grid(&Tensor::from_f32(&[2, 4], &data), Some(0)).unwrap();
        assert_eq!((&*found.levels, found.axis), (&levels[..], Some(0)));
        assert!((found.scales[0] / 0.0123 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn weights_that_nobody_rounded_have_none() {
        let data: Vec<f32> = (0..9).map(|i| (i as f32 * 1.7).sin()).collect();
        assert!(on_a_grid(&Tensor::from_f32(&[1, 9], &data), Some(0)).is_none());
        // What is small beside the largest is not zero.
        assert!(scale(&[1.0, 1e-4]).is_none());
        assert_eq!((scale(&[0.0, 0.0]), scale(&[f32::NAN, 1.0])), (Some(1.0), None));
        assert!(scale(&[f32::INFINITY]).is_none());
    }
}
