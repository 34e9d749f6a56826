//! `insert-observers`: decides which values are watched during calibration.
//!
//! Watching does not rewire anything: the list is a side table that the executor is given. A value is
//! watched if a target could quantize it: a float activation that an operator with an integer kernel
//! reads or makes. Constants need no watching.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::sites;
use squint_ir::{Model, ValueTable};
use squint_targets::{Support, target};

/// The pass.
pub(crate) struct InsertObservers;

impl Pass for InsertObservers {
    fn name(&self) -> &'static str {
        "insert-observers"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Observed)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let target = target(&cx.config.target)
            .ok_or_else(|| PassError::Config(format!("unknown target `{}`", cx.config.target)))?;
        let mut seen = ValueTable::new();
        let mut observed = Vec::new();
        for (_, site) in sites(model, cx)? {
            if !matches!(target.support(&site), Support::Integer { .. } | Support::Absorbed) {
                continue;
            }
            let reads = site.activations().into_iter().filter_map(|s| site.operand(s as usize));
            for o in reads.chain(site.results.iter().flatten()) {
                if o.konst().is_none() && seen.insert(o.value, ()).is_none() {
                    observed.push(o.value);
                }
            }
        }
        cx.observed = observed;
        Ok(Changed::No)
    }
}
