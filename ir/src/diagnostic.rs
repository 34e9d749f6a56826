//! What is said to the user: a code, what is wrong, where, and what to do, drawn over the printed operator.
//!
//! ```text
//! error[Q0203]: weight cannot be quantized per channel
//!   --> model.onnx: graph `main`, `/layer1/conv` (Conv, opset 21)
//!    | y = Conv (x, w, b)
//!    |              ^ produced by `/Reshape_3`, not a constant
//!    = note: target `cpu-vnni` wants s8 weights along axis 0
//!    = help: keep it in float with `--keep-float /layer1/conv`
//! ```
//!
//! No source file is needed: the printed IR is the source.

use crate::text::{NodeLine, print_node};
use crate::{GraphId, Model, OpId};
use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, and likely not meant.
    Warning,
    /// Wrong: no result, or a result that is not to be trusted.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// What part of an operator a label points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its type.
    Type,
    /// An operand, by slot.
    Operand(u32),
    /// A result, by slot.
    Result(u32),
}

/// Where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// File name of the model; may be empty.
    pub model: String,
    /// Name of the graph; may be empty.
    pub graph: String,
    /// The operator in words: `` `conv1` (Conv, opset 21) ``; empty for the graph itself.
    pub node: String,
    line: NodeLine,
    label: Option<(Range<usize>, String)>,
}

/// A message to the user. Its `Display` is the whole drawing, without a newline at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code, such as `Q0203`; may be empty.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no final period, names in backticks.
    pub message: String,
    /// Where.
    pub location: Option<Location>,
    /// Facts that help to understand it.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Error, code, message)
    }

    /// A warning without a place.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Warning, code, message)
    }

    /// A message without a place.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code, severity, message: message.into(), location: None, notes: Vec::new(), help: None }
    }

    /// Names the file of the model.
    pub fn in_model(mut self, file: impl Into<String>) -> Diagnostic {
        self.location.get_or_insert_default().model = file.into();
        self
    }

    /// Places it in a graph.
    pub fn in_graph(mut self, model: &Model, graph: GraphId) -> Diagnostic {
        self.location.get_or_insert_default().graph = model.graph(graph).name.clone();
        self
    }

    /// Places it at an operator, which is printed.
    pub fn at(self, model: &Model, graph: GraphId, op: OpId) -> Diagnostic {
        let mut placed = self.in_graph(model, graph);
        let g = model.graph(graph);
        let node = g.op(op);
        let opset = model.opset(&node.domain).map_or(String::new(), |v| format!(", opset {v}"));
        let location = placed.location.get_or_insert_default();
        location.node = format!("`{}` ({}{opset})", g.label(op), node.qualified_type());
        location.line = print_node(model, graph, op);
        placed
    }

    /// Points at a part of the operator given to [`Diagnostic::at`]. A part that is not there is ignored.
    pub fn label(mut self, part: Part, text: impl Into<String>) -> Diagnostic {
        if let Some(location) = &mut self.location {
            let line = &location.line;
            let place = match part {
                Part::Type => Some(&line.op_type),
                Part::Operand(slot) => line.operands.get(slot as usize),
                Part::Result(slot) => line.results.get(slot as usize),
            };
            location.label = place.cloned().map(|p| (p, text.into()));
        }
        self
    }

    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Diagnostic {
        self.notes.push(note.into());
        self
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.severity)?;
        if !self.code.is_empty() {
            write!(f, "[{}]", self.code)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(location) = &self.location {
            write!(f, "\n{location}")?;
        }
        for note in &self.notes {
            write!(f, "\n   = note: {note}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  --> ")?;
        let graph = if self.graph.is_empty() { String::new() } else { format!("graph `{}`", self.graph) };
        let inner: Vec<&str> = [graph.as_str(), &self.node].into_iter().filter(|s| !s.is_empty()).collect();
        f.write_str(&self.model)?;
        f.write_str(if self.model.is_empty() || inner.is_empty() { "" } else { ": " })?;
        f.write_str(&inner.join(", "))?;
        if self.line.text.is_empty() {
            return Ok(());
        }
        write!(f, "\n   | {}", one_line(&self.line.text))?;
        if let Some((place, text)) = &self.label {
            let before = self.line.text[..place.start].chars().count();
            let width = self.line.text[place.clone()].chars().count().max(1);
            write!(f, "\n   | {}{} {text}", " ".repeat(before), "^".repeat(width))?;
        }
        Ok(())
    }
}

/// Control characters, which would break the drawing, as blanks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operand_is_underlined() {
        let model = crate::text::parse(
            "<ir_version: 10, opset_import: [\"\" : 21]> main (x, b) => (y)
             { w1 = Reshape (x, b) [\"/conv\"] y = Conv <group = 1> (x, w1, b) }",
        )
        .unwrap();
        let conv = model.main().ops().nth(1).unwrap();
        let d = Diagnostic::error("Q0203", "weight cannot be quantized per channel")
            .in_model("model.onnx")
            .at(&model, model.main_id(), conv)
            .label(Part::Operand(1), "not a constant")
            .note("target `cpu-vnni` wants s8 weights along axis 0")
            .help("use `--keep-float /conv`");
        let drawn = "error[Q0203]: weight cannot be quantized per channel
  --> model.onnx: graph `main`, `/conv` (Conv, opset 21)
   | [\"/conv\"] y = Conv <group = 1> (x, w1, b)
   |                                    ^^ not a constant
   = note: target `cpu-vnni` wants s8 weights along axis 0
   = help: use `--keep-float /conv`";
        assert_eq!(d.to_string(), drawn);
        let plain = Diagnostic::warning("", "nothing to do");
        assert_eq!(plain.to_string(), "warning: nothing to do");
    }
}
