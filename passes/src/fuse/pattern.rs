//! Patterns: small graphs with variables, matched from their last operator upwards.
//!
//! ```text
//! c = Conv|Gemm (x, w!, b!?)       operator types to choose from; `!` a constant, `?` may be missing
//! y = Mul (c, k!)                  the root; Add, Mul, Max and Min of two operands commute
//! ```
//!
//! `..` as the last operand allows any further ones. A variable that occurs twice stands for the same value. A result is swallowed by the match, so nothing
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
    /// The alternatives, `Conv|Gemm`.
    op_text: &'static str,
    op_types: Vec<&'static str>,
    operands: Vec<Operand>,
    /// Further operands are allowed.
    open: bool,
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
            let operands: Vec<&str> = operands.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
            let open = operands.last() == Some(&"..");
            let operands = operands.into_iter().filter(|o| *o != "..");
            let (result, shared) =
                result.trim().strip_suffix('&').map_or((result.trim(), false), |r| (r, true));
            Node {
                result,
                shared,
                op_text: op.trim(),
                op_types: op.split('|').map(str::trim).collect(),
                operands: operands.map(Operand::parse).collect(),
                open,
            }
        });
        Pattern { nodes: nodes.collect() }
    }

    /// The match whose root is `op`, if the pattern fits there and swallows no value that is used
    /// outside.
    ///
    /// # Errors
    /// What did not fit where the pattern came furthest; `None` if already the root is another operator.
    pub(crate) fn matches(&self, g: &Graph, op: OpId) -> Result<Match, Option<NearMiss>> {
        let mut search = Search { pattern: self, g, found: Match::default(), depth: 0, miss: None };
        let (Some(root), Some(y)) = (self.nodes.last(), g.result(op, 0)) else { return Err(None) };
        if !search.node(root, op) {
            return Err(search.miss.filter(|m| m.depth > 0));
        }
        let mut m = search.found;
        m.ops.push((root.result, op));
        if let Some(v) = self.escapes(g, &m) {
            return Err(Some(NearMiss { depth: self.nodes.len(), why: Mismatch::Escapes(v) }));
        }
        m.values.push((root.result, Some(y)));
        Ok(m)
    }

    /// An inner value that is not shared and is a graph output or is used by an operator that is not part
    /// of the match. The root's own result is not bound yet, so it is not inner.
    fn escapes(&self, g: &Graph, m: &Match) -> Option<ValueId> {
        let swallowed = self.nodes.iter().filter(|n| !n.shared);
        let mut inner = swallowed.filter_map(|node| m.values.iter().find(|(n, _)| *n == node.result)?.1);
        inner.find(|v| {
            let inside = |u: squint_ir::Use| !u.capture && m.ops.iter().any(|(_, o)| *o == u.op);
            g.is_output(*v) || !g.uses(*v).into_iter().all(inside)
        })
    }
}

/// Where a pattern began to fit, but did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NearMiss {
    /// Operators that fitted: the more, the nearer.
    pub(crate) depth: usize,
    why: Mismatch,
}

#[derive(Clone, Copy, Debug)]
enum Mismatch {
    /// The value is made by another operator, or by none.
    Producer(ValueId, &'static str),
    /// The operator has an operand that the pattern lacks, or a second result that is used.
    Extra(OpId),
    /// The operator lacks an operand.
    Omitted(OpId, &'static str),
    /// The value is not constant.
    NotConstant(ValueId),
    /// The variable stands for another value.
    Bound(ValueId, &'static str),
    /// The value is used outside of the match.
    Escapes(ValueId),
}

impl NearMiss {
    /// The reason in words.
    pub(crate) fn explain(&self, g: &Graph) -> String {
        let name = |v: ValueId| g.value(v).name();
        match self.why {
            Mismatch::Producer(v, wanted) => {
                let made = match g.producer(v) {
                    Some((op, _)) => format!("made by {}", g.op(op).qualified_type()),
                    None if g.konst(v).is_some() => "a constant".into(),
                    None => "made outside of the graph".into(),
                };
                format!("`{}` is {made}, not by {}", name(v), wanted.replace('|', " or "))
            }
            Mismatch::Extra(op) => {
                format!("`{}` has an operand or a result that the rule does not know", g.label(op))
            }
            Mismatch::Omitted(op, operand) => format!("`{}` has no operand `{operand}`", g.label(op)),
            Mismatch::NotConstant(v) => format!("`{}` is not a constant", name(v)),
            Mismatch::Bound(v, variable) => {
                format!("`{}` is another value than `{variable}` elsewhere", name(v))
            }
            Mismatch::Escapes(v) if g.is_output(v) => format!("`{}` is a graph output", name(v)),
            Mismatch::Escapes(v) => format!("`{}` is used elsewhere, too", name(v)),
        }
    }
}

/// A match being looked for.
struct Search<'a> {
    pattern: &'a Pattern,
    g: &'a Graph,
    found: Match,
    /// Operators that fit so far.
    depth: usize,
    /// Where the search came furthest.
    miss: Option<NearMiss>,
}

impl Search<'_> {
    fn node(&mut self, node: &Node, id: OpId) -> bool {
        let g = self.g;
        let op = g.op(id);
        if !op.is_onnx() || !node.op_types.contains(&op.op_type.as_str()) {
            return match g.result(id, 0) {
                Some(v) => self.fail(Mismatch::Producer(v, node.op_text)),
                None => false,
            };
        }
        self.depth += 1;
        let operands = g.operands(id);
        let more = !node.open && operands.iter().skip(node.operands.len()).any(Option::is_some);
        if more || g.results(id).iter().skip(1).flatten().any(|v| g.is_used(*v)) {
            return self.fail(Mismatch::Extra(id));
        }
        let saved = (self.found.clone(), self.depth);
        if self.operands(node, id, &operands) {
            return true;
        }
        (self.found, self.depth) = saved;
        let commutes = operands.len() == 2
            && matches!(op.op_type.as_str(), "Add" | "Mul" | "Max" | "Min" | "And" | "Or" | "Equal");
        commutes && self.operands(node, id, &[operands[1], operands[0]])
    }

    fn operands(&mut self, node: &Node, id: OpId, operands: &[Option<ValueId>]) -> bool {
        let (g, nodes) = (self.g, &self.pattern.nodes);
        node.operands.iter().enumerate().all(|(i, &Operand { name, optional, konst })| {
            match operands.get(i).copied().flatten() {
                None if optional => self.bind(name, None),
                None => self.fail(Mismatch::Omitted(id, name)),
                Some(v) if konst && (g.konst(v).is_none() || g.is_input(v)) => {
                    self.fail(Mismatch::NotConstant(v))
                }
                Some(v) => match nodes.iter().find(|n| n.result == name) {
                    None => self.bind(name, Some(v)),
                    Some(_) if self.found.ops.iter().any(|(n, _)| *n == name) => self.bind(name, Some(v)),
                    Some(inner) => match g.producer(v) {
                        Some((p, 0)) if self.node(inner, p) => {
                            self.found.ops.push((inner.result, p));
                            self.bind(name, Some(v))
                        }
                        Some((_, 0)) => false,
                        _ => self.fail(Mismatch::Producer(v, inner.op_text)),
                    },
                },
            }
        })
    }

    fn bind(&mut self, name: &'static str, v: Option<ValueId>) -> bool {
        let bound = self.found.values.iter().find(|(n, _)| *n == name).map(|(_, b)| *b);
        match (bound, v) {
            (None, _) => {
                self.found.values.push((name, v));
                true
            }
            (Some(b), _) if b == v => true,
            (Some(_), Some(v)) => self.fail(Mismatch::Bound(v, name)),
            (Some(_), None) => false,
        }
    }

    /// Notes what did not fit, if no attempt came further.
    fn fail(&mut self, why: Mismatch) -> bool {
        if self.miss.is_none_or(|m| m.depth < self.depth) {
            self.miss = Some(NearMiss { depth: self.depth, why });
        }
        false
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
        assert!(Pattern::parse("s = Tanh (x); y = Mul (x, s)").matches(&g, root).is_err());
        assert!(Pattern::parse("s = Sigmoid (x); y = Mul (s, s)").matches(&g, root).is_err());
    }

    #[test]
    fn a_value_used_outside_does_not_match() {
        let (g, root) = chain(true);
        assert!(Pattern::parse("s = Sigmoid (x); y = Mul (x, s)").matches(&g, root).is_err());
        assert!(Pattern::parse("s& = Sigmoid (x); y = Mul (x, s)").matches(&g, root).is_ok());
    }

    #[test]
    fn a_near_miss_says_what_did_not_fit() {
        let why = |g: &Graph, root: OpId, text: &'static str| {
            Pattern::parse(text).matches(g, root).unwrap_err().map(|m| m.explain(g))
        };
        let (g, root) = chain(false);
        let tanh = why(&g, root, "s = Tanh|Exp (x); y = Mul (x, s)").unwrap();
        assert_eq!(tanh, "`x` is made outside of the graph, not by Tanh or Exp");
        assert!(why(&g, root, "s = Sigmoid (x); y = Add (x, s)").is_none());
        assert_eq!(why(&g, root, "y = Mul (x, k!)").unwrap(), "`x` is not a constant");
        assert_eq!(
            why(&g, root, "y = Mul (x)").unwrap(),
            "`y` has an operand or a result that the rule does not know"
        );
        let (g, root) = chain(true);
        assert_eq!(why(&g, root, "s = Sigmoid (x); y = Mul (x, s)").unwrap(), "`s` is used elsewhere, too");
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
        assert!(Pattern::parse("y = Mul (k!, l!)").matches(&g, root).is_err());
    }
}
