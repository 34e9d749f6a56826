//! Damaged data, tokenizers, statistics and calibration caches are read, or are an error; nothing panics, hangs or asks
//! for memory without bound.
//!
//! A short stand-in for the target `readers` in `fuzz/`, with a fixed seed; `proto/tests/mutations.rs` does it to models.

use super::allocations::largest;
use super::calibration::whole;
use super::damage::Random;
use super::readers::{KINDS, read};
use serde_json::json;
use squint::Method;
use squint::data::npz;
use squint::ir::Tensor;
use squint::stats::{self, cache};

/// Damaged copies of each file.
const ROUNDS: u64 = 500;

/// Bytes of a block beyond which memory would follow from what a file claims, not from what it holds.
const BOUND: usize = 32 << 20;

/// Damages a file again and again. Some copies must still be read, some not: else this would test one path only.
fn damaged(kind: &str, files: &[Vec<u8>]) {
    let kind = KINDS.iter().position(|k| *k == kind).expect("a kind of file");
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(kind as u64);
    let (mut good, mut bad) = (0, 0);
    for file in files {
        assert!(read(kind, file, folder.path()), "the file as it was is read");
        for _ in 0..ROUNDS {
            let mut bytes = file.clone();
            random.damage(&mut bytes);
            let (ok, block) = largest(|| read(kind, &bytes, folder.path()));
            assert!(block < BOUND, "{block} bytes at once for a file of {}: {bytes:?}", bytes.len());
            if ok { good += 1 } else { bad += 1 }
        }
    }
    assert!(good > 10 && bad > 50, "{good} read, {bad} not");
}

fn numbers() -> Tensor {
    Tensor::from_f32(&[3, 2], &[1.0, -2.0, 3.5, 0.0, 1e-3, 7.0])
}

#[test]
fn damaged_arrays() {
    let archive = npz(&[("x".to_owned(), numbers())]).unwrap();
    let start = archive.windows(6).position(|w| w == b"\x93NUMPY").unwrap();
    let array = archive[start..start + 128 + numbers().bytes().len()].to_vec();
    damaged("x.npy", &[array]);
    damaged("x.npz", &[archive]);
}

#[test]
fn damaged_tensors() {
    let header = json!({"x": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(numbers().bytes());
    damaged("x.safetensors", &[file]);
    // dims 3 and 2, FLOAT, the name `x` and raw data.
    let mut message = vec![0x08, 3, 0x08, 2, 0x10, 1, 0x42, 1, b'x', 0x4a, 24];
    message.extend(numbers().bytes());
    damaged("x.pb", &[message]);
}

#[test]
fn damaged_tokenizers() {
    let special = json!([{"id": 0, "content": "<s>", "single_word": false, "lstrip": true, "rstrip": false,
                          "normalized": false, "special": true}]);
    // A trie whose root leads nowhere, and a text.
    let map = "BAAAAAAAAAB4AA==";
    let unigram = json!({
        "added_tokens": special, "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": map},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens":
            {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<s>"},
        "truncation": {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
                  "vocab": [["<s>", 0.0], ["▁", -2.0], ["e", -3.0], ["o", -3.0], ["▁qu", -4.5]]},
    });
    let bpe = json!({
        "normalizer": {"type": "NFKC"}, "added_tokens": special,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": "<s>", "vocab": {"<s>": 0, "e": 1, "r": 2, "er": 3, "Ġ": 4},
                  "merges": ["e r"]},
    });
    let pieces = json!({
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "the": 1, "qu": 2, "##ick": 3}},
    });
    damaged("tokenizer.json", &[unigram, bpe, pieces].map(|file| file.to_string().into_bytes()));
}

#[test]
fn damaged_statistics() {
    damaged("x.stats", &[stats::to_bytes(&whole())]);
}

#[test]
fn damaged_caches() {
    let recording = whole();
    let files = [cache::tensorrt, cache::onnxruntime].map(|f| f(&recording, Method::MinMax).into_bytes());
    damaged("x.cache", &files);
}
