//! Kernels of comparison, logic, bits and `Where`.

use super::align;
use crate::kernel::{self, Element, Sink, Source, View, numeric, tensor, values, zip};
use crate::row::{EvalCx, EvalError};
use squint_ir::{DType, Tensor};

type Results = Result<Vec<Tensor>, EvalError>;

macro_rules! logic {
    ($($name:ident = $f:expr;)*) => {$(
        pub(super) fn $name(cx: &EvalCx<'_>) -> Results {
            map::<bool, bool>(cx, $f)
        }
    )*};
}
logic! { and = |a, b| a & b; or = |a, b| a | b; xor = |a, b| a ^ b; }

pub(super) fn not(cx: &EvalCx<'_>) -> Results {
    let x = cx.input(0)?;
    let out: Vec<bool> = values::<bool>(x)?.into_iter().map(|b| !b).collect();
    Ok(vec![tensor(x.dims(), &out)?])
}

macro_rules! compare {
    ($($name:ident = $f:expr;)*) => {$(
        pub(super) fn $name(cx: &EvalCx<'_>) -> Results {
            let dtype = cx.input(0)?.dtype();
            numeric!(dtype, T => map::<T, bool>(cx, $f), no_kernel(cx))
        }
    )*};
}
compare! {
    less = |a, b| a < b;
    greater = |a, b| a > b;
    less_or_equal = |a, b| a <= b;
    greater_or_equal = |a, b| a >= b;
}

/// `Equal` also compares booleans and strings.
pub(super) fn equal(cx: &EvalCx<'_>) -> Results {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    match (a.as_strings(), b.as_strings()) {
        (Some(a), Some(b)) => {
            let dims = align(cx)?;
            let (a, b): (Vec<&[u8]>, Vec<&[u8]>) =
                (a.iter().map(|s| &**s).collect(), b.iter().map(|s| &**s).collect());
            let out = zip((&a, &dims.first), (&b, &dims.second), &dims.result, |x, y| x == y);
            Ok(vec![tensor(&dims.result, &out.unwrap_or_default())?])
        }
        _ if a.dtype() == DType::Bool => map::<bool, bool>(cx, |a, b| a == b),
        _ => numeric!(a.dtype(), T => map::<T, bool>(cx, |a, b| a == b), no_kernel(cx)),
    }
}

macro_rules! bitwise {
    ($($name:ident = $f:expr;)*) => {$(
        pub(super) fn $name(cx: &EvalCx<'_>) -> Results {
            let dtype = cx.input(0)?.dtype();
            numeric!(int dtype, T => map::<T, T>(cx, $f), no_kernel(cx))
        }
    )*};
}
bitwise! { bitwise_and = |a, b| a & b; bitwise_or = |a, b| a | b; bitwise_xor = |a, b| a ^ b; }

pub(super) fn bitwise_not(cx: &EvalCx<'_>) -> Results {
    let x = cx.input(0)?;
    numeric!(int x.dtype(), T => {
        let out: Vec<T> = values::<T>(x)?.into_iter().map(|b| !b).collect();
        Ok(vec![tensor(x.dims(), &out)?])
    }, no_kernel(cx))
}

/// Shifts by as many bits as there are, or more, give 0.
#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "the body is compiled for every integer type"
)]
pub(super) fn bit_shift(cx: &EvalCx<'_>) -> Results {
    let left = match cx.op.string("direction") {
        Some("LEFT") => true,
        Some("RIGHT") => false,
        _ => return kernel::invalid("attribute `direction` must be `LEFT` or `RIGHT`"),
    };
    numeric!(int cx.input(0)?.dtype(), T => map::<T, T>(cx, |a, b| {
        let by = u32::try_from(b).unwrap_or(u32::MAX);
        let shifted = if left { a.checked_shl(by) } else { a.checked_shr(by) };
        shifted.unwrap_or(0)
    }), no_kernel(cx))
}

pub(super) fn select(cx: &EvalCx<'_>) -> Results {
    let (condition, yes, no) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if yes.dtype() != no.dtype() {
        return kernel::invalid(format!("operands of types {} and {}", yes.dtype(), no.dtype()));
    }
    let Some(dims) = kernel::broadcast_dims(&[condition.dims(), yes.dims(), no.dims()]) else {
        let shapes = (condition.dims(), yes.dims(), no.dims());
        return kernel::invalid(format!("shapes {shapes:?} do not broadcast"));
    };
    let len = kernel::checked_len(&dims)?;
    let conditions = values::<bool>(condition)?;
    let offsets = |t: &Tensor| View::new(t.dims()).broadcast(&dims).into_iter().flat_map(|v| v.offsets());
    let (from_yes, from_no) = (Source::new(yes), Source::new(no));
    let mut sink = Sink::new(yes.dtype(), len);
    for ((c, y), n) in offsets(condition).zip(offsets(yes)).zip(offsets(no)) {
        if conditions[c] {
            sink.push(&from_yes, y, 1);
        } else {
            sink.push(&from_no, n, 1);
        }
    }
    Ok(vec![sink.finish(&dims)?])
}

fn map<T: Element, R: Element>(cx: &EvalCx<'_>, f: impl Fn(T, T) -> R) -> Results {
    let dims = align(cx)?;
    let (a, b) = (values::<T>(cx.input(0)?)?, values::<T>(cx.input(1)?)?);
    let out = zip((&a, &dims.first), (&b, &dims.second), &dims.result, f).unwrap_or_default();
    Ok(vec![tensor(&dims.result, &out)?])
}

fn no_kernel<T>(cx: &EvalCx<'_>) -> Result<T, EvalError> {
    kernel::unsupported(format!("`{}` of {}", cx.op.op_type, cx.input(0)?.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{Bytes, Op};

    fn run(f: fn(&EvalCx<'_>) -> Results, op: &Op, inputs: &[&Tensor]) -> Vec<i64> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        let out = f(&EvalCx { op, opset: 19, inputs: &inputs, n_results: 1 }).unwrap();
        out[0].to_i64s().unwrap()
    }

    #[test]
    fn comparisons_and_bits() {
        let op = Op::default();
        let (a, b) = (Tensor::from_i64(&[3], &[1, 2, 3]), Tensor::scalar_i64(2));
        assert_eq!(run(less_or_equal, &op, &[&a, &b]), [1, 1, 0]);
        assert_eq!(run(equal, &op, &[&a, &b]), [0, 1, 0]);
        assert_eq!(run(bitwise_xor, &op, &[&a, &b]), [3, 0, 1]);
        let s = Tensor::strings(&[2], vec![Bytes::from("x"), Bytes::from("y")]).unwrap();
        let t = Tensor::strings(&[], vec![Bytes::from("y")]).unwrap();
        assert_eq!(run(equal, &op, &[&s, &t]), [0, 1]);
        let mut shift = Op::default();
        shift.set_attr("direction", "LEFT");
        let (x, by) = (Tensor::from_u8(&[3], &[1, 1, 255]), Tensor::from_u8(&[3], &[3, 8, 1]));
        assert_eq!(run(bit_shift, &shift, &[&x, &by]), [8, 0, 254]);
    }

    #[test]
    fn where_selects_elements() {
        let c = Tensor::from_bool(&[2, 1], &[true, false]);
        let (x, y) = (Tensor::from_i64(&[2], &[1, 2]), Tensor::scalar_i64(9));
        assert_eq!(run(select, &Op::default(), &[&c, &x, &y]), [1, 2, 9, 9]);
    }
}
