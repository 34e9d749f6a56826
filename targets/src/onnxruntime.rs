//! A model of ONNX Runtime's CPU provider: what becomes of a model when a session is made of it.
//!
//! Before it runs anything, the runtime rewrites the graph in three levels (`graph_transformer_utils.cc`). Which
//! operators end up in integer kernels depends on that rewriting as a whole, so it is repeated here, on a copy of the
//! graph and as far as integers depend on it: one file for each of the runtime's passes, named after its source. Then
//! the graph is read: an operator that is a kernel of integers by now runs in integers, and for every other one the
//! first condition that its pattern misses is the reason. Source: release 1.31; `cargo xtask oracle` compares the
//! prediction with the graph that the runtime writes, pattern by pattern and for whole models.
//!
//! Left out is what has no influence on that: fusions of float operators among themselves, and layouts (NCHWc, NHWC).

mod absorb;
mod bias;
mod cse;
mod dynamic;
mod fold;
mod gemm_transpose;
pub(crate) mod kernels;
mod linear;
mod load;
mod matmul_add;
mod pairs;
mod propagate;
mod select;
mod signs;
mod sim;
mod slices;
mod transposes;
mod unique;
mod verdict;
mod weight_bias;
mod where_constant;

use crate::prediction::{Prediction, Subject};
use sim::Sim;

/// Which signs of integers the kernels of a processor take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signs {
    /// Signed activations have kernels (ARM), and are not rewritten to unsigned ones.
    pub(crate) signed: bool,
    /// Products of unsigned activations with unsigned weights are much slower than with signed ones.
    pub(crate) slow_unsigned_weights: bool,
}

/// The runtime repeats each level until nothing changes, but no more often than this.
const MAX_STEPS: usize = 10;

/// A pass of the runtime.
type Pass = fn(&mut Sim) -> bool;

/// Rewriting that does not depend on the processor, in the order of the runtime.
const BASIC: &[Pass] = &[
    fold::eliminate,
    gemm_transpose::join,
    pairs::join_double,
    cse::merge_equal,
    fold::fold_constants,
    matmul_add::join,
    fold::fold_shapes,
    propagate::propagate,
    weight_bias::quantize,
    where_constant::quantize,
    unique::copy_shared,
    transposes::push,
];

/// Rewriting to kernels.
const EXTENDED: &[Pass] = &[
    absorb::remove_redundant,
    signs::make_unsigned,
    select::select_all,
    dynamic::join_scales,
    dynamic::join_quantizer,
    slices::join,
    pairs::clean_up,
];

/// What becomes of a graph on such a signs.
pub(crate) fn predict(subject: &Subject<'_>, signs: Signs) -> Prediction {
    let Subject { graph, facts, opset, overridable } = *subject;
    let mut sim = Sim::new(graph, facts, opset, signs.signed, overridable);
    unique::copy_shared(&mut sim);
    for level in [BASIC, EXTENDED] {
        for _ in 0..MAX_STEPS {
            let changed = level.iter().fold(false, |changed, pass| pass(&mut sim) | changed);
            if !changed {
                break;
            }
        }
    }
    let mut faults = load::faults(subject);
    faults.extend(load::rewritten_faults(&sim));
    Prediction { nodes: verdict::nodes(graph, &sim, signs), kernels: verdict::kernels(&sim), faults }
}
