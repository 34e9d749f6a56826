//! The default: the range of least mean squared error, with two reins on it.
//!
//! Clipping saves rounding error for the many at the cost of the few, and the few matter more to a network
//! than their number says: a detection score or an attention logit *is* an outlier. So
//! - no more than one in a thousand of the values other than zero may be clipped (zeros, often half of a
//!   rectified tensor, cannot be and would only dilute the share);
//! - the whole range is kept unless clipping gains at least 0.3 dB, as estimates within that are not to be
//!   told apart and values not seen in calibration then still fit.

use squint_ir::affine::Grid;

use super::histogram::Histogram;
use super::mse::{Bounds, ErrorModel};

/// The largest share of the values other than zero that may lie outside.
const MAX_CLIPPED: f64 = 1e-3;

/// 0.3 dB as a ratio of powers.
const WORTHWHILE_GAIN: f64 = 1.0715;

/// The range for the grid.
pub(crate) fn solve(histogram: &Histogram, grid: Grid) -> (f64, f64) {
    let whole = Bounds::free(histogram).widest;
    let model = ErrorModel::new(histogram, grid, 2.0);
    let bounds = Bounds { widest: whole, narrowest: narrowest(histogram, grid.symmetric) };
    let (best, error) = model.minimize(bounds);
    let is_worthwhile = model.error(whole.0, whole.1).total() > error.total() * WORTHWHILE_GAIN;
    if is_worthwhile { best } else { whole }
}

/// The range outside of which `MAX_CLIPPED` of the values other than zero lie.
fn narrowest(histogram: &Histogram, symmetric: bool) -> (f64, f64) {
    if symmetric {
        let threshold = histogram.folded().nonzero_quantile(1.0 - MAX_CLIPPED);
        return (-threshold, threshold);
    }
    let tail = if histogram.is_two_sided() { MAX_CLIPPED / 2.0 } else { MAX_CLIPPED };
    (histogram.nonzero_quantile(tail).min(0.0), histogram.nonzero_quantile(1.0 - tail).max(0.0))
}
