//! Elements moved without looking at them: any element type, strings and packed sub-byte types too.

use super::View;
use crate::EvalError;
use squint_ir::tensor::pack_bits;
use squint_ir::{Bytes, DType, Tensor};
use std::borrow::Cow;

/// The elements of a view of a tensor, as a tensor of the view's dimensions.
///
/// # Errors
/// `Unsupported` if there are too many. The view must be one of a tensor of the same dimensions.
pub fn gather_view(tensor: &Tensor, view: &View) -> Result<Tensor, EvalError> {
    super::checked_len(view.dims())?;
    let source = Source::new(tensor);
    let mut sink = Sink::new(tensor.dtype(), view.len());
    let (run, starts) = view.runs();
    for at in starts {
        sink.push(&source, at, run);
    }
    sink.finish(view.dims())
}

/// A tensor whose element at `(i0, i1, ..)` is that of `tensor` at `(maps[0][i0], maps[1][i1], ..)`, or `fill`
/// (zero if there is none) where a map says `None`.
///
/// # Errors
/// `Unsupported` if there are too many elements. There must be a map per axis, with indices in range.
pub fn remap(
    tensor: &Tensor,
    maps: &[Vec<Option<usize>>],
    fill: Option<&Source<'_>>,
) -> Result<Tensor, EvalError> {
    let dims: Vec<usize> = maps.iter().map(Vec::len).collect();
    let (source, mut sink) = (Source::new(tensor), Sink::new(tensor.dtype(), super::checked_len(&dims)?));
    let strides = super::strides(tensor.dims());
    let Some((inner, outer)) = maps.split_last() else {
        sink.push(&source, 0, 1);
        return sink.finish(&dims);
    };
    let rows = if dims.contains(&0) { 0 } else { outer.iter().map(Vec::len).product() };
    let mut index = vec![0; outer.len()];
    for _ in 0..rows {
        let at = |at: usize, ((i, map), s): ((&usize, &Vec<Option<usize>>), &usize)| Some(at + map[*i]? * s);
        let base = index.iter().zip(outer).zip(&strides).try_fold(0, at);
        for i in inner {
            match (base, i, fill) {
                (Some(base), Some(i), _) => sink.push(&source, base + i, 1),
                (.., Some(fill)) => sink.push(fill, 0, 1),
                _ => sink.push_zeros(1),
            }
        }
        for (i, map) in index.iter_mut().zip(outer).rev() {
            *i += 1;
            if *i < map.len() {
                break;
            }
            *i = 0;
        }
    }
    sink.finish(&dims)
}

/// Elements to move from. Sub-byte elements are unpacked to a byte each.
pub struct Source<'a> {
    strings: &'a [Bytes],
    bytes: Cow<'a, [u8]>,
    width: usize,
}

impl<'a> Source<'a> {
    /// The elements of a tensor.
    pub fn new(tensor: &'a Tensor) -> Source<'a> {
        let bits = tensor.dtype().bits();
        let bytes = if is_packed(tensor.dtype()) {
            let per = 8 / bits;
            let mask = (1_u8 << bits) - 1;
            let raw = tensor.bytes();
            Cow::Owned((0..tensor.len()).map(|i| raw[i / per] >> (i % per * bits) & mask).collect())
        } else {
            Cow::Borrowed(tensor.bytes().as_ref())
        };
        Source { strings: tensor.as_strings().unwrap_or_default(), bytes, width: bits.div_ceil(8) }
    }

    /// The bytes of an element; two elements of one type are the same where these are.
    pub fn element(&self, at: usize) -> &[u8] {
        if self.width == 0 { &self.strings[at] } else { &self.bytes[at * self.width..(at + 1) * self.width] }
    }
}

/// Elements being put together to a tensor.
pub struct Sink {
    dtype: DType,
    strings: Vec<Bytes>,
    bytes: Vec<u8>,
    width: usize,
}

impl Sink {
    /// Nothing yet; `capacity` is the expected number of elements.
    pub fn new(dtype: DType, capacity: usize) -> Sink {
        let width = dtype.bits().div_ceil(8);
        let (n_strings, n_bytes) =
            if width == 0 { (capacity, 0) } else { (0, capacity.saturating_mul(width)) };
        Sink { dtype, strings: Vec::with_capacity(n_strings), bytes: Vec::with_capacity(n_bytes), width }
    }

    /// All elements of a tensor.
    pub fn copy_of(tensor: &Tensor) -> Sink {
        let mut sink = Sink::new(tensor.dtype(), tensor.len());
        sink.push(&Source::new(tensor), 0, tensor.len());
        sink
    }

    /// Appends `count` neighbouring elements from `at` on. `source` must be of the same element type.
    pub fn push(&mut self, source: &Source<'_>, at: usize, count: usize) {
        if self.width == 0 {
            self.strings.extend_from_slice(&source.strings[at..at + count]);
        } else {
            self.bytes.extend_from_slice(&source.bytes[at * self.width..(at + count) * self.width]);
        }
    }

    /// Appends `count` zeros: 0, false or the empty string.
    pub fn push_zeros(&mut self, count: usize) {
        if self.width == 0 {
            self.strings.resize(self.strings.len() + count, Bytes::new());
        } else {
            self.bytes.resize(self.bytes.len() + count * self.width, 0);
        }
    }

    /// Overwrites `count` elements from `to` on with those of `source` from `at` on.
    pub fn set(&mut self, to: usize, source: &Source<'_>, at: usize, count: usize) {
        if self.width == 0 {
            self.strings[to..to + count].clone_from_slice(&source.strings[at..at + count]);
        } else {
            let w = self.width;
            self.bytes[to * w..(to + count) * w].copy_from_slice(&source.bytes[at * w..(at + count) * w]);
        }
    }

    /// The tensor.
    ///
    /// # Errors
    /// If `dims` does not fit the number of elements.
    pub fn finish(self, dims: &[usize]) -> Result<Tensor, EvalError> {
        Ok(if self.width == 0 {
            Tensor::strings(dims, self.strings)?
        } else if is_packed(self.dtype) {
            let packed = pack_bits(self.bytes.iter().map(|b| i64::from(*b)), self.dtype.bits());
            Tensor::raw(self.dtype, dims, packed)?
        } else {
            Tensor::raw(self.dtype, dims, Bytes::from(self.bytes))?
        })
    }
}

fn is_packed(dtype: DType) -> bool {
    matches!(dtype.bits(), 1..8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_moves() {
        let nibbles = Tensor::raw(DType::Int4, &[3], pack_bits([-8_i64, 7, -1].into_iter(), 4)).unwrap();
        let strings = Tensor::strings(&[3], ["a", "b", "c"].map(Bytes::from).to_vec()).unwrap();
        let floats = Tensor::from_f32(&[3], &[1.0, 2.0, 3.0]);
        let view = View::new(&[3]).slice(0, 2, -1, 3).unwrap();
        assert_eq!(gather_view(&nibbles, &view).unwrap().to_i64s().unwrap(), [-1, 7, -8]);
        assert_eq!(gather_view(&floats, &view).unwrap().to_f32s(), [3.0, 2.0, 1.0]);
        assert_eq!(gather_view(&strings, &view).unwrap().as_strings().unwrap(), ["c", "b", "a"]);
    }

    #[test]
    fn huge_results_are_refused() {
        let view = View::new(&[1]).broadcast(&[1 << 40]).unwrap();
        let refused = gather_view(&Tensor::from_f32(&[1], &[0.0]), &view);
        assert!(matches!(refused, Err(EvalError::Unsupported(_))));
    }
}
