//! `cargo xtask bench-io`: does reading and writing run at the speed of the disk, without copies of weights?
//!
//! Models that are nothing but weights, 1 GB inside the file and 4 GB beside it, are verified (`squint inspect
//! --check`) and written again (`squint convert`). Both are read from the page cache; writing ends when the
//! output is on the disk. Peak anonymous memory is sampled from `/proc`, which only Linux has.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Gigabytes of weights and where they lie.
const MODELS: [(u32, &str); 2] = [(1, "inline"), (4, "external")];

/// Wanted of a model of 1 GB, in GB/s.
const SPEED: f64 = 1.0;

/// Most anonymous memory by the models of [`MODELS`], in MB.
const MEMORY: [f64; 2] = [100.0, 200.0];

/// Runs per measurement; the best counts.
const REPEATS: u32 = 3;

/// Prints a line for each model and command; whether memory stays in its bounds. Speed is only reported: it
/// is the disk's.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let squint = arguments.path("--squint")?;
    let folder = arguments.path("--folder")?;
    arguments.finish()?;

    let squint = squint.map_or_else(|| build::squint(&["--release"]), Ok)?;
    let folder = folder.map_or_else(|| oracle::work_folder().map(|f| f.join("bench-io")), Ok)?;
    let mut frugal = true;
    for ((gigabytes, form), limit) in MODELS.into_iter().zip(MEMORY) {
        let model = make_model(gigabytes, form, &folder)?;
        let sizes = [&model, &data_of(&model)].map(|file| fs::metadata(file).map_or(0, |m| m.len()));
        let bytes = sizes.iter().sum::<u64>() as f64 / 1e9;
        let copy = folder.join(format!("copy-{gigabytes}.onnx"));
        let verify = best(&squint, &["inspect".as_ref(), model.as_ref(), "--check".as_ref()])?;
        let convert = best(
            &squint,
            &["convert".as_ref(), model.as_ref(), "-o".as_ref(), copy.as_ref(), "--quiet".as_ref()],
        )?;
        for (what, run) in [("load, verify", verify), ("load, save", convert)] {
            println!(
                "{bytes:.2} GB {form}: {what}: {:.3} s, {:.2} GB/s (wanted {SPEED}), {:.1} MB anonymous (at most {limit})",
                run.seconds,
                bytes / run.seconds,
                run.anonymous
            );
            frugal &= run.anonymous <= limit;
        }
        for file in [&copy, &data_of(&copy)] {
            let _ = fs::remove_file(file);
        }
    }
    Ok(frugal)
}

/// The file of a model's external data.
fn data_of(model: &Path) -> PathBuf {
    model.with_extension("onnx.data")
}

/// Writes a model unless it is there.
fn make_model(gigabytes: u32, form: &str, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("{form}-{gigabytes}.onnx"));
    if !path.exists() {
        let mut command = Command::new(oracle::python()?);
        command.arg(oracle::script("weights.py")).arg(gigabytes.to_string()).arg(form).arg(&path);
        if !command
            .stdin(Stdio::null())
            .status()
            .context("cannot start the script that makes the model")?
            .success()
        {
            bail!("cannot make a model of {gigabytes} GB");
        }
    }
    Ok(path)
}

/// One run of a command.
#[derive(Clone, Copy)]
struct Run {
    /// Wall time of the whole process.
    seconds: f64,
    /// Peak anonymous memory in MB.
    anonymous: f64,
}

/// The shortest time and the highest memory of some runs.
fn best(squint: &Path, arguments: &[&Path]) -> Result<Run> {
    let mut best = Run { seconds: f64::INFINITY, anonymous: 0.0 };
    for _ in 0..REPEATS {
        let run = once(squint, arguments)?;
        best = Run { seconds: best.seconds.min(run.seconds), anonymous: best.anonymous.max(run.anonymous) };
    }
    Ok(best)
}

fn once(squint: &Path, arguments: &[&Path]) -> Result<Run> {
    let mut command = Command::new(squint);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", squint.display()))?;
    let mut anonymous = 0.0f64;
    let status = loop {
        anonymous = anonymous.max(anonymous_memory(&child));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(Duration::from_millis(2));
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        bail!("squint ended with {status}");
    }
    Ok(Run { seconds, anonymous })
}

/// Resident anonymous memory of a process in MB; 0 where it cannot be known.
fn anonymous_memory(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) * 1024.0 / 1e6
}
