//! What runs the float model.

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use squint::ir::execute::Execute;
use squint::{Error, OnnxRuntime, Tract, find_onnxruntime};
use std::path::PathBuf;

/// Which executor.
#[derive(Args)]
#[command(next_help_heading = "Execution")]
pub(crate) struct RuntimeFlags {
    /// What runs the float model on the data. [default: tract, or onnxruntime with --runtime-library]
    #[arg(long, value_name = "NAME")]
    runtime: Option<RuntimeName>,
    /// The library of ONNX Runtime, 1.18 or later: the file, or its folder. [default: the variable
    /// ORT_DYLIB_PATH, else the package `onnxruntime` of the active Python environment]
    #[arg(long, value_name = "PATH")]
    runtime_library: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RuntimeName {
    /// Built in; needs nothing.
    Tract,
    /// ONNX Runtime, if it is installed: runs what tract cannot.
    Onnxruntime,
}

impl RuntimeFlags {
    /// The executor, loaded.
    ///
    /// # Errors
    /// If it cannot be found or loaded.
    pub(crate) fn executor(&self, talk: &Talk) -> Result<Box<dyn Execute>, Failure> {
        match (self.runtime, &self.runtime_library) {
            (None, None) | (Some(RuntimeName::Tract), None) => Ok(Box::new(Tract)),
            (Some(RuntimeName::Tract), Some(_)) => Err(Failure::with_help(
                "`--runtime-library` is of no use with `--runtime tract`, which is built in",
                "leave out one of them",
            )),
            (_, library) => {
                let path = find_onnxruntime(library.as_deref())?;
                let runtime = OnnxRuntime::load(&path).map_err(Error::from)?;
                talk.detail(format_args!("ONNX Runtime {}: `{}`", runtime.version(), path.display()));
                Ok(Box::new(runtime))
            }
        }
    }
}
