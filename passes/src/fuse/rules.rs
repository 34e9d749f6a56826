//! The rules, by subject. Order within a list is the order of trial at one operator.

mod activations;
mod affine;
mod affine_forward;
mod arithmetic;
mod clamp;
mod gemm;
mod movement;
mod no_op;
mod pad;

use super::Rule;

/// Every rule.
pub(super) fn all() -> Vec<Rule> {
    [
        no_op::RULES,
        movement::RULES,
        pad::RULES,
        arithmetic::RULES,
        affine::RULES,
        affine_forward::RULES,
        gemm::RULES,
        clamp::RULES,
        activations::RULES,
    ]
    .concat()
}
