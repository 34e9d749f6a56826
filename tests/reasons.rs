//! Reasons for which operators stay in float that only running the model finds.

use squint::ir::{Tensor, text};
use squint::{Config, Fate, Sample, Samples, quantize};

/// Samples without a pattern, of inputs of one row.
struct Random {
    inputs: &'static [(&'static str, usize)],
}

impl Samples for Random {
    fn len(&self) -> usize {
        16
    }

    fn get(&self, i: usize) -> Result<Sample, String> {
        let input = |(n, (name, width)): (usize, &(&str, usize))| {
            let element = |k: usize| ((i * 31 + n * 17 + k * 7) as f32 * 0.37).sin() * 2.0;
            (
                (*name).to_owned(),
                Tensor::from_f32(&[1, *width], &(0..*width).map(element).collect::<Vec<_>>()),
            )
        };
        Ok(self.inputs.iter().enumerate().map(input).collect())
    }
}

/// What is said of the products of a model, quantized for TensorRT, which has no scales that are found in every run.
fn fates(model: &str, samples: &Random, min_sqnr: f64) -> Vec<Fate> {
    let mut model = text::parse_with(model, &mut text::generate).unwrap();
    let config = Config { min_sqnr, ..Config::new("tensorrt") };
    let report = quantize(&mut model, samples, &config).unwrap();
    report
        .nodes
        .into_iter()
        .filter(|n| n.op_type == "MatMul" || n.op_type == "Gemm")
        .map(|n| n.fate)
        .collect()
}

const STEP: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
step (float[1,32] x, float[1,32] h) => (float[1,16] y, float[1,32] g)
<float[64,32] w = ["location": "gen:randn?seed=1&std=0.3"], float[32,16] v = ["location": "gen:randn?seed=2"]>
{ a = Concat <axis = 1> (x, h)  b = MatMul (a, w)  g = Tanh (b)  y = MatMul (g, v) }"#;

#[test]
fn a_model_that_is_given_its_own_states_has_no_planned_scales() {
    let fates = fates(STEP, &Random { inputs: &[("x", 32), ("h", 32)] }, 15.0);
    let why = "the model is given its own states: errors of planned scales would add up";
    assert_eq!(fates, [Fate::Float(why.into()), Fate::Float(why.into())]);
}

const PRODUCTS: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
products (float[1,32] x) => (float[1,32] y)
<float[32,64] v = ["location": "gen:randn?seed=1"], float[64,32] w = ["location": "gen:randn?seed=2"]>
{ a = MatMul (x, v)  r = Relu (a)  y = MatMul (r, w) }"#;

#[test]
fn operators_that_miss_the_bound_on_error_stay_in_float() {
    let samples = Random { inputs: &[("x", 32)] };
    let accurate = fates(PRODUCTS, &samples, 15.0);
    assert!(accurate.iter().all(|f| matches!(f, Fate::Integer(_))), "{accurate:?}");
    let why = "it would cost more accuracy than its speed is worth";
    assert_eq!(fates(PRODUCTS, &samples, 90.0), [Fate::Float(why.into()), Fate::Float(why.into())]);
}
