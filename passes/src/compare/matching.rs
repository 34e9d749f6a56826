//! Which value of one graph is which value of another.
//!
//! Two values are the same if the same operator makes them from values that are the same. So the walk begins
//! at the inputs, which have the same names, and follows both graphs at once in order of execution. Where an
//! operator of the one graph has several equals in the other (the projections of an attention, say), the one
//! with the nearest constants is taken, and among equals the one whose result has the same name. A clamp that
//! the other graph lacks stands in the range of the quantizer there. Only where the structure differs (a tool
//! fused something) does the name of a value by itself lead on.

use squint_ir::{Graph, OpId, Tensor, ValueId, ValueTable};

/// What of one graph is what of another.
pub(super) struct Matches {
    /// Pairs of values, in order of execution of the first graph.
    pub(super) values: Vec<(ValueId, ValueId)>,
    /// Pairs of operators, likewise.
    pub(super) operators: Vec<(OpId, OpId)>,
}

/// Matches two graphs.
pub(super) fn matches(a: &Graph, b: &Graph) -> Matches {
    let (of, taken) = (ValueTable::new(), ValueTable::new());
    let mut m = Matcher { a, b, of, taken, order: Vec::new(), operators: Vec::new() };
    for (i, v) in a.inputs.iter().enumerate() {
        let name = a.value(*v).name();
        let same = b.inputs.iter().find(|w| b.value(**w).name() == name).or(b.inputs.get(i));
        if let Some(w) = same.filter(|w| !m.taken.contains(**w)) {
            m.pair(*v, *w);
        }
    }
    for op in a.topo().unwrap_or_default() {
        m.operator(op);
    }
    // Behind a clamp that only `a` has, the clamped form is what `b` has: the last value that took it.
    let paired = m.order.iter().filter_map(|v| Some((*v, *m.of.get(*v)?)));
    let values = paired.filter(|(v, w)| m.taken.get(*w) == Some(v)).collect();
    Matches { values, operators: m.operators }
}

struct Matcher<'g> {
    a: &'g Graph,
    b: &'g Graph,
    /// The value of `b` that a value of `a` is.
    of: ValueTable<ValueId>,
    /// The last value of `a` that took a value of `b`.
    taken: ValueTable<ValueId>,
    /// Paired values of `a`.
    order: Vec<ValueId>,
    /// Paired operators.
    operators: Vec<(OpId, OpId)>,
}

impl Matcher<'_> {
    fn pair(&mut self, v: ValueId, w: ValueId) {
        self.taken.insert(w, v);
        self.of.insert(v, w);
        self.order.push(v);
    }

    fn operator(&mut self, op: OpId) {
        let operands = self.data(self.a, op);
        if operands.is_empty() {
            return;
        }
        let found = self.same_operator(op, &operands);
        if let Some(other) = found {
            self.operators.push((op, other));
            for (v, w) in self.a.results(op).into_iter().zip(self.b.results(other)) {
                if let (Some(v), Some(w)) = (v, w) {
                    self.pair(v, w);
                }
            }
            return;
        }
        let Some(result) = self.a.result(op, 0) else { return };
        if matches!(self.a.op(op).op_type.as_str(), "Relu" | "Clip")
            && let Some(w) = self.of.get(operands[0].1).copied()
        {
            self.pair(result, w);
            return;
        }
        let name = self.a.value(result).name();
        let named = self.b.value_named(name).filter(|w| !self.taken.contains(*w));
        let made = named.and_then(|w| Some((w, self.b.producer(w)?.0)));
        if let Some((w, other)) = made
            && self.b.op(other).op_type == self.a.op(op).op_type
        {
            self.operators.push((op, other));
            self.pair(result, w);
        }
    }

    /// Operands that are no constants, with their slots.
    fn data(&self, g: &Graph, op: OpId) -> Vec<(usize, ValueId)> {
        let present = g.operands(op).into_iter().enumerate().filter_map(|(slot, v)| Some((slot, v?)));
        present.filter(|(_, v)| g.konst(*v).is_none() || g.is_input(*v)).collect()
    }

    /// The operator of `b` that does the same with the same values.
    fn same_operator(&self, op: OpId, operands: &[(usize, ValueId)]) -> Option<OpId> {
        let anchor = operands.iter().find_map(|(_, v)| self.of.get(*v).copied())?;
        let mut candidates: Vec<OpId> = self.b.uses(anchor).iter().map(|u| u.op).collect();
        candidates.dedup();
        candidates.retain(|other| self.fits(op, operands, *other));
        if candidates.len() < 2 {
            return candidates.pop();
        }
        let name = self.a.result(op, 0).map(|v| self.a.value(v).name());
        let rank = |other: &OpId| {
            let same_name = self.b.result(*other, 0).map(|v| self.b.value(v).name()) == name;
            (self.distance(op, *other), !same_name)
        };
        let ranked = candidates.into_iter().map(|other| (rank(&other), other));
        // The first of equals: uses are sorted.
        let nearest = ranked.min_by(|(x, _), (y, _)| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
        nearest.map(|(_, other)| other)
    }

    /// True if `other` is an operator of the same kind on the same values, and free.
    fn fits(&self, op: OpId, operands: &[(usize, ValueId)], other: OpId) -> bool {
        let (x, y) = (self.a.op(op), self.b.op(other));
        let results = self.b.results(other);
        if x.op_type != y.op_type || results.iter().flatten().any(|w| self.taken.contains(*w)) {
            return false;
        }
        let others = self.data(self.b, other);
        if others.len() != operands.len() {
            return false;
        }
        let same = |(v, w): (&(usize, ValueId), &(usize, ValueId))| {
            self.of.get(v.1).is_none_or(|known| *known == w.1)
        };
        let straight = operands.iter().zip(&others).all(|(v, w)| v.0 == w.0 && same((v, w)));
        let commutes = matches!(x.op_type.as_str(), "Add" | "Mul") && operands.len() == 2;
        straight || (commutes && operands.iter().zip(others.iter().rev()).all(same))
    }

    /// How far the constants of two operators are from each other: 0 if equal, 1 for unrelated ones.
    fn distance(&self, op: OpId, other: OpId) -> f64 {
        let constants = |g: &Graph, op| -> Vec<std::sync::Arc<Tensor>> {
            g.operands(op).into_iter().flatten().filter_map(|v| g.konst(v).cloned()).collect()
        };
        let (x, y) = (constants(self.a, op), constants(self.b, other));
        let pairs = x.iter().zip(&y).filter(|(x, _)| x.dtype().is_float());
        let (mut noise, mut signal) = (0.0, 0.0);
        for (x, y) in pairs {
            if x.dims() != y.dims() {
                return f64::INFINITY;
            }
            for (x, y) in x.f32s().iter().zip(y.f32s().iter()) {
                noise += f64::from(x - y).powi(2);
                signal += f64::from(x.abs().max(y.abs())).powi(2);
            }
        }
        if signal > 0.0 { noise / signal } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::text;

    fn names(a: &str, b: &str) -> Vec<(String, String)> {
        let graph = |body: &str| {
            let source = format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2,2] x) => (float[2,2] y) {body}"
            );
            text::parse(&source).unwrap()
        };
        let (a, b) = (graph(a), graph(b));
        let (a, b) = (a.main(), b.main());
        let name = |g: &Graph, v| g.value(v).name().to_owned();
        matches(a, b).values.into_iter().map(|(v, w)| (name(a, v), name(b, w))).collect()
    }

    fn found(a: &str, b: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(v, w)| ((*v).to_owned(), (*w).to_owned())).collect();
        assert_eq!(names(a, b), expected);
    }

    #[test]
    fn values_are_what_is_made_in_the_same_way_whatever_their_names() {
        found(
            "{ a = Exp (x) b = Neg (x) y = Add (a, b) }",
            "{ n = Neg (x) e = Exp (x) y = Add (n, e) }",
            &[("x", "x"), ("a", "e"), ("b", "n"), ("y", "y")],
        );
    }

    #[test]
    fn the_nearest_constants_tell_siblings_apart() {
        found(
            "<float[2,2] v = {1, 2, 3, 4}, float[2,2] w = {4, 3, 2, 1}>
             { a = MatMul (x, v) b = MatMul (x, w) y = Sub (a, b) }",
            "<float[2,2] r = {4.1, 3, 2, 1}, float[2,2] s = {1, 2, 3.1, 4}>
             { b = MatMul (x, s) a = MatMul (x, r) y = Sub (b, a) }",
            &[("x", "x"), ("a", "b"), ("b", "a"), ("y", "y")],
        );
    }

    #[test]
    fn a_clamp_stands_in_the_range_of_a_quantizer() {
        found(
            "{ a = Exp (x) r = Relu (a) y = Neg (r) }",
            "{ a = Exp (x) y = Neg (a) }",
            &[("x", "x"), ("r", "a"), ("y", "y")],
        );
    }

    #[test]
    fn where_structure_differs_a_name_leads_on() {
        found(
            "{ a = Exp (x) b = Neg (a) y = Abs (b) }",
            "{ c = Tanh (x) d = Tan (c) b = Neg (d) y = Abs (b) }",
            &[("x", "x"), ("b", "b"), ("y", "y")],
        );
    }
}
