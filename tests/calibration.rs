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

pub(crate) fn whole() -> Recording {
    measure(1, None, &CalibrateOptions::default()).unwrap()
}

/// The channels of some values, too.
fn by_channel() -> CalibrateOptions {
    CalibrateOptions { channels: vec!["*".into()], ..CalibrateOptions::default() }
}

#[test]
fn threads_and_shards_in_any_order_give_the_same_bytes() {
    let expected = to_bytes(&measure(1, None, &by_channel()).unwrap());
    for threads in [2, 4] {
        assert_eq!(to_bytes(&measure(threads, None, &by_channel()).unwrap()), expected);
    }
    for count in [1, 3, 7] {
        let part = |index| {
            let shard = Shard { index, count };
            measure(2, None, &CalibrateOptions { shard, ..by_channel() }).unwrap()
        };
        let mut parts: Vec<Recording> = (0..count).rev().map(part).collect();
        parts.swap(0, count / 2);
        let mut merged = parts.remove(0);
        for p in &parts {
            merged.merge(p).unwrap();
        }
        assert_eq!(to_bytes(&merged), expected, "{count} shards");
        assert_eq!(to_bytes(&read_back(&merged)), expected);
        if parts.is_empty() {
            continue;
        }
        assert_eq!(
            merged.merge(&parts[0]).unwrap_err(),
            format!("sample {} is in both", parts[0].tally.done().first().unwrap())
        );
    }
}

/// What a file of it holds.
fn read_back(recording: &Recording) -> Recording {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("r.stats");
    squint::stats::write(recording, &path).unwrap();
    read(&path).unwrap()
}

/// Whoever comes first, and whichever samples a part has: what is merged is the same. (Merging sketches of the same
/// samples in another order is tested beside the sketch.)
#[test]
fn the_order_of_samples_leaves_no_trace() {
    let model = squint::load(&quickstart("digits.onnx")).unwrap();
    let path = quickstart("calibration.npz").to_str().unwrap().to_owned();
    let data = || {
        let options = DataOptions { samples: Some(SAMPLES), ..DataOptions::new([path.clone()]) };
        Dataset::open(&model, &options).unwrap()
    };
    let calibrated = |samples: &dyn Samples| {
        let about = DataRecord { source: "digits".into(), preprocessing: "none".into(), total: SAMPLES };
        let config = Config::new("cpu-vnni");
        let recording =
            calibrate(&mut model.clone(), &Tract, samples, about, &by_channel(), &config, &Hooks::default());
        recording.unwrap().tally
    };
    let (forward, shuffled) = (calibrated(&data()), calibrated(&Shuffled(data())));
    assert_eq!(forward.hash(), shuffled.hash());
    for (a, b) in forward.values().iter().zip(shuffled.values()) {
        assert_eq!(a.sketch.to_bytes(), b.sketch.to_bytes());
        assert_eq!(a.channels, b.channels);
    }
}

/// Samples in another order.
struct Shuffled(Dataset);

impl Samples for Shuffled {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        // 5 and 12 have no common factor.
        self.0.get((index * 5 + 3) % SAMPLES)
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
fn moving_averages_need_the_extremes_of_each_sample_and_then_no_order_of_work() {
    let dir = workplace();
    let data = "--data calibration.npz --samples 9";
    squint(&dir, &format!("calibrate digits.onnx {data} -o forgot.stats"));
    let refused = squint(&dir, "quantize digits.onnx -o q.onnx --stats forgot.stats --method moving-average");
    assert!(said(&refused).contains("calibrate with `--keep-extremes`"), "{}", said(&refused));
    for i in 0..2 {
        squint(&dir, &format!("calibrate digits.onnx {data} --keep-extremes --shard {i}/2 -o {i}.stats"));
    }
    squint(&dir, "stats merge 1.stats 0.stats -o merged.stats");
    squint(&dir, &format!("calibrate digits.onnx {data} --keep-extremes -o one.stats"));
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("merged.stats"), bytes("one.stats"));
    let refused = squint(&dir, "stats merge 0.stats forgot.stats -o m.stats");
    assert!(
        said(&refused).contains("only one of them has the extremes of each sample"),
        "{}",
        said(&refused)
    );
    let plan = |by: &str| {
        let words = format!("explain digits.onnx --plan --method moving-average:0.5 {by}");
        String::from_utf8(squint(&dir, &words).stdout).unwrap()
    };
    let ranges = |text: String| {
        let found =
            text.split('[').filter_map(|x| x.strip_prefix("moving-average:0.5 ")).map(|x| x.to_owned());
        found.collect::<String>()
    };
    let from_stats = ranges(plan("--stats one.stats"));
    assert!(!from_stats.is_empty());
    assert_eq!(ranges(plan(&format!("{data} --threads 3"))), from_stats);
}

#[test]
fn plans_are_tried_on_data_besides_statistics() {
    let dir = workplace();
    squint(&dir, "calibrate digits.onnx --data calibration.npz -o d.stats");
    let alone = squint(&dir, "quantize digits.onnx -o a.onnx --stats d.stats");
    assert!(said(&alone).contains("without data no plan is tried"), "{}", said(&alone));
    let both = squint(&dir, "quantize digits.onnx -o b.onnx --stats d.stats --data calibration.npz");
    assert!(!said(&both).contains("without data"), "{}", said(&both));
    // What is tried takes time, which the report of the stages shows.
    let tried = |words: &str| {
        let done =
            squint(&dir, &format!("quantize digits.onnx -o c.onnx --summary json --stats d.stats {words}"));
        String::from_utf8(done.stdout).unwrap().contains("\"refine\"")
    };
    assert!(tried("--data calibration.npz") && !tried(""));
}

#[test]
fn ranges_of_other_tools_are_taken_as_they_are() {
    let dir = workplace();
    squint(&dir, "calibrate digits.onnx --data calibration.npz -o d.stats");
    for (format, file) in [("trt", "d.cache"), ("ort", "d.json")] {
        squint(&dir, &format!("stats export d.stats --format {format} --method minmax -o {file}"));
        let done = squint(&dir, &format!("quantize digits.onnx -o q.onnx --cache {file}"));
        assert!(done.status.success(), "{}", said(&done));
        assert!(!said(&done).contains("contractions in integers  0/7"), "{}", said(&done));
    }
    let plan = |by: &str| squint(&dir, &format!("explain digits.onnx --plan {by}")).stdout;
    assert_eq!(plan("--cache d.json"), plan("--stats d.stats --method minmax"));
    std::fs::write(dir.path().join("other.json"), r#"{"z": {"lowest": 0, "highest": 1}}"#).unwrap();
    let refused = squint(&dir, "quantize digits.onnx -o q.onnx --cache other.json");
    assert!(said(&refused).contains("`other.json` is of another model"), "{}", said(&refused));
    let refused = squint(&dir, "quantize digits.onnx -o q.onnx --cache d.stats");
    assert!(said(&refused).starts_with("error: cannot read"), "{}", said(&refused));
}

#[test]
fn what_the_embedded_executor_cannot_run_names_the_operator_and_the_other_executor() {
    let dir = workplace();
    let model = "<ir_version: 8, opset_import: [\"\" : 17, \"com.acme\" : 1]>\
                 g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}>\
                 { [twist] t = com.acme.Twist (x) y = Gemm (t, w) }";
    std::fs::write(dir.path().join("t.onnxtxt"), model).unwrap();
    std::fs::write(dir.path().join("x.bin"), [0; 16]).unwrap();
    let refused = squint(&dir, "quantize t.onnxtxt -o q.onnx --data x.bin");
    let why = said(&refused);
    assert!(why.contains("tract cannot run this model: `twist` (com.acme::Twist)"), "{why}");
    assert!(why.contains("help: `--runtime onnxruntime` runs the float model"), "{why}");
    let refused =
        squint(&dir, "quantize t.onnxtxt -o q.onnx --data x.bin --runtime-library none/libonnxruntime.so");
    assert!(
        said(&refused).contains("was not found; looked in `none/libonnxruntime.so`"),
        "{}",
        said(&refused)
    );
    let refused = squint(&dir, "quantize t.onnxtxt -o q.onnx --data x.bin --runtime-library x.bin");
    assert!(said(&refused).starts_with("error: cannot use `x.bin`: "), "{}", said(&refused));
    assert!(!dir.path().join("q.onnx").exists());
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

#[test]
fn channels_are_measured_where_asked_and_shown() {
    let dir = workplace();
    let data = "--data calibration.npz --samples 5 --every-element";
    let refused = squint(&dir, &format!("calibrate digits.onnx {data} --per-channel none -o c.stats"));
    assert!(said(&refused).contains("`none` fits no value that is measured"), "{}", said(&refused));
    squint(&dir, &format!("calibrate digits.onnx {data} -o plain.stats"));
    for i in 0..2 {
        squint(&dir, &format!("calibrate digits.onnx {data} --per-channel * --shard {i}/2 -o {i}.stats"));
    }
    squint(&dir, "stats merge 1.stats 0.stats -o merged.stats");
    squint(&dir, &format!("calibrate digits.onnx {data} --per-channel * -o one.stats"));
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("merged.stats"), bytes("one.stats"));
    let refused = squint(&dir, "stats merge 0.stats plain.stats -o m.stats");
    assert!(said(&refused).contains("only one of them has the channels of"), "{}", said(&refused));

    let shown = |words: &str| String::from_utf8(squint(&dir, words).stdout).unwrap();
    let lines = shown("stats show one.stats --per-channel").lines().count();
    assert!(lines > 20 + shown("stats show one.stats").lines().count());
    let report: serde_json::Value =
        serde_json::from_str(&shown("stats show one.stats --per-channel --format json")).unwrap();
    for value in report["values"].as_array().unwrap() {
        let channels = value["channels"]["of"].as_array().unwrap();
        let axis = value["channels"]["axis"].as_u64().unwrap() as usize;
        assert_eq!(channels.len() as u64, value["dims"][axis].as_u64().unwrap(), "{}", value["name"]);
        // Each element is counted in one channel.
        let sum = |key: &str| channels.iter().map(|c| c[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!(
            (sum("finite"), sum("zeros")),
            (value["finite"].as_u64().unwrap(), value["zeros"].as_u64().unwrap())
        );
        let greatest = channels.iter().filter_map(|c| c["max"].as_f64()).fold(f64::MIN, f64::max);
        assert_eq!(Some(greatest), value["max"].as_f64());
    }
    let note = squint(&dir, "stats show plain.stats --per-channel");
    assert!(said(&note).starts_with("note: no channels"), "{}", said(&note));
    // What is quantized does not depend on it.
    squint(&dir, "quantize digits.onnx --stats one.stats -o a.onnx");
    squint(&dir, "quantize digits.onnx --stats plain.stats -o b.onnx");
    assert_eq!(bytes("a.onnx"), bytes("b.onnx"));
}

#[test]
fn texts_are_calibration_data_with_a_tokenizer() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    // A vocabulary of three words; each is a row of the embedding.
    write(
        "tokenizer.json",
        r#"{"pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "unk_token": "?",
            "vocab": {"?": 0, "red": 1, "green": 2, "[PAD]": 3}}}"#,
    );
    let model = |length: &str| {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (int64[N,{length}] input_ids, int64[N,{length}] attention_mask) \
             => (float[N,{length},2] y) <float[4,2] e = {{0, 0, 1, 10, 2, 20, 3, 30}}, float[2,2] w = {{1, 2, 3, 4}}, int64[1] a = {{-1}}> \
             {{ h = Gather (e, input_ids) m = Cast <to = 1> (attention_mask) u = Unsqueeze (m, a) p = Mul (h, u) y = MatMul (p, w) }}"
        )
    };
    write("m.onnxtxt", &model("S"));
    write("fixed.onnxtxt", &model("3"));
    write("t.txt", "red red red red\n\nblue\r\nred green\n");
    write("t.jsonl", "{\"text\": \"red green\"}\n{\"text\": \"blue\", \"label\": 1}\n");
    // Tokens of the first text.
    let tokens = |words: &str| {
        let done = squint(&dir, &format!("calibrate {words} --tokenizer tokenizer.json -o s.stats"));
        assert!(done.status.success(), "{}", said(&done));
        let shown = squint(&dir, "stats show s.stats --format json").stdout;
        let report: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        report["values"][0]["dims"][1].as_u64()
    };
    assert_eq!(tokens("m.onnxtxt --data t.txt"), Some(4));
    assert_eq!(tokens("m.onnxtxt --data t.txt --max-length 3"), Some(3));
    assert_eq!(tokens("fixed.onnxtxt --data t.txt"), Some(3));
    assert_eq!(tokens("m.onnxtxt --data t.jsonl"), Some(2));
    assert_eq!(tokens("fixed.onnxtxt --data t.jsonl"), Some(3));
    let done = squint(&dir, "calibrate m.onnxtxt --data t.txt --tokenizer tokenizer.json -o m.stats");
    assert!(said(&done).contains("on 3 of 3 samples"), "{}", said(&done));
    let shown = String::from_utf8(squint(&dir, "stats show m.stats").stdout).unwrap();
    assert!(shown.contains("input_ids, attention_mask: --tokenizer tokenizer.json (WordLevel)"), "{shown}");

    let refused = |words: &str| said(&squint(&dir, &format!("calibrate m.onnxtxt -o n.stats {words}")));
    assert!(refused("--data t.jsonl").contains("--tokenizer tokenizer.json"));
    assert!(refused("--data t.txt --tokenizer none.json").contains("tokenizer `none.json` cannot be read"));
    write("bad.jsonl", "{\"text\": \"red\"}\n{\"txt\": 1}\n");
    let why = refused("--data bad.jsonl --tokenizer tokenizer.json");
    assert!(why.contains("`bad.jsonl` line 2 has no field `text`"), "{why}");
    write("empty.txt", "\n \n");
    assert!(refused("--data empty.txt --tokenizer tokenizer.json").contains("`empty.txt` holds no text"));
    write("odd.json", r#"{"model": {"type": "WordLevel", "vocab": {}}, "normalizer": {"type": "Nmt"}}"#);
    let why = refused("--data t.txt --tokenizer odd.json");
    assert!(why.contains("its normalizer `Nmt` is not supported"), "{why}");
    assert!(refused("--data x.npz --max-length 4").contains("--tokenizer"));
}

#[test]
fn methods_of_weights_and_constraints_reach_the_model() {
    let dir = workplace();
    squint(&dir, "calibrate digits.onnx --data calibration.npz -o d.stats");
    let made = |flags: &str| {
        let done = squint(&dir, &format!("quantize digits.onnx --stats d.stats -o q.onnx {flags}"));
        assert!(done.status.success(), "{}", said(&done));
        std::fs::read(dir.path().join("q.onnx")).unwrap()
    };
    let plain = made("");
    for flags in [
        "--weight-method entropy",
        "--weight-method lp:2.4",
        "--weight-method mse",
        "--weight-method auto",
        "--weight-method percentile:99",
        "--narrow-range",
        "--power-of-two",
        "--min-range 64",
    ] {
        let bytes = made(flags);
        assert_ne!(bytes, plain, "{flags}");
        // The recipe in the model makes it again.
        std::fs::write(dir.path().join("first.onnx"), &bytes).unwrap();
        assert_eq!(made("--config first.onnx"), bytes, "{flags}");
    }
    let refused = squint(&dir, "quantize digits.onnx --stats d.stats -o q.onnx --weight-method mean-minmax");
    assert!(said(&refused).contains("is over samples"), "{}", said(&refused));
}

#[test]
fn large_samples_are_thinned_to_the_same_bytes_and_told_from_those_counted_whole() {
    let dir = workplace();
    let model = r#"<ir_version: 10, opset_import: ["" : 21]>
g (float[1,2,160,160] x) => (float[1,2,160,160] y) <float[2,2,1,1] w = {1.0, 0.5, -0.5, 2.0}> { y = Conv (x, w) }"#;
    std::fs::write(dir.path().join("m.onnxtxt"), model).unwrap();
    std::fs::create_dir(dir.path().join("raw")).unwrap();
    for i in 0..5 {
        let element = |j: usize| ((j * (2 * i + 3)) as f32 * 0.001).sin() * (i + 1) as f32;
        let bytes: Vec<u8> = (0..2 * 160 * 160).flat_map(|j| element(j).to_le_bytes()).collect();
        std::fs::write(dir.path().join(format!("raw/{i}.bin")), bytes).unwrap();
    }
    let measure = |words: &str| squint(&dir, &format!("calibrate m.onnxtxt --data raw {words}"));
    for i in 0..3 {
        measure(&format!("--shard {i}/3 --threads {} -o {i}.stats", i + 1));
    }
    squint(&dir, "stats merge 2.stats 0.stats 1.stats -o merged.stats");
    measure("-o one.stats");
    measure("--every-element -o every.stats");
    measure("--every-element --shard 0/3 -o every0.stats");
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("merged.stats"), bytes("one.stats"));
    let refused = squint(&dir, "stats merge every0.stats 1.stats 2.stats -o m.stats");
    assert!(said(&refused).contains("only one of them counts every element"), "{}", said(&refused));

    let shown = |name: &str| {
        let shown = squint(&dir, &format!("stats show {name} --format json")).stdout;
        serde_json::from_slice::<serde_json::Value>(&shown).unwrap()
    };
    let (thinned, every) = (shown("one.stats"), shown("every.stats"));
    assert_eq!((&thinned["counted"], &every["counted"]), (&"thinned".into(), &"every".into()));
    for (a, b) in thinned["values"].as_array().unwrap().iter().zip(every["values"].as_array().unwrap()) {
        for exact in ["name", "finite", "non_finite", "min", "max"] {
            assert_eq!(a[exact], b[exact]);
        }
        assert_ne!(a["mean_square"], b["mean_square"]);
        let quantile = |v: &serde_json::Value| v["quantiles"]["99.9%"].as_f64().unwrap();
        assert!((quantile(a) / quantile(b) - 1.0).abs() < 0.01, "{a} {b}");
    }
}
