//! Changes to a graph. Each keeps the names unique and the edges consistent; none checks types.

use super::{Edge, Entity, Graph, Op, OpId, OpSpec, Value, ValueId};
use crate::{Tensor, Type};
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::visit::EdgeRef;
use std::sync::Arc;

impl Graph {
    /// Adds a value. If the name is taken, a fresh one is made from it.
    pub fn add_value(&mut self, name: &str, ty: Option<Type>) -> ValueId {
        let name = self.fresh_name(name);
        let value = Value { name: name.clone(), ty, ..Value::default() };
        let id = ValueId::new(self.g.add_node(Entity::Value(Box::new(value))).index());
        self.names.insert(name, id);
        id
    }

    /// Adds a constant, with its type. If the name is taken, a fresh one is made from it.
    pub fn add_const(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        let tensor = tensor.into();
        let shape = tensor.dims().iter().map(|d| (*d).into()).collect();
        let id = self.add_value(name, Some(Type::tensor(tensor.dtype(), Some(shape))));
        self.value_slot(id).konst = Some(tensor);
        id
    }

    /// Adds an operator; its results must not be made by another.
    pub fn add_op(&mut self, spec: OpSpec) -> OpId {
        let OpSpec { mut op, operands, results, anchor } = spec;
        op.order = match anchor {
            Some(a) => {
                self.next_seq += 1;
                (self.op(a).order.0, self.next_seq)
            }
            None => {
                self.next_order += 1;
                (self.next_order, 0)
            }
        };
        let id = OpId::new(self.g.add_node(Entity::Op(Box::new(op))).index());
        for (slot, v) in (0u32..).zip(operands) {
            if let Some(v) = v {
                self.g.add_edge(v.node(), id.node(), Edge::Operand(slot));
            }
        }
        for (slot, v) in (0u32..).zip(results) {
            if let Some(v) = v {
                debug_assert!(self.producer(v).is_none(), "invariant: {v} has one producer");
                self.g.add_edge(id.node(), v.node(), Edge::Result(slot));
            }
        }
        id
    }

    /// Adds an operator with one new result, and returns the result.
    pub fn emit(&mut self, spec: OpSpec, result: &str, ty: Option<Type>) -> ValueId {
        let v = self.add_value(result, ty);
        self.add_op(spec.results([v]));
        v
    }

    /// Sets or omits an operand.
    pub fn set_operand(&mut self, op: OpId, slot: u32, value: Option<ValueId>) {
        self.drop_edges(op, Edge::Operand(slot), Incoming);
        if let Some(v) = value {
            self.g.add_edge(v.node(), op.node(), Edge::Operand(slot));
        }
    }

    /// Sets or omits a result. The value keeps its uses, and whatever made it before no longer does.
    pub fn set_result(&mut self, op: OpId, slot: u32, value: Option<ValueId>) {
        self.drop_edges(op, Edge::Result(slot), Outgoing);
        if let Some(v) = value {
            if let Some((old, s)) = self.producer(v) {
                self.drop_edges(old, Edge::Result(s), Outgoing);
            }
            self.g.add_edge(op.node(), v.node(), Edge::Result(slot));
        }
    }

    /// Notes that a body of `op` uses `value` of this scope; returns the capture slot. The same value
    /// keeps its slot.
    pub fn add_capture(&mut self, op: OpId, value: ValueId) -> u32 {
        let captures = self.captures(op);
        if let Some(i) = captures.iter().position(|c| *c == Some(value)) {
            return i as u32;
        }
        let slot = captures.len() as u32;
        self.g.add_edge(value.node(), op.node(), Edge::Capture(slot));
        slot
    }

    /// Empties a capture slot that no body of `op` uses any more. Other captures keep their slots.
    pub fn remove_capture(&mut self, op: OpId, slot: u32) {
        self.drop_edges(op, Edge::Capture(slot), Incoming);
    }

    /// Makes every user of `old`, and every graph output that is `old`, use `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        self.redirect_uses(old, new, |_| true);
        for o in &mut self.outputs {
            if *o == old {
                *o = new;
            }
        }
    }

    /// Makes the operators of `old` that `which` picks use `new` instead; graph outputs stay.
    pub fn redirect_uses(&mut self, old: ValueId, new: ValueId, which: impl Fn(OpId) -> bool) {
        let edges: Vec<_> = self
            .g
            .edges_directed(old.node(), Outgoing)
            .map(|e| (e.id(), e.target(), *e.weight()))
            .filter(|(_, target, _)| which(OpId::new(target.index())))
            .collect();
        // Newest first is how petgraph lists them: reversed, the edges of `new` keep their order.
        for (edge, target, weight) in edges.into_iter().rev() {
            self.g.remove_edge(edge);
            self.g.add_edge(new.node(), target, weight);
        }
    }

    /// Removes an operator. Its results stay, made by nothing.
    pub fn remove_op(&mut self, id: OpId) -> Op {
        self.isolate(id.node());
        match std::mem::replace(&mut self.g[id.node()], Entity::Tombstone) {
            Entity::Op(op) => *op,
            _ => panic!("invariant: {id} is an operator"),
        }
    }

    /// Removes an operator and those of its results that nothing uses.
    pub fn remove_op_and_results(&mut self, id: OpId) {
        let results = self.results(id);
        self.remove_op(id);
        for v in results.into_iter().flatten() {
            if !self.is_used(v) {
                self.remove_value(v);
            }
        }
    }

    /// Removes a value that nothing uses; graph inputs forget it.
    ///
    /// # Panics
    /// In debug builds, if it is used.
    pub fn remove_value(&mut self, id: ValueId) {
        debug_assert!(!self.is_used(id), "invariant: {id} is unused");
        self.isolate(id.node());
        if let Entity::Value(v) = std::mem::replace(&mut self.g[id.node()], Entity::Tombstone) {
            self.names.remove(&v.name);
        }
        self.inputs.retain(|i| *i != id);
    }

    /// Renames a value; if the name is taken, a fresh one is made from it. Returns the name it has now.
    pub fn rename(&mut self, id: ValueId, name: &str) -> String {
        if self.value(id).name == name {
            return name.into();
        }
        let name = self.fresh_name(name);
        let old = std::mem::replace(&mut self.value_slot(id).name, name.clone());
        self.names.remove(&old);
        self.names.insert(name.clone(), id);
        name
    }

    /// Sets the type of a value.
    pub fn set_type(&mut self, id: ValueId, ty: Option<Type>) {
        self.value_slot(id).ty = ty;
    }

    /// Sets or removes the constant of a value.
    pub fn set_const(&mut self, id: ValueId, tensor: Option<Arc<Tensor>>) {
        self.value_slot(id).konst = tensor;
    }

    /// The value of an id, to change anything but its name.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        self.value_slot(id)
    }

    /// A name no value has: `base` itself, or `base_1`, `base_2` …
    pub fn fresh_name(&mut self, base: &str) -> String {
        if !base.is_empty() && !self.names.contains_key(base) {
            return base.into();
        }
        let base = if base.is_empty() { "val" } else { base };
        let mut n = self.fresh.get(base).copied().unwrap_or(0);
        loop {
            n += 1;
            let name = format!("{base}_{n}");
            if !self.names.contains_key(&name) {
                self.fresh.insert(base.into(), n);
                return name;
            }
        }
    }

    fn drop_edges(&mut self, op: OpId, weight: Edge, dir: petgraph::Direction) {
        let found = self.g.edges_directed(op.node(), dir).find(|e| *e.weight() == weight).map(|e| e.id());
        if let Some(e) = found {
            self.g.remove_edge(e);
        }
    }

    fn isolate(&mut self, node: petgraph::stable_graph::NodeIndex) {
        for dir in [Incoming, Outgoing] {
            while let Some(e) = self.g.edges_directed(node, dir).next().map(|e| e.id()) {
                self.g.remove_edge(e);
            }
        }
    }
}
