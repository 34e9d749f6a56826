//! What can go wrong between a file and the IR.

use squint_ir::{Cycle, TensorError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A model could not be read.
#[derive(Debug)]
pub struct LoadError {
    /// The file, unless the model came from memory.
    pub path: Option<PathBuf>,
    /// What is wrong with it, the first thing if there are several.
    pub problem: LoadProblem,
    /// How many more things are wrong with it; [`crate::examine`] gives them all.
    pub more: usize,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "cannot load `{}`: {}", path.display(), self.problem),
            None => write!(f, "cannot read the model: {}", self.problem),
        }?;
        match self.more {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more problem)"),
            n => write!(f, " (and {n} more problems)"),
        }
    }
}

impl std::error::Error for LoadError {}

impl LoadProblem {
    pub(crate) fn at(self, path: Option<PathBuf>) -> LoadError {
        LoadError { path, problem: self, more: 0 }
    }
}

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadProblem {
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// The path is a folder.
    #[error("is a directory; name the `.onnx` file in it")]
    Directory,
    /// The path is a pipe, a device or a socket.
    #[error("is not a regular file")]
    NotRegular,
    /// The file has no bytes.
    #[error("is empty")]
    Empty,
    /// The operating system refused.
    #[error("{0}")]
    Io(io::Error),
    /// The file is text.
    #[error("is a text file, not an ONNX model{hint}")]
    Text {
        /// What the text looks like, and what to do.
        hint: &'static str,
    },
    /// The bytes are no protobuf, or that of another format.
    #[error("is not an ONNX model ({detail})")]
    NotOnnx {
        /// What showed it.
        detail: String,
    },
    /// The file ends too early.
    #[error("is truncated: {detail}; copy or export it again")]
    Truncated {
        /// What is missing.
        detail: String,
    },
    /// Messages are nested deeper than any protobuf reader accepts.
    #[error("messages are nested more than {limit} deep")]
    TooDeep {
        /// The limit, in messages; a graph inside a graph takes three.
        limit: usize,
    },
    /// A small file that would take very much memory.
    #[error("its messages would take more than {limit} MiB of memory")]
    TooLarge {
        /// The limit, in MiB.
        limit: usize,
    },
    /// A name is not text.
    #[error("a name or text is not UTF-8 ({detail})")]
    Utf8 {
        /// The field.
        detail: String,
    },
    /// An element type that this version of ONNX does not have.
    #[error("{place} has the unsupported data type code {code}")]
    DataType {
        /// The tensor.
        place: String,
        /// `TensorProto.data_type`.
        code: i32,
    },
    /// Data of the wrong length.
    #[error("{place}: {error}")]
    TensorLength {
        /// The tensor.
        place: String,
        /// Expected and actual length.
        error: TensorError,
    },
    /// A tensor that has elements comes without data.
    #[error("{place} has no data: its weights were stripped, or stored elsewhere without saying where")]
    NoData {
        /// The tensor.
        place: String,
    },
    /// A tensor is wrong in another way.
    #[error("{place}: {detail}")]
    Tensor {
        /// The tensor.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// External data cannot be had.
    #[error("{place}: external data `{location}` {detail}")]
    External {
        /// The tensor.
        place: String,
        /// `location`, as in the file.
        location: String,
        /// What is wrong.
        detail: String,
    },
    /// Names are defined more than once in a graph.
    #[error("{graph} defines {} more than once", list(names))]
    Duplicate {
        /// The graph.
        graph: String,
        /// The names with what defines them again, in order of occurrence.
        names: Vec<Mention>,
    },
    /// Names are used that no scope defines.
    #[error("{graph} uses {}, which nothing defines", list(names))]
    Undefined {
        /// The graph.
        graph: String,
        /// The names with their users, in order of occurrence.
        names: Vec<Mention>,
    },
    /// A field that a model cannot do without is missing.
    #[error("{0}")]
    Incomplete(&'static str),
}

impl From<io::Error> for LoadProblem {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::NotFound => LoadProblem::NotFound,
            _ => LoadProblem::Io(e),
        }
    }
}

/// A model could not be encoded or written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A graph has no order of execution.
    #[error("cannot save the model: {0}")]
    Cycle(#[from] Cycle),
    /// A `residue` of the IR is not the message that the loader put there.
    #[error("cannot save the model: the residue of {place} is not a protobuf message")]
    Residue {
        /// Whose residue.
        place: String,
    },
    /// The output cannot be written.
    #[error("cannot write `{}`: {detail}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The model does not fit a protobuf message.
    #[error(
        "the model takes {bytes} bytes inline and protobuf ends at 2 GiB: allow external data for its initializers"
    )]
    TooLarge {
        /// Encoded size without external data.
        bytes: usize,
    },
}

/// A name, and where in the graph it stands. Displayed as `` `x` (node `conv1`) ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The name.
    pub name: String,
    /// What says it, for example ``node `conv1` ``.
    pub by: String,
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.name, self.by)
    }
}

/// At most ten names in backticks.
fn list(names: &[Mention]) -> String {
    let mut text = names.iter().take(10).map(Mention::to_string).collect::<Vec<_>>().join(", ");
    if names.len() > 10 {
        text.push_str(&format!(" and {} more", names.len() - 10));
    }
    text
}
