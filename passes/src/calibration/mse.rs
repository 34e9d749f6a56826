//! The expected error of quantization, and the range that makes it least.
//!
//! Values are taken to be uniform within their bin. The error of a value within the grid is its distance to
//! the nearest level, `|v - round(v)|^p` for `v = x / scale`, whose integral from 0 to `v` is `n c + sgn(r)
//! |r|^(p+1) / (p+1)` with `n = round(v)`, `r = v - n` and `c = 2 * 0.5^(p+1) / (p+1)`. Beyond the grid it is
//! the distance to the outermost level. So the mean error of a bin has a closed form however many levels fall
//! into it, and exact zeros contribute none, for zero is a level. With `p = 2` this is the mean squared
//! error; a smaller `p` gives outliers less weight.
//!
//! The search starts from the extremes and descends one side at a time, over thresholds in geometric steps
//! (outliers may be a thousand times the rest) and then finely around the best. Clipping error only grows as
//! a threshold falls, which ends a scan early. The error is that of the scale and zero point that the grid
//! really gets.

use squint_ir::affine::Grid;

use super::histogram::{Histogram, Segment};

/// Mean error per value, `|x - dequantized|^p`, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuantError {
    /// From values between the levels of the grid.
    pub rounding: f64,
    /// From values beyond the outermost levels.
    pub clipping: f64,
}

impl QuantError {
    /// The mean error per value.
    pub fn total(self) -> f64 {
        self.rounding + self.clipping
    }
}

/// Bounds of a search: the widest range, and what every candidate has to contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) widest: (f64, f64),
    pub(crate) narrowest: (f64, f64),
}

impl Bounds {
    /// From the extremes of the data down to nothing.
    pub(crate) fn free(histogram: &Histogram) -> Bounds {
        Bounds { widest: (histogram.min.min(0.0), histogram.max.max(0.0)), narrowest: (0.0, 0.0) }
    }
}

/// The error of quantizing one histogram to one grid, as a function of the range.
#[derive(Clone, Debug)]
pub(crate) struct ErrorModel {
    segments: Vec<Segment>,
    n_values: f64,
    grid: Grid,
    p: f64,
}

impl ErrorModel {
    pub(crate) fn new(histogram: &Histogram, grid: Grid, p: f64) -> ErrorModel {
        let segments = merged(histogram.segments().collect());
        ErrorModel { segments, n_values: histogram.n_nonzero() + histogram.n_zeros, grid, p }
    }

    /// The range within the bounds that has the least error, and that error.
    pub(crate) fn minimize(&self, bounds: Bounds) -> ((f64, f64), QuantError) {
        let Bounds { widest, narrowest } = bounds;
        if self.grid.symmetric {
            let from = widest.1.max(-widest.0);
            let floor = narrowest.1.max(-narrowest.0);
            let mut best = (from, self.error(-from, from));
            scan(from, floor, &mut best, |t| self.error(-t, t));
            return ((-best.0, best.0), best.1);
        }
        const MAX_ROUNDS: usize = 4;
        let (mut lo, mut hi) = widest;
        let mut error = self.error(lo, hi);
        for _ in 0..MAX_ROUNDS {
            let before = error.total();
            let mut best = (hi, error);
            scan(widest.1, narrowest.1, &mut best, |t| self.error(lo, t));
            (hi, error) = best;
            let mut best = (-lo, error);
            scan(-widest.0, -narrowest.0, &mut best, |t| self.error(-t, hi));
            (lo, error) = (-best.0, best.1);
            if error.total() >= before {
                break;
            }
        }
        ((lo, hi), error)
    }

    /// The error when the grid covers the range `[lo, hi]`.
    pub(crate) fn error(&self, lo: f64, hi: f64) -> QuantError {
        let Grid { qmin, qmax, .. } = self.grid;
        let params = self.grid.params(lo as f32, hi as f32);
        let scale = f64::from(params.scale);
        let lowest = (f64::from(qmin) - f64::from(params.zero_point)) * scale;
        let highest = (f64::from(qmax) - f64::from(params.zero_point)) * scale;
        let (mut rounding, mut clipping) = (0.0, 0.0);
        for &segment in &self.segments {
            let Segment { lo, hi, count } = segment;
            if lo >= lowest && hi <= highest {
                rounding += count * self.mean_rounding(lo / scale, hi / scale);
                continue;
            }
            clipping += count * (self.mean_excess(-hi, -lo, -lowest) + self.mean_excess(lo, hi, highest));
            let (inner_lo, inner_hi) = (lo.max(lowest), hi.min(highest));
            if inner_hi > inner_lo {
                let share = (inner_hi - inner_lo) / (hi - lo);
                rounding += count * share * self.mean_rounding(inner_lo / scale, inner_hi / scale);
            }
        }
        let n_values = self.n_values.max(1.0);
        QuantError { rounding: rounding * self.power(scale) / n_values, clipping: clipping / n_values }
    }

    /// Mean of `|v - round(v)|^p` over `[a, b]`.
    fn mean_rounding(&self, a: f64, b: f64) -> f64 {
        // Below this width the difference of the integrals is lost in their own rounding.
        const NARROW: f64 = 1e-6;
        if b - a < NARROW {
            return self.power((a - round(a)).abs());
        }
        let per_level = 2.0 * self.integral(0.5);
        let up_to = |v: f64| {
            let n = round(v);
            n * per_level + self.integral((v - n).abs()).copysign(v - n)
        };
        (up_to(b) - up_to(a)) / (b - a)
    }

    /// Mean over `[a, b]` of `(v - bound)^p` where `v` exceeds the bound, and of nothing elsewhere.
    fn mean_excess(&self, a: f64, b: f64, bound: f64) -> f64 {
        let (from, to) = ((a - bound).max(0.0), (b - bound).max(0.0));
        if b > a { (self.integral(to) - self.integral(from)) / (b - a) } else { self.power(to) }
    }

    fn power(&self, x: f64) -> f64 {
        if self.p == 2.0 { x * x } else { x.powf(self.p) }
    }

    /// The integral of `x^p` from 0 to `x`.
    fn integral(&self, x: f64) -> f64 {
        if self.p == 2.0 { x * x * x / 3.0 } else { x.powf(self.p + 1.0) / (self.p + 1.0) }
    }
}

/// Joins runs of neighbouring segments so that about a thousand are left: still several to a level of an
/// 8-bit grid, so the mean over a run is the mean of its bins, and a search is as much faster.
fn merged(segments: Vec<Segment>) -> Vec<Segment> {
    const ENOUGH: usize = 1024;
    let run = segments.len().div_ceil(ENOUGH);
    if run <= 1 {
        return segments;
    }
    let mut out: Vec<Segment> = Vec::with_capacity(ENOUGH + 1);
    let mut in_run = run;
    for s in segments {
        match out.last_mut() {
            Some(last) if in_run < run && last.hi == s.lo => {
                last.hi = s.hi;
                last.count += s.count;
                in_run += 1;
            }
            _ => {
                out.push(s);
                in_run = 1;
            }
        }
    }
    out
}

/// Tries thresholds from `from` down to `floor` and keeps the best; of equals, the larger.
fn scan(from: f64, floor: f64, best: &mut (f64, QuantError), error: impl Fn(f64) -> QuantError) {
    // The eighth root of one half; 96 steps reach down to a 4096th.
    const STEP: f64 = 0.917_004_043_204_671_2;
    const MAX_STEPS: usize = 96;
    const FINE_STEPS: usize = 24;
    let mut coarse = from;
    for _ in 0..MAX_STEPS {
        coarse *= STEP;
        if coarse <= floor || !consider(coarse, best, &error) {
            break;
        }
    }
    let (low, high) = ((best.0 * STEP).max(floor), (best.0 / STEP).min(from));
    for i in 0..FINE_STEPS {
        let threshold = high + (low - high) * (i as f64 + 0.5) / FINE_STEPS as f64;
        if threshold > 0.0 {
            consider(threshold, best, &error);
        }
    }
}

/// Takes a threshold if it is better. False once clipping alone is worse than the best.
fn consider(threshold: f64, best: &mut (f64, QuantError), error: impl Fn(f64) -> QuantError) -> bool {
    let candidate = error(threshold);
    let limit = best.1.total();
    if candidate.total() < limit {
        *best = (threshold, candidate);
    }
    candidate.clipping <= limit
}

/// Rounds half to even; unlike the library function, without a call on processors that lack the instruction.
fn round(v: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    (v + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Sketch;
    use squint_ir::affine::{dequantize, quantize};

    fn noise(n: usize) -> Vec<f32> {
        // Sums of three uniform numbers, from a linear congruential generator.
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| uniform() + uniform() + uniform()).collect()
    }

    fn model(data: &[f32], grid: Grid, p: f64) -> ErrorModel {
        let mut sketch = Sketch::new();
        sketch.observe(data);
        ErrorModel::new(&Histogram::new(&sketch), grid, p)
    }

    #[test]
    fn the_estimate_matches_the_measured_error() {
        let mut data = noise(50_000);
        data.extend([0.0; 10_000]);
        for (grid, p) in [(Grid::U8, 2.0), (Grid::I8_SYMMETRIC, 2.0), (Grid::U8, 1.3)] {
            let model = model(&data, grid, p);
            for (lo, hi) in [(-1.5, 1.5), (-0.8, 1.0), (-0.3, 0.3), (0.0, 0.5)] {
                let params = grid.params(lo, hi);
                let error = |x: &f32| {
                    let q = quantize(*x, params.scale, params.zero_point, grid.qmin, grid.qmax);
                    f64::from((dequantize(q, params.scale, params.zero_point) - x).abs()).powf(p)
                };
                let measured = data.iter().map(error).sum::<f64>() / data.len() as f64;
                let estimate = model.error(f64::from(lo), f64::from(hi)).total();
                assert!(
                    (estimate / measured - 1.0).abs() < 0.02,
                    "{grid} {p} {lo} {hi}: {estimate} {measured}"
                );
            }
        }
    }

    #[test]
    fn the_search_finds_what_a_dense_grid_finds() {
        let mut data = noise(20_000);
        data.extend([6.0, 9.0, -4.0]);
        let grid = Grid { qmin: 0, qmax: 15, symmetric: false };
        let model = model(&data, grid, 2.0);
        let bounds = Bounds { widest: (-4.0, 9.0), narrowest: (0.0, 0.0) };
        let ((lo, hi), error) = model.minimize(bounds);
        let mut dense = f64::INFINITY;
        for i in 1..100 {
            for j in 1..100 {
                dense =
                    dense.min(model.error(-4.0 * f64::from(i) / 100.0, 9.0 * f64::from(j) / 100.0).total());
            }
        }
        assert!(error.total() < dense * 1.05, "[{lo}, {hi}]: {} against {dense}", error.total());
    }

    #[test]
    fn the_narrowest_range_holds() {
        let mut data = noise(20_000);
        data.push(30.0);
        let model = model(&data, Grid { qmin: 0, qmax: 3, symmetric: false }, 1.0);
        let bounds = Bounds { widest: (-1.5, 30.0), narrowest: (-1.4, 20.0) };
        let ((lo, hi), _) = model.minimize(bounds);
        assert!(lo <= -1.4 && hi >= 20.0, "[{lo}, {hi}]");
    }
}
