//! Patterns: small graphs with variables, matched from their last operator upwards.
//!
//! ```text
//! c = Conv|Gemm (x, w!, b!?)       operator types to choose from; `!` a constant, `?` may be missing
//! y = Mul (c, k!)                  the root; Add, Mul, Max and Min of two operands commute
//! ```
//!
//! A variable that occurs twice stands for the same value. A result is swallowed by the match, so nothing
//! outside may use it, unless it is marked `t&`: then its operator stays where something else uses it.

use squint_ir::{Graph, OpId, ValueId};

/// A compiled pattern. The last node is the root.
pub(crate) struct Pattern {
    nodes: Vec<Node>,
}

struct Node {
    result: &'static str,
    /// The result may be used outside the match.
    shared: bool,
    op_types: Vec<&'static str>,
    operands: Vec<Operand>,
}

#[derive(Clone, Copy)]
struct Operand {
    name: &'static str,
    optional: bool,
    konst: bool,
}

impl Operand {
    fn parse(text: &'static str) -> Operand {
        let name = text.trim_end_matches(['?', '!']);
        let marks = &text[name.len()..];
        Operand { name, optional: marks.contains('?'), konst: marks.contains('!') }
    }
}

/// A place where a pattern fits.
#[derive(Clone, Default, Debug)]
pub(crate) struct Match {
    /// Variables and what they stand for; `None` is an omitted optional operand.
    pub(crate) values: Vec<(&'static str, Option<ValueId>)>,
    /// Matched operators by the variable of their result; the root is last.
    pub(crate) ops: Vec<(&'static str, OpId)>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Panics
    /// If the text is not a pattern: rules are part of the program, and a test parses them all.
    pub(crate) fn parse(text: &'static str) -> Pattern {
        let nodes = text.split([';', '\n']).map(str::trim).filter(|l| !l.is_empty()).map(|line| {
            let (result, rest) = line.split_once('=').expect("invariant: `result = Op (operands)`");
            let (op, rest) = rest.split_once('(').expect("invariant: operands in parentheses");
            let operands = rest.trim().strip_suffix(')').expect("invariant: closing parenthesis");
            let operands = operands.split(',').map(str::trim).filter(|o| !o.is_empty());
            let (result, shared) =
                result.trim().strip_suffix('&').map_or((result.trim(), false), |r| (r, true));
            Node {
                result,
                shared,
                op_types: op.split('|').map(str::trim).collect(),
                operands: operands.map(Operand::parse).collect(),
            }
        });
        Pattern { nodes: nodes.collect() }
    }

    /// The match whose root is `op`, if the pattern fits there and swallows no value that is used
    /// outside.
    pub(crate) fn matches(&self, g: &Graph, op: OpId) -> Option<Match> {
        let mut m = Match::default();
        let root = self.nodes.last()?;
        if !self.node(g, root, op, &mut m) {
            return None;
        }
        let y = g.result(op, 0)?;
        m.ops.push((root.result, op));
        if self.escapes(g, &m) {
            return None;
        }
        m.values.push((root.result, Some(y)));
        Some(m)
    }

    fn node(&self, g: &Graph, node: &Node, id: OpId, m: &mut Match) -> bool {
        let op = g.op(id);
        if !op.is_onnx() || !node.op_types.contains(&op.op_type.as_str()) {
            return false;
        }
        let operands = g.operands(id);
        if operands.iter().skip(node.operands.len()).any(Option::is_some) {
            return false;
        }
        if g.results(id).iter().skip(1).flatten().any(|v| g.is_used(*v)) {
            return false;
        }
        let saved = m.clone();
        if self.operands(g, node, &operands, m) {
            return true;
        }
        *m = saved;
        let commutes = operands.len() == 2 && matches!(op.op_type.as_str(), "Add" | "Mul" | "Max" | "Min");
        commutes && self.operands(g, node, &[operands[1], operands[0]], m)
    }

    fn operands(&self, g: &Graph, node: &Node, operands: &[Option<ValueId>], m: &mut Match) -> bool {
        node.operands.iter().enumerate().all(|(i, &Operand { name, optional, konst })| {
            match operands.get(i).copied().flatten() {
                None => optional && bind(m, name, None),
                Some(v) if konst && (g.konst(v).is_none() || g.is_input(v)) => false,
                Some(v) => match self.nodes.iter().find(|n| n.result == name) {
                    None => bind(m, name, Some(v)),
                    Some(_) if m.ops.iter().any(|(n, _)| *n == name) => bind(m, name, Some(v)),
                    Some(inner) => match g.producer(v) {
                        Some((p, 0)) if self.node(g, inner, p, m) => {
                            m.ops.push((inner.result, p));
                            bind(m, name, Some(v))
                        }
                        _ => false,
                    },
                },
            }
        })
    }

    /// True if an inner value that is not shared is a graph output or is used by an operator that is not
    /// part of the match. The root's own result is not bound yet, so it is not inner.
    fn escapes(&self, g: &Graph, m: &Match) -> bool {
        let swallowed = self.nodes.iter().filter(|n| !n.shared);
        let inner = swallowed.filter_map(|node| m.values.iter().find(|(n, _)| *n == node.result)?.1);
        inner.into_iter().any(|v| {
            let inside = |u: squint_ir::Use| !u.capture && m.ops.iter().any(|(_, o)| *o == u.op);
            g.is_output(v) || !g.uses(v).into_iter().all(inside)
        })
    }
}

fn bind(m: &mut Match, name: &'static str, v: Option<ValueId>) -> bool {
    match m.values.iter().find(|(n, _)| *n == name) {
        Some((_, bound)) => *bound == v,
        None => {
            m.values.push((name, v));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::OpSpec;

    fn chain(extra_use: bool) -> (Graph, OpId) {
        let mut g = Graph::new("g");
        let x = g.add_value("x", None);
        let k = g.add_value("k", None);
        let s = g.emit(OpSpec::new("Sigmoid").operands([x]), "s", None);
        let y = g.emit(OpSpec::new("Mul").operands([s, x]), "y", None);
        if extra_use {
            g.emit(OpSpec::new("Mul").operands([s, k]), "z", None);
        }
        (g.clone(), g.producer(y).unwrap().0)
    }

    #[test]
    fn shared_variables_and_commuted_operands_match() {
        let (g, root) = chain(false);
        let p = Pattern::parse("s = Sigmoid (x); y = Mul (x, s)");
        let m = p.matches(&g, root).unwrap();
        assert_eq!(m.ops.len(), 2);
        assert!(Pattern::parse("s = Tanh (x); y = Mul (x, s)").matches(&g, root).is_none());
        assert!(Pattern::parse("s = Sigmoid (x); y = Mul (s, s)").matches(&g, root).is_none());
    }

    #[test]
    fn a_value_used_outside_does_not_match() {
        let (g, root) = chain(true);
        assert!(Pattern::parse("s = Sigmoid (x); y = Mul (x, s)").matches(&g, root).is_none());
        assert!(Pattern::parse("s& = Sigmoid (x); y = Mul (x, s)").matches(&g, root).is_some());
    }

    #[test]
    fn marked_operands_are_constants() {
        let mut g = Graph::new("g");
        let x = g.add_value("x", None);
        let k = g.add_const("k", squint_ir::Tensor::scalar_f32(2.0));
        let y = g.emit(OpSpec::new("Mul").operands([k, x]), "y", None);
        let root = g.producer(y).unwrap().0;
        let m = Pattern::parse("y = Mul (x, k!)").matches(&g, root).unwrap();
        assert_eq!(m.values[..2], [("x", Some(x)), ("k", Some(k))]);
        assert!(Pattern::parse("y = Mul (k!, l!)").matches(&g, root).is_none());
    }
}
