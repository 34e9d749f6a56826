//! `AttributeProto`, both ways, apart from the graphs in it.

use crate::error::SaveError;
use crate::files::Files;
use crate::load::Findings;
use crate::onnx::{AttributeProto, attribute_proto::AttributeType};
use crate::{tensor, types};
use bytes::Bytes;
use prost::Message;
use squint_ir::{AttrValue, Attribute, GraphId, Tensor};
use std::sync::Arc;

/// What kind of value a message holds; `Undefined` for kinds newer than the schema. Files of IR version 1 do not
/// say, so then it is the field in use.
pub(crate) fn kind(p: &AttributeProto) -> AttributeType {
    match AttributeType::try_from(p.r#type.unwrap_or_default()) {
        Ok(AttributeType::Undefined) => fields_in_use(p).next().unwrap_or(AttributeType::Undefined),
        Ok(kind) => kind,
        Err(_) => AttributeType::Undefined,
    }
}

/// The kinds whose fields a message has; by the specification just one.
fn fields_in_use(p: &AttributeProto) -> impl Iterator<Item = AttributeType> + use<> {
    use AttributeType as T;
    let fields = [
        (p.f.is_some(), T::Float),
        (p.i.is_some(), T::Int),
        (p.s.is_some(), T::String),
        (p.t.is_some(), T::Tensor),
        (p.g.is_some(), T::Graph),
        (p.tp.is_some(), T::TypeProto),
        (p.sparse_tensor.is_some(), T::SparseTensor),
        (!p.floats.is_empty(), T::Floats),
        (!p.ints.is_empty(), T::Ints),
        (!p.strings.is_empty(), T::Strings),
        (!p.tensors.is_empty(), T::Tensors),
        (!p.graphs.is_empty(), T::Graphs),
        (!p.type_protos.is_empty(), T::TypeProtos),
        (!p.sparse_tensors.is_empty(), T::SparseTensors),
    ];
    fields.into_iter().filter(|(set, _)| *set).map(|(_, kind)| kind)
}

/// Notes values of a message that the model will not have, since the attribute is of another kind.
pub(crate) fn note_other_values(p: &AttributeProto, place: &str, findings: &mut Findings) {
    let kind = if p.ref_attr_name().is_empty() { kind(p) } else { AttributeType::Undefined };
    let keeps_all = kind == AttributeType::Undefined && p.ref_attr_name().is_empty();
    let others: Vec<_> = fields_in_use(p).filter(|k| *k != kind).map(|k| k.as_str_name()).collect();
    if !others.is_empty() && !keeps_all {
        let name = p.name();
        let others = others.join(", ");
        findings.notes.push(format!(
            "attribute `{name}` of {place} also has values of kind {others}, which will not be saved"
        ));
    }
}

/// The attribute of a message that holds no graph. `place` names the operator in errors. An attribute with data
/// that cannot be read has no value but its name.
pub(crate) fn import(
    p: AttributeProto,
    place: &str,
    files: &mut Files,
    findings: &mut Findings,
) -> Attribute {
    use AttributeType as T;
    let name = p.name().to_owned();
    let doc = p.doc_string().to_owned();
    let at = format!("attribute `{name}` of {place}");
    let unread = || {
        let rest = AttributeProto { name: types::text(&name), ..AttributeProto::default() };
        AttrValue::Opaque(rest.encode_to_vec().into())
    };
    let mut read = |t| match tensor::import(t, &at, files) {
        Ok(tensor) => Some(Arc::new(tensor)),
        Err(problem) => {
            findings.problems.push(problem);
            None
        }
    };
    let value = match kind(&p) {
        _ if !p.ref_attr_name().is_empty() => {
            AttrValue::Reference { name: p.ref_attr_name().to_owned(), kind: p.r#type.unwrap_or_default() }
        }
        T::Float => AttrValue::Float(p.f()),
        T::Int => AttrValue::Int(p.i()),
        T::String => AttrValue::String(p.s.unwrap_or_default()),
        T::Tensor => read(p.t.unwrap_or_default()).map_or_else(unread, AttrValue::Tensor),
        T::Floats => AttrValue::Floats(p.floats),
        T::Ints => AttrValue::Ints(p.ints),
        T::Strings => AttrValue::Strings(p.strings),
        T::Tensors => {
            // All are read, so that each of them can be complained of.
            let all: Vec<_> = p.tensors.into_iter().map(read).collect();
            all.into_iter().collect::<Option<_>>().map_or_else(unread, AttrValue::Tensors)
        }
        T::TypeProto if p.tp.as_ref().is_some_and(types::exact) => {
            AttrValue::Type(types::import(&p.tp.unwrap_or_default()))
        }
        T::TypeProtos if p.type_protos.iter().all(types::exact) => {
            AttrValue::Types(p.type_protos.iter().map(types::import).collect())
        }
        _ => AttrValue::Opaque(encoded(p, &at, files, findings)),
    };
    let doc = if matches!(value, AttrValue::Opaque(_)) { String::new() } else { doc };
    Attribute { name, value, doc }
}

/// A whole message, as an attribute that the IR does not interpret.
fn encoded(mut p: AttributeProto, at: &str, files: &mut Files, findings: &mut Findings) -> Bytes {
    for sparse in p.sparse_tensor.iter_mut().chain(&mut p.sparse_tensors) {
        for t in sparse.values.iter_mut().chain(&mut sparse.indices) {
            findings.problems.extend(tensor::inline(t, at, files).err());
        }
    }
    p.encode_to_vec().into()
}

/// The message of an attribute; `graph` encodes the graphs in it, and `keep` is as for a tensor.
pub(crate) fn export<G>(a: &Attribute, keep: bool, graph: &mut G) -> Result<AttributeProto, SaveError>
where
    G: FnMut(GraphId) -> Result<crate::onnx::GraphProto, SaveError>,
{
    use AttributeType as T;
    let write = |t: &Arc<Tensor>| tensor::export(t, None, keep);
    let mut p =
        AttributeProto { name: types::text(&a.name), doc_string: types::text(&a.doc), ..Default::default() };
    let kind = match &a.value {
        AttrValue::Float(x) => {
            p.f = Some(*x);
            T::Float
        }
        AttrValue::Int(x) => {
            p.i = Some(*x);
            T::Int
        }
        AttrValue::String(s) => {
            p.s = Some(s.clone());
            T::String
        }
        AttrValue::Tensor(t) => {
            p.t = Some(write(t)?);
            T::Tensor
        }
        AttrValue::Graph(g) => {
            p.g = Some(graph(*g)?);
            T::Graph
        }
        AttrValue::Type(t) => {
            p.tp = Some(types::export(t));
            T::TypeProto
        }
        AttrValue::Floats(x) => {
            p.floats.clone_from(x);
            T::Floats
        }
        AttrValue::Ints(x) => {
            p.ints.clone_from(x);
            T::Ints
        }
        AttrValue::Strings(x) => {
            p.strings.clone_from(x);
            T::Strings
        }
        AttrValue::Tensors(ts) => {
            p.tensors = ts.iter().map(write).collect::<Result<_, _>>()?;
            T::Tensors
        }
        AttrValue::Graphs(gs) => {
            p.graphs = gs.iter().map(|g| graph(*g)).collect::<Result<_, _>>()?;
            T::Graphs
        }
        AttrValue::Types(ts) => {
            p.type_protos = ts.iter().map(types::export).collect();
            T::TypeProtos
        }
        AttrValue::Reference { name, kind } => {
            p.ref_attr_name = Some(name.clone());
            p.r#type = Some(*kind);
            return Ok(p);
        }
        AttrValue::Opaque(bytes) => {
            let whole = AttributeProto::decode(bytes.clone());
            let place = || format!("attribute `{}`", a.name);
            let whole = whole.map_err(|_| SaveError::Residue { place: place() })?;
            return Ok(AttributeProto { name: p.name, ..whole });
        }
    };
    p.r#type = Some(kind as i32);
    Ok(p)
}
