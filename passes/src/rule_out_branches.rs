//! `rule-out-branches`: an `If` one of whose branches leads to operators that cannot run takes the other.
//!
//! ```text
//! y = If (c) <then: Squeeze (x) of rank 2, else: x of rank 3>   z = Unsqueeze (y)   l = LSTM (z, …)
//! ```
//!
//! An LSTM takes rank 3 only: had the second branch been taken, the run would end with an error. So `c` is true in every
//! run that gives a result. Exporters of scripts write such conditions where the source squeezes axes of length 1.
//!
//! Only operators that always run count: those of the graph itself and of branches that are certainly taken.

use crate::infer_types::contradicts;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Model, OpId, Tensor};

/// The pass.
pub(crate) struct RuleOutBranches;

/// Conditions that are tried in a graph: each takes two walks through it.
const MAX_TRIED: usize = 64;

impl Pass for RuleOutBranches {
    fn name(&self) -> &'static str {
        "rule-out-branches"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main();
        let open = |op: &OpId| {
            g.op(*op).is("If")
                && g.op(*op).bodies().count() == 2
                && g.operand(*op, 0).is_some_and(|c| g.konst(c).is_none())
        };
        let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
        let mut changed = false;
        // In the order of execution: what is decided narrows what comes behind.
        for op in order.into_iter().filter(open).take(MAX_TRIED).collect::<Vec<_>>() {
            let (never_false, never_true) = (contradicts(model, op, false)?, contradicts(model, op, true)?);
            // Both: the model cannot run, or inference is wrong about it.
            if never_false == never_true {
                continue;
            }
            let g = model.main_mut();
            let condition =
                g.add_const(&format!("{}_decided", g.label(op)), Tensor::from_bool(&[], &[never_false]));
            g.set_operand(op, 0, Some(condition));
            changed = true;
        }
        Ok(changed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// What the conditions of the operators of the main graph are known to be.
    fn decided(body: &str) -> Vec<Option<f64>> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,4,T] x, bool c, float[N,4] s) => (y) \
             <int64[1] last = {{2}}, int64[1] first = {{0}}, int64 two = {{2}}, float[1,8,4] w = {{1}}, \
              float[1,8,2] r = {{1}}> {{ {body} }}"
        );
        let text = text.replace("= {1}", "= [\"location\": \"gen:zeros\"]");
        let zeros = &mut |r: &squint_ir::text::ExternalRef| {
            Ok(Tensor::from_f32(&r.dims, &vec![0.0; r.dims.iter().product()]))
        };
        let mut model = squint_ir::text::parse_with(&text, zeros).unwrap_or_else(|e| panic!("{e}"));
        let config = Config::new("cpu-vnni");
        RuleOutBranches.run(&mut model, &mut PassCx::new(&config)).unwrap();
        let g = model.main();
        let order = g.topo().unwrap().into_iter().filter(|op| g.op(*op).is("If"));
        order.map(|op| g.konst(g.operand(op, 0).unwrap())?.scalar_value()).collect()
    }

    /// A condition that squeezes, and a cell behind that takes rank 3 after an axis is put in front.
    const SQUEEZED: &str = "b = If (c) <then_branch = t () => (p) { p = Squeeze (x, last) }, \
        else_branch = e () => (q) { q = Identity (x) }>";

    #[test]
    fn what_must_fail_is_not_taken() {
        let body = format!("{SQUEEZED} u = Unsqueeze (b, first) y = RNN <hidden_size = 2> (u, w, r)");
        assert_eq!(decided(&body), [Some(1.0)]);
        let swapped = body.replace("then_branch", "x").replace("else_branch", "then_branch");
        assert_eq!(decided(&swapped.replace("x = t", "else_branch = t")), [Some(0.0)]);
    }

    #[test]
    fn conditions_on_ranks_follow() {
        let body = format!(
            "{SQUEEZED} h = Shape (b) n = Size (h) k = Equal (n, two) m = Not (k) \
             f = If (m) <then_branch = v () => (o) {{ o = Unsqueeze (b, first) }}, \
                         else_branch = w () => (i) {{ i = Identity (b) }}> \
             u = Unsqueeze (f, first) y = RNN <hidden_size = 2> (u, w, r)"
        );
        assert_eq!(decided(&body)[0], Some(1.0));
    }

    #[test]
    fn what_may_not_run_rules_nothing_out() {
        let both = format!("{SQUEEZED} y = Relu (b)");
        assert_eq!(decided(&both), [None]);
        let inside = format!(
            "{SQUEEZED} y = If (c) <then_branch = v () => (o) {{ u = Unsqueeze (b, first) o = RNN (u, w, r) }}, \
                         else_branch = z () => (i) {{ i = Identity (x) }}>"
        );
        assert_eq!(decided(&inside), [None, None]);
        let never = format!("{SQUEEZED} u = Unsqueeze (b, first) v = Unsqueeze (u, first) y = RNN (v, w, r)");
        assert_eq!(decided(&never), [None], "both fail");
    }
}
