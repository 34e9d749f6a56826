//! `DepthToSpace` and `SpaceToDepth`: blocks of space and groups of channels change places.

use super::show;
use crate::fact::{Fact, InferCx, InferError};
use crate::kernel::{self, View, gather_view, result_dims};
use crate::row::{EvalCx, EvalError};
use squint_ir::{Dim, Tensor};

pub(super) fn depth_to_space(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    blocks(cx, |b, s| {
        Some(vec![s[0].clone(), over(&s[1], b.checked_mul(b)?)?, times(&s[2], b), times(&s[3], b)])
    })
}

pub(super) fn space_to_depth(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    blocks(cx, |b, s| {
        Some(vec![s[0].clone(), times(&s[1], b.checked_mul(b)?), over(&s[2], b)?, over(&s[3], b)?])
    })
}

fn blocks(cx: &InferCx<'_>, rule: impl Fn(u64, &[Dim]) -> Option<Vec<Dim>>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let size = cx.op.int("blocksize").unwrap_or(0);
    let Some(block) = u64::try_from(size).ok().filter(|b| *b > 0) else {
        return cx.error(format!("`blocksize` is {size}"));
    };
    let Some(shape) = &data.shape else {
        return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown; 4]))]);
    };
    crate::infer::expect_rank(shape, 4, "operand 0")?;
    match rule(block, shape) {
        Some(out) => Ok(vec![Fact::new(data.dtype, Some(out))]),
        None => cx.error(format!("{} does not divide into blocks of {block}", show(shape))),
    }
}

fn times(d: &Dim, n: u64) -> Dim {
    super::product([d, &Dim::Known(n)])
}

/// `None` if a known length is no multiple.
fn over(d: &Dim, n: u64) -> Option<Dim> {
    match d {
        Dim::Known(len) => (len % n == 0).then_some(Dim::Known(len / n)),
        d if n == 1 => Some(d.clone()),
        _ => Some(Dim::Unknown),
    }
}

pub(super) fn depth_to_space_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (dims, [n, _, h, w], b) = parts(cx, depth_to_space)?;
    let c = dims[1];
    if is_crd(cx) {
        permute(cx, [n, c, b, b, h, w], [0, 1, 4, 2, 5, 3], &dims)
    } else {
        permute(cx, [n, b, b, c, h, w], [0, 3, 4, 1, 5, 2], &dims)
    }
}

pub(super) fn space_to_depth_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (dims, [n, c, ..], b) = parts(cx, space_to_depth)?;
    let perm = if is_crd(cx) { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    permute(cx, [n, c, dims[2], b, dims[3], b], perm, &dims)
}

fn is_crd(cx: &EvalCx<'_>) -> bool {
    cx.op.string("mode") == Some("CRD")
}

/// Dimensions of the result and of the operand, and the block size.
fn parts(
    cx: &EvalCx<'_>,
    infer: fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>,
) -> Result<(Vec<usize>, [usize; 4], usize), EvalError> {
    let dims = result_dims(cx, infer)?;
    let block = cx.op.int("blocksize").and_then(|b| usize::try_from(b).ok());
    match (<[usize; 4]>::try_from(cx.input(0)?.dims()), block) {
        (Ok(from), Some(block)) => Ok((dims, from, block)),
        _ => kernel::invalid("operand 0 is not of rank 4"),
    }
}

fn permute(
    cx: &EvalCx<'_>,
    split: [usize; 6],
    perm: [usize; 6],
    dims: &[usize],
) -> Result<Vec<Tensor>, EvalError> {
    let Some(view) = View::new(&split).transpose(&perm) else { return kernel::invalid("no permutation") };
    Ok(vec![gather_view(cx.input(0)?, &view)?.reshaped(dims)?])
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::Tensor;

    #[test]
    fn shapes() {
        check(&[
            ("DepthToSpace", 13, "blocksize=2", "float[N,8,2,W]", "float[N,2,4,?]"),
            ("SpaceToDepth", 13, "blocksize=2", "float[N,3,4,6]", "float[N,12,2,3]"),
            (
                "SpaceToDepth",
                13,
                "blocksize=2",
                "float[1,3,5,6]",
                "error: [1,3,5,6] does not divide into blocks of 2",
            ),
            ("DepthToSpace", 13, "blocksize=0", "float[1,4,1,1]", "error: `blocksize` is 0"),
        ]);
    }

    // Results of `onnx.reference`.
    #[test]
    fn kernels() {
        let x = Tensor::from_i64(&[1, 8, 1, 1], &[0, 1, 2, 3, 4, 5, 6, 7]);
        let run = |op, attrs, x| eval(op, 13, attrs, &[Some(x)]).unwrap().remove(0);
        let dcr = run("DepthToSpace", "blocksize=2", &x);
        assert_eq!((dcr.dims(), dcr.to_i64s().unwrap()), (&[1, 2, 2, 2][..], vec![0, 2, 4, 6, 1, 3, 5, 7]));
        let crd = run("DepthToSpace", "blocksize=2 mode=CRD", &x);
        assert_eq!(crd.to_i64s().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(run("SpaceToDepth", "blocksize=2", &dcr).to_i64s(), x.to_i64s());
    }
}
