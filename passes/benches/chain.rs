//! Graph work is linear: times the whole pipeline on chains of Conv and Relu, with an executor that hands
//! out made-up values instead of running anything. `cargo bench -p squint-passes --bench chain`.
#![allow(clippy::print_stdout, missing_docs)]

use squint_ir::execute::{Execute, ExecuteError, Observer, Sample, Samples, Session, Unsupported};
use squint_ir::{DType, Dim, Model, OpSpec, Tensor, Type, ValueId};
use squint_passes::config::Config;
use squint_passes::evidence::Evidence;
use squint_passes::pipeline::quantize;
use squint_passes::runner::Hooks;
use std::time::Instant;

const DIMS: [usize; 4] = [1, 16, 8, 8];

fn main() {
    let mut last = None;
    for pairs in [800, 8000] {
        let times = (0..3).map(|_| {
            let mut model = chain(pairs);
            let start = Instant::now();
            let config = Config { effort: 0, ..Config::new("cpu-vnni") };
            let hooks = Hooks { verify: false, ..Hooks::default() };
            let report = quantize(&mut model, Evidence::samples(&Synthetic, &One), &config, &hooks)
                .expect("the chain compiles");
            assert_eq!(report.integer_contractions(), (pairs, pairs));
            start.elapsed().as_secs_f64()
        });
        let best = times.fold(f64::INFINITY, f64::min);
        let ratio =
            last.map_or(String::new(), |l| format!(", {:.1} times the chain a tenth as long", best / l));
        println!("{pairs} pairs: {best:.3} s{ratio}");
        last = Some(best);
    }
}

fn chain(pairs: usize) -> Model {
    let mut model = Model::new("chain", 17);
    let g = model.main_mut();
    let ty = || Some(Type::tensor(DType::Float, Some(DIMS.iter().map(|d| Dim::from(*d)).collect())));
    let weights: Vec<f32> = (0..16 * 16 * 9).map(|i| ((i * 7919) % 255) as f32 / 255.0 - 0.5).collect();
    let w = g.add_const("w", Tensor::from_f32(&[16, 16, 3, 3], &weights));
    let mut x = g.add_value("x", ty());
    g.inputs.push(x);
    for i in 0..pairs {
        let conv = OpSpec::new("Conv").attr("pads", vec![1, 1, 1, 1]).operands([x, w]);
        let c = g.emit(conv.name(format!("conv{i}")), &format!("c{i}"), None);
        x = g.emit(OpSpec::new("Relu").operands([c]).name(format!("relu{i}")), &format!("r{i}"), None);
    }
    g.set_type(x, ty());
    g.outputs.push(x);
    model
}

struct One;

impl Samples for One {
    fn len(&self) -> usize {
        1
    }

    fn get(&self, _: usize) -> Result<Sample, String> {
        Ok(vec![("x".into(), Tensor::from_f32(&DIMS, &values()))])
    }
}

fn values() -> Vec<f32> {
    (0..DIMS.iter().product()).map(|i: usize| (i % 100) as f32 / 50.0).collect()
}

struct Synthetic;

impl Execute for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn preflight(&self, _: &Model) -> Vec<Unsupported> {
        Vec::new()
    }

    fn prepare<'e>(&'e self, _: &Model, observe: &[ValueId]) -> Result<Box<dyn Session + 'e>, ExecuteError> {
        Ok(Box::new(Observed(observe.len())))
    }
}

struct Observed(usize);

impl Session for Observed {
    fn run(&self, _: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        let x = values();
        for slot in 0..self.0 {
            observe(slot, &DIMS, &x);
        }
        Ok(vec![Tensor::from_f32(&DIMS, &x)])
    }
}
