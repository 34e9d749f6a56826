//! Floating-point kernels: element-wise maps, matrix products and the functions `std` lacks.
//!
//! Constants are folded once, so clarity wins over speed; functions are computed in binary64 and rounded once
//! to the tensor's own type.

use crate::{EvalCx, EvalError};
use squint_ir::{DType, Tensor};
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// Applies a function to every element of operand 0, a `float` or `double` tensor.
///
/// # Errors
/// [`EvalError::Unsupported`] for other element types.
pub fn map(cx: &EvalCx<'_>, f: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let y = match x.dtype() {
        DType::Float => {
            let y: Vec<f32> = x.f32s().iter().map(|v| f(f64::from(*v)) as f32).collect();
            Tensor::from_f32(x.dims(), &y)
        }
        DType::Double => {
            let y: Vec<f64> = x.to_f64s().into_iter().map(f).collect();
            Tensor::from_f64(x.dims(), &y)
        }
        other => return unsupported(cx, other),
    };
    Ok(vec![y])
}

/// As [`map`], with a function for `int32` and `int64` tensors besides; results wrap as ONNX Runtime's do.
///
/// # Errors
/// [`EvalError::Unsupported`] for other element types.
pub fn map_numbers(
    cx: &EvalCx<'_>,
    f: impl Fn(f64) -> f64,
    i: impl Fn(i64) -> i64,
) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let ints = x.to_i64s().unwrap_or_default().into_iter().map(i);
    match x.dtype() {
        DType::Int64 => Ok(vec![Tensor::from_i64(x.dims(), &ints.collect::<Vec<_>>())]),
        DType::Int32 => Ok(vec![Tensor::from_i32(x.dims(), &ints.map(|v| v as i32).collect::<Vec<_>>())]),
        _ => map(cx, f),
    }
}

/// The error that says there is no kernel for an element type.
///
/// # Errors
/// Always.
pub fn unsupported<T>(cx: &EvalCx<'_>, dtype: DType) -> Result<T, EvalError> {
    Err(EvalError::Unsupported(format!("`{}` on {dtype}", cx.op.op_type)))
}

/// A float operand that has to be `float`.
///
/// # Errors
/// If it is omitted, or of another type.
pub fn float_input<'a>(cx: &EvalCx<'a>, slot: usize) -> Result<&'a Tensor, EvalError> {
    let x = cx.input(slot)?;
    if x.dtype() == DType::Float { Ok(x) } else { unsupported(cx, x.dtype()) }
}

/// Adds `a[m, k] * b[k, n]` to `out[m, n]`, all row-major, accumulating in binary32.
///
/// # Panics
/// If a slice is shorter than its dimensions say.
pub fn matmul(a: &[f32], b: &[f32], out: &mut [f32], (m, k, n): (usize, usize, usize)) {
    for i in 0..m {
        let row = &mut out[i * n..(i + 1) * n];
        for p in 0..k {
            let x = a[i * k + p];
            for (y, w) in row.iter_mut().zip(&b[p * n..(p + 1) * n]) {
                *y += x * w;
            }
        }
    }
}

/// The transpose of a row-major `rows` by `columns` matrix.
///
/// # Panics
/// If `a` is shorter than that.
pub fn transposed(a: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| a[i * columns + j])).collect()
}

/// The error function, by `erf x = 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`, whose terms are all of one
/// sign (Abramowitz and Stegun, 7.1.6).
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x == 0.0 {
        return x;
    }
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut sum, mut term, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `x Phi(x)` with the normal distribution function `Phi`.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / SQRT_2))
}

/// The tanh approximation of [`gelu`].
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (FRAC_2_SQRT_PI / SQRT_2) * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_exact_to_double_precision() {
        let table =
            [(0.1, 0.112_462_916_018_284_9), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)];
        for (x, y) in table {
            assert!((erf(x) - y).abs() < 1e-15, "{x}");
            assert!((erf(-x) + y).abs() < 1e-15, "{x}");
        }
        assert_eq!((erf(0.0), erf(7.0), erf(-7.0)), (0.0, 1.0, -1.0));
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn softplus_does_not_overflow() {
        assert_eq!(softplus(1000.0), 1000.0);
        assert_eq!(softplus(-1000.0), 0.0);
        assert!((softplus(0.0) - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn products_of_rectangles() {
        let (a, b) = ([1., 2., 3., 4., 5., 6.], [1., 0., 0., 1., 1., 1.]);
        let mut out = [0.0; 4];
        matmul(&a, &b, &mut out, (2, 3, 2));
        assert_eq!(out, [4., 5., 10., 11.]);
        assert_eq!(transposed(&a, 2, 3), [1., 4., 2., 5., 3., 6.]);
    }
}
