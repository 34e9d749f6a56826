//! Sketches of the channels of a value, for those who ask: coarser than that of the whole value, and bounded in number.
//!
//! What holds of a sketch holds of these: they are a function of the multiset of samples.

use super::sketch::Sketch;
use squint_ir::affine::ChannelLayout;

/// The most bins of a channel's histogram: with its other counts a channel takes less than 1 KiB.
pub const CHANNEL_BINS: usize = 64;

/// Channels behind the first so many are not sketched.
pub const MAX_CHANNELS: usize = 4096;

/// Sketches of the channels along one axis of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelSketches {
    axis: usize,
    sketches: Vec<Sketch>,
}

impl ChannelSketches {
    /// No data, of channels along an axis.
    pub fn new(axis: usize) -> ChannelSketches {
        ChannelSketches { axis, sketches: Vec::new() }
    }

    /// Sketches that were stored; `None` if there are too many, or a finer one than there can be.
    pub fn from_parts(axis: usize, sketches: Vec<Sketch>) -> Option<ChannelSketches> {
        let fits =
            sketches.len() <= MAX_CHANNELS && sketches.iter().all(|s| s.to_parts().max_bins == CHANNEL_BINS);
        fits.then_some(ChannelSketches { axis, sketches })
    }

    /// The axis that the channels lie along.
    pub fn axis(&self) -> usize {
        self.axis
    }

    /// A sketch for each channel.
    pub fn sketches(&self) -> &[Sketch] {
        &self.sketches
    }

    /// Takes in the values of one sample, in row-major order. A value that lacks the axis has no channels.
    pub fn observe(&mut self, dims: &[usize], data: &[f32]) {
        let Some(layout) = ChannelLayout::new(dims, self.axis).filter(|l| l.len() == data.len()) else {
            return;
        };
        let n = layout.channels.min(MAX_CHANNELS);
        self.grow(n);
        let mut channel = Vec::with_capacity(layout.outer * layout.inner);
        for (c, sketch) in self.sketches.iter_mut().enumerate().take(n) {
            channel.clear();
            channel.extend(layout.channel(data, c).flatten());
            sketch.observe(&channel);
        }
    }

    /// Takes in what others of the same value have seen. Associative and commutative to the bit.
    pub fn merge(&mut self, other: &ChannelSketches) {
        self.grow(other.sketches.len());
        for (all, one) in self.sketches.iter_mut().zip(&other.sketches) {
            all.merge(one);
        }
    }

    fn grow(&mut self, n: usize) {
        if n > self.sketches.len() {
            self.sketches.resize_with(n, || Sketch::with_max_bins(CHANNEL_BINS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn channels_are_told_apart_along_any_axis() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let extremes = |axis| {
            let mut channels = ChannelSketches::new(axis);
            channels.observe(&[2, 3, 2], &data);
            channels.sketches().iter().map(|s| s.extremes().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(extremes(0), [(0.0, 5.0), (6.0, 11.0)]);
        assert_eq!(extremes(1), [(0.0, 7.0), (2.0, 9.0), (4.0, 11.0)]);
        assert_eq!(extremes(2), [(0.0, 10.0), (1.0, 11.0)]);
        assert_eq!(extremes(3), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut channels = ChannelSketches::new(1);
        let n = MAX_CHANNELS + 5;
        channels.observe(&[2, n], &vec![1.0; 2 * n]);
        assert_eq!(channels.sketches().len(), MAX_CHANNELS);
        let spread: Vec<f32> = (0..5000).map(|i| (i as f32 - 2500.0) * 0.37).collect();
        let mut one = ChannelSketches::new(0);
        one.observe(&[1, 5000], &spread);
        assert!(one.sketches()[0].bin_counts().len() <= CHANNEL_BINS);
        assert!(size_of::<Sketch>() + CHANNEL_BINS * size_of::<u64>() <= 1 << 10);
    }

    proptest! {
        #[test]
        fn order_and_partition_leave_no_trace(
            samples in vec((1..4_usize, vec(-50.0_f32..50.0, 8)), 1..8), cut in any::<proptest::sample::Index>(),
        ) {
            let seen = |samples: &[(usize, Vec<f32>)]| {
                let mut channels = ChannelSketches::new(1);
                for (n, data) in samples {
                    // The number of channels may change from sample to sample.
                    channels.observe(&[2, *n, 1], &data[..2 * n]);
                }
                channels
            };
            let all = seen(&samples);
            let mut shuffled = samples.clone();
            shuffled.reverse();
            let (a, b) = shuffled.split_at(cut.index(shuffled.len()));
            let (mut forward, mut backward) = (seen(a), seen(b));
            forward.merge(&seen(b));
            backward.merge(&seen(a));
            prop_assert_eq!(&forward, &all);
            prop_assert_eq!(backward, all);
        }
    }
}
