//! From a sketch to a range: the methods by name, and the cases in which none of them has anything to say.
//!
//! A range always contains zero and, but for symmetry, never exceeds the observed extremes. What was observed
//! may be nothing, only NaN, or one single number; the range is then settled here, and a [`RangeNote`] says
//! so.

use std::fmt;
use std::str::FromStr;

use squint_ir::affine::Grid;

use super::histogram::Histogram;
use super::mse::{Bounds, ErrorModel, QuantError};
use super::sketch::Sketch;
use super::{auto, entropy, percentile};

/// How a range follows from what was observed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Method {
    /// Least and greatest value.
    MinMax,
    /// The range that keeps this percentage of the values, above 0 and at most 100.
    Percentile(f64),
    /// Least Kullback-Leibler divergence between the original distribution and the quantized one.
    Entropy,
    /// Least mean squared error.
    Mse,
    /// Least mean error to the power of `p`; below 2, outliers weigh less.
    Lp(f64),
    /// Mean of the samples' least values to mean of their greatest values.
    MeanMinMax,
    /// Moving averages of the samples' least and greatest values, in which the newest has this weight, above 0
    /// and at most 1. They depend on the order of the samples, which [`Sketch::keeping_each`] keeps.
    MovingAverage(f64),
    /// Least mean squared error, clipping at most one in a thousand values, and none unless it gains 0.3 dB.
    #[default]
    Auto,
}

/// The percentage if none is given: TensorRT's toolkit and PPQ have the same.
const DEFAULT_PERCENTAGE: f64 = 99.99;

/// The weight of the newest sample if none is given: that of PyTorch's `MovingAverageMinMaxObserver`.
const DEFAULT_WEIGHT: f64 = 0.01;

/// The real range that a grid is to cover; it contains zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lower bound, at most 0.
    pub lo: f32,
    /// Upper bound, at least 0.
    pub hi: f32,
    /// What is remarkable about the way the range was found.
    pub note: Option<RangeNote>,
}

/// Why a range may not be what the method's name promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeNote {
    /// No value was observed; the range is `[0, 0]`, and the tensor best stays in float.
    NothingObserved,
    /// All observed values were infinite or NaN; the range is `[0, 0]`, and the tensor best stays in float.
    NothingFinite,
    /// All observed values were zero; the range is `[0, 0]`.
    AllZero,
    /// All observed values were the same; the range reaches from zero to it.
    Constant,
    /// There are fewer values than the grid has levels, too few for a distribution; the range is the
    /// extremes.
    TooFewValues,
    /// The percentage asked for would leave out less than one value; the range is the extremes.
    PercentileKeepsEverything,
    /// The order of samples, which a moving average follows, was not kept; the range is the extremes.
    NoOrder,
}

impl fmt::Display for RangeNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RangeNote::NothingObserved => "no value was observed",
            RangeNote::NothingFinite => "all values are infinite or nan",
            RangeNote::AllZero => "all values are zero",
            RangeNote::Constant => "all values are the same",
            RangeNote::TooFewValues => "too few values for entropy calibration, took the extremes",
            RangeNote::NoOrder => "the extremes of each sample are not known, took those of all",
            RangeNote::PercentileKeepsEverything => "the percentile leaves no value out, took the extremes",
        })
    }
}

/// The range that `method` finds for the observed values on `grid`.
pub fn solve(sketch: &Sketch, method: Method, grid: &Grid) -> Range {
    let Some((min, max)) = sketch.extremes() else {
        let note =
            if sketch.n_non_finite() > 0 { RangeNote::NothingFinite } else { RangeNote::NothingObserved };
        return Range { lo: 0.0, hi: 0.0, note: Some(note) };
    };
    let extremes = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
    if min == max {
        let note = if min == 0.0 { RangeNote::AllZero } else { RangeNote::Constant };
        return finish(extremes, extremes, grid, Some(note));
    }
    let histogram = Histogram::new(sketch);
    let (range, note) = match method {
        Method::MinMax => (extremes, None),
        Method::MeanMinMax => {
            let (lo, hi) = sketch.mean_extremes().unwrap_or((min, max));
            ((f64::from(lo), f64::from(hi)), None)
        }
        Method::MovingAverage(weight) => match sketch.moving_extremes(weight) {
            Some(range) => (range, None),
            None => (extremes, Some(RangeNote::NoOrder)),
        },
        Method::Percentile(percentage) if percentile::keeps_everything(&histogram, percentage) => {
            (extremes, Some(RangeNote::PercentileKeepsEverything))
        }
        Method::Percentile(percentage) => (percentile::solve(&histogram, percentage, grid.symmetric), None),
        Method::Entropy if histogram.n_nonzero() < f64::from(grid.levels()) => {
            (extremes, Some(RangeNote::TooFewValues))
        }
        // One side of a symmetric grid has half of the levels, and zero.
        Method::Entropy if grid.symmetric => {
            (entropy::solve_symmetric(&histogram, grid.levels().div_ceil(2)), None)
        }
        Method::Entropy => (entropy::solve_asymmetric(&histogram, grid.levels()), None),
        Method::Mse => (least_error(&histogram, *grid, 2.0), None),
        Method::Lp(p) => (least_error(&histogram, *grid, p), None),
        Method::Auto => (auto::solve(&histogram, *grid), None),
    };
    finish(range, extremes, grid, note)
}

/// The mean error per observed value, to the power of 2, if `grid` covers the range `[lo, hi]`.
///
/// `10 log10(sketch.mean_square() / error.total())` is the signal to quantization noise ratio in dB.
pub fn quantization_error(sketch: &Sketch, lo: f32, hi: f32, grid: &Grid) -> QuantError {
    ErrorModel::new(&Histogram::new(sketch), *grid, 2.0).error(f64::from(lo), f64::from(hi))
}

fn least_error(histogram: &Histogram, grid: Grid, p: f64) -> (f64, f64) {
    ErrorModel::new(histogram, grid, p).minimize(Bounds::free(histogram)).0
}

/// Makes a range contain zero and stay within the extremes, and symmetric where the grid is.
fn finish((lo, hi): (f64, f64), extremes: (f64, f64), grid: &Grid, note: Option<RangeNote>) -> Range {
    if grid.symmetric {
        let threshold = hi.max(-lo).clamp(0.0, extremes.1.max(-extremes.0)) as f32;
        return Range { lo: -threshold, hi: threshold, note };
    }
    Range { lo: lo.clamp(extremes.0, 0.0) as f32, hi: hi.clamp(0.0, extremes.1) as f32, note }
}

impl Method {
    /// Whether the result depends on the order of samples: then extremes of each must be kept.
    pub fn depends_on_order(self) -> bool {
        matches!(self, Method::MovingAverage(_))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::MinMax => f.write_str("minmax"),
            Method::Percentile(percentage) => write!(f, "percentile:{percentage}"),
            Method::Entropy => f.write_str("entropy"),
            Method::Mse => f.write_str("mse"),
            Method::Lp(p) => write!(f, "lp:{p}"),
            Method::MeanMinMax => f.write_str("mean-minmax"),
            Method::MovingAverage(weight) => write!(f, "moving-average:{weight}"),
            Method::Auto => f.write_str("auto"),
        }
    }
}

/// A text that names no [`Method`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMethodError {
    /// An unknown name.
    #[error(
        "unknown calibration method `{0}`; it is one of `auto`, `minmax`, `percentile[:99.99]`, `entropy`, `mse`, \
         `lp:2.4`, `mean-minmax`, `moving-average[:0.01]`"
    )]
    Unknown(String),
    /// The part after the colon is not a number, or not one that makes sense.
    #[error("calibration method `{0}` needs a number {1} after the colon")]
    Parameter(String, &'static str),
}

impl FromStr for Method {
    type Err = ParseMethodError;

    fn from_str(text: &str) -> Result<Method, ParseMethodError> {
        let (name, parameter) = match text.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text, None),
        };
        let number = |lo: f64, hi: f64, wanted: &'static str| {
            let number = parameter.and_then(|parameter| parameter.trim().parse().ok());
            let number = number.filter(|&number: &f64| number > lo && number <= hi);
            number.ok_or_else(|| ParseMethodError::Parameter(text.to_owned(), wanted))
        };
        match (name, parameter) {
            ("auto", None) => Ok(Method::Auto),
            ("minmax", None) => Ok(Method::MinMax),
            ("mean-minmax", None) => Ok(Method::MeanMinMax),
            ("entropy", None) => Ok(Method::Entropy),
            ("mse", None) => Ok(Method::Mse),
            ("percentile", None) => Ok(Method::Percentile(DEFAULT_PERCENTAGE)),
            ("percentile", Some(_)) => Ok(Method::Percentile(number(0.0, 100.0, "above 0 and at most 100")?)),
            ("moving-average", None) => Ok(Method::MovingAverage(DEFAULT_WEIGHT)),
            ("moving-average", Some(_)) => {
                Ok(Method::MovingAverage(number(0.0, 1.0, "above 0 and at most 1")?))
            }
            ("lp", _) => Ok(Method::Lp(number(0.0, 8.0, "above 0 and at most 8")?)),
            _ => Err(ParseMethodError::Unknown(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Counting;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const METHODS: [Method; 8] = [
        Method::MinMax,
        Method::Percentile(99.9),
        Method::Entropy,
        Method::Mse,
        Method::Lp(1.5),
        Method::MeanMinMax,
        Method::MovingAverage(0.25),
        Method::Auto,
    ];
    const GRIDS: [Grid; 3] = [Grid::U8, Grid::I8_SYMMETRIC, Grid { qmin: 0, qmax: 15, symmetric: false }];

    fn solved(data: &[f32], method: Method, grid: &Grid) -> Range {
        let mut sketch = Sketch::keeping_each();
        sketch.observe_nth(0, data, Counting::Every);
        solve(&sketch, method, grid)
    }

    /// 200,000 standard normal numbers (Box and Muller) and the outliers 40 and -35.
    fn stress() -> Sketch {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let mut data: Vec<f32> = (0..200_000).map(|_| normal() as f32).collect();
        data.extend([40.0, -35.0]);
        let mut sketch = Sketch::new();
        sketch.observe(&data);
        sketch
    }

    #[test]
    fn ranges_on_a_normal_distribution_with_two_outliers() {
        let sketch = stress();
        let hi = |method| solve(&sketch, method, &Grid::I8_SYMMETRIC).hi;
        assert_eq!(hi(Method::MinMax), 40.0);
        // Two-sided quantiles of the normal distribution are 3.29, 3.89 and 4.42; the last is that of two
        // values.
        assert!((hi(Method::Percentile(99.9)) - 3.29).abs() < 0.06);
        assert!((hi(Method::Percentile(99.99)) - 3.95).abs() < 0.15);
        assert!((hi(Method::Entropy) - 4.3).abs() < 0.6, "{}", hi(Method::Entropy));
        // Squared error is ruled by the outliers.
        assert!((hi(Method::Mse) - 24.8).abs() < 1.5, "{}", hi(Method::Mse));
        assert!(hi(Method::Lp(1.0)) < 8.0, "{}", hi(Method::Lp(1.0)));
        let asymmetric = solve(&sketch, Method::Entropy, &Grid::U8);
        assert!(asymmetric.lo > -6.0 && asymmetric.hi < 6.0, "{asymmetric:?}");
    }

    #[test]
    fn nothing_to_go_by_is_said() {
        use RangeNote::*;
        let cases: [(&[f32], RangeNote); 4] = [
            (&[], NothingObserved),
            (&[f32::NAN, f32::INFINITY], NothingFinite),
            (&[0.0, -0.0], AllZero),
            (&[-2.5, -2.5], Constant),
        ];
        for (data, note) in cases {
            for (method, grid) in METHODS.into_iter().flat_map(|m| GRIDS.map(|g| (m, g))) {
                let range = solved(data, method, &grid);
                assert_eq!(range.note, Some(note), "{method} {data:?}");
                let expected = if note == Constant { -2.5 } else { 0.0 };
                assert_eq!(range.lo, expected, "{method} {data:?}");
            }
        }
        assert_eq!(solved(&[1.0, 2.0], Method::Entropy, &Grid::U8).note, Some(TooFewValues));
        assert_eq!(
            solved(&[1.0, 2.0], Method::Percentile(99.9), &Grid::U8).note,
            Some(PercentileKeepsEverything)
        );
    }

    #[test]
    fn one_sided_data_keeps_zero_at_its_end() {
        let data: Vec<f32> = (0..5000).map(|i| 3.0 + (i % 71) as f32 * 0.01).collect();
        for method in METHODS {
            let range = solved(&data, method, &Grid::U8);
            assert!(range.lo == 0.0 && range.hi > 3.5, "{method}: {range:?}");
            let negated: Vec<f32> = data.iter().map(|x| -x).collect();
            let mirrored = solved(&negated, method, &Grid::U8);
            assert!((mirrored.lo + range.hi).abs() < 1e-3 && mirrored.hi == 0.0, "{method}: {mirrored:?}");
        }
    }

    #[test]
    fn auto_clips_only_where_it_pays() {
        let uniform: Vec<f32> = (0..10_000).map(|i| i as f32 / 1e4).collect();
        let whole = solved(&uniform, Method::Auto, &Grid::U8);
        assert_eq!((whole.lo, whole.hi), (0.0, 0.9999));
        let mut spiked = uniform.repeat(20);
        spiked.push(8.0);
        let range = solved(&spiked, Method::Auto, &Grid::U8);
        assert!(range.hi < 7.0 && range.hi >= 0.99, "{range:?}");
    }

    #[test]
    fn names_come_back_as_the_same_method() {
        for method in METHODS {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        assert_eq!("percentile".parse(), Ok(Method::Percentile(99.99)));
        assert_eq!("moving-average".parse(), Ok(Method::MovingAverage(0.01)));
        for text in
            ["", "kl-ish", "percentile:0", "percentile:101", "moving-average:0", "lp", "lp:x", "mse:2"]
        {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_range_contains_zero_and_stays_within_the_extremes(
            data in vec(prop_oneof![-10.0_f32..10.0, Just(0.0), any::<u32>().prop_map(f32::from_bits)], 0..400),
        ) {
            let finite = data.iter().copied().filter(|x| x.is_finite());
            let (min, max) = finite.fold((0.0_f32, 0.0_f32), |(lo, hi), x| (lo.min(x), hi.max(x)));
            for (method, grid) in METHODS.into_iter().flat_map(|m| GRIDS.map(|g| (m, g))) {
                let Range { lo, hi, .. } = solved(&data, method, &grid);
                prop_assert!(lo <= 0.0 && hi >= 0.0, "{} {} {}", method, lo, hi);
                if grid.symmetric {
                    prop_assert!(lo == -hi && hi <= max.max(-min));
                } else {
                    prop_assert!(lo >= min && hi <= max);
                }
            }
        }
    }
}
