//! `cargo xtask bench-quantize`: time and memory of the stages behind calibration.
//!
//! The script (`xtask/oracle/bench_quantize.py`) is Python because the zoo's data is made there.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// Quantizes every model with and without them. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join(oracle::ZOO));
    let squint = arguments.path("--squint")?;
    let only = arguments.value("--only")?;
    arguments.finish()?;
    let mut command = Command::new(oracle::python()?);
    command.arg(oracle::script("bench_quantize.py")).stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--squint").arg(squint.map_or_else(|| build::squint(&["--release"]), Ok)?);
    command.arg("--repository").arg(build::repository()).arg("--zoo").arg(zoo);
    command.arg("--work").arg(oracle::work_folder()?);
    if let Some(name) = only {
        command.args(["--only", &name]);
    }
    Ok(command.status().context("cannot start `bench_quantize.py`")?.success())
}
