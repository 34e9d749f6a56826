//! The printer: one declaration and one node a line.

use super::PrintOptions;
use super::lexer::is_identifier;
use super::literal::is_float_word;
use super::print_value::{
    attribute_kind_name, is_qualified, write_bytes, write_elements, write_float, write_list, write_name,
    write_quoted, write_tensor_type,
};
use crate::{AttrValue, Attribute, Function, Graph, GraphId, Model, OpId, Tensor, Type, ValueId};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};
use std::ops::Range;

/// Lines longer than this are broken where the syntax has a list.
const WIDTH: usize = 110;

/// An operator printed on one line, and where its parts stand: what a diagnostic points at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLine {
    /// The line.
    pub text: String,
    /// Bytes of the operator type with its domain.
    pub op_type: Range<usize>,
    /// Bytes of each operand, by slot.
    pub operands: Vec<Range<usize>>,
    /// Bytes of each result, by slot.
    pub results: Vec<Range<usize>>,
}

pub(super) struct Printer<'a> {
    model: &'a Model,
    options: PrintOptions<'a>,
}

/// A graph being printed, with the outer names of the values it captures.
struct Scope<'a> {
    id: GraphId,
    graph: &'a Graph,
    captured: Vec<String>,
}

impl Scope<'_> {
    fn name(&self, id: ValueId) -> &str {
        let value = self.graph.value(id);
        let outer = value.captured.and_then(|slot| self.captured.get(slot as usize));
        outer.map_or(value.name(), String::as_str)
    }
}

// Writing to a string cannot fail; the results are passed on only because the trait has them.
impl<'a> Printer<'a> {
    pub(super) fn new(model: &'a Model, options: PrintOptions<'a>) -> Self {
        Printer { model, options }
    }

    pub(super) fn model(&self) -> String {
        let mut out = String::new();
        let written = self.write_model(&mut out);
        debug_assert!(written.is_ok(), "invariant: writing to a string succeeds");
        out
    }

    pub(super) fn one_graph(&self, id: GraphId) -> String {
        let mut out = String::new();
        let written = self.graph(&mut out, id, "");
        debug_assert!(written.is_ok(), "invariant: writing to a string succeeds");
        out
    }

    pub(super) fn one_node(&self, graph: GraphId, op: OpId) -> NodeLine {
        let mut line = NodeLine::default();
        let written = self.node_head(&mut line, &self.scope(graph), op, true);
        debug_assert!(written.is_ok(), "invariant: writing to a string succeeds");
        line
    }

    fn write_model(&self, out: &mut String) -> fmt::Result {
        let m = self.model;
        let mut fields = vec![format!("ir_version: {}", m.ir_version), opsets(&m.opsets)?];
        fields.extend(text_field("producer_name", &m.producer_name)?);
        fields.extend(text_field("producer_version", &m.producer_version)?);
        fields.extend(text_field("domain", &m.domain)?);
        fields.extend(m.model_version.map(|v| format!("model_version: {v}")));
        fields.extend(text_field("doc_string", &m.doc)?);
        if !m.metadata.is_empty() {
            let mut field = String::from("metadata_props: [");
            write_list(&mut field, &m.metadata, |o, (k, v)| {
                write_quoted(o, k)?;
                o.push_str(": ");
                write_quoted(o, v)
            })?;
            fields.push(field + "]");
        }
        write_broken(out, "", "<", &fields, ">")?;
        out.push('\n');
        self.graph(out, m.main_id(), "")?;
        out.push('\n');
        for f in &m.functions {
            self.function(out, f)?;
        }
        Ok(())
    }

    fn function(&self, out: &mut String, f: &Function) -> fmt::Result {
        let mut domain = String::from("domain: ");
        write_quoted(&mut domain, &f.domain)?;
        let mut fields = vec![domain];
        fields.extend(text_field("overload", &f.overload)?);
        fields.push(opsets(&f.opsets)?);
        fields.extend(text_field("doc_string", &f.doc)?);
        out.push('\n');
        write_broken(out, "", "<", &fields, ">")?;
        out.push('\n');
        write_name(out, &f.name)?;
        let scope = self.scope(f.graph);
        if !f.attributes.is_empty() || !f.defaults.is_empty() {
            out.push_str(" <");
            write_list(out, &f.attributes, |o, name| write_name(o, name))?;
            for (i, d) in f.defaults.iter().enumerate() {
                out.push_str(if i > 0 || !f.attributes.is_empty() { ", " } else { "" });
                self.attribute(out, d, "  ")?;
            }
            out.push('>');
        }
        self.graph_body(out, &scope, "")?;
        out.push('\n');
        Ok(())
    }

    fn scope(&self, id: GraphId) -> Scope<'a> {
        let graph = self.model.graph(id);
        let captured = match graph.owner {
            Some((outer, op)) => {
                let outer = self.scope(outer);
                let name = |v: Option<ValueId>| v.map_or(String::new(), |v| outer.name(v).to_owned());
                outer.graph.captures(op).into_iter().map(name).collect()
            }
            None => Vec::new(),
        };
        Scope { id, graph, captured }
    }

    fn graph(&self, out: &mut String, id: GraphId, indent: &str) -> fmt::Result {
        let scope = self.scope(id);
        let name = &scope.graph.name;
        // As an attribute, a graph called `nan` would be read as a number.
        if is_float_word(name) {
            write_quoted(out, name)?
        } else {
            write_name(out, name)?
        }
        self.graph_body(out, &scope, indent)
    }

    /// All of a graph but its name.
    fn graph_body(&self, out: &mut String, scope: &Scope<'_>, indent: &str) -> fmt::Result {
        let g = scope.graph;
        let typed = |ids: &[ValueId]| -> Result<Vec<String>, fmt::Error> {
            ids.iter().map(|v| self.typed_name(scope, *v)).collect()
        };
        out.push(' ');
        write_broken(out, indent, "(", &typed(&g.inputs)?, ")")?;
        out.push_str(" => ");
        write_broken(out, indent, "(", &typed(&g.outputs)?, ")")?;
        let facts = g.inputs.iter().filter_map(|v| Some((scope.name(*v), self.fact(scope, *v)?)));
        let comment: Vec<String> = facts.map(|(name, fact)| format!("{name}: {fact}")).collect();
        write_comment(out, &comment);
        out.push('\n');
        self.declarations(out, scope, indent)?;
        writeln!(out, "{indent}{{")?;
        // A graph with a cycle has no order; the messages about it print it all the same.
        for op in g.topo().unwrap_or_else(|_| g.ops().collect()) {
            self.node(out, scope, op, &format!("{indent}  "))?;
        }
        write!(out, "{indent}}}")
    }

    /// The block of constants and of types of inner values.
    fn declarations(&self, out: &mut String, scope: &Scope<'_>, indent: &str) -> fmt::Result {
        let g = scope.graph;
        let mut lines = Vec::new();
        for v in g.values() {
            if let Some(tensor) = g.konst(v) {
                let mut line = String::new();
                write_tensor_type(&mut line, tensor.dtype(), tensor.dims())?;
                line.push(' ');
                write_name(&mut line, scope.name(v))?;
                line.push_str(" = ");
                self.tensor_data(&mut line, tensor)?;
                lines.push((line, v));
            }
        }
        let mut external = crate::ValueTable::new();
        for v in g.inputs.iter().chain(&g.outputs) {
            external.insert(*v, ());
        }
        for v in g.values().filter(|v| !self.options.hide_types && !external.contains(*v)) {
            let value = g.value(v);
            if value.ty.is_some() && value.konst.is_none() && value.captured.is_none() {
                lines.push((self.typed_name(scope, v)?, v));
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(out, "{indent}<")?;
        let last = lines.len() - 1;
        for (i, (line, v)) in lines.into_iter().enumerate() {
            write!(out, "{indent}  {line}{}", if i < last { "," } else { "" })?;
            // The fact about a result stands beside its node.
            let fact = if g.producer(v).is_none() { self.fact(scope, v) } else { None };
            write_comment(out, fact.as_slice());
            out.push('\n');
        }
        writeln!(out, "{indent}>")
    }

    fn node(&self, out: &mut String, scope: &Scope<'_>, op: OpId, indent: &str) -> fmt::Result {
        let mut line = NodeLine::default();
        let bodies = scope.graph.op(op).bodies().next().is_some();
        self.node_head(&mut line, scope, op, !bodies)?;
        write!(out, "{indent}{}", line.text)?;
        if bodies {
            out.push_str(" <\n");
            let attributes = &scope.graph.op(op).attributes;
            let printable: Vec<&Attribute> = attributes.iter().filter(|a| is_printable(a)).collect();
            for (i, a) in printable.iter().enumerate() {
                write!(out, "{indent}  ")?;
                self.attribute(out, a, &format!("{indent}  "))?;
                out.push_str(if i + 1 < printable.len() { ",\n" } else { "\n" });
            }
            write!(out, "{indent}>")?;
        }
        let mut comment = Vec::new();
        if self.options.ids {
            let results = scope.graph.results(op).into_iter().flatten();
            comment.push(results.fold(op.to_string(), |s, v| format!("{s} {v}")));
        }
        comment.extend(scope.graph.results(op).into_iter().flatten().filter_map(|v| self.fact(scope, v)));
        let hidden = scope.graph.op(op).attributes.iter().filter(|a| !is_printable(a));
        comment.extend(hidden.map(|a| format!("attribute `{}` has no textual form", a.name)));
        write_comment(out, &comment);
        out.push('\n');
        Ok(())
    }

    /// A node without the attributes, or with those that are not graphs.
    fn node_head(&self, line: &mut NodeLine, scope: &Scope<'_>, op: OpId, attributes: bool) -> fmt::Result {
        let node = scope.graph.op(op);
        let out = &mut line.text;
        if !node.name.is_empty() {
            out.push('[');
            write_name(out, &node.name)?;
            out.push_str("] ");
        }
        line.results = write_values(out, scope, &scope.graph.results(op))?;
        out.push_str(" = ");
        let start = out.len();
        if !node.domain.is_empty() {
            // Quoting a part would still leave the points to be read as separators.
            if is_qualified(&node.domain) {
                out.push_str(&node.domain);
            } else {
                write_quoted(out, &node.domain)?;
            }
            out.push('.');
        }
        write_word(out, &node.op_type)?;
        if !node.overload.is_empty() {
            out.push(':');
            write_word(out, &node.overload)?;
        }
        line.op_type = start..out.len();
        let mut shown = node
            .attributes
            .iter()
            .filter(|a| attributes && is_printable(a) && a.value.graphs().is_empty())
            .peekable();
        if shown.peek().is_some() {
            out.push_str(" <");
            write_list(out, shown, |o, a| self.attribute(o, a, ""))?;
            out.push('>');
        }
        out.push_str(" (");
        line.operands = write_values(out, scope, &scope.graph.operands(op))?;
        out.push(')');
        Ok(())
    }

    fn attribute(&self, out: &mut String, a: &Attribute, indent: &str) -> fmt::Result {
        write_word(out, &a.name)?;
        let kind = match &a.value {
            AttrValue::Reference { kind, .. } => attribute_kind_name(*kind),
            AttrValue::Floats(x) if x.is_empty() => Some("floats"),
            AttrValue::Ints(x) if x.is_empty() => Some("ints"),
            AttrValue::Strings(x) if x.is_empty() => Some("strings"),
            AttrValue::Tensors(x) if x.is_empty() => Some("tensors"),
            AttrValue::Graphs(x) if x.is_empty() => Some("graphs"),
            AttrValue::Types(x) if x.is_empty() => Some("type_protos"),
            _ => None,
        };
        if let Some(kind) = kind {
            write!(out, ": {kind}")?;
        }
        out.push_str(" = ");
        let listed = matches!(
            a.value,
            AttrValue::Floats(_)
                | AttrValue::Ints(_)
                | AttrValue::Strings(_)
                | AttrValue::Tensors(_)
                | AttrValue::Graphs(_)
                | AttrValue::Types(_)
        );
        out.push_str(if listed { "[" } else { "" });
        match &a.value {
            AttrValue::Float(x) => write_float(out, *x)?,
            AttrValue::Int(x) => write!(out, "{x}")?,
            AttrValue::String(x) => write_bytes(out, x)?,
            AttrValue::Tensor(x) => self.tensor(out, x)?,
            AttrValue::Type(x) => write!(out, "{x}")?,
            AttrValue::Graph(x) => self.graph(out, *x, indent)?,
            AttrValue::Reference { name, .. } => {
                out.push('@');
                write_name(out, name)?;
            }
            AttrValue::Floats(all) => write_list(out, all, |o, x| write_float(o, *x))?,
            AttrValue::Ints(all) => write_list(out, all, |o, x| write!(o, "{x}"))?,
            AttrValue::Strings(all) => write_list(out, all, |o, x| write_bytes(o, x))?,
            AttrValue::Tensors(all) => write_list(out, all, |o, x| self.tensor(o, x))?,
            AttrValue::Types(all) => write_list(out, all, |o, x| write!(o, "{x}"))?,
            AttrValue::Graphs(all) => write_list(out, all, |o, x| self.graph(o, *x, indent))?,
            AttrValue::Opaque(_) => {}
        }
        out.push_str(if listed { "]" } else { "" });
        Ok(())
    }

    fn tensor(&self, out: &mut String, tensor: &Tensor) -> fmt::Result {
        write_tensor_type(out, tensor.dtype(), tensor.dims())?;
        out.push_str(if self.is_elided(tensor) { " = " } else { " " });
        self.tensor_data(out, tensor)
    }

    fn tensor_data(&self, out: &mut String, tensor: &Tensor) -> fmt::Result {
        if !self.is_elided(tensor) {
            out.push('{');
            write_elements(out, tensor)?;
            out.push('}');
            return Ok(());
        }
        if let Some(location) = self.options.location.and_then(|f| f(tensor)) {
            out.push_str("[\"location\": ");
            write_quoted(out, &location)?;
            out.push(']');
            return Ok(());
        }
        let length = match tensor.as_strings() {
            Some(strings) => strings.iter().map(|s| s.len()).sum(),
            None => tensor.bytes().len(),
        };
        write!(out, "[\"location\": \"{}\", \"length\": \"{length}\"]", fingerprint(tensor))
    }

    fn is_elided(&self, tensor: &Tensor) -> bool {
        self.options.elide.is_some_and(|limit| tensor.len() > limit)
    }

    fn typed_name(&self, scope: &Scope<'_>, id: ValueId) -> Result<String, fmt::Error> {
        let mut out = scope.graph.ty(id).map_or(String::new(), |ty: &Type| format!("{ty} "));
        write_name(&mut out, scope.name(id))?;
        Ok(out)
    }

    fn fact(&self, scope: &Scope<'_>, id: ValueId) -> Option<String> {
        self.options.facts.and_then(|facts| facts(scope.id, id))
    }
}

/// The first 64 bits of the SHA-256 of a tensor's data.
fn fingerprint(tensor: &Tensor) -> String {
    let mut hash = Sha256::new();
    hash.update(tensor.bytes());
    for s in tensor.as_strings().unwrap_or_default() {
        hash.update((s.len() as u64).to_le_bytes());
        hash.update(s);
    }
    hash.finalize().iter().take(8).fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Sparse constants have no syntax.
fn is_printable(a: &Attribute) -> bool {
    !matches!(a.value, AttrValue::Opaque(_))
}

/// Writes a word that upstream never quotes.
fn write_word(out: &mut String, word: &str) -> fmt::Result {
    if is_identifier(word) { out.write_str(word) } else { write_quoted(out, word) }
}

fn write_values(
    out: &mut String,
    scope: &Scope<'_>,
    ids: &[Option<ValueId>],
) -> Result<Vec<Range<usize>>, fmt::Error> {
    let mut places = Vec::with_capacity(ids.len());
    write_list(out, ids, |o, id| {
        let start = o.len();
        write_name(o, id.map_or("", |v| scope.name(v)))?;
        places.push(start..o.len());
        Ok(())
    })?;
    Ok(places)
}

/// Writes a comment of several remarks, if there are any.
fn write_comment(out: &mut String, remarks: &[String]) {
    if !remarks.is_empty() {
        let text = remarks.join("; ");
        out.push_str("  # ");
        out.extend(text.chars().map(|c| if c == '\n' { ' ' } else { c }));
    }
}

/// Writes a list on the current line, or an item a line if it would become too long.
fn write_broken(out: &mut String, indent: &str, open: &str, items: &[String], close: &str) -> fmt::Result {
    let column = out.len() - out.rfind('\n').map_or(0, |i| i + 1);
    let length = items.iter().map(|i| i.len() + 2).sum::<usize>();
    out.push_str(open);
    if column + length <= WIDTH {
        out.push_str(&items.join(", "));
    } else {
        for (i, item) in items.iter().enumerate() {
            write!(out, "\n{indent}  {item}{}", if i + 1 < items.len() { "," } else { "\n" })?;
        }
        out.push_str(indent);
    }
    out.push_str(close);
    Ok(())
}

fn opsets(all: &[(String, i64)]) -> Result<String, fmt::Error> {
    let mut out = String::from("opset_import: [");
    write_list(&mut out, all, |o, (domain, version)| {
        write_quoted(o, domain)?;
        write!(o, " : {version}")
    })?;
    Ok(out + "]")
}

/// `key: "value"`, or nothing for an empty value.
fn text_field(key: &str, value: &str) -> Result<Option<String>, fmt::Error> {
    if value.is_empty() {
        return Ok(None);
    }
    let mut out = format!("{key}: ");
    write_quoted(&mut out, value)?;
    Ok(Some(out))
}
