//! The graph that is rewritten as the runtime would rewrite it, and what became of the model's own operators.

use crate::{Operand, Site};
use squint_ir::types::known_dims;
use squint_ir::{DType, Graph, OpId, OpSpec, OpTable, Tensor, Type, Use, ValueId, ValueTable};
use squint_ops::{EvalCx, Fact};
use std::sync::Arc;

/// A copy of a graph with what is known of its values.
pub(super) struct Sim {
    /// The graph, rewritten in place. Operators of the model keep their ids.
    pub(super) g: Graph,
    /// Version of the default operator set.
    pub(super) opset: i64,
    /// Whether kernels for signed activations are used (on ARM).
    pub(super) signed: bool,
    facts: ValueTable<Fact>,
    /// Values that are computed at load and whose contents were not worth computing here.
    computed: ValueTable<()>,
    /// Graph inputs whose default may not be taken for a constant.
    variable: ValueTable<()>,
    outputs: ValueTable<()>,
    /// For operators that the rewriting added: the operator of the model that they are a copy of.
    copies: OpTable<OpId>,
    gone: OpTable<Gone>,
}

/// Why an operator of the model is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its work is done by another.
    Into(OpId),
    /// It is computed when the model is loaded, or does nothing.
    Folded,
}

/// Constants of more elements than this are not computed here: only that they are constant matters.
const MAX_COMPUTED: usize = 4096;

impl Sim {
    /// A copy of `g`. `overridable` says whether callers may replace the default of an input.
    pub(super) fn new(
        g: &Graph,
        facts: &ValueTable<Fact>,
        opset: i64,
        signed: bool,
        overridable: bool,
    ) -> Sim {
        let (mut variable, mut outputs) = (ValueTable::new(), ValueTable::new());
        if overridable {
            for v in &g.inputs {
                variable.insert(*v, ());
            }
        }
        for v in &g.outputs {
            outputs.insert(*v, ());
        }
        Sim {
            g: g.clone(),
            opset,
            signed,
            facts: facts.clone(),
            computed: ValueTable::new(),
            variable,
            outputs,
            copies: OpTable::new(),
            gone: OpTable::new(),
        }
    }

    /// What is known of a value.
    pub(super) fn fact(&self, v: ValueId) -> Fact {
        match (self.tensor(v), self.facts.get(v), self.g.ty(v)) {
            (Some(t), ..) => Fact::constant(t.clone()),
            (None, Some(f), _) => f.clone(),
            (None, None, Some(ty)) => Fact::from_type(ty),
            (None, None, None) => Fact::default(),
        }
    }

    /// Element type of a value, if known.
    pub(super) fn dtype(&self, v: ValueId) -> Option<DType> {
        self.tensor(v)
            .map(|t| t.dtype())
            .or_else(|| self.facts.get(v)?.dtype)
            .or_else(|| self.g.ty(v)?.dtype())
    }

    /// Dimensions of a value, as far as they are known.
    pub(super) fn dims(&self, v: ValueId) -> Option<Vec<usize>> {
        self.fact(v).shape.as_deref().and_then(known_dims)
    }

    /// The contents of a value that is constant and was not too large to be computed.
    pub(super) fn tensor(&self, v: ValueId) -> Option<&Arc<Tensor>> {
        if self.variable.contains(v) { None } else { self.g.konst(v) }
    }

    /// Whether a value is constant once the model is loaded.
    pub(super) fn is_constant(&self, v: ValueId) -> bool {
        self.tensor(v).is_some() || self.computed.contains(v)
    }

    /// Whether the model holds a value, which callers may be able to replace.
    pub(super) fn is_initialized(&self, v: ValueId) -> bool {
        self.g.konst(v).is_some() || self.computed.contains(v)
    }

    /// Whether a value is a scalar: one element, of rank 0 or 1.
    pub(super) fn is_scalar(&self, v: ValueId) -> bool {
        self.fact(v).shape.as_deref().and_then(known_dims).is_some_and(|d| matches!(d.as_slice(), [] | [1]))
    }

    /// Whether a value is an output of the graph.
    pub(super) fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(v)
    }

    /// The first result of an operator.
    pub(super) fn result(&self, op: OpId) -> Option<ValueId> {
        self.g.result(op, 0)
    }

    /// The operator that makes an operand.
    pub(super) fn parent(&self, op: OpId, slot: u32) -> Option<OpId> {
        self.g.producer(self.g.operand(op, slot)?).map(|(p, _)| p)
    }

    /// Every use of every result of an operator.
    pub(super) fn edges(&self, op: OpId) -> Vec<Use> {
        self.g.results(op).into_iter().flatten().flat_map(|v| self.g.uses(v)).collect()
    }

    /// Whether a result of the operator is an output of the graph.
    pub(super) fn makes_output(&self, op: OpId) -> bool {
        self.g.results(op).into_iter().flatten().any(|v| self.is_output(v))
    }

    /// The only use of an operator's results, if none of them is an output of the graph.
    pub(super) fn only_edge(&self, op: OpId) -> Option<Use> {
        match self.edges(op).as_slice() {
            [u] if !self.makes_output(op) => Some(*u),
            _ => None,
        }
    }

    /// Whether an operator is a QuantizeLinear, of the default domain or the runtime's own.
    pub(super) fn is_q(&self, op: OpId) -> bool {
        self.g.op(op).op_type == "QuantizeLinear"
    }

    /// Whether an operator is a DequantizeLinear, of the default domain or the runtime's own.
    pub(super) fn is_dq(&self, op: OpId) -> bool {
        self.g.op(op).op_type == "DequantizeLinear"
    }

    /// The operator with what is known of its operands, as targets see it; `None` without a row.
    pub(super) fn site(&self, op: OpId) -> Option<Site<'_>> {
        Site::new(&self.g, op, self.opset, |value| {
            let fact = self.fact(value);
            let dims = fact.shape.as_deref().and_then(known_dims);
            Operand { value, fact, dims }
        })
    }

    /// Sets what is known of a new value.
    pub(super) fn learn(&mut self, v: ValueId, fact: Fact) {
        self.facts.insert(v, fact);
    }

    /// Adds a value of which this is known.
    pub(super) fn add_value(&mut self, name: &str, fact: Fact) -> ValueId {
        let v = self.g.add_value(name, None);
        self.facts.insert(v, fact);
        v
    }

    /// Adds a scalar constant.
    pub(super) fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.g.add_const(name, tensor)
    }

    /// Marks a value as constant without saying which.
    pub(super) fn set_computed(&mut self, v: ValueId) {
        self.computed.insert(v, ());
    }

    /// Adds an operator of the runtime's own, or a copy of one of the model's.
    pub(super) fn add_op(&mut self, spec: OpSpec, copy_of: Option<OpId>) -> OpId {
        let id = self.g.add_op(spec);
        if let Some(original) = copy_of.map(|op| self.original(op).unwrap_or(op)) {
            self.copies.insert(id, original);
        }
        id
    }

    /// Removes an operator, whose results must have been taken over or be of no use.
    pub(super) fn remove(&mut self, op: OpId, gone: Gone) {
        let gone = match gone {
            Gone::Into(by) => Gone::Into(self.original(by).unwrap_or(by)),
            Gone::Folded => Gone::Folded,
        };
        let original = self.original(op).unwrap_or(op);
        self.g.remove_op(op);
        self.gone.insert(original, gone);
    }

    /// Lets every user of `old`, and the graph output that it may be, use `new`.
    pub(super) fn replace(&mut self, old: ValueId, new: ValueId) {
        if self.outputs.remove(old).is_some() {
            self.outputs.insert(new, ());
        }
        self.g.replace_uses(old, new);
    }

    /// The operator of the model that an added one is a copy of.
    pub(super) fn original(&self, op: OpId) -> Option<OpId> {
        self.copies.get(op).copied()
    }

    /// Operators that stand for one of the model: itself or its copies, if any is left.
    pub(super) fn standing(&self) -> OpTable<Vec<OpId>> {
        let mut table: OpTable<Vec<OpId>> = OpTable::new();
        for op in self.g.ops() {
            let original = self.original(op).unwrap_or(op);
            match table.get_mut(original) {
                Some(list) => list.push(op),
                None => {
                    table.insert(original, vec![op]);
                }
            }
        }
        table
    }

    /// Why an operator of the model is no longer there, following those that went into others in turn.
    pub(super) fn gone(&self, op: OpId, standing: &OpTable<Vec<OpId>>) -> Gone {
        let mut at = op;
        // A chain is never longer than the number of operators; a bound keeps a fault from hanging.
        for _ in 0..64 {
            match self.gone.get(at) {
                Some(Gone::Into(by)) if standing.contains(*by) || !self.gone.contains(*by) => {
                    return Gone::Into(*by);
                }
                Some(Gone::Into(by)) => at = *by,
                _ => return Gone::Folded,
            }
        }
        Gone::Folded
    }

    /// The operator on its constants, if it is worth computing.
    pub(super) fn compute(&self, op: OpId) -> Option<Vec<Tensor>> {
        let node = self.g.op(op);
        let eval = squint_ops::row(&node.domain, &node.op_type)?.eval?;
        let operands = self.g.operands(op);
        let inputs: Option<Vec<Option<&Tensor>>> = operands
            .iter()
            .map(|v| v.map_or(Some(None), |v| self.tensor(v).map(|t| Some(t.as_ref()))))
            .collect();
        let inputs = inputs?;
        let small = |v: &ValueId| self.dims(*v).is_some_and(|d| d.iter().product::<usize>() <= MAX_COMPUTED);
        if !self.g.results(op).iter().flatten().all(small) {
            return None;
        }
        let opset = if node.is_onnx() { self.opset } else { 1 };
        let n_results = self.g.results(op).len();
        let results = eval(&EvalCx { op: node, opset, inputs: &inputs, n_results }).ok()?;
        (results.len() >= n_results && results.iter().all(|t| t.len() <= MAX_COMPUTED)).then_some(results)
    }

    /// Makes a value a constant.
    pub(super) fn set_const(&mut self, v: ValueId, tensor: Tensor) {
        let dims = tensor.dims().iter().map(|d| (*d).into()).collect();
        self.g.set_type(v, Some(Type::tensor(tensor.dtype(), Some(dims))));
        self.g.set_const(v, Some(Arc::new(tensor)));
    }

    /// Operators in order of execution; empty if there is none.
    pub(super) fn order(&self) -> Vec<OpId> {
        self.g.topo().unwrap_or_default()
    }
}
