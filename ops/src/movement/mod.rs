//! Operators that move or copy elements without changing them, and `Cast`.
//!
//! Source: ONNX operator documentation. Kernels work on elements of any width, strings included. Those for
//! which the shape rule says everything about the result ask it for the result's dimensions.

mod blocks;
mod cast;
mod join;
mod pad;
mod repeat;
mod reshape;
mod slice;

use crate::fact::{Fact, InferCx, InferError};
use crate::row::{Class, EvalCx, EvalError, Out, Port, Row};
use squint_ir::{Dim, Tensor};

pub(crate) const ROWS: &[Row] = &[
    movement("Identity", &[1, 13, 14, 16, 19, 21, 23, 24, 25], ACT, identity, identity_kernel),
    movement("Reshape", &[1, 5, 13, 14, 19, 21, 23, 24, 25], ACT_INDEX, reshape::reshape, reshape::kernel),
    movement("Flatten", &[1, 9, 11, 13, 21, 23, 24, 25], ACT, reshape::flatten, reshape::kernel),
    movement("Squeeze", &[1, 11, 13, 21, 23, 24, 25], ACT_INDEX, reshape::squeeze, reshape::kernel),
    movement("Unsqueeze", &[1, 11, 13, 21, 23, 24, 25], ACT_INDEX, reshape::unsqueeze, reshape::kernel),
    movement("Transpose", &[1, 13, 21, 23, 24, 25], ACT, repeat::transpose, repeat::transpose_kernel),
    Row::onnx(
        "Concat",
        &[1, 4, 11, 13],
        Class::Join,
        ACT,
        &[Out::Unify],
        join::concat,
        Some(join::concat_kernel),
    ),
    movement("Split", &[1, 2, 11, 13, 18], ACT_INDEX, join::split, join::split_kernel),
    movement("Slice", &[1, 10, 11, 13], ACT_INDEX, slice::slice, slice::kernel),
    movement("Pad", &[1, 2, 11, 13, 18, 19, 21, 23, 24, 25], PAD, pad::pad, pad::kernel),
    movement("Expand", &[8, 13], ACT_INDEX, repeat::expand, repeat::expand_kernel),
    movement("Tile", &[1, 6, 13], ACT_INDEX, repeat::tile, repeat::tile_kernel),
    movement("DepthToSpace", &[1, 11, 13, 28], ACT, blocks::depth_to_space, blocks::depth_to_space_kernel),
    movement("SpaceToDepth", &[1, 13, 28], ACT, blocks::space_to_depth, blocks::space_to_depth_kernel),
    cast_row("Cast", &[1, 6, 9, 13, 19, 21, 23, 24, 25, 28], ACT),
    cast_row("CastLike", &[15, 19, 21, 23, 24, 25], ACT_INDEX),
];

const ACT: &[Port] = &[Port::Act];
const ACT_INDEX: &[Port] = &[Port::Act, Port::Index];
/// Data, pads, the constant, axes.
const PAD: &[Port] = &[Port::Act, Port::Index, Port::Param, Port::Index];

type Infer = fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>;
type Eval = fn(&EvalCx<'_>) -> Result<Vec<Tensor>, EvalError>;

const fn movement(
    op: &'static str,
    since: &'static [i64],
    ports: &'static [Port],
    infer: Infer,
    eval: Eval,
) -> Row {
    Row::onnx(op, since, Class::Movement, ports, &[Out::Same(0)], infer, Some(eval))
}

const fn cast_row(op: &'static str, since: &'static [i64], ports: &'static [Port]) -> Row {
    Row::onnx(op, since, Class::Other, ports, &[Out::Act], cast::cast, Some(cast::kernel))
}

fn identity(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    Ok(vec![cx.input(0)?.clone()])
}

fn identity_kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![cx.input(0)?.clone()])
}

/// Integers from an operand; those that are not known are `None`.
fn numbers(fact: &Fact) -> Option<Vec<Option<i64>>> {
    if let Some(tensor) = &fact.konst {
        return Some(tensor.to_i64s()?.into_iter().map(Some).collect());
    }
    let known = |d: &Dim| d.known().and_then(|n| i64::try_from(n).ok());
    Some(fact.dims.as_ref()?.iter().map(known).collect())
}

/// The product of lengths: a symbol survives multiplication by 1.
fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::Known(1), |n, d| match (n, d) {
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        (Dim::Known(1), d) => d.clone(),
        (n, Dim::Known(1)) => n,
        (Dim::Known(x), Dim::Known(y)) => x.checked_mul(*y).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    })
}

/// A shape as messages show it.
fn show(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::op;
    use squint_ir::DType;
    use std::sync::Arc;

    /// Infers result 0 of a chain of operators, the way a pass does.
    fn apply(name: &str, attrs: &str, inputs: &[&Fact]) -> Fact {
        let inputs: Vec<Option<Fact>> = inputs.iter().map(|f| Some((*f).clone())).collect();
        let cx = InferCx { op: &op(name, attrs), opset: 13, inputs: &inputs, n_results: 1 };
        (crate::row("", name).unwrap().infer)(&cx).unwrap().remove(0)
    }

    fn ints(dims: &[usize], v: &[i64]) -> Fact {
        Fact::constant(Arc::new(Tensor::from_i64(dims, v)))
    }

    #[test]
    fn a_symbolic_length_flows_through_shape_arithmetic() {
        let (n, k) = (Dim::Symbol("N".into()), Dim::Known);
        let x = Fact::new(Some(DType::Float), Some(vec![n.clone(), k(1280), k(1), k(1)]));
        let shape = apply("Shape", "", &[&x]);
        let first = apply("Gather", "axis=0", &[&shape, &ints(&[], &[0])]);
        assert_eq!((first.dims.as_deref(), first.rank()), (Some(&[n.clone()][..]), Some(0)));
        let first = apply("Unsqueeze", "", &[&apply("Cast", "to=7", &[&first]), &ints(&[1], &[0])]);
        let target = apply("Concat", "axis=0", &[&first, &ints(&[1], &[-1])]);
        let y = apply("Reshape", "", &[&x, &target]);
        assert_eq!(y.shape, Some(vec![n.clone(), k(1280)]));

        let tail = apply("Slice", "", &[&shape, &ints(&[1], &[1]), &ints(&[1], &[i64::MAX])]);
        let doubled = apply("Mul", "", &[&tail, &ints(&[], &[2])]);
        let target = apply("Concat", "axis=0", &[&first, &doubled]);
        let zeros = apply("ConstantOfShape", "", &[&target]);
        assert_eq!(zeros.shape, Some(vec![n.clone(), k(2560), k(2), k(2)]));
        let wide = apply("Expand", "", &[&apply("Identity", "", &[&x]), &target_of(&first)]);
        assert_eq!(wide.shape, Some(vec![n, k(1280), k(1), k(7)]));
    }

    fn target_of(first: &Fact) -> Fact {
        apply("Concat", "axis=0", &[first, &ints(&[3], &[1, 1, 7])])
    }

    #[test]
    fn products_keep_a_single_symbol() {
        let n = Dim::Symbol("N".into());
        assert_eq!(product(&[Dim::Known(1), n.clone(), Dim::Known(1)]), n);
        assert_eq!(product(&[n, Dim::Known(2), Dim::Known(0)]), Dim::Known(0));
        assert_eq!(product(&[Dim::Known(u64::MAX), Dim::Known(2)]), Dim::Unknown);
    }
}
