//! `TypeProto` and the other small messages, both ways.

use crate::onnx::type_proto::Value as Kind;
use crate::onnx::{self, StringStringEntryProto, TensorShapeProto, TypeProto, tensor_shape_proto::Dimension};
use onnx::tensor_shape_proto::dimension::Value as DimValue;
use prost::Message;
use squint_ir::{DType, Dim, Shape, Type};

/// The type of a message. What the IR cannot say (unknown element types, no type at all) is kept encoded; denotations and negative lengths get lost, see [`exact`].
pub(crate) fn import(proto: &TypeProto) -> Type {
    try_import(proto).unwrap_or_else(|| Type::Encoded(proto.encode_to_vec().into()))
}

/// True if exporting the imported type gives the same message.
pub(crate) fn exact(proto: &TypeProto) -> bool {
    export(&import(proto)) == *proto
}

/// True if a tensor type says the same as another, or less.
pub(crate) fn is_vaguer(vague: &Type, ty: &Type) -> bool {
    if vague.dtype().is_none() || vague.dtype() != ty.dtype() {
        return false;
    }
    match (vague.shape(), ty.shape()) {
        (None, _) => true,
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.known().is_none() || a == b)
        }
        (Some(_), None) => false,
    }
}

/// The message of a type.
pub(crate) fn export(ty: &Type) -> TypeProto {
    let element = |t: &Type| Some(Box::new(export(t)));
    let kind = match ty {
        Type::Tensor { dtype, shape } => Kind::TensorType(onnx::type_proto::Tensor {
            elem_type: Some(dtype.code()),
            shape: shape.as_ref().map(export_shape),
        }),
        Type::SparseTensor { dtype, shape } => Kind::SparseTensorType(onnx::type_proto::SparseTensor {
            elem_type: Some(dtype.code()),
            shape: shape.as_ref().map(export_shape),
        }),
        Type::Sequence(t) => {
            Kind::SequenceType(Box::new(onnx::type_proto::Sequence { elem_type: element(t) }))
        }
        Type::Optional(t) => {
            Kind::OptionalType(Box::new(onnx::type_proto::Optional { elem_type: element(t) }))
        }
        Type::Map(k, t) => Kind::MapType(Box::new(onnx::type_proto::Map {
            key_type: Some(k.code()),
            value_type: element(t),
        })),
        Type::Opaque { domain, name } => {
            Kind::OpaqueType(onnx::type_proto::Opaque { domain: text(domain), name: text(name) })
        }
        // Only this module makes these, so they decode.
        Type::Encoded(bytes) => return TypeProto::decode(bytes.clone()).unwrap_or_default(),
    };
    TypeProto { value: Some(kind), denotation: None }
}

fn try_import(proto: &TypeProto) -> Option<Type> {
    let element = |t: &Option<Box<TypeProto>>| t.as_deref().map(|t| Box::new(import(t)));
    Some(match proto.value.as_ref()? {
        Kind::TensorType(t) => Type::Tensor {
            dtype: DType::from_code(t.elem_type())?,
            shape: t.shape.as_ref().map(import_shape),
        },
        Kind::SparseTensorType(t) => {
            let shape = t.shape.as_ref().map(import_shape);
            Type::SparseTensor { dtype: DType::from_code(t.elem_type())?, shape }
        }
        Kind::SequenceType(t) => Type::Sequence(element(&t.elem_type)?),
        Kind::OptionalType(t) => Type::Optional(element(&t.elem_type)?),
        Kind::MapType(t) => Type::Map(DType::from_code(t.key_type())?, element(&t.value_type)?),
        Kind::OpaqueType(t) => Type::Opaque { domain: t.domain().to_owned(), name: t.name().to_owned() },
    })
}

fn import_shape(shape: &TensorShapeProto) -> Shape {
    let dim = |d: &Dimension| match &d.value {
        Some(DimValue::DimValue(n)) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(DimValue::DimParam(s)) if !s.is_empty() => Dim::Symbol(s.clone()),
        _ => Dim::Unknown,
    };
    shape.dim.iter().map(dim).collect()
}

fn export_shape(shape: &Shape) -> TensorShapeProto {
    let dim = |d: &Dim| Dimension {
        value: match d {
            Dim::Known(n) => i64::try_from(*n).ok().map(DimValue::DimValue),
            Dim::Symbol(s) => Some(DimValue::DimParam(s.clone())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    TensorShapeProto { dim: shape.iter().map(dim).collect() }
}

/// Key-value pairs of a message.
pub(crate) fn import_entries(entries: Vec<StringStringEntryProto>) -> Vec<(String, String)> {
    entries.into_iter().map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default())).collect()
}

/// Key-value pairs as messages.
pub(crate) fn export_entries(entries: &[(String, String)]) -> Vec<StringStringEntryProto> {
    entries
        .iter()
        .map(|(k, v)| StringStringEntryProto { key: Some(k.clone()), value: Some(v.clone()) })
        .collect()
}

/// `None` for an empty text: absent and empty mean the same in ONNX, and absent is shorter.
pub(crate) fn text(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_type_round_trips() {
        let shape = Some(vec![Dim::Known(0), Dim::Symbol("N".into()), Dim::Unknown]);
        let tensor = || Box::new(Type::tensor(DType::Int4, shape.clone()));
        let types = [
            Type::tensor(DType::Float, None),
            Type::tensor(DType::Float, Some(vec![])),
            Type::SparseTensor { dtype: DType::Double, shape: shape.clone() },
            Type::Optional(Box::new(Type::Sequence(tensor()))),
            Type::Map(DType::String, tensor()),
            Type::Opaque { domain: "d".into(), name: "n".into() },
        ];
        for t in types {
            assert_eq!(import(&export(&t)), t);
        }
    }

    #[test]
    fn what_the_ir_cannot_say_is_kept_or_noticed() {
        let newer = onnx::type_proto::Tensor { elem_type: Some(99), shape: None };
        let newer = TypeProto { value: Some(Kind::TensorType(newer)), denotation: Some("IMAGE".into()) };
        let none = TypeProto { value: None, denotation: None };
        for kept in [newer, none] {
            assert!(matches!(import(&kept), Type::Encoded(_)) && exact(&kept));
        }
        let mut named = export(&Type::tensor(DType::Float, None));
        assert!(exact(&named));
        named.denotation = Some("IMAGE".into());
        assert!(!exact(&named));
    }
}
