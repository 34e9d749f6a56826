//! What the command line says of bad input, and that it leaves nothing behind.

use crate::cli::{MODEL, Shell, floats, npz, quickstart, samples};
use squint::ir::text;
use squint_proto::{External, SaveOptions};

#[test]
fn models_that_are_none() {
    let mut shell = Shell::new();
    let digits = std::fs::read(quickstart("digits.onnx")).unwrap();
    shell.write("truncated.onnx", &digits[..digits.len() / 2]);
    shell.write("text.onnx", b"this is no model\n");
    shell.write("empty.onnx", b"");
    std::fs::create_dir(shell.path("folder.onnx")).unwrap();
    shell.write("syntax.onnxtxt", MODEL.replace("Gemm (x, w, b)", "Gemm (x, w, b").as_bytes());
    shell.write("cycle.onnx", &cyclic(&[]));
    shell.write("broken.onnx", &cyclic(&broken_parts()));
    let mut model = text::parse(MODEL).unwrap();
    let weights = squint::ir::Tensor::from_f32(&[512, 2], &[0.5; 1024]);
    model.main_mut().add_const("unused", weights);
    let external = SaveOptions { external: External::Always };
    squint_proto::save(&model, &shell.path("external.onnx"), &external).unwrap();
    std::fs::remove_file(shell.path("external.onnx.data")).unwrap();
    shell.write("x.npz", &samples());
    for name in ["none", "truncated", "folder", "text", "empty", "cycle", "external", "broken"] {
        shell.run(&format!("quantize {name}.onnx -o q.onnx --data x.npz"));
    }
    shell.run("inspect cycle.onnx --check");
    shell.run("inspect broken.onnx --check");
    let contradiction = MODEL.replace("float[N,4] x", "float[N,5] x");
    shell.write("contradiction.onnxtxt", contradiction.as_bytes());
    shell.run("inspect contradiction.onnxtxt --check");
    shell.run("print syntax.onnxtxt");
    assert!(!shell.path("q.onnx").exists());
    shell.check("model-errors");
}

#[test]
fn data_that_does_not_fit() {
    let mut shell = Shell::new();
    shell.write("shape.npz", &npz("x", "<f4", "(2, 3)", &floats(&[0.0; 6])));
    shell.write("type.npz", &npz("x", "|u1", "(2, 4)", &[0; 8]));
    shell.write("name.npz", &npz("y", "<f4", "(1, 4)", &floats(&[0.0; 4])));
    shell.write(
        "nan.npz",
        &npz("x", "<f4", "(2, 4)", &floats(&[f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])),
    );
    shell.write(
        "late-nan.npz",
        &npz("x", "<f4", "(2, 4)", &floats(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0])),
    );
    let good = samples();
    shell.write("truncated.npz", &good[..good.len() / 2]);
    shell.write("notes.md", b"");
    shell.write("empty.txt", b"# nothing\n");
    shell.write("list.txt", b"shape.npz\nnone.png\n");
    shell.write("short.bin", &[0; 15]);
    shell.write("none.safetensors", b"no such header");
    shell.write("none.pb", &[0xff; 4]);
    std::fs::copy(quickstart("calibration-images/00-digit-2.png"), shell.path("picture.png")).unwrap();
    shell.run("quantize m.onnxtxt -o q.onnx");
    for name in [
        "none.npz",
        "shape.npz",
        "type.npz",
        "name.npz",
        "nan.npz",
        "late-nan.npz",
        "truncated.npz",
        "notes.md",
        "empty.txt",
        "list.txt",
        "short.bin",
        "none.safetensors",
        "none.pb",
        "picture.png",
    ] {
        shell.run(&format!("quantize m.onnxtxt -o q.onnx --data {name}"));
    }
    shell.run("quantize m.onnxtxt -o q.onnx --data z=nan.npz");
    shell.run("quantize m.onnxtxt -o q.onnx --data picture.png --preset resnet");
    shell.run("quantize m.onnxtxt -o q.onnx --data picture.png --letterbox 640");
    assert!(!shell.path("q.onnx").exists());
    shell.check("data-errors");
}

#[test]
fn numbers_that_a_target_lacks() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    for options in [
        "--target cpu-vnni --compute float16",
        "--target tensorrt-8.6 --compute bfloat16",
        "--target tensorrt-8.6 --quantize-to fp8",
        "--target arm64 --quantize-to fp8",
        "--target tensorrt-10 --quantize-to fp8 --scheme dynamic",
        "--target cpu-vnni --block-size 32",
        "--target cpu-vnni --weight-rounding gptq",
        "--target cpu-vnni --scheme weight-only --weight-rounding rtn",
        "--target cpu-vnni --scheme weight-only --weight-rounding awq --block-size 4096",
        "--target cpu-vnni --scheme weight-only --block-size 48",
        "--target cpu-vnni --scheme weight-only --weight-bits 3",
        "--target cpu-vnni --scheme weight-only --table-bits 16",
        "--target cpu-vnni --table-bits 8",
        "--target cpu-vnni --scheme weight-only --weight-method entropy",
        "--target tensorrt --scheme weight-only --block-size 32",
        "--target tensorrt --scheme weight-only --weight-bits 8",
        "--target tensorrt --scheme weight-only --weight-bits 2",
        "--target tensorrt --scheme weight-only --table-bits 4",
        "--target tensorrt-8.6 --scheme weight-only",
    ] {
        shell.run(&format!("quantize m.onnxtxt -o q.onnx --data x.npz {options}"));
    }
    shell.run("qat export m.onnxtxt -o q.onnx --data x.npz --scheme weight-only");
    shell.run("quantize m.onnxtxt -o q.onnx --target cpu-vnni --scheme weight-only --weight-rounding gptq");
    assert!(!shell.path("q.onnx").exists());
    // Nothing to quantize is not an error, and no data is needed.
    shell.run("quantize m.onnxtxt -o q.onnx --target cpu-vnni --scheme weight-only");
    shell.check("numbers-errors");
}

#[test]
fn outputs_that_cannot_be_written() {
    let mut shell = Shell::new();
    shell.write("x.npz", &samples());
    std::fs::create_dir(shell.path("folder")).unwrap();
    shell.run("quantize m.onnxtxt -o none/q.onnx --data x.npz");
    shell.run("quantize m.onnxtxt -o folder --data x.npz");
    shell.run("quantize m.onnxtxt -o m.onnxtxt/q.onnx --data x.npz");
    shell.run("quantize m.onnxtxt -o m.onnxtxt --data x.npz");
    shell.run("optimize m.onnxtxt -o ./m.onnxtxt");
    shell.run("quantize m.onnxtxt -o q.onnx --data x.npz --target no-such-target");
    shell.run("quantize m.onnxtxt -o q.onnx --data x.npz --method median");
    let mut left: Vec<_> =
        std::fs::read_dir(shell.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["folder", "m.onnxtxt", "x.npz"]);
    shell.check("output-errors");
}

/// A field of a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// `output = Add (x, input)`, of the name `name`.
fn add(input: &[u8], output: &[u8], name: &[u8]) -> Vec<u8> {
    field(1, &[field(1, b"x"), field(1, input), field(2, output), field(3, name), field(4, b"Add")].concat())
}

/// Parts of a graph with a constant that is too short, one with a negative length, a name that nothing defines and
/// one that two nodes define.
fn broken_parts() -> Vec<u8> {
    // TensorProto: dims, data_type float, name, raw_data.
    let tensor = |name: &[u8], dim: &[u8]| {
        field(5, &[&[1 << 3], dim, &[2 << 3, 1], &field(8, name)[..], &field(9, &[0; 4])].concat())
    };
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    [
        tensor(b"short", &[2]),
        tensor(b"negative", &negative),
        add(b"missing", b"c", b"c"),
        add(b"c", b"a", b"again"),
    ]
    .concat()
}

/// A model in which `a` and `b` wait for each other, with more parts in its graph. Its bytes are written by hand: no
/// tool makes such a file.
fn cyclic(parts: &[u8]) -> Vec<u8> {
    let node = |input: &[u8], output: &[u8]| add(input, output, output);
    // TensorProto float, shape [1].
    let ty = field(2, &field(1, &[vec![1 << 3, 1], field(2, &field(1, &[1 << 3, 1]))].concat()));
    let value = |number: u8, name: &[u8]| field(number, &[field(1, name), ty.clone()].concat());
    let graph = [
        node(b"b", b"a"),
        node(b"a", b"b"),
        field(2, b"g"),
        parts.to_vec(),
        value(11, b"x"),
        value(12, b"b"),
    ]
    .concat();
    // ir_version 8, the graph, opset 17.
    let length = [graph.len() as u8 | 0x80, (graph.len() >> 7) as u8];
    [&[1 << 3, 8, 7 << 3 | 2], &length[..], &graph, &field(8, &[2 << 3, 17])].concat()
}
