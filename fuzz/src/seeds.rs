//! Writes the seeds of the fuzz targets into `corpus`: small models that use each part of the format once.

use squint_ir::text::{PrintOptions, parse, print};
use std::error::Error;
use std::fs;
use std::path::Path;

/// Models as text; the targets that read protobuf get them encoded.
const MODELS: &[(&str, &str)] = &[
    ("relu", r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }"#),
    (
        "header",
        r#"<ir_version: 10, opset_import: ["" : 21, "com.example" : 1], producer_name: "p", producer_version: "1",
            domain: "d", model_version: 3, doc_string: "doc", metadata_props: ["k": "v"]>
           g (float[N,3,?] x) => (float[N,M] y) <float[N,3] t> { t = com.example.Pool (x) ["last"] y = Flatten (t) }"#,
    ),
    (
        "constants",
        r#"<ir_version: 11, opset_import: ["" : 23]> g (float[2,2] x) => (float[2,2] y)
           <float[2] a = {1.5, -0.0}, int64[3] b = {1, -2, 3}, uint8[2] c = {0, 255}, bool[2] d = {1, 0},
            string[2] e = {"a", "b\"c"}, float16[2] f = {15360, 0}, int4[3] h = {-8, 7, 1}, double[1] i = {2.5},
            float8e4m3fn[2] j = {1, 2}, float6e2m3[5] n = {1, 2, 3, 4, 63}, uint2[5] k = {0, 1, 2, 3, 1}, complex64[1] l = {1, 2}, int32 m = {7}>
           { y = Add (x, a) }"#,
    ),
    (
        "attributes",
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[4,4] x) => (y)
           { t = Foo <f = 1.5, i = -3, s = "text", fs = [1.0, 2.0], is = [1, 2], ss = ["a", "b"], e: ints = [],
                      t = float[2] {1, 2}, ty = seq(float[2])> (x, , x)
             y = Bar <a = 1> (t) }"#,
    ),
    (
        "if",
        r#"<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y)
           { y = If (c) <then_branch = a () => (float[2] p) { p = Neg (x) },
                         else_branch = b () => (float[2] q)
                         { q = If (c) <then_branch = d () => (float[2] r) { r = Abs (x) },
                                       else_branch = e () => (float[2] s) { s = Identity (x) }> }> }"#,
    ),
    (
        "loop",
        r#"<ir_version: 8, opset_import: ["" : 17]> g (int64 n, bool c, float[2] x) => (float[2] y)
           { y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w)
             { k2 = Identity (k) w = Add (v, x) }> }"#,
    ),
    (
        "function",
        r#"<ir_version: 10, opset_import: ["" : 21, "local" : 1]> g (float[N] x) => (float[N] y)
           { y = local.act <alpha = 0.5> (x) }
           <domain: "local", opset_import: ["" : 21], doc_string: "f">
           act <alpha, beta: float = 1.0> (a) => (r) { m = LeakyRelu <alpha: float = @alpha> (a) r = Identity (m) }"#,
    ),
    (
        "types",
        r#"<ir_version: 8, opset_import: ["" : 17]>
           g (seq(float[N]) s, optional(int64) o, map(string, float[]) m, sparse_tensor(float[2]) p, opaque(a.b, C) q, float z)
             => (int64 y) { y = SequenceLength (s) }"#,
    ),
    (
        "names",
        r#"<ir_version: 8, opset_import: ["" : 17]> "a graph" (float["b x"] "in/put:0") => ("out.put") { ["/n/0"] "out.put" = Relu ("in/put:0") }"#,
    ),
    (
        "default",
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float[2] w = {1, 2}) => (y) { y = Add (x, w) }"#,
    ),
];

/// Files of the other readers: name, kind (the number in `KINDS` of `tests/readers.rs`) and contents.
const READERS: &[(&str, u8, &str)] = &[
    (
        "tokenizer",
        4,
        r#"{"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Precompiled",
            "precompiled_charsmap": "BAAAAAAAAAB4AA=="}]}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "always", "split": true}, "model": {"type": "Unigram", "unk_id": 0,
            "vocab": [["<s>", 0.0], ["▁", -2.0], ["e", -3.0]]}}"#,
    ),
    ("tensorrt", 6, "TRT-8601-EntropyCalibration2\nx: 3c010a14\ny: 3f800000\n"),
    (
        "onnxruntime",
        6,
        r#"{"CLS": "TensorsData", "data": {"x": {"lowest": [-1.0], "highest": {"data": [2.5]}, "CLS": "TensorData"}}}"#,
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ["decode", "roundtrip", "text", "readers"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    for (name, text) in MODELS {
        fs::write(corpus.join("text").join(name), text)?;
        match parse(text) {
            Ok(model) => {
                fs::write(
                    corpus.join("text").join(format!("{name}-printed")),
                    print(&model, &PrintOptions::default()),
                )?;
                let bytes = squint_proto::encode(&model)?;
                fs::write(corpus.join("decode").join(name), &bytes)?;
                fs::write(corpus.join("roundtrip").join(name), &bytes)?;
            }
            Err(e) => eprintln!("seed `{name}` is text only: {e}"),
        }
    }
    for (name, kind, text) in READERS {
        fs::write(corpus.join("readers").join(name), [&[*kind], text.as_bytes()].concat())?;
    }
    Ok(())
}
