//! The rules, by subject. Order within a list is the order of trial at one operator.

mod affine;

use super::Rule;

/// Every rule.
pub(super) fn all() -> Vec<Rule> {
    [affine::RULES].concat()
}
