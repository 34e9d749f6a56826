//! Models that are quantized already: from one target to another, and out of training.

use squint::ir::{Graph, Model, Tensor, text};
use squint::passes::frozen::DifferenceKind;
use squint::passes::retarget::Retargeted;
use squint::{Config, DataOptions, Dataset, Evidence, Hooks, OperatorFormat, Tract, retarget, retarget_with};
use std::path::Path;

fn digits() -> Model {
    digits_for("cpu-vnni")
}

/// The quick-start model, quantized.
fn digits_for(target: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let mut model = squint::load(&folder.join("digits.onnx")).unwrap();
    let path = folder.join("calibration.npz").to_str().unwrap().to_owned();
    let data = Dataset::open(&model, &DataOptions { samples: Some(8), ..DataOptions::new([path]) }).unwrap();
    squint::quantize(&mut model, &data, &Config::new(target)).unwrap();
    model
}

#[test]
fn what_has_no_scale_gets_one_from_data() {
    let first = digits_for("tensorrt");
    let (_, without) = to(&first, "cpu-vnni", OperatorFormat::Qdq);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let path = folder.join("calibration.npz").to_str().unwrap().to_owned();
    let data = Dataset::open(&first, &DataOptions { samples: Some(8), ..DataOptions::new([path]) }).unwrap();
    let mut there = first.clone();
    let evidence = Evidence::samples(&Tract, &data);
    let config = Config::new("cpu-vnni");
    let with = retarget_with(&mut there, evidence, &config, &Hooks::default()).unwrap();
    let measured =
        |found: &Retargeted| found.differences.iter().filter(|d| d.kind == DifferenceKind::Measured).count();
    // The convolution before the skip connection leaves a float result on TensorRT.
    assert!(with.uncovered.len() < without.uncovered.len(), "{:?} {:?}", with.uncovered, without.uncovered);
    assert_eq!((measured(&without), measured(&with) > 0), (0, true));
    assert_eq!(with.report.samples, 8);
    assert!(with.report.integer_contractions().0 > without.report.integer_contractions().0);
    // What had a scale keeps it.
    assert_eq!(with.kept.values, with.kept.of_values);
    assert!(weights(&there).iter().all(|t| weights(&first).contains(t)));
}

fn to(model: &Model, target: &str, format: OperatorFormat) -> (Model, Retargeted) {
    let mut model = model.clone();
    let config = Config { format, ..Config::new(target) };
    let found = retarget(&mut model, &config, &Hooks::default()).unwrap();
    (model, found)
}

/// The weight of a convolution without the last input channels that are zero: a target may want them or not.
fn without_padding(t: Tensor) -> Tensor {
    let &[outputs, inputs, ref window @ ..] = t.dims() else { return t };
    let window: usize = window.iter().product();
    if window == 0 || t.rank() < 3 {
        return t;
    }
    let bytes = t.bytes();
    let is_zero =
        |c: usize| (0..outputs).all(|o| bytes[(o * inputs + c) * window..][..window].iter().all(|b| *b == 0));
    let kept = (0..inputs).rev().find(|c| !is_zero(*c)).map_or(0, |c| c + 1);
    let rows = bytes.chunks_exact(inputs * window).flat_map(|row| row[..kept * window].to_vec());
    let dims = [&[outputs, kept], &t.dims()[2..]].concat();
    Tensor::raw(t.dtype(), &dims, rows.collect()).unwrap()
}

/// The integers of all weights, in order of execution, as the operators read them, without channels of zeros.
fn weights(model: &Model) -> Vec<Tensor> {
    let g = model.main();
    let konst = |v| g.konst(v).map(|t| t.as_ref().clone());
    let weight = |op| {
        let slot = if g.op(op).op_type.starts_with('Q') { 3 } else { 1 };
        let v = g.operand(op, slot)?;
        konst(v).or_else(|| konst(g.operand(g.producer(v)?.0, 0)?))
    };
    let contracts = |g: &Graph, op| {
        let kinds = ["Conv", "Gemm", "MatMul", "QLinearConv", "QGemm", "QLinearMatMul"];
        kinds.contains(&g.op(op).op_type.as_str())
    };
    let order = g.topo().unwrap();
    order
        .into_iter()
        .filter(|op| contracts(g, *op))
        .filter_map(weight)
        .filter(|t| t.dtype().bits() == 8)
        .map(without_padding)
        .collect()
}

#[test]
fn weights_have_the_same_integers_there_and_back() {
    let first = digits();
    let before = weights(&first);
    assert!(before.len() > 1);
    let (there, found) = to(&first, "tensorrt", OperatorFormat::Qdq);
    assert_eq!(found.kept.weights, found.kept.of_weights);
    // TensorRT leaves convolutions of few channels in float.
    let between = weights(&there);
    assert!(!between.is_empty() && between.iter().all(|t| before.contains(t)));
    let (back, _) = to(&there, "cpu-vnni", OperatorFormat::Qdq);
    let after = weights(&back);
    assert!(!after.is_empty() && after.iter().all(|t| before.contains(t)));
    // The other form of operators holds the same, and says the same.
    let (other, found) = to(&first, "cpu-vnni", OperatorFormat::Qoperator);
    assert!(weights(&other) == before, "{} weights instead of {}", weights(&other).len(), before.len());
    // Channels of zeros before the first convolution go, and come back as integers.
    assert_eq!((found.kept.values, found.kept.weights), (found.kept.of_values, found.kept.of_weights));
    let (again, _) = to(&other, "cpu-vnni", OperatorFormat::Qdq);
    assert!(weights(&again) == before);
}

#[test]
fn retargeting_to_the_same_target_changes_nothing_twice() {
    let (once, _) = to(&digits(), "cpu-vnni", OperatorFormat::Qdq);
    let (twice, found) = to(&once, "cpu-vnni", OperatorFormat::Qdq);
    assert!(found.differences.is_empty(), "{:?}", found.differences);
    let ops = |m: &Model| m.main().ops().map(|op| m.main().op(op).op_type.clone()).collect::<Vec<_>>();
    assert_eq!(ops(&once), ops(&twice));
}

#[test]
fn what_has_no_grids_is_refused() {
    let refused = |body: &str| {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17, \"onnx.brevitas\" : 1]> g (float[2,4] x) => (float[2,4] y) \
             <float[4,4] w = {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}}, float s = {{0.5}}, float z = {{0}}, \
             float o = {{0}}, int8[4,4] q = {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}}, uint8 u = {{0}}> {{ {body} }}"
        );
        let mut model = text::parse(&text).unwrap();
        retarget(&mut model, &Config::new("cpu-vnni"), &Hooks::default()).unwrap_err().to_string()
    };
    assert!(refused("y = MatMul (x, w)").contains("nothing quantized"));
    assert!(refused("f = DequantizeLinear (q, s) y = MatMul (x, f)").contains("only its weights"));
    let dynamic = "a, b, c = DynamicQuantizeLinear (x) d = DequantizeLinear (a, b, c) y = MatMul (d, w)";
    assert!(refused(dynamic).contains("in every run"));
    assert!(refused("y = onnx.brevitas.BipolarQuant (x, s)").contains("one bit"));
    assert!(refused("y = onnx.brevitas.Quant (x, o, z, s)").contains("no scale"));
    let zero = "a = QuantizeLinear (x, o, u) y = DequantizeLinear (a, o, u)";
    assert!(refused(zero).contains("no scale of a quantizer"));
}
