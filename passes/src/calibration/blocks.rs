//! Scales of blocks of weights, each from the few values that share it.
//!
//! Plain rounding to the nearest takes the extremes. With `mse` ranges are shrunk step by step, as for channels, and the
//! least squared error wins: with 15 or 16 levels a large weight is better clipped than all others are rounded coarsely.
//! The levels of a signed grid are not symmetric (-8..7): a block whose largest weight is negative may use the lowest,
//! which the steps find, too.

use super::Constraints;
use squint_ir::affine::{QuantParams, quantize};

/// The grid of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockGrid {
    /// Lowest level.
    pub(crate) lowest: i32,
    /// Highest level.
    pub(crate) highest: i32,
    /// Whether the zero point is free; otherwise it is 0.
    pub(crate) zero_point: bool,
}

/// How far ranges are shrunk, and in how many steps.
const LEAST: f32 = 0.5;
const STEPS: u16 = 25;

/// How scales of blocks are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// The levels.
    pub(crate) grid: BlockGrid,
    /// What is asked of scales.
    pub(crate) constraints: Constraints,
    /// Whether ranges within the extremes are tried, too.
    pub(crate) search: bool,
}

impl Choice {
    /// Scale and zero point of a block, and the nearest levels of its weights. What the error of each weight counts is
    /// in `importance`, as much for all if there is none.
    pub(crate) fn solve(self, block: &[f32], importance: Option<&[f64]>) -> (QuantParams, Vec<i16>) {
        let Choice { grid, constraints, search } = self;
        let steps = if search { STEPS } else { 0 };
        let (lo, hi) = block.iter().fold((0f32, 0f32), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        let shrunk = (0..=steps).map(|step| 1.0 - (1.0 - LEAST) * f32::from(step) / f32::from(STEPS));
        let candidates = shrunk.map(|factor| params(lo * factor, hi * factor, grid, constraints));
        let mut best: Option<(f64, QuantParams)> = None;
        for p in candidates {
            let each = block.iter().map(|x| difference(*x, p, grid));
            let error: f64 = match importance {
                Some(importance) => each.zip(importance).map(|(e, i)| e * i).sum(),
                None => each.sum(),
            };
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, p));
            }
        }
        let p = best.map_or(QuantParams { scale: 1.0, zero_point: 0 }, |(_, p)| p);
        (p, block.iter().map(|x| self.level(*x, p)).collect())
    }

    /// The nearest level of a weight.
    pub(crate) fn level(self, x: f32, p: QuantParams) -> i16 {
        quantize(x, p.scale, p.zero_point, self.grid.lowest, self.grid.highest) as i16
    }
}

/// Scale and zero point for a range that contains zero.
fn params(lo: f32, hi: f32, grid: BlockGrid, constraints: Constraints) -> QuantParams {
    let (least, most) = (f64::from(grid.lowest), f64::from(grid.highest));
    let whole = match grid.zero_point {
        true => (f64::from(hi) - f64::from(lo)) / (most - least),
        false => f64::from(hi.max(-lo)) / most,
    } as f32;
    // A block of zeros has any scale; one too small to divide by has none.
    let usable = if whole >= f32::MIN_POSITIVE && whole.is_finite() { whole } else { 1.0 };
    let scale = constraints.scale(usable);
    let zero = if grid.zero_point {
        (least - f64::from(lo / scale)).round_ties_even().clamp(least, most)
    } else {
        0.0
    };
    QuantParams { scale, zero_point: zero as i32 }
}

/// The squared difference that rounding makes to a weight.
fn difference(x: f32, p: QuantParams, grid: BlockGrid) -> f64 {
    let level = quantize(x, p.scale, p.zero_point, grid.lowest, grid.highest);
    let back = f64::from(level - p.zero_point) * f64::from(p.scale);
    (back - f64::from(x)).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: BlockGrid = BlockGrid { lowest: -8, highest: 7, zero_point: false };
    const UNSIGNED: BlockGrid = BlockGrid { lowest: 0, highest: 15, zero_point: true };

    fn choice(grid: BlockGrid, search: bool) -> Choice {
        Choice { grid, constraints: Constraints::default(), search }
    }

    fn error(block: &[f32], grid: BlockGrid, search: bool) -> f64 {
        let (p, levels) = choice(grid, search).solve(block, None);
        let back = |q: &i16| f64::from(i32::from(*q) - p.zero_point) * f64::from(p.scale);
        block.iter().zip(&levels).map(|(x, q)| (back(q) - f64::from(*x)).powi(2)).sum()
    }

    #[test]
    fn searching_never_makes_it_worse_and_clips_an_outlier() {
        let mut block: Vec<f32> = (0..32).map(|i| ((i * 37) % 19) as f32 / 19.0 - 0.5).collect();
        for outlier in [0.5, 1.5, -3.0] {
            block[7] = outlier;
            for grid in [SIGNED, UNSIGNED] {
                assert!(error(&block, grid, true) <= error(&block, grid, false), "{outlier} {grid:?}");
            }
        }
        assert!(error(&block, SIGNED, true) < 0.9 * error(&block, SIGNED, false));
    }

    #[test]
    fn what_counts_more_is_rounded_more_finely() {
        // The outlier counts for nothing: it is clipped as far as ranges are tried.
        let (plain, _) = choice(SIGNED, true).solve(&[7.0, 0.4, -0.6, 0.5], None);
        let (weighed, _) = choice(SIGNED, true).solve(&[7.0, 0.4, -0.6, 0.5], Some(&[0.0, 1.0, 1.0, 1.0]));
        assert!(weighed.scale < plain.scale, "{weighed:?} {plain:?}");
    }

    #[test]
    fn extremes_are_levels() {
        let (p, levels) = choice(SIGNED, false).solve(&[-0.7, 0.0, 0.3, 0.7], None);
        assert_eq!((p, levels), (QuantParams { scale: 0.1, zero_point: 0 }, vec![-7, 0, 3, 7]));
        let (p, levels) = choice(UNSIGNED, false).solve(&[-0.5, 0.0, 1.0], None);
        assert_eq!((p, levels), (QuantParams { scale: 0.1, zero_point: 5 }, vec![0, 5, 15]));
        let (p, levels) = choice(UNSIGNED, true).solve(&[0.0; 4], None);
        assert_eq!((p, levels), (QuantParams { scale: 1.0, zero_point: 0 }, vec![0; 4]));
        // The lowest level holds a large negative weight.
        let (p, levels) = choice(SIGNED, true).solve(&[-0.8, 0.1, 0.2], None);
        assert!((p.scale - 0.1).abs() < 0.01 && levels[0] == -8, "{p:?} {levels:?}");
    }
}
