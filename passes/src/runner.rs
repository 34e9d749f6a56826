//! Runs passes in order, with hooks around each: verify, dump, time, limit.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::Model;
use squint_ir::verify::{Severity, verify};
use std::time::Instant;

/// What happens around passes.
pub struct Hooks<'a> {
    /// Told of each pass and of calibration samples.
    pub progress: &'a dyn Progress,
    /// Called with a number, the name of the pass and the model after it.
    pub dump: Option<Dump<'a>>,
    /// Verify the model after every pass, not only at the ends.
    pub verify: bool,
    /// Stop after so many passes.
    pub limit: Option<usize>,
}

/// Takes the number of a pass, its name and the model after it.
pub type Dump<'a> = &'a dyn Fn(usize, &str, &Model);

/// Watches a compilation.
pub trait Progress: Sync {
    /// A pass begins.
    fn pass(&self, name: &str);
    /// So many calibration samples of so many are done; called from several threads.
    fn samples(&self, done: usize, total: usize);
    /// Something that the user should be told, where there is no report to put it in.
    fn note(&self, _message: &str) {}
}

/// Watches nothing.
pub struct Silent;

impl Progress for Silent {
    fn pass(&self, _: &str) {}
    fn samples(&self, _: usize, _: usize) {}
}

impl Default for Hooks<'_> {
    fn default() -> Self {
        Hooks { progress: &Silent, dump: None, verify: cfg!(debug_assertions), limit: None }
    }
}

/// Runs passes and returns each with the seconds it took.
///
/// # Errors
/// The first failure of a pass, or what the verifier finds: before the first pass the user's fault, after
/// it ours.
pub fn run(
    passes: &[&dyn Pass],
    model: &mut Model,
    cx: &mut PassCx<'_>,
    hooks: &Hooks<'_>,
) -> Result<Vec<(&'static str, f64)>, PassError> {
    check(model, None)?;
    let mut timing = Vec::new();
    // Lists follow each other: the first pass of one begins where the list before it ended.
    let mut phase = passes.first().map_or(Phase::Imported, |p| p.needs());
    for (i, pass) in passes.iter().enumerate().take(hooks.limit.unwrap_or(usize::MAX)) {
        debug_assert!(pass.needs() <= phase, "invariant: `{}` runs at {:?}", pass.name(), pass.needs());
        hooks.progress.pass(pass.name());
        let start = Instant::now();
        let changed = pass.run(model, cx)?;
        timing.push((pass.name(), start.elapsed().as_secs_f64()));
        phase = pass.reaches().unwrap_or(phase).max(phase);
        if hooks.verify && changed == Changed::Yes {
            check(model, Some(pass.name()))?;
        }
        if let Some(dump) = hooks.dump {
            dump(i, pass.name(), model);
        }
    }
    check(model, passes.last().map(|p| p.name()))?;
    Ok(timing)
}

fn check(model: &Model, after: Option<&str>) -> Result<(), PassError> {
    let errors: Vec<String> =
        verify(model).into_iter().filter(|v| v.severity == Severity::Error).map(|v| v.to_string()).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let shown = errors.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = if errors.len() > 5 { format!("; and {} more", errors.len() - 5) } else { String::new() };
    Err(PassError::Model(match after {
        None => format!("the model is not valid: {shown}{more}"),
        Some(pass) => format!("this is a fault of squint: after pass `{pass}`: {shown}{more}"),
    }))
}
