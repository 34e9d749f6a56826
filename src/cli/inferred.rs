//! What can be inferred of a model's values.

use super::failure::Failure;
use super::talk::Talk;
use squint::ir::{Type, ValueTable};
use squint::passes::{pass::PassCx, pipeline::pass_named};
use squint::{Config, Error, Model, Note};
use std::collections::BTreeSet;

/// Types of the values of the main graph, constants included; none where nothing is known.
///
/// Contradictions between the operands of an operator are noted.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn types(model: &mut Model, talk: &Talk) -> Result<ValueTable<Type>, Failure> {
    let (types, contradictions) = infer(model)?;
    talk.notes(contradictions);
    Ok(types)
}

/// As [`types`], with the contradictions.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn infer(model: &mut Model) -> Result<(ValueTable<Type>, Vec<Note>), Failure> {
    let config = Config::new("");
    let mut cx = PassCx::new(&config);
    if let Some(pass) = pass_named("infer-types") {
        pass.run(model, &mut cx).map_err(Error::from)?;
    }
    let mut types = ValueTable::new();
    let g = model.main();
    for v in g.values() {
        // A type that is no tensor's is known only where it is declared.
        let declared = g.ty(v).filter(|ty| ty.dtype().is_none()).cloned();
        if let Some(ty) = declared.or_else(|| cx.fact(model, v).to_type()) {
            types.insert(v, ty);
        }
    }
    Ok((types, cx.notes.iter().cloned().collect()))
}

/// Types of the operators of the main graph whose results squint cannot infer, since they have no row.
pub(crate) fn operators_without_row(model: &Model) -> BTreeSet<String> {
    let ops = model.main().ops().map(|o| model.main().op(o));
    let without = ops.filter(|op| squint::ops::row(&op.domain, &op.op_type).is_none());
    without.map(|op| op.qualified_type()).collect()
}
