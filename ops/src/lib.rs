//! What ONNX operators mean to a quantization compiler: one [`Row`] per operator.
//!
//! A row says since which operator set versions it holds, what its operands are for ([`Port`]), how its
//! results relate to them ([`Out`]), which class it belongs to ([`Class`]), how types and shapes follow
//! ([`Row::infer`]), and, for operators that occur in constant sub-expressions, how to compute them
//! ([`Row::eval`]). One file per family; the families' tables are joined in [`row`].
//!
//! An operator without a row is not an error: its results have unknown types unless the file declares
//! them, and it stays as it is.

mod activation;
mod control;
mod conv;
mod elementwise;
mod fact;
mod gather;
mod indexing;
mod infer;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod row;
mod shape;
#[cfg(test)]
mod testing;
mod window;

pub mod kernel;

pub use fact::{Fact, InferCx, InferError};
pub use row::{Class, Eval, EvalCx, EvalError, Infer, MICROSOFT, Out, Port, Row, WeightAxis};

/// The row of an operator, or `None` if there is none.
pub fn row(domain: &str, op_type: &str) -> Option<&'static Row> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    FAMILIES.iter().flat_map(|f| f.iter()).find(|r| r.op_type == op_type && r.domain == domain)
}

/// Every row, family by family.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().flat_map(|f| f.iter())
}

const FAMILIES: &[&[Row]] = &[
    conv::ROWS,
    matmul::ROWS,
    activation::ROWS,
    elementwise::ROWS,
    pool::ROWS,
    norm::ROWS,
    reduce::ROWS,
    movement::ROWS,
    gather::ROWS,
    indexing::ROWS,
    shape::ROWS,
    resize::ROWS,
    quantize::ROWS,
    control::ROWS,
];
