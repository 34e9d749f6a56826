//! Entropy calibration: the range under which the quantized distribution tells most about the original.
//!
//! S. Migacz, "8-bit inference with TensorRT" (GTC 2017), as `pytorch-quantization` has it: `P` is the
//! histogram within the candidate range, with what lies beyond added to the outermost bins; `Q` is the same
//! histogram without that addition, its bins pooled into as many groups as the grid has levels, and each
//! group's mass spread evenly over its occupied bins. The candidate of least Kullback-Leibler divergence
//! `KL(P || Q)` wins.
//!
//! On a symmetric grid the histogram is that of magnitudes and the candidates are thresholds; on an
//! asymmetric one it is signed, and the two sides shrink in turn until neither moves.
//!
//! Departures, each for a reason:
//! - exact zeros take no part, as no range can harm them (the original drops the first bin for that purpose);
//! - at least 99.9 % of the values other than zero stay inside: on a smooth density the divergence is nearly
//!   flat, and its minimum may lie at an absurdly small threshold;
//! - ranges of fewer bins than levels are candidates too: an outlier may leave few bins for everything else;
//! - of equals, the wider range wins.
//!
//! With prefix sums over mass, occupied bins and `c ln c` a candidate costs as many steps as there are
//! levels.

use super::histogram::Histogram;

/// The share of the values other than zero that may lie outside.
const MAX_CLIPPED: f64 = 1e-3;

/// The threshold for magnitudes when one side of a symmetric grid has `n_levels` levels, zero included.
pub(crate) fn solve_symmetric(histogram: &Histogram, n_levels: u32) -> (f64, f64) {
    let magnitudes = histogram.folded();
    let sums = PrefixSums::new(&magnitudes, n_levels);
    let end = sums.best_end(0, MAX_CLIPPED);
    let threshold = (end as f64 * magnitudes.width).min(magnitudes.max);
    (-threshold, threshold)
}

/// The range on an asymmetric grid of `n_levels` levels.
pub(crate) fn solve_asymmetric(histogram: &Histogram, n_levels: u32) -> (f64, f64) {
    const MAX_ROUNDS: usize = 4;
    let forward = PrefixSums::new(histogram, n_levels);
    // The lower side is the upper side of the mirrored histogram.
    let mirrored = PrefixSums::new(&histogram.mirrored(), n_levels);
    let tail = if histogram.is_two_sided() { MAX_CLIPPED / 2.0 } else { MAX_CLIPPED };
    let mut start = forward.first.min(0);
    let mut end = forward.end().max(0);
    for _ in 0..MAX_ROUNDS {
        let before = (start, end);
        if histogram.max > 0.0 {
            end = forward.best_end(start, tail);
        }
        if histogram.min < 0.0 {
            start = -mirrored.best_end(-end, tail);
        }
        if (start, end) == before {
            break;
        }
    }
    let lo = (start as f64 * histogram.width).max(histogram.min.min(0.0));
    let hi = (end as f64 * histogram.width).min(histogram.max.max(0.0));
    (lo, hi)
}

/// A histogram with running sums, from which the divergence of a candidate follows group by group.
struct PrefixSums {
    first: i64,
    n_levels: i64,
    counts: Vec<f64>,
    mass: Vec<f64>,
    n_occupied: Vec<f64>,
    c_ln_c: Vec<f64>,
}

impl PrefixSums {
    fn new(histogram: &Histogram, n_levels: u32) -> PrefixSums {
        let running = |term: fn(f64) -> f64| {
            let mut sum = 0.0;
            let sums = histogram.counts.iter().map(|&count| {
                sum += if count > 0.0 { term(count) } else { 0.0 };
                sum
            });
            [0.0].into_iter().chain(sums).collect()
        };
        PrefixSums {
            first: histogram.first,
            n_levels: i64::from(n_levels),
            counts: histogram.counts.clone(),
            mass: running(|count| count),
            n_occupied: running(|_| 1.0),
            c_ln_c: running(|count| count * count.ln()),
        }
    }

    /// The bin after the last one.
    fn end(&self) -> i64 {
        self.first + self.counts.len() as i64
    }

    /// The best end of a range that starts at bin `start`, leaving at most the share `tail` above it.
    fn best_end(&self, start: i64, tail: f64) -> i64 {
        let total = self.mass[self.counts.len()];
        let (mut best, mut least) = (self.end(), f64::INFINITY);
        for end in (start.max(0) + 1..=self.end()).rev() {
            if total - self.mass[self.slot(end)] > tail * total {
                break;
            }
            let divergence = self.divergence(start, end);
            if divergence < least {
                (best, least) = (end, divergence);
            }
        }
        best
    }

    /// `KL(P || Q)` of the range of bins `start..end`; infinite if mass is moved onto an empty bin.
    ///
    /// With `p = c` plus what is moved to the outermost bins, `q` the pooled counts, `N` the sum of `p` and
    /// `M` that of `q`: `KL = (sum p ln p - sum p ln q) / N + ln(M / N)`.
    fn divergence(&self, start: i64, end: i64) -> f64 {
        let (from, to) = (self.slot(start), self.slot(end));
        if from >= to {
            return f64::INFINITY;
        }
        let total = self.mass[self.counts.len()];
        let (below, above) = (self.mass[from], total - self.mass[to]);
        let (first, last) = (self.counts[from], self.counts[to - 1]);
        if (below > 0.0 && first == 0.0) || (above > 0.0 && last == 0.0) {
            return f64::INFINITY;
        }
        let x_ln_x = |x: f64| if x > 0.0 { x * x.ln() } else { 0.0 };
        let p_ln_p = self.c_ln_c[to] - self.c_ln_c[from]
            + if to - from == 1 {
                x_ln_x(first + below + above) - x_ln_x(first)
            } else {
                x_ln_x(first + below) - x_ln_x(first) + x_ln_x(last + above) - x_ln_x(last)
            };
        let p_ln_q = if end - start <= self.n_levels {
            // Every bin has a level of its own: Q is the histogram itself.
            let ln = |x: f64| if x > 0.0 { x.ln() } else { 0.0 };
            self.c_ln_c[to] - self.c_ln_c[from] + below * ln(first) + above * ln(last)
        } else {
            self.pooled_p_ln_q(start, end, below, above)
        };
        (p_ln_p - p_ln_q) / total + ((total - below - above) / total).ln()
    }

    /// `sum p ln q` with the bins `start..end` pooled into levels; the first and the last occupied level
    /// carry what lies `below` and `above`.
    fn pooled_p_ln_q(&self, start: i64, end: i64, below: f64, above: f64) -> f64 {
        let mut sum = 0.0;
        let mut from = self.slot(start);
        let (mut first_ln_q, mut last_ln_q) = (None, 0.0);
        for level in 1..=self.n_levels {
            // Bin k belongs to the level whose edges `j (end - start) / n_levels` enclose its left edge.
            let edge = start + ((end - start) * level + self.n_levels - 1) / self.n_levels;
            let to = self.slot(edge);
            let mass = self.mass[to] - self.mass[from];
            if mass > 0.0 {
                let ln_q = (mass / (self.n_occupied[to] - self.n_occupied[from])).ln();
                sum += mass * ln_q;
                first_ln_q.get_or_insert(ln_q);
                last_ln_q = ln_q;
            }
            from = to;
        }
        sum + below * first_ln_q.unwrap_or(0.0) + above * last_ln_q
    }

    /// Position of a bin in the histogram, its ends for bins outside.
    fn slot(&self, bin: i64) -> usize {
        (bin - self.first).clamp(0, self.counts.len() as i64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: Vec<f64>, first: i64) -> Histogram {
        let (min, max) = (first as f64, (first + counts.len() as i64) as f64);
        Histogram { width: 1.0, first, counts, n_zeros: 1e6, min, max }
    }

    /// The divergence by its definition, bin by bin.
    fn plain_divergence(counts: &[f64], n_inside: usize, n_levels: usize) -> f64 {
        let mut p = counts[..n_inside].to_vec();
        p[n_inside - 1] += counts[n_inside..].iter().sum::<f64>();
        let level_of = |bin: usize| bin * n_levels / n_inside;
        let mut q = vec![0.0; n_inside];
        for level in 0..n_levels {
            let members: Vec<usize> =
                (0..n_inside).filter(|&bin| level_of(bin) == level && counts[bin] > 0.0).collect();
            let mass: f64 = members.iter().map(|&bin| counts[bin]).sum();
            members.iter().for_each(|&bin| q[bin] = mass / members.len() as f64);
        }
        let (sum_p, sum_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        let term =
            |(p, q): (&f64, &f64)| if *p > 0.0 { p / sum_p * ((p / sum_p) / (q / sum_q)).ln() } else { 0.0 };
        p.iter().zip(&q).map(term).sum()
    }

    #[test]
    fn prefix_sums_give_the_divergence_of_the_definition() {
        let counts: Vec<f64> =
            (0..200).map(|i| f64::from((i * 37 % 11) * (200 - i))).map(f64::sqrt).collect();
        let sums = PrefixSums::new(&histogram(counts.clone(), 0), 16);
        for end in [10, 16, 17, 64, 101, 199, 200] {
            let (fast, plain) = (sums.divergence(0, end), plain_divergence(&counts, end as usize, 16));
            assert!(fast == plain || (fast - plain).abs() < 1e-9, "{end}: {fast} {plain}");
        }
    }

    #[test]
    fn a_lone_outlier_is_cut_off_and_a_uniform_density_is_not() {
        let uniform = histogram(vec![1000.0; 100], 0);
        assert_eq!(solve_symmetric(&uniform, 128).1, 100.0);
        let mut counts: Vec<f64> =
            (0..2000).map(|i| 1e4 * (-f64::from(i * i) / 2e3).exp()).map(f64::floor).collect();
        counts[1999] = 1.0;
        let (lo, hi) = solve_symmetric(&histogram(counts.clone(), 0), 128);
        assert!(hi == -lo && hi < 200.0, "{hi}");
        // The same on the negative side of an asymmetric grid.
        counts.reverse();
        let (lo, hi) = solve_asymmetric(&histogram(counts, -2000), 256);
        assert!(lo > -200.0 && hi == 0.0, "{lo} {hi}");
    }

    #[test]
    fn the_covered_share_has_a_floor() {
        let counts: Vec<f64> = (0..3000).map(|i| (1e9 * (-f64::from(i) / 200.0).exp()).floor()).collect();
        let threshold = solve_symmetric(&histogram(counts.clone(), 0), 8).1;
        let outside: f64 = counts[threshold as usize..].iter().sum();
        assert!(outside <= counts.iter().sum::<f64>() * MAX_CLIPPED);
    }
}
