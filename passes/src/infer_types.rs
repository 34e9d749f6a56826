//! `infer-types`: types, shapes and known contents of every value of the main graph.
//!
//! One walk in execution order. What the rows of `squint-ops` infer is joined with what the file declares,
//! keeping the more precise of the two; an operator without a row, or one whose operands contradict it,
//! falls back to the declaration. Nothing is ever an error here: an unknown shape only means that later
//! passes know less.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Dim, Model, Shape, ValueId, ValueTable};
use squint_ops::{Fact, InferCx};

/// The pass.
pub(crate) struct InferTypes;

impl Pass for InferTypes {
    fn name(&self) -> &'static str {
        "infer-types"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Typed)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main();
        let inputs = g.inputs.iter().filter_map(|v| Some((*v, Fact::from_type(g.ty(*v)?))));
        let mut facts = ValueTable::new();
        for (v, f) in inputs {
            facts.insert(v, f);
        }
        cx.facts = infer(model, facts, &mut |node, problem| cx.notes.add(node, problem))?;
        Ok(Changed::No)
    }
}

/// The facts of every value when graph inputs have exactly the given dimensions; inputs without an entry
/// are as declared.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn infer_concrete(
    model: &Model,
    dims: &ValueTable<Vec<usize>>,
) -> Result<ValueTable<Fact>, PassError> {
    let g = model.main();
    let mut facts = ValueTable::new();
    for v in &g.inputs {
        let declared = g.ty(*v).map(Fact::from_type).unwrap_or_default();
        let seen = dims.get(*v).map(|d| d.iter().map(|n| Dim::from(*n)).collect());
        facts.insert(*v, Fact { shape: seen.or(declared.shape.clone()), ..declared });
    }
    infer(model, facts, &mut |_, _| {})
}

fn infer(
    model: &Model,
    mut facts: ValueTable<Fact>,
    contradiction: &mut dyn FnMut(String, String),
) -> Result<ValueTable<Fact>, PassError> {
    let g = model.main();
    let known = |facts: &ValueTable<Fact>, v: ValueId| match g.konst(v) {
        Some(t) => Fact::constant(t.clone()),
        None => facts.get(v).cloned().or_else(|| g.ty(v).map(Fact::from_type)).unwrap_or_default(),
    };
    for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
        let node = g.op(op);
        let results = g.results(op);
        let inferred = squint_ops::row(&node.domain, &node.op_type).and_then(|row| {
            let inputs: Vec<Option<Fact>> =
                g.operands(op).into_iter().map(|v| v.map(|v| known(&facts, v))).collect();
            let opset = model.opset(&node.domain).unwrap_or(1);
            match (row.infer)(&InferCx { op: node, opset, inputs: &inputs, n_results: results.len() }) {
                Ok(facts) => Some(facts),
                Err(e) => {
                    contradiction(g.label(op), format!("shapes of this {} contradict: {e}", node.op_type));
                    None
                }
            }
        });
        let mut inferred = inferred.unwrap_or_default().into_iter();
        for v in results {
            let fact = inferred.next().unwrap_or_default();
            let Some(v) = v else { continue };
            let declared = g.ty(v).map(Fact::from_type).unwrap_or_default();
            facts.insert(v, join(fact, declared));
        }
    }
    Ok(facts)
}

/// The more precise of what is inferred and what is declared; inferred where they contradict, since
/// declarations outlive edits of the tools that made the file.
fn join(inferred: Fact, declared: Fact) -> Fact {
    let shape = match (inferred.shape, declared.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => Some(join_shapes(a, b)),
        (a, b) => a.or(b),
    };
    Fact { dtype: inferred.dtype.or(declared.dtype), shape, ..inferred }
}

fn join_shapes(a: Shape, b: Shape) -> Shape {
    a.into_iter()
        .zip(b)
        .map(|(a, b)| match (a, b) {
            (Dim::Unknown, b) => b,
            (Dim::Symbol(_), b @ Dim::Known(_)) => b,
            (a, _) => a,
        })
        .collect()
}
