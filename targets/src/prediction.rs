//! What a runtime will make of a model, quantized or not, by whatever tool.

use squint_ir::{Graph, OpId, ValueTable};
use squint_ops::Fact;
use std::collections::BTreeMap;

/// A graph whose execution is to be predicted.
pub struct Subject<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// What is known of its values.
    pub facts: &'a ValueTable<Fact>,
    /// Version of the default operator set.
    pub opset: i64,
    /// Whether callers may replace the defaults of graph inputs (from IR version 4 on).
    pub overridable: bool,
}

/// What becomes of a graph.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    /// Every operator of the graph, in order of execution.
    pub nodes: Vec<(OpId, Runs)>,
    /// How often each integer kernel and each conversion stands in the graph that the runtime makes of it.
    pub kernels: BTreeMap<String, usize>,
    /// Why the runtime would not load or run it.
    pub faults: Vec<Fault>,
}

/// Where an operator runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Runs {
    /// In integers.
    Integer {
        /// The kernel, or what is moved.
        kernel: String,
        /// What is remarkable about it, for example that another kernel is much faster.
        note: Option<String>,
    },
    /// It converts between float and integers by itself.
    Converts,
    /// In float.
    Float(Why),
    /// In the kernel of another operator.
    Inside(OpId),
    /// Nowhere: computed when the model is loaded, or without effect.
    Folded,
    /// It computes with shapes, indices or conditions: nothing to quantize.
    Plain,
}

/// Why an operator runs in float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The reason, in the user's language.
    pub reason: String,
    /// What would change it; empty if nothing would.
    pub remedy: String,
    /// How it comes.
    pub kind: Kind,
}

/// How it comes that an operator runs in float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The target has no integer kernel for it.
    NoKernel,
    /// It has one, but the operator was left in float.
    LeftInFloat,
    /// Somebody quantized what is around it, and still it runs in float.
    Accident,
}

/// Why a runtime refuses a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The operator at fault; `None` if it is the whole model.
    pub op: Option<OpId>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}
