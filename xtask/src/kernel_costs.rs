//! `cargo xtask kernel-costs`: times the real runtime's kernels and writes the cost table of target `cpu-vnni`.
//!
//! Run it on an idle machine with VNNI, after an upgrade of the runtime. It takes about two minutes. Numbers vary a little
//! from run to run: commit a new table only if placement changes for the better.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// The generated file, in the repository.
const TABLE: &str = "targets/src/cpu_vnni/table.rs";

/// Writes the table, or prints it with `--print`. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let print = arguments.flag("--print");
    arguments.finish()?;

    let mut command = Command::new(oracle::python()?);
    command.arg(oracle::script("kernel_costs.py")).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("cannot start the script that times kernels")?;
    if !output.status.success() {
        bail!("cannot time the kernels");
    }
    if print {
        print!("{}", String::from_utf8_lossy(&output.stdout));
    } else {
        let table = build::repository().join(TABLE);
        std::fs::write(&table, output.stdout)
            .with_context(|| format!("cannot write `{}`", table.display()))?;
        println!("wrote {TABLE}");
    }
    Ok(true)
}
