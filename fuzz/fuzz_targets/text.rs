//! Any text is a model or an error; a model prints to a text that is read as the same model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use squint_ir::text::{PrintOptions, generate, parse, parse_with, print};
use squint_ir::verify::verify;

fuzz_target!(|source: &str| {
    // Formulas make large constants from few characters, by design.
    let _ = (!source.contains("gen:")).then(|| parse_with(source, &mut generate));
    if let Ok(model) = parse(source) {
        let _ = verify(&model);
        let printed = print(&model, &PrintOptions::default());
        let again = parse(&printed).unwrap_or_else(|e| panic!("{e}\nin what was printed:\n{printed}"));
        assert_eq!(print(&again, &PrintOptions::default()), printed);
    }
});
