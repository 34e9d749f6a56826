//! Weights in blocks that learn from samples.

use squint::ir::{DType, Dim, Model, OpSpec, Tensor, Type};
use squint::passes::config::{BlockRounding, Blocks};
use squint::passes::runner::Silent;
use squint::{Config, Evidence, Hooks, Sample, Samples, Scheme, Tract, compare};

const WIDTH: usize = 64;
const HIDDEN: usize = 48;
const OUTPUTS: usize = 40;
const ROWS: usize = 16;

/// Numbers between -1 and 1 without a pattern.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `y = MatMul (Relu (MatMul (x, w)), v)`
fn perceptron() -> Model {
    let mut model = Model::new("perceptron", 21);
    let ty = |n: usize| Some(Type::tensor(DType::Float, Some([ROWS, n].map(Dim::from).to_vec())));
    let g = model.main_mut();
    let x = g.add_value("x", ty(WIDTH));
    let w = g.add_const("w", Tensor::from_f32(&[WIDTH, HIDDEN], &noise(WIDTH * HIDDEN, 1)));
    let v = g.add_const("v", Tensor::from_f32(&[HIDDEN, OUTPUTS], &noise(HIDDEN * OUTPUTS, 2)));
    let a = g.emit(OpSpec::new("MatMul").name("first").operands([x, w]), "a", ty(HIDDEN));
    let h = g.emit(OpSpec::new("Relu").operands([a]), "h", ty(HIDDEN));
    let y = g.emit(OpSpec::new("MatMul").name("second").operands([h, v]), "y", ty(OUTPUTS));
    (g.inputs, g.outputs) = (vec![x], vec![y]);
    model
}

/// Rows whose elements are related, a few of them much larger than the others.
struct Related;

impl Samples for Related {
    fn len(&self) -> usize {
        48
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        const SOURCES: usize = 8;
        let mixing = noise(SOURCES * WIDTH, 3);
        let sources = noise(ROWS * SOURCES, 100 + index as u64);
        let own = noise(ROWS * WIDTH, 1000 + index as u64);
        let element = |at: usize| {
            let (row, k) = (at / WIDTH, at % WIDTH);
            let shared: f32 = (0..SOURCES).map(|s| sources[row * SOURCES + s] * mixing[s * WIDTH + k]).sum();
            (shared + 0.3 * own[at]) * if k % 16 == 0 { 10.0 } else { 1.0 }
        };
        let data: Vec<f32> = (0..ROWS * WIDTH).map(element).collect();
        Ok(vec![("x".into(), Tensor::from_f32(&[ROWS, WIDTH], &data))])
    }
}

fn config(rounding: BlockRounding, threads: usize) -> Config {
    Config {
        scheme: Scheme::WeightOnly,
        blocks: Blocks { rounding, size: Some(16), ..Blocks::default() },
        threads: Some(threads),
        ..Config::new("cpu-vnni")
    }
}

fn quantized(rounding: BlockRounding, threads: usize) -> Model {
    let mut model = perceptron();
    let evidence = Evidence::samples(&Tract, &Related);
    squint::quantize_with(&mut model, evidence, &config(rounding, threads), &Hooks::default()).unwrap();
    model
}

/// Signal to noise at the output, in dB.
fn sqnr(model: &Model) -> f64 {
    let config = config(BlockRounding::Nearest, 1);
    let found = compare(&perceptron(), model, &Tract, &Related, false, &config, &Silent).unwrap();
    found.outputs[0].error.unwrap().error.sqnr()
}

fn bytes(model: &Model) -> Vec<u8> {
    squint_proto::encode(model).unwrap()
}

fn products(model: &Model) -> usize {
    model.main().ops().filter(|op| model.main().op(*op).is("Mul")).count()
}

#[test]
fn what_is_learnt_brings_outputs_closer_and_does_not_depend_on_threads() {
    let nearest = sqnr(&quantized(BlockRounding::Nearest, 1));
    for (rounding, gain) in [
        (BlockRounding::Awq, 0.5),
        (BlockRounding::Gptq, 1.0),
        (BlockRounding::AwqGptq, 1.0),
        (BlockRounding::Auto, 1.0),
    ] {
        let one = quantized(rounding, 1);
        let better = sqnr(&one);
        assert!(better > nearest + gain, "{rounding}: {better} dB, {nearest} dB by nearest levels");
        assert_eq!(bytes(&one), bytes(&quantized(rounding, 3)), "{rounding}");
    }
}

#[test]
fn factors_go_into_the_weight_before_or_into_a_product() {
    // What is read first has nothing before it; what is read next has a weight behind a Relu.
    assert_eq!(products(&quantized(BlockRounding::Awq, 1)), 1);
    assert_eq!(products(&quantized(BlockRounding::Gptq, 1)), 0);
}

#[test]
fn without_samples_nothing_is_learnt() {
    let run = |rounding| {
        let mut model = perceptron();
        let done =
            squint::quantize_with(&mut model, Evidence::default(), &config(rounding, 1), &Hooks::default());
        done.map(|_| bytes(&model)).map_err(|e| e.to_string())
    };
    // The recipe says what was asked for, and differs.
    assert!(run(BlockRounding::Auto).is_ok());
    assert!(run(BlockRounding::Gptq).unwrap_err().contains("there are none"));
}
