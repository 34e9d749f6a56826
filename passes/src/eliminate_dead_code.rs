//! `eliminate-dead-code`: removes operators whose results nothing uses, and constants nobody reads.
//!
//! ONNX operators have no effects besides their results, so an operator is dead when every result is
//! unused; removing it may make its operands dead. A work list keeps this linear. Graph inputs stay: they
//! are the model's signature.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Graph, Model, OpId};

/// The pass.
pub(crate) struct EliminateDeadCode;

impl Pass for EliminateDeadCode {
    fn name(&self) -> &'static str {
        "eliminate-dead-code"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let ops: Vec<OpId> = model.main().ops().collect();
        let mut work: Vec<OpId> = ops;
        let mut changed = false;
        while let Some(op) = work.pop() {
            let g = model.main();
            if !g.has_op(op) || g.results(op).into_iter().flatten().any(|v| g.is_used(v)) {
                continue;
            }
            let operands = g.operands(op).into_iter().chain(g.captures(op)).flatten();
            let producers: Vec<OpId> = operands.filter_map(|v| g.producer(v).map(|p| p.0)).collect();
            let bodies: Vec<_> = g.op(op).bodies().collect();
            model.main_mut().remove_op_and_results(op);
            for b in bodies {
                model.remove_graph(b);
            }
            work.extend(producers);
            changed = true;
        }
        changed |= remove_unused_constants(model.main_mut());
        Ok(changed.into())
    }
}

fn remove_unused_constants(g: &mut Graph) -> bool {
    let unused: Vec<_> =
        g.values().filter(|v| !g.is_used(*v) && g.producer(*v).is_none() && !g.is_input(*v)).collect();
    for v in &unused {
        g.remove_value(*v);
    }
    !unused.is_empty()
}
