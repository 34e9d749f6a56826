//! Any bytes are data, a tokenizer, statistics, a calibration cache, or an error. The first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

#[path = "../../tests/readers.rs"]
mod readers;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder for files"));

fuzz_target!(|data: &[u8]| {
    if let Some((kind, bytes)) = data.split_first() {
        readers::read(usize::from(*kind) % readers::KINDS.len(), bytes, FOLDER.path());
    }
});
