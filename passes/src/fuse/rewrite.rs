//! A match being rewritten: what rules read, and how they replace.

use super::pattern::Match;
use crate::pass::PassCx;
use crate::raise_opset::raise_to;
use squint_ir::{DType, Dim, Graph, Model, Op, OpId, OpSpec, Tensor, Type, ValueId};
use squint_ops::Fact;
use std::ops::Range;
use std::sync::Arc;

/// Why a rule did not fire although its pattern fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Miss(pub(crate) String);

impl Miss {
    /// There is nothing to do: not worth a word to the user.
    pub(crate) fn nothing_to_do() -> Miss {
        Miss(String::new())
    }
}

impl<T: Into<String>> From<T> for Miss {
    fn from(s: T) -> Miss {
        Miss(s.into())
    }
}

/// A match of a rule, with the model.
pub(crate) struct Rewrite<'a, 'c> {
    pub(crate) model: &'a mut Model,
    pub(crate) cx: &'a mut PassCx<'c>,
    rule: &'static str,
    found: Match,
    /// The rule and the operators that matched, once some of them may be gone.
    origin: Option<String>,
}

impl<'a, 'c> Rewrite<'a, 'c> {
    pub(super) fn new(
        model: &'a mut Model,
        cx: &'a mut PassCx<'c>,
        rule: &'static str,
        found: Match,
    ) -> Self {
        Rewrite { model, cx, rule, found, origin: None }
    }

    /// Applies a rule; then removes matched operators that are no longer needed.
    ///
    /// # Errors
    /// The guard that did not hold.
    pub(super) fn run(mut self, apply: fn(&mut Rewrite<'_, '_>) -> Result<(), Miss>) -> Result<(), Miss> {
        apply(&mut self)?;
        for (_, op) in self.found.ops.iter().rev() {
            let g = self.model.main_mut();
            if g.has_op(*op) && !g.results(*op).into_iter().flatten().any(|v| g.is_used(v)) {
                g.remove_op_and_results(*op);
            }
        }
        Ok(())
    }

    /// True if the pattern that matched has a variable of this name, and it is not an omitted operand.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.opt(name).is_some()
    }

    /// The main graph.
    pub(crate) fn g(&self) -> &Graph {
        self.model.main()
    }

    /// The main graph, to change.
    pub(crate) fn g_mut(&mut self) -> &mut Graph {
        self.model.main_mut()
    }

    /// The value of a variable.
    ///
    /// # Panics
    /// If the pattern has no such variable, or it is optional and omitted.
    pub(crate) fn v(&self, name: &str) -> ValueId {
        self.opt(name).expect("invariant: the variable is bound")
    }

    /// The value of an optional variable.
    pub(crate) fn opt(&self, name: &str) -> Option<ValueId> {
        self.found.values.iter().find(|(n, _)| *n == name).and_then(|(_, v)| *v)
    }

    /// The id of a matched operator, by its result.
    ///
    /// # Panics
    /// If the pattern has no such result.
    pub(crate) fn op_id(&self, name: &str) -> OpId {
        self.found.ops.iter().find(|(n, _)| *n == name).expect("invariant: the pattern names it").1
    }

    /// A matched operator, by its result.
    pub(crate) fn op(&self, name: &str) -> &Op {
        self.g().op(self.op_id(name))
    }

    /// The constant of a variable; a miss if it is not constant.
    pub(crate) fn konst(&self, name: &str) -> Result<Arc<Tensor>, Miss> {
        let v = self.opt(name).ok_or_else(|| Miss(format!("`{name}` is omitted")))?;
        match self.g().konst(v) {
            Some(t) if !self.g().is_input(v) => Ok(t.clone()),
            _ => Err(Miss(format!("`{}` is not a constant", self.g().value(v).name()))),
        }
    }

    /// A constant of a single element; a miss otherwise.
    pub(crate) fn scalar(&self, name: &str) -> Result<f64, Miss> {
        self.konst(name)?.scalar_value().ok_or_else(|| Miss(format!("`{name}` has more than one element")))
    }

    /// What is known of a variable.
    pub(crate) fn fact(&self, name: &str) -> Fact {
        self.opt(name).map(|v| self.cx.fact(self.model, v)).unwrap_or_default()
    }

    /// The factor of a product or the divisor of a quotient `op`, as a factor: `k` or `1 / k`. A miss if
    /// it is not a finite float32 constant of one element.
    pub(crate) fn factor(&self, op: &str, k: &str) -> Result<f64, Miss> {
        let divides = self.op(op).op_type == "Div";
        let k = self.float(k)?;
        let factor = if divides { 1.0 / k } else { k };
        if factor.is_finite() { Ok(factor) } else { Err("the factor is not finite".into()) }
    }

    /// A float32 constant of a single element; a miss otherwise.
    pub(crate) fn float(&self, name: &str) -> Result<f64, Miss> {
        match self.konst(name)?.dtype() {
            DType::Float => self.scalar(name),
            other => Err(format!("`{name}` is {other}, not float").into()),
        }
    }

    /// A miss unless a variable is float32.
    pub(crate) fn expect_float(&self, name: &str) -> Result<(), Miss> {
        match self.fact(name).dtype {
            Some(DType::Float) => Ok(()),
            Some(other) => Err(format!("`{name}` is {other}, not float").into()),
            None => Err(format!("the type of `{name}` is unknown").into()),
        }
    }

    /// A miss if broadcasting the constant `k` would add axes to the value of `name`, or lengthen them.
    pub(crate) fn expect_no_growth(&self, name: &str, k: &str) -> Result<(), Miss> {
        let k = self.konst(k)?;
        if k.rank() == 0 {
            return Ok(());
        }
        let shape = self.fact(name).shape.ok_or_else(|| Miss(format!("the rank of `{name}` is unknown")))?;
        let behind = shape.len().checked_sub(k.rank()).ok_or("the constant has more axes")?;
        let fits = |(n, d): (&usize, &Dim)| *n == 1 || *d == Dim::from(*n);
        match k.dims().iter().zip(&shape[behind..]).all(fits) {
            true => Ok(()),
            false => Err("broadcasting the constant may lengthen the result".into()),
        }
    }

    /// Raises the model to an operator set that has what the rule makes; nothing happens if it is there
    /// already. Operators from 13 on keep their meaning, so this is done for a shorter graph alone.
    ///
    /// # Errors
    /// If the model cannot be raised.
    pub(crate) fn raise_opset(&mut self, version: i64) -> Result<(), Miss> {
        let from = self.model.onnx_opset();
        if from >= version {
            return Ok(());
        }
        let cannot =
            |why: String| Miss(format!("it needs operator set {version}, the model has {from}{why}"));
        if from < 13 {
            return Err(cannot(String::new()));
        }
        // On a copy, since what cannot be raised is found out on the way.
        let mut raised = self.model.clone();
        raise_to(&mut raised, self.cx, version, &format!("`{}`", self.rule))
            .map_err(|e| cannot(format!(": {e}")))?;
        *self.model = raised;
        Ok(())
    }

    /// Adds an operator of one result beside the root, and returns the result, named after the root's.
    pub(crate) fn emit(&mut self, spec: OpSpec, suffix: &str) -> ValueId {
        let (name, root) = *self.found.ops.last().expect("invariant: a match has a root");
        let result = format!("{}_{suffix}", self.g().value(self.v(name)).name());
        let spec = spec.near(root).origin(self.origin());
        self.g_mut().emit(spec, &result, None)
    }

    /// Forgets the shape of a value whose axes have moved, until types are inferred again.
    pub(crate) fn forget_shape(&mut self, v: ValueId) {
        let dtype = self.cx.fact(self.model, v).dtype;
        self.cx.facts.remove(v);
        self.g_mut().set_type(v, dtype.map(|d| Type::tensor(d, None)));
    }

    /// Records that the rule changed an operator in its place.
    pub(crate) fn touch(&mut self, op: OpId) {
        let origin = self.origin();
        self.g_mut().op_mut(op).origin.push(origin);
    }

    /// The rule, and the operators that matched.
    fn origin(&mut self) -> String {
        if self.origin.is_none() {
            let from: Vec<String> = self.found.ops.iter().map(|(_, o)| self.g().label(*o)).collect();
            self.origin = Some(format!("{}({})", self.rule, from.join(", ")));
        }
        self.origin.clone().unwrap_or_default()
    }

    fn hand_on(&mut self, old: ValueId, new: ValueId) {
        if let Some(frozen) = &mut self.cx.frozen {
            frozen.hand_on(old, new);
        }
    }

    /// Takes over the integers of a weight, if it has some, for one whose channels along an axis are scaled.
    pub(crate) fn scaled_weight(&mut self, old: ValueId, new: ValueId, axis: usize, factors: &[f64]) {
        let dims = self.g().konst(old).map(|t| t.dims().to_vec()).unwrap_or_default();
        if let Some(frozen) = &mut self.cx.frozen
            && let Some(scaled) = frozen.weights.get(old).and_then(|w| w.scaled(&dims, axis, factors))
        {
            frozen.weights.insert(new, scaled);
        }
    }

    /// Takes over the integers of a weight, if it has some, for one with a part of an axis.
    pub(crate) fn sliced_weight(&mut self, old: ValueId, new: ValueId, axis: usize, kept: Range<usize>) {
        let dims = self.g().konst(old).map(|t| t.dims().to_vec()).unwrap_or_default();
        if let Some(frozen) = &mut self.cx.frozen
            && let Some(sliced) = frozen.weights.get(old).and_then(|w| w.sliced(&dims, axis, kept))
        {
            frozen.weights.insert(new, sliced);
        }
    }

    /// A miss if the integers of a weight are given.
    pub(crate) fn expect_free_weight(&self, name: &str) -> Result<(), Miss> {
        match (&self.cx.frozen, self.opt(name)) {
            (Some(frozen), Some(w)) if frozen.weights.contains(w) => Err("its integers are given".into()),
            _ => Ok(()),
        }
    }

    /// Adds a constant named after the value of a variable.
    pub(crate) fn add_const(&mut self, like: &str, tensor: Tensor) -> ValueId {
        let base = self.opt(like).map_or_else(|| like.to_owned(), |v| self.g().value(v).name().to_owned());
        self.g_mut().add_const(&base, tensor)
    }

    /// Puts an operator in the place of the root: it makes the root's result, stands where the root
    /// stood, and records where it came from.
    pub(crate) fn replace_root(&mut self, spec: OpSpec) {
        let (name, root) = *self.found.ops.last().expect("invariant: a match has a root");
        let y = self.v(name);
        let origin = self.origin();
        let g = self.model.main_mut();
        let spec = spec.near(root).origin(origin);
        let id = g.add_op(spec);
        g.set_result(id, 0, Some(y));
        g.remove_op(root);
    }

    /// Makes users of the root's result use another value; the root goes. If the result is a graph
    /// output, the operator that makes the other value makes the output instead, or, where that cannot
    /// be, the rule misses.
    pub(crate) fn replace_root_by(&mut self, x: ValueId) -> Result<(), Miss> {
        let (name, root) = *self.found.ops.last().expect("invariant: a match has a root");
        let y = self.v(name);
        if self.cx.frozen.as_ref().is_some_and(|f| !f.agree(y, x)) {
            return Err(Miss::from("the result and what stands for it are quantized on different grids"));
        }
        self.origin();
        let g = self.model.main_mut();
        if !g.is_output(y) {
            g.replace_uses(y, x);
            g.remove_op_and_results(root);
            self.hand_on(y, x);
            return Ok(());
        }
        match g.producer(x) {
            Some((p, slot)) if !g.is_output(x) => {
                g.remove_op(root);
                g.set_result(p, slot, Some(y));
                g.replace_uses(x, y);
                g.remove_value(x);
                self.hand_on(x, y);
                Ok(())
            }
            _ => Err(Miss::from("the result is a graph output and needs an operator of its own")),
        }
    }
}
