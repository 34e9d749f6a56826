//! [`Model`] to `ModelProto`.
//!
//! Operators come out in the graph's stable order of execution, constants in the order of their ids, and
//! declared types in the order of the operators. Tensor data is shared with the model, not copied.
//!
//! Names: a value that a body captures has the name it has in the scope where it is defined. Should a local
//! value of the body have that name by now, the local one is renamed, since it would hide the outer one.

use crate::error::SaveError;
use crate::onnx::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
};
use crate::types::{export_entries, text};
use crate::{attribute, tensor, types};
use prost::Message;
use squint_ir::{Function, Graph, GraphId, Model, OpId, Value, ValueId, ValueTable};
use std::borrow::Cow;
use std::collections::HashSet;

/// The message of a model. With `keep`, tensors from external files refer to them as they did; otherwise all data
/// are in the message.
pub(crate) fn model(model: &Model, keep: bool) -> Result<ModelProto, SaveError> {
    let mut proto = ModelProto::decode(model.residue.clone()).map_err(|_| residue("the model"))?;
    proto.ir_version = Some(model.ir_version);
    proto.opset_import = opsets(&model.opsets);
    proto.producer_name = text(&model.producer_name);
    proto.producer_version = text(&model.producer_version);
    proto.domain = text(&model.domain);
    proto.model_version = model.model_version;
    proto.doc_string = text(&model.doc);
    proto.metadata_props = export_entries(&model.metadata);
    let export = Export { model, keep };
    proto.graph = Some(export.graph(model.main_id(), None)?);
    proto.functions = model.functions.iter().map(|f| export.function(f)).collect::<Result<_, _>>()?;
    Ok(proto)
}

type Names<'m> = ValueTable<Cow<'m, str>>;

/// What a body sees of the scope around it: the values in its owner's capture slots, and their names.
struct Outer<'a, 'm> {
    captures: &'a [Option<ValueId>],
    names: &'a Names<'m>,
}

struct Export<'m> {
    model: &'m Model,
    keep: bool,
}

impl<'m> Export<'m> {
    fn graph(&self, id: GraphId, outer: Option<Outer<'_, 'm>>) -> Result<GraphProto, SaveError> {
        let g = self.model.graph(id);
        let place = || residue(&format!("graph `{}`", g.name));
        let names = names(g, outer);
        let mut proto = GraphProto::decode(g.residue.clone()).map_err(|_| place())?;
        // Types of values that were not there; a pass may have made some of that name since.
        proto.value_info.retain(|info| g.value_named(info.name()).is_none());
        let strangers = std::mem::take(&mut proto.value_info);
        let annotations = std::mem::take(&mut proto.quantization_annotation);
        proto.name = text(&g.name);
        proto.doc_string = text(&g.doc);
        proto.metadata_props = export_entries(&g.metadata);
        proto.input = g.inputs.iter().map(|v| declaration(g, *v, &names)).collect::<Result<_, _>>()?;
        let own = std::mem::take(&mut proto.output);
        proto.output = g.outputs.iter().map(|v| declaration(g, *v, &names)).collect::<Result<_, _>>()?;
        restore_outputs(g, own, &mut proto.output);
        let order = g.topo()?;
        proto.node = order.iter().map(|op| self.node(g, *op, &names)).collect::<Result<_, _>>()?;
        for v in g.values() {
            let value = g.value(v);
            if let Some(t) = &value.konst {
                proto.initializer.push(tensor::export(t, Some(name(&names, v)), self.keep)?);
            }
            let rest = value_residue(value)?;
            proto.sparse_initializer.extend(rest.sparse_initializer.into_iter().map(|mut t| {
                t.values.get_or_insert_default().name = Some(name(&names, v).to_owned());
                t
            }));
            proto.quantization_annotation.extend(rest.quantization_annotation.into_iter().map(|mut a| {
                a.tensor_name = Some(name(&names, v).to_owned());
                a
            }));
        }
        proto.quantization_annotation.extend(annotations);
        proto.value_info = value_info(g, &order, &names)?;
        proto.value_info.extend(strangers);
        Ok(proto)
    }

    fn node(&self, g: &Graph, id: OpId, names: &Names<'m>) -> Result<NodeProto, SaveError> {
        let op = g.op(id);
        let place = || residue(&format!("node `{}`", g.label(id)));
        let slots = |slots: Vec<Option<ValueId>>| {
            slots.into_iter().map(|v| v.map_or("", |v| name(names, v)).to_owned()).collect()
        };
        let captures = g.captures(id);
        let proto = NodeProto::decode(op.residue.clone()).map_err(|_| place())?;
        Ok(NodeProto {
            input: slots(g.operands(id)),
            output: slots(g.results(id)),
            name: text(&op.name),
            op_type: Some(op.op_type.clone()),
            domain: text(&op.domain),
            overload: text(&op.overload),
            attribute: op
                .attributes
                .iter()
                .map(|a| {
                    let mut body = |g| self.graph(g, Some(Outer { captures: &captures, names }));
                    attribute::export(a, self.keep, &mut body)
                })
                .collect::<Result<_, _>>()?,
            doc_string: text(&op.doc),
            metadata_props: export_entries(&op.metadata),
            ..proto
        })
    }

    fn function(&self, f: &Function) -> Result<FunctionProto, SaveError> {
        let place = || residue(&format!("function `{}`", f.name));
        let body = self.graph(f.graph, None)?;
        let mut proto = FunctionProto::decode(f.residue.clone()).map_err(|_| place())?;
        let name = |info: ValueInfoProto| info.name.unwrap_or_default();
        proto.name = text(&f.name);
        proto.domain = text(&f.domain);
        proto.overload = text(&f.overload);
        proto.doc_string = text(&f.doc);
        proto.metadata_props = export_entries(&f.metadata);
        proto.attribute.clone_from(&f.attributes);
        proto.attribute_proto = f
            .defaults
            .iter()
            .map(|a| attribute::export(a, self.keep, &mut |g| self.graph(g, None)))
            .collect::<Result<_, _>>()?;
        proto.opset_import = opsets(&f.opsets);
        // A function has types of its inputs and outputs among those of its inner values, if at all.
        let mut listed = HashSet::new();
        let ends = body.input.iter().chain(&body.output);
        let says_more = |i: &&ValueInfoProto| {
            i.r#type.is_some() || i.doc_string.is_some() || !i.metadata_props.is_empty()
        };
        proto.value_info =
            ends.filter(says_more).filter(|i| listed.insert(i.name().to_owned())).cloned().collect();
        proto.value_info.extend(body.value_info);
        proto.input = body.input.into_iter().map(name).collect();
        proto.output = body.output.into_iter().map(name).collect();
        // A function has no initializers: its constants are nodes.
        proto.node = body.initializer.into_iter().map(constant).chain(body.node).collect();
        Ok(proto)
    }
}

/// The names under which the values of a graph are exported.
fn names<'m>(g: &'m Graph, outer: Option<Outer<'_, 'm>>) -> Names<'m> {
    let mut names = Names::new();
    let mut captured: HashSet<Cow<'m, str>> = HashSet::new();
    if let Some(outer) = outer {
        for v in g.values() {
            let slot = g.value(v).captured;
            let source = slot.and_then(|s| outer.captures.get(s as usize).copied().flatten());
            if let Some(name) = source.and_then(|o| outer.names.get(o)) {
                names.insert(v, name.clone());
                captured.insert(name.clone());
            }
        }
    }
    for v in g.values() {
        if names.contains(v) {
            continue;
        }
        let name = g.value(v).name();
        if !captured.contains(name) {
            names.insert(v, Cow::Borrowed(name));
            continue;
        }
        let free = |n: &String| g.value_named(n).is_none() && !captured.contains(n.as_str());
        let fresh = (1..).map(|i| format!("{name}_inner_{i}")).find(free);
        names.insert(v, Cow::Owned(fresh.expect("invariant: names do not run out")));
    }
    names
}

fn name<'a>(names: &'a Names<'_>, v: ValueId) -> &'a str {
    names.get(v).map_or("", |n| n)
}

/// Gives outputs that are inputs too, or outputs twice, the declarations that they had as outputs.
fn restore_outputs(g: &Graph, own: Vec<ValueInfoProto>, outputs: &mut [ValueInfoProto]) {
    if own.len() != outputs.len() {
        return;
    }
    let twice = |v: &ValueId| g.outputs.iter().filter(|o| *o == v).count() > 1;
    for ((v, own), output) in g.outputs.iter().zip(own).zip(outputs) {
        if own.name == output.name && (g.is_input(*v) || twice(v)) {
            *output = own;
        }
    }
}

/// Declared types of everything between inputs and outputs.
fn value_info(g: &Graph, order: &[OpId], names: &Names<'_>) -> Result<Vec<ValueInfoProto>, SaveError> {
    let mut done: ValueTable<()> = ValueTable::new();
    for v in g.inputs.iter().chain(&g.outputs) {
        done.insert(*v, ());
    }
    let mut out = Vec::new();
    for v in order.iter().flat_map(|op| g.results(*op)).flatten().chain(g.values()) {
        let value = g.value(v);
        if value.captured.is_some() || done.insert(v, ()).is_some() {
            continue;
        }
        // A constant says its type itself; it is listed only if it was.
        let made = g.producer(v).is_some();
        let listed = !value_residue(value)?.value_info.is_empty();
        if (made && value.ty.is_some()) || listed || !value.doc.is_empty() || !value.metadata.is_empty() {
            out.push(declaration(g, v, names)?);
        }
    }
    Ok(out)
}

fn declaration(g: &Graph, v: ValueId, names: &Names<'_>) -> Result<ValueInfoProto, SaveError> {
    let value = g.value(v);
    Ok(ValueInfoProto {
        name: Some(name(names, v).to_owned()),
        r#type: declared_type(value)?,
        doc_string: text(&value.doc),
        metadata_props: export_entries(&value.metadata),
    })
}

/// The type of a value as the file had it, denotations and all, if it still is that type.
pub(crate) fn declared_type(value: &Value) -> Result<Option<TypeProto>, SaveError> {
    let Some(ty) = &value.ty else { return Ok(None) };
    let kept = value_residue(value)?.value_info.into_iter().next().and_then(|info| info.r#type);
    let holds = |kept: &TypeProto| {
        let kept = types::import(kept);
        kept == *ty || (value.konst.is_some() && types::is_vaguer(&kept, ty))
    };
    Ok(Some(kept.filter(holds).unwrap_or_else(|| types::export(ty))))
}

fn value_residue(value: &Value) -> Result<GraphProto, SaveError> {
    GraphProto::decode(value.residue.clone()).map_err(|_| residue(&format!("value `{}`", value.name())))
}

/// A tensor as a `Constant` node.
fn constant(mut t: crate::onnx::TensorProto) -> NodeProto {
    use crate::onnx::{AttributeProto, attribute_proto::AttributeType};
    let output = vec![t.name.take().unwrap_or_default()];
    let value = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(t),
        ..AttributeProto::default()
    };
    NodeProto { op_type: Some("Constant".into()), output, attribute: vec![value], ..NodeProto::default() }
}

fn opsets(opsets: &[(String, i64)]) -> Vec<OperatorSetIdProto> {
    opsets.iter().map(|(d, v)| OperatorSetIdProto { domain: Some(d.clone()), version: Some(*v) }).collect()
}

fn residue(place: &str) -> SaveError {
    SaveError::Residue { place: place.to_owned() }
}
