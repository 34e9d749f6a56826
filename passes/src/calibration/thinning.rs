//! Counting a part of a large sample, so that observing costs little more than reading it once.
//!
//! Ranges follow from the tails of a distribution, and hardly from how finely its bulk is known. So the elements of a
//! large sample are taken in runs of [`RUN`]. A run that reaches into a tail, beyond the least or the greatest value
//! of one run in [`TAIL`], is counted as it is. Of the others, those in the bulk, one in each group of neighbours is
//! counted, with the number of them as its weight. Hence
//! - extremes are exact, and so are the counts of values that lie in the tails of all samples;
//! - weights are integers that add up to the number of elements;
//! - all of it is a function of the sample: sketches stay independent of the order of samples, to the bit.
//!
//! Which run stands for its group moves with the fractions of multiples of the golden ratio, the sequence of one number
//! whose every stretch is spread most evenly (Knuth, "The Art of Computer Programming", section 6.4, exercise 9). So
//! the choice falls into step with no length of rows or planes. As a group is chosen from by itself, a
//! difference by rounding between two executors moves at most the choice within a few groups.

use super::binning::{BLOCK, Extremes, TABLE_CAPACITY, Window, extremes, folded, greater, lesser, tabulate};
use multiversion::multiversion;

/// Which elements of a sample are counted in the histogram of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Of samples of [`LEAST`](Counting::LEAST) elements and more the tails, and an evenly spread part of the bulk.
    #[default]
    Thinned,
    /// Every one.
    Every,
}

impl Counting {
    /// Elements from which on a sample is thinned.
    pub const LEAST: usize = 1 << 15;
    /// All there are.
    pub const ALL: [Counting; 2] = [Counting::Thinned, Counting::Every];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Counting::Thinned => "thinned",
            Counting::Every => "every",
        }
    }
}

/// Elements that are counted or left out together.
const RUN: usize = BLOCK;
/// One run in so many has greater values than the limit of the tail, and one in so many lesser ones than that of the
/// other.
const TAIL: usize = 32;
/// Runs that are looked at to find these limits.
const LOOKED_AT: usize = 64;
/// Most runs in a group, and elements of the sample for each.
const LARGEST_GROUP: usize = 16;
const ELEMENTS_PER_PLACE: usize = 1 << 13;
/// `2^32` divided by the golden ratio.
const GOLDEN: u32 = 0x9E37_79B9;

/// What one pass over a large sample finds.
pub(crate) struct Survey {
    pub(crate) extremes: Extremes,
    /// Of each run, whether it reaches into a tail.
    in_tail: Vec<bool>,
}

/// A run that is counted.
struct Chosen {
    run: usize,
    weight: u32,
}

/// Looks at all elements of a sample, if it is one to be thinned.
pub(crate) fn survey(data: &[f32]) -> Option<Survey> {
    if !(Counting::LEAST..=TABLE_CAPACITY).contains(&data.len()) {
        return None;
    }
    let (lower, upper) = limits(data);
    let mut survey = survey_within(data, lower.0, upper.0);
    // An extreme that many runs reach lies beyond no limit. One of them is counted as it is for certain.
    for (limit, run) in [lower, upper] {
        if limit == survey.extremes.min || limit == survey.extremes.max {
            survey.in_tail[run] = true;
        }
    }
    // What is left behind the last whole run is no run to stand for others.
    if !data.len().is_multiple_of(RUN) {
        survey.in_tail.push(true);
    }
    Some(survey)
}

impl Survey {
    /// Adds the sample, which must be finite and within the window, to the counts of its bins. Returns the number of
    /// zeros.
    pub(crate) fn count(&self, data: &[f32], window: Window, counts: &mut [u64]) -> u64 {
        let group = (data.len() / ELEMENTS_PER_PLACE).clamp(1, LARGEST_GROUP);
        count_chosen(data, &choose(&self.in_tail, group), window, counts)
    }
}

/// Where the tails begin, below and above, each with a run that ends there; by runs that are spread over the data.
fn limits(data: &[f32]) -> ((f32, usize), (f32, usize)) {
    let (runs, _) = data.as_chunks::<RUN>();
    let step = runs.len().div_ceil(LOOKED_AT);
    let looked_at = runs.iter().enumerate().step_by(step).map(|(i, run)| (extremes(run), i));
    let (mut least, mut greatest): (Vec<_>, Vec<_>) =
        looked_at.map(|(Extremes { min, max, .. }, i)| ((min, i), (max, i))).unzip();
    let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    let rank = least.len() / TAIL;
    let opposite = greatest.len() - 1 - rank;
    (*least.select_nth_unstable_by(rank, order).1, *greatest.select_nth_unstable_by(opposite, order).1)
}

/// Extremes of the data, and the whole runs that have values below or above limits.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn survey_within(data: &[f32], lower: f32, upper: f32) -> Survey {
    const LANES: usize = 32;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    // As in `extremes`: NaN if there is anything that is not finite.
    let mut poison = [0.0_f32; LANES];
    let (runs, rest) = data.as_chunks::<RUN>();
    let mut in_tail = Vec::with_capacity(runs.len() + 1);
    for run in runs {
        let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (rows, _) = run.as_chunks::<LANES>();
        for row in rows {
            for lane in 0..LANES {
                lo[lane] = lesser(row[lane], lo[lane]);
                hi[lane] = greater(row[lane], hi[lane]);
                poison[lane] += row[lane] * 0.0;
            }
        }
        let mut beyond = 0;
        for lane in 0..LANES {
            min[lane] = lesser(lo[lane], min[lane]);
            max[lane] = greater(hi[lane], max[lane]);
            beyond |= u32::from(lo[lane] < lower) | u32::from(hi[lane] > upper);
        }
        in_tail.push(beyond != 0);
    }
    let rest = extremes(rest);
    let extremes = Extremes {
        // Adding zero turns a negative zero into a positive one.
        min: lesser(folded(min, lesser), rest.min) + 0.0,
        max: greater(folded(max, greater), rest.max) + 0.0,
        all_finite: rest.all_finite && !poison.iter().any(|p| p.is_nan()),
    };
    Survey { extremes, in_tail }
}

/// The runs that are counted. Weights add up to the number of runs.
fn choose(in_tail: &[bool], group: usize) -> Vec<Chosen> {
    let mut chosen = Vec::with_capacity(in_tail.len() / group * 2);
    for (number, tails) in in_tail.chunks(group).enumerate() {
        let (first, n) = (number * group, tails.len());
        let turn = u64::from((number as u32).wrapping_mul(GOLDEN));
        let place = ((turn * n as u64) >> 32) as usize;
        chosen.extend((0..n).filter(|i| tails[*i]).map(|i| Chosen { run: first + i, weight: 1 }));
        // The one at the place, or the next one that is not counted already.
        if let Some(i) = (place..n).chain(0..place).find(|i| !tails[*i]) {
            let weight = tails.iter().filter(|t| !**t).count() as u32;
            chosen.push(Chosen { run: first + i, weight });
        }
    }
    chosen
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn count_chosen(data: &[f32], chosen: &[Chosen], window: Window, counts: &mut [u64]) -> u64 {
    let elements = |c: &Chosen| &data[c.run * RUN..data.len().min((c.run + 1) * RUN)];
    tabulate(chosen.iter().map(|c| (elements(c), c.weight)), window, counts)
}

#[cfg(test)]
mod tests {
    use super::super::binning::MAX_BINS;
    use super::super::sketch::Sketch;
    use super::*;
    use proptest::prelude::*;

    /// Smooth in places and rough in others, as activations are; the same for the same seed.
    fn activations(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 24) as f32
        };
        let at = |i: usize, x: f32| (i as f32 * 0.01).sin() + 4.0 * (x - 0.5) * x * x;
        (0..n).map(|i| at(i, uniform())).collect()
    }

    fn counted(data: &[f32], counting: Counting) -> Sketch {
        let mut sketch = Sketch::new();
        sketch.observe_nth(0, data, counting);
        sketch
    }

    #[test]
    fn small_samples_and_those_with_infinities_are_counted_as_they_are() {
        let mut data = activations(Counting::LEAST, 1);
        let small = &data[1..];
        assert_eq!(counted(small, Counting::Thinned), counted(small, Counting::Every));
        assert_ne!(counted(&data, Counting::Thinned), counted(&data, Counting::Every));
        data[77] = f32::INFINITY;
        assert_eq!(counted(&data, Counting::Thinned), counted(&data, Counting::Every));
        data[77] = f32::NAN;
        assert_eq!(counted(&data, Counting::Thinned), counted(&data, Counting::Every));
    }

    #[test]
    fn a_large_sample_is_counted_for_the_most_part_by_weight() {
        let data = activations(1 << 20, 2);
        let survey = survey(&data).unwrap();
        let chosen = choose(&survey.in_tail, LARGEST_GROUP);
        assert_eq!(chosen.iter().map(|c| c.weight as usize).sum::<usize>(), data.len() / RUN);
        assert!(chosen.len() < data.len() / RUN / 6, "{}", chosen.len());
        assert!(chosen.iter().any(|c| c.weight == LARGEST_GROUP as u32));
    }

    #[test]
    fn tails_are_exact_and_quantiles_close() {
        let mut data = activations(1_000_000, 3);
        data.iter_mut().step_by(997).enumerate().for_each(|(i, x)| *x += 1.0 + (i % 13) as f32);
        data.iter_mut().step_by(1009).enumerate().for_each(|(i, x)| *x -= 1.0 + (i % 11) as f32);
        let (thinned, every) = (counted(&data, Counting::Thinned), counted(&data, Counting::Every));
        let (lower, upper) = limits(&data);
        let below = (lower.0 as f64 / every.bin_width()).floor() as i32 - every.first_bin();
        let above = (upper.0 as f64 / every.bin_width()).ceil() as i32 - every.first_bin();
        let (a, b) = (thinned.bin_counts(), every.bin_counts());
        assert_eq!(a[..below as usize], b[..below as usize]);
        assert_eq!(a[above as usize..], b[above as usize..]);
        for tail in [&b[..below as usize], &b[above as usize..]] {
            assert!(tail.iter().sum::<u64>() > 20);
        }
        for q in [0.000_05, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999_95] {
            let (a, b) = (thinned.quantile(q).unwrap(), every.quantile(q).unwrap());
            assert!((a - b).abs() < 0.03, "{q}: {a} {b}");
        }
    }

    #[test]
    fn extremes_that_many_runs_reach_are_counted() {
        // Rectified and clipped: both ends are in nearly every run.
        let mut data: Vec<f32> = activations(100_000, 4).iter().map(|x| (3.0 * x).clamp(0.0, 1.0)).collect();
        data[99_999] = 0.5;
        let sketch = counted(&data, Counting::Thinned);
        assert!(sketch.n_zeros() > 0 && *sketch.bin_counts().last().unwrap() > 0);
        assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Ok(sketch));
    }

    #[test]
    fn rows_of_any_length_are_hit_all_over() {
        for columns in [RUN, 4 * RUN, 8 * RUN, LARGEST_GROUP * RUN, 3 * LARGEST_GROUP * RUN, 7 * 64, 13 * 32]
        {
            // The share of each eighth of a row in what is counted.
            let data: Vec<f32> = (0..1 << 20).map(|i| (1 + i % columns * 8 / columns) as f32).collect();
            let sketch = counted(&data, Counting::Thinned);
            let counts: Vec<u64> = sketch.bin_counts().iter().copied().filter(|c| *c > 0).collect();
            for share in counts.iter().map(|c| *c as f64 * 8.0 / data.len() as f64) {
                assert!((0.85..1.15).contains(&share), "{columns}: {counts:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn weights_add_up_and_extremes_are_those_of_all_elements(
            n in Counting::LEAST..Counting::LEAST * 6, seed in any::<u64>(), floor in -4.0_f32..1.0,
        ) {
            let data: Vec<f32> = activations(n, seed).iter().map(|x| x.max(floor)).collect();
            let (thinned, every) = (counted(&data, Counting::Thinned), counted(&data, Counting::Every));
            prop_assert_eq!(thinned.n_finite(), n as u64);
            prop_assert_eq!(thinned.extremes(), every.extremes());
            prop_assert_eq!(thinned.mean_extremes(), every.mean_extremes());
            prop_assert_eq!(Sketch::from_bytes(&thinned.to_bytes()), Ok(thinned.clone()));
            let window = Window::covering(every.extremes().unwrap().0, every.extremes().unwrap().1, MAX_BINS);
            prop_assert_eq!(window.n_bins, thinned.bin_counts().len());
        }

        #[test]
        fn order_and_partition_leave_no_trace(
            sizes in proptest::collection::vec(1..Counting::LEAST * 3, 1..5), seed in any::<u64>(), scale in 0.1_f32..9.0,
        ) {
            let samples: Vec<Vec<f32>> = sizes.iter().zip(1..).map(|(n, i)| {
                activations(*n, seed ^ i).iter().map(|x| x * scale.powi(i as i32)).collect()
            }).collect();
            let seen = |samples: &[Vec<f32>]| {
                let mut sketch = Sketch::new();
                samples.iter().for_each(|s| sketch.observe_thinned(s));
                sketch
            };
            let all = seen(&samples);
            let mut merged = Sketch::new();
            samples.iter().rev().for_each(|s| merged.merge(&seen(std::slice::from_ref(s))));
            prop_assert_eq!(merged, all);
        }
    }
}
