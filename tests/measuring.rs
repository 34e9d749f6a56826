//! Comparing, ranking, tuning and evaluating the quick-start model, in the library and on the command line.

use insta::assert_snapshot;
use squint::ir::{DType, Dim, Model, OpSpec, Tensor, Type};
use squint::passes::runner::Silent;
use squint::tune::{Metric, TuneOptions, Tuned, tune};
use squint::{Config, DataOptions, Dataset, Hooks, Method, Sample, Samples, Tract, compare, sensitivity};
use std::path::{Path, PathBuf};
use std::process::Command;

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

fn digits(samples: usize) -> (Model, Dataset) {
    let model = squint::load(&quickstart("digits.onnx")).unwrap();
    let path = quickstart("calibration.npz").to_str().unwrap().to_owned();
    let options = DataOptions { samples: Some(samples), ..DataOptions::new([path]) };
    let data = Dataset::open(&model, &options).unwrap();
    (model, data)
}

fn config(threads: usize) -> Config {
    Config { threads: Some(threads), ..Config::new("cpu-vnni") }
}

/// With 64 samples, one that scales channels.
fn equalizing() -> Config {
    Config::new("cpu-avx2")
}

#[test]
fn every_value_of_an_own_model_is_matched_and_threads_do_not_show() {
    let (model, data) = digits(8);
    let mut quantized = model.clone();
    // Channels that are scaled have no values to be compared with.
    squint::quantize(&mut quantized, &data, &Config { equalize: false, ..config(1) }).unwrap();
    let found =
        |threads| compare(&model, &quantized, &Tract, &data, true, &config(threads), &Silent).unwrap();
    let one = found(1);
    assert!(one.unmatched <= 1, "{} of {} unmatched", one.unmatched, one.values.len());
    assert!(one.values.iter().any(|v| v.rounding.is_some()) && !one.weights.is_empty());
    let output = one.outputs[0].error.unwrap();
    assert!(output.error.sqnr() > 25.0, "{}", output.error.sqnr());
    // With everything before it in float, no value is worse than with everything quantized, by more than luck.
    for v in &one.values {
        let (local, all) = (v.local.relative(), v.accumulated.relative());
        assert!(local <= all * 1.5 + 1e-9, "{}: {local} beside {all}", v.name);
    }
    let three = found(3);
    assert_eq!(one.outputs[0].error, three.outputs[0].error);
    assert!(one.values.iter().zip(&three.values).all(|(a, b)| a.local == b.local && a.sketch == b.sketch));
}

#[test]
fn values_in_other_units_are_compared_in_those_of_the_float_model() {
    let (model, data) = digits(64);
    let mut quantized = model.clone();
    squint::quantize(&mut quantized, &data, &equalizing()).unwrap();
    let scaled = quantized.metadata_value("squint.equalized").map_or(0, |names| names.lines().count());
    assert!(scaled > 0);
    let data = digits(8).1;
    let found = compare(&model, &quantized, &Tract, &data, true, &config(1), &Silent).unwrap();
    let in_other_units: Vec<_> = found.values.iter().filter(|v| v.scaled).collect();
    assert!(2 * in_other_units.len() > scaled, "{} of {scaled}", in_other_units.len());
    for v in &in_other_units {
        let (local, all) = (v.local.sqnr(), v.accumulated.sqnr());
        assert!(local > 25.0 && all > 15.0, "{}: {local} and {all} dB", v.name);
    }
    assert!(found.weights.iter().any(|w| w.scaled) && found.weights.iter().all(|w| w.error.sqnr() > 30.0));
    assert!(found.outputs[0].error.unwrap().error.sqnr() > 25.0);
    for v in &found.values {
        let (local, all) = (v.local.relative(), v.accumulated.relative());
        assert!(local <= all * 1.5 + 1e-9, "{}: {local} beside {all}", v.name);
    }
}

#[test]
fn a_model_beside_itself_is_exact() {
    let (model, data) = digits(2);
    let found = compare(&model, &model, &Tract, &data, false, &config(1), &Silent).unwrap();
    assert_eq!(found.unmatched, 0);
    // Beside the fused graph, the model as it is adds in another order.
    assert!(found.values.iter().all(|v| v.accumulated.relative() < 1e-8 && !v.rounded));
}

/// Two samples of two numbers.
struct Pairs;

impl Samples for Pairs {
    fn len(&self) -> usize {
        2
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        let x = [[0.9, 2.2], [-1.4, 3.0]][index];
        Ok(vec![("x".into(), Tensor::from_f32(&[1, 2], &x))])
    }
}

/// `y = f(x) + g(x)`, in one graph with `f` rounded to whole numbers.
fn sum(rounded: bool) -> Model {
    let mut model = Model::new("g", 17);
    let g = model.main_mut();
    let float = || Some(Type::tensor(DType::Float, Some(vec![Dim::Known(1), Dim::Known(2)])));
    let x = g.add_value("x", float());
    let mut f = g.emit(OpSpec::new("Neg").name("f").operands([x]), "f", float());
    if rounded {
        let scale = g.add_const("scale", Tensor::scalar_f32(1.0));
        let zero = g.add_const("zero", Tensor::from_i8(&[], &[0]));
        let q = g.emit(OpSpec::new("QuantizeLinear").operands([f, scale, zero]), "q", None);
        f = g.emit(OpSpec::new("DequantizeLinear").operands([q, scale, zero]), "d", float());
    }
    let h = g.emit(OpSpec::new("Abs").name("h").operands([x]), "h", float());
    let y = g.emit(OpSpec::new("Add").name("y").operands([f, h]), "y", float());
    (g.inputs, g.outputs) = (vec![x], vec![y]);
    model
}

#[test]
fn the_effect_of_a_value_is_measured_at_the_outputs() {
    let (float, quantized) = (sum(false), sum(true));
    let found = compare(&float, &quantized, &Tract, &Pairs, false, &config(1), &Silent).unwrap();
    let f = found.values.iter().find(|v| v.name == "f").unwrap();
    assert_eq!((f.quantized_name.as_str(), f.rounded), ("d", true));
    // f is -0.9, -2.2, 1.4, -3.0; rounded -1, -2, 1, -3.
    assert!((f.local.noise - (0.01 + 0.04 + 0.16)).abs() < 1e-6 && f.local == f.accumulated);
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("effects.json");
    let measure =
        || sensitivity(&float, &quantized, &Tract, &Pairs, Some(&cache), &config(1), &Silent).unwrap();
    let (ranked, cached) = measure();
    assert!(!cached);
    let effects: Vec<_> = ranked.effects.iter().filter(|e| e.error > 0.0).map(|e| e.value.as_str()).collect();
    assert_eq!(effects, ["f"]);
    // y is 0, 0, 2.8, 0.
    assert!((ranked.effects[0].error - 0.21 / 2.8f64.powi(2)).abs() < 1e-6);
    assert_eq!(measure(), (ranked, true));
}

#[test]
fn tuning_meets_its_bound_and_a_wider_one_is_never_slower() {
    let (model, data) = digits(24);
    // A short ladder: each rung is a compilation.
    let base = Config { method: Method::MinMax, effort: 2, ..config(2) };
    let tuned = |max_drop| {
        let options = TuneOptions { metric: Some(Metric::Sqnr), max_drop, ..TuneOptions::default() };
        tune(&model, &Tract, &data, &options, &base, &Hooks::default()).unwrap()
    };
    let (narrow, wide) = (tuned(1e-5), tuned(0.01));
    assert!(narrow.trials[narrow.chosen].drop <= 1e-5 && wide.trials[wide.chosen].drop <= 0.01);
    assert!(wide.trials[wide.chosen].speedup >= narrow.trials[narrow.chosen].speedup);
    assert!(narrow.trials.len() > wide.trials.len() && wide.is_pareto(wide.chosen));
    assert_eq!(narrow.samples, (12, 12));
    let few = Dataset::open(
        &model,
        &DataOptions {
            samples: Some(7),
            ..DataOptions::new([quickstart("calibration.npz").to_str().unwrap()])
        },
    );
    let options = TuneOptions::default();
    let e = tune(&model, &Tract, &few.unwrap(), &options, &config(1), &Hooks::default()).unwrap_err();
    assert_snapshot!(e, @"tuning needs at least 8 samples, of which half judge; there are 7");
}

#[test]
fn a_recipe_makes_the_same_file_again() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["digits.onnx", "calibration.npz"] {
        std::fs::copy(quickstart(name), dir.path().join(name)).unwrap();
    }
    let run = |words: &str| {
        let (code, _, err) = squint(&words.split(' ').collect::<Vec<_>>(), dir.path());
        assert_eq!(code, 0, "{err}");
    };
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let data = "--data calibration.npz";
    run(&format!(
        "quantize digits.onnx -o a.onnx --target cpu-avx2 --effort 2 --min-sqnr 33.5 --samples 20 {data}"
    ));
    run(&format!("quantize digits.onnx -o b.onnx --config a.onnx {data}"));
    assert!(read("a.onnx") == read("b.onnx"));
    // A bound that some operators must go back to float for, by prices that are no part of the recipe.
    run(&format!(
        "tune digits.onnx -o t.onnx --target cpu-vnni --metric sqnr --max-drop 0.00002 --samples 16 --effort 2 --method minmax {data}"
    ));
    run(&format!("quantize digits.onnx -o u.onnx --config t.onnx {data}"));
    let text = String::from_utf8_lossy(&read("t.onnx")).into_owned();
    assert!(
        text.contains("samples = 16") && (text.contains(": float") || text.contains("keep-float")),
        "nothing went back to float"
    );
    assert!(read("t.onnx") == read("u.onnx"));
}

#[test]
fn ranges_that_are_asked_for_are_in_units_of_the_float_model() {
    let (model, data) = digits(64);
    let scales = |overrides: &[&str]| {
        let overrides = overrides.iter().map(|o| o.parse().unwrap()).collect();
        let mut quantized = model.clone();
        squint::quantize(&mut quantized, &data, &Config { overrides, ..equalizing() }).unwrap();
        let scaled = quantized.metadata_value("squint.equalized").unwrap_or_default();
        scaled.lines().any(|v| v == "stem_relu_out")
    };
    assert!(scales(&[]) && !scales(&["tensor=stem_relu_out: range=0..3.2"]));
}

#[test]
fn a_search_tries_methods_within_its_budget() {
    let (model, data) = digits(8);
    let tuned = |max_drop, budget| {
        let options = TuneOptions { metric: Some(Metric::Sqnr), max_drop, search: true, budget };
        tune(&model, &Tract, &data, &options, &config(2), &Hooks::default()).unwrap()
    };
    let (few, all) = (tuned(0.01, 3), tuned(0.01, 9));
    assert!(few.trials.len() == 3 && all.trials.len() > 3 && all.trials.len() <= 9);
    let best = |t: &Tuned| (t.trials[t.chosen].speedup, -t.trials[t.chosen].drop);
    assert!(best(&all) >= best(&few), "more is tried, from the same beginning");
    assert_eq!(few.trials[0].what, "effort 1, ranges auto, weights minmax, auto");
    let none = TuneOptions { max_drop: 0.0, budget: 1, metric: Some(Metric::Sqnr), search: false };
    let e = tune(&model, &Tract, &data, &none, &config(1), &Hooks::default()).unwrap_err().to_string();
    assert!(
        e.starts_with("no model meets a drop of 0 %; of 1 that were tried")
            && e.ends_with("a larger budget may find one"),
        "{e}"
    );
}

fn squint(words: &[&str], folder: &Path) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_squint")).args(words).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

#[test]
fn the_command_line_measures() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["digits.onnx", "calibration.npz", "test.npz"] {
        std::fs::copy(quickstart(name), dir.path().join(name)).unwrap();
    }
    let run = |words: &str| squint(&words.split(' ').collect::<Vec<_>>(), dir.path());
    let data = "--data calibration.npz --samples 8";
    assert_eq!(run(&format!("quantize digits.onnx -o q.onnx --target cpu-vnni --effort 0 {data}")).0, 0);

    let (code, out, err) = run(&format!("compare digits.onnx q.onnx {data} --top 2 --report r.html"));
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("output") && out.contains("100.00%") && out.contains(" more\n"), "{out}");
    let page = std::fs::read_to_string(dir.path().join("r.html")).unwrap();
    assert!(page.ends_with("</body></html>\n") && page.matches("<figure ").count() > 10);
    assert!(!page.contains("http") && !page.contains("<script"), "the page needs no other file");
    let (_, out, _) = run(&format!("compare digits.onnx q.onnx {data} --format json"));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["samples"], 8);
    assert!(json["values"].as_array().unwrap().iter().any(|v| v["grid"]["type"] == "uint8"));

    let (code, out, err) = run("evaluate q.onnx --data test.npz --labels test.npz");
    assert!(code == 0 && out.starts_with("top-1 9"), "{out}{err}");
    let (code, out, _) = run("evaluate q.onnx --labels calibration.npz --data test.npz");
    assert!(code == 1 && out.is_empty());
    let (_, out, _) = squint(&["evaluate", "q.onnx", "--command", "echo {} 0.75"], dir.path());
    assert_eq!(out, "0.75\n");

    let (code, out, err) = run(&format!("sensitivity digits.onnx --target cpu-vnni {data} --top 1"));
    assert!(code == 0 && out.lines().count() == 3, "{out}{err}");
    let (code, _, err) =
        run("tune digits.onnx -o t.onnx --target cpu-vnni --data calibration.npz --samples 16");
    assert!(code == 0 && err.contains("chosen"), "{err}");
    let (code, _, _) = run("run t.onnx -o out --data calibration.npz --samples 2");
    assert!(code == 0 && dir.path().join("out/0001.npz").is_file());
}
