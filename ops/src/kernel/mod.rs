//! What the reference kernels and the shape rules of all families share.
//!
//! - [`broadcast_shapes`] and [`broadcast_dims`]: multidirectional broadcasting;
//! - [`View`]: a strided view, with which broadcasting, transposing and slicing are arithmetic on strides;
//! - [`Source`] and [`Sink`]: elements of any type, moved as bytes without looking at them;
//! - [`Element`], [`values`] and [`tensor`]: elements of one type, computed with.
//!
//! Kernels are for folding constants: they are exact and bounded (at most [`MAX_ELEMENTS`] per result), and
//! linear in the size of operands and results, but they are not tuned.

mod broadcast;
mod element;
pub mod float;
mod movement;

pub use broadcast::{Offsets, View, broadcast_dims, broadcast_shapes, zip};
pub(crate) use element::numeric;
pub use element::{Element, tensor, values};
pub use movement::{Sink, Source, gather_view, remap};

use crate::{EvalCx, EvalError, Fact, InferCx, InferError};
use squint_ir::TensorError;
use squint_ir::types::known_dims;
use std::sync::Arc;

/// The largest number of elements a kernel makes (64 Mi).
pub const MAX_ELEMENTS: usize = 64 << 20;

/// The number of elements of a shape.
///
/// # Errors
/// `Unsupported` if there are more than [`MAX_ELEMENTS`].
pub fn checked_len(dims: &[usize]) -> Result<usize, EvalError> {
    if dims.contains(&0) {
        return Ok(0);
    }
    let len = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_ELEMENTS);
    len.ok_or_else(|| EvalError::Unsupported(format!("a result of shape {dims:?} is too large to fold")))
}

/// The dimensions of result 0, from the inference function of the operator: a kernel need not repeat it.
///
/// # Errors
/// If the operands do not fit, or the result is too large.
pub(crate) fn result_dims(
    cx: &EvalCx<'_>,
    infer: fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>,
) -> Result<Vec<usize>, EvalError> {
    let inputs: Vec<Option<Fact>> =
        cx.inputs.iter().map(|t| t.map(|t| Fact::constant(Arc::new(t.clone())))).collect();
    let facts = infer(&InferCx { op: cx.op, opset: cx.opset, inputs: &inputs, n_results: cx.n_results })
        .map_err(|e| EvalError::Invalid(e.0))?;
    let dims = facts.first().and_then(|f| known_dims(f.shape.as_ref()?));
    let Some(dims) = dims else { return unsupported("the shape of the result depends on more than shapes") };
    checked_len(&dims)?;
    Ok(dims)
}

/// An axis in `[-rank, rank)`, counted from the front; `None` if out of range.
pub fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// Row-major strides in elements. Meaningless, but never a panic, for a shape whose size overflows.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].wrapping_mul(dims[i]);
    }
    strides
}

/// An `Unsupported` error.
pub fn unsupported<T>(message: impl std::fmt::Display) -> Result<T, EvalError> {
    Err(EvalError::Unsupported(message.to_string()))
}

/// An `Invalid` error.
pub fn invalid<T>(message: impl std::fmt::Display) -> Result<T, EvalError> {
    Err(EvalError::Invalid(message.to_string()))
}

impl From<TensorError> for EvalError {
    fn from(e: TensorError) -> EvalError {
        EvalError::Invalid(e.to_string())
    }
}
