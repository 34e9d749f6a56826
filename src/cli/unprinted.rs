//! What a model says and its text does not: the syntax has no place for it.

use squint::Model;
use squint::ir::{AttrValue, Attribute, Bytes, Graph, Tensor};
use std::fmt;

/// Something that is not printed. Displayed as one line.
pub(crate) struct Unprinted {
    /// What sort of thing, in the plural.
    pub(crate) kind: &'static str,
    /// Where it is, for example ``graph `main`, node `conv1` ``.
    place: String,
    content: String,
}

impl fmt::Display for Unprinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.content)
    }
}

/// All of it, in the order of graphs, operators and values.
pub(crate) fn unprinted(model: &Model) -> Vec<Unprinted> {
    let mut out = List(Vec::new());
    out.rest("model", &model.residue);
    for f in &model.functions {
        let place = format!("function `{}`", f.name);
        out.metadata(&place, &f.metadata);
        out.rest(&place, &f.residue);
    }
    for g in model.graph_ids().map(|id| model.graph(id)) {
        out.graph(g);
    }
    out.0
}

struct List(Vec<Unprinted>);

impl List {
    fn graph(&mut self, g: &Graph) {
        let place = format!("graph `{}`", g.name);
        self.doc(&place, &g.doc);
        self.metadata(&place, &g.metadata);
        self.rest(&place, &g.residue);
        // A graph with a cycle has no order.
        for o in g.topo().unwrap_or_else(|_| g.ops().collect()) {
            let op = g.op(o);
            let place = format!("{place}, node `{}`", g.label(o));
            self.doc(&place, &op.doc);
            self.metadata(&place, &op.metadata);
            self.rest(&place, &op.residue);
            for a in &op.attributes {
                self.attribute(&place, a);
            }
        }
        let mut values: Vec<_> = g.values().map(|v| g.value(v)).collect();
        values.sort_by_key(|v| v.name());
        for value in values {
            let place = format!("{place}, value `{}`", value.name());
            self.doc(&place, &value.doc);
            self.metadata(&place, &value.metadata);
            self.rest(&place, &value.residue);
            if let Some(t) = &value.konst {
                self.tensor(&place, t);
            }
        }
    }

    fn attribute(&mut self, place: &str, a: &Attribute) {
        let place = format!("{place}, attribute `{}`", a.name);
        self.doc(&place, &a.doc);
        match &a.value {
            AttrValue::Opaque(bytes) => self.push("sparse tensors", &place, quoted(bytes)),
            AttrValue::Tensor(t) => self.tensor(&place, t),
            AttrValue::Tensors(all) => all.iter().for_each(|t| self.tensor(&place, t)),
            _ => {}
        }
    }

    fn tensor(&mut self, place: &str, t: &Tensor) {
        self.rest(place, &t.residue);
    }

    fn doc(&mut self, place: &str, doc: &str) {
        if !doc.is_empty() {
            self.push("documentation of graphs, nodes and values", place, format!("doc_string {doc:?}"));
        }
    }

    fn metadata(&mut self, place: &str, entries: &[(String, String)]) {
        for (key, value) in entries {
            self.push("metadata of graphs, nodes and values", place, format!("metadata {key:?}: {value:?}"));
        }
    }

    fn rest(&mut self, place: &str, residue: &Bytes) {
        if !residue.is_empty() {
            self.push("training information, annotations and the like", place, quoted(residue));
        }
    }

    fn push(&mut self, kind: &'static str, place: &str, content: String) {
        self.0.push(Unprinted { kind, place: place.to_owned(), content });
    }
}

/// Encoded fields, readable as far as they are text.
fn quoted(bytes: &Bytes) -> String {
    format!("fields \"{}\"", bytes.escape_ascii())
}
