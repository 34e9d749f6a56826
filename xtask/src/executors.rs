//! `cargo xtask executors`: calibration by tract beside calibration by ONNX Runtime, model by model.
//!
//! The comparison is Python (`xtask/oracle/executors.py`), which has the runtime in its environment.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// Where the outcome is recorded.
const REPORT: &str = "docs/executors.md";

/// Calibrates every model with both and writes the report; whether they agree.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join(oracle::ZOO));
    let squint = arguments.path("--squint")?;
    let only = arguments.value("--only")?;
    arguments.finish()?;
    let mut command = Command::new(oracle::python()?);
    command.arg(oracle::script("executors.py")).stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--squint").arg(squint.map_or_else(|| build::squint(&[]), Ok)?);
    command.arg("--repository").arg(build::repository()).arg("--zoo").arg(zoo);
    command.arg("--work").arg(oracle::work_folder()?);
    command.arg("--report").arg(build::repository().join(REPORT));
    if let Some(name) = only {
        command.args(["--only", &name]);
    }
    Ok(command.status().context("cannot start `executors.py`")?.success())
}
