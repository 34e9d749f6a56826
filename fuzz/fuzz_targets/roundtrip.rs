//! What is imported is exported, and what is exported is imported as the same: import, verify, encode,
//! decode, and encode again gives the same bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use squint_ir::verify::{errors, verify};
use squint_proto::{encode, from_bytes};

fuzz_target!(|data: &[u8]| {
    let Ok(model) = from_bytes(Bytes::copy_from_slice(data), None) else { return };
    let well_formed = errors(&verify(&model)).is_none();
    let Ok(bytes) = encode(&model) else {
        assert!(!well_formed, "a well-formed model can be encoded");
        return;
    };
    match from_bytes(bytes.clone().into(), None) {
        Ok(again) => {
            let again = encode(&again).expect("what was encoded once can be encoded again");
            assert!(again == bytes, "encoding is a normal form");
        }
        Err(e) => assert!(!well_formed, "{e}"),
    }
});
