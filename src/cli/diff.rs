//! `squint diff`.

use super::failure::Failure;
use super::model_file::Trust;
use super::options::Format;
use super::talk::Talk;
use super::unprinted::unprinted;
use clap::Args;
use serde_json::{Map, Value, json};
use similar::TextDiff;
use squint::Model;
use squint::ir::Tensor;
use squint::ir::text::{PrintOptions, print};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

/// Show how two models differ. Exit status 0 if they are equal, 1 if they differ.
///
/// Both are compared as text, with large constants by the hash of their data, so that a different order of
/// nodes counts only where it means something; what the syntax has no place for is listed after the text.
/// How a file stores its tensors is no difference.
#[derive(Args)]
pub(crate) struct Diff {
    /// The one model, `.onnx` or `.onnxtxt`.
    old: PathBuf,
    /// The other.
    new: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// Lines to show around each change.
    #[arg(long, value_name = "N", default_value_t = 3)]
    context: usize,
    /// Compare constants of more elements than this by the hash of their data.
    #[arg(long, value_name = "N", default_value_t = 16)]
    elide: usize,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Diff {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let (old, new) = (self.trust.load(&self.old, talk)?, self.trust.load(&self.new, talk)?);
        let (a, b) = (self.text(&old), self.text(&new));
        let mut out = io::stdout().lock();
        if a == b {
            if self.format == Format::Json {
                writeln!(out, "{:#}", json!({"equal": true}))?;
            }
            return Ok(());
        }
        // Lines of models are mostly unique, which this algorithm makes use of.
        let diff = TextDiff::configure().algorithm(similar::Algorithm::Patience).diff_lines(&a, &b);
        let mut unified = diff.unified_diff();
        let (from, to) = (self.old.display().to_string(), self.new.display().to_string());
        let lines = unified.context_radius(self.context).header(&from, &to);
        let summary = Summary::of(&old, &new);
        match self.format {
            Format::Text => write!(out, "{lines}\n{}", summary.text())?,
            Format::Json => {
                let mut all = summary.json();
                all["diff"] = lines.to_string().into();
                writeln!(out, "{all:#}")?;
            }
        }
        out.flush()?;
        Err(Failure::Different)
    }

    /// Everything there is to compare.
    fn text(&self, model: &Model) -> String {
        let mut text = print(model, &PrintOptions { elide: Some(self.elide), ..PrintOptions::default() });
        for item in unprinted(model) {
            let _ = writeln!(text, "# {item}");
        }
        text
    }
}

/// Changes, counted.
struct Summary {
    /// Operators by type: how many in the old model, how many in the new.
    operators: BTreeMap<String, (usize, usize)>,
    /// Names of constants that only the new model has.
    added: Vec<String>,
    /// Names of constants that only the old model has.
    removed: Vec<String>,
    /// Names of constants that differ.
    changed: Vec<String>,
}

impl Summary {
    fn of(old: &Model, new: &Model) -> Summary {
        let mut operators: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        count(old, |op_type| operators.entry(op_type).or_default().0 += 1);
        count(new, |op_type| operators.entry(op_type).or_default().1 += 1);
        operators.retain(|_, (a, b)| a != b);
        let (before, after) = (constants(old), constants(new));
        let only = |these: &BTreeMap<String, &Tensor>, those: &BTreeMap<String, &Tensor>| {
            these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
        };
        let same = |a: &Tensor, b: &Tensor| {
            a.dtype() == b.dtype()
                && a.dims() == b.dims()
                && a.bytes() == b.bytes()
                && a.as_strings() == b.as_strings()
        };
        let changed = before.iter().filter(|(name, a)| after.get(*name).is_some_and(|b| !same(a, b)));
        Summary {
            operators,
            added: only(&after, &before),
            removed: only(&before, &after),
            changed: changed.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (op_type, (a, b)) in &self.operators {
            let change = *b as i64 - *a as i64;
            let _ = writeln!(out, "{change:+} {op_type} ({a} before, {b} after)");
        }
        let lists = [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)];
        for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
            let plural = if names.len() == 1 { "" } else { "s" };
            let _ = writeln!(out, "{} constant{plural} {what}", names.len());
        }
        if out.is_empty() {
            out.push_str("the same operators by type, and the same constants\n");
        }
        out
    }

    fn json(&self) -> Value {
        let operators = self.operators.iter();
        let operators: Map<_, _> =
            operators.map(|(op, (a, b))| (op.clone(), json!({"before": a, "after": b}))).collect();
        json!({
            "equal": false,
            "operators": operators,
            "constants": {"added": self.added, "removed": self.removed, "changed": self.changed},
        })
    }
}

/// Calls `f` with the type of every operator.
fn count(model: &Model, mut f: impl FnMut(String)) {
    for g in model.graph_ids().map(|id| model.graph(id)) {
        g.ops().for_each(|o| f(g.op(o).qualified_type()));
    }
}

/// Constants of the main graph by name.
fn constants(model: &Model) -> BTreeMap<String, &Tensor> {
    let g = model.main();
    g.values().filter_map(|v| Some((g.value(v).name().to_owned(), &**g.konst(v)?))).collect()
}
