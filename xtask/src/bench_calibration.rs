//! `cargo xtask bench-calibration`: time and peak memory of calibration.
//!
//! Measures zoo models on 64 samples of noise, with both executors, and with the default one on the same ten times
//! over: the time should be about ten times as long, and the memory the same. Then ONNX Runtime's own calibrators on the
//! same samples, with the ratio of the times. A benchmark, not a test: it prints figures and asserts nothing. (What
//! observing costs over plain execution: `cargo bench -p squint --bench observing`.)

use crate::args::Args;
use crate::{build, oracle};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Models of the zoo with the shape of their input.
const MODELS: [(&str, [usize; 3]); 3] =
    [("mobilenetv2", [3, 224, 224]), ("squeezenet1.1", [3, 224, 224]), ("yolox_nano", [3, 416, 416])];
/// Samples in the file.
const SAMPLES: usize = 64;
/// Executors, and how often the file is named.
const RUNS: [(&str, usize); 3] = [("tract", 1), ("onnxruntime", 1), ("tract", 10)];
/// Methods of ONNX Runtime's tool. (squint's own time does not depend on the method.)
const METHODS: [&str; 2] = ["minmax", "entropy"];

/// Prints a line for each model and number of samples. Always `true` unless an error stops it.
pub(crate) fn run(arguments: Vec<String>) -> Result<bool> {
    let mut arguments = Args::new(arguments);
    let zoo = arguments.path("--zoo")?.unwrap_or_else(|| build::repository().join("../shared/zoo"));
    let squint = arguments.path("--squint")?;
    arguments.finish()?;

    let squint = squint.map_or_else(|| build::squint(&["--release"]), Ok)?;
    let folder = oracle::work_folder()?.join("bench-calibration");
    fs::create_dir_all(&folder)?;
    let python = oracle::python()?;
    for (name, shape) in MODELS {
        let Some(model) = find(&zoo, name)? else {
            println!("{name}: not in `{}`, skipped", zoo.display());
            continue;
        };
        let data = folder.join(format!("{}x{}.npy", shape[1], shape[2]));
        if !data.exists() {
            write_noise(&data, shape).with_context(|| format!("cannot write `{}`", data.display()))?;
        }
        let output = folder.join(format!("{name}.stats"));
        let mut single = Vec::new();
        for (executor, times) in RUNS {
            let (time, peak) = calibrate(&squint, &python, &model, &data, executor, times, &output)?;
            let (n, seconds) = (SAMPLES * times, time.as_secs_f64());
            let each = seconds * 1e3 / n as f64;
            println!(
                "{name}: {executor}, {n} samples {seconds:.2} s, {each:.2} ms each, peak memory {peak} MiB"
            );
            if times == 1 {
                single.push((executor, seconds));
            }
        }
        for method in METHODS {
            let (seconds, peak) = calibrator(&python, &model, &data, method)?;
            let ratios = single.iter().map(|(executor, s)| format!("{executor} {:.2}", s / seconds));
            let ratios: Vec<String> = ratios.collect();
            println!(
                "{name}: ONNX Runtime's calibrator, {method} {seconds:.2} s, peak memory {peak} MiB; squint takes {} of that",
                ratios.join(", ")
            );
        }
    }
    Ok(true)
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

/// Wall time of the whole process, and its peak resident memory in MiB.
fn calibrate(
    squint: &Path,
    python: &Path,
    model: &Path,
    data: &Path,
    executor: &str,
    times: usize,
    output: &Path,
) -> Result<(Duration, u64)> {
    let mut command = Command::new(squint);
    command.arg("calibrate").arg(model).arg("-o").arg(output).arg("--quiet");
    command.args(["--runtime", executor]);
    // The library is that of the environment which also runs the tool.
    if let Some(environment) = python.parent().and_then(Path::parent) {
        command.env("VIRTUAL_ENV", environment);
    }
    command.arg("--data").args(std::iter::repeat_n(data, times));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", squint.display()))?;
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_kib(child.id()).unwrap_or(0));
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if !status.success() {
        bail!("squint failed on `{}`", model.display());
    }
    Ok((start.elapsed(), peak >> 10))
}

/// Linux keeps the peak for as long as the process runs; elsewhere it is not known.
fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// Seconds and peak memory in MiB of ONNX Runtime's calibrator.
fn calibrator(python: &Path, model: &Path, data: &Path, method: &str) -> Result<(f64, u64)> {
    let mut command = Command::new(python);
    command.arg(oracle::script("calibrators.py")).arg(model).arg(data).arg(method).stdin(Stdio::null());
    let done = command.output().context("cannot start `calibrators.py`")?;
    let text = String::from_utf8_lossy(&done.stdout);
    let (seconds, peak) = text.trim().split_once(' ').with_context(|| {
        format!(
            "ONNX Runtime's calibrator failed on `{}`: {}",
            model.display(),
            String::from_utf8_lossy(&done.stderr)
        )
    })?;
    Ok((seconds.parse()?, peak.parse()?))
}
