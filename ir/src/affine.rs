//! Affine quantization arithmetic, `q = saturate(round_half_even(x / scale) + zero_point)` and its inverse
//! `x = (q - zero_point) * scale`.
//!
//! The semantics are those of ONNX `QuantizeLinear` and `DequantizeLinear` as ONNX Runtime's CPU kernels
//! execute them: the division is a single precision *division* (a multiplication by the reciprocal rounds
//! differently), ties go to the even integer, the zero point is added after rounding, and the result
//! saturates. Two points that the standard leaves open are settled here: infinities saturate, and NaN becomes
//! the lowest level, which is what the `maxps`/`minps` sequence of ONNX Runtime's x86 kernel
//! (`mlas/lib/quantize.cpp`) makes of it.
//!
//! How a scale follows from a range is `compute_scale_zp` of ONNX Runtime's `quant_utils.py`: the range is
//! widened to contain zero (so that zero, the value of every padding, is a level of the grid), the scale is
//! computed in double precision and then rounded to single, and a degenerate range gives scale 1. One
//! departure: a symmetric grid maps the largest magnitude to a whole level on both sides, also where the grid
//! has one level more on one side than on the other.

use std::fmt;

/// Scale and zero point of one tensor, or of one channel of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantParams {
    /// Real distance between two neighbouring levels; positive, finite and not subnormal.
    pub scale: f32,
    /// The level that stands for real zero.
    pub zero_point: i32,
}

/// An integer grid: the levels that a quantized tensor may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Lowest level.
    pub qmin: i32,
    /// Highest level.
    pub qmax: i32,
    /// Whether the zero point is fixed to the middle of the grid and the range has to be `[-t, t]`.
    pub symmetric: bool,
}

impl Grid {
    /// Unsigned 8 bit with a free zero point: activations on x86.
    pub const U8: Grid = Grid { qmin: 0, qmax: 255, symmetric: false };
    /// Signed 8 bit with a free zero point.
    pub const I8: Grid = Grid { qmin: -128, qmax: 127, symmetric: false };
    /// Signed 8 bit, zero point 0, without the level -128: weights everywhere, activations on TensorRT.
    pub const I8_SYMMETRIC: Grid = Grid { qmin: -127, qmax: 127, symmetric: true };

    /// Scale and zero point with which this grid covers the real range `[lo, hi]`, widened to contain zero.
    ///
    /// A symmetric grid covers `[-t, t]` with `t = max(|lo|, |hi|)`. An empty, degenerate or NaN range gives
    /// scale 1.
    pub fn params(self, lo: f32, hi: f32) -> QuantParams {
        if !self.symmetric {
            return asymmetric(lo, hi, self.qmin, self.qmax);
        }
        let zero_point = self.middle();
        let levels = (self.qmax - zero_point).min(zero_point - self.qmin);
        QuantParams { zero_point, ..symmetric(lo.abs().max(hi.abs()), levels) }
    }

    /// Number of levels.
    pub fn levels(self) -> u32 {
        self.qmax.abs_diff(self.qmin) + 1
    }

    /// The zero point of a symmetric grid: 0 if signed, 128 for unsigned 8 bit.
    fn middle(self) -> i32 {
        let sum = f64::from(self.qmin) + f64::from(self.qmax);
        (sum / 2.0).round_ties_even() as i32
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.symmetric { "symmetric" } else { "asymmetric" };
        write!(f, "{kind} [{}, {}]", self.qmin, self.qmax)
    }
}

/// Parameters of a grid with a free zero point: `scale = (hi - lo) / (qmax - qmin)`, `zero_point = qmin - lo
/// / scale`.
///
/// `[lo, hi]` is widened to contain zero; NaN counts as zero, infinities as the largest finite value.
pub fn asymmetric(lo: f32, hi: f32, qmin: i32, qmax: i32) -> QuantParams {
    let lo = nan_as_zero(lo).clamp(f32::MIN, 0.0);
    let hi = nan_as_zero(hi).clamp(0.0, f32::MAX);
    let width = f64::from(hi) - f64::from(lo);
    let Some(scale) = usable_scale(width / (f64::from(qmax) - f64::from(qmin))) else {
        return QuantParams { scale: 1.0, zero_point: 0_i32.clamp(qmin, qmax) };
    };
    // The same single precision division as in `quantize`.
    let zero_point = (f64::from(qmin) - f64::from(lo / scale)).round_ties_even();
    QuantParams { scale, zero_point: zero_point.clamp(f64::from(qmin), f64::from(qmax)) as i32 }
}

/// Parameters of a signed grid `[-qmax, qmax]`: `scale = amax / qmax`, zero point 0.
pub fn symmetric(amax: f32, qmax: i32) -> QuantParams {
    let amax = f64::from(nan_as_zero(amax).clamp(0.0, f32::MAX));
    QuantParams { scale: usable_scale(amax / f64::from(qmax)).unwrap_or(1.0), zero_point: 0 }
}

fn nan_as_zero(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x }
}

/// Rounds a scale to single precision; `None` if it is zero or subnormal there, and division by it not to be
/// trusted.
fn usable_scale(scale: f64) -> Option<f32> {
    let scale = scale as f32;
    (scale >= f32::MIN_POSITIVE && scale.is_finite()).then_some(scale)
}

/// The level of `x`: round half to even, then add the zero point, then saturate. NaN becomes `qmin`.
pub fn quantize(x: f32, scale: f32, zero_point: i32, qmin: i32, qmax: i32) -> i32 {
    let level = f64::from((x / scale).round_ties_even()) + f64::from(zero_point);
    if level > f64::from(qmin) { level.min(f64::from(qmax)) as i32 } else { qmin }
}

/// The real value of a level.
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    (i64::from(q) - i64::from(zero_point)) as f32 * scale
}

/// Quantizes to the full unsigned 8 bit grid.
pub fn quantize_slice_u8(data: &[f32], params: QuantParams) -> Vec<u8> {
    let level = Rounder::new(params, 0, 255);
    data.iter().map(|&x| level.of(x) as u8).collect()
}

/// Quantizes to the signed 8 bit grid whose lowest level is `qmin`: -128, or -127 for a narrow range.
pub fn quantize_slice_i8(data: &[f32], params: QuantParams, qmin: i8) -> Vec<i8> {
    let level = Rounder::new(params, i32::from(qmin), 127);
    data.iter().map(|&x| level.of(x) as i8).collect()
}

/// The levels of values on a grid of at most 16 bits, the same as [`quantize`] gives them one by one.
pub fn levels(data: &[f32], params: QuantParams, qmin: i32, qmax: i32) -> impl Iterator<Item = i32> {
    let level = Rounder::new(params, qmin, qmax);
    data.iter().map(move |&x| level.of(x))
}

/// The real values of unsigned 8 bit levels.
pub fn dequantize_slice_u8(levels: &[u8], params: QuantParams) -> Vec<f32> {
    levels.iter().map(|&q| dequantize(i32::from(q), params.scale, params.zero_point)).collect()
}

/// The real values of signed 8 bit levels.
pub fn dequantize_slice_i8(levels: &[i8], params: QuantParams) -> Vec<f32> {
    levels.iter().map(|&q| dequantize(i32::from(q), params.scale, params.zero_point)).collect()
}

/// `quantize` for grids of at most 16 bits, in a form that compilers vectorise without a rounding
/// instruction.
#[derive(Clone, Copy)]
struct Rounder {
    scale: f32,
    zero_point: i32,
    lowest: f32,
    highest: f32,
}

impl Rounder {
    fn new(params: QuantParams, qmin: i32, qmax: i32) -> Rounder {
        let QuantParams { scale, zero_point } = params;
        let offset = |q: i32| (i64::from(q) - i64::from(zero_point)) as f32;
        Rounder { scale, zero_point, lowest: offset(qmin), highest: offset(qmax) }
    }

    /// The bounds are whole numbers, so clamping before rounding gives what clamping after it gives.
    /// Adding and subtracting `1.5 * 2^23` rounds a number of magnitude below `2^22` half to even.
    fn of(self, x: f32) -> i32 {
        const MAGIC: f32 = 12_582_912.0;
        let q = x / self.scale;
        let q = if q > self.lowest { q } else { self.lowest };
        let q = if q < self.highest { q } else { self.highest };
        ((q + MAGIC) - MAGIC) as i32 + self.zero_point
    }
}

/// A tensor seen as `outer` x `channels` x `inner` around its channel axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLayout {
    /// Product of the dimensions before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub channels: usize,
    /// Product of the dimensions after the axis.
    pub inner: usize,
}

impl ChannelLayout {
    /// The layout of a tensor of shape `dims` around `axis`; `None` if there is no such axis or the size
    /// overflows.
    pub fn new(dims: &[usize], axis: usize) -> Option<ChannelLayout> {
        let product = |dims: &[usize]| dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let layout = ChannelLayout {
            outer: product(dims.get(..axis)?)?,
            channels: *dims.get(axis)?,
            inner: product(dims.get(axis + 1..)?)?,
        };
        layout.outer.checked_mul(layout.channels)?.checked_mul(layout.inner)?;
        Some(layout)
    }

    /// The layout around an axis; without one, of a tensor whose elements are one channel.
    pub fn along(dims: &[usize], axis: Option<usize>) -> Option<ChannelLayout> {
        match axis {
            Some(axis) => ChannelLayout::new(dims, axis),
            None => Some(ChannelLayout { outer: 1, channels: 1, inner: dims.iter().product() }),
        }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements of one channel as runs of `inner` neighbours. `data` must have [`len`](Self::len)
    /// elements.
    pub fn channel<T>(self, data: &[T], channel: usize) -> impl Iterator<Item = &[T]> {
        let (stride, start) = (self.channels * self.inner, channel * self.inner);
        (0..self.outer).filter_map(move |i| data.get(i * stride + start..i * stride + start + self.inner))
    }
}

/// Quantizes weights channel by channel, `params[c]` for channel `c`, to the grid from `qmin` to 127.
///
/// `None` if `data` or `params` does not fit the layout.
pub fn quantize_channels_i8(
    data: &[f32],
    layout: ChannelLayout,
    params: &[QuantParams],
    qmin: i8,
) -> Option<Vec<i8>> {
    if data.len() != layout.len() || params.len() != layout.channels {
        return None;
    }
    let levels: Vec<Rounder> = params.iter().map(|&p| Rounder::new(p, i32::from(qmin), 127)).collect();
    let mut quantized = Vec::with_capacity(data.len());
    // A zero dimension leaves no rows to visit; `max` only keeps the chunk size valid.
    for (i, run) in data.chunks_exact(layout.inner.max(1)).enumerate() {
        let level = levels[i % layout.channels];
        quantized.extend(run.iter().map(|&x| level.of(x) as i8));
    }
    Some(quantized)
}

/// Scale of the int32 bias beside an activation and a weight: their product in double precision, rounded to
/// single.
///
/// A product too small for single precision becomes the smallest normal number.
pub fn bias_scale(activation_scale: f32, weight_scale: f32) -> f32 {
    let product = f64::from(activation_scale) * f64::from(weight_scale);
    (product as f32).clamp(f32::MIN_POSITIVE, f32::MAX)
}

/// One bias value on the int32 grid with zero point 0; divides in double precision and saturates. NaN becomes
/// 0.
pub fn quantize_bias(bias: f32, scale: f32) -> i32 {
    // Float to integer casts saturate and map NaN to zero.
    (f64::from(bias) / f64::from(scale)).round_ties_even() as i32
}

/// The weight scale with which `bias` fits the int32 grid: `weight_scale` itself, or the smallest scale above
/// it.
///
/// A tiny weight scale beside a large bias overflows the accumulator's grid; ONNX Runtime's quantizer and
/// TFLite then raise the weight scale, giving up weight precision that the bias would have drowned anyway.
pub fn weight_scale_for_bias(weight_scale: f32, activation_scale: f32, bias: f32) -> f32 {
    const MARGIN: f64 = 1.0001;
    let bias = f64::from(bias.abs().min(f32::MAX));
    let smallest = MARGIN * bias / f64::from(i32::MAX) / f64::from(activation_scale);
    weight_scale.max(smallest as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_even_before_the_zero_point_is_added() {
        let q = |x| quantize(x, 1.0, 3, 0, 255);
        assert_eq!([q(0.5), q(1.5), q(2.5), q(-0.5), q(-1.5)], [3, 5, 5, 3, 1]);
    }

    #[test]
    fn what_is_not_a_number_or_not_in_range_saturates() {
        for params in [Grid::U8.params(-1.0, 2.0), Grid::U8.params(0.0, 6.0)] {
            let data = [f32::NAN, f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY];
            assert_eq!(quantize_slice_u8(&data, params), [0, 0, 0, 255, 255]);
            let one_by_one = data.map(|x| quantize(x, params.scale, params.zero_point, 0, 255));
            assert_eq!(one_by_one, [0, 0, 0, 255, 255]);
        }
    }

    #[test]
    fn parameters_follow_onnxruntime() {
        assert_eq!(Grid::U8.params(0.0, 2.55), QuantParams { scale: 2.55_f64 as f32 / 255.0, zero_point: 0 });
        assert_eq!(Grid::U8.params(-1.0, 3.0).zero_point, 64);
        assert_eq!(Grid::U8.params(3.0, 5.1), Grid::U8.params(0.0, 5.1));
        assert_eq!(Grid::I8_SYMMETRIC.params(-12.7, 3.0), symmetric(12.7, 127));
        let centred = Grid { symmetric: true, ..Grid::U8 };
        assert_eq!(centred.params(0.0, 1.27).zero_point, 128);
    }

    #[test]
    fn degenerate_ranges_give_scale_one() {
        for (lo, hi) in [(0.0, 0.0), (f32::NAN, f32::NAN), (0.0, 1e-44), (1.0, -1.0)] {
            let params = Grid::U8.params(lo, hi);
            assert!(params.scale >= f32::MIN_POSITIVE, "{lo} {hi}");
            assert_eq!(quantize(0.0, params.scale, params.zero_point, 0, 255), params.zero_point);
        }
        assert_eq!(Grid::U8.params(0.0, 0.0), QuantParams { scale: 1.0, zero_point: 0 });
        assert!(Grid::U8.params(f32::NEG_INFINITY, f32::INFINITY).scale.is_finite());
    }

    #[test]
    fn a_bias_that_overflows_raises_the_weight_scale() {
        let raised = weight_scale_for_bias(1e-12, 1e-3, 100.0);
        assert!(raised > 1e-12);
        let level = quantize_bias(100.0, bias_scale(1e-3, raised));
        assert!(level < i32::MAX && level > i32::MAX / 2);
        assert_eq!(weight_scale_for_bias(0.01, 0.01, 100.0), 0.01);
        assert_eq!(quantize_bias(1e30, 1e-3), i32::MAX);
    }

    #[test]
    fn channels_are_quantized_along_any_axis() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let params = [1.0, 2.0, 4.0].map(|scale| QuantParams { scale, zero_point: 0 });
        let layout = ChannelLayout::new(&[2, 3, 2], 1).expect("valid axis");
        let levels = quantize_channels_i8(&data, layout, &params, -127).expect("fitting layout");
        assert_eq!(levels, [0, 1, 1, 2, 1, 1, 6, 7, 4, 4, 2, 3]);
        assert_eq!(layout.channel(&data, 1).collect::<Vec<_>>(), [[2.0, 3.0], [8.0, 9.0]]);
        assert_eq!(quantize_channels_i8(&data[1..], layout, &params, -127), None);
        assert_eq!(ChannelLayout::new(&[2, 3], 2), None);
    }

    proptest! {
        #[test]
        fn levels_survive_a_round_trip(lo in -1e6_f32..0.0, hi in 0.0_f32..1e6, q in 0..=255_i32) {
            let p = Grid::U8.params(lo, hi);
            let x = dequantize(q, p.scale, p.zero_point);
            prop_assert_eq!(quantize(x, p.scale, p.zero_point, 0, 255), q);
        }

        #[test]
        fn error_is_at_most_half_a_step_and_zero_is_exact(
            lo in -1e4_f32..0.0, hi in 1e-3_f32..1e4, t in 0.0_f32..=1.0,
        ) {
            for grid in [Grid::U8, Grid::I8, Grid::I8_SYMMETRIC] {
                let p = grid.params(lo, hi);
                let x = lo + t * (hi - lo);
                let q = quantize(x, p.scale, p.zero_point, grid.qmin, grid.qmax);
                let error = (dequantize(q, p.scale, p.zero_point) - x).abs();
                prop_assert!(error <= p.scale * 0.5001, "{grid}: {error} at {x}, scale {}", p.scale);
                let zero = quantize(0.0, p.scale, p.zero_point, grid.qmin, grid.qmax);
                prop_assert_eq!(dequantize(zero, p.scale, p.zero_point), 0.0);
            }
        }

        #[test]
        fn slices_agree_with_single_values(bits in proptest::collection::vec(any::<u32>(), 0..64), zp in -128..=127_i32) {
            let data: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let p = QuantParams { scale: 0.37, zero_point: zp };
            let expected: Vec<i8> = data.iter().map(|&x| quantize(x, 0.37, zp, -128, 127) as i8).collect();
            prop_assert_eq!(quantize_slice_i8(&data, p, -128), expected);
        }
    }
}
