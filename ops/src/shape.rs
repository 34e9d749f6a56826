//! Operators that make tensors from shapes or from nothing: `Shape`, `Size`, `Constant`, `Range`, random numbers.
//!
//! Here lengths enter the contents of values ([`Fact::dims`]): `Shape` of `[N,3,224,224]` is known to hold
//! `N, 3, 224, 224`. Source: ONNX operator documentation.

use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::kernel::{self, Element, Sink, Source, checked_len, numeric, result_dims, values};
use crate::row::{Class, EvalCx, EvalError, Out, Port, Row};
use squint_ir::{AttrValue, DType, Dim, Op, Shape, Tensor};
use std::sync::Arc;

pub(crate) const ROWS: &[Row] = &[
    index("Shape", &[1, 13, 15, 19, 21, 23, 24, 25], &[Port::Act], shape, Some(shape_kernel)),
    index("Size", &[1, 13, 19, 21, 23, 24, 25], &[Port::Act], size, Some(size_kernel)),
    // A constant is an activation only by its use.
    Row::onnx(
        "Constant",
        &[1, 9, 11, 12, 13, 19, 21, 23, 24, 25],
        Class::Other,
        &[Port::Act],
        &[Out::Act],
        constant,
        Some(constant_kernel),
    ),
    index(
        "ConstantOfShape",
        &[9, 20, 21, 23, 24, 25],
        INDEX,
        constant_of_shape,
        Some(constant_of_shape_kernel),
    ),
    index("Range", &[11, 27], INDEX, range, Some(range_kernel)),
    random("RandomNormal", &[1, 22], random_of_attribute),
    random("RandomUniform", &[1, 22], random_of_attribute),
    random("RandomNormalLike", &[1, 22], random_like),
    random("RandomUniformLike", &[1, 22], random_like),
    random("Bernoulli", &[15, 22], random_like),
];

const INDEX: &[Port] = &[Port::Index];

type Infer = fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>;
type Eval = fn(&EvalCx<'_>) -> Result<Vec<Tensor>, EvalError>;

const fn index(
    op: &'static str,
    since: &'static [i64],
    ports: &'static [Port],
    infer: Infer,
    eval: Option<Eval>,
) -> Row {
    Row::onnx(op, since, Class::Index, ports, &[Out::Plain], infer, eval)
}

const fn random(op: &'static str, since: &'static [i64], infer: Infer) -> Row {
    Row::onnx(op, since, Class::Other, &[Port::Act], &[Out::Act], infer, None)
}

fn shape(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let Some(of) = &cx.input(0)?.shape else {
        return Ok(vec![Fact::new(Some(DType::Int64), Some(vec![Dim::Unknown]))]);
    };
    let (start, end) = bounds(cx.op, of.len());
    let lengths = of[start..end].to_vec();
    let fact = Fact::new(Some(DType::Int64), Some(vec![Dim::from(lengths.len())]));
    Ok(vec![fact.with_lengths(Some(lengths))])
}

/// The attributes `start` and `end`, clamped to the rank.
fn bounds(op: &Op, rank: usize) -> (usize, usize) {
    let rank = rank as i64;
    let clamp = |i: i64| if i < 0 { i.saturating_add(rank) } else { i }.clamp(0, rank) as usize;
    let (start, end) = (clamp(op.int("start").unwrap_or(0)), clamp(op.int("end").unwrap_or(i64::MAX)));
    (start, end.max(start))
}

fn shape_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = cx.input(0)?.dims();
    let (start, end) = bounds(cx.op, dims.len());
    let lengths: Vec<i64> = dims[start..end].iter().map(|d| *d as i64).collect();
    Ok(vec![Tensor::from_i64(&[lengths.len()], &lengths)])
}

fn size(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let product = |s: &Shape| {
        let n = s.iter().try_fold(1_u64, |n, d| n.checked_mul(d.known()?));
        vec![n.map_or(Dim::Unknown, Dim::Known)]
    };
    let lengths = cx.input(0)?.shape.as_ref().map(product);
    Ok(vec![Fact::new(Some(DType::Int64), Some(vec![])).with_lengths(lengths)])
}

fn size_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![Tensor::scalar_i64(cx.input(0)?.len() as i64)])
}

fn constant(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    Ok(vec![constant_value(cx.op).map_or_else(Fact::default, Fact::constant)])
}

fn constant_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    match constant_value(cx.op) {
        Some(tensor) => Ok(vec![Tensor::clone(&tensor)]),
        None => kernel::unsupported("a constant without a dense value"),
    }
}

/// The value, whichever attribute holds it; `None` for sparse ones.
fn constant_value(op: &Op) -> Option<Arc<Tensor>> {
    op.attributes.iter().find_map(|a| match (a.name.as_str(), &a.value) {
        ("value", AttrValue::Tensor(t)) => Some(Arc::clone(t)),
        ("value_float", AttrValue::Float(x)) => Some(Arc::new(Tensor::scalar_f32(*x))),
        ("value_floats", AttrValue::Floats(v)) => Some(Arc::new(Tensor::from_f32(&[v.len()], v))),
        ("value_int", AttrValue::Int(x)) => Some(Arc::new(Tensor::scalar_i64(*x))),
        ("value_ints", AttrValue::Ints(v)) => Some(Arc::new(Tensor::from_i64(&[v.len()], v))),
        ("value_string", AttrValue::String(s)) => Tensor::strings(&[], vec![s.clone()]).ok().map(Arc::new),
        ("value_strings", AttrValue::Strings(v)) => Tensor::strings(&[v.len()], v.clone()).ok().map(Arc::new),
        _ => None,
    })
}

fn constant_of_shape(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let dtype = cx.op.tensor("value").map_or(DType::Float, |t| t.dtype());
    let target = cx.input(0)?;
    if let Some(bad) = target.ints().and_then(|v| v.into_iter().find(|n| *n < 0)) {
        return cx.error(format!("a length is {bad}"));
    }
    let rank = target.shape.as_ref().and_then(|s| s.first()?.known()).filter(|r| *r <= 64);
    let shape = target.lengths().or(rank.map(|r| vec![Dim::Unknown; r as usize]));
    Ok(vec![Fact::new(Some(dtype), shape)])
}

fn constant_of_shape_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = result_dims(cx, constant_of_shape)?;
    let len = checked_len(&dims)?;
    let Some(value) = cx.op.tensor("value") else {
        let mut sink = Sink::new(DType::Float, len);
        sink.push_zeros(len);
        return Ok(vec![sink.finish(&dims)?]);
    };
    if value.len() != 1 {
        return kernel::invalid(format!("`value` has {} elements, not 1", value.len()));
    }
    let (source, mut sink) = (Source::new(value), Sink::new(value.dtype(), len));
    (0..len).for_each(|_| sink.push(&source, 0, 1));
    Ok(vec![sink.finish(&dims)?])
}

fn range(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let dtype = (0..3).find_map(|slot| infer::dtype(cx, slot));
    let scalar = |slot: usize| cx.optional(slot).and_then(|f| f.konst.as_ref()?.scalar_value());
    let (start, delta) = (scalar(0), scalar(2));
    let limit = cx.optional(1).and_then(|f| match f.lengths()?.as_slice() {
        [d] => Some(d.clone()),
        _ => None,
    });
    let length = match (start, scalar(1), delta, limit) {
        (_, _, Some(0.0), _) => return cx.error("the step is 0"),
        (Some(start), Some(limit), Some(delta), _) => steps(start, limit, delta).map(Dim::Known),
        // From 0 in steps of 1: as many as the limit says, be it a symbol.
        (Some(0.0), None, Some(1.0), limit) => limit,
        _ => None,
    };
    Ok(vec![Fact::new(dtype, Some(vec![length.unwrap_or(Dim::Unknown)]))])
}

/// Number of elements of a range: `max(ceil((limit - start) / delta), 0)`.
fn steps(start: f64, limit: f64, delta: f64) -> Option<u64> {
    let n = ((limit - start) / delta).ceil().max(0.0);
    (n.is_finite() && n <= 9e15).then_some(n as u64)
}

fn range_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let [start, limit, delta] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    if [start, limit, delta].iter().any(|t| t.len() != 1) {
        return kernel::invalid("start, limit and step must be scalars");
    }
    // In 128 bits: the difference of two integers may not fit into 64.
    let count = match (start.to_i64s(), limit.to_i64s(), delta.to_i64s()) {
        (Some(s), Some(l), Some(d)) if d != [0] => {
            let (span, step) = (i128::from(l[0]) - i128::from(s[0]), i128::from(d[0]));
            let n = if step > 0 { (span + step - 1).div_euclid(step) } else { (span + step + 1) / step };
            usize::try_from(n.max(0)).ok()
        }
        (None, None, None) => {
            let [s, l, d] = [start, limit, delta].map(|t| t.scalar_value().unwrap_or(f64::NAN));
            if d == 0.0 { None } else { steps(s, l, d).map(|n| n as usize) }
        }
        _ => None,
    };
    let Some(count) = count else { return kernel::invalid("the step is 0, or the range has no end") };
    checked_len(&[count])?;
    numeric!(start.dtype(), T => {
        let (first, step) = (values::<T>(start)?[0], values::<T>(delta)?[0]);
        let elements: Vec<T> = (0..count).map(|i| T::at(first, step, i)).collect();
        Ok(vec![kernel::tensor(&[count], &elements)?])
    }, kernel::unsupported(format!("`Range` of {}", start.dtype())))
}

/// `first + i * step`, which by construction stays within the range of integers.
trait Progression: Element {
    fn at(first: Self, step: Self, i: usize) -> Self;
}
macro_rules! progression {
    ($($t:ty => |$first:ident, $step:ident, $i:ident| $body:expr;)*) => {$(
        impl Progression for $t {
            fn at($first: $t, $step: $t, $i: usize) -> $t { $body }
        }
    )*};
    (ints $($t:ty)*) => { progression! { $($t => |a, d, i| a.wrapping_add(d.wrapping_mul(i as $t));)* } };
}
progression! { ints u8 u16 u32 u64 i8 i16 i32 i64 }
progression! { f32 => |a, d, i| a + d * i as f32; f64 => |a, d, i| a + d * i as f64; }

fn random_of_attribute(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let length = |d: &i64| u64::try_from(*d).map_or(Dim::Unknown, Dim::Known);
    let shape = cx.op.ints("shape").map(|s| s.iter().map(length).collect());
    Ok(vec![Fact::new(Some(dtype_attribute(cx.op).unwrap_or(DType::Float)), shape)])
}

fn random_like(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let like = cx.input(0)?;
    Ok(vec![Fact::new(dtype_attribute(cx.op).or(like.dtype), like.shape.clone())])
}

fn dtype_attribute(op: &Op) -> Option<DType> {
    op.int("dtype").and_then(|d| i32::try_from(d).ok()).and_then(DType::from_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, eval, op};

    #[test]
    fn shapes() {
        check(&[
            ("Shape", 13, "", "float[N,3]", "int64[2]"),
            ("Shape", 15, "start=1 end=-1", "float[N,3,4,5]", "int64[2]"),
            ("Shape", 15, "start=-9 end=99", "float[N,3]", "int64[2]"),
            ("Shape", 15, "start=3 end=1", "float[N,3,4,5]", "int64[0]"),
            ("Shape", 13, "", "float", "int64[?]"),
            ("Size", 13, "", "float[N,3]", "int64[]"),
            ("Constant", 13, "value_ints=[1,2,3]", "-", "int64[3]"),
            ("ConstantOfShape", 9, "", "int64[2] = 3 0", "float[3,0]"),
            ("ConstantOfShape", 9, "", "int64[2] = 3 -1", "error: a length is -1"),
            ("ConstantOfShape", 9, "", "int64[3]", "float[?,?,?]"),
            ("Range", 11, "", "int64[] = 10; int64[] = 4; int64[] = -4", "int64[2]"),
            ("Range", 11, "", "int64[]; int64[] = 4; int64[] = 1", "int64[?]"),
            ("Range", 11, "", "int64[] = 0; int64[] = 4; int64[] = 0", "error: the step is 0"),
            ("RandomNormal", 1, "shape=[2,3]", "-", "float[2,3]"),
            ("RandomUniformLike", 1, "dtype=11", "float[N]", "double[N]"),
        ]);
    }

    #[test]
    fn a_shape_is_known_by_its_contents() {
        let x = Fact::new(None, Some(vec![Dim::Symbol("N".into()), Dim::Known(3)]));
        let cx = |op| InferCx { op, opset: 15, inputs: &[], n_results: 1 };
        let inputs = [Some(x)];
        let out = shape(&InferCx { inputs: &inputs, ..cx(&op("Shape", "")) }).unwrap().remove(0);
        assert_eq!(out.dims.unwrap(), [Dim::Symbol("N".into()), Dim::Known(3)]);
    }

    #[test]
    fn kernels() {
        let i = Tensor::scalar_i64;
        let run = |s, l, d| {
            let out = eval("Range", 11, "", &[Some(&i(s)), Some(&i(l)), Some(&i(d))]);
            out.map(|v| v[0].to_i64s().unwrap())
        };
        assert_eq!(run(3, 9, 4).unwrap(), [3, 7]);
        assert_eq!(run(10, 4, -2).unwrap(), [10, 8, 6]);
        assert_eq!(run(4, 10, -2).unwrap(), [0_i64; 0]);
        assert_eq!(run(i64::MIN, i64::MAX, i64::MAX).unwrap(), [i64::MIN, -1, i64::MAX - 1]);
        assert!(run(i64::MIN, i64::MAX, 1).is_err());
        let f = Tensor::scalar_f32;
        let out = eval("Range", 11, "", &[Some(&f(1.0)), Some(&f(2.0)), Some(&f(0.4))]).unwrap();
        assert_eq!(out[0].to_f32s(), [1.0, 1.4, 1.8]);
        let huge = Tensor::from_i64(&[2], &[1 << 40, 1 << 40]);
        assert!(matches!(eval("ConstantOfShape", 9, "", &[Some(&huge)]), Err(EvalError::Unsupported(_))));
        let out = eval("Constant", 13, "value_int=7", &[]).unwrap();
        assert_eq!((out[0].dims(), out[0].to_i64s().unwrap()), (&[][..], vec![7]));
    }
}
