//! The command line: what users see, word for word. Snapshots in `snapshots/cli` are transcripts.

use squint::ir::text;
use squint::{Config, DataOptions, Dataset, Samples};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A classifier of four numbers: one contraction, which integers suit.
pub(crate) const MODEL: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
classifier (float[N,4] x) => (float[N,2] y)
<float[4,2] w = {0.5, -0.25, 0.125, 1, -1, 0.75, 0.375, -0.5}, float[2] b = {0.1, -0.2}>
{
  [fc] y = Gemm (x, w, b)
}
"#;

/// A folder in which commands are run and what they said is written down.
pub(crate) struct Shell {
    pub(crate) dir: TempDir,
    transcript: String,
}

impl Shell {
    pub(crate) fn new() -> Shell {
        let shell = Shell { dir: TempDir::new().unwrap(), transcript: String::new() };
        shell.write("m.onnxtxt", MODEL.as_bytes());
        shell
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `squint` with these words; returns standard output.
    pub(crate) fn run(&mut self, words: &str) -> String {
        let mut squint = Command::new(env!("CARGO_BIN_EXE_squint"));
        // What is said must not depend on this machine's processor.
        squint.env("SQUINT_TARGET", "cpu-vnni").current_dir(self.dir.path());
        let done = squint.args(words.split_whitespace()).output().unwrap();
        let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        let code = done.status.code().map_or("none".into(), |c| c.to_string());
        writeln!(self.transcript, "$ squint {words}").unwrap();
        for (stream, text) in [("stdout", &out), ("stderr", &err)] {
            if !text.is_empty() {
                writeln!(self.transcript, "--- {stream}\n{}", text.trim_end()).unwrap();
            }
        }
        writeln!(self.transcript, "--- exit {code}\n").unwrap();
        out
    }

    /// Compares the transcript.
    pub(crate) fn check(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots/cli"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.add_filter(r"[0-9.]+ s \(load.*\)", "[TIME]");
        settings.add_filter(r#"("[a-z-]+"|"seconds"): [0-9.e-]+(,?)\n"#, "$1: [NUMBER]$2\n");
        settings.bind(|| insta::assert_snapshot!(name, self.transcript.trim_end()));
    }
}

/// An `.npz` archive of one little-endian array.
pub(crate) fn npz(key: &str, descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    array.extend(data);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(format!("{key}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&array).unwrap();
    zip.finish().unwrap().into_inner()
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Eight samples for `MODEL`.
pub(crate) fn samples() -> Vec<u8> {
    let values: Vec<f32> = (0..32u16).map(|i| f32::from(i * 37 % 64) / 32.0 - 1.0).collect();
    npz("x", "<f4", "(8, 4)", &floats(&values))
}

pub(crate) fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

#[test]
fn without_data() {
    let mut shell = Shell::new();
    let text = MODEL
        .replace("[4,2]", "[64,64]")
        .replace("float[N,4]", "float[N,64]")
        .replace("float[N,2]", "float[N,64]");
    let weight = text.find("= {0.5").zip(text.find(", float[2] b")).unwrap();
    let text = format!("{}= [\"location\": \"gen:randn?seed=1\"]{}", &text[..weight.0], &text[weight.1..]);
    shell.write(
        "d.onnxtxt",
        text.replace("float[2] b = {0.1, -0.2}", "float[64] b = [\"location\": \"gen:randn?seed=2\"]")
            .as_bytes(),
    );
    shell.run("quantize d.onnxtxt -o d.onnx --scheme dynamic");
    shell.run("inspect d.onnx");
    shell.run("explain d.onnxtxt --scheme dynamic");
    shell.run("quantize d.onnxtxt -o s.onnx --scheme static");
    shell.run("quantize d.onnxtxt -o s.onnx --scheme int8");
    shell.check("without-data");
}

#[test]
fn trace_rule() {
    let mut shell = Shell::new();
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x, float[1,2,1,1] v) => (float[1,2,4,4] y, float[1,2,4,4] z)
<float[2,2,1,1] w = {1, 2, 3, 4}, float[2,1,1] k = {2, 3}, float[4] row = {1, 2, 3, 4}>
{
  a = Conv (x, w)
  b = Mul (a, k)
  c = Conv (b, w)
  d = Mul (c, v)
  e = Conv (d, w)
  y = Mul (e, row)
  z = Mul (x, k)
}
"#;
    shell.write("chain.onnxtxt", text.as_bytes());
    shell.run("optimize chain.onnxtxt --trace-rule fold-scale");
    shell.run("optimize chain.onnxtxt --trace-rule no-such-rule");
    shell.run("optimize chain.onnxtxt");
    shell.check("trace-rule");
}

#[test]
fn help() {
    let mut shell = Shell::new();
    shell.run("--help");
    shell.check("help");
    for command in [
        "quantize",
        "retarget",
        "qat",
        "explain",
        "check",
        "bench",
        "optimize",
        "inspect",
        "print",
        "diff",
        "convert",
        "run-passes",
        "calibrate",
        "stats",
        "compare",
        "evaluate",
        "sensitivity",
        "tune",
        "run",
    ] {
        let mut shell = Shell::new();
        shell.run(&format!("{command} --help"));
        shell.check(&format!("help-{command}"));
    }
}

#[test]
fn a_model_is_quantized() {
    let mut shell = Shell::new();
    for name in ["digits.onnx", "calibration.npz"] {
        std::fs::copy(quickstart(name), shell.path(name)).unwrap();
    }
    shell.run("quantize digits.onnx -o q.onnx --data calibration.npz --samples 8");
    shell.run("inspect q.onnx --check");
    shell.check("quantize");
}

#[test]
fn what_becomes_of_each_operator_is_explained() {
    let mut shell = Shell::new();
    for name in ["digits.onnx", "calibration.npz"] {
        std::fs::copy(quickstart(name), shell.path(name)).unwrap();
    }
    shell.run(
        "explain digits.onnx --data calibration.npz --samples 8 --keep-float depth* --keep-float nothing",
    );
    shell.check("explain");
}

/// Two convolutions between conversions: one whose Relu is absorbed, one whose Relu is not; and a function without
/// kernel.
const QUANTIZED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<
  float s = {0.05}, uint8 z = {128}, uint8 zero = {0}, float ws = {0.01}, int8 wz = {0},
  int8[4,4,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
>
{
  [q0] xq = QuantizeLinear (x, s, z)
  [d0] xd = DequantizeLinear (xq, s, z)
  [wd] wd = DequantizeLinear (w, ws, wz)
  [conv1] c1 = Conv (xd, wd)
  [relu1] r1 = Relu (c1)
  [q1] q1 = QuantizeLinear (r1, s, zero)
  [d1] d1 = DequantizeLinear (q1, s, zero)
  [conv2] c2 = Conv (d1, wd)
  [relu2] r2 = Relu (c2)
  [q2] q2 = QuantizeLinear (r2, s, z)
  [d2] d2 = DequantizeLinear (q2, s, z)
  [tanh] y = Tanh (d2)
}
"#;

#[test]
fn what_becomes_of_a_quantized_model_is_explained_and_checked() {
    let mut shell = Shell::new();
    shell.write("q.onnxtxt", QUANTIZED.as_bytes());
    shell.write(
        "ok.onnxtxt",
        QUANTIZED.replace("(r2, s, z)", "(r2, s, zero)").replace("(q2, s, z)", "(q2, s, zero)").as_bytes(),
    );
    shell.run("explain q.onnxtxt --target cpu-vnni");
    shell.run("check q.onnxtxt --target cpu-vnni");
    shell.run("check ok.onnxtxt --target cpu-vnni --min-integer 90");
    shell.run("check m.onnxtxt --target cpu-vnni");
    shell.run("check ok.onnxtxt --min-integer 101");
    shell.check("check");
    let mut shell = Shell::new();
    shell.write("q.onnxtxt", QUANTIZED.as_bytes());
    let json = shell.run("check q.onnxtxt --target cpu-vnni --format json");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["kernels"]["QLinearConv"], 1);
    assert_eq!(value["findings"].as_array().unwrap().len(), 1);
}

#[test]
fn benchmarks_need_a_runtime() {
    let mut shell = Shell::new();
    shell.run("bench m.onnxtxt m.onnxtxt --python no-such-python");
    shell.run("bench m.onnxtxt m.onnxtxt --dim N");
    shell.check("bench-errors");
}

#[test]
fn what_the_executor_does_not_run_stays_in_float_with_all_that_follows() {
    // `d` is of a type that tract does not have; `fc2` reads what follows from it.
    let weights: Vec<String> = (0..256).map(|i| format!("{}", (i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
    let deep = r#"<ir_version: 8, opset_import: ["" : 17]>
deep (float[N,16] x, float[1,3,3] m) => (float[N,16] y, float[1] volume, float[N,16] z)
<float[16,16] w = {WEIGHTS}, float[16,16] v = {WEIGHTS}>
{
  [fc] y = MatMul (x, w)
  [d] volume = Det (m)
  [s] p = Mul (y, volume)
  [fc2] z = MatMul (p, v)
}"#
    .replace("WEIGHTS", &weights.join(", "));
    let mut shell = Shell::new();
    shell.write("deep.onnxtxt", deep.as_bytes());
    let x: Vec<f32> = (0..128).map(|i| (i * 29 % 64) as f32 / 32.0 - 1.0).collect();
    shell.write("x.npz", &npz("x", "<f4", "(8, 16)", &floats(&x)));
    shell.write("m.npz", &npz("m", "<f4", "(1, 3, 3)", &floats(&[0.5; 9])));
    shell.run("quantize deep.onnxtxt -o q.onnx --data x=x.npz --data m=m.npz --target tensorrt");
    shell.run("explain q.onnx --target tensorrt");
    shell.run("calibrate deep.onnxtxt --data x=x.npz --data m=m.npz -o m.stats --target tensorrt");
    shell.run("quantize deep.onnxtxt -o s.onnx --stats m.stats --target tensorrt");
    // Nothing that pays is left.
    shell.write("only.onnxtxt", deep.replace("[fc] y = MatMul (x, w)", "[fc] y = Softmax (x)").as_bytes());
    shell.run("quantize only.onnxtxt -o n.onnx --data x=x.npz --data m=m.npz");
    assert!(!shell.path("n.onnx").exists());
    shell.check("out-of-reach");
}

#[test]
fn a_model_that_suits_integers_nowhere_stays_as_it_is() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    shell.run("quantize m.onnxtxt -o q.onnx --data x.npz");
    shell.check("all-float");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    shell.run("quantize m.onnxtxt -o 1.onnx --data x.npz --threads 1 --quiet");
    shell.run("quantize m.onnxtxt -o 2.onnx --data x.npz --threads 2 --quiet");
    assert_eq!(std::fs::read(shell.path("1.onnx")).unwrap(), std::fs::read(shell.path("2.onnx")).unwrap());
}

#[test]
fn reports_for_programs_are_json() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    let commands = [
        "quantize m.onnxtxt -o q.onnx --data x.npz --summary json",
        "explain m.onnxtxt --data x.npz --format json",
        "inspect m.onnxtxt --check --format json",
    ];
    let reports = commands.map(|c| serde_json::from_str::<serde_json::Value>(&shell.run(c)).unwrap());
    assert_eq!(reports[0]["contractions"]["all"], 1);
    assert_eq!(reports[0]["samples"], 8);
    assert_eq!(reports[0]["nodes"], reports[1]["nodes"]);
    assert_eq!(reports[2]["inputs"][0]["type"], "float[N,4]");
    assert_eq!(reports[2]["violations"], serde_json::json!([]));
}

#[test]
fn passes_run_one_by_one_and_are_dumped() {
    let mut shell = Shell::new();
    let relu_of_identity = "#! passes = [\"canonicalize\"]\n<ir_version: 8, opset_import: [\"\" : 17]>\n\
        g (float[2] x) => (float[2] y) { a = Identity (x) y = Relu (a) }";
    shell.write("f.onnxtxt", relu_of_identity.as_bytes());
    shell.run("run-passes f.onnxtxt");
    shell.run("run-passes f.onnxtxt --passes no-such-pass");
    shell.run("run-passes m.onnxtxt");
    shell.write("x.npz", &samples());
    shell.run("quantize m.onnxtxt -o q.onnx --data x.npz --dump-ir dump --quiet");
    let mut dumped: Vec<_> =
        std::fs::read_dir(shell.path("dump")).unwrap().map(|e| e.unwrap().path()).collect();
    dumped.sort();
    assert!(dumped[0].ends_with("000-imported.onnxtxt") && dumped.len() > 3, "{dumped:?}");
    for path in dumped {
        text::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    }
    shell.check("run-passes");
}

#[test]
fn statistics_are_shown_merged_and_exported() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    shell.run("calibrate m.onnxtxt --data x.npz -o m.stats");
    shell.run("calibrate m.onnxtxt --data x.npz -o 0.stats --shard 0/2");
    shell.run("stats show m.stats");
    shell.run("stats show 0.stats --top 1");
    shell.run("stats merge 0.stats m.stats -o merged.stats");
    shell.run("stats export m.stats --format trt --method minmax -o m.cache");
    let cache = std::fs::read_to_string(shell.path("m.cache")).unwrap();
    assert!(cache.starts_with("TRT-8601-MinMaxCalibration\nx: "), "{cache}");
    shell.run("stats export m.stats --format ort -o m.json");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(shell.path("m.json")).unwrap()).unwrap();
    assert_eq!(json["data"]["x"]["lowest"], -1.0);
    shell.run("quantize m.onnxtxt -o q.onnx --stats m.stats --power-of-two --min-range 0.5");
    shell.run("quantize m.onnxtxt -o q.onnx --stats m.stats --min-range inf");
    shell.run("calibrate m.onnxtxt --data x.npz -o m.stats --shard 2/2");
    shell.check("stats");
}

#[test]
fn text_and_protobuf_are_the_same_model() {
    let mut shell = Shell::new();
    shell.run("optimize m.onnxtxt -o o.onnx");
    let text = shell.run("print o.onnx --full");
    shell.run("print m.onnxtxt --elide 4");
    assert!(text::parse(&text).is_ok());
    shell.check("print");
}

#[test]
fn differences_are_shown() {
    let mut shell = Shell::new();
    let other = MODEL
        .replace("0.375, -0.5", "0.375, 0.5")
        .replace("[fc] y = Gemm (x, w, b)", "h = Gemm (x, w, b) y = Relu (h)");
    shell.write("other.onnxtxt", other.as_bytes());
    shell.run("convert m.onnxtxt -o same.onnx");
    shell.run("diff m.onnxtxt same.onnx");
    shell.run("diff m.onnxtxt other.onnxtxt");
    shell.run("diff m.onnxtxt other.onnxtxt --format json --context 0 --elide 2");
    shell.run("diff m.onnxtxt none.onnx");
    shell.check("diff");
}

#[test]
fn what_text_cannot_say_is_a_difference_too() {
    let mut shell = Shell::new();
    let mut model = text::parse(MODEL).unwrap();
    let op = model.main().ops().next().unwrap();
    model.main_mut().op_mut(op).doc = "the classifier".into();
    squint::save(&model, &shell.path("doc.onnx")).unwrap();
    shell.run("diff m.onnxtxt doc.onnx --context 0");
    shell.run("convert doc.onnx -o doc.onnxtxt");
    shell.run("diff m.onnxtxt doc.onnxtxt");
    shell.check("diff-unprinted");
}

#[test]
fn weights_move_out_of_the_model_and_back() {
    let mut shell = Shell::new();
    std::fs::copy(quickstart("digits.onnx"), shell.path("digits.onnx")).unwrap();
    std::fs::create_dir(shell.path("apart")).unwrap();
    shell.run("convert digits.onnx -o apart/d.onnx --external-data always");
    assert!(shell.path("apart/d.onnx.data").exists());
    std::fs::create_dir(shell.path("kept")).unwrap();
    shell.run("convert apart/d.onnx -o kept/other.onnx --external-data keep");
    for (a, b) in [("apart/d.onnx", "kept/other.onnx"), ("apart/d.onnx.data", "kept/d.onnx.data")] {
        assert!(std::fs::read(shell.path(a)).unwrap() == std::fs::read(shell.path(b)).unwrap(), "{b}");
    }
    shell.write("taken/d.onnx.data", b"of another model");
    shell.run("convert apart/d.onnx -o taken/other.onnx --external-data keep");
    shell.run("convert apart/d.onnx -o back.onnx --external-data never");
    shell.run("diff digits.onnx back.onnx");
    assert!(!shell.path("back.onnx.data").exists());
    let moved = std::fs::read(shell.path("apart/d.onnx")).unwrap();
    shell.write("other/d.onnx", &moved);
    #[cfg(unix)]
    std::os::unix::fs::symlink("../apart/d.onnx.data", shell.path("other/d.onnx.data")).unwrap();
    shell.run("diff digits.onnx other/d.onnx");
    shell.run("diff digits.onnx other/d.onnx --allow-external-anywhere");
    shell.check("external-data");
}

#[test]
fn types_are_inferred() {
    let mut shell = Shell::new();
    let model = "<ir_version: 8, opset_import: [\"\" : 17]>\n\
        g (float[N,4] x) => (y, z) <int64[1] axes = {1}> { t = Unsqueeze (x, axes) y = Relu (t) z = Unheard (y) }";
    shell.write("t.onnxtxt", model.as_bytes());
    shell.run("print t.onnxtxt --facts");
    shell.run("inspect t.onnxtxt --types");
    shell.run("inspect t.onnxtxt --types --format json");
    shell.check("types");
}

#[test]
fn pictures_are_preprocessed() {
    let mut shell = Shell::new();
    let model = quickstart("digits.onnx");
    let images = quickstart("calibration-images");
    for (words, fits) in [
        ("", true),
        ("--resize 40 --crop 32x32", true),
        ("--resize 28", false),
        ("--preset yolo", false),
        ("--preset yolo --channels gray", true),
        ("--preset imagenet --crop 32x32 --channels gray --mean 0.5 --std 0.25", true),
        ("--resize 32x32 --letterbox 32x32", false),
    ] {
        let words = format!(
            "quantize {} -o q.onnx --data {} --samples 1 --quiet {words}",
            model.display(),
            images.display()
        );
        shell.run(&words);
        assert_eq!(shell.path("q.onnx").exists(), fits, "{}", shell.transcript);
        let _ = std::fs::remove_file(shell.path("q.onnx"));
    }
}

#[test]
fn pictures_and_arrays_of_the_same_values_give_the_same_bytes() {
    let quantized = |data: &str| {
        let mut model = squint::load(&quickstart("digits.onnx")).unwrap();
        let data = Dataset::open(&model, &DataOptions::new([quickstart(data).to_str().unwrap()])).unwrap();
        assert_eq!(data.len(), 64);
        squint::quantize(&mut model, &data, &Config::new("cpu-vnni")).unwrap();
        squint_proto::encode(&model).unwrap()
    };
    assert!(quantized("calibration-images") == quantized("calibration.npz"));
}

#[test]
fn what_was_done_to_pictures_is_recorded() {
    let mut shell = Shell::new();
    let (model, images) = (quickstart("digits.onnx"), quickstart("calibration-images"));
    let (model, images) = (model.display(), images.display());
    shell.run(&format!(
        "quantize {model} -o q.onnx --data {images} --samples 1 --quiet --preset yolo --channels gray"
    ));
    let model = squint::load(&shell.path("q.onnx")).unwrap();
    let record = model.metadata.iter().find(|(key, _)| key == "squint.preprocessing").unwrap();
    assert_eq!(record.1, "image: --letterbox 32x32,center,114 --channels gray --layout nchw --scale 1/255");
}

/// A convolution of another tool's making: signed grids, a bias of 32 bits, and a skip connection that no quantizer covers.
const SIGNED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
quantized (float[1,16,8,8] x) => (float[1,16,8,8] y)
<
  float s = {0.1}, int8 z = {-28}, int8 middle = {0}, float ws = {0.01}, float bs = {0.001}, int32[16] b = ["location": "gen:fill?value=7"],
  int8[16,16,3,3] w = ["location": "gen:fill?value=3"]
>
{
  xq = QuantizeLinear (x, s, z)
  xf = DequantizeLinear (xq, s, z)
  wf = DequantizeLinear (w, ws)
  bf = DequantizeLinear (b, bs)
  [first] c = Conv <pads = [1, 1, 1, 1]> (xf, wf, bf)
  r = Relu (c)
  rq = QuantizeLinear (r, s, middle)
  rf = DequantizeLinear (rq, s, middle)
  [second] d = Conv <pads = [1, 1, 1, 1]> (rf, wf)
  a = Add (d, xf)
  aq = QuantizeLinear (a, s, middle)
  y = DequantizeLinear (aq, s, middle)
}
"#;

#[test]
fn quantized_models_go_to_other_runtimes() {
    let mut shell = Shell::new();
    shell.write("q.onnxtxt", SIGNED.as_bytes());
    shell.run("quantize q.onnxtxt -o out.onnx --scheme dynamic");
    shell.run("retarget q.onnxtxt -o cpu.onnxtxt --target cpu-vnni");
    shell.run("retarget q.onnxtxt -o trt.onnxtxt --target tensorrt");
    shell.run("check trt.onnxtxt --target tensorrt");
    shell.run("qat convert q.onnxtxt -o out.onnx --target cpu-vnni --summary json --quiet");
    shell.run("retarget m.onnxtxt -o out.onnx");
    shell.check("retarget");
}
