//! A sketch as the solvers see it: a density that is uniform within each bin, and a point mass at zero.

use super::sketch::Sketch;

/// Counts of values by bin, in double precision.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    /// Width of a bin.
    pub(crate) width: f64,
    /// Number of the first bin; bin `i` covers `[i, i + 1]` times the width.
    pub(crate) first: i64,
    /// Values other than zero, by bin.
    pub(crate) counts: Vec<f64>,
    /// Values equal to zero.
    pub(crate) n_zeros: f64,
    /// Least value.
    pub(crate) min: f64,
    /// Greatest value.
    pub(crate) max: f64,
}

/// A stretch of the density.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) lo: f64,
    pub(crate) hi: f64,
    pub(crate) count: f64,
}

impl Histogram {
    pub(crate) fn new(sketch: &Sketch) -> Histogram {
        let (min, max) = sketch.extremes().unwrap_or((0.0, 0.0));
        Histogram {
            width: sketch.bin_width(),
            first: i64::from(sketch.first_bin()),
            counts: sketch.bin_counts().iter().map(|&count| count as f64).collect(),
            n_zeros: sketch.n_zeros() as f64,
            min: f64::from(min),
            max: f64::from(max),
        }
    }

    /// The histogram of magnitudes. Exact, because bins mirror at zero.
    pub(crate) fn folded(&self) -> Histogram {
        let end = self.first + self.counts.len() as i64;
        let (first, last) = match (self.first >= 0, end <= 0) {
            (true, _) => (self.first, end - 1),
            (_, true) => (-end, -1 - self.first),
            _ => (0, (end - 1).max(-1 - self.first)),
        };
        let mut counts = vec![0.0; (last - first + 1) as usize];
        for (bin, &count) in (self.first..).zip(&self.counts) {
            let mirrored = if bin < 0 { -1 - bin } else { bin };
            counts[(mirrored - first) as usize] += count;
        }
        let max = self.max.max(-self.min);
        let min = if self.min <= 0.0 && self.max >= 0.0 { 0.0 } else { self.min.abs().min(self.max.abs()) };
        Histogram { first, counts, min, max, ..*self }
    }

    /// The histogram of the negated values.
    pub(crate) fn mirrored(&self) -> Histogram {
        let counts: Vec<f64> = self.counts.iter().rev().copied().collect();
        Histogram {
            first: -(self.first + counts.len() as i64),
            counts,
            min: -self.max,
            max: -self.min,
            ..*self
        }
    }

    /// Number of values other than zero.
    pub(crate) fn n_nonzero(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Whether there are values on both sides of zero.
    pub(crate) fn is_two_sided(&self) -> bool {
        self.min < 0.0 && self.max > 0.0
    }

    /// The quantile of all values for `q` in `[0, 1]`.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        self.at_rank(q * (self.n_nonzero() + self.n_zeros), self.n_zeros)
    }

    /// The quantile of the values other than zero.
    pub(crate) fn nonzero_quantile(&self, q: f64) -> f64 {
        self.at_rank(q * self.n_nonzero(), 0.0)
    }

    /// The occupied bins in ascending order, cut off at the extremes.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        (self.first..).zip(&self.counts).filter(|&(_, &count)| count > 0.0).map(|(bin, &count)| Segment {
            lo: (bin as f64 * self.width).clamp(self.min, self.max),
            hi: ((bin + 1) as f64 * self.width).clamp(self.min, self.max),
            count,
        })
    }

    /// The point below which `rank` values lie, if `n_zeros` of the values are zero.
    fn at_rank(&self, rank: f64, n_zeros: f64) -> f64 {
        let zeros = Segment { lo: 0.0, hi: 0.0, count: n_zeros };
        let negative = self.segments().take_while(|segment| segment.hi <= 0.0);
        let positive = self.segments().skip_while(|segment| segment.hi <= 0.0);
        let mut n_below = 0.0;
        for segment in negative.chain([zeros]).chain(positive) {
            if segment.count > 0.0 && n_below + segment.count >= rank {
                return segment.lo + (rank - n_below) / segment.count * (segment.hi - segment.lo);
            }
            n_below += segment.count;
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(data: &[f32]) -> Histogram {
        let mut sketch = Sketch::new();
        sketch.observe(data);
        Histogram::new(&sketch)
    }

    #[test]
    fn zeros_take_their_place_among_the_values() {
        let h = histogram(&[-1.0, 0.0, 0.0, 0.0, 2.0]);
        assert_eq!((h.quantile(0.0), h.quantile(0.5), h.quantile(1.0)), (-1.0, 0.0, 2.0));
        assert!(h.nonzero_quantile(0.75) > 1.9);
    }

    #[test]
    fn folding_equals_the_histogram_of_magnitudes() {
        for data in [vec![-3.0, 0.5, 1.0, 0.0, 2.5, -0.1], vec![-3.0, -2.0, -2.9], vec![2.0, 3.0, 0.0]] {
            let magnitudes: Vec<f32> = data.iter().map(|x: &f32| x.abs()).collect();
            let (folded, expected) = (histogram(&data).folded(), histogram(&magnitudes));
            assert_eq!(
                (folded.min, folded.max, folded.n_zeros),
                (expected.min, expected.max, expected.n_zeros)
            );
            // Signed data may need wider bins; compare the distribution.
            for q in [0.0, 0.2, 0.5, 0.9, 1.0] {
                assert!((folded.quantile(q) - expected.quantile(q)).abs() <= folded.width);
            }
        }
    }
}
