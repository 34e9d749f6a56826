//! `ModelProto` to [`Model`].
//!
//! A graph is read in four steps: initializers, inputs and results become values, which makes every local
//! name known whatever the order of the nodes; declared types are put on them; nodes become operators; and
//! the outputs are looked up. A name that a body does not define is looked for in the scopes around it
//! (`onnx/docs/IR.md`, "Names Within a Graph"), and becomes a captured value in each scope on the way.
//!
//! What is wrong does not end the reading: it is noted ([`Findings`]) and reading goes on with what there is, so
//! that everything wrong can be told at once. Such a model is for looking at, not for compiling: a constant that
//! cannot be read has a type and no data, a name defined twice belongs to the first, and a name that nothing
//! defines is a value without a source.
//!
//! What the IR has no place for goes into the `residue` of the nearest struct, encoded: for a model a
//! `ModelProto`, for an operator a `NodeProto`, for a graph a `GraphProto`, and for a value a `GraphProto`
//! whose entries are all about that value. [`crate::export`] merges it back.

use crate::error::{LoadProblem, Mention};
use crate::files::Files;
use crate::load::Findings;
use crate::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::{SparseTensorProto, TensorProto, attribute_proto::AttributeType};
use crate::{attribute, export, external, tensor, types};
use bytes::Bytes;
use prost::Message;
use squint_ir::graph::Op;
use squint_ir::{
    AttrValue, Attribute, DType, Function, Graph, GraphId, Model, OpId, OpSpec, Type, ValueId, ValueTable,
};
use std::sync::Arc;

/// Reads a model. External data comes from `files`.
///
/// # Errors
/// If there is no graph.
pub(crate) fn model(
    mut proto: ModelProto,
    files: &mut Files,
    findings: &mut Findings,
) -> Result<Model, LoadProblem> {
    let graph = proto
        .graph
        .take()
        .ok_or(LoadProblem::Incomplete("the model has no graph: the file may be truncated"))?;
    if proto.opset_import.is_empty() && proto.ir_version() >= 3 {
        let what = "the model imports no operator set: the file may be truncated";
        findings.problems.push(LoadProblem::Incomplete(what));
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
    for info in &mut proto.training_info {
        for graph in info.initialization.iter_mut().chain(&mut info.algorithm) {
            external::visit(graph, &mut |t, _| {
                findings.problems.extend(tensor::inline(t, "training information", files).err());
            });
        }
    }
    let residue = ModelProto {
        training_info: std::mem::take(&mut proto.training_info),
        configuration: std::mem::take(&mut proto.configuration),
        ..ModelProto::default()
    };
    model.residue = encode(&residue);
    let main = model.main_id();
    let mut import = Import { model, files, findings, scopes: Vec::new() };
    import.scope(Scope { graph: main, owner: None }, graph);
    for f in std::mem::take(&mut proto.functions) {
        let f = import.function(f);
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
    findings: &'f mut Findings,
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

    /// What to call something of the current graph in errors.
    fn within(&mut self, what: String) -> String {
        if self.scopes.len() > 1 { format!("{what} of {}", self.place()) } else { what }
    }

    fn scope(&mut self, scope: Scope, proto: GraphProto) {
        self.scopes.push(scope);
        let outer = self.scopes.len().checked_sub(2).map(|i| self.scopes[i].graph);
        self.graph().owner = outer.zip(scope.owner);
        self.body(proto);
        self.scopes.pop();
    }

    fn body(&mut self, mut proto: GraphProto) {
        let g = self.graph();
        g.name = proto.name.take().unwrap_or_default();
        g.doc = proto.doc_string.take().unwrap_or_default();
        g.metadata = types::import_entries(std::mem::take(&mut proto.metadata_props));
        let mut duplicates = Vec::new();
        for t in std::mem::take(&mut proto.initializer) {
            self.initializer(t, &mut duplicates);
        }
        for t in std::mem::take(&mut proto.sparse_initializer) {
            self.sparse_initializer(t, &mut duplicates);
        }
        let mut inputs = ValueTable::new();
        for info in std::mem::take(&mut proto.input) {
            self.input(info, &mut inputs, &mut duplicates);
        }
        let results = self.results(&proto.node, &mut duplicates);
        if !duplicates.is_empty() {
            let problem = LoadProblem::Duplicate { graph: self.place(), names: duplicates };
            self.findings.problems.push(problem);
        }
        for info in &proto.output {
            self.declare_output(info, &inputs);
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
        let mut undefined = Vec::new();
        for (node, results) in proto.node.into_iter().zip(results) {
            self.node(node, results, &mut undefined);
        }
        for info in &proto.output {
            let known = self.lookup(self.scopes.len() - 1, info.name());
            if known.is_none() {
                let by = "as an output".to_owned();
                undefined.push(Mention { name: info.name().to_owned(), by });
            }
            let v = known.unwrap_or_else(|| self.graph().add_value(info.name(), None));
            // A captured value has only just become local.
            self.declare_output(info, &inputs);
            self.graph().outputs.push(v);
        }
        if !self.are_declared(&proto.output) {
            residue.output = proto.output;
        }
        self.graph().residue = encode(&residue);
        if !undefined.is_empty() {
            let problem = LoadProblem::Undefined { graph: self.place(), names: undefined };
            self.findings.problems.push(problem);
        }
    }

    /// Puts what is declared of an output on its value, unless that is an input, which says it itself.
    fn declare_output(&mut self, info: &ValueInfoProto, inputs: &ValueTable<()>) {
        let v = self.graph().value_named(info.name());
        if v.is_some_and(|v| !inputs.contains(v)) {
            self.declare(info, inputs);
        }
    }

    /// True if the outputs of the graph are declared as their values are. An output that is an input too may not
    /// be.
    fn are_declared(&mut self, outputs: &[ValueInfoProto]) -> bool {
        let g = self.graph();
        let same = |(v, info): (&ValueId, &ValueInfoProto)| {
            let value = g.value(*v);
            export::declared_type(value).is_ok_and(|ty| ty == info.r#type)
                && value.doc == info.doc_string()
                && value.metadata == types::import_entries(info.metadata_props.clone())
        };
        g.outputs.iter().zip(outputs).all(same)
    }

    /// Adds a value unless its name is taken; `by` says what defines it.
    fn define(&mut self, name: &str, by: &str, duplicates: &mut Vec<Mention>) -> Option<ValueId> {
        if name.is_empty() || self.graph().value_named(name).is_some() {
            duplicates.push(Mention { name: name.to_owned(), by: by.to_owned() });
            return None;
        }
        Some(self.graph().add_value(name, None))
    }

    fn initializer(&mut self, mut t: TensorProto, duplicates: &mut Vec<Mention>) {
        let name = t.name.take().unwrap_or_default();
        let Some(v) = self.define(&name, "an initializer", duplicates) else { return };
        let place = self.within(format!("initializer `{name}`"));
        let (code, dims) = (t.data_type(), t.dims.clone());
        match tensor::import(t, &place, self.files) {
            Ok(tensor) => {
                let shape = tensor.dims().iter().map(|d| (*d).into()).collect();
                let ty = Type::tensor(tensor.dtype(), Some(shape));
                self.graph().set_type(v, Some(ty));
                self.graph().set_const(v, Some(Arc::new(tensor)));
            }
            Err(problem) => {
                self.findings.problems.push(problem);
                self.encoded(v, code, &dims);
            }
        }
    }

    /// A sparse initializer is used as a dense tensor is, but the IR keeps it encoded.
    fn sparse_initializer(&mut self, mut t: SparseTensorProto, duplicates: &mut Vec<Mention>) {
        let (name, code) =
            t.values.as_ref().map_or(Default::default(), |t| (t.name().to_owned(), t.data_type()));
        let Some(v) = self.define(&name, "a sparse initializer", duplicates) else { return };
        let place = self.within(format!("sparse initializer `{name}`"));
        for part in t.values.iter_mut().chain(&mut t.indices) {
            self.findings.problems.extend(tensor::inline(part, &place, self.files).err());
        }
        if let Err(detail) = tensor::import_dims(&t.dims) {
            self.findings.problems.push(LoadProblem::Tensor { place, detail });
        }
        self.encoded(v, code, &t.dims);
        self.keep(v, |rest| rest.sparse_initializer.push(t));
    }

    /// Says of a value that its constant is not in the graph.
    fn encoded(&mut self, v: ValueId, code: i32, dims: &[i64]) {
        let shape = tensor::import_dims(dims).ok();
        let shape = shape.map(|dims| dims.into_iter().map(Into::into).collect());
        let value = self.graph().value_mut(v);
        value.ty = DType::from_code(code).map(|d| Type::tensor(d, shape));
        value.encoded = true;
    }

    fn input(&mut self, info: ValueInfoProto, inputs: &mut ValueTable<()>, duplicates: &mut Vec<Mention>) {
        let known = self.graph().value_named(info.name()).filter(|v| !inputs.contains(*v));
        let Some(v) = known.or_else(|| self.define(info.name(), "an input", duplicates)) else { return };
        inputs.insert(v, ());
        self.graph().inputs.push(v);
        // The declared type of an input goes before the type of its default.
        if info.r#type.is_some() {
            self.graph().set_type(v, None);
        }
        self.declare(&info, inputs);
    }

    /// Values for the results of all nodes; none for one that is omitted, or whose name is taken.
    fn results(&mut self, nodes: &[NodeProto], duplicates: &mut Vec<Mention>) -> Vec<Vec<Option<ValueId>>> {
        let mut all = Vec::with_capacity(nodes.len());
        for n in nodes {
            let mut results = Vec::with_capacity(n.output.len());
            for name in &n.output {
                let taken = duplicates.len();
                let v = if name.is_empty() { None } else { self.define(name, "", duplicates) };
                // Making the label of every node would cost more than the rest.
                if let Some(mention) = duplicates.get_mut(taken) {
                    mention.by = label(n);
                }
                results.push(v);
            }
            all.push(results);
        }
        all
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
        let actual = value.konst.as_ref().and(value.ty.clone()).filter(|_| listed_constant);
        if let Some(actual) = actual.filter(|actual| !types::is_vaguer(&types::import(ty), actual)) {
            let (name, declared) = (info.name(), types::import(ty));
            let place = self.place();
            self.findings
                .notes
                .push(format!("initializer `{name}` of {place} is {actual}, but is declared {declared}"));
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

    fn node(&mut self, mut n: NodeProto, results: Vec<Option<ValueId>>, undefined: &mut Vec<Mention>) {
        let place = if n.attribute.is_empty() { String::new() } else { self.within(label(&n)) };
        let mut operands = Vec::with_capacity(n.input.len());
        for name in &n.input {
            if name.is_empty() {
                operands.push(None);
                continue;
            }
            let known = self.lookup(self.scopes.len() - 1, name);
            if known.is_none() {
                undefined.push(Mention { name: name.clone(), by: label(&n) });
            }
            operands.push(known.or_else(|| Some(self.graph().add_value(name, None))));
        }
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
        let id = self.graph().add_op(OpSpec::from_op(op).operands(operands).results(results));
        // Bodies capture through the operator, so it comes first.
        let attributes = self.attributes(n.attribute, Some(id), &place);
        self.graph().op_mut(id).attributes = attributes;
    }

    fn attributes(
        &mut self,
        protos: Vec<AttributeProto>,
        owner: Option<OpId>,
        place: &str,
    ) -> Vec<Attribute> {
        let mut out = Vec::with_capacity(protos.len());
        for mut p in protos {
            attribute::note_other_values(&p, place, self.findings);
            let kind = attribute::kind(&p);
            let is_graph = matches!(kind, AttributeType::Graph | AttributeType::Graphs);
            if !is_graph || !p.ref_attr_name().is_empty() {
                out.push(attribute::import(p, place, self.files, self.findings));
                continue;
            }
            let value = if kind == AttributeType::Graph {
                AttrValue::Graph(self.owned_graph(p.g.take().unwrap_or_default(), owner))
            } else {
                let graphs = std::mem::take(&mut p.graphs).into_iter();
                AttrValue::Graphs(graphs.map(|g| self.owned_graph(g, owner)).collect())
            };
            let (name, doc) = (p.name.take().unwrap_or_default(), p.doc_string.take().unwrap_or_default());
            out.push(Attribute { name, value, doc });
        }
        out
    }

    fn owned_graph(&mut self, proto: GraphProto, owner: Option<OpId>) -> GraphId {
        let graph = self.model.add_graph(Graph::default());
        self.scope(Scope { graph, owner }, proto);
        graph
    }

    fn function(&mut self, f: FunctionProto) -> Function {
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
        let graph = self.owned_graph(body, None);
        let defaults = self.attributes(f.attribute_proto, None, &place);
        Function {
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
        }
    }
}

/// What to call a node in errors: by its name, or by its first result.
fn label(n: &NodeProto) -> String {
    let first = n.output.iter().find(|name| !name.is_empty());
    match (n.name(), first) {
        ("", Some(result)) => format!("the {} that makes `{result}`", n.op_type()),
        ("", None) => format!("a node of type `{}`", n.op_type()),
        (name, _) => format!("node `{name}`"),
    }
}

fn encode(rest: &impl Message) -> Bytes {
    rest.encode_to_vec().into()
}
