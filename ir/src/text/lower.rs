//! From what a text says to a model: names become values, and free names of bodies become captures.
//!
//! A name means the input, constant or result of that name in its own graph, wherever in the graph it is
//! defined; failing that, in the graph around; failing that, it is a value that nothing defines, which is for
//! the verifier to report.

use super::TextError;
use super::ast::{
    AttributeText, AttributeValue, Declaration, FunctionText, GraphText, ModelText, Name, NodeText,
};
use crate::{AttrValue, Attribute, Function, Graph, GraphId, Model, Op, OpId, OpSpec, ValueId};
use rustc_hash::FxHashSet;

/// A graph, and the operator around it that owns it.
#[derive(Clone, Copy)]
struct Scope<'s> {
    graph: GraphId,
    parent: Option<(&'s Scope<'s>, OpId)>,
}

struct Lower<'a> {
    model: Model,
    text: &'a str,
}

/// Builds the model.
///
/// # Errors
/// If a name is defined twice in one graph: the graph could not hold it.
pub(super) fn lower(parsed: ModelText, text: &str) -> Result<Model, TextError> {
    let ModelText { header, graph, functions } = parsed;
    let mut lower = Lower { model: header, text };
    let main = lower.model.main_id();
    lower.graph(graph, Scope { graph: main, parent: None })?;
    for function in functions {
        lower.function(function)?;
    }
    Ok(lower.model)
}

impl Lower<'_> {
    fn function(&mut self, f: FunctionText) -> Result<(), TextError> {
        let name = f.graph.name.clone();
        let graph = self.model.add_graph(Graph::default());
        self.graph(f.graph, Scope { graph, parent: None })?;
        let mut defaults = Vec::with_capacity(f.defaults.len());
        for d in f.defaults {
            let (attribute, bodies) = self.attribute(d);
            for (id, body) in bodies {
                self.graph(body, Scope { graph: id, parent: None })?;
            }
            defaults.push(attribute);
        }
        self.model.functions.push(Function {
            name,
            domain: f.domain,
            overload: f.overload,
            attributes: f.attributes,
            defaults,
            opsets: f.opsets,
            graph,
            doc: f.doc,
            metadata: Vec::new(),
            residue: Default::default(),
        });
        Ok(())
    }

    fn graph(&mut self, text: GraphText, scope: Scope<'_>) -> Result<(), TextError> {
        self.graph_mut(scope).name = text.name;
        // Constants come first, so that those that are defaults of inputs keep their order.
        let mut defined = FxHashSet::default();
        for d in text.declarations.iter().filter(|d| d.konst.is_some()) {
            self.define(&mut defined, &d.name)?;
            self.graph_mut(scope).add_value(&d.name.text, None);
        }
        let mut inputs = FxHashSet::default();
        for input in text.inputs {
            if input.konst.is_some() {
                self.define(&mut defined, &input.name)?;
            }
            self.define(&mut inputs, &input.name)?;
            let known = self.graph_mut(scope).value_named(&input.name.text);
            let id = known.unwrap_or_else(|| self.graph_mut(scope).add_value(&input.name.text, None));
            self.describe(scope, id, input);
            self.graph_mut(scope).inputs.push(id);
        }
        defined.extend(inputs);
        let results = text.nodes.iter().flat_map(|n| &n.results).filter(|r| !r.text.is_empty());
        let produced: FxHashSet<&str> = results.clone().map(|r| r.text.as_str()).collect();
        let mut late = Vec::new();
        for d in text.declarations {
            let name = &d.name.text;
            match self.graph_mut(scope).value_named(name) {
                Some(id) => self.describe(scope, id, d),
                None if produced.contains(name.as_str()) => {
                    let id = self.graph_mut(scope).add_value(name, None);
                    self.describe(scope, id, d);
                }
                None => late.push(d),
            }
        }
        for r in results {
            self.define(&mut defined, r)?;
            let g = self.graph_mut(scope);
            if g.value_named(&r.text).is_none() {
                g.add_value(&r.text, None);
            }
        }
        for node in text.nodes {
            self.node(node, scope)?;
        }
        for d in late {
            let id = self.value(scope, &d.name.text);
            self.describe(scope, id, d);
        }
        for output in text.outputs {
            let id = self.value(scope, &output.name.text);
            self.describe(scope, id, output);
            self.graph_mut(scope).outputs.push(id);
        }
        Ok(())
    }

    fn node(&mut self, node: NodeText, scope: Scope<'_>) -> Result<(), TextError> {
        let mut op = Op::default();
        (op.name, op.op_type) = (node.name, node.op_type);
        (op.domain, op.overload) = (node.domain, node.overload);
        let mut bodies = Vec::new();
        for a in node.attributes {
            let (attribute, graphs) = self.attribute(a);
            op.attributes.push(attribute);
            bodies.extend(graphs);
        }
        let mut values = |names: Vec<Name>| -> Vec<Option<ValueId>> {
            let value = |n: Name| (!n.text.is_empty()).then(|| self.value(scope, &n.text));
            names.into_iter().map(value).collect()
        };
        let (operands, results) = (values(node.operands), values(node.results));
        let spec = OpSpec::from_op(op).operands(operands).results(results);
        let id = self.graph_mut(scope).add_op(spec);
        for (graph, body) in bodies {
            self.model.graph_mut(graph).owner = Some((scope.graph, id));
            self.graph(body, Scope { graph, parent: Some((&scope, id)) })?;
        }
        Ok(())
    }

    /// The attribute, with an empty graph for each body it holds, and the texts of these.
    fn attribute(&mut self, a: AttributeText) -> (Attribute, Vec<(GraphId, GraphText)>) {
        let mut bodies = Vec::new();
        let mut add = |body: GraphText| {
            let id = self.model.add_graph(Graph::default());
            bodies.push((id, body));
            id
        };
        let value = match a.value {
            AttributeValue::Plain(value) => value,
            AttributeValue::Graph(body) => AttrValue::Graph(add(*body)),
            AttributeValue::Graphs(all) => AttrValue::Graphs(all.into_iter().map(add).collect()),
        };
        (Attribute::new(a.name, value), bodies)
    }

    /// Sets type and constant of a value, where it has none.
    fn describe(&mut self, scope: Scope<'_>, id: ValueId, d: Declaration) {
        let value = self.graph_mut(scope).value_mut(id);
        value.ty = value.ty.take().or(d.ty);
        value.konst = value.konst.take().or(d.konst);
    }

    /// The value of a name; a new one if nothing defines it.
    fn value(&mut self, scope: Scope<'_>, name: &str) -> ValueId {
        match self.lookup(scope, name) {
            Some(id) => id,
            None => self.graph_mut(scope).add_value(name, None),
        }
    }

    /// The value of a name, captured from the graphs around where it is not of this one.
    fn lookup(&mut self, scope: Scope<'_>, name: &str) -> Option<ValueId> {
        if let Some(id) = self.model.graph(scope.graph).value_named(name) {
            return Some(id);
        }
        let (outer, op) = scope.parent?;
        let captured = self.lookup(*outer, name)?;
        let slot = self.graph_mut(*outer).add_capture(op, captured);
        let g = self.graph_mut(scope);
        let id = g.add_value(name, None);
        g.value_mut(id).captured = Some(slot);
        Some(id)
    }

    fn define(&self, defined: &mut FxHashSet<String>, name: &Name) -> Result<(), TextError> {
        if defined.insert(name.text.clone()) { Ok(()) } else { Err(self.twice(name)) }
    }

    fn twice(&self, name: &Name) -> TextError {
        TextError::new(self.text, name.at, format!("`{}` is defined twice in this graph", name.text))
    }

    fn graph_mut(&mut self, scope: Scope<'_>) -> &mut Graph {
        self.model.graph_mut(scope.graph)
    }
}
