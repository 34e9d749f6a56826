//! `raise-opset`: brings the model to an operator set that can say what the target needs.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::Model;

/// The pass.
pub(crate) struct RaiseOpset;

impl Pass for RaiseOpset {
    fn name(&self) -> &'static str {
        "raise-opset"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, _: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        Ok(Changed::No)
    }
}
