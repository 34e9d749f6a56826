//! What a well-formed model is. Every violation is reported, not only the first.
//!
//! Structure, which every edit has to keep ([`Level::Structure`]):
//! - every operand and every graph output is an input, a constant, a captured value, or the result of an
//!   operator;
//! - an input, a constant or a captured value is not also the result of an operator, and a captured value is
//!   neither an input nor a constant;
//! - ids of inputs, outputs and bodies stand for values and graphs that have not been removed;
//! - a value is an input once;
//! - there is no cycle, also none through a body (a body depends on what it captures);
//! - a body belongs to one operator, and says to which; every other graph is the main one or a function's;
//! - (names are unique within a graph, and a value has one producer: the graph cannot hold otherwise);
//! - a captured value stands in a body, and its slot is filled by the operator that owns the body;
//! - the name that a captured value has outside is not the name of another value inside;
//! - attribute names are unique within an operator; values and operator types have names;
//! - a constant has the element type and the dimensions that its value declares.
//!
//! File, which holds before a model is written ([`Level::File`]), as structure and:
//! - an operator set is imported for every domain, by the model and by each function (warning);
//! - a value does not have the name of a value of a graph around it (warning);
//! - operators of a graph have different names (warning);
//! - functions have different keys (domain, name, overload), and do not call themselves, also not through
//!   others;
//! - a function has no constants, and its attributes have different names;
//! - a call gives no more operands and results than the function has;
//! - references to attributes stand in functions only, and name an attribute of the function.
//!
//! Typed, which holds after type inference ([`Level::Typed`]), as file and:
//! - every operand that is not omitted has a type.

mod function;
mod scope;

pub use crate::diagnostic::Severity;

use crate::diagnostic::Diagnostic;
use crate::{GraphId, Model, OpId, ValueId};
use rustc_hash::FxHashSet;
use std::fmt;

/// How strict the verifier is; each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the IR itself needs.
    Structure,
    /// What a model file needs.
    File,
    /// What the passes after type inference need.
    Typed,
}

/// What a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    /// The graph, or the model.
    Graph,
    /// An operator of the graph.
    Op(OpId),
    /// A value of the graph.
    Value(ValueId),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// How bad it is.
    pub severity: Severity,
    /// The graph where it is.
    pub graph: GraphId,
    /// What in the graph.
    pub entity: Entity,
    /// The graph and the entity by their names: ``graph `main`, `conv1` (Conv)``.
    pub label: String,
    /// What is wrong: lower case, no final period.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.label, self.message)
    }
}

impl Violation {
    /// The violation as a message to the user, drawn over the operator if it is about one.
    pub fn diagnostic(&self, model: &Model) -> Diagnostic {
        let d = Diagnostic::new(self.severity, "Q0001", self.message.clone());
        match self.entity {
            Entity::Op(op) => d.at(model, self.graph, op),
            Entity::Value(_) | Entity::Graph => d.in_graph(model, self.graph),
        }
    }
}

/// Checks all that a model file needs: [`verify_at`] with [`Level::File`].
pub fn verify(model: &Model) -> Vec<Violation> {
    verify_at(model, Level::File)
}

/// Checks a model. The result is empty if nothing is wrong; its order is that of graphs, operators and
/// values.
///
/// Linear in the size of the model.
pub fn verify_at(model: &Model, level: Level) -> Vec<Violation> {
    let mut report = Report { model, live: model.graph_ids().collect(), found: Vec::new() };
    let home = function::home_by_graph(&report);
    scope::check_ownership(&mut report);
    for id in model.graph_ids() {
        scope::check(&mut report, id, level);
        if level >= Level::File {
            function::check_imports(&mut report, id, &home);
        }
    }
    if level >= Level::File {
        function::check(&mut report, &home);
    }
    report.found
}

/// The violations that are errors, one a line; `None` if there is none.
pub fn errors(violations: &[Violation]) -> Option<String> {
    let lines: Vec<String> =
        violations.iter().filter(|v| v.severity == Severity::Error).map(Violation::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

struct Report<'a> {
    model: &'a Model,
    /// Graphs that have not been removed.
    live: FxHashSet<GraphId>,
    found: Vec<Violation>,
}

impl Report<'_> {
    fn error(&mut self, graph: GraphId, entity: Entity, message: impl Into<String>) {
        self.add(Severity::Error, graph, entity, message.into());
    }

    fn warning(&mut self, graph: GraphId, entity: Entity, message: impl Into<String>) {
        self.add(Severity::Warning, graph, entity, message.into());
    }

    fn add(&mut self, severity: Severity, graph: GraphId, entity: Entity, message: String) {
        let g = self.model.graph(graph);
        let label = match entity {
            Entity::Graph => format!("graph `{}`", g.name),
            Entity::Op(op) => {
                format!("graph `{}`, `{}` ({})", g.name, g.label(op), g.op(op).qualified_type())
            }
            Entity::Value(v) => format!("graph `{}`, value `{}`", g.name, g.value(v).name()),
        };
        self.found.push(Violation { severity, graph, entity, label, message });
    }
}

#[cfg(test)]
mod tests;
