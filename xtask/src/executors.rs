//! `cargo xtask executors`: calibration by tract beside calibration by ONNX Runtime, model by model.
//!
//! The comparison is Python (`xtask/oracle/executors.py`), which has the runtime in its environment.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result};

/// Where the outcome is recorded.
const REPORT: &str = "docs/executors.md";

/// Calibrates every model with both and writes the report; whether they agree.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut command = oracle::over_the_zoo("executors.py", &[], Args::new(arguments))?;
    command.arg("--report").arg(build::repository().join(REPORT));
    Ok(command.status().context("cannot start `executors.py`")?.success())
}
