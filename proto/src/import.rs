//! `ModelProto` to [`Model`].
//!
//! A graph is read in four steps: initializers, inputs and results become values, which makes every local
//! name known whatever the order of the nodes; declared types are put on them; nodes become operators; and
//! the outputs are looked up. A name that a body does not define is looked for in the scopes around it
//! (`onnx/docs/IR.md`, "Names Within a Graph"), and becomes a captured value in each scope on the way.
//!
//! What the IR has no place for goes into the `residue` of the nearest struct, encoded: for a model a
//! `ModelProto`, for an operator a `NodeProto`, for a graph a `GraphProto`, and for a value a `GraphProto`
//! whose entries are all about that value. [`crate::export`] merges it back.

use crate::error::LoadProblem;
use crate::files::Files;
use crate::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::{SparseTensorProto, attribute_proto::AttributeType};
use crate::{attribute, tensor, types};
use bytes::Bytes;
use prost::Message;
use squint_ir::graph::Op;
use squint_ir::{
    AttrValue, Attribute, DType, Function, Graph, GraphId, Model, OpId, OpSpec, Type, ValueId, ValueTable,
};
use std::sync::Arc;

/// Reads a model. External data comes from `files`.
pub(crate) fn model(mut proto: ModelProto, files: &mut Files) -> Result<Model, LoadProblem> {
    let graph = proto
        .graph
        .take()
        .ok_or(LoadProblem::Incomplete("the model has no graph: the file may be truncated"))?;
    if proto.opset_import.is_empty() && proto.ir_version() >= 3 {
        return Err(LoadProblem::Incomplete("the model imports no operator set: the file may be truncated"));
    }
    let mut model = Model::new(graph.name(), 1);
    model.ir_version = proto.ir_version();
    model.opsets = proto.opset_import.iter().map(|o| (o.domain().to_owned(), o.version())).collect();
    model.producer_name = proto.producer_name.take().unwrap_or_default();
    model.producer_version = proto.producer_version.take().unwrap_or_default();
    model.domain = proto.domain.take().unwrap_or_default();
    model.model_version = proto.model_version;
    model.doc = proto.doc_string.take().unwrap_or_default();
    model.metadata = types::import_entries(std::mem::take(&mut proto.metadata_props));
    let residue = ModelProto {
        training_info: std::mem::take(&mut proto.training_info),
        configuration: std::mem::take(&mut proto.configuration),
        ..ModelProto::default()
    };
    model.residue = encode(&residue);
    let main = model.main_id();
    let mut import = Import { model, files, scopes: Vec::new() };
    import.scope(Scope { graph: main, owner: None }, graph)?;
    for f in std::mem::take(&mut proto.functions) {
        let f = import.function(f)?;
        import.model.functions.push(f);
    }
    Ok(import.model)
}

#[derive(Clone, Copy)]
struct Scope {
    graph: GraphId,
    /// The operator of the scope around this one that owns it.
    owner: Option<OpId>,
}

struct Import<'f> {
    model: Model,
    files: &'f mut Files,
    /// The graph being read and those around it, outermost first.
    scopes: Vec<Scope>,
}

impl Import<'_> {
    fn graph(&mut self) -> &mut Graph {
        let scope = self.scopes.last().expect("invariant: a scope is open");
        self.model.graph_mut(scope.graph)
    }

    /// What to call the current graph in errors.
    fn place(&mut self) -> String {
        format!("graph `{}`", self.graph().name)
    }

    fn scope(&mut self, scope: Scope, proto: GraphProto) -> Result<(), LoadProblem> {
        self.scopes.push(scope);
        let outer = self.scopes.len().checked_sub(2).map(|i| self.scopes[i].graph);
        self.graph().owner = outer.zip(scope.owner);
        self.body(proto)?;
        self.scopes.pop();
        Ok(())
    }

    fn body(&mut self, mut proto: GraphProto) -> Result<(), LoadProblem> {
        let g = self.graph();
        g.name = proto.name.take().unwrap_or_default();
        g.doc = proto.doc_string.take().unwrap_or_default();
        g.metadata = types::import_entries(std::mem::take(&mut proto.metadata_props));
        let mut duplicates = Vec::new();
        for t in std::mem::take(&mut proto.initializer) {
            self.initializer(t, &mut duplicates)?;
        }
        for t in std::mem::take(&mut proto.sparse_initializer) {
            self.sparse_initializer(t, &mut duplicates)?;
        }
        let mut inputs = ValueTable::new();
        for info in std::mem::take(&mut proto.input) {
            self.input(info, &mut inputs, &mut duplicates);
        }
        self.results(&proto.node, &mut duplicates);
        if !duplicates.is_empty() {
            return Err(LoadProblem::Duplicate { graph: self.place(), names: duplicates });
        }
        for info in &proto.output {
            self.declare(info, &inputs);
        }
        let mut residue = GraphProto::default();
        for info in std::mem::take(&mut proto.value_info) {
            if !self.declare(&info, &inputs) {
                residue.value_info.push(info);
            }
        }
        for a in std::mem::take(&mut proto.quantization_annotation) {
            match self.graph().value_named(a.tensor_name()) {
                Some(v) => self.keep(v, |rest| rest.quantization_annotation.push(a)),
                None => residue.quantization_annotation.push(a),
            }
        }
        self.graph().residue = encode(&residue);
        let mut undefined = Vec::new();
        for node in proto.node {
            self.node(node, &mut undefined)?;
        }
        for info in proto.output {
            match self.lookup(self.scopes.len() - 1, info.name()) {
                Some(v) => {
                    // A captured value has only just become local.
                    self.declare(&info, &inputs);
                    self.graph().outputs.push(v);
                }
                None => undefined.push(info.name.unwrap_or_default()),
            }
        }
        if undefined.is_empty() {
            return Ok(());
        }
        Err(LoadProblem::Undefined { graph: self.place(), names: undefined })
    }

    /// Adds a value unless its name is taken.
    fn define(&mut self, name: &str, duplicates: &mut Vec<String>) -> Option<ValueId> {
        if name.is_empty() || self.graph().value_named(name).is_some() {
            duplicates.push(name.to_owned());
            return None;
        }
        Some(self.graph().add_value(name, None))
    }

    fn initializer(
        &mut self,
        mut t: crate::onnx::TensorProto,
        duplicates: &mut Vec<String>,
    ) -> Result<(), LoadProblem> {
        let name = t.name.take().unwrap_or_default();
        if name.is_empty() || self.graph().value_named(&name).is_some() {
            duplicates.push(name);
            return Ok(());
        }
        let tensor = tensor::import(t, &format!("initializer `{name}`"), self.files)?;
        self.graph().add_const(&name, Arc::new(tensor));
        Ok(())
    }

    /// A sparse initializer is used as a dense tensor is, but the IR keeps it encoded.
    fn sparse_initializer(
        &mut self,
        t: SparseTensorProto,
        duplicates: &mut Vec<String>,
    ) -> Result<(), LoadProblem> {
        let values = t.values.clone().unwrap_or_default();
        let place = format!("sparse initializer `{}`", values.name());
        let dims = tensor::import_dims(&t.dims).map_err(|detail| LoadProblem::Tensor { place, detail })?;
        if let Some(v) = self.define(values.name(), duplicates) {
            let shape = dims.into_iter().map(Into::into).collect();
            let ty = DType::from_code(values.data_type()).map(|d| Type::tensor(d, Some(shape)));
            self.graph().set_type(v, ty);
            self.keep(v, |rest| rest.sparse_initializer.push(t));
        }
        Ok(())
    }

    fn input(&mut self, info: ValueInfoProto, inputs: &mut ValueTable<()>, duplicates: &mut Vec<String>) {
        let known = self.graph().value_named(info.name()).filter(|v| !inputs.contains(*v));
        let Some(v) = known.or_else(|| self.define(info.name(), duplicates)) else { return };
        inputs.insert(v, ());
        self.graph().inputs.push(v);
        // The declared type of an input goes before the type of its default.
        if info.r#type.is_some() {
            self.graph().set_type(v, None);
        }
        self.declare(&info, inputs);
    }

    fn results(&mut self, nodes: &[NodeProto], duplicates: &mut Vec<String>) {
        for name in nodes.iter().flat_map(|n| &n.output).filter(|name| !name.is_empty()) {
            self.define(name, duplicates);
        }
    }

    /// Puts a declared type and notes on a value; false if no such value is local. Where a value is
    /// declared more than once, the first type stands.
    fn declare(&mut self, info: &ValueInfoProto, inputs: &ValueTable<()>) -> bool {
        let g = self.graph();
        let Some(v) = g.value_named(info.name()) else { return false };
        let value = g.value_mut(v);
        if value.doc.is_empty() {
            value.doc = info.doc_string().to_owned();
        }
        if value.metadata.is_empty() {
            value.metadata = types::import_entries(info.metadata_props.clone());
        }
        let listed_constant = value.konst.is_some() && !inputs.contains(v);
        let Some(ty) = &info.r#type else { return true };
        if value.ty.is_none() {
            value.ty = Some(types::import(ty));
        } else if !listed_constant {
            return true;
        }
        if listed_constant || !types::exact(ty) {
            let kept = ValueInfoProto { r#type: Some(ty.clone()), ..ValueInfoProto::default() };
            self.keep(v, |rest| rest.value_info = vec![kept]);
        }
        true
    }

    /// Changes the residue of a value.
    fn keep(&mut self, v: ValueId, change: impl FnOnce(&mut GraphProto)) {
        let value = self.graph().value_mut(v);
        // Only this function writes it, so it decodes.
        let mut rest = GraphProto::decode(value.residue.clone()).unwrap_or_default();
        change(&mut rest);
        value.residue = encode(&rest);
    }

    /// The local value of a name, captured from the scopes around if need be.
    fn lookup(&mut self, level: usize, name: &str) -> Option<ValueId> {
        let scope = self.scopes[level];
        if let Some(v) = self.model.graph(scope.graph).value_named(name) {
            return Some(v);
        }
        let owner = scope.owner?;
        let outer = self.lookup(level.checked_sub(1)?, name)?;
        let slot = self.model.graph_mut(self.scopes[level - 1].graph).add_capture(owner, outer);
        let g = self.model.graph_mut(scope.graph);
        let v = g.add_value(name, None);
        g.value_mut(v).captured = Some(slot);
        Some(v)
    }

    fn node(&mut self, mut n: NodeProto, undefined: &mut Vec<String>) -> Result<(), LoadProblem> {
        let label = match n.name() {
            "" => format!("node `{}`", n.output.first().map_or("", String::as_str)),
            name => format!("node `{name}`"),
        };
        let mut operands = Vec::with_capacity(n.input.len());
        for name in &n.input {
            if name.is_empty() {
                operands.push(None);
                continue;
            }
            let v = self.lookup(self.scopes.len() - 1, name);
            if v.is_none() {
                undefined.push(name.clone());
            }
            operands.push(v);
        }
        let g = self.graph();
        let results: Vec<Option<ValueId>> = n.output.iter().map(|name| g.value_named(name)).collect();
        let residue = NodeProto {
            device_configurations: std::mem::take(&mut n.device_configurations),
            ..NodeProto::default()
        };
        let mut op = Op::default();
        op.name = n.name.take().unwrap_or_default();
        op.op_type = n.op_type.take().unwrap_or_default();
        op.domain = n.domain.take().unwrap_or_default();
        op.overload = n.overload.take().unwrap_or_default();
        op.doc = n.doc_string.take().unwrap_or_default();
        op.metadata = types::import_entries(std::mem::take(&mut n.metadata_props));
        op.residue = encode(&residue);
        let id = g.add_op(OpSpec::from_op(op).operands(operands).results(results));
        // Bodies capture through the operator, so it comes first.
        let attributes = self.attributes(n.attribute, Some(id), &label)?;
        self.graph().op_mut(id).attributes = attributes;
        Ok(())
    }

    fn attributes(
        &mut self,
        protos: Vec<AttributeProto>,
        owner: Option<OpId>,
        place: &str,
    ) -> Result<Vec<Attribute>, LoadProblem> {
        let mut out = Vec::with_capacity(protos.len());
        for mut p in protos {
            let kind = attribute::kind(&p);
            let is_graph = matches!(kind, AttributeType::Graph | AttributeType::Graphs);
            if !is_graph || !p.ref_attr_name().is_empty() {
                out.push(attribute::import(p, place, self.files)?);
                continue;
            }
            let value = if kind == AttributeType::Graph {
                AttrValue::Graph(self.owned_graph(p.g.take().unwrap_or_default(), owner)?)
            } else {
                let graphs = std::mem::take(&mut p.graphs).into_iter();
                AttrValue::Graphs(graphs.map(|g| self.owned_graph(g, owner)).collect::<Result<_, _>>()?)
            };
            let (name, doc) = (p.name.take().unwrap_or_default(), p.doc_string.take().unwrap_or_default());
            out.push(Attribute { name, value, doc });
        }
        Ok(out)
    }

    fn owned_graph(&mut self, proto: GraphProto, owner: Option<OpId>) -> Result<GraphId, LoadProblem> {
        let graph = self.model.add_graph(Graph::default());
        self.scope(Scope { graph, owner }, proto)?;
        Ok(graph)
    }

    fn function(&mut self, f: FunctionProto) -> Result<Function, LoadProblem> {
        let name = f.name.unwrap_or_default();
        let place = format!("function `{name}`");
        let info = |name: String| ValueInfoProto { name: Some(name), ..ValueInfoProto::default() };
        let body = GraphProto {
            name: Some(name.clone()),
            node: f.node,
            input: f.input.into_iter().map(info).collect(),
            output: f.output.into_iter().map(info).collect(),
            value_info: f.value_info,
            ..GraphProto::default()
        };
        let graph = self.owned_graph(body, None)?;
        let defaults = self.attributes(f.attribute_proto, None, &place)?;
        Ok(Function {
            name,
            domain: f.domain.unwrap_or_default(),
            overload: f.overload.unwrap_or_default(),
            attributes: f.attribute,
            defaults,
            opsets: f.opset_import.iter().map(|o| (o.domain().to_owned(), o.version())).collect(),
            graph,
            doc: f.doc_string.unwrap_or_default(),
            metadata: types::import_entries(f.metadata_props),
            residue: Bytes::new(),
        })
    }
}

fn encode(rest: &impl Message) -> Bytes {
    rest.encode_to_vec().into()
}
