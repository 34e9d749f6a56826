//! Attributes of operators that slide a window over spatial axes.

use squint_ir::Op;

/// An attribute that has an element for each of `n`, perhaps by default.
///
/// # Errors
/// If it has another number of elements.
pub(crate) fn list(op: &Op, name: &str, n: usize, default: i64) -> Result<Vec<i64>, &'static str> {
    match op.ints(name) {
        None | Some([]) => Ok(vec![default; n]),
        Some(list) if list.len() == n => Ok(list.to_vec()),
        Some(_) => Err("an attribute does not fit the rank"),
    }
}

/// The padding of an operator of `n` spatial axes: all beginnings, then all ends.
///
/// # Errors
/// If it depends on lengths, or does not fit the rank.
pub(crate) fn pads(op: &Op, n: usize) -> Result<Vec<i64>, &'static str> {
    match op.string("auto_pad").unwrap_or("NOTSET") {
        "VALID" => Ok(vec![0; 2 * n]),
        "NOTSET" | "" => list(op, "pads", 2 * n, 0),
        _ => Err("its own padding depends on lengths"),
    }
}
