//! `cargo xtask files` and `cargo xtask shapes`: squint beside the `onnx` package, file by file.
//!
//! The comparisons are Python (`xtask/oracle/files.py`, `xtask/oracle/shapes.py`), because `onnx` is.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// Where the outcome of the comparison of shapes is recorded.
const SHAPES: &str = "docs/shape-inference.md";

/// Reads and writes every model there is; whether all of it went as it should.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    start("files.py", arguments, |_| {})
}

/// Compares shape inference on the node cases and writes the report, or with `--check` compares that, too; whether
/// squint contradicts nowhere.
pub(crate) fn shapes(arguments: Vec<String>) -> Result<bool> {
    let (check, arguments): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|a| a == "--check");
    start("shapes.py", arguments, |command| {
        command.arg("--report").arg(build::repository().join(SHAPES)).args(&check);
    })
}

fn start(script: &str, arguments: Vec<String>, more: impl Fn(&mut Command)) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join(oracle::ZOO));
    let squint = arguments.path("--squint")?;
    arguments.finish()?;
    let mut command = Command::new(oracle::python()?);
    command.arg(oracle::script(script)).stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--squint").arg(squint.map_or_else(|| build::squint(&[]), Ok)?);
    command.arg("--zoo").arg(zoo).arg("--work").arg(oracle::work_folder()?.join("files"));
    more(&mut command);
    Ok(command.status().with_context(|| format!("cannot start `{script}`"))?.success())
}
