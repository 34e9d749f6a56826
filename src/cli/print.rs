//! `squint print`.

use super::failure::Failure;
use super::model_file::load;
use super::talk::Talk;
use clap::Args;
use squint::ir::text::{PrintOptions, print};
use std::io::{self, Write};
use std::path::PathBuf;

/// Print a model as ONNX text.
///
/// The text is read again by squint (as `.onnxtxt`) and by ONNX's own parser.
#[derive(Args)]
pub(crate) struct Print {
    /// The model, `.onnx` or `.onnxtxt`.
    model: PathBuf,
    /// Print constants of more elements than this as a hash of their data.
    #[arg(long, value_name = "N", default_value_t = 64)]
    elide: usize,
    /// Print all constants in full.
    #[arg(long, conflicts_with = "elide")]
    full: bool,
}

impl Print {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let model = load(&self.model, talk)?;
        let elide = if self.full { None } else { Some(self.elide) };
        let text = print(&model, &PrintOptions { elide, ..PrintOptions::default() });
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}
