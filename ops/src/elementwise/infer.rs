//! Types, shapes and lengths of elementwise results.

use crate::fact::{Fact, InferCx, InferError};
use crate::kernel::broadcast_shapes;
use squint_ir::{DType, Dim, Shape};

/// Element type of the first operand that has one, broadcast shape.
pub(super) fn first_type(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let dtype = cx.inputs.iter().flatten().find_map(|f| f.dtype);
    Ok(vec![Fact::new(dtype, broadcast(cx)?)])
}

/// Booleans of the broadcast shape.
pub(super) fn condition(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    Ok(vec![Fact::new(Some(DType::Bool), broadcast(cx)?)])
}

pub(super) fn add(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    with_lengths(cx, |a, b| match (a, b) {
        (Dim::Known(0), d) | (d, Dim::Known(0)) => d.clone(),
        (Dim::Known(x), Dim::Known(y)) => known(x.checked_add(*y)),
        _ => Dim::Unknown,
    })
}

pub(super) fn sub(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    with_lengths(cx, |a, b| match (a, b) {
        (d, Dim::Known(0)) => d.clone(),
        (Dim::Known(x), Dim::Known(y)) => known(x.checked_sub(*y)),
        (Dim::Symbol(x), Dim::Symbol(y)) if x == y => Dim::Known(0),
        _ => Dim::Unknown,
    })
}

pub(super) fn mul(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    with_lengths(cx, |a, b| match (a, b) {
        (Dim::Known(1), d) | (d, Dim::Known(1)) => d.clone(),
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        (Dim::Known(x), Dim::Known(y)) => known(x.checked_mul(*y)),
        _ => Dim::Unknown,
    })
}

pub(super) fn div(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    with_lengths(cx, |a, b| match (a, b) {
        (d, Dim::Known(1)) => d.clone(),
        (Dim::Known(x), Dim::Known(y)) => known(x.checked_div(*y)),
        _ => Dim::Unknown,
    })
}

/// `Where`: the condition does not count for the element type; lengths survive where both sides agree or
/// the condition is constant.
pub(super) fn select(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let (condition, yes, no) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let shape = broadcast(cx)?;
    let lengths = match (&shape, yes.lengths(), no.lengths()) {
        (Some(s), Some(y), Some(n)) if s.len() <= 1 => {
            let len = y.len().max(n.len());
            let chosen = condition.konst.as_ref().filter(|c| c.len() <= len).and_then(|c| c.to_i64s());
            let pick = |v: &[Dim], i: usize| if v.len() == 1 { v.first() } else { v.get(i) }.cloned();
            (0..len)
                .map(|i| {
                    let (y, n) = (pick(&y, i)?, pick(&n, i)?);
                    let c = chosen.as_ref().and_then(|c| if c.len() == 1 { c.first() } else { c.get(i) });
                    Some(match c {
                        Some(0) => n,
                        Some(_) => y,
                        None if y == n => y,
                        None => Dim::Unknown,
                    })
                })
                .collect()
        }
        _ => None,
    };
    // A condition longer than both sides repeats them; then the lengths do not cover the result.
    let fits = |n: usize| match shape.as_deref() {
        Some([]) => n == 1,
        Some([d]) => d.known() == Some(n as u64),
        _ => false,
    };
    let lengths = lengths.filter(|l: &Vec<Dim>| fits(l.len()));
    Ok(vec![Fact::new(yes.dtype.or(no.dtype), shape).with_lengths(lengths)])
}

fn known(n: Option<u64>) -> Dim {
    n.map_or(Dim::Unknown, Dim::Known)
}

/// The common shape of all operands, if the rank of each is known.
fn broadcast(cx: &InferCx<'_>) -> Result<Option<Shape>, InferError> {
    // Before version 7 the first operand alone decides.
    let count = if cx.opset < 7 && cx.inputs.len() == 2 { 1 } else { cx.inputs.len() };
    let shapes: Option<Vec<&Shape>> = cx.inputs[..count].iter().flatten().map(|f| f.shape.as_ref()).collect();
    let Some(shapes) = shapes.filter(|s| !s.is_empty()) else { return Ok(None) };
    match broadcast_shapes(&shapes) {
        Some(shape) => Ok(Some(shape)),
        None => {
            let show = |s: &&Shape| {
                let dims: Vec<String> = s.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(","))
            };
            let shapes: Vec<String> = shapes.iter().map(show).collect();
            cx.error(format!("shapes {} do not broadcast", shapes.join(" and ")))
        }
    }
}

/// As [`first_type`]; where both operands are lengths, the result is what `f` makes of them.
fn with_lengths(cx: &InferCx<'_>, f: impl Fn(&Dim, &Dim) -> Dim) -> Result<Vec<Fact>, InferError> {
    let facts = first_type(cx)?;
    let [Some(a), Some(b)] = cx.inputs else { return Ok(facts) };
    let (Some(x), Some(y)) = (a.lengths(), b.lengths()) else { return Ok(facts) };
    let lengths = match (x.as_slice(), y.as_slice()) {
        (x, y) if x.len() == y.len() => Some(x.iter().zip(y).map(|(a, b)| f(a, b)).collect()),
        (x, [b]) => Some(x.iter().map(|a| f(a, b)).collect()),
        ([a], y) => Some(y.iter().map(|b| f(a, b)).collect()),
        _ => None,
    };
    Ok(facts.into_iter().map(|fact| fact.with_lengths(lengths.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{Op, Tensor};
    use std::sync::Arc;

    fn lengths(dims: &[Dim]) -> Option<Fact> {
        let shape = vec![Dim::from(dims.len())];
        Some(Fact::new(Some(DType::Int64), Some(shape)).with_lengths(Some(dims.to_vec())))
    }

    fn infer(f: fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>, inputs: &[Option<Fact>]) -> Fact {
        f(&InferCx { op: &Op::default(), opset: 13, inputs, n_results: 1 }).unwrap().remove(0)
    }

    #[test]
    fn lengths_are_computed_with() {
        let n = Dim::Symbol("N".into());
        let two = Some(Fact::constant(Arc::new(Tensor::scalar_i64(2))));
        let one = Some(Fact::constant(Arc::new(Tensor::scalar_i64(1))));
        let minus = Some(Fact::constant(Arc::new(Tensor::scalar_i64(-1))));
        let v = lengths(&[n.clone(), Dim::Known(7)]);
        let of = |f: Fact| f.dims.unwrap();
        assert_eq!(of(infer(mul, &[v.clone(), two.clone()])), [Dim::Unknown, Dim::Known(14)]);
        assert_eq!(of(infer(mul, &[v.clone(), one])), [n.clone(), Dim::Known(7)]);
        assert_eq!(of(infer(div, &[v.clone(), two])), [Dim::Unknown, Dim::Known(3)]);
        assert_eq!(of(infer(sub, &[v.clone(), v.clone()])), [Dim::Known(0), Dim::Known(0)]);
        assert_eq!(of(infer(add, &[v.clone(), minus])), [Dim::Unknown, Dim::Unknown]);
        let mask = Some(Fact::constant(Arc::new(Tensor::from_bool(&[2], &[true, false]))));
        let other = lengths(&[Dim::Known(1), Dim::Known(9)]);
        assert_eq!(of(infer(select, &[mask, v.clone(), other])), [n, Dim::Known(9)]);
    }

    #[test]
    fn conflicts_are_named_and_the_unknown_is_not_one() {
        let f = |d: &[u64]| Some(Fact::new(None, Some(d.iter().map(|d| Dim::Known(*d)).collect())));
        let cx = |inputs| InferCx { op: Box::leak(Box::default()), opset: 13, inputs, n_results: 1 };
        let error = first_type(&cx(&[f(&[2, 3]), f(&[4])])).unwrap_err();
        assert_eq!(error.0, "shapes [2,3] and [4] do not broadcast");
        assert_eq!(infer(first_type, &[f(&[2]), Some(Fact::default())]), Fact::default());
    }
}
