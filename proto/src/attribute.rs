//! `AttributeProto`, both ways, apart from the graphs in it.

use crate::error::{LoadProblem, SaveError};
use crate::files::Files;
use crate::onnx::{AttributeProto, attribute_proto::AttributeType};
use crate::{tensor, types};
use prost::Message;
use squint_ir::{AttrValue, Attribute, GraphId, Tensor};
use std::sync::Arc;

/// What kind of value a message holds. Files of IR version 1 do not say, so then it is the field in use.
pub(crate) fn kind(p: &AttributeProto) -> AttributeType {
    use AttributeType as T;
    match p.r#type() {
        T::Undefined => {}
        kind => return kind,
    }
    let fields = [
        (p.f.is_some(), T::Float),
        (p.i.is_some(), T::Int),
        (p.s.is_some(), T::String),
        (p.t.is_some(), T::Tensor),
        (p.g.is_some(), T::Graph),
        (p.tp.is_some(), T::TypeProto),
        (!p.floats.is_empty(), T::Floats),
        (!p.ints.is_empty(), T::Ints),
        (!p.strings.is_empty(), T::Strings),
        (!p.tensors.is_empty(), T::Tensors),
        (!p.graphs.is_empty(), T::Graphs),
        (!p.type_protos.is_empty(), T::TypeProtos),
    ];
    fields.into_iter().find(|(set, _)| *set).map_or(T::Undefined, |(_, kind)| kind)
}

/// The attribute of a message that holds no graph. `place` names the operator in errors.
pub(crate) fn import(p: AttributeProto, place: &str, files: &mut Files) -> Result<Attribute, LoadProblem> {
    use AttributeType as T;
    let name = p.name().to_owned();
    let doc = p.doc_string().to_owned();
    let at = format!("attribute `{name}` of {place}");
    let mut read = |t| tensor::import(t, &at, files).map(Arc::new);
    let value = match kind(&p) {
        kind if !p.ref_attr_name().is_empty() => {
            AttrValue::Reference { name: p.ref_attr_name().to_owned(), kind: kind as i32 }
        }
        T::Float => AttrValue::Float(p.f()),
        T::Int => AttrValue::Int(p.i()),
        T::String => AttrValue::String(p.s.unwrap_or_default()),
        T::Tensor => AttrValue::Tensor(read(p.t.unwrap_or_default())?),
        T::Floats => AttrValue::Floats(p.floats),
        T::Ints => AttrValue::Ints(p.ints),
        T::Strings => AttrValue::Strings(p.strings),
        T::Tensors => AttrValue::Tensors(p.tensors.into_iter().map(read).collect::<Result<_, _>>()?),
        T::TypeProto if p.tp.as_ref().is_some_and(types::exact) => {
            AttrValue::Type(types::import(&p.tp.unwrap_or_default()))
        }
        T::TypeProtos if p.type_protos.iter().all(types::exact) => {
            AttrValue::Types(p.type_protos.iter().map(types::import).collect())
        }
        _ => AttrValue::Opaque(p.encode_to_vec().into()),
    };
    let doc = if matches!(value, AttrValue::Opaque(_)) { String::new() } else { doc };
    Ok(Attribute { name, value, doc })
}

/// The message of an attribute; `graph` encodes the graphs in it.
pub(crate) fn export<G>(a: &Attribute, graph: &mut G) -> Result<AttributeProto, SaveError>
where
    G: FnMut(GraphId) -> Result<crate::onnx::GraphProto, SaveError>,
{
    use AttributeType as T;
    let write = |t: &Arc<Tensor>| tensor::export(t, None);
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
