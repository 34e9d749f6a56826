//! Matrix products: `MatMul`, `Gemm`, `Einsum`.
//!
//! Source: ONNX `Operators.md`; `MatMul` is `numpy.matmul`: vectors are promoted to matrices and lose that axis
//! again, leading axes broadcast.

mod einsum;

use crate::infer::{Inferred, dtype, equal, expect_rank, shape};
use crate::kernel::float::{float_input, matmul, transposed};
use crate::kernel::{View, broadcast_dims, broadcast_shapes, checked_len, invalid};
use crate::{Class, EvalCx, EvalError, Fact, InferCx, InferError, Port, Row, WeightAxis};
use squint_ir::{Dim, Shape, Tensor};

pub(crate) const ROWS: &[Row] = &[
    Row::new("MatMul", &[1, 9, 13], Class::Contraction, infer_matmul)
        .ports(&[Port::Act, Port::Weight(WeightAxis::Last)])
        .eval(eval_matmul),
    Row::new("Gemm", &[1, 6, 7, 9, 11, 13], Class::Contraction, infer_gemm)
        .ports(&[Port::Act, Port::Weight(WeightAxis::Gemm), Port::Bias])
        .eval(eval_gemm),
    Row::new("Einsum", &[12, 28], Class::Other, einsum::infer),
];

fn infer_matmul(cx: &InferCx<'_>) -> Inferred {
    let out = matmul_shape(shape(cx, 0), shape(cx, 1))?;
    Ok(vec![Fact::new(dtype(cx, 0).or(dtype(cx, 1)), out)])
}

/// The shape of a matrix product; `None` if its rank is unknown.
///
/// # Errors
/// If an operand is a scalar, the inner lengths differ, or the leading axes do not broadcast.
pub(crate) fn matmul_shape(a: Option<&Shape>, b: Option<&Shape>) -> Result<Option<Shape>, InferError> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    if a.is_empty() || b.is_empty() {
        return Err(InferError(format!("ranks {} and {} do not multiply", a.len(), b.len())));
    }
    let (a_lead, a_tail) = a.split_at(a.len().saturating_sub(2));
    let (b_lead, b_tail) = b.split_at(b.len().saturating_sub(2));
    equal(&a_tail[a_tail.len() - 1], &b_tail[0], "inner lengths of the product")?;
    let Some(mut out) = broadcast_shapes(&[&a_lead.to_vec(), &b_lead.to_vec()]) else {
        return Err(InferError(format!("batches {} and {} do not broadcast", text(a_lead), text(b_lead))));
    };
    if let [m, _] = a_tail {
        out.push(m.clone());
    }
    if let [_, n] = b_tail {
        out.push(n.clone());
    }
    Ok(Some(out))
}

fn text(dims: &[Dim]) -> String {
    format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(","))
}

fn infer_gemm(cx: &InferCx<'_>) -> Inferred {
    let dtype = dtype(cx, 0).or(dtype(cx, 1));
    Ok(vec![Fact::new(dtype, Some(gemm_shape(cx, shape(cx, 0), shape(cx, 1), shape(cx, 2))?))])
}

/// The shape `[M, N]` of a Gemm of `a`, `b` and the addend `c`, from the attributes `transA` and `transB`.
///
/// # Errors
/// If `a` or `b` is no matrix, the inner lengths differ, or `c` does not broadcast to the result.
pub(crate) fn gemm_shape(
    cx: &InferCx<'_>,
    a: Option<&Shape>,
    b: Option<&Shape>,
    c: Option<&Shape>,
) -> Result<Shape, InferError> {
    let sides = |s: Option<&Shape>, transpose: &str, what: &str| match s {
        None => Ok((Dim::Unknown, Dim::Unknown)),
        Some(s) => {
            expect_rank(s, 2, what)?;
            let flip = usize::from(cx.op.int(transpose).unwrap_or(0) != 0);
            Ok((s[flip].clone(), s[1 - flip].clone()))
        }
    };
    let (m, k) = sides(a, "transA", "operand A")?;
    let (k2, n) = sides(b, "transB", "operand B")?;
    equal(&k, &k2, "inner lengths of the product")?;
    let out = vec![m, n];
    if let Some(c) = c {
        let wide = broadcast_shapes(&[&out, c]).filter(|w| {
            // The addend may not make the product wider.
            w.len() == 2 && w.iter().zip(&out).all(|(w, o)| o.known().is_none() || w == o)
        });
        if wide.is_none() {
            return Err(InferError(format!(
                "operand C of shape {} does not broadcast to {}",
                text(c),
                text(&out)
            )));
        }
    }
    Ok(out)
}

/// The number of elements of a product with inner length `k`, unless it is too much work for folding.
fn affordable(dims: &[usize], k: usize) -> Result<usize, EvalError> {
    const MULTIPLICATIONS: usize = 1 << 32;
    let len = checked_len(dims)?;
    if len.saturating_mul(k) > MULTIPLICATIONS {
        return Err(EvalError::Unsupported(format!(
            "a product of shape {dims:?} over {k} is too large to fold"
        )));
    }
    Ok(len)
}

fn eval_matmul(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a, b) = (float_input(cx, 0)?, float_input(cx, 1)?);
    let (ad, bd) = (a.dims(), b.dims());
    if ad.is_empty() || bd.is_empty() {
        return invalid(format!("MatMul of shapes {ad:?} and {bd:?}"));
    }
    let (a_lead, a_tail) = ad.split_at(ad.len().saturating_sub(2));
    let (b_lead, b_tail) = bd.split_at(bd.len().saturating_sub(2));
    let (m, k) = (if a_tail.len() == 2 { a_tail[0] } else { 1 }, a_tail[a_tail.len() - 1]);
    let n = if b_tail.len() == 2 { b_tail[1] } else { 1 };
    let lead = broadcast_dims(&[a_lead, b_lead]).filter(|_| k == b_tail[0]);
    let Some(mut dims) = lead else { return invalid(format!("MatMul of shapes {ad:?} and {bd:?}")) };
    // Offsets of matrices instead of elements.
    let views = [a_lead, b_lead].map(|d| View::new(d).broadcast(&dims));
    let [Some(a_view), Some(b_view)] = views else { return invalid("MatMul batches do not broadcast") };
    if a_tail.len() == 2 {
        dims.push(m);
    }
    if b_tail.len() == 2 {
        dims.push(n);
    }
    let mut out = vec![0.0; affordable(&dims, k)?];
    if !out.is_empty() {
        let (a, b) = (a.f32s(), b.f32s());
        for ((i, j), y) in a_view.offsets().zip(b_view.offsets()).zip(out.chunks_exact_mut(m * n)) {
            matmul(&a[i * m * k..(i + 1) * m * k], &b[j * k * n..(j + 1) * k * n], y, (m, k, n));
        }
    }
    Ok(vec![Tensor::from_f32(&dims, &out)])
}

fn eval_gemm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let read = |slot, transpose: &str| -> Result<(Vec<f32>, usize, usize), EvalError> {
        let t = float_input(cx, slot)?;
        let &[rows, columns] = t.dims() else {
            return invalid(format!("Gemm operand of shape {:?}", t.dims()));
        };
        let data = t.to_f32s();
        Ok(match cx.op.int(transpose).unwrap_or(0) {
            0 => (data, rows, columns),
            _ => (transposed(&data, rows, columns), columns, rows),
        })
    };
    let (a, m, k) = read(0, "transA")?;
    let (b, k2, n) = read(1, "transB")?;
    if k != k2 {
        return invalid(format!("inner lengths {k} and {k2} of Gemm"));
    }
    let mut out = vec![0.0; affordable(&[m, n], k)?];
    matmul(&a, &b, &mut out, (m, k, n));
    let alpha = cx.op.float("alpha").unwrap_or(1.0);
    out.iter_mut().for_each(|y| *y *= alpha);
    if cx.optional(2).is_some() {
        let (c, beta) = (float_input(cx, 2)?, cx.op.float("beta").unwrap_or(1.0));
        let Some(view) = View::new(c.dims()).broadcast(&[m, n]) else {
            return invalid(format!("Gemm addend of shape {:?} for a result [{m}, {n}]", c.dims()));
        };
        let c = c.f32s();
        for (y, i) in out.iter_mut().zip(view.offsets()) {
            *y += beta * c[i];
        }
    }
    Ok(vec![Tensor::from_f32(&[m, n], &out)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            MatMul-13 (float[N,4,8]; float[8,5]) -> float[N,4,5]
            MatMul-13 (float[2,1,4,8]; float[3,8,5]) -> float[2,3,4,5]
            MatMul-13 (float[8]; float[8]) -> float[]
            MatMul-13 (float[8]; float[3,8,5]) -> float[3,5]
            MatMul-13 (float[3,4,8]; float[8]) -> float[3,4]
            MatMul-13 (float; float[8,5]) -> float
            MatMul-13 (float[4,8]; float[7,5]) -> error: inner lengths of the product: 8 is not 7
            MatMul-13 (float[2,4,8]; float[3,8,5]) -> error: batches [2] and [3] do not broadcast
            MatMul-13 (float[]; float[8,5]) -> error: ranks 0 and 2 do not multiply
            Gemm-13 (float[N,8]; float[8,5]; float[5]) -> float[N,5]
            Gemm-13 <transA=1 transB=1> (float[8,3]; float[5,8]; float[3,1]) -> float[3,5]
            Gemm-13 <transB=1> (float; float[5,8]) -> float[?,5]
            Gemm-13 (float[2,8,1]; float[8,5]) -> error: operand A has rank 3, not 2
            Gemm-13
                (float[2,8]; float[8,5]; float[4])
                -> error: operand C of shape [4] does not broadcast to [2,5]
            Gemm-13
                (float[2,8]; float[8,1]; float[4])
                -> error: operand C of shape [4] does not broadcast to [2,1]
            ",
        );
    }

    #[test]
    fn products_broadcast_their_batches() {
        let a = Tensor::from_f32(&[2, 1, 1, 2], &[1., 2., 3., 4.]);
        let b = Tensor::from_f32(&[2, 2, 1], &[1., 1., 10., 1.]);
        let y = eval("MatMul", 13, "", &[Some(&a), Some(&b)]).expect("kernel");
        assert_eq!((y[0].dims(), y[0].to_f32s()), (&[2, 2, 1, 1][..], vec![3., 12., 7., 34.]));
        let empty = Tensor::from_f32(&[2, 0], &[]);
        let y =
            eval("MatMul", 13, "", &[Some(&empty), Some(&Tensor::from_f32(&[0, 3], &[]))]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [0.0; 6]);
    }

    #[test]
    fn gemm_scales_transposes_and_adds() {
        let a = Tensor::from_f32(&[2, 1], &[1., 2.]);
        let b = Tensor::from_f32(&[3, 2], &[1., 0., 0., 1., 1., 1.]);
        let c = Tensor::from_f32(&[3], &[1., 2., 3.]);
        let y = eval("Gemm", 13, "transA=1 transB=1 alpha=2.0 beta=0.5", &[Some(&a), Some(&b), Some(&c)]);
        assert_eq!(y.expect("kernel")[0].to_f32s(), [2.5, 5., 7.5]);
    }
}
