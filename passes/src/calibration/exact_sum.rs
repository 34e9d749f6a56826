//! A sum of `f32` numbers without any rounding, hence the same for every order and grouping.
//!
//! Every finite `f32` is a whole multiple of `2^-149` below `2^277` such multiples, so a 384 bit two's
//! complement integer holds the sum of `2^106` of them (Kulisch's long accumulator). Slow per element
//! compared with a float addition; meant for a few numbers per sample.

const N_LIMBS: usize = 6;

/// The sum, as little-endian limbs in units of `2^-149`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExactSum([u64; N_LIMBS]);

impl ExactSum {
    pub(crate) fn from_limbs(limbs: [u64; N_LIMBS]) -> ExactSum {
        ExactSum(limbs)
    }

    pub(crate) fn limbs(&self) -> [u64; N_LIMBS] {
        self.0
    }

    /// Adds a finite number.
    pub(crate) fn add(&mut self, x: f32) {
        debug_assert!(x.is_finite());
        let exponent = (x.to_bits() >> 23) & 0xff;
        let fraction = x.to_bits() & 0x7f_ffff;
        // A subnormal has the unit of the smallest normal numbers and no hidden bit.
        let (mantissa, shift) =
            if exponent == 0 { (fraction, 0) } else { (fraction | 0x80_0000, exponent as usize - 1) };
        let shifted = u128::from(mantissa) << (shift % 64);
        let mut term = [0; N_LIMBS];
        term[shift / 64] = shifted as u64;
        term[shift / 64 + 1] = (shifted >> 64) as u64;
        let term = ExactSum(term);
        self.merge(&if x < 0.0 { term.negated() } else { term });
    }

    /// Adds another sum.
    pub(crate) fn merge(&mut self, other: &ExactSum) {
        let mut carry = 0;
        for (limb, &term) in self.0.iter_mut().zip(&other.0) {
            let sum = u128::from(*limb) + u128::from(term) + carry;
            *limb = sum as u64;
            carry = sum >> 64;
        }
    }

    /// The sum, rounded to double precision.
    pub(crate) fn to_f64(self) -> f64 {
        let is_negative = self.0[N_LIMBS - 1] >> 63 == 1;
        let magnitude = if is_negative { self.negated() } else { self };
        let unit = f64::from_bits((1023 - 149) << 52);
        let limb_base = 18_446_744_073_709_551_616.0;
        let value = magnitude.0.iter().rev().fold(0.0, |sum, &limb| sum * limb_base + limb as f64) * unit;
        if is_negative { -value } else { value }
    }

    fn negated(self) -> ExactSum {
        let mut negated = ExactSum(self.0.map(|limb| !limb));
        negated.merge(&ExactSum([1, 0, 0, 0, 0, 0]));
        negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_a_float_sum_would_lose_are_kept() {
        let mut sum = ExactSum::default();
        for x in [f32::MAX, 1e-45, -f32::MAX, 1.5, -0.25, 1e-45, -0.0] {
            sum.add(x);
        }
        let mut reversed = ExactSum::default();
        for x in [1e-45, -0.25, 1.5, -f32::MAX, 1e-45, f32::MAX] {
            reversed.add(x);
        }
        assert_eq!(sum, reversed);
        assert_eq!(sum.to_f64(), 1.25);
        sum.add(-1.25);
        assert_eq!(sum.to_f64(), 2.0 * f64::from(f32::from_bits(1)));
    }

    #[test]
    fn negative_sums_read_back() {
        let mut sum = ExactSum::default();
        sum.add(-3.0e38);
        sum.add(-3.0e38);
        assert_eq!(sum.to_f64(), 2.0 * f64::from(-3.0e38_f32));
    }
}
