//! What can go wrong, for users of the library and of the command line alike.

use crate::data::DataError;
use crate::stats::StatsError;
use squint_ir::execute::ExecuteError;
use squint_ir::text::TextError;
use squint_passes::pass::PassError;
use squint_proto::{LoadError, SaveError};
use std::io;
use std::path::PathBuf;

/// Why squint could not do what it was asked for. The message says what and where; [`Error::help`] says
/// what to do, where that is not obvious.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A text is not a model.
    #[error("cannot read `{}`: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: TextError,
    },
    /// A model could not be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Calibration data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file is not one of statistics.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// ONNX Runtime is wanted and cannot be found.
    #[error("ONNX Runtime was not found; looked in {}", looked.join(", "))]
    NoOnnxRuntime {
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// An executor cannot be used.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The header of a fixture says something that cannot be done.
    #[error("`{}`: {problem}", path.display())]
    Fixture {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        match self {
            Error::Data(e) => e.help.as_deref(),
            Error::NoOnnxRuntime { .. } => Some(
                "`pip install onnxruntime` into the active environment, or name the library with \
                 `--runtime-library PATH` or in the variable ORT_DYLIB_PATH",
            ),
            Error::Pass(
                PassError::Unsupported { executor: TRACT, .. }
                | PassError::Execute(
                    ExecuteError::Load { executor: TRACT, .. } | ExecuteError::Run { executor: TRACT, .. },
                ),
            ) => Some("`--runtime onnxruntime` runs the float model with ONNX Runtime, if that is installed"),
            Error::Load(e) if e.more > 0 => Some("`squint inspect MODEL --check` shows all that is wrong"),
            _ => None,
        }
    }
}

/// The executor that has an alternative.
const TRACT: &str = "tract";
