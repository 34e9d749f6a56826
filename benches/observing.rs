//! What observing costs: the time of a sample with the observed values sketched, over that of the same sample
//! merely run, by the same executor: the embedded one, and ONNX Runtime where it is found.
//!
//! `cargo bench -p squint --bench observing -- MODEL.onnx [DATA]`; without arguments, the quick-start model.

use squint::ir::execute::{Execute, Session};
use squint::passes::calibration::Sketch;
use squint::passes::pipeline::observe;
use squint::{Config, DataOptions, Dataset, Hooks, OnnxRuntime, Sample, Samples, Tract};
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let model_path = given.first().map_or(quickstart.join("digits.onnx"), PathBuf::from);
    let data_path = given.get(1).cloned().unwrap_or(quickstart.join("calibration.npz").display().to_string());

    let mut model = squint::load(&model_path)?;
    let data = Dataset::open(&model, &DataOptions::new([data_path]))?;
    let config = Config::new("cpu-vnni");
    let observed = observe(&mut model, &config, &Hooks::default())?;
    let sample = data.get(0)?;
    let mut executors: Vec<Box<dyn Execute>> = vec![Box::new(Tract)];
    if let Ok(library) = squint::find_onnxruntime(None) {
        executors.push(Box::new(OnnxRuntime::load(&library)?));
    }
    for executor in &executors {
        let plain = executor.prepare(&model, &[])?;
        let observing = executor.prepare(&model, &observed)?;
        let mut sketches = vec![Sketch::new(); observed.len()];
        let (mut bare, mut shown, mut sketched) = (Duration::MAX, Duration::MAX, Duration::MAX);
        let mut n_elements = 0;
        // In turns, so that other load on the machine falls on all.
        for _ in 0..ROUNDS {
            bare = bare.min(time(plain.as_ref(), &sample, |_, _| ())?);
            n_elements = 0;
            shown = shown.min(time(observing.as_ref(), &sample, |_, data| n_elements += data.len())?);
            sketched = sketched
                .min(time(observing.as_ref(), &sample, |slot, data| sketches[slot].observe_thinned(data))?);
        }
        let over = |d: Duration| 100.0 * (d.as_secs_f64() / bare.as_secs_f64() - 1.0);
        writeln!(
            io::stdout().lock(),
            "{}, {}: run {:.2} ms, observed at {} values ({:.2} million elements) {:.2} ms, {:+.1} % ({:+.1} % without \
             sketches; best of {ROUNDS})",
            model_path.display(),
            executor.name(),
            bare.as_secs_f64() * 1e3,
            observed.len(),
            n_elements as f64 / 1e6,
            sketched.as_secs_f64() * 1e3,
            over(sketched),
            over(shown),
        )?;
    }
    Ok(())
}

/// Of one run, in which `see` gets what is observed. Sketches are those of the rounds before, as in calibration.
fn time(
    session: &dyn Session,
    sample: &Sample,
    mut see: impl FnMut(usize, &[f32]),
) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    session.run(sample, &mut |slot, _, data| {
        see(slot, data);
        None
    })?;
    Ok(start.elapsed())
}
