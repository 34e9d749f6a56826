//! What a plan does to the outputs, over all samples.

use crate::outputs::OutputErrors;

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

/// Rows of class scores from which a share of flips means something.
pub(crate) const ENOUGH_ROWS: u64 = 64;

impl Deviation {
    /// Of these sums.
    pub(crate) fn of(errors: &OutputErrors) -> Deviation {
        let counted = errors.classes().filter(|c| c.rows >= ENOUGH_ROWS);
        let lost = counted.map(|c| if c.at_places { c.lost_accuracy() } else { 1.0 - c.agreement() });
        Deviation { error: errors.mean(), worst: errors.worst(), flips: lost.fold(0.0, f64::max) }
    }

    /// Signal to noise in dB, by the mean over outputs.
    pub(crate) fn sqnr(self) -> f64 {
        -10.0 * self.error.log10()
    }

    /// Signal to noise of the worst output in dB.
    pub(crate) fn worst_sqnr(self) -> f64 {
        -10.0 * self.worst.log10()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::{Classes, Kind, Scale};
    use squint_ir::Tensor;

    fn flips(dims: &[usize], axis: i64, x: &[f32], y: &[f32]) -> f64 {
        let (x, y) = ([Tensor::from_f32(dims, x)], [Tensor::from_f32(dims, y)]);
        let kinds = [Kind::Classes(Classes { axis, scale: Scale::Probabilities })];
        assert_eq!(Deviation::of(&OutputErrors::between(&x, &y, &[Kind::Numbers])).flips, 0.0);
        Deviation::of(&OutputErrors::between(&x, &y, &kinds)).flips
    }

    #[test]
    fn a_step_of_a_sequence_counts_whole_and_a_pixel_for_what_its_class_gives_up() {
        let x: Vec<f32> = (0..128).map(|i| if i % 2 == 0 { 0.51 } else { 0.49 }).collect();
        let mut y = x.clone();
        y[0] = 0.4;
        assert_eq!(flips(&[1, 64, 2], -1, &x, &y), 1.0 / 64.0);
        // Too few rows to tell.
        assert_eq!(flips(&[1, 32, 2], -1, &x[..64], &y[..64]), 0.0);
        let x: Vec<f32> = (0..128).map(|i| if i < 64 { 0.51 } else { 0.49 }).collect();
        let mut y = x.clone();
        y[3] = 0.4;
        assert!((flips(&[1, 2, 8, 8], 1, &x, &y) - 0.02 / 64.0).abs() < 1e-9);
    }
}
