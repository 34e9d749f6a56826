//! Every reader of files that are not models, on any bytes: shared by `mutations.rs` and the fuzz target `readers`.

use squint::ir::{DType, Dim, Type};
use squint::stats::{self, cache};
use squint::{DataOptions, Dataset, Model, Samples};
use std::fs;
use std::path::Path;

/// What bytes are taken for: the name of the file that they are put in.
pub(crate) const KINDS: [&str; 7] =
    ["x.npy", "x.npz", "x.safetensors", "x.pb", "tokenizer.json", "x.stats", "x.cache"];

/// Texts that a tokenizer is tried on.
const TEXTS: &str =
    "The quick brown fox, 12.50 café\ne\u{301} 日本 <s> ﬁ\u{200b} x\u{0}y\n\u{1f468}\u{200d}\u{1f469}\n";

/// Reads bytes as one of [`KINDS`], and what is in them; whether all of it could be read. What is read of statistics
/// must be written as something that is read as the same again.
pub(crate) fn read(kind: usize, bytes: &[u8], folder: &Path) -> bool {
    let path = folder.join(KINDS[kind]);
    fs::write(&path, bytes).expect("the folder can be written to");
    match KINDS[kind] {
        "tokenizer.json" => {
            let texts = folder.join("texts.txt");
            fs::write(&texts, TEXTS).expect("the folder can be written to");
            let options = DataOptions { tokenizer: Some(path), ..DataOptions::new([name(&texts)]) };
            samples(&model(DType::Int64, &["N", "S"]), &options)
        }
        "x.stats" => {
            let Ok(recording) = stats::read(&path) else { return false };
            let once = stats::to_bytes(&recording);
            fs::write(&path, &once).expect("the folder can be written to");
            let again = stats::read(&path).expect("what was written can be read");
            assert!(stats::to_bytes(&again) == once, "what is written is a normal form");
            true
        }
        "x.cache" => cache::read(&path).is_ok(),
        _ => samples(&model(DType::Float, &["N", "2"]), &DataOptions::new([name(&path)])),
    }
}

fn name(path: &Path) -> String {
    path.to_str().expect("the folder has a name in UTF-8").to_owned()
}

/// A model of one input.
fn model(dtype: DType, dims: &[&str]) -> Model {
    let mut model = Model::new("g", 17);
    let dim = |d: &&str| d.parse().map_or_else(|_| Dim::Symbol((*d).into()), Dim::Known);
    let shape = dims.iter().map(dim).collect();
    let x = model.main_mut().add_value("x", Some(Type::tensor(dtype, Some(shape))));
    model.main_mut().inputs.push(x);
    model
}

/// Whether the first samples can be read.
fn samples(model: &Model, options: &DataOptions) -> bool {
    let Ok(data) = Dataset::open(model, options) else { return false };
    (0..data.len().min(8)).all(|i| data.get(i).is_ok())
}
