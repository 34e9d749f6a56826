//! Multidirectional broadcasting (ONNX `docs/Broadcasting.md`) and strided views.

use squint_ir::{Dim, Shape};

/// The shape to which shapes broadcast, aligned at the last axis; `None` if known lengths conflict.
///
/// Equal symbols stay. 1 gives way to anything, and a known length other than 1 wins over a symbol or an
/// unknown length, which can then only be that length or 1. Two different symbols give an unknown length.
pub fn broadcast_shapes(shapes: &[&Shape]) -> Option<Shape> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::Known(1); rank];
    for shape in shapes {
        for (o, d) in out[rank - shape.len()..].iter_mut().zip(shape.iter()) {
            *o = match (&*o, d) {
                (Dim::Known(1), d) | (d, Dim::Known(1)) => d.clone(),
                (Dim::Known(x), Dim::Known(y)) if x != y => return None,
                (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(*n),
                (Dim::Symbol(x), Dim::Symbol(y)) if x == y => continue,
                _ => Dim::Unknown,
            };
        }
    }
    Some(out)
}

/// The dimensions to which dimensions broadcast; `None` if they conflict.
pub fn broadcast_dims(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, d) in out[rank - shape.len()..].iter_mut().zip(shape.iter()) {
            match (*o, *d) {
                (x, y) if x == y => {}
                (1, y) => *o = y,
                (_, 1) => {}
                _ => return None,
            }
        }
    }
    Some(out)
}

/// `f` over two operands broadcast to `dims`; `None` if they do not broadcast to it.
///
/// `a` and `b` must hold as many elements as their dimensions say. The caller bounds the size of `dims`.
pub fn zip<T: Copy, U: Copy, R>(
    (a, a_dims): (&[T], &[usize]),
    (b, b_dims): (&[U], &[usize]),
    dims: &[usize],
    mut f: impl FnMut(T, U) -> R,
) -> Option<Vec<R>> {
    if a_dims == dims && b_dims == dims {
        return Some(a.iter().zip(b).map(|(x, y)| f(*x, *y)).collect());
    }
    let (x, y) = (View::new(a_dims).broadcast(dims)?, View::new(b_dims).broadcast(dims)?);
    Some(x.offsets().zip(y.offsets()).map(|(i, j)| f(a[i], b[j])).collect())
}

/// Which elements of a row-major tensor to visit, in which order: lengths and strides per axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    dims: Vec<usize>,
    strides: Vec<isize>,
    start: isize,
}

impl View {
    /// All elements of a tensor of these dimensions, in order.
    pub fn new(dims: &[usize]) -> View {
        let strides = super::strides(dims).into_iter().map(|s| s as isize).collect();
        View { dims: dims.to_vec(), strides, start: 0 }
    }

    /// Lengths of the axes.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of elements visited; saturates.
    pub fn len(&self) -> usize {
        if self.dims.contains(&0) { 0 } else { self.dims.iter().fold(1, |n, d| n.saturating_mul(*d)) }
    }

    /// True if nothing is visited.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Repeats axes of length 1, and adds axes in front, so that the lengths become `dims`.
    pub fn broadcast(mut self, dims: &[usize]) -> Option<View> {
        let lead = dims.len().checked_sub(self.dims.len())?;
        let mut strides = vec![0; lead];
        for (i, (from, to)) in self.dims.iter().zip(&dims[lead..]).enumerate() {
            match (*from, *to) {
                (x, y) if x == y => strides.push(self.strides[i]),
                (1, _) => strides.push(0),
                _ => return None,
            }
        }
        self.strides = strides;
        self.dims = dims.to_vec();
        Some(self)
    }

    /// Reorders the axes: axis `i` of the result is axis `perm[i]`; `None` if `perm` is no permutation.
    pub fn transpose(self, perm: &[usize]) -> Option<View> {
        let mut seen = vec![false; self.dims.len()];
        for p in perm {
            if std::mem::replace(seen.get_mut(*p)?, true) {
                return None;
            }
        }
        if perm.len() != self.dims.len() {
            return None;
        }
        let dims = perm.iter().map(|p| self.dims[*p]).collect();
        let strides = perm.iter().map(|p| self.strides[*p]).collect();
        Some(View { dims, strides, start: self.start })
    }

    /// Keeps `len` elements of an axis, from `first` on, every `step`-th; `None` if one would be outside.
    pub fn slice(mut self, axis: usize, first: usize, step: isize, len: usize) -> Option<View> {
        let extent = *self.dims.get(axis)?;
        if len > 0 {
            let last = first as i128 + (len as i128 - 1) * step as i128;
            if first >= extent || !(0..extent as i128).contains(&last) {
                return None;
            }
            self.start = self.start.wrapping_add(self.strides[axis].wrapping_mul(first as isize));
            self.strides[axis] = self.strides[axis].wrapping_mul(step);
        }
        self.dims[axis] = len;
        Some(self)
    }

    /// The offsets of the elements, in row-major order of the view.
    pub fn offsets(&self) -> Offsets {
        Offsets {
            index: vec![0; self.dims.len()],
            left: self.len(),
            at: self.start,
            dims: self.dims.clone(),
            strides: self.strides.clone(),
        }
    }

    /// The elements as runs of neighbours: the length of a run, and where the runs start.
    pub fn runs(&self) -> (usize, Offsets) {
        let mut merged = View { dims: vec![], strides: vec![], start: self.start };
        for (&d, &s) in self.dims.iter().zip(&self.strides) {
            if d == 1 {
                continue;
            }
            match (merged.dims.last_mut(), merged.strides.last_mut()) {
                (Some(n), Some(t)) if (d as isize).checked_mul(s) == Some(*t) => {
                    *n = n.saturating_mul(d);
                    *t = s;
                }
                _ => {
                    merged.dims.push(d);
                    merged.strides.push(s);
                }
            }
        }
        let mut run = 1;
        if merged.strides.last() == Some(&1) {
            merged.strides.pop();
            run = merged.dims.pop().unwrap_or(1);
        }
        if self.is_empty() {
            merged.dims = vec![0];
            merged.strides = vec![0];
        }
        (run, merged.offsets())
    }
}

/// The offsets of a [`View`]; nothing is allocated per element.
#[derive(Clone, Debug)]
pub struct Offsets {
    dims: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    at: isize,
    left: usize,
}

impl Iterator for Offsets {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let at = self.at as usize;
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            self.at = self.at.wrapping_add(self.strides[axis]);
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.at = self.at.wrapping_sub(self.strides[axis].wrapping_mul(self.dims[axis] as isize));
            self.index[axis] = 0;
        }
        Some(at)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Offsets {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sym(s: &str) -> Dim {
        Dim::Symbol(s.into())
    }

    #[test]
    fn symbols_survive_broadcasting() {
        let (n, k) = (sym("N"), Dim::Known);
        let a = vec![n.clone(), k(1), Dim::Unknown, k(0), sym("A")];
        let b = vec![n.clone(), k(3), k(5), k(1), sym("B")];
        assert_eq!(broadcast_shapes(&[&a, &b]), Some(vec![n.clone(), k(3), k(5), k(0), Dim::Unknown]));
        assert_eq!(broadcast_shapes(&[&vec![n.clone()], &vec![k(2), k(7)]]), Some(vec![k(2), k(7)]));
        assert_eq!(broadcast_shapes(&[&vec![n.clone()], &vec![k(1)]]), Some(vec![n]));
        assert_eq!(broadcast_shapes(&[&vec![k(2)], &vec![k(3)]]), None);
        assert_eq!(broadcast_dims(&[&[2, 1], &[3], &[]]), Some(vec![2, 3]));
        assert_eq!(broadcast_dims(&[&[2], &[3]]), None);
    }

    #[test]
    fn views_visit_in_order() {
        let all = |v: View| v.offsets().collect::<Vec<_>>();
        assert_eq!(all(View::new(&[2, 3]).transpose(&[1, 0]).unwrap()), [0, 3, 1, 4, 2, 5]);
        assert_eq!(all(View::new(&[2, 1]).broadcast(&[2, 2, 2]).unwrap()), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(all(View::new(&[2, 5]).slice(1, 4, -2, 3).unwrap()), [4, 2, 0, 9, 7, 5]);
        assert_eq!(View::new(&[5]).slice(0, 4, -2, 4), None);
        assert_eq!(View::new(&[2, 2]).transpose(&[0, 0]), None);
        assert_eq!(all(View::new(&[])), [0]);
        assert_eq!(all(View::new(&[0, usize::MAX, usize::MAX])), [0_usize; 0]);
    }

    #[test]
    fn neighbours_are_moved_together() {
        let (run, starts) = View::new(&[2, 3, 4]).slice(1, 1, 1, 2).unwrap().runs();
        assert_eq!((run, starts.collect::<Vec<_>>()), (8, vec![4, 16]));
        let (run, starts) = View::new(&[2, 3, 4]).runs();
        assert_eq!((run, starts.count()), (24, 1));
        assert_eq!(View::new(&[2, 0]).runs().1.count(), 0);
    }
}
