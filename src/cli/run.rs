//! `squint run`.

use super::failure::Failure;
use super::model_file::Input;
use super::options::DataFlags;
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::Args;
use squint::data::npz;
use squint::interpret::Interpreter;
use squint::passes::pass::PassError;
use squint::{Error, Samples};
use std::path::PathBuf;

/// Run a model, float or quantized, and write its outputs.
///
/// Quantized models of any tool are run as they compute: quantizers round and clamp exactly. It is for checking
/// and comparing, not for speed.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    model: Input,
    /// The folder to write: for each sample an `.npz` file with an array for each output.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Write the values inside, too, by their names.
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

impl Run {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let model = self.model.load_valid(talk)?;
        let data = self.data.open_for("running needs data", &model, talk)?;
        std::fs::create_dir_all(&self.output).map_err(|source| Error::File {
            action: "write",
            path: self.output.clone(),
            source,
        })?;
        let interpreter = Interpreter::new(&model)?;
        let digits = data.len().saturating_sub(1).to_string().len().max(4);
        let inside = if self.values { interpreter.values() } else { Vec::new() };
        let executor = self.runtime.executor(talk)?;
        interpreter.run(executor.as_ref(), &data, &inside, |i, outputs| {
            let bytes = npz(&outputs).map_err(|why| PassError::Config(format!("output {why}")))?;
            squint::write_whole(&self.output.join(format!("{i:0digits$}.npz")), &bytes)
        })?;
        talk.say(format_args!("outputs of {} samples: `{}`", data.len(), self.output.display()));
        Ok(())
    }
}
