//! `cargo xtask bench-quantize`: time and memory of the stages behind calibration.
//!
//! The script (`xtask/oracle/bench_quantize.py`) is Python because the zoo's data is made there.

use crate::args::Args;
use crate::oracle;
use anyhow::{Context, Result};

/// Quantizes every model with and without them. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut command = oracle::over_the_zoo("bench_quantize.py", &["--release"], Args::new(arguments))?;
    Ok(command.status().context("cannot start `bench_quantize.py`")?.success())
}
