//! `cargo xtask bench-tune`: whether `squint tune` meets its bound on samples that it did not see.
//!
//! The script (`xtask/oracle/bench_tune.py`) is Python because the zoo's data and the runtime that judges are.

use crate::args::Args;
use crate::oracle;
use anyhow::{Context, Result};

/// Tunes every classifier by every metric. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut command = oracle::over_the_zoo("bench_tune.py", &["--release"], Args::new(arguments))?;
    Ok(command.status().context("cannot start `bench_tune.py`")?.success())
}
