//! The factor of each class of channels.
//!
//! A value `x` of range `R` is rounded in steps of `R/255`. Where a contraction reads it with weights `w`,
//! the noise of a channel that was scaled by `s` arrives at its results with the energy
//! `R²/255²/12 · p Σ w² / s²`, `p` being the share of elements that are not zero, which is no subject to rounding. The rounding of the weights, `w/s` in steps of `Δ`, adds `Σ Δ²/12 · s² E[x²]`.
//! The sum is least at
//!
//! ```text
//! s⁴ = R²/255² · p Σ w² / (Σ Δ² · E[x²])
//! ```
//!
//! but no channel may exceed the range of its value: that would make the steps of all others coarser. The
//! second term is missing where each result is made from one channel only (depthwise), since the scale of the
//! weight follows: there all channels fill the range. `R` and `Δ` depend on the factors and are found by
//! iteration. This is cross-layer equalisation (Nagel et al., "Data-free quantization through weight
//! equalization and bias correction", 2019) with ranges of activations from data in the place of those of
//! weights, and the trade of SmoothQuant (Xiao et al., 2023) solved for each channel instead of one exponent
//! for all.

use super::classes::{Channels, Classes, Kind};
use super::coordinates::Coordinates;
use super::ranges::Ranges;
use squint_ir::{Graph, ValueId, ValueTable};

/// Rounds of the iteration.
const ROUNDS: usize = 6;

/// A channel must stay this much below the bound of a Clip, which other data may reach.
const MARGIN: f32 = 1.05;

/// Largest factor, and inverse of the smallest: a channel that is nearly dead in a few samples may be alive in
/// others.
const LARGEST: f64 = 16.0;

/// Ranges are clipped later, to about 0.7 of what was seen: the energy of noise is so much smaller.
const CLIPPED: f64 = 0.5;

/// Factors, and what they are expected to bring.
pub(super) struct Solution {
    /// The factor of each class, by its number.
    pub(super) factors: Vec<f64>,
    /// Decibels less noise at the results of contractions, in the mean of their shares of noise; not a number where no
    /// contraction tells.
    pub(super) gain: f64,
}

/// The best factors. `observed` has what was seen of channels.
pub(super) fn solve(g: &Graph, classes: &Classes, observed: &[(ValueId, Ranges)]) -> Solution {
    let mut seen = ValueTable::new();
    for (v, r) in observed {
        seen.insert(*v, r);
    }
    let caps = caps(classes, &seen);
    let readers = readers(g, classes, &seen);
    let mut factors = vec![1.0; classes.len()];
    for _ in 0..ROUNDS {
        factors = round(classes, observed, &readers, &caps, &factors);
    }
    let with = |factors: &[f64]| noise(&widths(classes, observed, factors), &readers, factors);
    let (before, after) = (with(&vec![1.0; classes.len()]), with(&factors));
    Solution { factors, gain: 10.0 * (before / after).log10() }
}

/// A contraction that reads a value whose channels were seen.
struct Reader<'g> {
    value: ValueId,
    coordinates: Coordinates,
    weight: std::borrow::Cow<'g, [f32]>,
    /// Sum of the squared weights of each input channel.
    gains: Vec<f64>,
}

fn readers<'g>(g: &'g Graph, classes: &Classes, seen: &ValueTable<&Ranges>) -> Vec<Reader<'g>> {
    let contractions = classes.absorbers.iter().filter(|a| a.kind == Kind::Contraction);
    let reader = |op| {
        let value = g.operand(op, 0).filter(|v| seen.contains(*v))?;
        let weight = g.konst(g.operand(op, 1)?)?;
        let coordinates = Coordinates::new(g.op(op), weight.dims())?;
        (classes.of(value)?.ids.len() == coordinates.inputs).then_some(())?;
        let weight = weight.f32s();
        let gains = coordinates.energies(&weight);
        Some(Reader { value, coordinates, weight, gains })
    };
    contractions.filter_map(|a| reader(a.op)).collect()
}

impl Reader<'_> {
    /// The noise of each channel.
    fn noise(&self, Width { hi, lo, ids, seen }: &Width<'_>, factors: &[f64]) -> Vec<Noise> {
        let steps = self.steps(ids, factors);
        let count = seen.count.max(1) as f64;
        let of_channel = |c: usize| Noise {
            of_data: ((hi + lo) / 255.0).powi(2) * self.gains[c] * seen.filled[c] as f64 / count,
            of_weights: steps.as_ref().map_or(0.0, |steps| steps[c] * seen.energy[c] / count),
            signal: self.gains[c] * seen.energy[c] / count,
        };
        (0..ids.len()).map(of_channel).collect()
    }

    /// Squared steps of the weights of each result, summed over the results that an input channel is part
    /// of; `None` where the step follows the channel's factor.
    fn steps(&self, ids: &[usize], factors: &[f64]) -> Option<Vec<f64>> {
        if self.coordinates.fan_in == 1 {
            return None;
        }
        let inverse: Vec<f64> = ids.iter().map(|id| 1.0 / factors[*id]).collect();
        let largest = self.coordinates.largest(&self.weight, &inverse);
        let squares: Vec<f64> = largest.iter().map(|largest| (largest / 127.0).powi(2)).collect();
        Some(self.coordinates.of_outputs(&squares))
    }
}

/// How far a value reaches on both sides of zero, its channels scaled.
struct Width<'a> {
    hi: f64,
    lo: f64,
    /// Classes of the channels.
    ids: Vec<usize>,
    seen: &'a Ranges,
}

/// The widths of values, with factors.
fn widths<'a>(
    classes: &Classes,
    observed: &'a [(ValueId, Ranges)],
    factors: &[f64],
) -> ValueTable<Width<'a>> {
    let mut widths = ValueTable::new();
    for (v, seen) in observed {
        let Some(Channels { ids, .. }) = classes.of(*v) else { continue };
        let ids: Vec<usize> = ids.iter().map(|id| classes.class(*id)).collect();
        let largest = |side: &dyn Fn(usize) -> f32| {
            ids.iter().enumerate().map(|(c, id)| f64::from(side(c)) * factors[*id]).fold(0.0, f64::max)
        };
        let (hi, lo) = (largest(&|c| seen.hi[c]), largest(&|c| -seen.lo[c]));
        widths.insert(*v, Width { hi, lo, ids, seen });
    }
    widths
}

/// What comes of a channel at the results of a contraction: the energy of its noise, by twelve, before it is divided or
/// multiplied by the squared factor.
struct Noise {
    of_data: f64,
    of_weights: f64,
    signal: f64,
}

/// The noise of all readers, each as a share of its signal.
fn noise(widths: &ValueTable<Width<'_>>, readers: &[Reader<'_>], factors: &[f64]) -> f64 {
    let share = |reader: &Reader<'_>| {
        let width = widths.get(reader.value)?;
        let (mut noise, mut signal) = (0.0, 0.0);
        for (id, n) in width.ids.iter().zip(reader.noise(width, factors)) {
            let square = factors[*id].powi(2);
            noise += CLIPPED * n.of_data / square + n.of_weights * square;
            signal += n.signal;
        }
        (signal > 0.0).then_some(noise / signal)
    };
    readers.iter().filter_map(share).sum()
}

/// The largest factor of each class that keeps every Clip from clipping more than it does, infinite where
/// there is none; 1 or less fixes the factor to 1.
fn caps(classes: &Classes, seen: &ValueTable<&Ranges>) -> Vec<f64> {
    let mut caps = vec![f64::INFINITY; classes.len()];
    for limit in &classes.limits {
        let Some(Channels { ids, .. }) = classes.of(limit.value) else { continue };
        for (c, id) in ids.iter().enumerate() {
            let cap = match seen.get(limit.value) {
                Some(r) => room(limit.hi, r.hi[c]).min(room(-limit.lo, -r.lo[c])),
                None => 1.0,
            };
            let class = classes.class(*id);
            caps[class] = caps[class].min(cap);
        }
    }
    caps
}

/// The factor that brings what was seen on one side of zero up to a bound on that side. A bound of zero clips
/// a whole side, which no factor changes.
fn room(bound: f32, seen: f32) -> f64 {
    match bound {
        0.0 => f64::INFINITY,
        b if b < 0.0 => 1.0,
        b if seen > 0.0 => f64::from(b) / f64::from(seen * MARGIN),
        _ => f64::INFINITY,
    }
}

fn round(
    classes: &Classes,
    observed: &[(ValueId, Ranges)],
    readers: &[Reader<'_>],
    caps: &[f64],
    factors: &[f64],
) -> Vec<f64> {
    let mut bounds = caps.to_vec();
    let mut alive = vec![false; factors.len()];
    let widths = widths(classes, observed, factors);
    for (_, Width { hi, lo, ids, seen }) in widths.iter() {
        for (c, id) in ids.iter().enumerate() {
            for (all, one) in [(hi, seen.hi[c]), (lo, -seen.lo[c])] {
                if one > 0.0 {
                    bounds[*id] = bounds[*id].min(all / f64::from(one));
                    alive[*id] = true;
                }
            }
        }
    }
    let (mut of_data, mut of_weights) = (vec![0f64; factors.len()], vec![0f64; factors.len()]);
    for reader in readers {
        let Some(width) = widths.get(reader.value) else { continue };
        for (id, noise) in width.ids.iter().zip(reader.noise(width, factors)) {
            of_data[*id] += noise.of_data;
            of_weights[*id] += noise.of_weights;
        }
    }
    let factor = |class: usize| {
        if classes.pinned(class) || !alive[class] || caps[class] <= 1.0 {
            return 1.0;
        }
        let best = if of_weights[class] > 0.0 {
            (CLIPPED * of_data[class] / of_weights[class]).powf(0.25)
        } else {
            f64::INFINITY
        };
        let best = if of_data[class] > 0.0 { best.min(bounds[class]) } else { bounds[class] };
        if best.is_finite() { best.clamp(1.0 / LARGEST, LARGEST) } else { 1.0 }
    };
    (0..factors.len()).map(factor).collect()
}
