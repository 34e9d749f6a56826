//! How far outputs are from the reference, in sums that add up over samples.

use super::error::Error;
use super::kind::{Classes, Kind, Scale, largest};
use squint_ir::Tensor;

/// How far an output is from the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputError {
    /// Element by element.
    pub error: Error,
    /// Row by row, where rows are classes.
    pub classes: Option<ClassErrors>,
}

/// Sums over rows of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassErrors {
    /// Rows.
    pub rows: u64,
    /// Rows with the same best class.
    pub agreeing: u64,
    /// Probability that rows give up by taking another class: `p - q` where the reference says `p` of its best class, and `q`
    /// of the one that takes its place.
    pub given_up: f64,
    /// Σ KL(p ‖ q) in nats, p the distribution of the reference, q the other; 0 if it was not asked for.
    pub divergence: f64,
    /// Whether rows lie at places, as pixels do, each with an answer of its own; those of a sequence make one together.
    pub at_places: bool,
}

impl ClassErrors {
    /// Share of rows with the same best class.
    pub fn agreement(&self) -> f64 {
        self.agreeing as f64 / self.rows.max(1) as f64
    }

    /// Accuracy that is expected to be lost if labels are as probable as the reference says.
    pub fn lost_accuracy(&self) -> f64 {
        self.given_up / self.rows.max(1) as f64
    }

    /// Mean Kullback–Leibler divergence in nats.
    pub fn kl(&self) -> f64 {
        self.divergence / self.rows.max(1) as f64
    }

    /// Adds a row.
    pub(super) fn take(&mut self, x: &[f32], y: &[f32], classes: Classes) {
        let (best, chosen) = (largest(x), largest(y));
        self.rows += 1;
        if best == chosen {
            self.agreeing += 1;
        } else {
            let p = classes.probabilities(x);
            self.given_up += p[best] - p[chosen];
        }
    }

    fn add(&mut self, more: &ClassErrors) {
        self.rows += more.rows;
        self.agreeing += more.agreeing;
        self.given_up += more.given_up;
        self.divergence += more.divergence;
        self.at_places |= more.at_places;
    }
}

impl OutputError {
    /// The sums of an output of one sample, without the divergence of classes. Outputs of other types than floats, or of
    /// another shape, have none.
    pub fn between(x: &Tensor, y: &Tensor, kind: Kind) -> Option<OutputError> {
        if !x.dtype().is_float() || x.dims() != y.dims() {
            return None;
        }
        let classes = kind.classes().and_then(|classes| {
            let (_, inner) = classes.layout(x.dims())?;
            let mut sums = ClassErrors { at_places: inner > 1, ..ClassErrors::default() };
            classes.rows(x, y, |x, y| sums.take(x, y, classes));
            Some(sums)
        });
        Some(OutputError { error: Error::between(&x.f32s(), &y.f32s()), classes })
    }

    /// The same with the divergence.
    pub fn with_divergence(x: &Tensor, y: &Tensor, kind: Kind) -> Option<OutputError> {
        let mut found = OutputError::between(x, y, kind)?;
        if let (Some(sums), Some(classes)) = (&mut found.classes, kind.classes()) {
            classes.rows(x, y, |x, y| sums.divergence += divergence(x, y, classes.scale));
        }
        Some(found)
    }

    /// Adds the sums of other samples.
    pub fn add(&mut self, more: &OutputError) {
        self.error.add(&more.error);
        if let Some(more) = more.classes {
            self.classes.get_or_insert_default().add(&more);
        }
    }
}

/// How far all outputs are from the reference; `None` for those that are not compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputErrors(pub Vec<Option<OutputError>>);

impl OutputErrors {
    /// Of no sample.
    pub fn new(outputs: usize) -> OutputErrors {
        OutputErrors(vec![None; outputs])
    }

    /// Of one sample, output by output, without the divergence of classes.
    pub fn between(reference: &[Tensor], outputs: &[Tensor], kinds: &[Kind]) -> OutputErrors {
        OutputErrors::by(OutputError::between, reference, outputs, kinds)
    }

    /// The same with the divergence.
    pub fn with_divergence(reference: &[Tensor], outputs: &[Tensor], kinds: &[Kind]) -> OutputErrors {
        OutputErrors::by(OutputError::with_divergence, reference, outputs, kinds)
    }

    fn by(
        measure: fn(&Tensor, &Tensor, Kind) -> Option<OutputError>,
        reference: &[Tensor],
        outputs: &[Tensor],
        kinds: &[Kind],
    ) -> OutputErrors {
        let pairs = reference.iter().zip(outputs).zip(kinds);
        let mut found: Vec<_> = pairs.map(|((x, y), kind)| measure(x, y, *kind)).collect();
        found.resize(kinds.len(), None);
        OutputErrors(found)
    }

    /// Adds the sums of other samples.
    pub fn add(&mut self, more: &OutputErrors) {
        for (sum, more) in self.0.iter_mut().zip(&more.0) {
            match (sum, more) {
                (Some(sum), Some(more)) => sum.add(more),
                (sum, more) => *sum = sum.or(*more),
            }
        }
    }

    /// Energy of the difference over energy of the reference, of each output that is not zero throughout; 1 for what is not
    /// finite.
    fn relative(&self) -> impl Iterator<Item = f64> {
        let finite = |e: f64| if e.is_finite() { e } else { 1.0 };
        let measured = self.0.iter().flatten().map(|o| o.error);
        measured.filter(|e| e.signal > 0.0 || !e.noise.is_finite()).map(move |e| finite(e.relative()))
    }

    /// Energy of the difference over energy of the reference, the mean over outputs.
    pub fn mean(&self) -> f64 {
        self.relative().sum::<f64>() / self.relative().count().max(1) as f64
    }

    /// The same of the output where it is largest: the mean hides one bad output behind good ones.
    pub fn worst(&self) -> f64 {
        self.relative().fold(0.0, f64::max)
    }

    /// The sums of outputs that are classes.
    pub fn classes(&self) -> impl Iterator<Item = ClassErrors> {
        self.0.iter().flatten().filter_map(|o| o.classes)
    }

    /// Mean divergence in nats over the outputs that are classes.
    pub fn mean_divergence(&self) -> Option<f64> {
        let n = self.classes().count();
        (n > 0).then(|| self.classes().map(|c| c.kl()).sum::<f64>() / n as f64)
    }
}

/// KL(p ‖ q) of two rows, in nats.
fn divergence(x: &[f32], y: &[f32], scale: Scale) -> f64 {
    let (p, q) = (log_probabilities(x, scale), log_probabilities(y, scale));
    let sum: f64 = p.iter().zip(&q).map(|(p, q)| if *p > SMALLEST { p.exp() * (p - q) } else { 0.0 }).sum();
    // Rounding may leave a tiny negative number.
    sum.max(0.0)
}

/// Logarithm of a probability that counts as zero, so that one zero does not make a sum infinite.
const SMALLEST: f64 = -50.0;

fn log_probabilities(row: &[f32], scale: Scale) -> Vec<f64> {
    let row = row.iter().map(|x| f64::from(*x));
    if scale == Scale::Probabilities {
        let sum: f64 = row.clone().sum();
        return row.map(|x| (x / sum).ln().max(SMALLEST)).collect();
    }
    // Logarithms that are rounded no longer belong to a distribution: they are normalised as scores are.
    let top = row.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.clone().map(|x| (x - top).exp()).sum();
    row.map(|x| (x - top - sum.ln()).max(SMALLEST)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(axis: i64, scale: Scale) -> Kind {
        Kind::Classes(Classes { axis, scale })
    }

    #[test]
    fn rows_of_classes_are_compared_as_distributions() {
        let t = |data: &[f32]| Tensor::from_f32(&[2, 2], data);
        let (x, y) = (t(&[1.0, 0.0, 0.0, 1.0]), t(&[1.0, 0.0, 1.0, 0.0]));
        let rows = |scale| OutputError::with_divergence(&x, &y, of(-1, scale)).unwrap().classes.unwrap();
        let scores = rows(Scale::Scores);
        assert_eq!((scores.rows, scores.agreement(), scores.at_places), (2, 0.5, false));
        // p = softmax(0, 1), q the other way round: KL = (p1 - p0) · 1.
        let p = 1.0 / (1.0 + 1f64.exp());
        assert!((scores.kl() - (1.0 - 2.0 * p) / 2.0).abs() < 1e-9);
        assert!((scores.lost_accuracy() - (1.0 - 2.0 * p) / 2.0).abs() < 1e-9);
        let sharp = rows(Scale::Probabilities);
        assert!(sharp.kl() > 20.0 && sharp.kl().is_finite() && sharp.lost_accuracy() == 0.5);
        assert!(OutputError::between(&x, &y, Kind::Numbers).unwrap().classes.is_none());
        assert!(OutputError::between(&x, &Tensor::from_f32(&[4], &[0.0; 4]), Kind::Numbers).is_none());
    }

    /// Two classes of 0.51 and 0.49, the one in the first half of the memory and the other in the second.
    fn pixels(scale: Scale, change: impl Fn(usize, f32) -> f32) -> ClassErrors {
        let of_class = |i: usize| if i < 64 { 0.51f32 } else { 0.49 };
        let number = |i: usize| if scale == Scale::Logarithms { of_class(i).ln() } else { of_class(i) };
        let x: Vec<f32> = (0..128).map(number).collect();
        let y: Vec<f32> = x.iter().enumerate().map(|(i, x)| change(i, *x)).collect();
        let (x, y) = (Tensor::from_f32(&[1, 2, 8, 8], &x), Tensor::from_f32(&[1, 2, 8, 8], &y));
        let [one, other] = [1, -3].map(|axis| OutputError::with_divergence(&x, &y, of(axis, scale)).unwrap());
        assert_eq!(one, other);
        one.classes.unwrap()
    }

    #[test]
    fn a_pixel_loses_what_its_class_gives_up() {
        for scale in [Scale::Probabilities, Scale::Logarithms] {
            let all = pixels(scale, |i, x| if i < 64 { x - 0.1 } else { x });
            assert_eq!((all.rows, all.agreeing, all.at_places), (64, 0, true));
            assert!((all.lost_accuracy() - 0.02).abs() < 1e-6 && all.kl() > 0.0);
        }
        let one = pixels(Scale::Probabilities, |i, x| if i == 3 { x - 0.1 } else { x });
        assert!(one.agreeing == 63 && (one.lost_accuracy() - 0.02 / 64.0).abs() < 1e-9);
        // Noise along a row of pixels changes no class.
        let noise = pixels(Scale::Probabilities, |i, x| x + (i % 8) as f32 * 0.001);
        assert_eq!((noise.agreement(), noise.given_up), (1.0, 0.0));
    }

    #[test]
    fn outputs_that_are_zero_throughout_have_no_share_in_the_mean() {
        let t = |data: &[f32]| Tensor::from_f32(&[2], data);
        let kinds = [Kind::Numbers; 3];
        let reference = [t(&[0.0, 0.0]), t(&[1.0, 1.0]), t(&[2.0, 0.0])];
        let mut found =
            OutputErrors::between(&reference, &[t(&[0.0, 0.1]), t(&[1.0, 0.0]), t(&[2.0, 1.0])], &kinds);
        assert_eq!((found.mean(), found.worst()), (0.375, 0.5));
        found.add(&OutputErrors::between(&reference, &reference[..2], &kinds));
        assert_eq!((found.mean(), found.worst()), (0.25, 0.25));
        let nan = OutputErrors::between(&reference[..1], &[t(&[f32::NAN, 0.0])], &kinds[..1]);
        assert_eq!((nan.mean(), nan.worst(), nan.mean_divergence()), (1.0, 1.0, None));
        assert_eq!(OutputErrors::new(2).mean(), 0.0);
    }
}
