//! Types of what `If`, `Loop` and `Scan` give.
//!
//! A result of `If` is what both branches say of it. States of `Loop` and `Scan` go around: what is known of one is
//! what its first value and what the body makes of it have in common. That is found by walking through the body with
//! the first values and again with what has turned out to vary left out, until nothing more varies; lengths can
//! only get lost, so this ends. (ONNX `Operators.md`; the version of `Scan` with a batch axis, 8, is left alone.)

use super::{Walk, join, known};
use crate::pass::PassError;
use squint_ir::{AttrValue, Dim, GraphId, Op, OpId, Shape, ValueTable};
use squint_ops::Fact;

/// Bodies inside bodies that are walked through more than once: beyond, work would double with each.
const MAX_REPEATED: usize = 3;

/// Walks through the body of a `Loop` or `Scan` with shapes of states; then states have none.
const MAX_WALKS: usize = 4;

impl Walk<'_> {
    /// What is known of the results of an operator with bodies.
    pub(super) fn owner_of_bodies(
        &mut self,
        (graph, op): (GraphId, OpId),
        facts: &ValueTable<Fact>,
    ) -> Result<Vec<Fact>, PassError> {
        let g = self.model.graph(graph);
        let node = g.op(op);
        let captures: Vec<Fact> =
            g.captures(op).into_iter().map(|v| v.map(|v| known(g, facts, v)).unwrap_or_default()).collect();
        let operands: Vec<Fact> =
            g.operands(op).into_iter().map(|v| v.map(|v| known(g, facts, v)).unwrap_or_default()).collect();
        let bodies: Vec<GraphId> = node.bodies().collect();
        let opset = self.model.onnx_opset();
        match (node.op_type.as_str(), &bodies[..]) {
            ("If", [one, other]) => {
                let assumed =
                    self.assumed.filter(|(g, o, _)| (*g, *o) == (graph, op)).map(|(.., taken)| taken);
                let condition = || Some(operands.first()?.konst.as_ref()?.scalar_value()? != 0.0);
                if let Some(taken) = assumed.or_else(condition) {
                    let branch = if taken { "then_branch" } else { "else_branch" };
                    if let Some(AttrValue::Graph(body)) = node.attr(branch) {
                        return self.body(*body, Vec::new(), &captures);
                    }
                }
                let [a, b] =
                    self.perhaps(|walk| [*one, *other].map(|body| walk.body(body, Vec::new(), &captures)));
                Ok(a?.into_iter().zip(b?).map(|(a, b)| common(&a, &b)).collect())
            }
            ("Loop", [body]) => self.perhaps(|walk| walk.loop_results(*body, &operands, &captures)),
            ("Scan", [body]) if opset >= 9 => {
                self.perhaps(|walk| walk.scan_results(*body, node, &operands, &captures))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Walks through bodies that may not run.
    fn perhaps<T>(&mut self, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.uncertain += 1;
        let done = walk(self);
        self.uncertain -= 1;
        done
    }

    /// Body: (iteration, condition, states..) to (condition, states.., elements..).
    fn loop_results(
        &mut self,
        body: GraphId,
        operands: &[Fact],
        captures: &[Fact],
    ) -> Result<Vec<Fact>, PassError> {
        let scalar = |dtype| Fact::new(Some(dtype), Some(Vec::new()));
        let fixed = [scalar(squint_ir::DType::Int64), scalar(squint_ir::DType::Bool)];
        let first = operands.get(2..).unwrap_or_default();
        let inputs = |states: &[Fact]| [&fixed[..], states].concat();
        let (states, outputs) = self.states(body, first, captures, &inputs, 1)?;
        let elements = outputs.into_iter().skip(1 + states.len());
        let stacked = elements.map(|e| with_axis(e, 0, Dim::Unknown)).collect::<Vec<_>>();
        Ok(states.into_iter().chain(stacked).collect())
    }

    /// Body: (states.., slices..) to (states.., elements..).
    fn scan_results(
        &mut self,
        body: GraphId,
        node: &Op,
        operands: &[Fact],
        captures: &[Fact],
    ) -> Result<Vec<Fact>, PassError> {
        let scanned = node.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let Some(n_states) = operands.len().checked_sub(scanned) else { return Ok(Vec::new()) };
        let (first, scanned) = operands.split_at(n_states);
        let axes = node.ints("scan_input_axes").unwrap_or_default();
        let mut length = Dim::Unknown;
        let mut slices = Vec::new();
        for (i, fact) in scanned.iter().enumerate() {
            let (slice, dim) = without_axis(fact, axes.get(i).copied().unwrap_or(0));
            slices.push(slice);
            if length.known().is_none() && dim != Dim::Unknown {
                length = dim;
            }
        }
        let inputs = |states: &[Fact]| [states, &slices[..]].concat();
        let (states, outputs) = self.states(body, first, captures, &inputs, 0)?;
        let axes = node.ints("scan_output_axes").unwrap_or_default();
        let elements = outputs.into_iter().skip(states.len()).enumerate();
        let stacked = elements.map(|(i, e)| with_axis(e, axes.get(i).copied().unwrap_or(0), length.clone()));
        let stacked = stacked.collect::<Vec<_>>();
        Ok(states.into_iter().chain(stacked).collect())
    }

    /// What holds of the states in every iteration, and what the body then gives; `skip` of its results come
    /// before the states.
    fn states(
        &mut self,
        body: GraphId,
        first: &[Fact],
        captures: &[Fact],
        inputs: &dyn Fn(&[Fact]) -> Vec<Fact>,
        skip: usize,
    ) -> Result<(Vec<Fact>, Vec<Fact>), PassError> {
        let mut states: Vec<Fact> = first.iter().map(|f| Fact::new(f.dtype, f.shape.clone())).collect();
        let walks = if self.depth < MAX_REPEATED { MAX_WALKS } else { 0 };
        for _ in 0..walks {
            let noted = self.contradictions.len();
            let outputs = self.body(body, inputs(&states), captures)?;
            let made = outputs.iter().skip(skip).cloned().chain(std::iter::repeat(Fact::default()));
            let next: Vec<Fact> = states.iter().zip(made).map(|(s, made)| common(s, &made)).collect();
            if next == states {
                return Ok((states, outputs));
            }
            states = next;
            self.contradictions.truncate(noted);
        }
        let states: Vec<Fact> = states.iter().map(|s| Fact::of(s.dtype)).collect();
        let outputs = self.body(body, inputs(&states), captures)?;
        Ok((states, outputs))
    }

    /// What is known of the outputs of a body: element types and shapes.
    fn body(&mut self, id: GraphId, inputs: Vec<Fact>, captures: &[Fact]) -> Result<Vec<Fact>, PassError> {
        let g = self.model.graph(id);
        let mut facts = ValueTable::new();
        for v in g.values() {
            if let Some(fact) = g.value(v).captured.and_then(|slot| captures.get(slot as usize)) {
                facts.insert(v, fact.clone());
            }
        }
        for (v, fact) in g.inputs.iter().zip(inputs) {
            let declared = g.ty(*v).map(Fact::from_type).unwrap_or_default();
            facts.insert(*v, join(fact, declared));
        }
        self.depth += 1;
        let facts = self.graph(id, facts);
        self.depth -= 1;
        let facts = facts?;
        let outputs = g.outputs.iter().map(|v| known(g, &facts, *v));
        Ok(outputs.map(|f| Fact::new(f.dtype, f.shape)).collect())
    }
}

/// What holds of a value that is one or the other.
fn common(a: &Fact, b: &Fact) -> Fact {
    let shape = match (&a.shape, &b.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            let dim = |(x, y): (&Dim, &Dim)| if x == y { x.clone() } else { Dim::Unknown };
            Some(x.iter().zip(y).map(dim).collect())
        }
        _ => None,
    };
    // Both have the same element type in a valid model, so it is enough to know it of one.
    let dtype = a.dtype.or(b.dtype).filter(|d| b.dtype.is_none_or(|other| *d == other));
    Fact::new(dtype, shape)
}

/// A slice across an axis, and the length of the axis.
fn without_axis(fact: &Fact, axis: i64) -> (Fact, Dim) {
    let mut shape: Shape = match &fact.shape {
        Some(shape) => shape.clone(),
        None => return (Fact::of(fact.dtype), Dim::Unknown),
    };
    match position(axis, shape.len()) {
        Some(i) if i < shape.len() => {
            let length = shape.remove(i);
            (Fact::new(fact.dtype, Some(shape)), length)
        }
        _ => (Fact::of(fact.dtype), Dim::Unknown),
    }
}

/// Elements stacked along a new axis.
fn with_axis(element: Fact, axis: i64, length: Dim) -> Fact {
    let stacked = element.shape.and_then(|mut shape| {
        let i = position(axis, shape.len() + 1).filter(|i| *i <= shape.len())?;
        shape.insert(i, length);
        Some(shape)
    });
    Fact::new(element.dtype, stacked)
}

/// An axis counted from the front.
fn position(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis.checked_add(rank as i64)? } else { axis }).ok()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::pass::{Pass, PassCx};
    use squint_ir::text::parse;

    /// Types of the outputs of a graph, and the notes.
    fn outputs(graph: &str) -> (Vec<String>, Vec<String>) {
        let text = format!("<ir_version: 10, opset_import: [\"\" : 21]> {graph}");
        let mut model = parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let config = Config::new("");
        let mut cx = PassCx::new(&config);
        super::super::InferTypes.run(&mut model, &mut cx).unwrap();
        let ty = |v| cx.fact(&model, v).to_type().map_or("?".to_owned(), |ty| ty.to_string());
        let types = model.main().outputs.iter().map(|v| ty(*v)).collect();
        (types, cx.notes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn branches_give_what_they_have_in_common() {
        let (types, notes) = outputs(
            "g (bool c, float[N,3] x, float[N] s) => (y, z, u) {
               y, z, u = If (c) <
                 then_branch = a () => (p, q, r) { p = Relu (x) q = Relu (s) r = Relu (x) },
                 else_branch = b () => (p, q, r) { p = Transpose (x) q = Neg (s) r = Relu (s) }> }",
        );
        assert_eq!(types, ["float[?,?]", "float[N]", "float[]"]);
        assert!(notes.is_empty());
    }

    #[test]
    fn states_keep_what_does_not_vary() {
        let (types, notes) = outputs(
            "g (int64 n, bool c, float[2,3] x, float[1,3] h) => (same, longer, all) {
               same, longer, all = Loop (n, c, x, h) <
                 body = b (i, k, s, l) => (k2, s2, l2, e) {
                   k2 = Identity (k) s2 = Add (s, x) l2 = Concat <axis = 0> (l, h) e = Transpose (s) }> }",
        );
        assert_eq!(types, ["float[2,3]", "float[?,3]", "float[?,3,2]"]);
        assert!(notes.is_empty());
    }

    #[test]
    fn scans_cut_and_stack_along_their_axes() {
        let (types, _) = outputs(
            "g (float[4] h, float[B,7,4] x) => (last, all) {
               last, all = Scan (h, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
                 body = b (s, e) => (s2, e2) { s2 = Identity (s) e2 = Add (s, e) }> }",
        );
        assert_eq!(types, ["float[4]", "float[B,4,7]"]);
    }

    #[test]
    fn contradictions_are_noted_once_and_bodies_nest() {
        let (types, notes) = outputs(
            "g (int64 n, bool c, float[2,3] x) => (y) {
               y = Loop (n, c, x) <body = b (i, k, s) => (k2, t) {
                 k2 = Identity (k)
                 t = If (k) <then_branch = d () => (p) { p = MatMul (x, x) },
                             else_branch = e () => (q) { q = Concat <axis = 0> (s, x) }> }> }",
        );
        assert_eq!(types, ["float[]"]);
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}
