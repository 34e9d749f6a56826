//! Any bytes are a model or an error, and any model can be verified and printed.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use squint_ir::text::{PrintOptions, print};
use squint_ir::verify::verify;

fuzz_target!(|data: &[u8]| {
    if let Ok(model) = squint_proto::from_bytes(Bytes::copy_from_slice(data), None) {
        for violation in verify(&model) {
            let _ = violation.diagnostic(&model).to_string();
        }
        let _ = print(&model, &PrintOptions { elide: Some(16), ..PrintOptions::default() });
    }
});
