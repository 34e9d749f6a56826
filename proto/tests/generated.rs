//! `src/onnx.rs` is what prost makes of `proto/onnx-ml.proto`, to the byte.
//!
//! The types are checked in so that building squint needs neither `protoc` nor the generator's 40 crates.
//! With `UPDATE_PROTO=1` in the environment this test rewrites the file instead of comparing it.

use std::path::Path;

/// Prepended to the generated text.
const HEADER: &str = "// @generated from proto/onnx-ml.proto by tests/generated.rs; do not edit.\n\n";

#[test]
fn checked_in_types_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("src/onnx.rs");
    let expected = generate(root);
    if std::env::var_os("UPDATE_PROTO").is_some() {
        std::fs::write(&target, expected).expect("write src/onnx.rs");
        return;
    }
    let found = std::fs::read_to_string(&target).expect("read src/onnx.rs");
    assert!(
        found == expected,
        "src/onnx.rs is stale: run UPDATE_PROTO=1 cargo test -p squint-proto --test generated"
    );
}

/// Runs protox (a protobuf compiler in Rust) and prost-build over the schema.
fn generate(root: &Path) -> String {
    let schema = root.join("proto");
    let descriptors =
        protox::compile([schema.join("onnx-ml.proto")], [&schema]).expect("the schema compiles");
    let out = tempfile::tempdir().expect("temporary folder");
    prost_build::Config::new()
        .out_dir(out.path())
        // Weights stay slices of the input file.
        .bytes(["."])
        // The schema beside it is the documentation; as doc comments its examples would become doc tests.
        .disable_comments(["."])
        .compile_fds(descriptors)
        .expect("prost generates");
    let text = std::fs::read_to_string(out.path().join("onnx.rs")).expect("read generated types");
    format!("{HEADER}{text}")
}
