//! What calibration remembers of one value: exact counts and extremes, and a histogram of bounded size.
//!
//! A sketch is a function of the multiset of samples it has seen, and of nothing else: any order, any
//! partition and any tree of merges lead to the same bits. What makes it so:
//! - counts are integers, extremes are exact;
//! - the histogram's bins are aligned to zero and a power of two wide, and their width follows from the exact
//!   extremes alone (see `binning.rs`). When an extreme moves, bins fold pairwise, which is exact;
//! - of large samples a part may be counted, which is a function of the sample (see `thinning.rs`);
//! - means are read off the histogram, and sums over samples are kept without rounding (`exact_sum.rs`).
//!
//! Exact zeros, infinities and NaN are counted apart and are in no bin. A zero is an honest value, part of
//! the extremes and of quantiles; infinities and NaN are not.
//!
//! Compare the histograms of ONNX Runtime, PyTorch and PPQ, whose bins depend on the batch that came first.

use super::binning::{self, Extremes, Window};
use super::exact_sum::ExactSum;
use super::histogram::Histogram;
use super::thinning::{Counting, survey};
use std::collections::BTreeMap;

pub use super::binning::MAX_BINS;
use super::binning::MIN_BINS;

/// The statistics of one value over any number of samples, in less than 32 KiB; where the extremes of each sample
/// are kept, 32 bytes a sample more.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    n_samples: u64,
    n_numeric_samples: u64,
    n_zeros: u64,
    n_nans: u64,
    n_pos_infs: u64,
    n_neg_infs: u64,
    min: f32,
    max: f32,
    sum_of_mins: ExactSum,
    sum_of_maxs: ExactSum,
    /// The most bins that there may be.
    max_bins: usize,
    window: Window,
    counts: Vec<u64>,
    /// Extremes of each numeric sample by its number, for what depends on the order of samples.
    each: Option<BTreeMap<u64, (f32, f32)>>,
}

/// The state of a [`Sketch`] as plain numbers, for storage; [`Sketch::from_parts`] checks what comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchParts {
    /// Calls of [`Sketch::observe`].
    pub n_samples: u64,
    /// Samples with at least one finite value.
    pub n_numeric_samples: u64,
    /// Values equal to zero, of either sign.
    pub n_zeros: u64,
    /// Values that are NaN.
    pub n_nans: u64,
    /// Values that are positive infinity.
    pub n_pos_infs: u64,
    /// Values that are negative infinity.
    pub n_neg_infs: u64,
    /// Least finite value; positive infinity if there is none.
    pub min: f32,
    /// Greatest finite value; negative infinity if there is none.
    pub max: f32,
    /// Exact sum of the samples' least values: little-endian limbs, in units of `2^-149`.
    pub sum_of_mins: [u64; 6],
    /// Exact sum of the samples' greatest values.
    pub sum_of_maxs: [u64; 6],
    /// The most bins that there may be, from 8 to [`MAX_BINS`].
    pub max_bins: usize,
    /// Counts of the bins, lowest first; which bins these are follows from `min`, `max` and `max_bins`.
    pub counts: Vec<u64>,
    /// Number, least and greatest finite value of each numeric sample, in order, if they are kept.
    pub each: Option<Vec<(u64, f32, f32)>>,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch::new()
    }
}

impl Sketch {
    /// A sketch of no data.
    pub fn new() -> Sketch {
        Sketch {
            n_samples: 0,
            n_numeric_samples: 0,
            n_zeros: 0,
            n_nans: 0,
            n_pos_infs: 0,
            n_neg_infs: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            sum_of_mins: ExactSum::default(),
            sum_of_maxs: ExactSum::default(),
            max_bins: MAX_BINS,
            window: Window::covering(0.0, 0.0, MAX_BINS),
            counts: Vec::new(),
            each: None,
        }
    }

    /// A sketch of no data with at most so many bins, from 8 to [`MAX_BINS`]: coarser, and smaller.
    pub fn with_max_bins(max_bins: usize) -> Sketch {
        Sketch { max_bins: max_bins.clamp(MIN_BINS, MAX_BINS), ..Sketch::new() }
    }

    /// A sketch of no data that keeps the extremes of each sample; it must be fed by
    /// [`observe_nth`](Self::observe_nth).
    pub fn keeping_each() -> Sketch {
        Sketch { each: Some(BTreeMap::new()), ..Sketch::new() }
    }

    /// Takes in the values of the sample of this number, which no other sample has.
    pub fn observe_nth(&mut self, number: usize, data: &[f32], counting: Counting) {
        match counting {
            Counting::Every => self.observe(data),
            Counting::Thinned => self.observe_thinned(data),
        }
        if let Some(each) = &mut self.each {
            let seen = binning::extremes(data);
            let seen = match seen.all_finite {
                true => seen,
                false => {
                    let finite: Vec<f32> = data.iter().copied().filter(|x| x.is_finite()).collect();
                    binning::extremes(&finite)
                }
            };
            if seen.min <= seen.max {
                each.insert(number as u64, (seen.min, seen.max));
            }
        }
    }

    /// Takes in the values of one sample; if it is a large one, the histogram and the number of zeros count a part of
    /// them, with weights that add up to the number of all ([`Counting::Thinned`]). The rest is exact.
    pub fn observe_thinned(&mut self, data: &[f32]) {
        match survey(data).filter(|s| s.extremes.all_finite) {
            None => self.observe(data),
            Some(survey) => {
                self.n_samples += 1;
                self.begin_finite(survey.extremes);
                self.n_zeros += survey.count(data, self.window, &mut self.counts);
            }
        }
    }

    /// Takes in the values of one sample, every one.
    pub fn observe(&mut self, data: &[f32]) {
        self.n_samples += 1;
        let extremes = binning::extremes(data);
        if extremes.all_finite {
            self.observe_finite(data, extremes);
        } else {
            let finite = self.set_non_finite_aside(data);
            self.observe_finite(&finite, binning::extremes(&finite));
        }
    }

    /// Takes in what another sketch has seen. Associative and commutative to the bit.
    pub fn merge(&mut self, other: &Sketch) {
        match (&mut self.each, &other.each) {
            (Some(each), Some(more)) => each.extend(more),
            // No samples know no order, and lose none.
            (None, Some(more)) if self.n_samples == 0 => self.each = Some(more.clone()),
            (Some(_), None) if other.n_samples == 0 => {}
            _ => self.each = None,
        }
        // Saturation keeps counts from a hostile file from overflowing, and is associative too.
        self.n_samples = self.n_samples.saturating_add(other.n_samples);
        self.n_numeric_samples = self.n_numeric_samples.saturating_add(other.n_numeric_samples);
        self.n_zeros = self.n_zeros.saturating_add(other.n_zeros);
        self.n_nans = self.n_nans.saturating_add(other.n_nans);
        self.n_pos_infs = self.n_pos_infs.saturating_add(other.n_pos_infs);
        self.n_neg_infs = self.n_neg_infs.saturating_add(other.n_neg_infs);
        self.sum_of_mins.merge(&other.sum_of_mins);
        self.sum_of_maxs.merge(&other.sum_of_maxs);
        self.limit(other.max_bins);
        if other.min <= other.max {
            self.cover(other.min, other.max);
            add_folded(&mut self.counts, self.window, &other.counts, other.window);
        }
    }

    /// Number of samples seen.
    pub fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// Number of finite values seen, zeros included.
    pub fn n_finite(&self) -> u64 {
        self.counts.iter().fold(self.n_zeros, |sum, &count| sum.saturating_add(count))
    }

    /// Number of zeros seen; an estimate where samples were thinned.
    pub fn n_zeros(&self) -> u64 {
        self.n_zeros
    }

    /// Number of infinities and NaN seen.
    pub fn n_non_finite(&self) -> u64 {
        self.n_nans.saturating_add(self.n_pos_infs).saturating_add(self.n_neg_infs)
    }

    /// Least and greatest finite value; `None` if there was none.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.min <= self.max).then_some((self.min, self.max))
    }

    /// Means over samples of their least and of their greatest value; `None` if there was no finite value.
    pub fn mean_extremes(&self) -> Option<(f32, f32)> {
        let mean = |sum: &ExactSum| (sum.to_f64() / self.n_numeric_samples as f64) as f32;
        (self.n_numeric_samples > 0).then(|| (mean(&self.sum_of_mins), mean(&self.sum_of_maxs)))
    }

    /// Whether the extremes of each sample are kept.
    pub fn keeps_each(&self) -> bool {
        self.each.is_some()
    }

    /// Moving averages of the samples' least and greatest values, in the order of their numbers: beginning with
    /// the first, `average += weight * (extreme - average)`. `None` if the extremes of each sample are not
    /// kept, or there was no finite value.
    pub fn moving_extremes(&self, weight: f64) -> Option<(f64, f64)> {
        let mut each = self.each.as_ref()?.values().map(|(lo, hi)| (f64::from(*lo), f64::from(*hi)));
        let first = each.next()?;
        Some(each.fold(first, |(a, b), (lo, hi)| (a + weight * (lo - a), b + weight * (hi - b))))
    }

    /// Width of a bin, `2^k`.
    pub fn bin_width(&self) -> f64 {
        f64::from(self.window.exponent).exp2()
    }

    /// Number `i` of the first bin of [`bin_counts`](Self::bin_counts), which covers `[i, i + 1]` times the
    /// width.
    pub fn first_bin(&self) -> i32 {
        self.window.first
    }

    /// Counts of values other than zero, by bin, from the bin of the least to the bin of the greatest value.
    pub fn bin_counts(&self) -> &[u64] {
        &self.counts
    }

    /// Estimated mean of the finite values: exact but for the values' position within their bins.
    pub fn mean(&self) -> Option<f64> {
        self.moment(|centre| centre)
    }

    /// Estimated mean of the squares of the finite values.
    pub fn mean_square(&self) -> Option<f64> {
        self.moment(|centre| centre * centre)
    }

    /// The share of values, NaN aside, that are certainly below a limit: those of whole bins, and negative infinities.
    pub fn share_below(&self, limit: f64) -> f64 {
        let (width, first) = (self.bin_width(), f64::from(self.first_bin()));
        let bins = ((limit / width).floor() - first).clamp(0.0, self.counts.len() as f64) as usize;
        let zeros = if limit > 0.0 { self.n_zeros } else { 0 };
        let below = self.counts[..bins]
            .iter()
            .fold(self.n_neg_infs.saturating_add(zeros), |n, c| n.saturating_add(*c));
        let all = self.n_finite().saturating_add(self.n_neg_infs).saturating_add(self.n_pos_infs);
        below as f64 / all.max(1) as f64
    }

    /// Estimated quantile of the finite values for `q` in `[0, 1]`, interpolated within its bin.
    pub fn quantile(&self, q: f64) -> Option<f32> {
        self.extremes().map(|_| Histogram::new(self).quantile(q) as f32)
    }

    /// The state as plain numbers.
    pub fn to_parts(&self) -> SketchParts {
        SketchParts {
            n_samples: self.n_samples,
            n_numeric_samples: self.n_numeric_samples,
            n_zeros: self.n_zeros,
            n_nans: self.n_nans,
            n_pos_infs: self.n_pos_infs,
            n_neg_infs: self.n_neg_infs,
            min: self.min,
            max: self.max,
            sum_of_mins: self.sum_of_mins.limbs(),
            sum_of_maxs: self.sum_of_maxs.limbs(),
            max_bins: self.max_bins,
            counts: self.counts.clone(),
            each: self.each.as_ref().map(|each| each.iter().map(|(i, (lo, hi))| (*i, *lo, *hi)).collect()),
        }
    }

    /// A sketch from its stored state; `None` if no data could have led to such a state.
    pub fn from_parts(parts: SketchParts) -> Option<Sketch> {
        let is_empty = parts.min == f32::INFINITY && parts.max == f32::NEG_INFINITY;
        let is_negative_zero = |x: f32| x == 0.0 && x.is_sign_negative();
        let is_numeric = parts.min.is_finite()
            && parts.max.is_finite()
            && parts.min <= parts.max
            && !is_negative_zero(parts.min)
            && !is_negative_zero(parts.max);
        if !(MIN_BINS..=MAX_BINS).contains(&parts.max_bins) {
            return None;
        }
        let window = match (is_empty, is_numeric) {
            (true, _) => Window::covering(0.0, 0.0, parts.max_bins),
            (_, true) => Window::covering(parts.min, parts.max, parts.max_bins),
            _ => return None,
        };
        // The extremes themselves have been counted, as zeros or in the outermost bins.
        let has_extreme = |x: f32, count: Option<&u64>| {
            if x == 0.0 { parts.n_zeros > 0 } else { count.is_some_and(|&count| count > 0) }
        };
        let is_consistent = parts.counts.len() == window.n_bins
            && (!is_empty || parts.n_zeros == 0)
            && (is_empty || has_extreme(parts.min, parts.counts.first()))
            && (is_empty || has_extreme(parts.max, parts.counts.last()))
            && parts.n_numeric_samples <= parts.n_samples
            && is_empty == (parts.n_numeric_samples == 0)
            && parts.each.as_ref().is_none_or(|each| fits(each, &parts));
        is_consistent.then(|| Sketch {
            n_samples: parts.n_samples,
            n_numeric_samples: parts.n_numeric_samples,
            n_zeros: parts.n_zeros,
            n_nans: parts.n_nans,
            n_pos_infs: parts.n_pos_infs,
            n_neg_infs: parts.n_neg_infs,
            min: parts.min,
            max: parts.max,
            sum_of_mins: ExactSum::from_limbs(parts.sum_of_mins),
            sum_of_maxs: ExactSum::from_limbs(parts.sum_of_maxs),
            max_bins: parts.max_bins,
            window,
            counts: parts.counts,
            each: parts.each.map(|each| each.into_iter().map(|(i, lo, hi)| (i, (lo, hi))).collect()),
        })
    }

    fn observe_finite(&mut self, data: &[f32], extremes: Extremes) {
        if !data.is_empty() {
            self.begin_finite(extremes);
            self.n_zeros += binning::count(data, self.window, &mut self.counts);
        }
    }

    /// Takes in the extremes of a sample that has finite values.
    fn begin_finite(&mut self, Extremes { min, max, .. }: Extremes) {
        self.n_numeric_samples += 1;
        self.sum_of_mins.add(min);
        self.sum_of_maxs.add(max);
        self.cover(min, max);
    }

    /// Counts infinities and NaN; returns the rest.
    fn set_non_finite_aside(&mut self, data: &[f32]) -> Vec<f32> {
        for &x in data.iter().filter(|x| !x.is_finite()) {
            match x {
                f32::INFINITY => self.n_pos_infs += 1,
                f32::NEG_INFINITY => self.n_neg_infs += 1,
                _ => self.n_nans += 1,
            }
        }
        data.iter().copied().filter(|x| x.is_finite()).collect()
    }

    /// Widens the extremes, and the histogram to its window for them.
    fn cover(&mut self, min: f32, max: f32) {
        let (min, max) = (self.min.min(min), self.max.max(max));
        if (min, max) == (self.min, self.max) {
            return;
        }
        (self.min, self.max) = (min, max);
        self.fold();
    }

    /// Leaves no more bins than so many.
    fn limit(&mut self, max_bins: usize) {
        if max_bins < self.max_bins {
            self.max_bins = max_bins;
            if self.min <= self.max {
                self.fold();
            }
        }
    }

    /// Brings the histogram to the window that the extremes ask for.
    fn fold(&mut self) {
        let window = Window::covering(self.min, self.max, self.max_bins);
        if window != self.window {
            let mut counts = vec![0; window.n_bins];
            add_folded(&mut counts, window, &self.counts, self.window);
            // Counts stay where they are for good: if they moved each time that a sample is wider than those before,
            // they would come to lie all over the memory that tensors come and go in, which then cannot be reused.
            self.counts.clear();
            self.counts.reserve_exact(self.max_bins);
            self.counts.extend_from_slice(&counts);
            self.window = window;
        }
    }

    fn moment(&self, power: impl Fn(f64) -> f64) -> Option<f64> {
        let width = self.bin_width();
        let sum: f64 = (self.window.first..)
            .zip(&self.counts)
            .map(|(bin, &count)| count as f64 * power((f64::from(bin) + 0.5) * width))
            .sum();
        self.extremes().map(|_| sum / self.n_finite() as f64)
    }
}

/// Whether extremes of samples are in order and lead to those of the whole.
fn fits(each: &[(u64, f32, f32)], parts: &SketchParts) -> bool {
    let lowest = each.iter().map(|(_, lo, _)| *lo).fold(f32::INFINITY, f32::min);
    let highest = each.iter().map(|(_, _, hi)| *hi).fold(f32::NEG_INFINITY, f32::max);
    each.len() as u64 == parts.n_numeric_samples
        && each.is_sorted_by(|a, b| a.0 < b.0)
        && each.iter().all(|(_, lo, hi)| lo <= hi)
        && (lowest, highest) == (parts.min, parts.max)
}

/// Adds counts of a window to those of a window that covers it with bins of the same width or wider.
fn add_folded(counts: &mut [u64], window: Window, finer_counts: &[u64], finer: Window) {
    let shift = window.exponent - finer.exponent;
    for (bin, &count) in (finer.first..).zip(finer_counts) {
        let slot = ((bin >> shift.min(31)) - window.first) as usize;
        counts[slot] = counts[slot].saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn sketch_of(samples: &[Vec<f32>]) -> Sketch {
        let mut sketch = Sketch::new();
        samples.iter().for_each(|sample| sketch.observe(sample));
        sketch
    }

    /// Values from everyday ones to every bit pattern.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -10.0_f32..10.0,
            2 => Just(0.0),
            1 => -1e-3_f32..1e5,
            1 => any::<u32>().prop_map(f32::from_bits),
        ]
    }

    proptest! {
        #[test]
        fn order_partition_and_merge_tree_do_not_matter(
            tagged in vec((vec(value(), 0..40), any::<u32>(), 0..4_usize), 0..12),
        ) {
            let samples: Vec<_> = tagged.iter().map(|(sample, ..)| sample.clone()).collect();
            let expected = sketch_of(&samples).to_bytes();

            let mut shuffled = tagged.clone();
            shuffled.sort_by_key(|(_, key, _)| *key);
            let mut shards: Vec<Sketch> = (0..4)
                .map(|shard| {
                    let part: Vec<_> =
                        shuffled.iter().filter(|(.., s)| *s == shard).map(|(sample, ..)| sample.clone()).collect();
                    sketch_of(&part)
                })
                .collect();
            let merge = |a: &Sketch, b: &Sketch| { let mut m = a.clone(); m.merge(b); m };
            let balanced = merge(&merge(&shards[0], &shards[1]), &merge(&shards[2], &shards[3]));
            prop_assert_eq!(&balanced.to_bytes(), &expected);
            shards.reverse();
            let chain = shards.iter().fold(Sketch::new(), |sum, shard| merge(&sum, shard));
            prop_assert_eq!(chain.to_bytes(), expected);
        }

        #[test]
        fn sketches_of_different_sizes_merge_to_the_smallest(
            samples in vec((vec(value(), 0..40), prop_oneof![Just(8_usize), Just(64), Just(MAX_BINS)]), 1..8),
        ) {
            let least = samples.iter().map(|(_, max_bins)| *max_bins).min().unwrap_or(MAX_BINS);
            let mut expected = Sketch::with_max_bins(least);
            samples.iter().for_each(|(sample, _)| expected.observe(sample));
            let parts: Vec<Sketch> = samples
                .iter()
                .map(|(sample, max_bins)| {
                    let mut sketch = Sketch::with_max_bins(*max_bins);
                    sketch.observe(sample);
                    sketch
                })
                .collect();
            let merge = |mut a: Sketch, b: &Sketch| { a.merge(b); a };
            let forward = parts.iter().skip(1).fold(parts[0].clone(), merge);
            prop_assert_eq!(&forward, &expected);
            let backward = parts.iter().rev().fold(Sketch::new(), merge);
            prop_assert_eq!(backward.to_bytes(), expected.to_bytes());
            prop_assert!(expected.bin_counts().len() <= least);
            prop_assert_eq!(Sketch::from_bytes(&forward.to_bytes()), Ok(forward));
        }

        #[test]
        fn values_within_a_sample_may_come_in_any_order(mut sample in vec(value(), 0..200)) {
            let forward = sketch_of(std::slice::from_ref(&sample));
            sample.reverse();
            prop_assert_eq!(forward.to_bytes(), sketch_of(&[sample]).to_bytes());
        }

        #[test]
        fn everything_is_counted_once(sample in vec(value(), 0..300)) {
            let sketch = sketch_of(std::slice::from_ref(&sample));
            prop_assert_eq!(sketch.n_finite() + sketch.n_non_finite(), sample.len() as u64);
            prop_assert_eq!(sketch.n_zeros(), sample.iter().filter(|&&x| x == 0.0).count() as u64);
            prop_assert!(sketch.bin_counts().len() <= MAX_BINS);
        }

        #[test]
        fn quantiles_are_right_to_within_a_bin(sample in vec(-100.0_f32..100.0, 1..300), q in 0.0..=1.0_f64) {
            let sketch = sketch_of(std::slice::from_ref(&sample));
            let mut sorted = sample;
            sorted.sort_by(f32::total_cmp);
            let rank = q * sorted.len() as f64;
            let below = sorted[(rank - 1.0).ceil().max(0.0) as usize];
            let above = sorted[(rank.ceil() as usize).min(sorted.len() - 1)];
            let estimate = f64::from(sketch.quantile(q).expect("data"));
            let slack = sketch.bin_width() * 1.001;
            prop_assert!(estimate >= f64::from(below) - slack && estimate <= f64::from(above) + slack);
        }
    }

    #[test]
    fn moving_averages_follow_the_numbers_of_samples_in_whatever_order_they_come() {
        let samples: [(usize, &[f32]); 4] =
            [(0, &[-1.0, 1.0]), (3, &[f32::NAN]), (5, &[-3.0, 2.0]), (9, &[0.0, 5.0])];
        let sketch = |order: &[usize]| {
            let mut s = Sketch::keeping_each();
            order.iter().for_each(|i| s.observe_nth(samples[*i].0, samples[*i].1, Counting::Every));
            s
        };
        let all = sketch(&[0, 1, 2, 3]);
        // -1, then -2, then -1; 1, then 1.5, then 3.25.
        assert_eq!(all.moving_extremes(0.5), Some((-1.0, 3.25)));
        let mut merged = sketch(&[3, 1]);
        merged.merge(&sketch(&[2, 0]));
        assert_eq!(merged, all);
        assert_eq!(Sketch::from_bytes(&all.to_bytes()), Ok(all.clone()));
        merged = Sketch::new();
        merged.merge(&all);
        assert_eq!(merged, all, "nothing seen takes nothing away");
        merged.merge(&sketch_of(&[vec![7.0]]));
        assert_eq!(merged.moving_extremes(0.5), None, "a sample without a number has no place");
    }

    #[test]
    fn rectified_data_wastes_no_bins() {
        let sketch = sketch_of(&[(0..1000).map(|i| (i as f32 - 500.0).max(0.0)).collect()]);
        assert_eq!((sketch.first_bin(), sketch.n_zeros()), (0, 501));
        assert!(sketch.bin_counts().len() > MAX_BINS / 2 - 1);
    }

    #[test]
    fn means_over_samples_and_values() {
        let sketch = sketch_of(&[vec![-1.0, 2.0], vec![f32::NAN], vec![-3.0, 0.0, 4.0], vec![]]);
        assert_eq!(sketch.n_samples(), 4);
        assert_eq!(sketch.mean_extremes(), Some((-2.0, 3.0)));
        let (mean, square) = (sketch.mean().expect("data"), sketch.mean_square().expect("data"));
        assert!((mean - 0.4).abs() < sketch.bin_width() && (square - 6.0).abs() < 0.02, "{mean} {square}");
        assert_eq!((Sketch::new().mean(), Sketch::new().quantile(0.5)), (None, None));
    }

    #[test]
    fn memory_is_bounded() {
        let full = sketch_of(&[vec![1e-30, -1.0, 0.96], vec![0.1; 9]]);
        assert_eq!(full.bin_counts().len(), 4016);
        assert!(MAX_BINS * size_of::<u64>() + size_of::<Sketch>() <= 32 << 10);
        let widest = sketch_of(&[vec![f32::MIN, 1e-45, f32::MAX]]);
        assert_eq!(widest.bin_counts().len(), 2048);
    }
}
