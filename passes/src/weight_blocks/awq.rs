//! Factors of the channels that products read, by how large activations are.
//!
//! AWQ (Lin et al., "AWQ: activation-aware weight quantization for LLM compression and acceleration", 2023): a product
//! computes the same if a channel of its data is divided by `s` and the row of its weight multiplied with it,
//! `x W = (x/s) (s W)`, but the row is rounded as finely as if its steps were `s` times smaller, as long as it is not
//! what its block ends at. Rows that meet large activations deserve that. Factors follow from the mean magnitudes of
//! channels, `s = E[|x|]ʳ`, brought to a geometric mean of largest and smallest of 1; the exponent `r` of `0, 1/20 … 19/20` is
//! taken with which the results of all products that read the channels change least:
//!
//! ```text
//! min over r   Σ dᵀ H d,   d = Q(s w)/s - w   for the columns w,   H = E[x xᵀ]
//! ```

use super::moments::Moments;
use super::{Kernels, Matrix};
use crate::calibration::blocks::Choice;
use rayon::prelude::*;

/// Exponents that are tried: multiples of one over this.
const STEPS: u32 = 20;

/// Columns of each weight that decide.
const COLUMNS: usize = 256;

/// Largest factor, and inverse of the smallest.
const LARGEST: f64 = 256.0;

/// The factors for the channels that some weights are multiplied with; `None` if none of them does better than 1. `choice`
/// is how scales of blocks are found.
pub(super) fn factors(
    kernels: &Kernels,
    choice: Choice,
    matrices: &[Matrix<'_>],
    moments: &Moments,
) -> Option<Vec<f32>> {
    let magnitudes = moments.magnitudes();
    let columns: Vec<Vec<f32>> = matrices.iter().flat_map(|m| m.some_columns(COLUMNS)).collect();
    let error = |factors: &[f32]| {
        let change = |w: &Vec<f32>| changed(w, factors, kernels.size(), choice);
        moments.error(&columns.par_iter().map(change).collect::<Vec<_>>())
    };
    let mut best = (error(&vec![1.0; magnitudes.len()]), None);
    for step in 1..STEPS {
        let factors = powers(&magnitudes, f64::from(step) / f64::from(STEPS));
        let error = error(&factors);
        if error < best.0 {
            best = (error, Some(factors));
        }
    }
    best.1
}

/// `Q(s w)/s - w`
fn changed(w: &[f32], factors: &[f32], size: usize, choice: Choice) -> Vec<f32> {
    let scaled: Vec<f32> = w.iter().zip(factors).map(|(w, s)| w * s).collect();
    let real = scaled.chunks(size).flat_map(|block| {
        let (p, levels) = choice.solve(block, None);
        levels.into_iter().map(move |q| (f32::from(q) - p.zero_point as f32) * p.scale)
    });
    real.zip(factors).zip(w).map(|((q, s), w)| q / s - w).collect()
}

/// Magnitudes to a power, brought around 1. A channel that is always zero has the factor 1.
fn powers(magnitudes: &[f64], exponent: f64) -> Vec<f32> {
    let alive = || magnitudes.iter().copied().filter(|m| *m > 0.0 && m.is_finite());
    let (least, most) = alive().fold((f64::INFINITY, 0.0f64), |(lo, hi), m| (lo.min(m), hi.max(m)));
    let middle = (least * most).sqrt();
    let factor = |m: &f64| match *m > 0.0 && m.is_finite() {
        true => (m / middle).powf(exponent).clamp(1.0 / LARGEST, LARGEST) as f32,
        false => 1.0,
    };
    magnitudes.iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_lie_around_one() {
        assert_eq!(powers(&[1.0, 16.0, 0.0, 4.0], 0.5), [0.5, 2.0, 1.0, 1.0]);
        assert_eq!(powers(&[0.0, 0.0], 0.5), [1.0, 1.0]);
        assert_eq!(powers(&[1e-30, 1e30], 1.0), [1.0 / 256.0, 256.0]);
    }
}
