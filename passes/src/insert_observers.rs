//! `insert-observers`: decides which values are watched during calibration.
//!
//! Watching does not rewire anything: the list is a side table that the executor is given. A value is
//! watched if some target could quantize it: an activation that a unit with an integer kernel reads or makes, or that an
//! operator could quantize in every run.
//! What lies inside a unit (between a Conv and the Relu it absorbs) and constants need no watching, nor do results where the
//! target quantizes operands only.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{dynamic_reads, resolve_target, sites, units};
use squint_ir::{Model, ValueTable};
use squint_targets::{Placement, Support, targets};

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
        resolve_target(&cx.config.target)?;
        let sites = sites(model, cx)?;
        let mut seen = ValueTable::new();
        let mut observed = Vec::new();
        // Of all targets, so that one calibration serves them all.
        for target in targets() {
            let results = target.placement() == Placement::Regions;
            for unit in units(model.main(), cx, target, &sites) {
                let mut watched = Vec::new();
                if matches!(unit.support, Support::Integer { .. }) {
                    watched.extend(&unit.reads);
                    watched.extend(unit.makes.iter().filter(|_| results));
                }
                if let Some(kernel) = &unit.dynamic {
                    watched.extend(dynamic_reads(&sites[unit.site].1, kernel));
                }
                observed.extend(watched.into_iter().filter(|v| seen.insert(*v, ()).is_none()));
            }
        }
        cx.observed = observed;
        Ok(Changed::No)
    }
}
