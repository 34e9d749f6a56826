//! Kernels of the gather family; elements of any type are moved as bytes.

use crate::kernel::{self, Sink, Source, View, checked_len, resolve_axis, strides, values};
use crate::row::{EvalCx, EvalError};
use squint_ir::Tensor;

type Results = Result<Vec<Tensor>, EvalError>;

pub(super) fn gather(cx: &EvalCx<'_>) -> Results {
    let data = cx.input(0)?;
    let (axis, indices) = (axis(cx, 0, data.rank())?, ints(cx, 1)?);
    pick(data, axis, &indices, cx.input(1)?.dims())
}

/// What lies at indices of an axis, the dimensions of which stand in its place.
pub(crate) fn pick(data: &Tensor, axis: usize, indices: &[i64], index_dims: &[usize]) -> Results {
    let (head, tail) = (&data.dims()[..axis], &data.dims()[axis + 1..]);
    let dims = [head, index_dims, tail].concat();
    let len = checked_len(&dims)?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), len));
    if len > 0 {
        let extent = data.dims()[axis];
        let indices = indices.iter().map(|i| place(*i, extent)).collect::<Result<Vec<_>, _>>()?;
        let run: usize = tail.iter().product();
        for outer in 0..head.iter().product() {
            for i in &indices {
                sink.push(&source, (outer * extent + i) * run, run);
            }
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

pub(super) fn gather_elements(cx: &EvalCx<'_>) -> Results {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = axis(cx, 0, data.rank())?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), checked_len(indices.dims())?));
    for at in elements_places(data.dims(), indices.dims(), &ints(cx, 1)?, axis)? {
        sink.push(&source, at, 1);
    }
    Ok(vec![sink.finish(indices.dims())?])
}

pub(super) fn scatter_elements(cx: &EvalCx<'_>) -> Results {
    let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    refuse_reduction(cx)?;
    checked_len(data.dims())?;
    let axis = axis(cx, 0, data.rank())?;
    if updates.dims() != indices.dims() || updates.dtype() != data.dtype() {
        return kernel::invalid(format!("updates {:?} for indices {:?}", updates.dims(), indices.dims()));
    }
    let (source, mut sink) = (Source::new(updates), Sink::copy_of(data));
    let places = elements_places(data.dims(), indices.dims(), &ints(cx, 1)?, axis)?;
    for (from, to) in places.into_iter().enumerate() {
        sink.set(to, &source, from, 1);
    }
    Ok(vec![sink.finish(data.dims())?])
}

/// Offset in the data for each element of the indices: its own place, but at the index on `axis`.
fn elements_places(
    dims: &[usize],
    index_dims: &[usize],
    indices: &[i64],
    axis: usize,
) -> Result<Vec<usize>, EvalError> {
    let outside = dims.len() != index_dims.len()
        || dims.iter().zip(index_dims).enumerate().any(|(i, (d, n))| i != axis && n > d);
    if outside {
        return kernel::invalid(format!("indices of shape {index_dims:?} for data of shape {dims:?}"));
    }
    if indices.is_empty() {
        return Ok(vec![]);
    }
    // A view of the data as large as the indices, that stands still along the axis.
    let mut view = View::new(dims);
    for (i, n) in index_dims.iter().enumerate() {
        let len = if i == axis { 1 } else { *n };
        let Some(sliced) = view.slice(i, 0, 1, len) else { return kernel::invalid("data is empty") };
        view = sliced;
    }
    let Some(view) = view.broadcast(index_dims) else { return kernel::invalid("indices do not fit") };
    let stride = strides(dims)[axis];
    view.offsets().zip(indices).map(|(at, i)| Ok(at + place(*i, dims[axis])? * stride)).collect()
}

pub(super) fn gather_nd(cx: &EvalCx<'_>) -> Results {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let batch = cx.op.int("batch_dims").and_then(|b| usize::try_from(b).ok()).unwrap_or(0);
    let nd = NdPlaces::new(data.dims(), indices, batch)?;
    let rest = &data.dims()[batch + nd.depth..];
    let dims = [&indices.dims()[..indices.rank() - 1], rest].concat();
    let len = checked_len(&dims)?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), len));
    if len > 0 {
        for at in nd.places(data.dims(), &ints(cx, 1)?)? {
            sink.push(&source, at, nd.run);
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

pub(super) fn scatter_nd(cx: &EvalCx<'_>) -> Results {
    let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    refuse_reduction(cx)?;
    checked_len(data.dims())?;
    let nd = NdPlaces::new(data.dims(), indices, 0)?;
    let expected = [&indices.dims()[..indices.rank() - 1], &data.dims()[nd.depth..]].concat();
    if updates.dims() != expected || updates.dtype() != data.dtype() {
        return kernel::invalid(format!("updates are of shape {:?}, not {expected:?}", updates.dims()));
    }
    let (source, mut sink) = (Source::new(updates), Sink::copy_of(data));
    if !updates.is_empty() {
        for (i, to) in nd.places(data.dims(), &ints(cx, 1)?)?.into_iter().enumerate() {
            sink.set(to, &source, i * nd.run, nd.run);
        }
    }
    Ok(vec![sink.finish(data.dims())?])
}

/// How the indices of `GatherND` and `ScatterND` address runs of the data.
struct NdPlaces {
    batch: usize,
    /// Axes that an index addresses.
    depth: usize,
    /// Elements of a run.
    run: usize,
}

impl NdPlaces {
    fn new(dims: &[usize], indices: &Tensor, batch: usize) -> Result<NdPlaces, EvalError> {
        let depth = indices.dims().last().copied().unwrap_or(0);
        let fits = indices.rank() > batch
            && batch.checked_add(depth).is_some_and(|n| n <= dims.len())
            && indices.dims()[..batch] == dims[..batch];
        if !fits {
            return kernel::invalid(format!(
                "indices of shape {:?} for data of shape {dims:?}",
                indices.dims()
            ));
        }
        let run = dims[batch + depth..].iter().fold(1, |n: usize, d| n.saturating_mul(*d));
        Ok(NdPlaces { batch, depth, run })
    }

    /// Where the run of each index starts. Neither data nor indices may be empty.
    fn places(&self, dims: &[usize], indices: &[i64]) -> Result<Vec<usize>, EvalError> {
        let strides = strides(dims);
        let batches: usize = dims[..self.batch].iter().product();
        let batch_size: usize = dims[self.batch..].iter().product();
        // An index of no axes addresses the whole batch element, once for each that there is.
        if self.depth == 0 {
            return kernel::unsupported("indices that address no axis");
        }
        let per_batch = indices.len() / self.depth / batches.max(1);
        let one = |(i, index): (usize, &[i64])| {
            let start = i / per_batch.max(1) * batch_size;
            index
                .iter()
                .zip(&dims[self.batch..])
                .zip(&strides[self.batch..])
                .try_fold(start, |at, ((i, d), s)| Ok(at + place(*i, *d)? * s))
        };
        indices.chunks_exact(self.depth).enumerate().map(one).collect()
    }
}

pub(super) fn compress(cx: &EvalCx<'_>) -> Results {
    let data = cx.input(0)?;
    let keep = values::<bool>(cx.input(1)?)?;
    let chosen: Vec<usize> = (0..keep.len()).filter(|i| keep[*i]).collect();
    let (flat, axis) = match cx.op.int("axis") {
        Some(_) => (data.clone(), axis(cx, 0, data.rank())?),
        None => (data.reshaped(&[data.len()])?, 0),
    };
    let mut dims = flat.dims().to_vec();
    if chosen.last().is_some_and(|i| *i >= dims[axis]) {
        return kernel::invalid(format!("{} conditions for an axis of length {}", keep.len(), dims[axis]));
    }
    dims[axis] = chosen.len();
    let len = checked_len(&dims)?;
    let (source, mut sink) = (Source::new(&flat), Sink::new(flat.dtype(), len));
    if len > 0 {
        let run: usize = dims[axis + 1..].iter().product();
        for outer in 0..dims[..axis].iter().product() {
            for i in &chosen {
                sink.push(&source, (outer * flat.dims()[axis] + i) * run, run);
            }
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

/// An index outside `[-depth, depth)` gives a row of `off` values.
pub(super) fn one_hot(cx: &EvalCx<'_>) -> Results {
    let (indices, on_off) = (cx.input(0)?, cx.input(2)?);
    let dims = kernel::result_dims(cx, super::one_hot)?;
    let axis = axis(cx, -1, dims.len())?;
    if on_off.len() != 2 {
        return kernel::invalid(format!("operand 2 has {} elements, not 2", on_off.len()));
    }
    let (source, mut sink) = (Source::new(on_off), Sink::new(on_off.dtype(), checked_len(&dims)?));
    let depth = dims[axis];
    // Indices may be floats.
    let hot: Vec<Option<usize>> =
        indices.to_f64s().into_iter().map(|i| resolve_axis(i as i64, depth)).collect();
    if !dims.contains(&0) {
        let inner: usize = dims[axis + 1..].iter().product();
        for row in hot.chunks_exact(inner) {
            for i in 0..depth {
                row.iter().for_each(|h| sink.push(&source, usize::from(*h == Some(i)), 1));
            }
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

fn axis(cx: &EvalCx<'_>, default: i64, rank: usize) -> Result<usize, EvalError> {
    let axis = cx.op.int("axis").unwrap_or(default);
    resolve_axis(axis, rank)
        .ok_or_else(|| EvalError::Invalid(format!("axis {axis} does not exist in rank {rank}")))
}

fn ints(cx: &EvalCx<'_>, slot: usize) -> Result<Vec<i64>, EvalError> {
    let tensor = cx.input(slot)?;
    tensor.to_i64s().ok_or_else(|| EvalError::Invalid(format!("indices of type {}", tensor.dtype())))
}

fn place(index: i64, extent: usize) -> Result<usize, EvalError> {
    resolve_axis(index, extent)
        .ok_or_else(|| EvalError::Invalid(format!("index {index} is out of range for length {extent}")))
}

fn refuse_reduction(cx: &EvalCx<'_>) -> Result<(), EvalError> {
    match cx.op.string("reduction") {
        None | Some("none") => Ok(()),
        Some(other) => kernel::unsupported(format!("`reduction` `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use squint_ir::{Bytes, Tensor};

    fn run(op: &str, attrs: &str, inputs: &[&Tensor]) -> Result<(Vec<usize>, Vec<i64>), crate::EvalError> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        let out = eval(op, 13, attrs, &inputs)?.remove(0);
        Ok((out.dims().to_vec(), out.to_i64s().unwrap_or_default()))
    }

    fn t(dims: &[usize], v: &[i64]) -> Tensor {
        Tensor::from_i64(dims, v)
    }

    // Results of `onnx.reference`.
    #[test]
    fn gathers() {
        let x = t(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let out = run("Gather", "axis=1", &[&x, &t(&[2], &[-1, 0])]).unwrap();
        assert_eq!(out, (vec![2, 2], vec![3, 1, 6, 4]));
        assert!(run("Gather", "axis=1", &[&x, &t(&[1], &[3])]).is_err());
        let out = run("GatherElements", "axis=1", &[&x, &t(&[2, 2], &[0, 0, 2, -2])]).unwrap();
        assert_eq!(out, (vec![2, 2], vec![1, 1, 6, 5]));
        let out = run("GatherND", "", &[&x, &t(&[2, 2], &[0, 0, 1, -1])]).unwrap();
        assert_eq!(out, (vec![2], vec![1, 6]));
        let out = run("GatherND", "batch_dims=1", &[&x, &t(&[2, 1], &[2, 0])]).unwrap();
        assert_eq!(out, (vec![2], vec![3, 4]));
        let keep = Tensor::from_bool(&[3], &[true, false, true]);
        assert_eq!(run("Compress", "axis=1", &[&x, &keep]).unwrap(), (vec![2, 2], vec![1, 3, 4, 6]));
        assert_eq!(run("Compress", "", &[&x, &keep]).unwrap(), (vec![2], vec![1, 3]));
    }

    #[test]
    fn scatters() {
        let x = t(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let out =
            run("ScatterElements", "axis=0", &[&x, &t(&[1, 2], &[1, 0]), &t(&[1, 2], &[8, 9])]).unwrap();
        assert_eq!(out.1, [1, 9, 3, 8, 5, 6]);
        let out = run("ScatterND", "", &[&x, &t(&[1, 1], &[-1]), &t(&[1, 3], &[7, 8, 9])]).unwrap();
        assert_eq!(out.1, [1, 2, 3, 7, 8, 9]);
        assert!(run("ScatterND", "", &[&x, &t(&[1, 1], &[2]), &t(&[1, 3], &[7, 8, 9])]).is_err());
        assert!(
            run("ScatterND", "reduction=add", &[&x, &t(&[1, 1], &[0]), &t(&[1, 3], &[7, 8, 9])]).is_err()
        );
    }

    #[test]
    fn one_hot_rows() {
        let (depth, on_off) = (t(&[], &[3]), t(&[2], &[5, 7]));
        let out = run("OneHot", "", &[&t(&[3], &[0, -1, 9]), &depth, &on_off]).unwrap();
        assert_eq!(out, (vec![3, 3], vec![7, 5, 5, 5, 5, 7, 5, 5, 5]));
        let out = run("OneHot", "axis=0", &[&t(&[2], &[0, 2]), &depth, &on_off]).unwrap();
        assert_eq!(out, (vec![3, 2], vec![7, 5, 5, 5, 5, 7]));
        assert!(run("OneHot", "", &[&t(&[1], &[0]), &t(&[], &[1 << 60]), &on_off]).is_err());
    }

    #[test]
    fn strings_are_gathered() {
        let s = Tensor::strings(&[2], vec![Bytes::from("a"), Bytes::from("b")]).unwrap();
        let out = eval("Gather", 13, "", &[Some(&s), Some(&t(&[], &[1]))]).unwrap();
        assert_eq!(out[0].as_strings().unwrap(), ["b"]);
    }
}
