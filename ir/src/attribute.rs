//! Attributes of operators.

use crate::{GraphId, Tensor, Type};
use bytes::Bytes;
use std::sync::Arc;

/// A named attribute of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Name, unique within its operator.
    pub name: String,
    /// Value.
    pub value: AttrValue,
    /// Documentation.
    pub doc: String,
}

/// The value of an attribute (`AttributeProto`).
#[derive(Clone, Debug, PartialEq)]
pub enum AttrValue {
    /// `FLOAT`.
    Float(f32),
    /// `INT`.
    Int(i64),
    /// `STRING`: bytes, UTF-8 by convention.
    String(Bytes),
    /// `TENSOR`.
    Tensor(Arc<Tensor>),
    /// `GRAPH`: a scope of the same model.
    Graph(GraphId),
    /// `TYPE_PROTO`.
    Type(Type),
    /// `FLOATS`.
    Floats(Vec<f32>),
    /// `INTS`.
    Ints(Vec<i64>),
    /// `STRINGS`.
    Strings(Vec<Bytes>),
    /// `TENSORS`.
    Tensors(Vec<Arc<Tensor>>),
    /// `GRAPHS`.
    Graphs(Vec<GraphId>),
    /// `TYPE_PROTOS`.
    Types(Vec<Type>),
    /// Inside a function: the value of the named attribute of the calling operator, of the
    /// `AttributeProto.AttributeType` in `kind`.
    Reference {
        /// Name of the function's attribute.
        name: String,
        /// `AttributeProto.AttributeType` code.
        kind: i32,
    },
    /// An attribute this IR does not interpret (sparse tensors), encoded as in the file.
    Opaque(Bytes),
}

impl Attribute {
    /// An attribute without documentation.
    pub fn new(name: impl Into<String>, value: AttrValue) -> Attribute {
        Attribute { name: name.into(), value, doc: String::new() }
    }
}

impl AttrValue {
    /// A string attribute.
    pub fn string(s: &str) -> AttrValue {
        AttrValue::String(Bytes::copy_from_slice(s.as_bytes()))
    }

    /// The graphs this attribute holds, in order.
    pub fn graphs(&self) -> &[GraphId] {
        match self {
            AttrValue::Graph(g) => std::slice::from_ref(g),
            AttrValue::Graphs(gs) => gs,
            _ => &[],
        }
    }
}

impl From<i64> for AttrValue {
    fn from(x: i64) -> Self {
        AttrValue::Int(x)
    }
}
impl From<f32> for AttrValue {
    fn from(x: f32) -> Self {
        AttrValue::Float(x)
    }
}
impl From<Vec<i64>> for AttrValue {
    fn from(x: Vec<i64>) -> Self {
        AttrValue::Ints(x)
    }
}
impl From<&str> for AttrValue {
    fn from(x: &str) -> Self {
        AttrValue::string(x)
    }
}
impl From<Tensor> for AttrValue {
    fn from(x: Tensor) -> Self {
        AttrValue::Tensor(Arc::new(x))
    }
}
