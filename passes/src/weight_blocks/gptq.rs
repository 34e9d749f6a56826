//! Weights rounded one after another, each error made up for by those that follow.
//!
//! For a column `w` of a weight and the moments `H` of what is multiplied with it, levels `q` are wanted with a small
//! `(w - q)ᵀ H (w - q)`. GPTQ (Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
//! transformers", 2022) rounds `w₀`, moves `w₁ …` such that the objective is least in spite of that, rounds `w₁`, and so
//! on. It is written here in the form of Chee et al. ("QuIP", 2023, theorem 6), which computes the same without an inverse: with
//! `H = R Rᵀ`, `R` upper triangular, the number that stands at `k` when its turn comes is
//!
//! ```text
//! wₖ + Σ (wᵢ - qᵢ) Rᵢₖ / Rₖₖ     over i < k
//! ```
//!
//! and the objective is `Σ ηₖ² Rₖₖ²` over the errors `ηₖ` of these roundings, so that it is them that a scale is chosen by.
//!
//! Blocks stay together, as they share a scale, but those whose inputs have the most energy come first, and within each
//! the inputs with the most energy (the group-aware order of GPTQModel).

use super::moments::Moments;
use super::{Kernels, Matrix};
use crate::calibration::blocks::Choice;
use crate::plan::BlockPlan;
use rayon::prelude::*;
use squint_ir::affine::QuantParams;

/// Columns that are worked on at a time: each row of the factor is read once for all of them.
const TOGETHER: usize = 16;

/// A share of the mean energy that is added to each: what is known from data alone is not quite certain.
const DAMPING: f64 = 0.01;

/// The levels of a weight, chosen by moments of its data. `like` has the shape of the plan. `None` if no factor is found,
/// which needs moments that are not finite.
pub(super) fn round(
    kernels: &Kernels,
    choice: Choice,
    matrix: &Matrix<'_>,
    moments: &Moments,
) -> Option<BlockPlan> {
    let factors: Option<Vec<(usize, Factor)>> = moments
        .slices()
        .map(|(from, len, h)| Some((from, Factor::new(h, len, kernels.size(), moments.count())?)))
        .collect();
    let factors = factors?;
    let columns = matrix.columns();
    let rounded: Vec<Vec<Rounded>> = columns
        .par_chunks(TOGETHER)
        .map(|columns| {
            let each = |(from, factor): &(usize, Factor)| {
                let part: Vec<&[f32]> = columns.iter().map(|c| &c[*from..from + factor.len]).collect();
                factor.round(&part, choice)
            };
            factors.iter().map(each).collect()
        })
        .collect();
    let mut plan = kernels.empty(matrix);
    for (chunk, parts) in rounded.into_iter().enumerate() {
        for (part, (from, _)) in parts.into_iter().zip(&factors) {
            let Rounded { width, levels, params } = part;
            for (i, row) in levels.chunks_exact(width).enumerate() {
                let at = (from + i) * matrix.outputs + chunk * TOGETHER;
                plan.levels[at..at + width].copy_from_slice(row);
            }
            for (b, row) in params.chunks_exact(width).enumerate() {
                for (c, params) in row.iter().enumerate() {
                    plan.set_params(from / kernels.size() + b, chunk * TOGETHER + c, *params);
                }
            }
        }
    }
    Some(plan)
}

/// Levels and parameters of some columns, row by row.
struct Rounded {
    width: usize,
    levels: Vec<i16>,
    params: Vec<QuantParams>,
}

/// The factor of the moments of a slice, in the order in which its weights are rounded.
struct Factor {
    len: usize,
    size: usize,
    /// Which element of the slice comes when.
    order: Vec<usize>,
    /// `Rᵢₖ / Rₖₖ`, row by row.
    shares: Vec<f32>,
    /// `Rₖₖ²`
    weights: Vec<f64>,
}

impl Factor {
    /// Of moments over so many rows, for blocks of so many elements.
    fn new(h: Vec<f64>, len: usize, size: usize, rows: usize) -> Option<Factor> {
        let energy = |k: &usize| h[k * len + k];
        let mean = (0..len).map(|k| energy(&k)).sum::<f64>() / len.max(1) as f64;
        if !mean.is_finite() {
            return None;
        }
        let order = in_order(len, size, &energy);
        // Fewer rows than elements leave directions of which nothing is known.
        let scarce = len as f64 / rows.max(1) as f64;
        let mut damping = if mean > 0.0 { mean * DAMPING * scarce.max(1.0) } else { 1.0 };
        const TRIES: usize = 6;
        for _ in 0..TRIES {
            let mut r: Vec<f64> = order
                .iter()
                .flat_map(|i| order.iter().map(move |k| (i, k)))
                .map(|(i, k)| h[i * len + k])
                .collect();
            for k in 0..len {
                r[k * len + k] += damping;
            }
            if factorize(&mut r, len) {
                let weights: Vec<f64> = (0..len).map(|k| r[k * len + k].powi(2)).collect();
                let share = |(at, x): (usize, &f64)| {
                    let (i, k) = (at / len, at % len);
                    if k > i { (x / r[k * len + k]) as f32 } else { 0.0 }
                };
                let shares = r.iter().enumerate().map(share).collect();
                return Some(Factor { len, size, order, shares, weights });
            }
            damping *= 10.0;
        }
        None
    }

    /// Rounds columns, each of the length of the slice.
    fn round(&self, columns: &[&[f32]], choice: Choice) -> Rounded {
        let (len, width) = (self.len, columns.len());
        // Element `k` in order of all columns, then the next one.
        let original: Vec<f32> = self.order.iter().flat_map(|k| columns.iter().map(|c| c[*k])).collect();
        let mut now = original.clone();
        let blocks = len.div_ceil(self.size);
        let mut out = Rounded {
            width,
            levels: vec![0; len * width],
            params: vec![QuantParams { scale: 1.0, zero_point: 0 }; blocks * width],
        };
        let mut error = vec![0f32; width];
        let mut block = usize::MAX;
        for (i, k) in self.order.iter().enumerate() {
            if k / self.size != block {
                block = k / self.size;
                let end = len.min(i + self.size.min(len - block * self.size));
                for c in 0..width {
                    let weights: Vec<f32> = (i..end).map(|j| now[j * width + c]).collect();
                    let (params, _) = choice.solve(&weights, Some(&self.weights[i..end]));
                    out.params[block * width + c] = params;
                }
            }
            for c in 0..width {
                let params = out.params[block * width + c];
                let level = choice.level(now[i * width + c], params);
                out.levels[k * width + c] = level;
                let real = (f32::from(level) - params.zero_point as f32) * params.scale;
                error[c] = original[i * width + c] - real;
            }
            let shares = &self.shares[i * len..(i + 1) * len];
            for (share, row) in shares.iter().zip(now.chunks_exact_mut(width)).skip(i + 1) {
                for (x, error) in row.iter_mut().zip(&error) {
                    *x += share * error;
                }
            }
        }
        out
    }
}

/// The elements of a slice: blocks by their energy, and elements of a block by theirs.
fn in_order(len: usize, size: usize, energy: &dyn Fn(&usize) -> f64) -> Vec<usize> {
    let all: Vec<usize> = (0..len).collect();
    let mut blocks: Vec<(f64, Vec<usize>)> = all
        .chunks(size)
        .map(|block| {
            let mut block = block.to_vec();
            block.sort_by(|a, b| energy(b).total_cmp(&energy(a)));
            (block.iter().map(energy).sum::<f64>() / block.len() as f64, block)
        })
        .collect();
    blocks.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    blocks.into_iter().flat_map(|(_, block)| block).collect()
}

/// Replaces a symmetric matrix by its factor `R`, `H = R Rᵀ`, upper triangular; false if it is not positive definite.
/// What is left below the diagonal is of no meaning.
fn factorize(h: &mut [f64], len: usize) -> bool {
    for j in (0..len).rev() {
        let (above, rest) = h.split_at_mut(j * len);
        let row = &mut rest[..len];
        let tail = dot(&row[j + 1..], &row[j + 1..]);
        let square = row[j] - tail;
        if square.is_nan() || square <= row[j].abs() * 1e-12 {
            return false;
        }
        let root = square.sqrt();
        row[j] = root;
        let row = &row[j + 1..];
        let finish = |upper: &mut [f64]| upper[j] = (upper[j] - dot(&upper[j + 1..], row)) / root;
        if above.len() > 1 << 16 {
            above.par_chunks_mut(len).for_each(finish);
        } else {
            above.chunks_mut(len).for_each(finish);
        }
    }
    true
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // A fixed number of partial sums, so that the result does not depend on how a compiler vectorises.
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Constraints;
    use crate::calibration::blocks::BlockGrid;

    fn choice(search: bool) -> Choice {
        let grid = BlockGrid { lowest: 0, highest: 15, zero_point: true };
        Choice { grid, constraints: Constraints::default(), search }
    }

    /// Numbers without a pattern.
    fn noise(n: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// Moments of rows whose elements are related, and unequal in size.
    fn moments(len: usize, block: usize, rows: usize) -> Moments {
        let sources = noise(rows * 4, 7);
        let mixing = noise(4 * len, 11);
        let own = noise(rows * len, 13);
        let x: Vec<f32> = (0..rows * len)
            .map(|at| {
                let (r, k) = (at / len, at % len);
                let shared: f32 = (0..4).map(|s| sources[r * 4 + s] * mixing[s * len + k]).sum();
                (shared + 0.2 * own[at]) * (1.0 + (k % 5) as f32)
            })
            .collect();
        let mut moments = Moments::new(len, block);
        moments.add(&x);
        moments
    }

    fn real(r: &Rounded, len: usize, size: usize, c: usize) -> Vec<f32> {
        let of = |k: usize| {
            let p = r.params[k / size * r.width + c];
            (f32::from(r.levels[k * r.width + c]) - p.zero_point as f32) * p.scale
        };
        (0..len).map(of).collect()
    }

    fn changes(columns: &[Vec<f32>], real: impl Fn(usize) -> Vec<f32>) -> Vec<Vec<f32>> {
        let change = |(c, w): (usize, &Vec<f32>)| w.iter().zip(real(c)).map(|(w, q)| w - q).collect();
        columns.iter().enumerate().map(change).collect()
    }

    #[test]
    fn the_factor_multiplies_back_to_the_matrix() {
        let (len, m) = (9, moments(9, 4, 64));
        let (_, _, h) = m.slices().next().unwrap();
        let mut r = h.clone();
        assert!(factorize(&mut r, len));
        for i in 0..len {
            for k in 0..len {
                let product: f64 = (i.max(k)..len).map(|j| r[i * len + j] * r[k * len + j]).sum();
                assert!((product - h[i * len + k]).abs() < 1e-9, "{i} {k}");
            }
        }
        assert!(!factorize(&mut [1.0, 2.0, 2.0, 1.0], 2), "it is indefinite");
    }

    #[test]
    fn results_are_kept_better_than_by_nearest_levels() {
        for (len, size, rows) in [(32, 16, 256), (40, 16, 256), (48, 16, 20)] {
            let m = moments(len, size, rows);
            let columns: Vec<Vec<f32>> = (0..5).map(|c| noise(len, 100 + c)).collect();
            let (_, _, h) = m.slices().next().unwrap();
            let factor = Factor::new(h, len, size, m.count()).unwrap();
            for search in [false, true] {
                let choice = choice(search);
                let views: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
                let rounded = factor.round(&views, choice);
                let gptq = m.error(&changes(&columns, |c| real(&rounded, len, size, c)));
                let nearest = m.error(&changes(&columns, |c| {
                    let blocks = columns[c].chunks(size).flat_map(|block| {
                        let (p, levels) = choice.solve(block, None);
                        levels.into_iter().map(move |q| (f32::from(q) - p.zero_point as f32) * p.scale)
                    });
                    blocks.collect()
                }));
                assert!(gptq < 0.8 * nearest, "{len} {search}: {gptq} of {nearest}");
            }
        }
    }

    #[test]
    fn without_relations_levels_are_the_nearest() {
        let mut m = Moments::new(16, 16);
        // Each row sees one element: nothing is related.
        for k in 0..16 {
            let row: Vec<f32> = (0..16).map(|i| if i == k { 1.0 } else { 0.0 }).collect();
            m.add(&row);
        }
        let (_, _, h) = m.slices().next().unwrap();
        let factor = Factor::new(h, 16, 16, 16).unwrap();
        let column = noise(16, 3);
        let rounded = factor.round(&[&column], choice(true));
        let (p, levels) = choice(true).solve(&column, None);
        assert_eq!((rounded.params[0], rounded.levels), (p, levels));
    }

    #[test]
    fn blocks_stay_together() {
        let energy = [1.0, 9.0, 2.0, 30.0, 3.0, 4.0, 5.0];
        assert_eq!(in_order(7, 3, &|k| energy[*k]), [3, 5, 4, 6, 1, 2, 0]);
        // Inputs that are always zero are rounded to the nearest level.
        let m = Moments::new(4, 2);
        let (_, _, h) = m.slices().next().unwrap();
        assert!(Factor::new(h, 4, 2, 0).is_some());
        assert!(Factor::new(vec![f64::NAN; 4], 2, 2, 1).is_none());
    }
}
