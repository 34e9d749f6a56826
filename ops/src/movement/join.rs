//! `Concat` and `Split`.

use super::{numbers, show};
use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::kernel::{self, Sink, Source, View, gather_view, resolve_axis, result_dims};
use crate::row::{EvalCx, EvalError};
use squint_ir::{Dim, Shape, Tensor};

pub(super) fn concat(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let facts: Vec<&Fact> = cx.inputs.iter().flatten().collect();
    let dtype = facts.iter().find_map(|f| f.dtype);
    let Some(first) = facts.iter().find_map(|f| f.shape.as_ref()) else { return Ok(vec![Fact::of(dtype)]) };
    // Before version 4 the axis had a default.
    let axis = match cx.op.int("axis") {
        Some(axis) => infer::axis(axis, first.len())?,
        None if cx.opset < 4 => infer::axis(1, first.len())?,
        None => return cx.error("`axis` is missing"),
    };
    let mut shape: Shape = vec![Dim::Unknown; first.len()];
    let mut total = Dim::Known(0);
    for fact in &facts {
        let Some(s) = &fact.shape else {
            total = Dim::Unknown;
            continue;
        };
        infer::expect_rank(s, first.len(), "an operand")?;
        for (i, d) in s.iter().enumerate().filter(|(i, _)| *i != axis) {
            shape[i] = infer::equal(&shape[i], d, &format!("lengths of axis {i}"))?;
        }
        total = match (total, &s[axis]) {
            (Dim::Known(0), d) => d.clone(),
            (d, Dim::Known(0)) => d,
            (Dim::Known(x), Dim::Known(y)) => x.checked_add(*y).map_or(Dim::Unknown, Dim::Known),
            _ => Dim::Unknown,
        };
    }
    shape[axis] = total;
    let lengths = if shape.len() == 1 { join(&facts) } else { None };
    Ok(vec![Fact::new(dtype, Some(shape)).with_lengths(lengths)])
}

/// Lengths side by side; of a part that is not known at least how many they are.
fn join(facts: &[&Fact]) -> Option<Vec<Dim>> {
    let mut joined = vec![];
    for fact in facts {
        match fact.lengths() {
            Some(lengths) => joined.extend(lengths),
            None => {
                let count = fact.shape.as_ref()?.first()?.known().filter(|n| *n <= 64)?;
                joined.resize(joined.len() + count as usize, Dim::Unknown);
            }
        }
    }
    Some(joined)
}

pub(super) fn concat_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = result_dims(cx, concat)?;
    let first = cx.input(0)?;
    let axis = resolve_axis(cx.op.int("axis").unwrap_or(1), dims.len());
    let Some(axis) = axis else { return kernel::invalid("`axis` is out of range") };
    let mut parts = vec![];
    for slot in 0..cx.inputs.len() {
        let part = cx.input(slot)?;
        if part.dtype() != first.dtype() {
            return kernel::invalid(format!("operands of types {} and {}", first.dtype(), part.dtype()));
        }
        parts.push((
            Source::new(part),
            part.dims()[axis..].iter().fold(1, |n: usize, d| n.saturating_mul(*d)),
        ));
    }
    let outer = if dims.contains(&0) { 0 } else { dims[..axis].iter().product() };
    let mut sink = Sink::new(first.dtype(), kernel::checked_len(&dims)?);
    for i in 0..outer {
        for (source, run) in &parts {
            sink.push(source, i * run, *run);
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

pub(super) fn split(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype); cx.n_results]) };
    let axis = infer::axis(cx.op.int("axis").unwrap_or(0), shape.len())?;
    let sizes = sizes(cx, &shape[axis])?;
    let mut start = Some(0_usize);
    let facts = sizes.into_iter().map(|size| {
        let mut part = shape.clone();
        part[axis] = size.map_or(Dim::Unknown, Dim::Known);
        let end = size.and_then(|n| usize::try_from(n).ok()).and_then(|n| start?.checked_add(n));
        let lengths = match (&data.dims, start, end) {
            (Some(d), Some(start), Some(end)) if shape.len() == 1 => d.get(start..end).map(<[Dim]>::to_vec),
            _ => None,
        };
        start = end;
        Fact::new(data.dtype, Some(part)).with_lengths(lengths)
    });
    Ok(facts.collect())
}

/// Length of each part: given (as attribute or operand), or equal, the last one smaller if need be.
fn sizes(cx: &InferCx<'_>, whole: &Dim) -> Result<Vec<Option<u64>>, InferError> {
    let n = cx.n_results;
    let given = match cx.op.ints("split") {
        Some(split) => Some(split.iter().copied().map(Some).collect()),
        None => cx.optional(1).map(|f| numbers(f).unwrap_or(vec![None; n])),
    };
    if let Some(given) = given {
        if given.len() != n {
            return cx.error(format!("{} lengths for {n} results", given.len()));
        }
        let size = |n: Option<i64>| match n {
            Some(n) => u64::try_from(n).map(Some).map_err(|_| InferError(format!("a part of length {n}"))),
            None => Ok(None),
        };
        let sizes = given.into_iter().map(size).collect::<Result<Vec<_>, _>>()?;
        let sum = sizes.iter().try_fold(0_u64, |sum, n| sum.checked_add((*n)?));
        if let (Some(sum), Dim::Known(whole)) = (sum, whole)
            && sum != *whole
        {
            return cx.error(format!("parts of {sum} elements in all, of an axis of length {whole}"));
        }
        return Ok(sizes);
    }
    let Dim::Known(whole) = whole else { return Ok(vec![None; n]) };
    if n == 0 {
        return Ok(vec![]);
    }
    if cx.op.int("num_outputs").is_none() && whole % n as u64 != 0 {
        return cx.error(format!("an axis of length {whole} does not split into {n} equal parts"));
    }
    let part = whole.div_ceil(n as u64);
    let rest = |i: usize| whole.saturating_sub(part.saturating_mul(i as u64)).min(part);
    Ok((0..n).map(|i| Some(rest(i))).collect())
}

pub(super) fn split_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let data = cx.input(0)?;
    let Some(axis) = resolve_axis(cx.op.int("axis").unwrap_or(0), data.rank()) else {
        return kernel::invalid(format!("`axis` is out of range for shape {:?}", data.dims()));
    };
    let inputs: Vec<Option<Fact>> =
        cx.inputs.iter().map(|t| t.map(|t| Fact::constant(std::sync::Arc::new(t.clone())))).collect();
    let infer_cx = InferCx { op: cx.op, opset: cx.opset, inputs: &inputs, n_results: cx.n_results };
    let sizes = sizes(&infer_cx, &Dim::from(data.dims()[axis])).map_err(|e| EvalError::Invalid(e.0))?;
    let mut start = 0;
    let mut parts = vec![];
    for size in sizes {
        let size = size.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let Some(view) = View::new(data.dims()).slice(axis, start, 1, size) else {
            let shape: Shape = data.dims().iter().map(|d| Dim::from(*d)).collect();
            return kernel::invalid(format!("parts do not fit {}", show(&shape)));
        };
        parts.push(gather_view(data, &view)?);
        start += size;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, eval, op};

    #[test]
    fn shapes() {
        check(&[
            ("Concat", 13, "axis=1", "float[N,2,4]; float[N,3,4]", "float[N,5,4]"),
            ("Concat", 13, "axis=-1", "float[2,N]; float[2,3]", "float[2,?]"),
            ("Concat", 13, "axis=0", "float[2,?]; float[?,3]; float", "float[?,3]"),
            ("Concat", 13, "axis=0", "float[2,3]; float[2,4]", "error: lengths of axis 1: 3 is not 4"),
            ("Concat", 13, "axis=0", "float[2,3]; float[2]", "error: an operand has rank 1, not 2"),
            ("Split", 11, "axis=1 split=[3]", "float[N,3]", "float[N,3]"),
            (
                "Split",
                13,
                "",
                "float[4,3]; int64[1] = 3",
                "error: parts of 3 elements in all, of an axis of length 4",
            ),
        ]);
    }

    fn parts(opset: i64, attrs: &str, n: usize, length: Dim) -> Result<Vec<Dim>, InferError> {
        let inputs = [Some(Fact::new(None, Some(vec![length])))];
        let facts = split(&InferCx { op: &op("Split", attrs), opset, inputs: &inputs, n_results: n })?;
        Ok(facts.into_iter().map(|f| f.shape.unwrap().remove(0)).collect())
    }

    #[test]
    fn equal_parts() {
        let k = Dim::Known;
        assert_eq!(parts(13, "", 2, k(6)).unwrap(), [k(3), k(3)]);
        assert!(parts(13, "", 4, k(6)).is_err());
        assert_eq!(parts(18, "num_outputs=4", 4, k(6)).unwrap(), [k(2), k(2), k(2), k(0)]);
        assert_eq!(parts(18, "num_outputs=2", 2, k(7)).unwrap(), [k(4), k(3)]);
        assert_eq!(parts(18, "num_outputs=2", 2, Dim::Symbol("N".into())).unwrap(), vec![Dim::Unknown; 2]);
    }

    #[test]
    fn kernels() {
        let (a, b) = (Tensor::from_i64(&[2, 1], &[1, 2]), Tensor::from_i64(&[2, 2], &[3, 4, 5, 6]));
        let out = eval("Concat", 13, "axis=1", &[Some(&a), Some(&b)]).unwrap();
        assert_eq!((out[0].dims(), out[0].to_i64s().unwrap()), (&[2, 3][..], vec![1, 3, 4, 2, 5, 6]));
        let inputs = [Some(&out[0])];
        let op = op("Split", "axis=1 split=[2,1]");
        let out = split_kernel(&EvalCx { op: &op, opset: 11, inputs: &inputs, n_results: 2 }).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [1, 3, 2, 5]);
        assert_eq!((out[1].dims(), out[1].to_i64s().unwrap()), (&[2, 1][..], vec![4, 6]));
    }
}
