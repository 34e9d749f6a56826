//! `Transpose`, `Expand`, `Tile`.

use super::show;
use crate::fact::{Fact, InferCx, InferError};
use crate::kernel::{self, View, broadcast_shapes, gather_view, remap, result_dims};
use crate::row::{EvalCx, EvalError};
use squint_ir::{Dim, Op, Tensor};

pub(super) fn transpose(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else {
        let rank = cx.op.ints("perm").map(<[i64]>::len);
        return Ok(vec![Fact::new(data.dtype, rank.map(|r| vec![Dim::Unknown; r]))]);
    };
    match permutation(cx.op, shape.len()) {
        Some(perm) => {
            Ok(vec![Fact::new(data.dtype, Some(perm.into_iter().map(|p| shape[p].clone()).collect()))])
        }
        None => {
            let perm = cx.op.ints("perm").unwrap_or_default();
            cx.error(format!("`perm` {perm:?} is no permutation of the axes of {}", show(shape)))
        }
    }
}

pub(super) fn transpose_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let data = cx.input(0)?;
    let view = permutation(cx.op, data.rank()).and_then(|perm| View::new(data.dims()).transpose(&perm));
    let Some(view) = view else { return kernel::invalid("`perm` is no permutation of the axes") };
    Ok(vec![gather_view(data, &view)?])
}

/// The attribute `perm`, or all axes reversed; `None` if it is no permutation.
fn permutation(op: &Op, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = op.ints("perm") else { return Some((0..rank).rev().collect()) };
    let perm: Option<Vec<usize>> = perm.iter().map(|p| kernel::resolve_axis(*p, rank)).collect();
    let perm = perm.filter(|p| p.len() == rank)?;
    let mut seen = vec![false; rank];
    perm.iter().for_each(|p| seen[*p] = true);
    seen.into_iter().all(|s| s).then_some(perm)
}

pub(super) fn expand(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let (data, target) = (cx.input(0)?, cx.input(1)?);
    let rank = target.shape.as_ref().and_then(|s| s.first()?.known()).filter(|n| *n <= 64);
    let to = target.lengths().or(rank.map(|n| vec![Dim::Unknown; n as usize]));
    let (Some(shape), Some(to)) = (&data.shape, to) else { return Ok(vec![Fact::of(data.dtype)]) };
    match broadcast_shapes(&[shape, &to]) {
        Some(shape) => Ok(vec![Fact::new(data.dtype, Some(shape))]),
        None => cx.error(format!("{} does not expand to {}", show(shape), show(&to))),
    }
}

pub(super) fn expand_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = result_dims(cx, expand)?;
    let data = cx.input(0)?;
    let Some(view) = View::new(data.dims()).broadcast(&dims) else {
        return kernel::invalid(format!("{:?} does not expand to {dims:?}", data.dims()));
    };
    Ok(vec![gather_view(data, &view)?])
}

/// Before version 6, `Tile` took a count and an axis; of that form only the rank is inferred.
pub(super) fn tile(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let repeats = cx.input(1)?.lengths().filter(|_| cx.opset >= 6);
    let Some(repeats) = repeats else {
        return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown; shape.len()]))]);
    };
    if repeats.len() != shape.len() {
        return cx.error(format!("{} repeats for {}", repeats.len(), show(shape)));
    }
    let shape = shape.iter().zip(&repeats).map(|(d, r)| super::product([d, r])).collect();
    Ok(vec![Fact::new(data.dtype, Some(shape))])
}

pub(super) fn tile_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = result_dims(cx, tile)?;
    let data = cx.input(0)?;
    if dims.contains(&0) {
        return Ok(vec![kernel::Sink::new(data.dtype(), 0).finish(&dims)?]);
    }
    let maps: Vec<_> =
        dims.iter().zip(data.dims()).map(|(&to, &from)| (0..to).map(|i| Some(i % from)).collect()).collect();
    Ok(vec![remap(data, &maps, None)?])
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::Tensor;

    #[test]
    fn shapes() {
        check(&[
            ("Transpose", 13, "", "float[2,N,4]", "float[4,N,2]"),
            ("Transpose", 13, "perm=[0,2,1]", "float[2,3,4]", "float[2,4,3]"),
            ("Transpose", 13, "perm=[0,2,1]", "float", "float[?,?,?]"),
            (
                "Transpose",
                13,
                "perm=[0,0]",
                "float[2,3]",
                "error: `perm` [0, 0] is no permutation of the axes of [2,3]",
            ),
            ("Expand", 13, "", "float[3,1]; int64[3] = 2 1 6", "float[2,3,6]"),
            ("Expand", 13, "", "float[N,1]; int64[2] = 1 4", "float[N,4]"),
            ("Expand", 13, "", "float[3]; int64[1] = 4", "error: [3] does not expand to [4]"),
            ("Expand", 13, "", "float[3]; int64[2]", "float[?,3]"),
            ("Tile", 13, "", "float[N,3]; int64[2] = 1 2", "float[N,6]"),
            ("Tile", 13, "", "float[N,3]; int64[2]", "float[?,?]"),
            ("Tile", 13, "", "float[N,3]; int64[1] = 1", "error: 1 repeats for [N,3]"),
        ]);
    }

    #[test]
    fn kernels() {
        let x = Tensor::from_i32(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let out = eval("Transpose", 13, "", &[Some(&x)]).unwrap();
        assert_eq!((out[0].dims(), out[0].to_i64s().unwrap()), (&[3, 2][..], vec![1, 4, 2, 5, 3, 6]));
        let out = eval("Tile", 13, "", &[Some(&x), Some(&Tensor::from_i64(&[2], &[2, 1]))]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]);
        let huge = Tensor::from_i64(&[2], &[1 << 40, 1 << 20]);
        assert!(eval("Tile", 13, "", &[Some(&x), Some(&huge)]).is_err());
        assert!(eval("Expand", 13, "", &[Some(&Tensor::scalar_f32(1.0)), Some(&huge)]).is_err());
    }
}
