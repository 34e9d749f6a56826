//! Which values can get more channels, filled with what nothing reads, and where their own channels lie then.
//!
//! Values that operators compute channel by channel belong together; between convolutions with constant weights, which
//! can make and read any channels in any order, they can be laid out freely. And which values are in blocks.

use super::konst;
use crate::elementwise::is_elementwise;
use squint_ir::{DType, Graph, OpId, Shape, ValueId, ValueTable};
use squint_ops::Fact;
use std::collections::BTreeMap;

/// For each place of a padded value the channel that lies there, or `None` for one that is padding.
pub(super) type Layout = Vec<Option<usize>>;

/// What an operator does to channels.
pub(super) enum Role {
    /// A convolution of one group: reads and makes any channels.
    Dense,
    /// A convolution of each channel with a kernel of its own.
    Depthwise,
    /// Computes each channel from the same channel of its operands.
    ByChannel,
    /// Puts channels behind channels.
    Concat,
    /// Anything else.
    Other,
}

/// Functions whose value at zero is finite, and of all finite numbers of reasonable size.
const TAME: &[&str] = &[
    "Abs",
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
];

/// Operators on windows of each channel.
pub(super) const POOLS: &[&str] = &["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"];

/// Of two operands, or of one and constants.
const BINARY: &[&str] = &["Add", "Max", "Min", "Mul", "Sub", "Sum"];

/// True for functions that [`TAME`] lists.
pub(super) fn is_tame(op_type: &str) -> bool {
    TAME.contains(&op_type)
}

impl Role {
    pub(super) fn of(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> Role {
        let node = g.op(op);
        if !node.is_onnx() || g.results(op).len() != 1 || !g.captures(op).is_empty() {
            return Role::Other;
        }
        let kind = node.op_type.as_str();
        let constant = |slot| g.operand(op, slot).is_none_or(|v| konst(g, v).is_some());
        let good = match kind {
            "Conv" => {
                let weight = g.operand(op, 1).and_then(|v| konst(g, v)).filter(|w| w.dtype() == DType::Float);
                let Some(dims) = weight.map(|w| w.dims()).filter(|d| d.len() == 4 && constant(2)) else {
                    return Role::Other;
                };
                return match node.int("group").unwrap_or(1) {
                    1 => Role::Dense,
                    n if n as usize == dims[0] && dims[1] == 1 => Role::Depthwise,
                    _ => Role::Other,
                };
            }
            "Concat" if matches!(node.int("axis"), Some(1 | -3)) => return Role::Concat,
            _ if TAME.contains(&kind) => is_elementwise(g, op),
            _ if POOLS.contains(&kind) => true,
            // With factors for each axis; lengths would have to change.
            "Resize" => {
                let scales = g.operand(op, 2).and_then(|v| konst(g, v)).map(|s| s.to_f32s());
                scales.is_some_and(|s| s.len() == 4 && s[..2] == [1.0, 1.0]) && g.operand(op, 3).is_none()
            }
            _ if BINARY.contains(&kind) => g.operands(op).into_iter().flatten().all(|v| match konst(g, v) {
                Some(t) => t.len() == 1 || by_channel(t.dims()),
                None => channels(facts, v) == g.result(op, 0).and_then(|y| channels(facts, y)),
            }),
            _ => false,
        };
        if good { Role::ByChannel } else { Role::Other }
    }
}

/// True for `[C, 1, 1]` or `[1, C, 1, 1]`.
pub(super) fn by_channel(dims: &[usize]) -> bool {
    matches!(dims, [_, 1, 1] | [1, _, 1, 1])
}

pub(super) fn shape(facts: &ValueTable<Fact>, v: ValueId) -> Option<&Shape> {
    let fact = facts.get(v)?;
    fact.shape.as_ref().filter(|s| fact.dtype == Some(DType::Float) && s.len() == 4)
}

/// The number of channels of a float value of rank 4.
pub(super) fn channels(facts: &ValueTable<Fact>, v: ValueId) -> Option<usize> {
    shape(facts, v)?.get(1)?.known()?.try_into().ok()
}

/// True if the runtime has a value in blocks when it is made.
pub(super) fn blocked(g: &Graph, v: ValueId, facts: &ValueTable<Fact>, block: usize) -> bool {
    blocked_within(g, v, facts, block, DEPTH)
}

/// How far back it is asked.
const DEPTH: usize = 6;

fn blocked_within(g: &Graph, v: ValueId, facts: &ValueTable<Fact>, block: usize, depth: usize) -> bool {
    let Some((op, _)) = g.producer(v).filter(|_| depth > 0) else { return false };
    let Some(n) = channels(facts, v) else { return false };
    let again = |v: Option<ValueId>| v.is_some_and(|v| blocked_within(g, v, facts, block, depth - 1));
    match g.op(op).op_type.as_str() {
        "Conv" => g.operand(op, 1).is_some_and(|w| konst(g, w).is_some()) && n >= block,
        "Relu" | "Sigmoid" | "Tanh" | "HardSigmoid" | "HardSwish" => again(g.operand(op, 0)),
        "MaxPool" | "AveragePool" => n % block == 0 && again(g.operand(op, 0)),
        "Add" | "Mul" => {
            let shape = |v: ValueId| facts.get(v).and_then(|f| f.shape.clone());
            n % block == 0 && g.operands(op).into_iter().all(|x| again(x) && x.and_then(shape) == shape(v))
        }
        _ => false,
    }
}

/// Sets of values that a relation connects.
#[derive(Default)]
pub(super) struct Sets {
    parent: BTreeMap<ValueId, ValueId>,
}

impl Sets {
    /// The representative of the set of a value.
    pub(super) fn find(&self, v: ValueId) -> ValueId {
        let mut v = v;
        while let Some(p) = self.parent.get(&v).filter(|p| **p != v) {
            v = *p;
        }
        v
    }

    pub(super) fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.find(a), self.find(b));
        // The older one represents both, so that the result does not depend on the order.
        self.parent.insert(a.max(b), a.min(b));
    }
}

/// Layouts of sets of values that share one, found from those of the operands of a Concat.
pub(super) struct Solver<'a> {
    pub(super) block: usize,
    pub(super) facts: &'a ValueTable<Fact>,
    /// Values that have the same layout.
    pub(super) same: &'a Sets,
    /// Operands of each Concat, by the set of its result.
    pub(super) joins: BTreeMap<ValueId, Vec<Vec<ValueId>>>,
    pub(super) solved: BTreeMap<ValueId, Option<Layout>>,
}

impl Solver<'_> {
    /// The layout of a value; `None` if two are asked for.
    pub(super) fn layout(&mut self, v: ValueId) -> Option<Layout> {
        let set = self.same.find(v);
        if let Some(known) = self.solved.get(&set) {
            return known.clone();
        }
        // What asks for itself while it is being found has none.
        self.solved.insert(set, None);
        let joins = self.joins.get(&set).cloned().unwrap_or_default();
        let mut found = None;
        for parts in &joins {
            let mut joined = Layout::new();
            let mut before = 0;
            for part in parts {
                joined.extend(self.layout(*part)?.into_iter().map(|c| c.map(|c| c + before)));
                before += channels(self.facts, *part)?;
            }
            match &found {
                Some(other) if *other != joined => return None,
                _ => found = Some(joined),
            }
        }
        let found = match found {
            Some(layout) => layout,
            None => {
                let n = channels(self.facts, v)?;
                (0..n.next_multiple_of(self.block)).map(|c| (c < n).then_some(c)).collect()
            }
        };
        self.solved.insert(set, Some(found.clone()));
        Some(found)
    }
}
