//! `cargo xtask bench-calibration [--rounds N] [--only MODEL]`: time and peak memory of calibration, beside ONNX Runtime's
//! own tools, in two parts.
//!
//! First every model of the zoo on the data of its task, with what observing costs over plain execution and the time of
//! each stage (`xtask/oracle/bench_calibration.py`). Then some zoo models on 64 samples of noise, all tools on as many threads as they take by themselves. In every round squint
//! (with both executors) and the tools of ONNX Runtime do the same task in turn, so that other load on the machine falls
//! on all of them; the best time of each counts. Two tasks: to calibrate, and to make a quantized model by min-max,
//! pre-processing and writing included. On the model that entropy is measured on, the default executor also runs the same
//! samples ten times over: memory should be the same. A benchmark, not a test: it
//! prints figures and asserts nothing.

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Models of the zoo with the shape of their input.
const MODELS: [(&str, [usize; 3]); 3] =
    [("mobilenetv2", [3, 224, 224]), ("squeezenet1.1", [3, 224, 224]), ("yolox_nano", [3, 416, 416])];
/// The model that ONNX Runtime's entropy calibration has memory for (4 GB), and that runs ten times as many samples.
const SMALL: &str = "mobilenetv2";
/// Samples in the file.
const SAMPLES: usize = 64;
/// Times that they are named for the longer run.
const LONGER: usize = 10;
const EXECUTORS: [&str; 2] = ["tract", "onnxruntime"];

/// Seconds and peak resident memory in MiB of a whole process, and what it said of its stages.
#[derive(Clone, Debug)]
struct Cost {
    seconds: f64,
    peak: u64,
    stages: String,
}

/// What runs: all that is compared of one model.
struct Bench<'a> {
    squint: &'a Path,
    python: &'a Path,
    folder: &'a Path,
    model: &'a Path,
    data: &'a Path,
}

/// Prints lines for each model. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join("../shared/zoo"));
    let squint = arguments.path("--squint")?;
    let rounds =
        arguments.value("--rounds")?.map_or(Ok(3), |n| n.parse()).context("`--rounds` is a count")?;
    let only = arguments.value("--only")?;
    let observing = arguments.path("--observing")?;
    arguments.finish()?;

    let squint = squint.map_or_else(|| build::squint(&["--release"]), Ok)?;
    over_the_zoo(&zoo, &squint, observing, only.as_deref(), rounds)?;
    let folder = oracle::work_folder()?.join("bench-calibration");
    fs::create_dir_all(&folder)?;
    let python = oracle::python()?;
    for (name, shape) in MODELS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|o| o == *name)) {
        let Some(model) = find(&zoo, name)? else {
            println!("{name}: not in `{}`, skipped", zoo.display());
            continue;
        };
        let data = folder.join(format!("{}x{}.npy", shape[1], shape[2]));
        if !data.exists() {
            write_noise(&data, shape).with_context(|| format!("cannot write `{}`", data.display()))?;
        }
        let bench = Bench { squint: &squint, python: &python, folder: &folder, model: &model, data: &data };
        bench.compare(name, rounds)?;
        if name == SMALL {
            let long = bench.squint(Task::Calibrate, EXECUTORS[0], LONGER)?;
            println!(
                "{name}: {}, {} samples: {:.2} s, {} MiB",
                EXECUTORS[0],
                SAMPLES * LONGER,
                long.seconds,
                long.peak
            );
        }
    }
    Ok(true)
}

/// Every model on its own data. Feeds that the zoo's tools make are kept for all benchmarks.
fn over_the_zoo(
    zoo: &Path,
    squint: &Path,
    observing: Option<PathBuf>,
    only: Option<&str>,
    rounds: usize,
) -> Result<()> {
    let mut command = Command::new(oracle::python()?);
    command
        .arg(oracle::script("bench_calibration.py"))
        .stdin(Stdio::null())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--squint").arg(squint).arg("--observing").arg(observing.map_or_else(build::observing, Ok)?);
    command.arg("--repository").arg(build::repository()).arg("--zoo").arg(zoo);
    command.arg("--work").arg(oracle::work_folder()?).arg("--rounds").arg(rounds.to_string());
    if let Some(name) = only {
        command.args(["--only", name]);
    }
    let status = command.status().context("cannot start `bench_calibration.py`")?;
    if !status.success() {
        bail!("`bench_calibration.py` ended with {status}");
    }
    Ok(())
}

/// What is done.
#[derive(Clone, Copy, PartialEq)]
enum Task {
    /// Statistics, for any method.
    Calibrate,
    /// A quantized model with ranges by min-max.
    Quantize,
}

impl Bench<'_> {
    fn compare(&self, name: &str, rounds: usize) -> Result<()> {
        let mut tools = vec!["minmax", "static"];
        if name == SMALL {
            tools.push("entropy");
        }
        let ours: Vec<(Task, &str)> =
            [Task::Calibrate, Task::Quantize].into_iter().flat_map(|t| EXECUTORS.map(|e| (t, e))).collect();
        let mut best_of_ours: Vec<Option<Cost>> = vec![None; ours.len()];
        let mut best_of_tools: Vec<Option<Cost>> = vec![None; tools.len()];
        for _ in 0..rounds.max(1) {
            for (best, (task, executor)) in best_of_ours.iter_mut().zip(&ours) {
                keep(best, self.squint(*task, executor, 1)?);
            }
            for (best, tool) in best_of_tools.iter_mut().zip(&tools) {
                keep(best, self.tool(tool)?);
            }
        }
        for ((task, executor), cost) in ours.iter().zip(best_of_ours.iter().flatten()) {
            let what = if *task == Task::Calibrate { "calibrate" } else { "quantize by min-max" };
            let Cost { seconds, peak, stages } = cost;
            println!("{name}: {what}, {executor}: {seconds:.2} s, {peak} MiB{stages}");
            for (tool, theirs) in tools.iter().zip(best_of_tools.iter().flatten()) {
                let comparable = (*tool == "static") == (*task == Task::Quantize);
                if comparable {
                    println!(
                        "    {:.2} of ONNX Runtime's {tool} ({:.2} s, {} MiB)",
                        seconds / theirs.seconds,
                        theirs.seconds,
                        theirs.peak
                    );
                }
            }
        }
        Ok(())
    }

    /// What squint takes, with the file of samples named so many times.
    fn squint(&self, task: Task, executor: &str, times: usize) -> Result<Cost> {
        let mut command = Command::new(self.squint);
        command.arg(if task == Task::Calibrate { "calibrate" } else { "quantize" }).arg(self.model);
        command.arg("-o").arg(self.folder.join(if task == Task::Calibrate {
            "out.stats"
        } else {
            "out.onnx"
        }));
        if task == Task::Quantize {
            command.args(["--method", "minmax", "--effort", "0"]);
        }
        command.args(["--runtime", executor]);
        // The library is that of the environment which also runs the tool.
        if let Some(environment) = self.python.parent().and_then(Path::parent) {
            command.env("VIRTUAL_ENV", environment);
        }
        command.arg("--data").args(std::iter::repeat_n(self.data, times));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start `{}`", self.squint.display()))?;
        let mut peak = 0;
        let status = loop {
            peak = peak.max(peak_kib(child.id()).unwrap_or(0));
            match child.try_wait()? {
                Some(status) => break status,
                None => std::thread::sleep(std::time::Duration::from_millis(2)),
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        let mut said = String::new();
        child.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
        if !status.success() {
            bail!("squint failed on `{}`: {said}", self.model.display());
        }
        let stages = said.lines().filter_map(|l| l.split_once("(load ")).next_back();
        let stages = stages.map_or(String::new(), |(_, rest)| format!(" (load {rest}"));
        Ok(Cost { seconds, peak: peak >> 10, stages })
    }

    /// What a tool of ONNX Runtime takes.
    fn tool(&self, task: &str) -> Result<Cost> {
        let mut command = Command::new(self.python);
        command.arg(oracle::script("calibrators.py")).arg(self.model).arg(self.data).arg(task);
        command.stdin(Stdio::null());
        let done = command.output().context("cannot start `calibrators.py`")?;
        let text = String::from_utf8_lossy(&done.stdout);
        let numbers = text.trim().split_once(' ').with_context(|| {
            let said = String::from_utf8_lossy(&done.stderr);
            format!("ONNX Runtime's {task} failed on `{}`: {said}", self.model.display())
        });
        let (seconds, peak) = numbers?;
        Ok(Cost { seconds: seconds.parse()?, peak: peak.parse()?, stages: String::new() })
    }
}

/// Keeps the faster one.
fn keep(best: &mut Option<Cost>, cost: Cost) {
    if best.as_ref().is_none_or(|b| cost.seconds < b.seconds) {
        *best = Some(cost);
    }
}

/// The model of this name, in the folder or one below it.
fn find(zoo: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut folders = vec![zoo.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|f| f.to_str() == Some(&format!("{name}.onnx"))) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// Writes `SAMPLES` pictures of uniform noise, the same on every machine.
fn write_noise(path: &Path, [c, h, w]: [usize; 3]) -> Result<()> {
    let mut out = BufWriter::new(fs::File::create(path)?);
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({SAMPLES}, 1, {c}, {h}, {w}), }}\n");
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 1_u64;
    for _ in 0..SAMPLES * c * h * w {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.write_all(&((state >> 40) as f32 / (1 << 24) as f32).to_le_bytes())?;
    }
    Ok(out.flush()?)
}

/// Linux keeps the peak for as long as the process runs; elsewhere it is not known.
fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
