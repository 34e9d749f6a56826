//! What few rows of classes tell about many.

use super::difference::ClassErrors;
use super::kind::{Classes, Scale, largest};
use squint_ir::Tensor;

/// Rows from which flips are counted. Below, one row more or less would decide.
const ENOUGH_ROWS: u64 = 1000;
/// Classes next to the best that may take its place.
const RIVALS: usize = 4;
/// The share of the rows, those with the narrowest leads, that the density of narrow leads follows from.
const NARROW: usize = 4;
/// Standard errors of that density that are added to it: what is expected is what is hardly ever passed.
const STANDARD_ERRORS: f64 = 2.0;

/// Rows of classes in float and quantized, and how many of such rows are expected to change their class.
///
/// Few rows tell little if only flips are counted: of 30, one is 3 %. But all rows together tell how much the lead of the
/// best class changes by quantization, and how many leads are narrow; from both follows how many flip, changes taken as
/// normally distributed around zero.
///
/// A flip needs a lead of the size of a change, and among few rows there may be none. So leads are taken as evenly
/// distributed from zero to where a quarter of the rows lies: a density that `k` rows tell has a standard error of
/// `1/√k` of it, two of which are added. Rows of the float model alone, such as those of calibration samples, help to find it.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    counted: ClassErrors,
    /// None where rows are many.
    rows: Vec<Row>,
}

/// A row of the float model, and what quantization does to it.
#[derive(Clone, Debug)]
struct Row {
    /// Leads of the best class over its rivals, the narrowest first, in scores and in probability.
    leads: Vec<(f64, f64)>,
    /// Probability of the best class and of the next one together.
    share: f64,
    /// Mean of the squares of the changes of leads; `None` of a row that is known in float only.
    change: Option<f64>,
}

impl Expected {
    /// Takes the rows of an output of one sample. Nothing where shapes differ, or there are no classes.
    pub fn take(&mut self, x: &Tensor, y: &Tensor, classes: Classes) {
        let layout = classes.layout(x.dims());
        let Some((width, inner)) = layout.filter(|_| x.dims() == y.dims() && x.dtype().is_float()) else {
            return;
        };
        self.counted.at_places |= inner > 1;
        let total = self.counted.rows + (x.dims().iter().product::<usize>() / width) as u64;
        if total >= ENOUGH_ROWS {
            self.rows = Vec::new();
            classes.rows(x, y, |x, y| self.counted.take(x, y, classes));
            return;
        }
        classes.rows(x, y, |x, y| {
            self.counted.take(x, y, classes);
            self.rows.push(Row::of(x, Some(y), classes));
        });
    }

    /// Takes rows of which only the float model is known.
    pub fn take_float(&mut self, x: &Tensor, classes: Classes) {
        if x.dtype().is_float() && (self.rows.len() as u64) < ENOUGH_ROWS {
            classes.rows(x, x, |x, _| self.rows.push(Row::of(x, None, classes)));
        }
    }

    /// Share of rows that are expected to change their class.
    pub fn flips(&self) -> f64 {
        self.flips_at(1.0)
    }

    /// The same if the energy of the changes were so many times what it is; what was counted where rows are many.
    pub fn flips_at(&self, energy: f64) -> f64 {
        self.expected(energy, 1.0 - self.counted.agreement(), |_, _| 1.0, |_| 1.0)
    }

    /// Rows of which both forms are known.
    pub fn rows(&self) -> u64 {
        self.counted.rows
    }

    /// Accuracy that is expected to be lost if labels are as probable as the float model says.
    pub fn lost_accuracy(&self) -> f64 {
        // Of two classes with p + q = share and a lead of ln p - ln q.
        let loss = |lead: f64, share: f64| share * (lead / 2.0).tanh();
        self.expected(1.0, self.counted.lost_accuracy(), loss, |(_, p)| p)
    }

    /// The mean over rows of what a flip costs: `cost` of a lead by what the two classes have together, `known` of a
    /// lead that a row has. What was counted where rows are many, or no lead changed. `energy` is the factor on the squares of
    /// the changes.
    fn expected(
        &self,
        energy: f64,
        counted: f64,
        cost: impl Fn(f64, f64) -> f64,
        known: impl Fn((f64, f64)) -> f64,
    ) -> f64 {
        let deviation = self.deviation() * energy.sqrt();
        if self.counted.rows == 0 {
            return 0.0;
        }
        if self.counted.rows >= ENOUGH_ROWS || deviation == 0.0 {
            return counted;
        }
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.leads[0].0.total_cmp(&b.leads[0].0));
        let flip = |lead: &(f64, f64)| upper_tail(lead.0 / deviation) * known(*lead);
        let (narrow, wide) = rows.split_at(rows.len().div_ceil(NARROW));
        let k = narrow.len() as f64;
        let width = narrow.last().map_or(0.0, |r| r.leads[0].0) / deviation;
        let share = narrow.iter().map(|r| r.share).sum::<f64>() / k;
        // The mean over leads between zero and `width`, in deviations.
        let end = width.clamp(f64::MIN_POSITIVE, FAR);
        let step = end / STEPS as f64;
        let middle = |i: usize| (i as f64 + 0.5) * step;
        let sum: f64 =
            (0..STEPS).map(|i| upper_tail(middle(i)) * cost(middle(i) * deviation, share)).sum::<f64>();
        let of_narrow = k * sum * step / width.max(f64::MIN_POSITIVE) * (1.0 + STANDARD_ERRORS / k.sqrt());
        let of_wide: f64 = wide.iter().map(|r| flip(&r.leads[0])).sum();
        let of_others: f64 = rows.iter().flat_map(|r| &r.leads[1..]).map(flip).sum();
        ((of_narrow + of_wide + of_others) / rows.len() as f64).min(1.0)
    }

    /// Standard deviation of the change of a lead, in the half of the rows with the narrower leads: where scores are large,
    /// their changes are larger, too, and flip nothing.
    fn deviation(&self) -> f64 {
        let mut changed: Vec<(f64, f64)> =
            self.rows.iter().filter_map(|r| Some((r.leads[0].0, r.change?))).collect();
        changed.sort_by(|a, b| a.0.total_cmp(&b.0));
        changed.truncate(changed.len().div_ceil(2));
        (changed.iter().map(|c| c.1).sum::<f64>() / changed.len().max(1) as f64).sqrt()
    }
}

/// Deviations beyond which nothing flips.
const FAR: f64 = 8.0;
/// Steps of the integral.
const STEPS: usize = 256;

impl Row {
    fn of(x: &[f32], y: Option<&[f32]>, classes: Classes) -> Row {
        // Leads of probabilities are ratios: those of their logarithms are what noise adds to.
        let score = |x: f32| match classes.scale {
            Scale::Probabilities => f64::from(x.max(f32::MIN_POSITIVE)).ln(),
            Scale::Scores | Scale::Logarithms => f64::from(x),
        };
        let best = largest(x);
        let p = classes.probabilities(x);
        let mut rivals: Vec<usize> = (0..x.len()).filter(|i| *i != best).collect();
        rivals.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
        rivals.truncate(RIVALS);
        let lead = |row: &[f32], rival: usize| score(row[best]) - score(row[rival]);
        let change = y.map(|y| {
            let squares = rivals.iter().map(|rival| (lead(y, *rival) - lead(x, *rival)).powi(2));
            squares.sum::<f64>() / rivals.len().max(1) as f64
        });
        let leads: Vec<_> = rivals.iter().map(|r| (lead(x, *r), p[best] - p[*r])).collect();
        Row { share: rivals.first().map_or(1.0, |r| p[best] + p[*r]), leads, change }
    }
}

/// P(X > z) of a standard normal variable, to within 1e-7 (Abramowitz and Stegun, 26.2.17).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_tail() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.158_655), (-1.0, 0.841_345), (3.0, 0.001_35)] {
            assert!((upper_tail(z) - p).abs() < 1e-6, "{z}");
        }
    }

    const TWO: Classes = Classes { axis: 1, scale: Scale::Scores };

    fn row(x: [f32; 2]) -> Tensor {
        Tensor::from_f32(&[1, 2], &x)
    }

    #[test]
    fn flips_are_expected_from_changes_and_the_density_of_narrow_leads() {
        let mut rows = Expected::default();
        assert_eq!(rows.flips(), 0.0);
        // Leads of 1 to 16, all of which change by 0.5.
        for i in 1..=16u8 {
            let lead = f32::from(i);
            rows.take(&row([lead, 0.0]), &row([lead + if i % 2 == 0 { 0.5 } else { -0.5 }, 0.0]), TWO);
        }
        assert_eq!((rows.counted.rows, rows.counted.agreeing), (16, 16));
        assert!((rows.deviation() - 0.5).abs() < 1e-9);
        // One row in each unit, whose flips are ∫ P(X > l / 0.5) dl = 0.5 / √(2π) of one; and two standard errors of four
        // rows.
        let one_row = 0.5 / (2.0 * std::f64::consts::PI).sqrt();
        assert!((rows.flips() - 2.0 * one_row / 16.0).abs() < 1e-4, "{}", rows.flips());
        // ∫ P(X > l / 0.5) tanh(l / 2) dl, which is near 0.5² / 4 / 2.
        assert!((rows.lost_accuracy() * 8.0 - 0.03).abs() < 2e-3, "{}", rows.lost_accuracy());
        assert!((rows.flips_at(4.0) - 2.0 * rows.flips()).abs() < 1e-3, "twice the changes, twice the flips");
        // As many wide leads again: half the density.
        let before = rows.flips();
        for i in 1..=48u8 {
            rows.take_float(&row([100.0 + f32::from(i), 0.0]), TWO);
        }
        assert!(rows.flips() < 0.4 * before && rows.counted.rows == 16);
    }

    #[test]
    fn what_does_not_change_does_not_flip() {
        let mut same = Expected::default();
        same.take(&row([1.0, 0.0]), &row([1.0, 0.0]), TWO);
        assert_eq!((same.flips(), same.lost_accuracy()), (0.0, 0.0));
        // Two classes that are as good, and may as well be exchanged.
        same.take(&row([1.0, 1.0]), &row([1.0, 1.5]), TWO);
        assert!(
            same.flips() <= 1.0 && same.flips() > 0.25 && same.lost_accuracy() < 1e-2,
            "{}",
            same.flips()
        );
    }

    #[test]
    fn pixels_are_counted_and_nothing_is_kept_of_them() {
        let x: Vec<f32> = (0..2048).map(|i| if i < 1024 { 0.6 } else { 0.4 }).collect();
        let mut y = x.clone();
        y[5] = 0.3;
        let (x, y) = (Tensor::from_f32(&[1, 2, 32, 32], &x), Tensor::from_f32(&[1, 2, 32, 32], &y));
        let mut rows = Expected::default();
        rows.take(&x, &y, Classes { axis: 1, scale: Scale::Probabilities });
        assert!(rows.rows.is_empty());
        assert!((rows.flips() - 1.0 / 1024.0).abs() < 1e-12);
        assert!((rows.lost_accuracy() - 0.2 / 1024.0).abs() < 1e-6);
    }
}
