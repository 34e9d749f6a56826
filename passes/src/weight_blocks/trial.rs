//! Whether what was learnt about weights brings the outputs closer to those of the float graph, on samples that it was not
//! learnt from.

use crate::calibrate::prepare;
use crate::config::Config;
use crate::float_graph::FloatGraph;
use crate::pass::{Pass, PassCx, PassError};
use crate::plan::QuantPlan;
use crate::plan_weight_blocks::PlanWeightBlocks;
use crate::simulate::{Errors, Simulator};
use crate::weights::rounded;
use squint_ir::execute::{Execute, Samples};
use squint_ir::{Model, ValueId};

/// Some samples, and the float graph to run them.
pub(super) struct Trial<'a> {
    float: FloatGraph<'a>,
    model: &'a Model,
    config: &'a Config,
    executor: &'a dyn Execute,
    samples: &'a dyn Samples,
    observed: Vec<ValueId>,
    held_back: Vec<usize>,
}

impl<'a> Trial<'a> {
    /// On others than those that were `looked_at`, if there are any.
    ///
    /// # Errors
    /// If the executor refuses the graph.
    pub(super) fn new(
        model: &'a Model,
        cx: &PassCx<'a>,
        executor: &'a dyn Execute,
        samples: &'a dyn Samples,
        looked_at: &[usize],
    ) -> Result<Trial<'a>, PassError> {
        let observed = cx.observed.clone();
        let held_back = cx.trials.held_back(looked_at);
        let mut float = FloatGraph::new(model, &observed, executor)?;
        float.keep(&held_back);
        Ok(Trial { float, model, config: cx.config, executor, samples, observed, held_back })
    }

    /// The errors of a plan for a graph with the same values.
    ///
    /// # Errors
    /// If the executor fails.
    pub(super) fn errors(&self, model: &Model, plan: &QuantPlan) -> Result<Errors, PassError> {
        let session = prepare(&rounded(model, plan)?, &self.observed, self.executor)?;
        let simulator = Simulator::on(
            self.model,
            &self.float,
            &self.observed,
            self.samples,
            &self.held_back,
            self.config,
        )?;
        simulator.errors_in(session.as_ref(), plan)
    }

    /// The same of the plan that rounds weights to the nearest levels. `cx` has the facts of the graph.
    ///
    /// # Errors
    /// If the executor fails.
    pub(super) fn nearest(&self, model: &Model, cx: &PassCx<'_>) -> Result<Errors, PassError> {
        let mut cx = PassCx { facts: cx.facts.clone(), ..PassCx::new(self.config) };
        PlanWeightBlocks.run(&mut model.clone(), &mut cx)?;
        self.errors(model, &cx.plan)
    }
}
