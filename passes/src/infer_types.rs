//! `infer-types`: types, shapes and known contents of every value of the main graph.
//!
//! One walk in execution order. What the rows of `squint-ops` infer is joined with what the file declares,
//! keeping the more precise of the two; an operator without a row, or one whose operands contradict it,
//! falls back to the declaration. Nothing is ever an error here: an unknown shape only means that later
//! passes know less.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Dim, Model, Shape, ValueTable};
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
        cx.facts = ValueTable::new();
        for v in &g.inputs {
            if let Some(ty) = g.ty(*v) {
                cx.facts.insert(*v, Fact::from_type(ty));
            }
        }
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            let node = g.op(op);
            let results = g.results(op);
            let inferred = squint_ops::row(&node.domain, &node.op_type).and_then(|row| {
                let inputs: Vec<Option<Fact>> =
                    g.operands(op).into_iter().map(|v| v.map(|v| cx.fact(model, v))).collect();
                let opset = model.opset(&node.domain).unwrap_or(1);
                let site = InferCx { op: node, opset, inputs: &inputs, n_results: results.len() };
                match (row.infer)(&site) {
                    Ok(facts) => Some(facts),
                    Err(e) => {
                        cx.notes.add(g.label(op), format!("shapes of this {} contradict: {e}", node.op_type));
                        None
                    }
                }
            });
            let mut inferred = inferred.unwrap_or_default().into_iter();
            for v in results {
                let fact = inferred.next().unwrap_or_default();
                let Some(v) = v else { continue };
                let declared = g.ty(v).map(Fact::from_type).unwrap_or_default();
                cx.facts.insert(v, join(fact, declared));
            }
        }
        Ok(Changed::No)
    }
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
