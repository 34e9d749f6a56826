//! Damaged models are read, or are an error; nothing panics, hangs or takes memory without bound. What is read
//! and well-formed is written as something that is read as the same again.
//!
//! A short stand-in for the targets in `fuzz/`, with the same properties and a fixed seed.

#[path = "../../tests/damage.rs"]
mod damage;

use bytes::Bytes;
use damage::Random;
use squint_ir::text::{PrintOptions, parse, print};
use squint_ir::verify::{errors, verify};
use squint_proto::{encode, examine_bytes, from_bytes};

/// Damaged copies of each model.
const ROUNDS: u64 = 20_000;

const MODELS: [&str; 4] = [
    r#"<ir_version: 10, opset_import: ["" : 21, "a.b" : 1], producer_name: "p", metadata_props: ["k": "v"]>
       g (float[N,3,?] x) => (float[N,M] y) <float[2,2] w = {1, 2, 3, 4}, string[1] s = {"a"}, int4[3] q = {1, -2, 3}>
       { t = a.b.F <f = 1.5, is = [1, 2], ss = ["x"], t = int64[1] {3}, ty = seq(float[2])> (x, , w) y = Relu (t) }"#,
    r#"<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y)
       { y = If (c) <then_branch = a () => (p) { p = Neg (x) }, else_branch = b () => (q) { q = Abs (x) }> }"#,
    r#"<ir_version: 10, opset_import: ["" : 21, "l" : 1]> g (float[N] x) => (float[N] y) { y = l.act <alpha = 0.5> (x) }
       <domain: "l", opset_import: ["" : 21]> act <alpha> (a) => (r) { r = LeakyRelu <alpha: float = @alpha> (a) }"#,
    r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, seq(int64) z) => (y, optional(float) o) { y, o = F (x, z) }"#,
];

#[test]
fn damaged_files_are_errors_or_models() {
    let mut random = Random::new(1);
    let (mut read, mut written) = (0, 0);
    for text in MODELS {
        let whole = encode(&parse(text).unwrap()).unwrap();
        for _ in 0..ROUNDS {
            let mut bytes = whole.clone();
            random.damage(&mut bytes);
            let Ok(examined) = examine_bytes(Bytes::from(bytes), None) else { continue };
            let model = examined.model;
            let violations = verify(&model);
            violations.iter().for_each(|v| drop(v.diagnostic(&model).to_string()));
            let well_formed = errors(&violations).is_none();
            let _ = print(&model, &PrintOptions::default());
            if !examined.problems.is_empty() {
                continue;
            }
            read += 1;
            let Ok(once) = encode(&model) else {
                assert!(!well_formed, "a well-formed model can be written");
                continue;
            };
            match from_bytes(once.clone().into(), None) {
                Ok(again) => assert!(encode(&again).unwrap() == once, "what is written is a normal form"),
                Err(e) => assert!(!well_formed, "{e}"),
            }
            written += 1;
        }
    }
    // Otherwise this would test nothing but the first check of the reader.
    assert!(read > 1000 && written > 1000, "{read} read, {written} written");
}

#[test]
fn damaged_texts_are_errors_or_models() {
    let mut random = Random::new(2);
    let mut read = 0;
    for text in MODELS {
        for _ in 0..ROUNDS {
            let mut bytes = text.as_bytes().to_vec();
            random.damage(&mut bytes);
            let Ok(model) = parse(&String::from_utf8_lossy(&bytes)) else { continue };
            read += 1;
            let _ = verify(&model);
            let printed = print(&model, &PrintOptions::default());
            let again = parse(&printed).unwrap_or_else(|e| panic!("{e}\nin\n{printed}"));
            assert_eq!(print(&again, &PrintOptions::default()), printed);
        }
    }
    assert!(read > 500, "{read} read");
}
