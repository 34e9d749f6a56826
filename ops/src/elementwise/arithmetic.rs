//! Arithmetic kernels.
//!
//! Integers wrap on overflow and division truncates towards zero, as in ONNX Runtime's C++ kernels.
//! `Min` and `Max` give NaN where an operand is NaN. Half-precision operands have no kernel.

use super::align;
use crate::kernel::{self, Element, numeric, tensor, values, zip};
use crate::row::{EvalCx, EvalError};
use squint_ir::Tensor;

type Results = Result<Vec<Tensor>, EvalError>;

/// Arithmetic that integers and floats share.
trait Number: Element {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// `None` for a division of integers by zero.
    fn over(self, other: Self) -> Option<Self>;
    fn smaller(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    /// Remainder with the sign of the dividend.
    fn fmod(self, other: Self) -> Option<Self>;
    /// Remainder with the sign of the divisor.
    fn modulo(self, other: Self) -> Option<Self>;
    fn power(self, exponent: f64) -> Option<Self>;
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn plus(self, other: $t) -> $t { self.wrapping_add(other) }
            fn minus(self, other: $t) -> $t { self.wrapping_sub(other) }
            fn times(self, other: $t) -> $t { self.wrapping_mul(other) }
            fn over(self, other: $t) -> Option<$t> { (other != 0).then(|| self.wrapping_div(other)) }
            fn smaller(self, other: $t) -> $t { self.min(other) }
            fn larger(self, other: $t) -> $t { self.max(other) }
            fn fmod(self, other: $t) -> Option<$t> { (other != 0).then(|| self.wrapping_rem(other)) }
            #[allow(unused_comparisons, reason = "the list has unsigned types too")]
            fn modulo(self, other: $t) -> Option<$t> {
                let rest = self.fmod(other)?;
                Some(if rest != 0 && (rest < 0) != (other < 0) { rest.wrapping_add(other) } else { rest })
            }
            fn power(self, exponent: f64) -> Option<$t> {
                let whole = exponent.fract() == 0.0 && (0.0..=64.0).contains(&exponent);
                whole.then(|| self.wrapping_pow(exponent as u32))
            }
        }
    )*};
}
integers! { u8 u16 u32 u64 i8 i16 i32 i64 }

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn plus(self, other: $t) -> $t { self + other }
            fn minus(self, other: $t) -> $t { self - other }
            fn times(self, other: $t) -> $t { self * other }
            fn over(self, other: $t) -> Option<$t> { Some(self / other) }
            fn smaller(self, other: $t) -> $t { if self < other || self.is_nan() { self } else { other } }
            fn larger(self, other: $t) -> $t { if self > other || self.is_nan() { self } else { other } }
            fn fmod(self, other: $t) -> Option<$t> { Some(self % other) }
            fn modulo(self, other: $t) -> Option<$t> {
                let rest = self % other;
                Some(if rest != 0.0 && (rest < 0.0) != (other < 0.0) { rest + other } else { rest })
            }
            fn power(self, exponent: f64) -> Option<$t> {
                // The common cases exactly; the rest in double precision.
                Some(if exponent == 2.0 {
                    self * self
                } else if exponent == 0.5 && self > 0.0 {
                    self.sqrt()
                } else {
                    f64::from(self).powf(exponent) as $t
                })
            }
        }
    )*};
}
floats! { f32 f64 }

macro_rules! binary {
    ($($name:ident = $method:ident;)*) => {$(
        pub(super) fn $name(cx: &EvalCx<'_>) -> Results {
            let dtype = cx.input(0)?.dtype();
            numeric!(dtype, T => map::<T>(cx, |a, b| Some(a.$method(b))), no_kernel(cx))
        }
    )*};
}
binary! { add = plus; sub = minus; mul = times; }

pub(super) fn div(cx: &EvalCx<'_>) -> Results {
    numeric!(cx.input(0)?.dtype(), T => map::<T>(cx, T::over), no_kernel(cx))
}

pub(super) fn modulo(cx: &EvalCx<'_>) -> Results {
    let dtype = cx.input(0)?.dtype();
    if cx.op.int("fmod").unwrap_or(0) != 0 {
        return numeric!(dtype, T => map::<T>(cx, T::fmod), no_kernel(cx));
    }
    numeric!(dtype, T => map::<T>(cx, T::modulo), no_kernel(cx))
}

/// The exponent may be of a type of its own; the result has the type of the base.
pub(super) fn pow(cx: &EvalCx<'_>) -> Results {
    let (base, exponent) = (cx.input(0)?, cx.input(1)?);
    let dims = align(cx)?;
    let exponents = exponent.to_f64s();
    if exponents.len() != exponent.len() {
        return no_kernel(cx);
    }
    numeric!(base.dtype(), T => {
        let b = values::<T>(base)?;
        let out = zip((&b, &dims.first), (&exponents, &dims.second), &dims.result, T::power);
        let Some(out) = out.and_then(|o| o.into_iter().collect::<Option<Vec<T>>>()) else {
            return kernel::unsupported("integer power with an exponent that is negative or not whole");
        };
        Ok(vec![tensor(&dims.result, &out)?])
    }, no_kernel(cx))
}

macro_rules! variadic {
    ($($name:ident = $method:ident;)*) => {$(
        pub(super) fn $name(cx: &EvalCx<'_>) -> Results {
            let dtype = cx.input(0)?.dtype();
            numeric!(dtype, T => Ok(vec![fold::<T>(cx, T::$method)?]), no_kernel(cx))
        }
    )*};
}
variadic! { sum = plus; min = smaller; max = larger; }

pub(super) fn mean(cx: &EvalCx<'_>) -> Results {
    numeric!(float cx.input(0)?.dtype(), T => {
        let sum = fold::<T>(cx, T::plus)?;
        let count = cx.inputs.len() as T;
        let means: Vec<T> = values::<T>(&sum)?.into_iter().map(|x| x / count).collect();
        Ok(vec![tensor(sum.dims(), &means)?])
    }, no_kernel(cx))
}

fn map<T: Number>(cx: &EvalCx<'_>, f: impl Fn(T, T) -> Option<T>) -> Results {
    let dims = align(cx)?;
    let (a, b) = (values::<T>(cx.input(0)?)?, values::<T>(cx.input(1)?)?);
    let out = zip((&a, &dims.first), (&b, &dims.second), &dims.result, f);
    match out.and_then(|out| out.into_iter().collect::<Option<Vec<T>>>()) {
        Some(out) => Ok(vec![tensor(&dims.result, &out)?]),
        None => kernel::unsupported("division of integers by zero"),
    }
}

fn fold<T: Number>(cx: &EvalCx<'_>, f: impl Fn(T, T) -> T + Copy) -> Result<Tensor, EvalError> {
    let first = cx.input(0)?;
    let (mut data, mut dims) = (values::<T>(first)?, first.dims().to_vec());
    for slot in 1..cx.inputs.len() {
        let next = cx.input(slot)?;
        let Some(result) = kernel::broadcast_dims(&[&dims, next.dims()]) else {
            return kernel::invalid(format!("shapes {dims:?} and {:?} do not broadcast", next.dims()));
        };
        kernel::checked_len(&result)?;
        let other = values::<T>(next)?;
        data = zip((&data, &dims), (&other, next.dims()), &result, f).unwrap_or_default();
        dims = result;
    }
    tensor(&dims, &data)
}

fn no_kernel<T>(cx: &EvalCx<'_>) -> Result<T, EvalError> {
    kernel::unsupported(format!("`{}` of {}", cx.op.op_type, cx.input(0)?.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::Op;

    fn run(f: fn(&EvalCx<'_>) -> Results, op: &Op, opset: i64, inputs: &[&Tensor]) -> Results {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        f(&EvalCx { op, opset, inputs: &inputs, n_results: 1 })
    }

    #[test]
    fn integers_truncate_and_wrap() {
        let a = Tensor::from_i64(&[4], &[-7, 7, i64::MIN, 5]);
        let b = Tensor::from_i64(&[4], &[2, -2, -1, 5]);
        let op = Op::default();
        let ints = |f| run(f, &op, 13, &[&a, &b]).unwrap()[0].to_i64s().unwrap();
        assert_eq!(ints(div), [-3, -3, i64::MIN, 1]);
        assert_eq!(ints(modulo), [1, -1, 0, 0]);
        assert_eq!(ints(max), [2, 7, -1, 5]);
        let zero = Tensor::scalar_i64(0);
        assert!(matches!(run(div, &op, 13, &[&a, &zero]), Err(EvalError::Unsupported(_))));
        let mut fmod = Op::default();
        fmod.set_attr("fmod", 1);
        assert_eq!(run(modulo, &fmod, 13, &[&a, &b]).unwrap()[0].to_i64s().unwrap(), [-1, 1, 0, 0]);
    }

    #[test]
    fn operands_broadcast() {
        let a = Tensor::from_f32(&[2, 1], &[1.0, 2.0]);
        let b = Tensor::from_f32(&[3], &[10.0, 20.0, 30.0]);
        let op = Op::default();
        let out = &run(mul, &op, 13, &[&a, &b]).unwrap()[0];
        assert_eq!((out.dims(), out.to_f32s()), (&[2, 3][..], vec![10.0, 20.0, 30.0, 20.0, 40.0, 60.0]));
        let out = &run(mean, &op, 13, &[&a, &b, &a]).unwrap()[0];
        assert_eq!(out.to_f32s(), [4.0, 22.0 / 3.0, 32.0 / 3.0, 14.0 / 3.0, 8.0, 34.0 / 3.0]);
        assert!(matches!(
            run(add, &op, 13, &[&b, &Tensor::from_f32(&[2], &[0.0; 2])]),
            Err(EvalError::Invalid(_))
        ));
    }

    #[test]
    fn before_version_7_an_axis_aligns() {
        let a = Tensor::from_f32(&[1, 2, 2], &[0.0; 4]);
        let b = Tensor::from_f32(&[2], &[1.0, 2.0]);
        let mut op = Op::default();
        op.set_attr("axis", 1);
        assert_eq!(run(add, &op, 6, &[&a, &b]).unwrap()[0].to_f32s(), [1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn powers_keep_the_type_of_the_base() {
        let op = crate::testing::op("Pow", "");
        let base = Tensor::from_f32(&[3], &[2.0, 9.0, -3.0]);
        let e = Tensor::from_i64(&[3], &[-1, 0, 3]);
        assert_eq!(run(pow, &op, 13, &[&base, &e]).unwrap()[0].to_f32s(), [0.5, 1.0, -27.0]);
        let ints = Tensor::from_i64(&[2], &[2, -3]);
        let half = Tensor::scalar_f32(0.5);
        assert!(run(pow, &op, 13, &[&ints, &half]).is_err());
        let three = Tensor::scalar_f32(3.0);
        assert_eq!(run(pow, &op, 13, &[&ints, &three]).unwrap()[0].to_i64s().unwrap(), [8, -27]);
    }

    #[test]
    fn nan_wins_extremes() {
        let (a, b) = (Tensor::from_f32(&[2], &[f32::NAN, 1.0]), Tensor::from_f32(&[2], &[1.0, f32::NAN]));
        let op = Op::default();
        for f in [min as fn(&EvalCx<'_>) -> Results, max] {
            assert!(run(f, &op, 13, &[&a, &b]).unwrap()[0].to_f32s().iter().all(|x| x.is_nan()));
        }
    }
}
