//! Runs one pass on a model in text.

use super::Tailoring;
use crate::config::Config;
use crate::fuse::testing::parse;
use crate::infer_types::InferTypes;
use crate::pass::{Pass, PassCx};
use squint_ir::Model;

/// A model as it is written, and typed and rewritten for a target.
pub(super) fn tailored(pass: &Tailoring, target: &str, text: &str) -> (Model, Model) {
    let before = parse(text);
    let mut after = before.clone();
    let config = Config::new(target);
    let mut cx = PassCx::new(&config);
    InferTypes.run(&mut after, &mut cx).expect("the model is well-formed");
    pass.run(&mut after, &mut cx).expect("no fault");
    (before, after)
}
