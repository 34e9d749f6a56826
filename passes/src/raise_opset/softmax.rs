//! Softmax, LogSoftmax and Hardmax at 13.
//!
//! Before, they worked on the matrix that comes of flattening the operand at `axis` (1 by default): over
//! all axes from there on together. Since 13 they work along the one axis `axis` (−1 by default). The two
//! are the same where at most one axis from `axis` on is longer than 1; else the flattening is written out:
//!
//! ```text
//! y = Softmax <axis = 1> (x)
//!
//! f = Flatten <axis = 1> (x)
//! s = Softmax <axis = -1> (f)
//! shape = Shape (x)
//! y = Reshape (s, shape)
//! ```

use super::site::Site;
use crate::pass::PassError;
use squint_ir::{Dim, OpSpec, Shape};
use squint_ops::kernel::resolve_axis;

/// The adapter of all three.
pub(super) fn softmax_13(site: &mut Site<'_, '_>) -> Result<(), PassError> {
    let axis = site.op().int("axis").unwrap_or(1);
    if let Some(single) = single_axis(axis, site.shape().as_ref()) {
        site.op_mut().set_attr("axis", single);
        return Ok(());
    }
    let Some(x) = site.operand(0) else { return Ok(()) };
    site.wrap_operand(OpSpec::new("Flatten").attr("axis", axis), "flatten");
    site.op_mut().set_attr("axis", -1i64);
    site.reshape_result_like(x);
    Ok(())
}

/// The one axis that the old form normalises over, from its first axis; `None` if there are several, or it
/// is not known. The last axis is written −1, as exporters do.
fn single_axis(axis: i64, shape: Option<&Shape>) -> Option<i64> {
    if axis == -1 {
        return Some(-1);
    }
    let shape = shape?;
    let first = resolve_axis(axis, shape.len())?;
    let mut long = (first..shape.len()).filter(|i| shape[*i] != Dim::Known(1));
    let only = long.next().unwrap_or(shape.len() - 1);
    match long.next() {
        Some(_) => None,
        None if only + 1 == shape.len() => Some(-1),
        None => i64::try_from(only).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::single_axis;
    use squint_ir::Dim::{Known, Symbol, Unknown};

    #[test]
    fn one_axis_is_enough_if_the_others_have_length_one() {
        let n = || Symbol("N".into());
        for (axis, shape, wanted) in [
            (1, vec![n(), Known(10)], Some(-1)),
            (-2, vec![n(), Unknown, Known(1)], Some(1)),
            (1, vec![n(), Known(1), Known(1)], Some(-1)),
            (1, vec![n(), Known(1), Known(5), Known(1)], Some(2)),
            (1, vec![n(), Known(4), Known(5)], None),
            (0, vec![n(), Known(4)], None),
            (5, vec![n(), Known(4)], None),
        ] {
            assert_eq!(single_axis(axis, Some(&shape)), wanted, "{axis} {shape:?}");
        }
        assert_eq!((single_axis(-1, None), single_axis(1, None)), (Some(-1), None));
    }
}
