//! What stands on the nodes of a graph: operators and values.

use super::{OpId, ValueId};
use crate::{AttrValue, Attribute, GraphId, Tensor, Type};
use bytes::Bytes;
use std::sync::Arc;

/// An operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Op {
    /// Name of the node; may be empty.
    pub name: String,
    /// Operator type, for example `Conv`.
    pub op_type: String,
    /// Operator set domain; empty for `ai.onnx`.
    pub domain: String,
    /// Overload of a model function; empty otherwise.
    pub overload: String,
    /// Attributes, in the order of the file.
    pub attributes: Vec<Attribute>,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Encoded fields that this IR does not interpret, kept for export.
    pub residue: Bytes,
    /// Which rules made this operator, and from which nodes: `["fold-bn(conv1, bn1)"]`. Empty if it is
    /// the user's own.
    pub origin: Vec<String>,
    pub(super) order: (u32, u32),
}

impl Op {
    /// True if the operator is `op_type` of the default domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.op_type == op_type && self.is_onnx()
    }

    /// True if the operator belongs to the default domain, `ai.onnx`.
    pub fn is_onnx(&self) -> bool {
        self.domain.is_empty() || self.domain == "ai.onnx"
    }

    /// The value of an attribute.
    pub fn attr(&self, name: &str) -> Option<&AttrValue> {
        self.attributes.iter().find(|a| a.name == name).map(|a| &a.value)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attr(name) {
            Some(AttrValue::Int(x)) => Some(*x),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attr(name) {
            Some(AttrValue::Float(x)) => Some(*x),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attr(name) {
            Some(AttrValue::Ints(x)) => Some(x),
            _ => None,
        }
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.attr(name) {
            Some(AttrValue::Floats(x)) => Some(x),
            _ => None,
        }
    }

    /// A string attribute that is UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attr(name) {
            Some(AttrValue::String(x)) => std::str::from_utf8(x).ok(),
            _ => None,
        }
    }

    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Option<&Arc<Tensor>> {
        match self.attr(name) {
            Some(AttrValue::Tensor(t)) => Some(t),
            _ => None,
        }
    }

    /// Sets an attribute, replacing one of the same name.
    pub fn set_attr(&mut self, name: &str, value: impl Into<AttrValue>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|a| a.name == name) {
            Some(a) => a.value = value,
            None => self.attributes.push(Attribute::new(name, value)),
        }
    }

    /// Removes an attribute and returns its value.
    pub fn remove_attr(&mut self, name: &str) -> Option<AttrValue> {
        let i = self.attributes.iter().position(|a| a.name == name)?;
        Some(self.attributes.remove(i).value)
    }

    /// Bodies that the operator owns, in the order of its attributes.
    pub fn bodies(&self) -> impl Iterator<Item = GraphId> + '_ {
        self.attributes.iter().flat_map(|a| a.value.graphs().iter().copied())
    }

    /// The type with its domain where that is not the default: `Conv`, `com.microsoft::QLinearAdd`.
    pub fn qualified_type(&self) -> String {
        if self.is_onnx() { self.op_type.clone() } else { format!("{}::{}", self.domain, self.op_type) }
    }
}

/// A value: a graph input, a constant, the result of an operator, or a value captured from the scope
/// around a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    pub(super) name: String,
    /// Type, declared in the file or inferred.
    pub ty: Option<Type>,
    /// The constant; together with a place among the graph inputs, a default.
    pub konst: Option<Arc<Tensor>>,
    /// In a body: the capture slot of the owning operator where the outer value is found.
    pub captured: Option<u32>,
    /// True for a constant that is not here: a sparse initializer, which is in the residue.
    pub encoded: bool,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Encoded fields that this IR does not interpret, kept for export.
    pub residue: Bytes,
}

impl Value {
    /// Name, unique within the graph.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// An operator to be added to a graph.
#[derive(Clone, Debug, Default)]
pub struct OpSpec {
    pub(super) op: Op,
    pub(super) operands: Vec<Option<ValueId>>,
    pub(super) results: Vec<Option<ValueId>>,
    pub(super) anchor: Option<OpId>,
}

impl OpSpec {
    /// An operator of the default domain.
    pub fn new(op_type: &str) -> OpSpec {
        OpSpec { op: Op { op_type: op_type.into(), ..Op::default() }, ..OpSpec::default() }
    }

    /// An operator given whole: type, attributes, documentation.
    pub fn from_op(op: Op) -> OpSpec {
        OpSpec { op, ..OpSpec::default() }
    }

    /// Sets the domain.
    pub fn domain(mut self, domain: &str) -> OpSpec {
        self.op.domain = domain.into();
        self
    }

    /// Sets the node name.
    pub fn name(mut self, name: impl Into<String>) -> OpSpec {
        self.op.name = name.into();
        self
    }

    /// Adds an attribute.
    pub fn attr(mut self, name: &str, value: impl Into<AttrValue>) -> OpSpec {
        self.op.set_attr(name, value);
        self
    }

    /// Sets the operands.
    pub fn operands(mut self, operands: impl IntoIterator<Item = impl Into<Option<ValueId>>>) -> OpSpec {
        self.operands = operands.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the results, values that no operator makes yet.
    pub fn results(mut self, results: impl IntoIterator<Item = impl Into<Option<ValueId>>>) -> OpSpec {
        self.results = results.into_iter().map(Into::into).collect();
        self
    }

    /// Places the operator beside another where the order of execution leaves a choice.
    pub fn near(mut self, anchor: OpId) -> OpSpec {
        self.anchor = Some(anchor);
        self
    }

    /// Records the rule that makes the operator, with the names of the nodes it was made from.
    pub fn origin(mut self, origin: impl Into<String>) -> OpSpec {
        self.op.origin.push(origin.into());
        self
    }
}
