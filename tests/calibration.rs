//! Statistics as files: the same bytes however they are measured, and the same model from them.

use squint::stats::{CalibrateOptions, DataRecord, Recording, Shard, calibrate, read, to_bytes};
use squint::{Config, DataOptions, Dataset, Hooks, Sample, Samples, Tract};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

const SAMPLES: usize = 12;

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

/// Data of which one sample cannot be read.
struct Failing {
    data: Dataset,
    fails_at: Option<usize>,
}

impl Samples for Failing {
    fn len(&self) -> usize {
        self.data.len()
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        match self.fails_at {
            Some(i) if i == index => Err("the power went out".into()),
            _ => self.data.get(index),
        }
    }
}

fn measure(
    threads: usize,
    fails_at: Option<usize>,
    options: &CalibrateOptions,
) -> Result<Recording, squint::Error> {
    let mut model = squint::load(&quickstart("digits.onnx"))?;
    let path = quickstart("calibration.npz").to_str().unwrap().to_owned();
    let options_of_data = DataOptions { samples: Some(SAMPLES), ..DataOptions::new([path]) };
    let samples = Failing { data: Dataset::open(&model, &options_of_data)?, fails_at };
    let mut config = Config::new("cpu-vnni");
    config.threads = Some(threads);
    let about = DataRecord { source: "digits".into(), preprocessing: "none".into(), total: SAMPLES };
    calibrate(&mut model, &Tract, &samples, about, options, &config, &Hooks::default())
}

fn whole() -> Recording {
    measure(1, None, &CalibrateOptions::default()).unwrap()
}

#[test]
fn threads_and_shards_in_any_order_give_the_same_bytes() {
    let expected = to_bytes(&whole());
    for threads in [2, 4] {
        assert_eq!(to_bytes(&measure(threads, None, &CalibrateOptions::default()).unwrap()), expected);
    }
    for count in [3, 7] {
        let part = |index| {
            let shard = Shard { index, count };
            measure(2, None, &CalibrateOptions { shard, ..CalibrateOptions::default() }).unwrap()
        };
        let mut parts: Vec<Recording> = (0..count).rev().map(part).collect();
        parts.swap(0, count / 2);
        let mut merged = parts.remove(0);
        for p in &parts {
            merged.merge(p).unwrap();
        }
        assert_eq!(to_bytes(&merged), expected, "{count} shards");
        assert_eq!(
            merged.merge(&parts[0]).unwrap_err(),
            format!("sample {} is in both", parts[0].tally.done().first().unwrap())
        );
    }
}

#[test]
fn an_interrupted_calibration_goes_on_to_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let mut options = CalibrateOptions {
        checkpoint: Some(dir.path().join("c.partial")),
        every: Duration::ZERO,
        resume: true,
        ..CalibrateOptions::default()
    };
    for fails_at in [4, 9] {
        let error = measure(2, Some(fails_at), &options).unwrap_err();
        assert!(error.to_string().contains("the power went out"), "{error}");
    }
    let done = read(options.checkpoint.as_ref().unwrap()).unwrap().tally.done().len();
    assert!((4..SAMPLES).contains(&done), "{done}");
    assert_eq!(to_bytes(&measure(2, None, &options).unwrap()), to_bytes(&whole()));

    // A checkpoint of another calibration is not gone on with.
    options.shard = Shard { index: 0, count: 2 };
    let mut other = whole();
    other.graph.ops[0].constants ^= 1;
    other.graph.hash.clear();
    squint::stats::write(&other, options.checkpoint.as_ref().unwrap()).unwrap();
    let error = measure(2, None, &options).unwrap_err().to_string();
    assert!(error.contains("has other weights or constants"), "{error}");
}

fn squint(dir: &TempDir, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squint"));
    command.args(words.split_whitespace()).current_dir(dir.path()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn workplace() -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in ["digits.onnx", "calibration.npz"] {
        std::fs::copy(quickstart(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// The recipe of `docs/calibration.md`, with processes of this machine: each job measures its shard, and one
/// step merges them.
#[test]
fn processes_side_by_side_measure_what_one_measures() {
    let dir = workplace();
    let jobs: Vec<_> = (0..3)
        .map(|i| {
            let words = format!(
                "calibrate digits.onnx --data calibration.npz --samples 12 --threads 1 --shard {i}/3 -o part-{i}.stats"
            );
            let mut command = Command::new(env!("CARGO_BIN_EXE_squint"));
            command.args(words.split_whitespace()).current_dir(dir.path()).arg("--quiet").spawn().unwrap()
        })
        .collect();
    for mut job in jobs {
        assert!(job.wait().unwrap().success());
    }
    let merged = squint(&dir, "stats merge part-2.stats part-0.stats part-1.stats -o merged.stats");
    assert_eq!(said(&merged), "merged 12 of 12 samples: `merged.stats`\n");
    squint(&dir, "calibrate digits.onnx --data calibration.npz --samples 12 -o one.stats");
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("merged.stats"), bytes("one.stats"));
    assert!(!dir.path().join("one.stats.partial").exists());
}

#[test]
fn a_killed_process_goes_on_to_the_same_bytes() {
    let dir = workplace();
    let words = "calibrate digits.onnx --data calibration.npz --threads 1 --checkpoint 0 -o a.stats";
    let mut command = Command::new(env!("CARGO_BIN_EXE_squint"));
    let mut child = command.args(words.split_whitespace()).current_dir(dir.path()).spawn().unwrap();
    let partial = dir.path().join("a.stats.partial");
    while !partial.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    squint(&dir, &format!("{words} --resume"));
    squint(&dir, "calibrate digits.onnx --data calibration.npz -o b.stats");
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("a.stats"), bytes("b.stats"));
}

#[test]
fn statistics_of_another_graph_are_refused() {
    let dir = workplace();
    squint(&dir, "calibrate digits.onnx --data calibration.npz --samples 4 -o d.stats");
    let other =
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }";
    std::fs::write(dir.path().join("other.onnxtxt"), other).unwrap();
    let refused = squint(&dir, "quantize other.onnxtxt -o q.onnx --stats d.stats");
    assert_eq!(refused.status.code(), Some(1));
    let why = said(&refused);
    assert!(why.contains("measured on another graph") && why.contains("operator 1 is `"), "{why}");
    let refused = squint(&dir, "explain digits.onnx --stats calibration.npz");
    assert!(said(&refused).contains("it is no safetensors file"), "{}", said(&refused));
}
