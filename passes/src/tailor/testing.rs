//! Runs passes on a model in text.

use super::Tailoring;
use crate::config::Config;
use crate::fuse::testing::{outputs, parse};
use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx};
use squint_ir::Model;

/// A model as it is written, and rewritten for a target.
pub(super) fn tailored(pass: &Tailoring, target: &str, text: &str) -> (Model, Model) {
    let before = parse(text);
    let after = rewritten(&before, target, &[pass], |_, _| {}).0;
    (before, after)
}

/// What passes make of a model for a target, typed before each of them and behind the last, and whether the last one changed
/// it. `known` adds what they find beside the graph.
pub(super) fn rewritten(
    before: &Model,
    target: &str,
    passes: &[&dyn Pass],
    known: impl FnOnce(&Model, &mut PassCx<'_>),
) -> (Model, Changed) {
    let mut after = before.clone();
    let config = Config::new(target);
    let mut cx = PassCx::new(&config);
    known(&after, &mut cx);
    let mut changed = Changed::No;
    for pass in passes {
        InferTypes.run(&mut after, &mut cx).expect("the model is well-formed");
        changed = pass.run(&mut after, &mut cx).expect("no fault");
    }
    InferTypes.run(&mut after, &mut cx).expect("it stays so");
    (after, changed)
}

/// Both models compute the same, up to a share of each number and as much beside it.
pub(super) fn assert_near(before: &Model, after: &Model, share: f32, what: &str) {
    for ((_, a), (_, b)) in outputs(before).iter().zip(&outputs(after)) {
        assert_eq!(a.dims(), b.dims(), "{what}");
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= share * (1.0 + a.abs());
        assert!(a.f32s().iter().zip(b.f32s().iter()).all(near), "{what}");
    }
}
