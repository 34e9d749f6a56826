//! `finish`: what remains before the model is written: node names, operator set, provenance.

use crate::config::{OperatorFormat, Quantized, Scheme, WeightBits};
use crate::names::Names;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::Model;

/// The pass.
pub(crate) struct Finish;

impl Pass for Finish {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn needs(&self) -> Phase {
        Phase::Quantized
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Final)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main_mut();
        let mut names = Names::default();
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            let name = names.take(&g.op(op).name);
            g.op_mut(op).name = name;
        }
        let c = cx.config;
        let method = cx.steering.ranges.as_ref().map_or(c.method, |(method, _)| *method);
        let mut recipe = match cx.frozen {
            Some(_) => format!("target={} grids=given", c.target),
            None => format!("target={} method={method} samples={}", c.target, cx.statistics.samples),
        };
        if c.scheme != Scheme::Auto {
            recipe.push_str(&format!(" scheme={}", c.scheme));
        }
        if c.format != OperatorFormat::default() {
            recipe.push_str(&format!(" format={}", c.format.name()));
        }
        if c.quantized != Quantized::default() {
            recipe.push_str(&format!(" quantize-to={}", c.quantized.name()));
        }
        if let Some(dtype) = c.compute {
            recipe.push_str(&format!(" compute={dtype}"));
        }
        if c.constraints.power_of_two {
            recipe.push_str(" power-of-two");
        }
        if let Some(training) = c.training {
            recipe.push_str(match training.weight_bits {
                WeightBits::Four => " for-training weight-bits=4",
                WeightBits::Eight => " for-training",
            });
        }
        if c.constraints.min_range > 0.0 {
            recipe.push_str(&format!(" min-range={}", c.constraints.min_range));
        }
        model.set_metadata("squint.version", env!("CARGO_PKG_VERSION"));
        model.set_metadata("squint.recipe", &recipe);
        let g = model.main();
        let guided = c.guide.iter().flat_map(|guide| guide.errors.iter().map(|(name, _)| name.as_str()));
        let decided = guided.filter_map(|name| {
            let v = g.value_named(name);
            let planned = v.is_some_and(|v| cx.plan.values.contains(v));
            let dynamic = v.is_some_and(|v| cx.plan.dynamic.iter().any(|(_, d)| d.reads.contains(&v)));
            (!planned).then_some((name, dynamic))
        });
        let config = crate::recipe::recipe(c, decided);
        model.set_metadata("squint.config", &config);
        if !c.data_description.is_empty() {
            model.set_metadata("squint.preprocessing", &c.data_description);
        }
        Ok(Changed::Yes)
    }
}
