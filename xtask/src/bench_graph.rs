//! `cargo xtask bench-graph`: is graph work linear?
//!
//! Optimizes chains of Conv+Relu pairs whose tensors are tiny, ten times longer the second time. (Planning and
//! emission are in the benchmark `chain` of squint-passes.) Ten times the pairs should take about ten times as long. A benchmark, not a test: it
//! prints times and asserts nothing.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Pairs in the two chains, and how often each is timed (the best counts).
const CHAINS: [(u32, u32); 2] = [(800, 5), (8000, 3)];

/// Prints a line for each chain and the ratio of the two times. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let squint = arguments.path("--squint")?;
    arguments.finish()?;

    let python = oracle::python()?;
    let folder = oracle::work_folder()?.join("bench-graph");
    let squint = squint.map_or_else(|| build::squint(&["--release"]), Ok)?;
    let mut best = [0.0; CHAINS.len()];
    for ((pairs, repeats), best) in CHAINS.into_iter().zip(&mut best) {
        make_chain(&python, pairs, &folder)?;
        *best = optimize_seconds(&squint, &folder, pairs, repeats)?;
        println!(
            "{pairs} pairs: {best:.3} s, {:.1} us a pair (best of {repeats})",
            *best * 1e6 / f64::from(pairs)
        );
    }
    let [(short, _), (long, _)] = CHAINS;
    println!("time({long}) / time({short}) = {:.2} for {} times the pairs", best[1] / best[0], long / short);
    Ok(true)
}

/// Writes `chain-PAIRS.onnx` and `chain.npz` to `folder`.
fn make_chain(python: &Path, pairs: u32, folder: &Path) -> Result<()> {
    let mut command = Command::new(python);
    command.arg(oracle::script("chain.py")).arg(pairs.to_string()).arg(folder).stdin(Stdio::null());
    if !command.status().context("cannot start the script that makes the chain")?.success() {
        bail!("cannot make a chain of {pairs} pairs");
    }
    Ok(())
}

/// Wall time of `squint optimize` on a chain: the best of `repeats` runs of the whole process.
fn optimize_seconds(squint: &Path, folder: &Path, pairs: u32, repeats: u32) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..repeats {
        let mut command = Command::new(squint);
        command.arg("optimize").arg(folder.join(format!("chain-{pairs}.onnx")));
        command.arg("-o").arg(folder.join(format!("chain-{pairs}.optimized.onnx")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let output = command.output().with_context(|| format!("cannot start `{}`", squint.display()))?;
        best = best.min(start.elapsed().as_secs_f64());
        if !output.status.success() {
            bail!("squint failed on {pairs} pairs: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(best)
}
