//! The rules, by subject. Order within a list is the order of trial at one operator.

/// A table of rules:
///
/// ```text
/// /// Law: an equation, with where it holds. It stands in `docs/rewrites.md`.
/// "name": "pattern", "another pattern" => "replacement", apply;
/// ```
///
/// The replacement is ONNX text like a pattern, in which primed constants are computed; `y = x` says that
/// nothing is left. Tests hold `apply` to the operators it names.
macro_rules! rules {
    ($($(#[doc = $law:literal])+ $name:literal: $($pattern:literal),+ => $becomes:literal, $apply:path;)+) => {
        &[$($crate::fuse::Rule {
            name: $name,
            law: concat!($($law, "\n"),+),
            patterns: &[$($pattern),+],
            becomes: $becomes,
            apply: $apply,
        }),+]
    };
}

mod activations;
mod affine;
mod affine_forward;
mod arithmetic;
pub(super) mod clamp;
mod gelu;
mod gemm;
mod hoist;
mod join;
mod lookup;
mod movement;
mod no_op;
mod norm;
mod pad;
mod quantized;
mod reduce;
mod reshape;
mod slice;
mod taps;
mod transposed;

use super::Rule;

/// Rules of one subject.
pub(super) struct Family {
    /// Heading in `docs/rewrites.md`.
    pub(super) title: &'static str,
    /// The rules.
    pub(super) rules: &'static [Rule],
}

/// Every rule.
pub(super) const FAMILIES: &[Family] = &[
    Family { title: "What changes nothing", rules: no_op::RULES },
    Family { title: "Transposes", rules: movement::RULES },
    Family { title: "Shapes", rules: reshape::RULES },
    Family { title: "Slices", rules: slice::RULES },
    Family { title: "Concat and Expand", rules: join::RULES },
    Family { title: "Reductions", rules: reduce::RULES },
    Family { title: "Padding", rules: pad::RULES },
    Family { title: "Windows", rules: taps::RULES },
    Family { title: "Transposed convolutions", rules: transposed::RULES },
    Family { title: "Arithmetic with constants", rules: arithmetic::RULES },
    Family { title: "Behind a contraction", rules: affine::RULES },
    Family { title: "Before a contraction", rules: affine_forward::RULES },
    Family { title: "Tables", rules: lookup::RULES },
    Family { title: "Matrix products", rules: gemm::RULES },
    Family { title: "Factors moved up", rules: hoist::RULES },
    Family { title: "Clamps", rules: clamp::RULES },
    Family { title: "Activations", rules: activations::RULES },
    Family { title: "Gelu", rules: gelu::RULES },
    Family { title: "Normalisations", rules: norm::RULES },
    Family { title: "Quantization", rules: quantized::RULES },
];

/// Every rule, in the order of trial.
pub(super) fn all() -> impl Iterator<Item = Rule> {
    FAMILIES.iter().flat_map(|f| f.rules).copied()
}
