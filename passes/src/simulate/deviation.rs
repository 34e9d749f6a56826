//! What a plan does to the outputs, over all samples.

use crate::compare::largest;
use squint_ir::Tensor;

/// The difference that a plan makes at the outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Deviation {
    /// Energy of the difference over energy of the float output, the mean over outputs.
    pub(crate) error: f64,
    /// The same of the output where it is largest: the mean hides one bad output behind good ones.
    pub(crate) worst: f64,
    /// Share of rows whose most probable class is another; 0 where there are too few rows to tell.
    pub(crate) flips: f64,
}

impl Deviation {
    /// Signal to noise in dB, by the mean over outputs.
    pub(crate) fn sqnr(self) -> f64 {
        -10.0 * self.error.log10()
    }

    /// Signal to noise of the worst output in dB.
    pub(crate) fn worst_sqnr(self) -> f64 {
        -10.0 * self.worst.log10()
    }
}

/// Rows of class scores from which a share of flips means something.
const ENOUGH_ROWS: usize = 64;

/// Sums over samples, for each output.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sums {
    outputs: Vec<Sum>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    signal: f64,
    noise: f64,
    rows: usize,
    flipped: usize,
}

impl Sums {
    /// Of no sample.
    pub(super) fn new(outputs: usize) -> Sums {
        Sums { outputs: vec![Sum::default(); outputs] }
    }

    /// Of one sample; `classes` are outputs that are scores of classes along their last axis.
    pub(super) fn of(reference: &[Tensor], output: &[Tensor], classes: &[bool]) -> Sums {
        let one = |(i, classes): (usize, &bool)| Sum::of(&reference[i], &output[i], *classes);
        Sums { outputs: classes.iter().enumerate().map(one).collect() }
    }

    pub(super) fn add(&mut self, more: &Sums) {
        for (sum, more) in self.outputs.iter_mut().zip(&more.outputs) {
            sum.signal += more.signal;
            sum.noise += more.noise;
            sum.rows += more.rows;
            sum.flipped += more.flipped;
        }
    }

    pub(super) fn deviation(&self) -> Deviation {
        let (mut errors, mut flips): (Vec<f64>, f64) = (Vec::new(), 0.0);
        for sum in &self.outputs {
            if !sum.noise.is_finite() {
                errors.push(1.0);
            } else if sum.signal > 0.0 {
                errors.push(sum.noise / sum.signal);
            }
            if sum.rows >= ENOUGH_ROWS {
                flips = flips.max(sum.flipped as f64 / sum.rows as f64);
            }
        }
        let worst = errors.iter().copied().fold(0.0, f64::max);
        let error = if errors.is_empty() { 0.0 } else { errors.iter().sum::<f64>() / errors.len() as f64 };
        Deviation { error, worst, flips }
    }
}

impl Sum {
    /// Nothing where shapes differ, or elements are no floats.
    fn of(reference: &Tensor, output: &Tensor, classes: bool) -> Sum {
        let mut sum = Sum::default();
        if !reference.dtype().is_float() || reference.dims() != output.dims() {
            return sum;
        }
        let (x, y) = (reference.f32s(), output.f32s());
        sum.signal = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        sum.noise = x.iter().zip(y.iter()).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>();
        let width = reference.dims().last().copied().unwrap_or(1);
        if classes && width > 1 {
            sum.rows = x.len() / width;
            let pairs = x.chunks_exact(width).zip(y.chunks_exact(width));
            sum.flipped = pairs.filter(|(x, y)| largest(x) != largest(y)).count();
        }
        sum
    }
}
