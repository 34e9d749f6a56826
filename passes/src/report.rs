//! What the user is told: notes while compiling, and the closing report.

use squint_targets::Costs;
use std::fmt;

/// Notes of passes, in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    notes: Vec<Note>,
}

/// Something the user should know; not a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The node or value it is about; empty if it is about the whole model.
    pub place: String,
    /// What it says, and what to do.
    pub message: String,
}

impl Notes {
    /// Adds a note about a node or value.
    pub fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.notes.push(Note { place: place.into(), message: message.into() });
    }

    /// All notes.
    pub fn iter(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.place, self.message)
        }
    }
}

/// What became of one operator of the float graph.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// Node name, or its first result.
    pub node: String,
    /// Operator type.
    pub op_type: String,
    /// Multiply–accumulates in the first calibration sample; 0 for other operators than contractions.
    pub macs: u64,
    /// The integer kernel, or the reason for float.
    pub fate: Fate,
}

/// Where an operator runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// In integers, in the named kernel of the target.
    Integer(&'static str),
    /// In float, for a reason.
    Float(String),
    /// Not an operator of activations (shapes, indices): nothing to quantize.
    Plain,
}

/// The result of a compilation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every operator of the float graph after fusion, in order.
    pub nodes: Vec<NodeReport>,
    /// Notes of passes.
    pub notes: Vec<Note>,
    /// Calibration samples used.
    pub samples: usize,
    /// Nanoseconds of one core that the target's cost model expects of a run: as planned, and in float.
    pub costs: Costs,
    /// Operators before any pass, those of bodies included.
    pub ops_before: usize,
    /// Operators of the float graph after fusion, those of bodies included.
    pub ops_fused: usize,
    /// Rules of fusion that applied, and how often.
    pub rewrites: Vec<(&'static str, usize)>,
    /// Each pass with the seconds it took.
    pub timing: Vec<(&'static str, f64)>,
}

impl Report {
    /// Contractions that run in integers, and all contractions.
    pub fn integer_contractions(&self) -> (usize, usize) {
        let contraction = |n: &&NodeReport| {
            squint_ops::row("", &n.op_type).is_some_and(|r| r.class == squint_ops::Class::Contraction)
        };
        let all: Vec<_> = self.nodes.iter().filter(contraction).collect();
        (all.iter().filter(|n| matches!(n.fate, Fate::Integer(_))).count(), all.len())
    }

    /// Reasons for float with the number of operators, most frequent first.
    pub fn float_reasons(&self) -> Vec<(String, usize)> {
        let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for n in &self.nodes {
            if let Fate::Float(why) = &n.fate {
                *counts.entry(why).or_default() += 1;
            }
        }
        let mut out: Vec<_> = counts.into_iter().map(|(w, n)| (w.to_owned(), n)).collect();
        out.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        out
    }
}
