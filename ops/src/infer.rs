//! Steps that the inference functions of several families share.
//!
//! The rule everywhere: say what is known, leave out what is not, and refuse only what cannot be true.

use crate::{Fact, InferCx, InferError};
use squint_ir::{DType, Dim, Shape};

/// What an inference function gives.
pub(crate) type Inferred = Result<Vec<Fact>, InferError>;

/// Result 0 has the element type and the shape of operand 0.
pub(crate) fn same(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(dtype(cx, 0), shape(cx, 0).cloned())])
}

/// Nothing is known of any result.
pub(crate) fn nothing(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::default(); cx.n_results])
}

/// Element type of an operand, if it is there and known.
pub(crate) fn dtype(cx: &InferCx<'_>, slot: usize) -> Option<DType> {
    cx.optional(slot).and_then(|f| f.dtype)
}

/// Shape of an operand, if it is there and known.
pub(crate) fn shape<'a>(cx: &'a InferCx<'_>, slot: usize) -> Option<&'a Shape> {
    cx.optional(slot).and_then(|f| f.shape.as_ref())
}

/// An axis counted from the front, from one that may be negative.
///
/// # Errors
/// If the axis is not in `-rank .. rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let r = rank as i64;
    let front = if axis < 0 { axis.saturating_add(r) } else { axis };
    match usize::try_from(front) {
        Ok(i) if i < rank => Ok(i),
        _ => Err(InferError(format!("axis {axis} does not exist in rank {rank}"))),
    }
}

/// The one length of two axes that have to be equally long: a number rather than a symbol, a symbol rather
/// than nothing.
///
/// # Errors
/// If both are numbers and differ; `what` says which lengths these are.
pub(crate) fn equal(a: &Dim, b: &Dim, what: &str) -> Result<Dim, InferError> {
    match (a, b) {
        (Dim::Known(x), Dim::Known(y)) if x != y => Err(InferError(format!("{what}: {x} is not {y}"))),
        (Dim::Known(_), _) | (_, Dim::Unknown) => Ok(a.clone()),
        (_, Dim::Known(_)) | (Dim::Unknown, _) => Ok(b.clone()),
        (Dim::Symbol(_), Dim::Symbol(_)) => Ok(a.clone()),
    }
}

/// Refuses a shape of another rank than `rank`; `what` names the operand.
pub(crate) fn expect_rank(shape: &Shape, rank: usize, what: &str) -> Result<(), InferError> {
    if shape.len() == rank {
        return Ok(());
    }
    Err(InferError(format!("{what} has rank {}, not {rank}", shape.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_checked_against_the_rank() {
        assert_eq!(axis(-1, 3), Ok(2));
        assert_eq!(axis(2, 3), Ok(2));
        for bad in [3, -4, i64::MIN, i64::MAX] {
            assert!(axis(bad, 3).is_err());
        }
        assert!(axis(0, 0).is_err());
    }

    #[test]
    fn numbers_win_over_symbols() {
        let (n, s) = (Dim::Known(3), Dim::Symbol("N".into()));
        assert_eq!(equal(&s, &n, ""), Ok(n.clone()));
        assert_eq!(equal(&s, &Dim::Unknown, ""), Ok(s));
        assert_eq!(equal(&n, &Dim::Known(4), "channels").unwrap_err().0, "channels: 3 is not 4");
    }
}
