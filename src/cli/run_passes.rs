//! `squint run-passes`.

use super::failure::Failure;
use super::talk::Talk;
use clap::Args;
use squint::fixture::Fixture;
use squint::ir::text::{PrintOptions, print};
use std::io::{self, Write};
use std::path::PathBuf;

/// Run single passes on a fixture and print the result as ONNX text.
///
/// A fixture is a model as text, whose first lines say what to do, for example
/// `#! passes = ["fold-constants", "fuse"] target = "cpu-vnni"`.
#[derive(Args)]
pub(crate) struct RunPasses {
    /// The fixture, a model as text.
    file: PathBuf,
    /// Run these passes instead of those of the header.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    passes: Vec<String>,
    /// Print the quantization plan instead of the model.
    #[arg(long)]
    plan: bool,
}

impl RunPasses {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let mut fixture = Fixture::load(&self.file)?;
        if !self.passes.is_empty() {
            fixture.passes = self.passes;
        }
        if fixture.passes.is_empty() {
            let help = "write `#! passes = [\"NAME\"]` into its first line, or give `--passes NAME`";
            return Err(Failure::with_help(format!("`{}` names no pass to run", self.file.display()), help));
        }
        let outcome = fixture.run()?;
        talk.notes(&outcome.notes);
        let text = match self.plan {
            true => outcome.plan.to_text(outcome.model.main()),
            false => print(&outcome.model, &PrintOptions::default()),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end())?;
        Ok(out.flush()?)
    }
}
