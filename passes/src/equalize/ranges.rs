//! What a few samples show of single channels.

use super::classes::Channels;

/// Extremes and energy of each channel of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ranges {
    /// Smallest element of each channel, or 0 if that is smaller.
    pub(super) lo: Vec<f32>,
    /// Largest element of each channel, or 0 if that is larger.
    pub(super) hi: Vec<f32>,
    /// Sum of the squares of the elements of each channel.
    pub(super) energy: Vec<f64>,
    /// Elements of each channel that are not zero.
    pub(super) filled: Vec<u64>,
    /// Elements of each channel.
    pub(super) count: u64,
}

impl Ranges {
    /// Of one array; `None` if the channels do not fit it or an element is not finite.
    pub(super) fn of(channels: &Channels, dims: &[usize], data: &[f32]) -> Option<Ranges> {
        let n = channels.ids.len();
        (dims.get(channels.axis) == Some(&n) && n > 0).then_some(())?;
        let inner: usize = dims[channels.axis + 1..].iter().product();
        let mut r = Ranges {
            lo: vec![0.0; n],
            hi: vec![0.0; n],
            energy: vec![0.0; n],
            filled: vec![0; n],
            count: (data.len() / n) as u64,
        };
        for (i, run) in data.chunks_exact(inner.max(1)).enumerate() {
            let c = i % n;
            let (mut lo, mut hi, mut filled) = (r.lo[c], r.hi[c], 0u32);
            // Apart from the sum, and in a form that is done for many at a time: a NaN is no extreme, and makes the energy no
            // number.
            for x in run {
                lo = if *x < lo { *x } else { lo };
                hi = if *x > hi { *x } else { hi };
                filled += u32::from(*x != 0.0);
            }
            let sum = squares(run);
            (r.lo[c], r.hi[c]) = (lo, hi);
            r.energy[c] += f64::from(sum);
            r.filled[c] += u64::from(filled);
        }
        r.energy.iter().all(|e| e.is_finite()).then_some(r)
    }

    /// Takes in what another array showed.
    pub(super) fn merge(&mut self, other: &Ranges) {
        for c in 0..self.lo.len() {
            self.lo[c] = self.lo[c].min(other.lo[c]);
            self.hi[c] = self.hi[c].max(other.hi[c]);
            self.energy[c] += other.energy[c];
            self.filled[c] += other.filled[c];
        }
        self.count += other.count;
    }
}

/// The sum of the squares of all elements, by several sums that do not wait for each other.
fn squares(data: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let parts = data.chunks_exact(LANES);
    let rest = parts.remainder().iter().fold(0.0, |sum, x| sum + x * x);
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().fold(rest, |sum, x| sum + x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_looked_at_by_itself() {
        let channels = Channels { axis: 1, ids: vec![1, 2] };
        let r = Ranges::of(&channels, &[1, 2, 2], &[1.0, -2.0, 3.0, 4.0]).unwrap();
        assert_eq!((r.lo.as_slice(), r.hi.as_slice()), (&[-2.0, 0.0][..], &[1.0, 4.0][..]));
        assert_eq!((r.energy.as_slice(), r.count), (&[5.0, 25.0][..], 2));
        let last =
            Ranges::of(&Channels { axis: 1, ids: vec![1, 2] }, &[2, 2], &[1.0, -2.0, 3.0, 4.0]).unwrap();
        assert_eq!(last.hi, [3.0, 4.0]);
        assert_eq!(Ranges::of(&channels, &[1, 3], &[0.0; 3]), None);
        assert_eq!(Ranges::of(&channels, &[1, 2], &[f32::NAN, 1.0]), None);
    }
}
