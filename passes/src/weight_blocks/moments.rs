//! Second moments of what products read: all that the choice of their weights needs to know of the data.
//!
//! A product multiplies rows `x` of its data with a weight `W`. Another weight `W + D` changes its results by
//! `E |xᵀ D|² = tr (Dᵀ H D)`, with `H = E[x xᵀ]`. `H` has as many elements as the square of the length of `x`: rows longer
//! than [`SLICE`] are cut into slices of that length, and what is related across slices is left out. So `H` takes no
//! more than 32 MiB for each slice, and its factorization no more than about 3·10⁹ multiplications.

use crate::pass::PassError;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use squint_ir::ValueId;
use squint_ir::execute::{Samples, Session};

/// Elements of a row whose relations are known.
pub(crate) const SLICE: usize = 2048;

/// Rows that moments are made from: four times the length of a row, within these limits.
const ROWS: std::ops::RangeInclusive<usize> = 2048..=16384;

/// Rows of a length that moments are made from.
pub(super) fn wanted_rows(len: usize) -> usize {
    (4 * len).clamp(*ROWS.start(), *ROWS.end())
}

/// Sums over rows of one value.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    len: usize,
    slice: usize,
    /// `Σ x xᵀ` of each slice.
    sums: Vec<Vec<f64>>,
    /// `Σ |x|` of each element.
    magnitudes: Vec<f64>,
    n: usize,
}

impl Moments {
    /// Of no row; slices hold whole blocks of so many elements.
    pub(super) fn new(len: usize, block: usize) -> Moments {
        let slice = SLICE / block.clamp(1, SLICE) * block;
        let sums = slices(len, slice).map(|(_, n)| vec![0.0; n * n]).collect();
        Moments { len, slice, sums, magnitudes: vec![0.0; len], n: 0 }
    }

    /// Bytes that the moments of rows of this length take.
    pub(super) fn size(len: usize) -> usize {
        8 * len * len.min(SLICE)
    }

    /// Takes in rows, one after another.
    pub(super) fn add(&mut self, rows: &[f32]) {
        let n = rows.len() / self.len.max(1);
        for row in rows.chunks_exact(self.len) {
            for (sum, x) in self.magnitudes.iter_mut().zip(row) {
                *sum += f64::from(x.abs());
            }
        }
        let Ok(all) = ArrayView2::from_shape((n, self.len), rows) else { return };
        for ((from, len), sums) in slices(self.len, self.slice).zip(&mut self.sums) {
            let part = all.slice(ndarray::s![.., from..from + len]);
            let mut products = vec![0f32; len * len];
            if let Ok(mut products) = ArrayViewMut2::from_shape((len, len), &mut products) {
                general_mat_mul(1.0, &part.t(), &part, 0.0, &mut products);
            }
            for (sum, x) in sums.iter_mut().zip(&products) {
                *sum += f64::from(*x);
            }
        }
        self.n += n;
    }

    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.n
    }

    /// `E |x|` of each element.
    pub(super) fn magnitudes(&self) -> Vec<f64> {
        self.magnitudes.iter().map(|m| m / self.n.max(1) as f64).collect()
    }

    /// Each slice: where it begins, its length, and its `E[x xᵀ]`.
    pub(super) fn slices(&self) -> impl Iterator<Item = (usize, usize, Vec<f64>)> + '_ {
        let n = self.n.max(1) as f64;
        slices(self.len, self.slice)
            .zip(&self.sums)
            .map(move |((from, len), sums)| (from, len, sums.iter().map(|s| s / n).collect()))
    }

    /// `Σ dᵀ H d` over changes `d` of columns of a weight, each of the length of a row.
    pub(super) fn error(&self, changes: &[Vec<f32>]) -> f64 {
        let mut error = 0.0;
        for (from, len, h) in self.slices() {
            let h: Vec<f32> = h.iter().map(|x| *x as f32).collect();
            let d: Vec<f32> = changes.iter().flat_map(|d| &d[from..from + len]).copied().collect();
            let mut dh = vec![0f32; d.len()];
            let views = (
                ArrayView2::from_shape((changes.len(), len), &d),
                ArrayView2::from_shape((len, len), &h),
                ArrayViewMut2::from_shape((changes.len(), len), &mut dh),
            );
            if let (Ok(d), Ok(h), Ok(mut dh)) = views {
                general_mat_mul(1.0, &d, &h, 0.0, &mut dh);
            }
            error += d.iter().zip(&dh).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        }
        error
    }
}

/// Where the slices of a row begin, and their lengths.
fn slices(len: usize, slice: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len.div_ceil(slice.max(1))).map(move |i| (i * slice, slice.min(len - i * slice)))
}

/// A value whose rows are of interest: how long they are, and how many share a scale.
pub(super) struct Watched {
    pub(super) value: ValueId,
    pub(super) len: usize,
    pub(super) block: usize,
}

/// The moments of values over the samples of these numbers, in a session that exposes the values in this order. `None`
/// where rows have another length in some sample. Uses the threads of the current pool.
///
/// # Errors
/// If a sample cannot be read or run.
pub(super) fn collect(
    session: &dyn Session,
    watched: &[Watched],
    samples: &dyn Samples,
    numbers: &[usize],
) -> Result<Vec<Option<Moments>>, PassError> {
    let mut moments: Vec<Option<Moments>> =
        watched.iter().map(|w| Some(Moments::new(w.len, w.block))).collect();
    let most = |w: &Watched| wanted_rows(w.len).div_ceil(numbers.len().max(1));
    for chunk in numbers.chunks(rayon::current_num_threads().max(1)) {
        let seen = chunk.par_iter().map(|number| {
            let sample = samples.get(*number).map_err(PassError::Data)?;
            let mut rows: Vec<Option<Vec<f32>>> = vec![None; watched.len()];
            session.run(&sample, &mut |slot, dims, data| {
                if let (Some(w), Some(rows)) = (watched.get(slot), rows.get_mut(slot)) {
                    *rows = some_rows(w.len, dims, data, most(w));
                }
                None
            })?;
            Ok::<_, PassError>(rows)
        });
        // Samples are added in their order, since sums depend on it.
        for rows in seen.collect::<Result<Vec<_>, _>>()? {
            moments.par_iter_mut().zip(rows).for_each(|(m, rows)| match (m.as_mut(), rows) {
                (Some(moments), Some(rows)) => moments.add(&rows),
                _ => *m = None,
            });
        }
    }
    Ok(moments)
}

/// No more than so many rows of an array, evenly spread; `None` if its rows have another length.
fn some_rows(len: usize, dims: &[usize], data: &[f32], most: usize) -> Option<Vec<f32>> {
    (len > 0 && dims.last() == Some(&len)).then_some(())?;
    let rows = data.len() / len;
    let n = rows.min(most);
    let row = |i: usize| i * rows / n * len;
    Some((0..n).flat_map(|i| &data[row(i)..row(i) + len]).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_results() {
        let rows = [1.0, 2.0, -3.0, 0.5];
        let mut moments = Moments::new(2, 1);
        moments.add(&rows);
        assert_eq!((moments.count(), moments.magnitudes()), (2, vec![2.0, 1.25]));
        let change = vec![0.5, -1.0];
        // Mean over rows of (x·d)².
        let wanted = ((0.5f64 - 2.0).powi(2) + (-1.5f64 - 0.5).powi(2)) / 2.0;
        assert!((moments.error(&[change]) - wanted).abs() < 1e-6);
    }

    #[test]
    fn long_rows_are_cut_into_slices_of_whole_blocks() {
        let moments = Moments::new(5000, 24);
        let cut: Vec<_> = moments.slices().map(|(from, len, h)| (from, len, h.len())).collect();
        assert_eq!(cut, [(0, 2040, 2040 * 2040), (2040, 2040, 2040 * 2040), (4080, 920, 920 * 920)]);
    }

    #[test]
    fn rows_of_another_length_are_none() {
        assert_eq!(some_rows(3, &[2, 2], &[1.0; 4], 9), None);
        assert_eq!(some_rows(2, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), Some(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(some_rows(2, &[0, 2], &[], 2), Some(vec![]));
    }
}
