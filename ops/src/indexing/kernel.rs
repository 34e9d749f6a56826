//! Kernels of the indexing family.

use crate::kernel::{self, Sink, Source, checked_len, numeric, resolve_axis, strides, values};
use crate::row::{EvalCx, EvalError};
use squint_ir::{DType, Tensor};
use std::cmp::Ordering;

type Results = Result<Vec<Tensor>, EvalError>;

/// Among equal elements the one with the smaller index comes first; NaN counts as larger than all.
/// The result is always sorted, which `sorted = 0` leaves open.
pub(super) fn top_k(cx: &EvalCx<'_>) -> Results {
    let data = cx.input(0)?;
    let dims = kernel::result_dims(cx, super::top_k)?;
    let axis = axis(cx.op.int("axis").unwrap_or(-1), dims.len())?;
    let largest = cx.op.int("largest").unwrap_or(1) != 0;
    let (k, n) = (dims[axis], data.dims()[axis]);
    let len = checked_len(&dims)?;
    checked_len(data.dims())?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), len));
    let mut indices = vec![0_i64; len];
    let order = numeric!(data.dtype(), T => {
        let v = values::<T>(data)?;
        let rank = move |a: usize, b: usize| compare(v[a], v[b]);
        Box::new(rank) as Box<dyn Fn(usize, usize) -> Ordering>
    }, return kernel::unsupported(format!("`TopK` of {}", data.dtype())));
    if len > 0 {
        let inner: usize = dims[axis + 1..].iter().product();
        let mut places = Vec::with_capacity(len);
        let mut row: Vec<usize> = Vec::with_capacity(n);
        for outer in 0..dims[..axis].iter().product() {
            for j in 0..inner {
                let at = |i: usize| (outer * n + i) * inner + j;
                row.clear();
                row.extend(0..n);
                row.sort_by(|a, b| {
                    let by = order(at(*a), at(*b));
                    if largest { by.reverse() } else { by }
                });
                for (rank, i) in row[..k].iter().enumerate() {
                    let to = (outer * k + rank) * inner + j;
                    indices[to] = *i as i64;
                    places.push((to, at(*i)));
                }
            }
        }
        sink.push_zeros(len);
        places.into_iter().for_each(|(to, from)| sink.set(to, &source, from, 1));
    }
    Ok(vec![sink.finish(&dims)?, Tensor::from_i64(&dims, &indices)])
}

/// A total order: NaN, the only element not equal to itself, above all others.
#[allow(clippy::eq_op, reason = "asks for NaN in a type that need not be a float")]
fn compare<T: PartialOrd>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}

pub(super) fn non_zero(cx: &EvalCx<'_>) -> Results {
    let data = cx.input(0)?;
    let (len, rank) = (checked_len(data.dims())?, data.rank());
    let found: Vec<usize> = match data.dtype() {
        DType::Bool => found(&values::<bool>(data)?),
        dtype => numeric!(dtype, T => found(&values::<T>(data)?), return kernel::unsupported("`NonZero`")),
    };
    let dims = [rank, found.len()];
    let mut columns = Vec::with_capacity(checked_len(&dims)?);
    if len > 0 {
        for (stride, d) in strides(data.dims()).into_iter().zip(data.dims()) {
            columns.extend(found.iter().map(|at| (at / stride % d) as i64));
        }
    }
    kernel::tensor(&dims, &columns).map(|t| vec![t])
}

fn found<T: PartialEq + Default>(values: &[T]) -> Vec<usize> {
    let zero = T::default();
    (0..values.len()).filter(|i| values[*i] != zero).collect()
}

/// The upper triangle (`col - row >= k`) or the lower one (`col - row <= k`) of each matrix.
pub(super) fn trilu(cx: &EvalCx<'_>) -> Results {
    let data = cx.input(0)?;
    let [.., rows, cols] = *data.dims() else { return kernel::invalid("operand 0 has rank below 2") };
    let upper = cx.op.int("upper").unwrap_or(1) != 0;
    let k = match cx.optional(1).map(|t| t.to_i64s()) {
        None => 0,
        Some(Some(k)) if k.len() == 1 => k[0],
        _ => return kernel::invalid("operand 1 is no integer"),
    };
    let len = checked_len(data.dims())?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), len));
    for at in 0..len {
        let diagonal = (at % cols) as i64 - (at / cols % rows) as i64;
        if if upper { diagonal >= k } else { diagonal <= k } {
            sink.push(&source, at, 1);
        } else {
            sink.push_zeros(1);
        }
    }
    Ok(vec![sink.finish(data.dims())?])
}

pub(super) fn eye_like(cx: &EvalCx<'_>) -> Results {
    let like = cx.input(0)?;
    let dims = kernel::result_dims(cx, super::eye_like)?;
    let len = checked_len(&dims)?;
    let k = cx.op.int("k").unwrap_or(0);
    let dtype = cx.op.int("dtype").map_or(Some(like.dtype()), |d| DType::from_code(i32::try_from(d).ok()?));
    let ones = |at: usize| (at % dims[1]) as i64 - (at / dims[1]) as i64 == k;
    match dtype {
        Some(DType::Bool) => {
            let eye: Vec<bool> = (0..len).map(ones).collect();
            Ok(vec![kernel::tensor(&dims, &eye)?])
        }
        Some(dtype) => numeric!(dtype, T => {
            let eye: Vec<T> = (0..len).map(|at| u8::from(ones(at)) as T).collect();
            Ok(vec![kernel::tensor(&dims, &eye)?])
        }, kernel::unsupported(format!("`EyeLike` of {dtype}"))),
        None => kernel::invalid("`dtype` is no element type"),
    }
}

/// Reverses the first `sequence_lens[b]` steps of each batch element `b`.
pub(super) fn reverse_sequence(cx: &EvalCx<'_>) -> Results {
    let (data, lens) = (cx.input(0)?, cx.input(1)?);
    let attr = |name, default| cx.op.int(name).unwrap_or(default);
    let (time, batch) = (attr("time_axis", 0), attr("batch_axis", 1));
    let &[d0, d1, ref rest @ ..] = data.dims() else { return kernel::invalid("operand 0 has rank below 2") };
    let lens = lens.to_i64s().unwrap_or_default();
    let (steps, batches) = match (time, batch) {
        (0, 1) => (d0, d1),
        (1, 0) => (d1, d0),
        _ => return kernel::invalid(format!("time axis {time} and batch axis {batch}")),
    };
    let fits = |l: &i64| usize::try_from(*l).is_ok_and(|l| l <= steps);
    if lens.len() != batches || !lens.iter().all(fits) {
        return kernel::invalid(format!("lengths {lens:?} for {batches} sequences of {steps} steps"));
    }
    let len = checked_len(data.dims())?;
    let (source, mut sink) = (Source::new(data), Sink::new(data.dtype(), len));
    if len > 0 {
        let run: usize = rest.iter().product();
        for i in 0..d0 {
            for j in 0..d1 {
                let (t, b) = if time == 0 { (i, j) } else { (j, i) };
                let l = lens[b] as usize;
                let from = if t < l { l - 1 - t } else { t };
                let (i, j) = if time == 0 { (from, j) } else { (i, from) };
                sink.push(&source, (i * d1 + j) * run, run);
            }
        }
    }
    Ok(vec![sink.finish(data.dims())?])
}

fn axis(axis: i64, rank: usize) -> Result<usize, EvalError> {
    resolve_axis(axis, rank)
        .ok_or_else(|| EvalError::Invalid(format!("axis {axis} does not exist in rank {rank}")))
}

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use squint_ir::{DType, Tensor};

    // Results of `onnx.reference`.
    #[test]
    fn top_k() {
        let x = Tensor::from_f32(&[2, 4], &[3.0, 1.0, 3.0, 2.0, -1.0, f32::NAN, 0.0, 5.0]);
        let k = Tensor::from_i64(&[1], &[2]);
        let out = eval("TopK", 11, "", &[Some(&x), Some(&k)]).unwrap();
        assert_eq!(out[1].to_i64s().unwrap(), [0, 2, 1, 3]);
        assert_eq!(out[0].to_f32s()[..2], [3.0, 3.0]);
        let out = eval("TopK", 11, "largest=0 axis=0", &[Some(&x), Some(&k)]).unwrap();
        assert_eq!(out[1].to_i64s().unwrap(), [1, 0, 1, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn non_zero() {
        let x = Tensor::from_i32(&[2, 3], &[0, 1, 2, 3, 0, 0]);
        let out = eval("NonZero", 13, "", &[Some(&x)]).unwrap();
        assert_eq!((out[0].dims(), out[0].to_i64s().unwrap()), (&[2, 3][..], vec![0, 0, 1, 1, 2, 0]));
        let scalar = eval("NonZero", 13, "", &[Some(&Tensor::scalar_f32(1.0))]).unwrap();
        assert_eq!(scalar[0].dims(), [0, 1]);
    }

    #[test]
    fn triangles() {
        let x = Tensor::from_i64(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let k = Tensor::scalar_i64(1);
        let run = |attrs, k| eval("Trilu", 14, attrs, &[Some(&x), k]).unwrap()[0].to_i64s().unwrap();
        assert_eq!(run("", None), [1, 2, 3, 0, 5, 6]);
        assert_eq!(run("", Some(&k)), [0, 2, 3, 0, 0, 6]);
        assert_eq!(run("upper=0", None), [1, 0, 0, 4, 5, 0]);
        let eye = eval("EyeLike", 9, "k=1 dtype=1", &[Some(&x)]).unwrap();
        assert_eq!((eye[0].dtype(), eye[0].to_f32s()), (DType::Float, vec![0.0, 1.0, 0.0, 0.0, 0.0, 1.0]));
    }

    #[test]
    fn sequences_reverse() {
        let x = Tensor::from_i64(&[3, 2], &[0, 1, 2, 3, 4, 5]);
        let lens = Tensor::from_i64(&[2], &[2, 3]);
        let out = eval("ReverseSequence", 10, "", &[Some(&x), Some(&lens)]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [2, 5, 0, 3, 4, 1]);
        let lens = Tensor::from_i64(&[3], &[2, 1, 2]);
        let out = eval("ReverseSequence", 10, "time_axis=1 batch_axis=0", &[Some(&x), Some(&lens)]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [1, 0, 2, 3, 5, 4]);
    }
}
