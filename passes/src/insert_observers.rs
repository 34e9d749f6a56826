//! `insert-observers`: decides which values are watched during calibration.
//!
//! Watching does not rewire anything: the list is a side table that the executor is given. A value is
//! watched if a target could quantize it: an activation that a unit with an integer kernel reads or makes.
//! What lies inside a unit (between a Conv and the Relu it absorbs) and constants need no watching.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{resolve_target, sites, units};
use squint_ir::{Model, ValueTable};
use squint_targets::Support;

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
        let target = resolve_target(&cx.config.target)?;
        let sites = sites(model, cx)?;
        let mut seen = ValueTable::new();
        let mut observed = Vec::new();
        for unit in units(model.main(), target, &sites) {
            if !matches!(unit.support, Support::Integer { .. }) {
                continue;
            }
            for v in unit.reads.into_iter().chain(unit.makes) {
                if seen.insert(v, ()).is_none() {
                    observed.push(v);
                }
            }
        }
        cx.observed = observed;
        Ok(Changed::No)
    }
}
