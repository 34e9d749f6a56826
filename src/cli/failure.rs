//! How a command ends when it does not succeed.

use squint::Error;
use std::fmt;
use std::io;

/// Why a command stops. Displayed as whole lines: `error: ...`, then `  help: ...` if there is any.
pub(crate) enum Failure {
    /// Something is wrong; exit status 1.
    Error {
        /// What, and where.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// What is wrong has been said on standard output already; exit status 1.
    Found(String),
    /// What was compared is not the same, as has been said on standard output; exit status 1, silently.
    Different,
    /// Nobody reads our output any more, as in `squint print m.onnx | head`. Not an error.
    ReaderGone,
}

impl Failure {
    /// An error without advice.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::Error { message: message.into(), help: None }
    }

    /// An error with advice.
    pub(crate) fn with_help(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::Error { message: message.into(), help: Some(help.into()) }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Error { message: e.to_string(), help: e.help().map(str::to_owned) }
    }
}

impl From<squint::DataError> for Failure {
    fn from(e: squint::DataError) -> Failure {
        Error::from(e).into()
    }
}

/// Only writing to standard output fails with a bare `io::Error`.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::new(format!("cannot write to standard output: {e}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error { message, help } => {
                writeln!(f, "error: {message}")?;
                help.as_ref().map_or(Ok(()), |h| writeln!(f, "  help: {h}"))
            }
            Failure::Found(message) => writeln!(f, "error: {message}"),
            Failure::Different | Failure::ReaderGone => Ok(()),
        }
    }
}
