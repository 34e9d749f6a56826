//! What a text says, before names are resolved.

use crate::{AttrValue, Model, Tensor, Type};
use std::sync::Arc;

/// A name and the byte offset where it stands.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) at: usize,
}

/// A name with what is said of it.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) name: Name,
    pub(super) ty: Option<Type>,
    pub(super) konst: Option<Arc<Tensor>>,
}

#[derive(Debug)]
pub(super) struct GraphText {
    pub(super) name: String,
    pub(super) inputs: Vec<Declaration>,
    pub(super) outputs: Vec<Declaration>,
    /// Constants and types of inner values.
    pub(super) declarations: Vec<Declaration>,
    pub(super) nodes: Vec<NodeText>,
}

#[derive(Debug)]
pub(super) struct NodeText {
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) op_type: String,
    pub(super) overload: String,
    pub(super) attributes: Vec<AttributeText>,
    /// An omitted operand or result has an empty name.
    pub(super) operands: Vec<Name>,
    pub(super) results: Vec<Name>,
}

#[derive(Debug)]
pub(super) struct AttributeText {
    pub(super) name: String,
    pub(super) value: AttributeValue,
}

#[derive(Debug)]
pub(super) enum AttributeValue {
    Plain(AttrValue),
    Graph(Box<GraphText>),
    Graphs(Vec<GraphText>),
}

#[derive(Debug)]
pub(super) struct FunctionText {
    pub(super) domain: String,
    pub(super) overload: String,
    pub(super) doc: String,
    pub(super) opsets: Vec<(String, i64)>,
    pub(super) attributes: Vec<String>,
    pub(super) defaults: Vec<AttributeText>,
    /// Its name is the function's.
    pub(super) graph: GraphText,
}

#[derive(Debug)]
pub(super) struct ModelText {
    /// The model with its header filled in, and an empty main graph.
    pub(super) header: Model,
    pub(super) graph: GraphText,
    pub(super) functions: Vec<FunctionText>,
}
