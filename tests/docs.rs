//! Pages of `docs` that are made from the program.

use std::path::Path;

/// With `INSTA_UPDATE=always`, the page is written anew.
#[test]
fn rewrites() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rewrites.md");
    let wanted = squint::passes::rewrites_reference();
    if std::env::var("INSTA_UPDATE").is_ok_and(|u| u == "always") {
        std::fs::write(&path, &wanted).unwrap();
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(is == wanted, "docs/rewrites.md is not up to date: INSTA_UPDATE=always cargo test writes it");
}
