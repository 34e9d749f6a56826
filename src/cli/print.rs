//! `squint print`.

use super::failure::Failure;
use super::inferred::types;
use super::model_file::Input;
use super::talk::Talk;
use clap::Args;
use squint::ir::text::{PrintOptions, print};
use squint::ir::{GraphId, Type, ValueId, ValueTable};
use std::io::{self, Write};

/// Print a model as ONNX text.
///
/// The text is read again by squint (as `.onnxtxt`) and by ONNX's own parser.
#[derive(Args)]
pub(crate) struct Print {
    #[command(flatten)]
    model: Input,
    /// Print constants of more elements than this as a hash of their data.
    #[arg(long, value_name = "N", default_value_t = 64)]
    elide: usize,
    /// Print all constants in full.
    #[arg(long, conflicts_with = "elide")]
    full: bool,
    /// Say in a comment what is inferred of each value of the main graph: its element type and shape.
    #[arg(long)]
    facts: bool,
}

impl Print {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let mut model = self.model.load(talk)?;
        let types = if self.facts { types(&mut model, talk)? } else { ValueTable::new() };
        let main = model.main();
        let facts = |g: GraphId, v: ValueId| {
            // The type of a constant is printed anyway.
            let inferred = types.get(v).filter(|_| g == model.main_id() && main.konst(v).is_none());
            inferred.map(Type::to_string)
        };
        let options = PrintOptions {
            elide: (!self.full).then_some(self.elide),
            facts: self.facts.then_some(&facts),
            ..PrintOptions::default()
        };
        let text = print(&model, &options);
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))?;
        Ok(out.flush()?)
    }
}
