//! The two passes over the data of a sample: extremes first, then bins; and the window of bins that data
//! occupies. Of large samples the second pass may see a part only (`thinning.rs`).
//!
//! Bins mirror at zero: with width `w = 2^k`, a value `x > 0` falls into bin `trunc(x / w)` and `x < 0` into
//! `-1 - trunc(|x| / w)`. So bin `i` covers `[i w, (i + 1) w)` on the positive side and `(i w, (i + 1) w]` on
//! the negative side. Division by a power of two and truncation are exact (also where the quotient
//! underflows), hence halving the resolution is `i >> 1`: a histogram folded from width `w` to `2 w` equals
//! the one counted at `2 w`.
//!
//! Speed: both passes are compiled for several instruction sets, of which the best that the processor has is taken.
//! Extremes and slots are computed without branches, in vectors; slots for so few elements at a time that the processor
//! computes the next ones while it still increments. The increments, one in a cycle at best, go to two interleaved
//! tables of `u32`, and exact zeros, which rectified activations are full of, are spread over 64 slots, because
//! incrementing one address again and again waits for the store of the round before.

use multiversion::multiversion;

/// The most bins that a sketch holds. With 8 byte counts this keeps a sketch below 32 KiB.
pub const MAX_BINS: usize = 4032;

/// The fewest bins that a sketch may be told to have: with fewer, the widths would leave the range of `f32`.
pub(crate) const MIN_BINS: usize = 8;

/// Bins are never narrower than `2^-40`: tensors whose values are all below about `1e-12` are zero for our
/// purpose.
const FINEST_EXPONENT: i32 = -40;

/// Bins are never narrower than `2^-22` times the power of two below the largest magnitude: finer bins would
/// be narrower than the spacing of floats there, and an index has to fit the 24 bits of an `f32`.
const INDEX_BITS: i32 = 22;

/// Slots for exact zeros, ahead of those of the bins; together they fill tables of 4096 slots.
const ZERO_SLOTS: usize = 64;
const TABLE_SIZE: usize = ZERO_SLOTS + MAX_BINS;
const _: () = assert!(TABLE_SIZE.is_power_of_two());

/// Samples of fewer elements are counted without tables, which cost about a microsecond to clear and to add up.
const SMALL_SAMPLE: usize = 1 << 11;

/// Elements after which tables of `u32` are added to the counts.
pub(crate) const TABLE_CAPACITY: usize = 1 << 30;

/// Elements whose slots are computed at a time.
pub(crate) const BLOCK: usize = 128;

/// The bins that data between two extremes occupies: `n_bins` bins from number `first`, each `2^exponent`
/// wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) exponent: i32,
    pub(crate) first: i32,
    pub(crate) n_bins: usize,
}

impl Window {
    /// The window for data whose exact extremes are `min <= max`: the narrowest bins of which `max_bins`
    /// suffice.
    ///
    /// A function of the extremes alone, and it only coarsens as they move apart; that makes sketches
    /// independent of the order of data. Exact zeros occupy no bin.
    pub(crate) fn covering(min: f32, max: f32, max_bins: usize) -> Window {
        if min == 0.0 && max == 0.0 {
            return Window { exponent: FINEST_EXPONENT, first: 0, n_bins: 0 };
        }
        let largest = min.abs().max(max.abs());
        let magnitude = (largest.to_bits() >> 23) as i32 - 127;
        let mut exponent = (magnitude - INDEX_BITS).max(FINEST_EXPONENT);
        loop {
            let inverse = inverse_width(exponent);
            let first = bin_of(min, inverse);
            // Where zero is the maximum, all the rest is on the negative side.
            let last = if max == 0.0 { -1 } else { bin_of(max, inverse) };
            let n_bins = (last - first + 1) as usize;
            if n_bins <= max_bins {
                return Window { exponent, first, n_bins };
            }
            exponent += 1;
        }
    }
}

/// The extremes of the data and whether there is a NaN or an infinity in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extremes {
    pub(crate) min: f32,
    pub(crate) max: f32,
    pub(crate) all_finite: bool,
}

/// Finds the extremes; `min > max` if there is no number at all.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
pub(crate) fn extremes(data: &[f32]) -> Extremes {
    const LANES: usize = 32;
    let mut min = [f32::INFINITY; LANES];
    let mut max = [f32::NEG_INFINITY; LANES];
    // Zero times a number is zero, zero times an infinity or NaN is NaN.
    let mut poison = [0.0_f32; LANES];
    let (chunks, rest) = data.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            min[lane] = lesser(x, min[lane]);
            max[lane] = greater(x, max[lane]);
            poison[lane] += x * 0.0;
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        min[lane] = lesser(x, min[lane]);
        max[lane] = greater(x, max[lane]);
        poison[lane] += x * 0.0;
    }
    Extremes {
        // Adding zero turns a negative zero into a positive one.
        min: folded(min, lesser) + 0.0,
        max: folded(max, greater) + 0.0,
        all_finite: !poison.iter().any(|p| p.is_nan()),
    }
}

/// The lesser of two numbers, the second if the first is NaN. `f32::min` would take several instructions for its
/// treatment of NaN.
#[inline(always)]
pub(crate) fn lesser(x: f32, y: f32) -> f32 {
    if x < y { x } else { y }
}

/// The greater of two numbers, the second if the first is NaN.
#[inline(always)]
pub(crate) fn greater(x: f32, y: f32) -> f32 {
    if x > y { x } else { y }
}

/// One of all lanes, by halves, which vectors are good at. The number of lanes is a power of two.
#[inline(always)]
pub(crate) fn folded<const LANES: usize>(mut lanes: [f32; LANES], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = of(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Adds finite data, all of it within the window, to the counts of its bins. Returns the number of exact
/// zeros.
pub(crate) fn count(data: &[f32], window: Window, counts: &mut [u64]) -> u64 {
    debug_assert_eq!(counts.len(), window.n_bins);
    if data.len() < SMALL_SAMPLE {
        return count_directly(data, window, counts);
    }
    let mut n_zeros = 0;
    for part in data.chunks(TABLE_CAPACITY) {
        n_zeros += count_in_tables(part, window, counts);
    }
    n_zeros
}

/// Adds data to the counts without tables.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn count_directly(data: &[f32], window: Window, counts: &mut [u64]) -> u64 {
    let (inverse, offset) = scale_and_offset(window);
    let mut slots = [0_u32; BLOCK];
    let mut n_zeros = 0;
    for block in data.chunks(BLOCK) {
        compute_slots(block, inverse, offset, &mut slots);
        for &slot in &slots[..block.len()] {
            // Without a branch, as zeros are unpredictable: a zero adds nothing to some bin.
            let slot = slot as usize;
            let is_zero = slot < ZERO_SLOTS;
            n_zeros += u64::from(is_zero);
            if let Some(count) = counts.get_mut(if is_zero { slot } else { slot - ZERO_SLOTS }) {
                *count += u64::from(!is_zero);
            }
        }
    }
    n_zeros
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn count_in_tables(data: &[f32], window: Window, counts: &mut [u64]) -> u64 {
    tabulate(data.chunks(BLOCK).map(|block| (block, 1)), window, counts)
}

/// Adds blocks of at most [`BLOCK`] elements, each with a weight, to the counts by way of two tables, in turns. Weights
/// of all elements together are at most [`TABLE_CAPACITY`]. Returns the weight of exact zeros.
#[inline(always)]
pub(crate) fn tabulate<'a>(
    blocks: impl Iterator<Item = (&'a [f32], u32)>,
    window: Window,
    counts: &mut [u64],
) -> u64 {
    let (mut even, mut odd) = ([0_u32; TABLE_SIZE], [0_u32; TABLE_SIZE]);
    let (inverse, offset) = scale_and_offset(window);
    let mut slots = [0_u32; BLOCK];
    for (block, weight) in blocks {
        compute_slots(block, inverse, offset, &mut slots);
        let (pairs, rest) = slots[..block.len()].as_chunks::<2>();
        // Slots are below the table's size; the remainder tells the compiler so.
        for pair in pairs {
            even[pair[0] as usize % TABLE_SIZE] += weight;
            odd[pair[1] as usize % TABLE_SIZE] += weight;
        }
        for &slot in rest {
            even[slot as usize % TABLE_SIZE] += weight;
        }
    }
    let (zeros, bins) = even.split_at(ZERO_SLOTS);
    let (more_zeros, more) = odd.split_at(ZERO_SLOTS);
    for ((count, a), b) in counts.iter_mut().zip(bins).zip(more) {
        *count += u64::from(a + b);
    }
    zeros.iter().zip(more_zeros).map(|(a, b)| u64::from(a + b)).sum()
}

/// What a value is multiplied by, and what is added to its bin, to find its slot.
fn scale_and_offset(window: Window) -> (f32, i32) {
    (inverse_width(window.exponent), ZERO_SLOTS as i32 - window.first)
}

#[inline(always)]
fn compute_slots(block: &[f32], inverse: f32, offset: i32, slots: &mut [u32; BLOCK]) {
    for (i, (&x, slot)) in block.iter().zip(slots).enumerate() {
        let zero_slot = (i % ZERO_SLOTS) as i32;
        *slot = if x == 0.0 { zero_slot } else { bin_of(x, inverse) + offset } as u32;
    }
}

/// The bin of a number that is not zero, within the window that the width is for.
///
/// Truncation in integers: the conversion of the language saturates, which compilers make no vector code of.
#[inline(always)]
fn bin_of(x: f32, inverse_width: f32) -> i32 {
    let quotient = (x * inverse_width).to_bits();
    // A quotient is below 2^24, so that its exponent is at most that of 2^23, and its whole part in these bits. Shifted
    // by 24 or more, nothing is left, as it should be of a quotient below 1.
    let significand = (quotient & 0x7f_ffff) | 0x80_0000;
    let exponent = (quotient >> 23) & 0xff;
    let magnitude = significand >> 150_u32.wrapping_sub(exponent).min(31);
    let sign = x.to_bits() as i32 >> 31;
    // The magnitude or, below zero, `-1 - magnitude`: its complement.
    magnitude as i32 ^ sign
}

/// `2^-exponent`; the exponents of windows lie between -40 and 126.
fn inverse_width(exponent: i32) -> f32 {
    f32::from_bits(((127 - exponent) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_tight() {
        assert_eq!(Window::covering(0.0, 1.0, MAX_BINS), Window { exponent: -11, first: 0, n_bins: 2049 });
        assert_eq!(
            Window::covering(-1.0, 0.0, MAX_BINS),
            Window { exponent: -11, first: -2049, n_bins: 2049 }
        );
        let narrow = Window::covering(1000.0, 1000.5, MAX_BINS);
        assert_eq!((narrow.exponent, narrow.n_bins), (-12, 2049));
        let constant = Window::covering(7.0, 7.0, MAX_BINS);
        assert_eq!((constant.exponent, constant.n_bins), (-20, 1));
        assert_eq!(Window::covering(f32::MIN, f32::MAX, MAX_BINS).n_bins, 2048);
    }

    #[test]
    fn bins_are_those_of_the_definition() {
        for exponent in [-40, -23, -3, 0, 11, 126] {
            let inverse = inverse_width(exponent);
            for quotient in
                [1e-30_f32, 0.3, 0.999_999_9, 1.0, 1.5, 2.0, 77.7, 4031.999, 8_388_607.0, 16_777_215.0]
            {
                let x = quotient / inverse;
                if x.is_finite() && x > 0.0 {
                    let whole = (x * inverse).trunc() as i32;
                    assert_eq!(
                        (bin_of(x, inverse), bin_of(-x, inverse)),
                        (whole, -1 - whole),
                        "{x} {exponent}"
                    );
                }
            }
        }
        assert_eq!(bin_of(f32::from_bits(1), inverse_width(-40)), 0);
    }

    #[test]
    fn extremes_see_every_position() {
        for n in [1, 15, 16, 17, 47] {
            for i in 0..n {
                let mut data = vec![-0.0; n];
                data[i] = 3.0;
                assert_eq!(extremes(&data).max, 3.0);
                assert_eq!(extremes(&data).min.to_bits(), if n == 1 { 3.0_f32.to_bits() } else { 0 });
                data[i] = f32::NAN;
                assert!(!extremes(&data).all_finite);
            }
        }
    }

    #[test]
    fn large_and_small_samples_are_counted_alike() {
        let data: Vec<f32> = (0..SMALL_SAMPLE + 3).map(|i| (i % 1021) as f32 * 0.01 - 2.0).collect();
        let Extremes { min, max, .. } = extremes(&data);
        let window = Window::covering(min, max, MAX_BINS);
        let (mut at_once, mut in_parts) = (vec![0; window.n_bins], vec![0; window.n_bins]);
        let zeros = count(&data, window, &mut at_once);
        let zeros_in_parts: u64 = data.chunks(777).map(|part| count(part, window, &mut in_parts)).sum();
        assert_eq!((zeros, at_once), (zeros_in_parts, in_parts));
        assert!(zeros > 0);
    }
}
