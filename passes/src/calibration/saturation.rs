//! Weights for kernels whose sums of two products saturate: no pair of levels is left that could.
//!
//! Halving the grid of a whole tensor (`reduce_range`) is what is usually done about such kernels, and costs one bit
//! of every weight. But only pairs of large weights of one sign are at risk, so each channel is treated on its own:
//! channels without such a pair keep their scale; in the others the scale is raised a little, the pairs that are
//! still too large are moved to the limit, and the raise with the least squared error is taken.

use rayon::prelude::*;
use squint_ir::affine::{ChannelLayout, QuantParams, quantize, quantize_channels_i8};
use squint_targets::Pairs;

/// Raises tried: each scale 3 % above the last one, up to the double, at which no pair is too large.
const STEPS: i32 = 24;
const STEP: f32 = 1.03;

/// Raises the scales of channels in which pairs could saturate, to the least squared error of the weights.
///
/// `data` is the tensor in row-major order, as the layout says; `qmax` the largest level.
pub fn raise_scales(
    data: &[f32],
    layout: ChannelLayout,
    params: &mut [QuantParams],
    pairs: Pairs,
    qmax: i32,
) {
    params.par_iter_mut().enumerate().for_each(|(c, p)| {
        let weights: Vec<f32> = layout.channel(data, c).flatten().copied().collect();
        let mut least = f64::INFINITY;
        let start = p.scale;
        for step in 0..=STEPS {
            let scale = start * STEP.powi(step);
            let mut levels: Vec<i8> =
                weights.iter().map(|w| quantize(*w, scale, 0, -qmax, qmax) as i8).collect();
            let moved = pairs.limit(&mut levels);
            let error = squared_error(&weights, &levels, scale);
            if error < least {
                (least, p.scale) = (error, scale);
            }
            if !moved {
                break;
            }
        }
    });
}

/// The levels of a weight, in `[-qmax, qmax]`, with pairs kept from saturating if there are such; `None` if parameters do not fit.
pub fn weight_levels(
    data: &[f32],
    layout: ChannelLayout,
    params: &[QuantParams],
    pairs: Option<Pairs>,
    qmax: i8,
) -> Option<Vec<i8>> {
    let mut levels = quantize_channels_i8(data, layout, params, -qmax)?;
    levels.iter_mut().for_each(|q| *q = (*q).min(qmax));
    let Some(pairs) = pairs else { return Some(levels) };
    if layout.outer == 1 {
        for channel in levels.chunks_exact_mut(layout.inner.max(1)) {
            pairs.limit(channel);
        }
        return Some(levels);
    }
    for c in 0..layout.channels {
        let mut channel: Vec<i8> = layout.channel(&levels, c).flatten().copied().collect();
        if pairs.limit(&mut channel) {
            for (i, run) in channel.chunks_exact(layout.inner.max(1)).enumerate() {
                let at = (i * layout.channels + c) * layout.inner;
                levels[at..at + layout.inner].copy_from_slice(run);
            }
        }
    }
    Some(levels)
}

fn squared_error(weights: &[f32], levels: &[i8], scale: f32) -> f64 {
    let error = |(w, q): (&f32, &i8)| f64::from(f32::from(*q) * scale - *w).powi(2);
    weights.iter().zip(levels).filter(|(w, _)| w.is_finite()).map(error).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Pairs = Pairs { inputs: 4, window: 1, joined: false };

    fn scales(of: &[f32]) -> Vec<QuantParams> {
        of.iter().map(|&scale| QuantParams { scale, zero_point: 0 }).collect()
    }

    #[test]
    fn only_channels_at_risk_are_raised() {
        let data = [1.27, -1.27, 0.2, 0.3, 1.27, 1.0, 0.5, 0.25];
        let layout = ChannelLayout::new(&[2, 4], 0).expect("there is an axis 0");
        let mut params = scales(&[0.01, 0.01]);
        raise_scales(&data, layout, &mut params, ROW, 127);
        assert_eq!(params[0].scale, 0.01);
        assert!(params[1].scale > 0.01 && params[1].scale < 0.02, "{params:?}");
        let levels = weight_levels(&data, layout, &params, Some(ROW), 127).expect("it fits");
        assert_eq!(levels[..4], [127, -127, 20, 30]);
        assert!(levels[4..].chunks(2).all(|p| i32::from(p[0]) + i32::from(p[1]) <= Pairs::LIMIT));
    }

    #[test]
    fn channels_may_lie_across() {
        // Two columns of four weights each; the first saturates, the second does not.
        let data = [1.27, 0.1, 1.27, 0.2, 0.0, 0.3, 0.0, 0.4];
        let layout = ChannelLayout::new(&[4, 2], 1).expect("there is an axis 1");
        let params = scales(&[0.01, 0.01]);
        let levels = weight_levels(&data, layout, &params, Some(ROW), 127).expect("it fits");
        assert_eq!(levels, [64, 10, 64, 20, 0, 30, 0, 40]);
        let exact = weight_levels(&data, layout, &params, None, 127).expect("it fits");
        assert_eq!(exact[0], 127);
    }
}
