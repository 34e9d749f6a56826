//! Percentile calibration: the range that leaves out a fixed share of the values.
//!
//! On a symmetric grid the share is cut from the magnitudes; on an asymmetric one half of it from either
//! side, or all of it from the only side that the data has. The threshold is interpolated within its bin,
//! where peers return an edge of it.

use super::histogram::Histogram;

/// The range `[lo, hi]` that keeps `percentage` percent of the values.
pub(crate) fn solve(histogram: &Histogram, percentage: f64, symmetric: bool) -> (f64, f64) {
    let kept = (percentage / 100.0).clamp(0.0, 1.0);
    if symmetric {
        let threshold = histogram.folded().quantile(kept);
        (-threshold, threshold)
    } else if histogram.is_two_sided() {
        let tail = (1.0 - kept) / 2.0;
        (histogram.quantile(tail), histogram.quantile(1.0 - tail))
    } else if histogram.max > 0.0 {
        (0.0, histogram.quantile(kept))
    } else {
        (histogram.quantile(1.0 - kept), 0.0)
    }
}

/// Whether fewer values than one lie outside.
pub(crate) fn keeps_everything(histogram: &Histogram, percentage: f64) -> bool {
    let n_values = histogram.n_nonzero() + histogram.n_zeros;
    (1.0 - percentage / 100.0) * n_values < 1.0
}
