//! A model: its header, its operator sets and its graphs.

use crate::{Attribute, Graph, OpId, ValueId};
use bytes::Bytes;
use std::fmt;

/// A graph of a model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphId(u32);

impl fmt::Display for GraphId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%graph{}", self.0)
    }
}
impl fmt::Debug for GraphId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A model-local function (`FunctionProto`).
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Name: the operator type of its calls.
    pub name: String,
    /// Domain of its calls.
    pub domain: String,
    /// Overload of its calls.
    pub overload: String,
    /// Attributes without a default that calls may give.
    pub attributes: Vec<String>,
    /// Attributes with a default.
    pub defaults: Vec<Attribute>,
    /// Operator sets that the body uses.
    pub opsets: Vec<(String, i64)>,
    /// The body; its inputs and outputs are the signature.
    pub graph: GraphId,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Encoded fields that this IR does not interpret, kept for export.
    pub residue: Bytes,
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// IR version of the file format.
    pub ir_version: i64,
    /// Operator sets by domain, in the order of the file; the default domain is the empty string.
    pub opsets: Vec<(String, i64)>,
    /// Tool that wrote the file.
    pub producer_name: String,
    /// Its version.
    pub producer_version: String,
    /// Name space of the model.
    pub domain: String,
    /// Version of the model; `None` where the file says nothing.
    pub model_version: Option<i64>,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Model-local functions.
    pub functions: Vec<Function>,
    /// Encoded fields that this IR does not interpret, kept for export.
    pub residue: Bytes,
    graphs: Vec<Option<Graph>>,
    main: GraphId,
}

impl Model {
    /// A model with an empty main graph.
    pub fn new(graph_name: &str, opset: i64) -> Model {
        Model {
            ir_version: 8,
            opsets: vec![(String::new(), opset)],
            producer_name: String::new(),
            producer_version: String::new(),
            domain: String::new(),
            model_version: None,
            doc: String::new(),
            metadata: Vec::new(),
            functions: Vec::new(),
            residue: Bytes::new(),
            graphs: vec![Some(Graph::new(graph_name))],
            main: GraphId(0),
        }
    }

    /// Id of the main graph.
    pub fn main_id(&self) -> GraphId {
        self.main
    }

    /// The main graph.
    pub fn main(&self) -> &Graph {
        self.graph(self.main)
    }

    /// The main graph, to change.
    pub fn main_mut(&mut self) -> &mut Graph {
        self.graph_mut(self.main)
    }

    /// Calls `f` with another graph as the main one: what works on the main graph works so on a body.
    pub fn within<R>(&mut self, graph: GraphId, f: impl FnOnce(&mut Model) -> R) -> R {
        let outer = std::mem::replace(&mut self.main, graph);
        let result = f(self);
        self.main = outer;
        result
    }

    /// A graph.
    ///
    /// # Panics
    /// If it was removed.
    pub fn graph(&self, id: GraphId) -> &Graph {
        self.graphs[id.0 as usize].as_ref().expect("invariant: the graph was not removed")
    }

    /// A graph, to change.
    ///
    /// # Panics
    /// If it was removed.
    pub fn graph_mut(&mut self, id: GraphId) -> &mut Graph {
        self.graphs[id.0 as usize].as_mut().expect("invariant: the graph was not removed")
    }

    /// Adds a graph that no operator or function owns yet.
    pub fn add_graph(&mut self, graph: Graph) -> GraphId {
        self.graphs.push(Some(graph));
        GraphId(self.graphs.len() as u32 - 1)
    }

    /// Removes a graph and every body inside it.
    pub fn remove_graph(&mut self, id: GraphId) {
        if let Some(g) = self.graphs[id.0 as usize].take() {
            let bodies: Vec<GraphId> = g.ops().flat_map(|o| g.op(o).bodies().collect::<Vec<_>>()).collect();
            for b in bodies {
                self.remove_graph(b);
            }
        }
    }

    /// Ids of all graphs, in order of creation.
    pub fn graph_ids(&self) -> impl Iterator<Item = GraphId> + '_ {
        (0u32..).zip(&self.graphs).filter(|(_, g)| g.is_some()).map(|(i, _)| GraphId(i))
    }

    /// The version of an operator set; the empty string and `ai.onnx` are the same domain.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let norm = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
        self.opsets.iter().find(|(d, _)| norm(d) == norm(domain)).map(|(_, v)| *v)
    }

    /// The version of the default operator set, 1 where the file names none.
    pub fn onnx_opset(&self) -> i64 {
        self.opset("").unwrap_or(1)
    }

    /// Imports an operator set, or changes its version.
    pub fn set_opset(&mut self, domain: &str, version: i64) {
        let same = |d: &str| d == domain || (matches!(d, "" | "ai.onnx") && matches!(domain, "" | "ai.onnx"));
        match self.opsets.iter_mut().find(|(d, _)| same(d)) {
            Some((_, v)) => *v = version,
            None => self.opsets.push((domain.to_owned(), version)),
        }
    }

    /// Follows a captured value of a body to the scope where it is defined.
    pub fn resolve(&self, graph: GraphId, value: ValueId) -> (GraphId, ValueId) {
        let g = self.graph(graph);
        match (g.value(value).captured, g.owner) {
            (Some(slot), Some((outer, op))) => match self.capture(outer, op, slot) {
                Some(v) => self.resolve(outer, v),
                None => (graph, value),
            },
            _ => (graph, value),
        }
    }

    /// The value of a scope that fills a capture slot of an operator.
    pub fn capture(&self, graph: GraphId, op: OpId, slot: u32) -> Option<ValueId> {
        self.graph(graph).captures(op).get(slot as usize).copied().flatten()
    }

    /// The value of a `metadata_props` entry.
    pub fn metadata_value(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Sets a `metadata_props` entry.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value.into(),
            None => self.metadata.push((key.into(), value.into())),
        }
    }
}
