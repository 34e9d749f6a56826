//! One scope of a model: a bipartite graph of operators and values over petgraph.
//!
//! Nothing outside this file touches petgraph. Its traps, and what is done about them: freed node indices
//! are reused, so removed entities become tombstones and ids stay unique for the life of the graph;
//! neighbours come newest first, so operands and results are ordered by the slot on the edge; its
//! topological sort ignores insertion order, so [`Graph::topo`] is our own (Kahn's algorithm over a heap
//! keyed by original position).

mod edit;
mod op;
mod order;

pub use op::{Op, OpSpec, Value};
pub use order::Cycle;

use crate::{GraphId, Tensor, Type};
use bytes::Bytes;
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            pub(crate) fn new(i: usize) -> Self { Self(u32::try_from(i).expect("invariant: fewer than 2^32 entities")) }
            /// Position in dense side tables.
            pub fn index(self) -> usize { self.0 as usize }
            fn node(self) -> NodeIndex { NodeIndex::new(self.0 as usize) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}

id!(
    /// A value of one graph. Never reused.
    ValueId,
    "%v"
);
id!(
    /// An operator of one graph. Never reused.
    OpId,
    "%op"
);

#[derive(Clone, Debug)]
enum Entity {
    Op(Box<Op>),
    Value(Box<Value>),
    /// What was here is gone; the index is not given out again.
    Tombstone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// value → operator, at an operand slot.
    Operand(u32),
    /// operator → value, at a result slot.
    Result(u32),
    /// value → operator that owns a body which uses the value, at a capture slot.
    Capture(u32),
}

/// A place where a value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The consumer.
    pub op: OpId,
    /// Its operand slot, or its capture slot.
    pub slot: u32,
    /// True if the use is inside a body that the operator owns.
    pub capture: bool,
}

/// A scope: the main graph, a body, or the body of a function.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    g: StableDiGraph<Entity, Edge, u32>,
    names: FxHashMap<String, ValueId>,
    fresh: FxHashMap<String, u32>,
    next_order: u32,
    next_seq: u32,
    /// Name of the graph.
    pub name: String,
    /// Documentation.
    pub doc: String,
    /// Inputs in their order. One with a constant is an input with a default.
    pub inputs: Vec<ValueId>,
    /// Outputs in their order; a value may occur more than once.
    pub outputs: Vec<ValueId>,
    /// The operator, in the graph around this one, that owns this body.
    pub owner: Option<(GraphId, OpId)>,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Encoded fields that this IR does not interpret, kept for export.
    pub residue: Bytes,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The operator of an id.
    ///
    /// # Panics
    /// If it was removed.
    pub fn op(&self, id: OpId) -> &Op {
        match &self.g[id.node()] {
            Entity::Op(op) => op,
            _ => panic!("invariant: {id} is an operator"),
        }
    }

    /// The operator of an id, to change.
    ///
    /// # Panics
    /// If it was removed.
    pub fn op_mut(&mut self, id: OpId) -> &mut Op {
        match &mut self.g[id.node()] {
            Entity::Op(op) => op,
            _ => panic!("invariant: {id} is an operator"),
        }
    }

    /// The value of an id.
    ///
    /// # Panics
    /// If it was removed.
    pub fn value(&self, id: ValueId) -> &Value {
        match &self.g[id.node()] {
            Entity::Value(v) => v,
            _ => panic!("invariant: {id} is a value"),
        }
    }

    fn value_slot(&mut self, id: ValueId) -> &mut Value {
        match &mut self.g[id.node()] {
            Entity::Value(v) => v,
            _ => panic!("invariant: {id} is a value"),
        }
    }

    /// True if the operator has not been removed.
    pub fn has_op(&self, id: OpId) -> bool {
        matches!(self.g.node_weight(id.node()), Some(Entity::Op(_)))
    }

    /// True if the value has not been removed.
    pub fn has_value(&self, id: ValueId) -> bool {
        matches!(self.g.node_weight(id.node()), Some(Entity::Value(_)))
    }

    /// Operators in order of their ids, which is not an order of execution; see [`Graph::topo`].
    pub fn ops(&self) -> impl Iterator<Item = OpId> + '_ {
        self.g.node_indices().filter(|i| matches!(self.g[*i], Entity::Op(_))).map(|i| OpId::new(i.index()))
    }

    /// Values in order of their ids.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.g
            .node_indices()
            .filter(|i| matches!(self.g[*i], Entity::Value(_)))
            .map(|i| ValueId::new(i.index()))
    }

    /// The value of a name.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The constant of a value, if it has one.
    pub fn konst(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        self.value(id).konst.as_ref()
    }

    /// The type of a value, if declared or inferred.
    pub fn ty(&self, id: ValueId) -> Option<&Type> {
        self.value(id).ty.as_ref()
    }

    /// Operands of an operator by slot; `None` is an omitted optional one.
    pub fn operands(&self, id: OpId) -> Vec<Option<ValueId>> {
        let slots = self.g.edges_directed(id.node(), Incoming).filter_map(|e| match e.weight() {
            Edge::Operand(s) => Some((*s, e.source())),
            _ => None,
        });
        by_slot(slots)
    }

    /// The operand at a slot.
    pub fn operand(&self, id: OpId, slot: u32) -> Option<ValueId> {
        self.g
            .edges_directed(id.node(), Incoming)
            .find(|e| *e.weight() == Edge::Operand(slot))
            .map(|e| ValueId::new(e.source().index()))
    }

    /// Values that the bodies of an operator use from this scope, by capture slot.
    pub fn captures(&self, id: OpId) -> Vec<Option<ValueId>> {
        let slots = self.g.edges_directed(id.node(), Incoming).filter_map(|e| match e.weight() {
            Edge::Capture(s) => Some((*s, e.source())),
            _ => None,
        });
        by_slot(slots)
    }

    /// Results of an operator by slot; `None` is an omitted optional one.
    pub fn results(&self, id: OpId) -> Vec<Option<ValueId>> {
        let slots = self.g.edges_directed(id.node(), Outgoing).filter_map(|e| match e.weight() {
            Edge::Result(s) => Some((*s, e.target())),
            _ => None,
        });
        by_slot(slots)
    }

    /// The result at a slot.
    pub fn result(&self, id: OpId, slot: u32) -> Option<ValueId> {
        self.g
            .edges_directed(id.node(), Outgoing)
            .find(|e| *e.weight() == Edge::Result(slot))
            .map(|e| ValueId::new(e.target().index()))
    }

    /// The operator that makes a value and its result slot; `None` for inputs, constants and captures.
    pub fn producer(&self, id: ValueId) -> Option<(OpId, u32)> {
        self.g.edges_directed(id.node(), Incoming).find_map(|e| match e.weight() {
            Edge::Result(s) => Some((OpId::new(e.source().index()), *s)),
            _ => None,
        })
    }

    /// Every use of a value by operators of this scope, sorted.
    pub fn uses(&self, id: ValueId) -> Vec<Use> {
        let mut uses: Vec<Use> = self
            .g
            .edges_directed(id.node(), Outgoing)
            .filter_map(|e| {
                let op = OpId::new(e.target().index());
                match e.weight() {
                    Edge::Operand(slot) => Some(Use { op, slot: *slot, capture: false }),
                    Edge::Capture(slot) => Some(Use { op, slot: *slot, capture: true }),
                    Edge::Result(_) => None,
                }
            })
            .collect();
        uses.sort_unstable();
        uses
    }

    /// The only use of a value: one operand of one operator, and not a graph output.
    pub fn only_use(&self, id: ValueId) -> Option<Use> {
        let mut edges = self.g.edges_directed(id.node(), Outgoing);
        let (first, second) = (edges.next()?, edges.next());
        match (first.weight(), second) {
            (Edge::Operand(slot), None) if !self.is_output(id) => {
                Some(Use { op: OpId::new(first.target().index()), slot: *slot, capture: false })
            }
            _ => None,
        }
    }

    /// True if an operator uses the value or it is a graph output.
    pub fn is_used(&self, id: ValueId) -> bool {
        self.g.edges_directed(id.node(), Outgoing).next().is_some() || self.is_output(id)
    }

    /// True if the value is a graph output.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.contains(&id)
    }

    /// True if the value is a graph input.
    pub fn is_input(&self, id: ValueId) -> bool {
        self.inputs.contains(&id)
    }

    /// Number of operators.
    pub fn op_count(&self) -> usize {
        self.ops().count()
    }
}

fn by_slot(slots: impl Iterator<Item = (u32, NodeIndex)>) -> Vec<Option<ValueId>> {
    let mut out = Vec::new();
    for (slot, node) in slots {
        let slot = slot as usize;
        if out.len() <= slot {
            out.resize(slot + 1, None);
        }
        out[slot] = Some(ValueId::new(node.index()));
    }
    out
}
