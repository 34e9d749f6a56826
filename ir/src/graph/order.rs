//! A stable order of execution.

use super::{Graph, OpId};
use crate::OpTable;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Operators that wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the graph has a cycle through {}", .names.join(", "))]
pub struct Cycle {
    /// Names (or first results) of operators on one cycle, in order, at most ten.
    pub names: Vec<String>,
}

impl Graph {
    /// Operators in an order of execution: Kahn's algorithm, always taking the ready operator that came
    /// first originally. A graph read from a valid file and not changed comes out in the file's order.
    /// O((V + E) log V).
    ///
    /// # Errors
    /// [`Cycle`] if there is none.
    pub fn topo(&self) -> Result<Vec<OpId>, Cycle> {
        let mut waiting: OpTable<usize> = OpTable::new();
        let mut ready = BinaryHeap::new();
        let mut total = 0;
        for op in self.ops() {
            total += 1;
            let n = self.producers(op).count();
            waiting.insert(op, n);
            if n == 0 {
                ready.push(Reverse((self.op(op).order, op)));
            }
        }
        let mut out = Vec::with_capacity(total);
        while let Some(Reverse((_, op))) = ready.pop() {
            out.push(op);
            for v in self.results(op).into_iter().flatten() {
                for u in self.uses(v) {
                    let n = waiting.get_mut(u.op).expect("invariant: every operator waits");
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse((self.op(u.op).order, u.op)));
                    }
                }
            }
        }
        if out.len() == total { Ok(out) } else { Err(self.find_cycle(&waiting)) }
    }

    /// The name of an operator, or of its first result where it has none.
    pub fn label(&self, op: OpId) -> String {
        let name = &self.op(op).name;
        if !name.is_empty() {
            return name.clone();
        }
        match self.results(op).into_iter().flatten().next() {
            Some(v) => self.value(v).name().to_owned(),
            None => op.to_string(),
        }
    }

    /// Producers of operands and captures, one for each edge.
    fn producers(&self, op: OpId) -> impl Iterator<Item = OpId> + '_ {
        let all = self.operands(op).into_iter().chain(self.captures(op));
        all.flatten().filter_map(|v| self.producer(v).map(|p| p.0))
    }

    fn find_cycle(&self, waiting: &OpTable<usize>) -> Cycle {
        let stuck = |op: &OpId| waiting.get(*op).is_some_and(|n| *n > 0);
        let mut path: Vec<OpId> = Vec::new();
        let mut seen: OpTable<usize> = OpTable::new();
        // From any operator that waits, a producer that waits can always be found: the walk must close.
        let mut at = self.ops().find(|op| stuck(op));
        while let Some(op) = at {
            if let Some(start) = seen.get(op) {
                path.drain(..*start);
                break;
            }
            seen.insert(op, path.len());
            path.push(op);
            at = self.producers(op).find(|p| stuck(p));
        }
        path.reverse();
        Cycle { names: path.iter().take(10).map(|op| format!("`{}`", self.label(*op))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Graph, OpSpec};

    #[test]
    fn order_is_stable_and_respects_edges() {
        let mut g = Graph::new("g");
        let x = g.add_value("x", None);
        g.inputs.push(x);
        let a = g.emit(OpSpec::new("Relu").operands([x]), "a", None);
        let b = g.emit(OpSpec::new("Relu").operands([x]), "b", None);
        let pa = g.producer(a).unwrap().0;
        // Added last, but placed beside the producer of `a`.
        let c = g.emit(OpSpec::new("Neg").operands([a]).near(pa), "c", None);
        let order: Vec<String> = g.topo().unwrap().into_iter().map(|o| g.label(o)).collect();
        assert_eq!(order, ["a", "c", "b"]);
        g.replace_uses(a, b);
        let order: Vec<String> = g.topo().unwrap().into_iter().map(|o| g.label(o)).collect();
        assert_eq!(order, ["a", "b", "c"]);
        assert!(g.is_used(c) == g.is_output(c));
    }

    #[test]
    fn a_cycle_is_named() {
        let mut g = Graph::new("g");
        let a = g.add_value("a", None);
        let b = g.emit(OpSpec::new("Relu").operands([a]).name("r1"), "b", None);
        g.add_op(OpSpec::new("Relu").operands([b]).results([a]).name("r2"));
        let c = g.topo().unwrap_err();
        assert_eq!(c.names.len(), 2);
        assert!(c.to_string().contains("`r1`") && c.to_string().contains("`r2`"));
    }

    #[test]
    fn ids_are_not_reused() {
        let mut g = Graph::new("g");
        let a = g.add_value("a", None);
        g.remove_value(a);
        let b = g.add_value("a", None);
        assert_ne!(a, b);
        assert_eq!(g.value_named("a"), Some(b));
    }
}
