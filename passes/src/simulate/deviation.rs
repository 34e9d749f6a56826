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
    /// Of rows of classes, the share whose most probable class is another: steps of a sequence make one answer, which any
    /// of them spoils. Where classes lie at places, as those of pixels do, each is an answer of its own, and what
    /// counts is the accuracy that is expected to be lost if labels are as probable as the float model says: a pixel that
    /// gives up `p` for `q` loses `p - q`, next to nothing where two classes were as good. 0 where there are too few rows
    /// to tell.
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

/// How an output holds scores of classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Classes {
    /// Their axis, counted from the end if it is negative.
    pub(super) axis: i64,
    /// Whether they are logarithms of probabilities.
    pub(super) logarithms: bool,
}

impl Classes {
    /// The number of classes in an array of these dimensions, and of elements between two of a row.
    fn layout(self, dims: &[usize]) -> Option<(usize, usize)> {
        let axis = if self.axis < 0 { self.axis + dims.len() as i64 } else { self.axis };
        let axis = usize::try_from(axis).ok()?;
        let classes = *dims.get(axis)?;
        (classes > 1).then(|| (classes, dims[axis + 1..].iter().product()))
    }

    fn probability(self, x: f32) -> f64 {
        if self.logarithms { f64::from(x).exp() } else { f64::from(x) }
    }
}

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
    /// Rows that changed their class, or what is expected to be lost by that.
    flipped: f64,
}

impl Sums {
    /// Of no sample.
    pub(super) fn new(outputs: usize) -> Sums {
        Sums { outputs: vec![Sum::default(); outputs] }
    }

    /// Of one sample; `classes` are of the outputs that are scores of classes.
    pub(super) fn of(reference: &[Tensor], output: &[Tensor], classes: &[Option<Classes>]) -> Sums {
        let one = |(i, classes): (usize, &Option<Classes>)| Sum::of(&reference[i], &output[i], *classes);
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
                flips = flips.max(sum.flipped / sum.rows as f64);
            }
        }
        let worst = errors.iter().copied().fold(0.0, f64::max);
        let error = if errors.is_empty() { 0.0 } else { errors.iter().sum::<f64>() / errors.len() as f64 };
        Deviation { error, worst, flips }
    }
}

impl Sum {
    /// Nothing where shapes differ, or elements are no floats.
    fn of(reference: &Tensor, output: &Tensor, classes: Option<Classes>) -> Sum {
        let mut sum = Sum::default();
        if !reference.dtype().is_float() || reference.dims() != output.dims() {
            return sum;
        }
        let (x, y) = (reference.f32s(), output.f32s());
        sum.signal = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        sum.noise = x.iter().zip(y.iter()).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>();
        let Some((classes, (width, inner))) = classes.and_then(|c| Some((c, c.layout(reference.dims())?)))
        else {
            return sum;
        };
        let pairs = || x.chunks_exact(width * inner).zip(y.chunks_exact(width * inner));
        sum.rows = x.len() / width;
        if inner == 1 {
            sum.flipped = pairs().filter(|(x, y)| largest(x) != largest(y)).count() as f64;
            return sum;
        }
        let row = |block: &[f32], at: usize| block[at..].iter().step_by(inner).copied().collect::<Vec<f32>>();
        for (x, y) in pairs() {
            for at in 0..inner {
                let (x, chosen) = (row(x, at), largest(&row(y, at)));
                sum.flipped += classes.probability(x[largest(&x)]) - classes.probability(x[chosen]);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flips(dims: &[usize], axis: i64, logarithms: bool, change: impl Fn(usize, f32) -> f32) -> f64 {
        let n: usize = dims.iter().product();
        // Two classes of 0.51 and 0.49, in whichever place they lie.
        let of = |i: usize| if i < n / 2 { 0.51f32 } else { 0.49 };
        let x: Vec<f32> = (0..n).map(|i| if logarithms { of(i).ln() } else { of(i) }).collect();
        let y: Vec<f32> = x.iter().enumerate().map(|(i, x)| change(i, *x)).collect();
        let (x, y) = (Tensor::from_f32(dims, &x), Tensor::from_f32(dims, &y));
        Sums::of(&[x], &[y], &[Some(Classes { axis, logarithms })]).deviation().flips
    }

    #[test]
    fn a_pixel_loses_what_its_class_gives_up() {
        // All of 64 pixels take the other class.
        let swap = |i: usize, x: f32| if i < 64 { x - 0.1 } else { x };
        for logarithms in [false, true] {
            assert!((flips(&[1, 2, 8, 8], 1, logarithms, swap) - 0.02).abs() < 1e-6);
            assert!((flips(&[1, 2, 8, 8], -3, logarithms, swap) - 0.02).abs() < 1e-6);
        }
        // One of them.
        let one = |i: usize, x: f32| if i == 3 { x - 0.1 } else { x };
        assert!((flips(&[1, 2, 8, 8], 1, false, one) - 0.02 / 64.0).abs() < 1e-9);
        // Noise along a row of pixels changes no class.
        assert_eq!(flips(&[1, 2, 8, 8], 1, false, |i, x| x + (i % 8) as f32 * 0.001), 0.0);
    }

    #[test]
    fn a_step_of_a_sequence_counts_whole() {
        let dims = [1, 64, 2];
        let x: Vec<f32> = (0..128).map(|i| if i % 2 == 0 { 0.51 } else { 0.49 }).collect();
        let mut y = x.clone();
        y[0] = 0.4;
        let (x, y) = ([Tensor::from_f32(&dims, &x)], [Tensor::from_f32(&dims, &y)]);
        let classes = [Some(Classes { axis: -1, logarithms: false })];
        assert_eq!(Sums::of(&x, &y, &classes).deviation().flips, 1.0 / 64.0);
        assert_eq!(Sums::of(&x, &y, &[None]).deviation().flips, 0.0);
    }
}
