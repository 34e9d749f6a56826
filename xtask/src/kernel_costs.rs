//! `cargo xtask kernel-costs`: times the real runtime's kernels and writes the cost table of this kind of
//! processor.
//!
//! Run it on an idle machine, with VNNI for `cpu-vnni` (with and without AMX, a file for each) and without for
//! `cpu-avx2`, after an upgrade of the runtime. It takes about two minutes. Numbers vary a little from run to run: commit
//! a new table only if placement changes for the better.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// The generated file for this processor, in the repository.
fn table() -> Result<&'static str> {
    match squint_targets::host().name() {
        "cpu-vnni" if has_tiles() => Ok("targets/src/cpu/table/vnni/amx.rs"),
        "cpu-vnni" => Ok("targets/src/cpu/table/vnni/avx512.rs"),
        "cpu-avx2" => Ok("targets/src/cpu/table/avx2.rs"),
        other => bail!("target `{other}` has no table of its own yet"),
    }
}

/// Whether this processor multiplies bytes in tiles. What the operating system says is enough: the runtime asks it, too.
fn has_tiles() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.lines().any(|l| l.starts_with("flags") && l.split_whitespace().any(|f| f == "amx_int8"))
}

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
        let file = table()?;
        let table = build::repository().join(file);
        std::fs::write(&table, output.stdout)
            .with_context(|| format!("cannot write `{}`", table.display()))?;
        println!("wrote {file}");
    }
    Ok(true)
}
