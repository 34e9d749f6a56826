//! Ranges of weights, per channel, from the values themselves.
//!
//! Weights are quantized symmetrically, zero point 0, which integer kernels need. Methods are those of activations, but
//! for those that ask for samples. Extremes, percentiles and least errors are found on the values; the
//! least error is searched over shrunken ranges as in GPTQ: the largest magnitude times 1, 0.99, 0.98, ... down to 0.2,
//! ending once five steps in a row bring nothing. `entropy` and `auto` work on a sketch of the channel.

use super::range::{Method, solve};
use super::sketch::Sketch;
use rayon::prelude::*;
use squint_ir::affine::{ChannelLayout, Grid, QuantParams, symmetric};

/// How the range of a channel follows from its weights: one of the methods that [`suits_weights`] allows.
pub type WeightMethod = Method;

/// Whether a method makes sense for weights: there are no samples of them.
pub fn suits_weights(method: Method) -> bool {
    !matches!(method, Method::MeanMinMax | Method::MovingAverage(_))
}

/// Scale of each channel of a weight tensor on the grid `[-qmax, qmax]`; zero points are 0.
///
/// `data` holds the tensor in row-major order; `None` if its length does not fit the layout. A layout of one
/// channel gives the scale of the whole tensor. Values that are not finite are ignored. A channel of zeros gets
/// the smallest scale of the others, so that a bias beside it is not rounded more than theirs; 1 if there are none.
pub fn channel_params(
    data: &[f32],
    layout: ChannelLayout,
    method: WeightMethod,
    qmax: i32,
) -> Option<Vec<QuantParams>> {
    if data.len() != layout.len() {
        return None;
    }
    let params = |channel| {
        let weights: Vec<f32> =
            layout.channel(data, channel).flatten().copied().filter(|x| x.is_finite()).collect();
        let threshold = threshold(weights, method, qmax);
        (threshold > 0.0).then(|| symmetric(threshold, qmax))
    };
    let found: Vec<Option<QuantParams>> = (0..layout.channels).into_par_iter().map(params).collect();
    let smallest = found.iter().flatten().map(|p| p.scale).reduce(f32::min).unwrap_or(1.0);
    let unused = QuantParams { scale: smallest, zero_point: 0 };
    Some(found.into_iter().map(|p| p.unwrap_or(unused)).collect())
}

fn threshold(mut weights: Vec<f32>, method: WeightMethod, qmax: i32) -> f32 {
    let largest = weights.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    match method {
        _ if largest == 0.0 => 0.0,
        // A tensor is one sample, whose extremes are their own means.
        Method::MinMax | Method::MeanMinMax | Method::MovingAverage(_) => largest,
        Method::Percentile(percentage) => {
            let kept = (percentage / 100.0).clamp(0.0, 1.0) * weights.len() as f64;
            let rank = (kept.ceil() as usize).clamp(1, weights.len()) - 1;
            let by_magnitude = |a: &f32, b: &f32| a.abs().total_cmp(&b.abs());
            weights.select_nth_unstable_by(rank, by_magnitude).1.abs()
        }
        Method::Mse => {
            least_error_threshold(largest, |scale| squared_error(&weights, scale, qmax as f32), qmax)
        }
        Method::Lp(p) => {
            least_error_threshold(largest, |scale| lp_error(&weights, scale, qmax as f32, p), qmax)
        }
        Method::Entropy | Method::Auto => {
            let mut sketch = Sketch::new();
            sketch.observe(&weights);
            solve(&sketch, method, &Grid { qmin: -qmax, qmax, symmetric: true }).hi
        }
    }
}

fn least_error_threshold(largest: f32, error: impl Fn(f32) -> f64, qmax: i32) -> f32 {
    const MAX_STEPS: i32 = 80;
    const PATIENCE: i32 = 5;
    let (mut best, mut least, mut best_step) = (largest, f64::INFINITY, 0);
    for step in 0..=MAX_STEPS {
        let candidate = largest * (1.0 - step as f32 / 100.0);
        let error = error(symmetric(candidate, qmax).scale);
        if error < least {
            (best, least, best_step) = (candidate, error, step);
        } else if step - best_step >= PATIENCE {
            break;
        }
    }
    best
}

/// Sum of squared differences between weights and their levels.
fn squared_error(weights: &[f32], scale: f32, qmax: f32) -> f64 {
    summed(weights, |x| rounding(x, scale, qmax).powi(2))
}

/// Sum of their magnitudes to the power of `p`.
fn lp_error(weights: &[f32], scale: f32, qmax: f32, p: f64) -> f64 {
    summed(weights, |x| rounding(x, scale, qmax).abs().powf(p))
}

/// What a weight changes by when it is quantized.
fn rounding(x: f32, scale: f32, qmax: f32) -> f64 {
    // Adding and subtracting 1.5 * 2^23 rounds half to even, in a form that compilers vectorise.
    const MAGIC: f32 = 12_582_912.0;
    let level = ((x / scale).clamp(-qmax, qmax) + MAGIC) - MAGIC;
    f64::from(level * scale - x)
}

fn summed(weights: &[f32], error: impl Fn(f32) -> f64) -> f64 {
    // A fixed number of partial sums, so that the result does not depend on how a compiler vectorises.
    const LANES: usize = 8;
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += error(chunk[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| error(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales(data: &[f32], dims: &[usize], axis: usize, method: WeightMethod) -> Vec<f32> {
        let layout = ChannelLayout::new(dims, axis).expect("valid axis");
        let params = channel_params(data, layout, method, 127).expect("fitting layout");
        assert!(params.iter().all(|p| p.zero_point == 0));
        params.iter().map(|p| p.scale * 127.0).collect()
    }

    #[test]
    fn a_channel_of_zeros_takes_the_smallest_scale_of_the_others() {
        let layout = ChannelLayout { outer: 1, channels: 3, inner: 2 };
        let p =
            channel_params(&[0.0, 0.0, 1.27, 0.0, 0.0, -12.7], layout, WeightMethod::MinMax, 127).unwrap();
        assert_eq!(p.iter().map(|p| p.scale).collect::<Vec<_>>(), [0.01, 0.01, 0.1]);
        let p = channel_params(&[0.0; 6], layout, WeightMethod::MinMax, 127).unwrap();
        assert_eq!(p[0].scale, 1.0);
    }

    #[test]
    fn each_channel_has_its_own_scale() {
        let data = [1.0, -2.0, 0.0, 0.0, f32::NAN, 0.5];
        assert_eq!(scales(&data, &[3, 2], 0, WeightMethod::MinMax), [2.0, 0.5, 0.5]);
        assert_eq!(scales(&data, &[3, 2], 1, WeightMethod::MinMax), [1.0, 2.0]);
        let layout = ChannelLayout::new(&[3, 3], 0).expect("valid axis");
        assert_eq!(channel_params(&data, layout, WeightMethod::MinMax, 127), None);
        assert_eq!(scales(&[], &[2, 0], 0, WeightMethod::Mse), [127.0, 127.0]);
    }

    #[test]
    fn an_outlier_is_clipped_where_the_method_says_so() {
        let mut data: Vec<f32> = (0..9999).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect();
        data.push(1.5);
        let dims = [1, data.len()];
        let percentile = scales(&data, &dims, 0, WeightMethod::Percentile(99.9))[0];
        assert!((percentile - 1.0).abs() < 0.01, "{percentile}");
        let mse = scales(&data, &dims, 0, WeightMethod::Mse)[0];
        assert!(mse <= 1.5 && mse > 1.0, "{mse}");
        let error = |threshold: f32| squared_error(&data, threshold / 127.0, 127.0);
        assert!(error(mse) <= error(1.5) && error(mse) <= error(1.2));
    }

    #[test]
    fn every_method_of_activations_that_needs_no_samples_is_one_of_weights() {
        // Normal weights with one that is far out.
        let mut state = 3_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let mut data: Vec<f32> = (0..20_000).map(|_| normal() as f32).collect();
        data.push(-9.0);
        let dims = [1, data.len()];
        let bound = |method| scales(&data, &dims, 0, method)[0];
        assert_eq!(bound(Method::MinMax), 9.0);
        for method in [
            Method::Percentile(99.9),
            Method::Entropy,
            Method::Mse,
            Method::Lp(1.0),
            Method::Lp(2.4),
            Method::Auto,
        ] {
            assert!(suits_weights(method));
            let found = bound(method);
            assert!(found > 2.0 && found < 9.0, "{method}: {found}");
        }
        assert!(bound(Method::Lp(1.0)) < bound(Method::Mse) && bound(Method::Mse) < bound(Method::Lp(4.0)));
        assert!((bound(Method::Lp(2.0)) - bound(Method::Mse)).abs() < 1e-6);
        assert!(!suits_weights(Method::MeanMinMax) && !suits_weights(Method::MovingAverage(0.5)));
    }
}
