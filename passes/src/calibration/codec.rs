//! The bytes of a sketch: one layout, so that equal sketches have equal bytes.
//!
//! A version byte; six counts; the most bins that there may be; the extremes as little-endian `f32`; the two sums over samples, 48 bytes each; 0, or one
//! more than the number of samples whose extremes are kept, and of each its number and extremes; the counts of the
//! bins. Counts are unsigned LEB128. Which bins are meant, and how many, follows from the
//! extremes.

use super::sketch::{MAX_BINS, Sketch, SketchParts};

const VERSION: u8 = 3;

/// Bytes that are not a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("sketch is cut short")]
    Truncated,
    /// Written by another version of this format.
    #[error("sketch has format version {0}, this program reads version {VERSION}; calibrate again")]
    Version(u8),
    /// A number is not in its only valid form, or bytes are left over.
    #[error("sketch is malformed")]
    Malformed,
    /// Well-formed numbers that no data could lead to.
    #[error("sketch contradicts itself: its counts do not fit its extremes")]
    Inconsistent,
}

impl Sketch {
    /// The sketch as bytes, 8 to 16 KB for typical activations.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts = self.to_parts();
        let mut bytes = vec![VERSION];
        for count in head_counts(&parts) {
            put_count(&mut bytes, count);
        }
        put_count(&mut bytes, parts.max_bins as u64);
        bytes.extend(parts.min.to_le_bytes());
        bytes.extend(parts.max.to_le_bytes());
        for limb in parts.sum_of_mins.iter().chain(&parts.sum_of_maxs) {
            bytes.extend(limb.to_le_bytes());
        }
        put_count(&mut bytes, parts.each.as_ref().map_or(0, |each| each.len() as u64 + 1));
        for (number, lo, hi) in parts.each.iter().flatten() {
            put_count(&mut bytes, *number);
            bytes.extend(lo.to_le_bytes());
            bytes.extend(hi.to_le_bytes());
        }
        for &count in &parts.counts {
            put_count(&mut bytes, count);
        }
        bytes
    }

    /// The sketch that [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Sketch, DecodeError> {
        let mut reader = Reader(bytes);
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut parts = SketchParts {
            n_samples: reader.count()?,
            n_numeric_samples: reader.count()?,
            n_zeros: reader.count()?,
            n_nans: reader.count()?,
            n_pos_infs: reader.count()?,
            n_neg_infs: reader.count()?,
            max_bins: usize::try_from(reader.count()?).map_err(|_| DecodeError::Malformed)?,
            min: f32::from_le_bytes(reader.array()?),
            max: f32::from_le_bytes(reader.array()?),
            sum_of_mins: reader.limbs()?,
            sum_of_maxs: reader.limbs()?,
            counts: Vec::new(),
            each: None,
        };
        if let Some(n) = reader.count()?.checked_sub(1) {
            let each = parts.each.insert(Vec::new());
            for _ in 0..n {
                let number = reader.count()?;
                let extreme = |reader: &mut Reader<'_>| Ok(f32::from_le_bytes(reader.array()?));
                each.push((number, extreme(&mut reader)?, extreme(&mut reader)?));
            }
        }
        while !reader.0.is_empty() {
            if parts.counts.len() == MAX_BINS {
                return Err(DecodeError::Malformed);
            }
            parts.counts.push(reader.count()?);
        }
        Sketch::from_parts(parts).ok_or(DecodeError::Inconsistent)
    }
}

fn head_counts(parts: &SketchParts) -> [u64; 6] {
    [
        parts.n_samples,
        parts.n_numeric_samples,
        parts.n_zeros,
        parts.n_nans,
        parts.n_pos_infs,
        parts.n_neg_infs,
    ]
}

fn put_count(bytes: &mut Vec<u8>, mut count: u64) {
    while count >= 0x80 {
        bytes.push(count as u8 | 0x80);
        count >>= 7;
    }
    bytes.push(count as u8);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn limbs(&mut self) -> Result<[u64; 6], DecodeError> {
        let mut limbs = [0; 6];
        for limb in &mut limbs {
            *limb = u64::from_le_bytes(self.array()?);
        }
        Ok(limbs)
    }

    fn count(&mut self) -> Result<u64, DecodeError> {
        let mut count = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit; a last byte of zero would be a longer form of the same
            // number.
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(DecodeError::Malformed);
            }
            count |= bits << shift;
            if byte < 0x80 {
                return Ok(count);
            }
        }
        Err(DecodeError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Sketch {
        let mut sketch = Sketch::new();
        sketch.observe(&[-1.0, 0.0, 2.5, f32::NAN, 1e-3]);
        sketch.observe(&[0.25; 300]);
        sketch
    }

    #[test]
    fn bytes_come_back_as_the_same_sketch() {
        for sketch in [Sketch::new(), example()] {
            assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Ok(sketch));
        }
    }

    #[test]
    fn damage_is_told_apart() {
        let bytes = example().to_bytes();
        assert_eq!(Sketch::from_bytes(&[]), Err(DecodeError::Truncated));
        assert_eq!(Sketch::from_bytes(&[9]), Err(DecodeError::Version(9)));
        assert_eq!(Sketch::from_bytes(&bytes[..20]), Err(DecodeError::Truncated));
        assert_eq!(Sketch::from_bytes(&bytes[..bytes.len() - 1]), Err(DecodeError::Inconsistent));
        let mut longer_form = bytes.clone();
        longer_form.splice(1..2, [0x82, 0x00]);
        assert_eq!(Sketch::from_bytes(&longer_form), Err(DecodeError::Malformed));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic_and_never_decode_to_something_else(
            position in 0..4000_usize, value in any::<u8>(), cut in 0..4000_usize,
        ) {
            let mut bytes = example().to_bytes();
            let position = position % bytes.len();
            bytes[position] = value;
            bytes.truncate(bytes.len() - cut % bytes.len() / 2);
            if let Ok(sketch) = Sketch::from_bytes(&bytes) {
                let mut merged = sketch.clone();
                merged.merge(&sketch);
                prop_assert_eq!(sketch.to_bytes(), bytes);
            }
        }
    }
}
