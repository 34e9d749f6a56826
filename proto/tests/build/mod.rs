//! Messages, built in one line each.

use squint_proto::onnx::attribute_proto::AttributeType as T;
use squint_proto::onnx::*;

pub(crate) fn s(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub(crate) fn node(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: s(op_type),
        input: inputs.iter().map(|x| (*x).to_owned()).collect(),
        output: outputs.iter().map(|x| (*x).to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    }
}

pub(crate) fn attribute(name: &str, kind: T) -> AttributeProto {
    AttributeProto { name: s(name), r#type: Some(kind as i32), ..AttributeProto::default() }
}

pub(crate) fn floats(name: &str, data: &[f32]) -> TensorProto {
    TensorProto {
        name: s(name),
        dims: vec![data.len() as i64],
        data_type: Some(1),
        float_data: data.to_vec(),
        ..TensorProto::default()
    }
}

pub(crate) fn value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: None };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: s(name), r#type: Some(ty), ..ValueInfoProto::default() }
}

pub(crate) fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: s(key), value: s(value) }
}

pub(crate) fn graph(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        name: s(name),
        input: inputs.iter().map(|x| value(x)).collect(),
        output: outputs.iter().map(|x| value(x)).collect(),
        node,
        ..GraphProto::default()
    }
}

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { domain: s(""), version: Some(21) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}
