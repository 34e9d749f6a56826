//! `cargo xtask oracle`: real models through squint, judged by the real ONNX Runtime.
//!
//! The checks and the table of cases are Python (`xtask/oracle`), because the runtime's interface is; this module
//! only prepares what they need.

use crate::args::Args;
use crate::{build, venv};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the zoo lies beside the repository, on machines that have it.
pub(crate) const ZOO: &str = "../shared/zoo";

/// Runs the checks; whether all passed. An error if they could not be started.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let quick = arguments.flag("--quick");
    let with_torch = arguments.flag("--with-torch");
    let mut command = over_the_zoo("oracle.py", &[], arguments)?;
    if quick {
        command.arg("--quick");
    }
    if with_torch {
        let torch = venv::python(&work_folder()?.join("torch"), &script("requirements-torch.txt"))?;
        command.arg("--torch").arg(torch);
    }
    Ok(command.status().context("cannot start the oracle's script")?.success())
}

/// The command of a script of `xtask/oracle` that runs squint over the models of the zoo, with what is left of the
/// arguments: `--zoo`, `--squint` (otherwise it is built, with these arguments of cargo) and `--only`.
pub(crate) fn over_the_zoo(name: &str, built: &[&str], mut arguments: Args) -> Result<Command> {
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join(ZOO));
    let squint = arguments.path("--squint")?;
    let only = arguments.value("--only")?;
    arguments.finish()?;
    let mut command = Command::new(python()?);
    command.arg(script(name)).stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--squint").arg(squint.map_or_else(|| build::squint(built), Ok)?);
    command.arg("--repository").arg(build::repository()).arg("--zoo").arg(zoo);
    command.arg("--work").arg(work_folder()?);
    if let Some(name) = only {
        command.args(["--only", &name]);
    }
    Ok(command)
}

/// The interpreter of the oracle's environment, made when missing.
pub(crate) fn python() -> Result<PathBuf> {
    venv::python(&work_folder()?.join("venv"), &script("requirements.txt"))
}

/// A file of `xtask/oracle`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle").join(name)
}

/// Where the oracle keeps its environment, feeds and quantized files.
pub(crate) fn work_folder() -> Result<PathBuf> {
    Ok(build::target_folder()?.join("oracle"))
}
