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

    /// The sums of two tensors; of nothing where shapes differ, or elements are no floats.
    pub(crate) fn between_tensors(x: &Tensor, y: &Tensor) -> Error {
        if !x.dtype().is_float() || x.dims() != y.dims() {
            return Error::default();
        }
        Error::between(&x.f32s(), &y.f32s())
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
}
