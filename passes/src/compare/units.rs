//! In which units a value of the quantized model is, channel by channel.
//!
//! Equalisation scales channels of values and of the weights around them, and absorbing biases shifts them: `y = s x + o` in
//! each channel, which the model does not say the numbers of. They are found by least squares. For values that is where
//! everything before is in float, so that all that is in the way is the value's own error; an offset is believed only where
//! it explains most of what the factor alone leaves. For weights, `w' = a w b` with a factor for each row and each column,
//! it is by alternating between the two.

use squint_ir::Tensor;

/// Factors and offsets of the channels of a value.
#[derive(Clone, Debug)]
pub(super) struct Units {
    axis: usize,
    channels: Vec<Channel>,
}

/// Sums over the elements of a channel, `x` in float and `y` in the quantized model.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    n: f64,
    /// Elements that are not zero.
    seen: u32,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

/// Rank of rows, which have no axis behind that of their channels.
const ROWS: usize = 2;
/// Elements that are not zero from which a factor is believed: one of few small numbers is a matter of rounding.
const ENOUGH: u32 = 8;
/// Share of a channel that a fit must explain: the square of the cosine, or with an offset of the correlation.
const ALIKE: f64 = 0.5;
/// How many times less a fit with an offset must leave than one without, and of how many elements.
const CLEARLY: f64 = 4.0;
const ENOUGH_FOR_OFFSETS: f64 = 64.0;

impl Channel {
    /// Factor and offset; `None` if the channel was nearly always zero, or nothing fits.
    fn fit(&self) -> Option<(f64, f64)> {
        // A channel that hardly ever reaches a level says nothing of its factor.
        if self.seen < ENOUGH {
            return None;
        }
        let factor = self.xy / self.xx;
        let left = self.yy - factor * self.xy;
        let spread = self.xx - self.x * self.x / self.n;
        let slope = (self.xy - self.x * self.y / self.n) / spread;
        let varies = self.yy - self.y * self.y / self.n;
        let left_by_line = varies - slope * slope * spread;
        // Sums of few equal numbers have no spread but rounding errors.
        let line = self.n >= ENOUGH_FOR_OFFSETS
            && spread > 1e-6 * self.xx
            && slope.is_finite()
            && left > CLEARLY * left_by_line.max(0.0);
        let (fit, alike) = match line {
            true => ((slope, (self.y - slope * self.x) / self.n), slope * slope * spread >= ALIKE * varies),
            false => ((factor, 0.0), factor * self.xy >= ALIKE * self.yy),
        };
        (alike && fit.0.is_finite() && fit.0 > 0.0).then_some(fit)
    }
}

/// Calls `each` with the channel and the position of every element.
fn by_channel(axis: usize, dims: &[usize], mut each: impl FnMut(usize, usize)) {
    let channels = dims.get(axis).copied().unwrap_or(1);
    let inner: usize = dims[(axis + 1).min(dims.len())..].iter().product();
    let n: usize = dims.iter().product();
    (0..n).for_each(|i| each(i / inner.max(1) % channels.max(1), i));
}

impl Units {
    /// Of channels along an axis, of which nothing is known yet.
    pub(super) fn new(axis: usize) -> Units {
        Units { axis, channels: Vec::new() }
    }

    /// Learns from a sample: `x` in float and `y` in the quantized model, of these dimensions.
    pub(super) fn learn(&mut self, dims: &[usize], x: &[f32], y: &[f32]) {
        let channels = dims.get(self.axis).copied().unwrap_or(1);
        self.channels.resize(channels.max(self.channels.len()), Channel::default());
        by_channel(self.axis, dims, |c, i| {
            let (x, y) = (f64::from(x[i]), f64::from(y[i]));
            if x.is_finite() && y.is_finite() {
                let s = &mut self.channels[c];
                s.seen += u32::from(x != 0.0);
                (s.n, s.x, s.y) = (s.n + 1.0, s.x + x, s.y + y);
                (s.xx, s.xy, s.yy) = (s.xx + x * x, s.xy + x * y, s.yy + y * y);
            }
        });
    }

    /// Factor and offset of each channel, where they are known; of rows, whose numbers would each be a channel of its own,
    /// samples tell too little.
    fn fits(&self, dims: &[usize]) -> Vec<Option<(f64, f64)>> {
        let channels = dims.get(self.axis).copied().unwrap_or(1);
        let known = |c: usize| self.channels.get(c).filter(|_| dims.len() > ROWS).and_then(Channel::fit);
        (0..channels).map(known).collect()
    }

    /// Numbers of the float model in the units of the quantized one; `None` if nothing is known of these. A channel that
    /// nothing is known of stays as it is.
    pub(super) fn scaled(&self, dims: &[usize], x: &[f32]) -> Option<Vec<f32>> {
        let fits = self.fits(dims);
        if fits.iter().all(Option::is_none) {
            return None;
        }
        let mut out = x.to_vec();
        by_channel(self.axis, dims, |c, i| {
            let (factor, offset) = fits[c].unwrap_or((1.0, 0.0));
            out[i] = (f64::from(x[i]) * factor + offset) as f32;
        });
        Some(out)
    }

    /// Both in the units of the float model, without the channels that nothing is known of.
    pub(super) fn in_float(&self, dims: &[usize], x: &[f32], y: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let fits = self.fits(dims);
        let (mut a, mut b) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        by_channel(self.axis, dims, |c, i| {
            if let Some((factor, offset)) = fits[c] {
                a.push(x[i]);
                b.push(((f64::from(y[i]) - offset) / factor) as f32);
            }
        });
        (a, b)
    }
}

/// Rounds of alternation: more change nothing that can be seen.
const ROUNDS: usize = 12;

/// The weight `x` with the factors for its rows and columns (the first two axes; the columns of each group by themselves)
/// that bring it nearest to `y`, of the same shape.
pub(super) fn scaled_weight(x: &Tensor, y: &Tensor, groups: usize) -> Vec<f32> {
    let dims = x.dims();
    let (rows, columns) = (dims[0], dims[1]);
    let inner: usize = dims[2..].iter().product();
    let per_group = rows.div_ceil(groups.max(1)).max(1);
    let place = |i: usize| {
        let row = i / (columns * inner).max(1);
        (row, row / per_group * columns + i / inner.max(1) % columns.max(1))
    };
    let (w, v) = (x.f32s(), y.f32s());
    let mut factors = [vec![1.0f64; rows], vec![1.0f64; rows.div_ceil(per_group) * columns]];
    for round in 0..2 * ROUNDS {
        let side = round % 2;
        let mut sums = vec![(0.0f64, 0.0f64); factors[side].len()];
        for i in 0..w.len() {
            let (row, column) = place(i);
            let (own, other) = if side == 0 { (row, factors[1][column]) } else { (column, factors[0][row]) };
            let x = f64::from(w[i]) * other;
            sums[own].0 += x * f64::from(v[i]);
            sums[own].1 += x * x;
        }
        for (factor, (xy, xx)) in factors[side].iter_mut().zip(sums) {
            if xx > 0.0 && xy > 0.0 {
                *factor = xy / xx;
            }
        }
    }
    let scaled = |i: usize| {
        let (row, column) = place(i);
        (f64::from(w[i]) * factors[0][row] * factors[1][column]) as f32
    };
    (0..w.len()).map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_and_offsets_of_channels_are_found() {
        let dims = [1, 3, 2];
        let x = [1.0, 2.0, 3.0, -1.0, 0.0, 0.0];
        // Twice; half and 5 more; never seen.
        let y = [2.0, 4.0, 6.5, 4.5, 0.0, 0.0];
        let mut units = Units::new(1);
        for _ in 0..3 {
            units.learn(&dims, &x, &y);
            assert_eq!(units.scaled(&dims, &x), None, "so few numbers may be chance");
        }
        (3..32).for_each(|_| units.learn(&dims, &x, &y));
        assert_eq!(units.scaled(&dims, &x).unwrap(), y);
        assert_eq!(units.scaled(&[1, 3], &x[..3]), None, "of rows");
        assert_eq!(units.in_float(&dims, &x, &y), (x[..4].to_vec(), x[..4].to_vec()));
        // Rounding is no offset.
        let (x, y) = ([1.0, 2.0, 3.0, 4.0], [1.1, 2.0, 3.1, 4.0]);
        let mut units = Units::new(1);
        units.learn(&[1, 1, 4], &x, &y);
        units.learn(&[1, 1, 4], &x, &y);
        let found = units.scaled(&[1, 1, 4], &[10.0; 4]).unwrap();
        assert!((found[0] - 10.13).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn rows_and_columns_of_weights_are_scaled() {
        let x = Tensor::from_f32(&[2, 3], &[1.0, -2.0, 3.0, 4.0, 5.0, -6.0]);
        let (a, b) = ([2.0, 0.5], [1.0, 3.0, 0.25]);
        let y: Vec<f32> = (0..6).map(|i| x.f32s()[i] * a[i / 3] * b[i % 3]).collect();
        let found = scaled_weight(&x, &Tensor::from_f32(&[2, 3], &y), 1);
        assert!(found.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-5), "{found:?}");
        // Two groups of one row: columns of each by themselves.
        let x = Tensor::from_f32(&[2, 2, 1], &[1.0, 1.0, 1.0, 1.0]);
        let y = [1.0, 2.0, 4.0, 1.0];
        let found = scaled_weight(&x, &Tensor::from_f32(&[2, 2, 1], &y), 2);
        assert!(found.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-5), "{found:?}");
    }
}
