//! How far one tensor is from another, in sums that add up over samples.

use squint_ir::Tensor;

/// Sums over the elements of a reference `x` and of `y`, which should be `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Error {
    /// Σ x².
    pub signal: f64,
    /// Σ (x − y)².
    pub noise: f64,
    /// Σ x·y.
    pub product: f64,
    /// Σ y².
    pub other: f64,
    /// max |x − y|; NaN where y has a NaN that x has not.
    pub largest: f64,
    /// Elements.
    pub elements: u64,
}

impl Error {
    /// The sums of two tensors of the same length.
    pub fn between(x: &[f32], y: &[f32]) -> Error {
        let mut sums = Error { elements: x.len() as u64, ..Error::default() };
        for (x, y) in x.iter().zip(y) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            // Equal infinities are no error; a difference of them would be NaN.
            let d = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { x - y };
            if x.is_finite() && y.is_finite() {
                sums.signal += x * x;
                sums.product += x * y;
                sums.other += y * y;
            }
            sums.noise += d * d;
            if d.is_nan() || d.abs() > sums.largest {
                sums.largest = d.abs();
            }
        }
        sums
    }

    /// Adds the sums of other elements.
    pub fn add(&mut self, more: &Error) {
        self.signal += more.signal;
        self.noise += more.noise;
        self.product += more.product;
        self.other += more.other;
        self.largest = if more.largest.is_nan() { more.largest } else { self.largest.max(more.largest) };
        self.elements += more.elements;
    }

    /// Energy of the difference over energy of the reference; infinite where nothing should be and something is.
    pub fn relative(&self) -> f64 {
        if self.noise == 0.0 { 0.0 } else { self.noise / self.signal }
    }

    /// Signal to quantization noise, `10 log10(Σ x² / Σ (x − y)²)`, in dB; infinite if there is no difference.
    pub fn sqnr(&self) -> f64 {
        -10.0 * self.relative().log10()
    }

    /// Cosine of the angle between the two; 1 if both are zero.
    pub fn cosine(&self) -> f64 {
        let norms = (self.signal * self.other).sqrt();
        if norms > 0.0 { self.product / norms } else { f64::from(u8::from(self.noise == 0.0)) }
    }
}

/// How far an output is from the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputError {
    /// Element by element.
    pub error: Error,
    /// Row by row, where rows are scores or probabilities of classes.
    pub classes: Option<Classes>,
}

/// Sums over rows of class scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Classes {
    /// Rows.
    pub rows: u64,
    /// Rows with the same best class.
    pub agreeing: u64,
    /// Σ KL(p ‖ q) in nats, p the distribution of the reference, q the other.
    pub divergence: f64,
}

impl Classes {
    /// Share of rows with the same best class.
    pub fn agreement(&self) -> f64 {
        self.agreeing as f64 / self.rows.max(1) as f64
    }

    /// Mean Kullback–Leibler divergence in nats.
    pub fn kl(&self) -> f64 {
        self.divergence / self.rows.max(1) as f64
    }
}

/// What the numbers of an output mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Unknown: compared element by element only.
    Numbers,
    /// Scores of classes along the last axis, of which a softmax makes probabilities.
    Scores,
    /// Probabilities of classes along the last axis.
    Probabilities,
}

impl OutputError {
    /// The sums of an output of one sample. Outputs of other types than floats, or of another shape, have none.
    pub fn between(x: &Tensor, y: &Tensor, meaning: Meaning) -> Option<OutputError> {
        if !x.dtype().is_float() || x.dims() != y.dims() {
            return None;
        }
        let (a, b) = (x.f32s(), y.f32s());
        let width = x.dims().last().copied().unwrap_or(1);
        let classes = (meaning != Meaning::Numbers && width > 1).then(|| {
            let mut classes = Classes::default();
            for (x, y) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
                classes.rows += 1;
                classes.agreeing += u64::from(largest(x) == largest(y));
                classes.divergence += divergence(x, y, meaning);
            }
            classes
        });
        Some(OutputError { error: Error::between(&a, &b), classes })
    }

    /// Adds the sums of other samples.
    pub fn add(&mut self, more: &OutputError) {
        self.error.add(&more.error);
        if let Some(more) = more.classes {
            let sums = self.classes.get_or_insert_default();
            sums.rows += more.rows;
            sums.agreeing += more.agreeing;
            sums.divergence += more.divergence;
        }
    }
}

/// Position of the largest element, the first of equals.
pub fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

/// KL(p ‖ q) of two rows, in nats.
fn divergence(x: &[f32], y: &[f32], meaning: Meaning) -> f64 {
    let (p, q) = (log_probabilities(x, meaning), log_probabilities(y, meaning));
    let sum: f64 = p.iter().zip(&q).map(|(p, q)| if *p > SMALLEST { p.exp() * (p - q) } else { 0.0 }).sum();
    // Rounding may leave a tiny negative number.
    sum.max(0.0)
}

/// Logarithm of a probability that counts as zero, so that one zero does not make a sum infinite.
const SMALLEST: f64 = -50.0;

fn log_probabilities(row: &[f32], meaning: Meaning) -> Vec<f64> {
    let row = row.iter().map(|x| f64::from(*x));
    if meaning == Meaning::Probabilities {
        let sum: f64 = row.clone().sum();
        return row.map(|x| (x / sum).ln().max(SMALLEST)).collect();
    }
    let top = row.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.clone().map(|x| (x - top).exp()).sum();
    row.map(|x| (x - top - sum.ln()).max(SMALLEST)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_formulas() {
        let mut e = Error::between(&[3.0, 4.0], &[3.0, 3.0]);
        assert_eq!((e.signal, e.noise, e.product, e.other, e.largest), (25.0, 1.0, 21.0, 18.0, 1.0));
        assert!((e.sqnr() - 13.979).abs() < 1e-3);
        assert!((e.cosine() - 21.0 / 450f64.sqrt()).abs() < 1e-12);
        e.add(&Error::between(&[0.0], &[2.0]));
        assert_eq!((e.noise, e.largest, e.elements), (5.0, 2.0, 3));
    }

    #[test]
    fn equal_infinities_are_no_error_and_nan_is_seen() {
        let inf = f32::INFINITY;
        assert_eq!(Error::between(&[inf, 1.0], &[inf, 1.0]).sqnr(), f64::INFINITY);
        assert!(Error::between(&[1.0], &[f32::NAN]).largest.is_nan());
        assert_eq!(Error::between(&[0.0], &[0.0]).cosine(), 1.0);
        assert_eq!(Error::between(&[0.0], &[1.0]).sqnr(), f64::NEG_INFINITY);
    }

    #[test]
    fn rows_of_classes_are_compared_as_distributions() {
        let t = |data: &[f32]| Tensor::from_f32(&[2, 2], data);
        let (x, y) = (t(&[1.0, 0.0, 0.0, 1.0]), t(&[1.0, 0.0, 1.0, 0.0]));
        let scores = OutputError::between(&x, &y, Meaning::Scores).unwrap().classes.unwrap();
        assert_eq!((scores.rows, scores.agreement()), (2, 0.5));
        // p = softmax(0, 1), q the other way round: KL = (p1 - p0) · 1.
        let p = 1.0 / (1.0 + 1f64.exp());
        assert!((scores.kl() - (1.0 - 2.0 * p) / 2.0).abs() < 1e-9);
        let sharp = OutputError::between(&x, &y, Meaning::Probabilities).unwrap().classes.unwrap();
        assert!(sharp.kl() > 20.0 && sharp.kl().is_finite());
        assert!(OutputError::between(&x, &y, Meaning::Numbers).unwrap().classes.is_none());
        assert!(OutputError::between(&x, &Tensor::from_f32(&[4], &[0.0; 4]), Meaning::Numbers).is_none());
    }
}
