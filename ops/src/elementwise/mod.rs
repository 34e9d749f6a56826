//! Elementwise operators on several operands: arithmetic, comparison, logic, bits, and `Where`.
//!
//! Unary functions are the family `activation`. Source: ONNX operator documentation; since version 7 all
//! operators here broadcast multidirectionally, before only the second operand, aligned by `axis`.

mod arithmetic;
mod infer;
mod logic;

use crate::kernel::{self, broadcast_dims, checked_len};
use crate::row::{Class, EvalCx, EvalError, Out, Port, Row};

pub(crate) const ROWS: &[Row] = &[
    arithmetic_row("Add", &[1, 6, 7, 13, 14], infer::add, arithmetic::add),
    arithmetic_row("Sub", &[1, 6, 7, 13, 14], infer::sub, arithmetic::sub),
    arithmetic_row("Mul", &[1, 6, 7, 13, 14], infer::mul, arithmetic::mul),
    arithmetic_row("Div", &[1, 6, 7, 13, 14], infer::div, arithmetic::div),
    Row::onnx("Pow", &[1, 7, 12, 13, 15], Class::Other, ACTS, ACT, infer::first_type, Some(arithmetic::pow)),
    Row::onnx("Mod", &[10, 13, 28], Class::Other, ACTS, ACT, infer::first_type, Some(arithmetic::modulo)),
    // The extremes pick elements, so the range of all operands together holds.
    Row::onnx("Min", &[1, 6, 8, 12, 13], Class::Other, ACTS, UNIFY, infer::first_type, Some(arithmetic::min)),
    Row::onnx("Max", &[1, 6, 8, 12, 13], Class::Other, ACTS, UNIFY, infer::first_type, Some(arithmetic::max)),
    Row::onnx("Sum", &[1, 6, 8, 13], Class::Other, ACTS, ACT, infer::first_type, Some(arithmetic::sum)),
    Row::onnx("Mean", &[1, 6, 8, 13], Class::Other, ACTS, ACT, infer::first_type, Some(arithmetic::mean)),
    index_row("And", &[1, 7], infer::condition, logic::and),
    index_row("Or", &[1, 7], infer::condition, logic::or),
    index_row("Xor", &[1, 7], infer::condition, logic::xor),
    index_row("Not", &[1], infer::condition, logic::not),
    comparison_row("Equal", &[1, 7, 11, 13, 19], logic::equal),
    comparison_row("Less", &[1, 7, 9, 13], logic::less),
    comparison_row("Greater", &[1, 7, 9, 13], logic::greater),
    comparison_row("LessOrEqual", &[12, 16], logic::less_or_equal),
    comparison_row("GreaterOrEqual", &[12, 16], logic::greater_or_equal),
    Row::onnx(
        "Where",
        &[9, 16],
        Class::Other,
        &[Port::Index, Port::Act, Port::Act],
        UNIFY,
        infer::select,
        Some(logic::select),
    ),
    index_row("BitShift", &[11, 28], infer::first_type, logic::bit_shift),
    index_row("BitwiseAnd", &[18], infer::first_type, logic::bitwise_and),
    index_row("BitwiseOr", &[18], infer::first_type, logic::bitwise_or),
    index_row("BitwiseXor", &[18], infer::first_type, logic::bitwise_xor),
    index_row("BitwiseNot", &[18], infer::first_type, logic::bitwise_not),
];

const ACTS: &[Port] = &[Port::Act];
const ACT: &[Out] = &[Out::Act];
const UNIFY: &[Out] = &[Out::Unify];

type Infer = fn(&crate::InferCx<'_>) -> Result<Vec<crate::Fact>, crate::InferError>;
type Eval = fn(&EvalCx<'_>) -> Result<Vec<squint_ir::Tensor>, EvalError>;

const fn arithmetic_row(op: &'static str, since: &'static [i64], infer: Infer, eval: Eval) -> Row {
    Row::onnx(op, since, Class::Binary, &[Port::Act, Port::Act], ACT, infer, Some(eval))
}

const fn comparison_row(op: &'static str, since: &'static [i64], eval: Eval) -> Row {
    Row::onnx(op, since, Class::Index, ACTS, &[Out::Plain], infer::condition, Some(eval))
}

const fn index_row(op: &'static str, since: &'static [i64], infer: Infer, eval: Eval) -> Row {
    Row::onnx(op, since, Class::Index, &[Port::Index], &[Out::Plain], infer, Some(eval))
}

/// Dimensions of the first and the second operand, aligned so that they broadcast, and of the result.
struct Aligned {
    first: Vec<usize>,
    second: Vec<usize>,
    result: Vec<usize>,
}

fn align(cx: &EvalCx<'_>) -> Result<Aligned, EvalError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if a.dtype() != b.dtype() && !cx.op.is("Pow") {
        return kernel::invalid(format!("operands of types {} and {}", a.dtype(), b.dtype()));
    }
    let first = a.dims().to_vec();
    let mut second = b.dims().to_vec();
    if cx.opset < 7 {
        let lead = first.len().saturating_sub(second.len()) as i64;
        let axis = cx.op.int("axis").unwrap_or(lead);
        let axis = if axis < 0 { axis.saturating_add(first.len() as i64) } else { axis };
        let tail = (first.len() as i64).saturating_sub(axis).saturating_sub(second.len() as i64);
        second.extend(std::iter::repeat_n(1, tail.clamp(0, first.len() as i64) as usize));
    }
    let Some(result) = broadcast_dims(&[&first, &second]) else {
        return kernel::invalid(format!("shapes {first:?} and {second:?} do not broadcast"));
    };
    checked_len(&result)?;
    Ok(Aligned { first, second, result })
}
