//! Any bytes are a model or an error, and any model, also one that is read only in part, can be verified and printed.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use squint_ir::text::{PrintOptions, print};
use squint_ir::verify::verify;

fuzz_target!(|data: &[u8]| {
    if let Ok(examined) = squint_proto::examine_bytes(Bytes::copy_from_slice(data), None) {
        let model = examined.model;
        for violation in verify(&model) {
            let _ = violation.diagnostic(&model).to_string();
        }
        let _ = print(&model, &PrintOptions { elide: Some(16), ..PrintOptions::default() });
    }
});
