//! An operator being raised, and the edits that adapters share.

use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Dim, Graph, GraphId, Model, Op, OpId, OpSpec, Shape, Tensor, Type, ValueId};

/// An operator in its graph.
pub(super) struct Site<'a, 'c> {
    model: &'a mut Model,
    cx: &'a PassCx<'c>,
    graph: GraphId,
    id: OpId,
}

impl<'a, 'c> Site<'a, 'c> {
    pub(super) fn new(model: &'a mut Model, cx: &'a PassCx<'c>, graph: GraphId, id: OpId) -> Site<'a, 'c> {
        Site { model, cx, graph, id }
    }

    fn g(&self) -> &Graph {
        self.model.graph(self.graph)
    }

    fn g_mut(&mut self) -> &mut Graph {
        self.model.graph_mut(self.graph)
    }

    pub(super) fn op(&self) -> &Op {
        self.g().op(self.id)
    }

    pub(super) fn op_mut(&mut self) -> &mut Op {
        let id = self.id;
        self.g_mut().op_mut(id)
    }

    pub(super) fn operand(&self, slot: u32) -> Option<ValueId> {
        self.g().operand(self.id, slot)
    }

    pub(super) fn set_operand(&mut self, slot: u32, v: Option<ValueId>) {
        let id = self.id;
        self.g_mut().set_operand(id, slot, v);
    }

    /// True if the result at a slot is used.
    pub(super) fn uses(&self, slot: u32) -> bool {
        self.g().result(self.id, slot).is_some_and(|v| self.g().is_used(v))
    }

    /// How many results there are.
    pub(super) fn n_results(&self) -> usize {
        self.g().results(self.id).len()
    }

    /// Omits the results from a slot on, which nothing uses.
    pub(super) fn drop_results(&mut self, first: u32) {
        let id = self.id;
        let n = self.g().results(id).len() as u32;
        for slot in first..n {
            let unused = self.g().result(id, slot);
            self.g_mut().set_result(id, slot, None);
            unused.into_iter().for_each(|v| self.g_mut().remove_value(v));
        }
    }

    /// The constant at an operand slot.
    pub(super) fn konst(&self, slot: u32) -> Option<&Tensor> {
        let v = self.operand(slot)?;
        self.g().konst(v).filter(|_| !self.g().is_input(v)).map(|t| t.as_ref())
    }

    /// Element type of the first operand, if known.
    pub(super) fn dtype(&self) -> Option<DType> {
        let v = self.operand(0)?;
        let declared = || self.g().ty(v).and_then(Type::dtype);
        if self.graph == self.model.main_id() { self.cx.fact(self.model, v).dtype } else { None }
            .or_else(declared)
    }

    /// Shape of the first operand, if its rank is known.
    pub(super) fn shape(&self) -> Option<Shape> {
        let v = self.operand(0)?;
        let declared = || self.g().ty(v).and_then(|t| t.shape().cloned());
        if self.graph == self.model.main_id() { self.cx.fact(self.model, v).shape } else { None }
            .or_else(declared)
    }

    /// Moves an attribute of integers to an operand slot, if it is there.
    pub(super) fn ints_to_operand(&mut self, attr: &str, slot: u32) {
        if let Some(ints) = self.op().ints(attr).map(<[i64]>::to_vec) {
            self.op_mut().remove_attr(attr);
            self.set_const(slot, attr, Tensor::from_i64(&[ints.len()], &ints));
        }
    }

    /// Moves an attribute of one float to an operand slot, as a scalar of the element type of the first
    /// operand, if it is there.
    pub(super) fn float_to_operand(&mut self, attr: &str, slot: u32) {
        let Some(x) = self.op().float(attr) else { return };
        self.op_mut().remove_attr(attr);
        let v = self.add_const(attr, Tensor::scalar_f32(x));
        let v = match self.dtype() {
            None | Some(DType::Float) => v,
            Some(dtype) => {
                let name = self.fresh_name(&format!("{attr}_cast"));
                let cast =
                    self.beside(OpSpec::new("Cast").attr("to", i64::from(dtype.code())), &name).operands([v]);
                self.g_mut().emit(cast, &name, Some(Type::tensor(dtype, Some(vec![]))))
            }
        };
        self.set_operand(slot, Some(v));
    }

    /// Puts a constant at an operand slot.
    pub(super) fn set_const(&mut self, slot: u32, name: &str, tensor: Tensor) {
        let v = self.add_const(name, tensor);
        self.set_operand(slot, Some(v));
    }

    /// Adds a constant named after the operator.
    fn add_const(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh_name(suffix);
        self.g_mut().add_const(&name, tensor)
    }

    /// A name made from that of the operator, new in every graph of the model: bodies must not hide names
    /// from around them.
    fn fresh_name(&self, suffix: &str) -> String {
        let base = format!("{}_{suffix}", self.label());
        let taken =
            |name: &str| self.model.graph_ids().any(|id| self.model.graph(id).value_named(name).is_some());
        let numbered = (1u64..).map(|n| format!("{base}_{n}"));
        let mut names = std::iter::once(base.clone()).chain(numbered);
        names.find(|name| !taken(name)).expect("invariant: a model has finitely many names")
    }

    /// Puts an operator in front of the first operand.
    pub(super) fn wrap_operand(&mut self, spec: OpSpec, suffix: &str) {
        let Some(x) = self.operand(0) else { return };
        let ty = self.dtype().map(|d| Type::tensor(d, Some(vec![Dim::Unknown, Dim::Unknown])));
        let name = self.fresh_name(suffix);
        let spec = self.beside(spec, &name).operands([x]);
        let v = self.g_mut().emit(spec, &name, ty);
        self.set_operand(0, Some(v));
    }

    /// Puts a Reshape to the shape of `like` behind the first result, which keeps its name.
    pub(super) fn reshape_result_like(&mut self, like: ValueId) {
        let id = self.id;
        let Some(y) = self.g().result(id, 0) else { return };
        let (flat, shape, back) =
            (self.fresh_name("flat"), self.fresh_name("shape"), self.fresh_name("reshape"));
        let ty = self.dtype().map(|d| Type::tensor(d, Some(vec![Dim::Unknown, Dim::Unknown])));
        let to_shape = self.beside(OpSpec::new("Shape"), &shape).operands([like]);
        let reshape = self.beside(OpSpec::new("Reshape"), &back);
        let g = self.g_mut();
        let flat = g.add_value(&flat, ty);
        g.set_result(id, 0, Some(flat));
        let shape = g.emit(to_shape, &shape, Some(Type::tensor(DType::Int64, None)));
        g.add_op(reshape.operands([flat, shape]).results([y]));
    }

    /// An operator made for this one: its place, its name and where it comes from.
    fn beside(&self, spec: OpSpec, name: &str) -> OpSpec {
        spec.near(self.id).name(name).origin(format!("raise-opset({})", self.label()))
    }

    /// The name of the operator for people, and for what is made beside it.
    pub(super) fn label(&self) -> String {
        self.g().label(self.id)
    }

    /// An error about this operator.
    pub(super) fn refuse<T>(&self, why: &str) -> Result<T, PassError> {
        let opset = self.model.onnx_opset();
        let message = format!(
            "node `{}`: {} of operator set {opset} {why}: export the model again with operator set 13 or newer",
            self.label(),
            self.op().op_type
        );
        Err(PassError::Model(message))
    }
}
