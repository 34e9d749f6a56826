//! `plan-weight-blocks`: decides which weights of products and which tables are quantized block by block, and how.
//!
//! Only the weights shrink: a product reads float activations, and its kernel multiplies them with the weights as they
//! come out of memory. That pays where reading weights is what takes the time: few rows of activations, large matrices.
//! Of a table only the rows are dequantized that a Gather looks up: it takes a quarter of the memory or less.
//!
//! Each weight is rounded to the nearest level of its block here; what is learnt on samples is in
//! [`crate::weight_blocks`].
//!
//! Left in float: weights that are computed, matrices stacked in more than two axes, matrices with fewer rows than a
//! block, small tables, and what the target's kernel does not take, each with its reason.

use crate::overrides::of_node;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{OpPlan, report, sites};
use crate::weight_blocks::{Kernels, Matrix};
use squint_ir::{Model, OpId};
use squint_ops::Class;
use squint_targets::Site;

/// The pass.
pub(crate) struct PlanWeightBlocks;

impl Pass for PlanWeightBlocks {
    fn name(&self) -> &'static str {
        "plan-weight-blocks"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Planned)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let (products, tables) = (Kernels::new(cx)?, Kernels::of_tables(cx.config));
        let sites = sites(model, cx)?;
        for (op, site) in &sites {
            let kernels = tables.as_ref().filter(|_| site.op.is("Gather")).unwrap_or(&products);
            let decision = match (site.row.class, matrix(model, cx, kernels, *op, site)) {
                (Class::Index, _) => OpPlan::Plain,
                (_, Ok(matrix)) => {
                    let plan = kernels.nearest(cx, &matrix);
                    cx.plan.blocks.insert(*op, plan);
                    OpPlan::Integer(kernels.name)
                }
                (_, Err(reason)) => OpPlan::Float(reason),
            };
            cx.plan.ops.insert(*op, decision);
        }
        cx.plan.report = report(model, &cx.plan, &sites)?;
        if cx.plan.is_float() {
            cx.notes.add("", "no weight could be quantized: the model stays in float");
        }
        Ok(Changed::No)
    }
}

/// The weight of an operator that is quantized, or why it is not.
pub(crate) fn matrix<'m>(
    model: &Model,
    cx: &PassCx<'_>,
    kernels: &Kernels,
    op: OpId,
    site: &'m Site<'_>,
) -> Result<Matrix<'m>, String> {
    let g = model.main();
    let label = g.label(op);
    let wish = of_node(&cx.config.overrides, &label, &g.op(op).qualified_type());
    if cx.config.keeps_float(&label) || wish.float == Some(true) {
        return Err("kept in float by request".into());
    }
    kernels.find(site)
}
