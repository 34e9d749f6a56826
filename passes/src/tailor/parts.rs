//! Writes an operator out in parts.

use super::replace;
use squint_ir::{Graph, OpId, OpSpec, Tensor, ValueId};

/// Operators that come into the place of one.
pub(super) struct Parts<'g> {
    g: &'g mut Graph,
    op: OpId,
    pass: &'static str,
    origin: String,
    name: String,
    made: usize,
}

impl<'g> Parts<'g> {
    /// For an operator with a result; nothing is done to it yet.
    pub(super) fn of(g: &'g mut Graph, op: OpId, pass: &'static str) -> Parts<'g> {
        let name = g.result(op, 0).map_or(String::new(), |y| g.value(y).name().to_owned());
        let origin = format!("{pass}({})", g.label(op));
        Parts { g, op, pass, origin, name, made: 0 }
    }

    /// The value that an operator makes.
    pub(super) fn make(&mut self, spec: OpSpec, operands: &[ValueId]) -> ValueId {
        let name = format!("{}_part{}", self.name, self.made);
        self.made += 1;
        let spec = spec.operands(operands.iter().copied()).near(self.op).origin(self.origin.clone());
        self.g.emit(spec, &name, None)
    }

    /// As [`make`](Self::make), for an operator without attributes.
    pub(super) fn apply(&mut self, op_type: &str, operands: &[ValueId]) -> ValueId {
        self.make(OpSpec::new(op_type), operands)
    }

    /// A constant.
    pub(super) fn tensor(&mut self, what: &str, tensor: Tensor) -> ValueId {
        self.g.add_const(&format!("{}_{what}", self.name), tensor)
    }

    /// A float32 scalar.
    pub(super) fn number(&mut self, what: &str, x: f32) -> ValueId {
        self.tensor(what, Tensor::scalar_f32(x))
    }

    /// The last part makes the result of the operator, which goes.
    pub(super) fn end(self, op_type: &str, operands: &[ValueId]) {
        let spec = OpSpec::new(op_type).operands(operands.iter().copied());
        replace(self.g, self.op, spec, self.pass);
    }
}
