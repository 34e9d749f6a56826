//! How far the outputs of a plan are from those of the float graph, sample by sample, and when that is less than with
//! another plan.

use super::Deviation;
use crate::outputs::{Error, OutputErrors};
use squint_ir::Tensor;

/// What a plan does to each of some samples: energy of the difference at the outputs over mean energy of the
/// float outputs. A final Softmax or Sigmoid is left out: where it saturates, it hides errors, and a few
/// samples near its bend would decide everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Errors {
    pub(super) energy: Vec<f64>,
    /// The largest squared difference of an element, in the same unit.
    pub(super) peak: Vec<f64>,
    /// The differences at the outputs themselves, over all samples.
    pub(super) sums: OutputErrors,
}

/// What a plan does to one sample.
#[derive(Clone)]
pub(crate) struct Measured {
    /// At each output, or what is compared in its place.
    pub(crate) differences: Vec<Error>,
    /// At the outputs themselves.
    pub(crate) sums: OutputErrors,
    /// The outputs, if they are small.
    pub(crate) outputs: Vec<Tensor>,
}

/// Energy in decibels, with a floor.
fn decibels(x: f64) -> f64 {
    10.0 * x.max(1e-12).log10()
}

impl Errors {
    /// Of these samples.
    pub(crate) fn of(samples: &[Measured]) -> Errors {
        let n = samples.len();
        let mut errors = Errors { energy: vec![0.0; n], peak: vec![0.0; n], sums: OutputErrors::default() };
        let Some(first) = samples.first() else { return errors };
        errors.sums = first.sums.clone();
        samples[1..].iter().for_each(|more| errors.sums.add(&more.sums));
        for output in 0..first.differences.len() {
            let signal = samples.iter().map(|m| m.differences[output].signal).sum::<f64>() / n as f64;
            if signal > 0.0 {
                let share = |x: f64| if x.is_finite() { x / signal } else { 1.0 };
                for (i, m) in samples.iter().enumerate() {
                    errors.energy[i] += share(m.differences[output].noise);
                    errors.peak[i] += share(m.differences[output].largest.powi(2));
                }
            }
        }
        errors
    }

    /// The difference at the outputs themselves, over all samples.
    pub(crate) fn deviation(&self) -> Deviation {
        Deviation::of(&self.sums)
    }

    /// The difference at the outputs themselves, over these samples and those of another measurement.
    pub(crate) fn deviation_with(&self, more: &Errors) -> Deviation {
        let mut sums = self.sums.clone();
        sums.add(&more.sums);
        Deviation::of(&sums)
    }

    /// Whether the largest error of a sample is no larger than with another plan, in the mean of decibels. A plan that
    /// clips what is rare may have the smaller energy of errors, and lose what a detector is there to find.
    pub(crate) fn peaks_no_more_than(&self, other: &Errors) -> bool {
        let mean = |e: &Errors| e.peak.iter().map(|x| decibels(*x)).sum::<f64>();
        mean(self) <= mean(other)
    }

    /// How many decibels of error less than another plan makes on the same samples, as far as that is certain:
    /// the mean of what the sum of errors says and of what the samples say one by one, less the standard error
    /// of the latter. Few samples have most of the error, so the sum alone would let them decide.
    pub(crate) fn gain_over(&self, other: &Errors) -> f64 {
        let single = self.single_gains(other);
        let n = single.len().max(1) as f64;
        let mean = single.iter().sum::<f64>() / n;
        let variance = single.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        self.lead_over(other) - (variance / n).sqrt()
    }

    /// The same without what is taken off for being uncertain.
    pub(crate) fn lead_over(&self, other: &Errors) -> f64 {
        let sum = |e: &Errors| decibels(e.energy.iter().sum::<f64>());
        let single = self.single_gains(other);
        let mean = single.iter().sum::<f64>() / single.len().max(1) as f64;
        (sum(other) - sum(self) + mean) / 2.0
    }

    /// Decibels less of each sample.
    fn single_gains(&self, other: &Errors) -> Vec<f64> {
        self.energy.iter().zip(&other.energy).map(|(a, b)| decibels(*b) - decibels(*a)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_those_that_samples_agree_on() {
        let errors = |e: &[f64]| Errors { energy: e.to_vec(), peak: e.to_vec(), sums: OutputErrors::new(0) };
        let before = errors(&[1.0, 0.01, 0.02]);
        assert!((errors(&[0.1, 0.001, 0.002]).gain_over(&before) - 10.0).abs() < 1e-9);
        assert_eq!(before.gain_over(&before), 0.0);
        assert!(errors(&[0.5, 0.01, 0.02]).peaks_no_more_than(&before));
        assert!(!errors(&[0.9, 0.02, 0.02]).peaks_no_more_than(&before));
        // One sample is much better, the others are worse.
        assert!(errors(&[0.1, 0.03, 0.04]).gain_over(&before) < 1.0);
    }
}
