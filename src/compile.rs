//! The compiler with its usual executor.

use crate::{Error, Hooks, Progress, Tract};
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_passes::compare::{self, Comparison};
use squint_passes::config::{Config, OperatorFormat};
use squint_passes::evidence::Evidence;
use squint_passes::pipeline::{self, RuleTrace};
use squint_passes::plan::QuantPlan;
use squint_passes::predict::Forecast;
use squint_passes::report::{Note, Notes, Report};
use squint_passes::retarget::Retargeted;

/// Quantizes a model statically, with ranges from running it on `samples` in the embedded executor.
///
/// # Errors
/// If the model is not well-formed, the data does not fit it, or the executor cannot run it.
pub fn quantize(model: &mut Model, samples: &dyn Samples, config: &Config) -> Result<Report, Error> {
    quantize_with(model, Evidence::samples(&Tract, samples), config, &Hooks::default())
}

/// Quantizes a model by any evidence: samples and an executor of one's own, statistics measured before (see
/// [`crate::stats`]), ranges of another tool, or none for [`Scheme::Dynamic`](crate::Scheme::Dynamic); with
/// hooks around each pass.
///
/// # Errors
/// As [`quantize`]; and if the statistics are of another graph.
pub fn quantize_with(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Report, Error> {
    Ok(pipeline::quantize(model, evidence, config, hooks)?)
}

/// Compiles a model that is quantized already, by whatever tool or by training, for a target. Scales and integers are
/// kept where the target can express them; nothing is measured.
///
/// # Errors
/// If the model is not well-formed, or has no quantizers to take scales from.
pub fn retarget(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Retargeted, Error> {
    retarget_with(model, Evidence::default(), config, hooks)
}

/// As [`retarget`], and values that have no scale where the target wants one get it from evidence: samples, or
/// statistics of the same model.
///
/// # Errors
/// As [`retarget`] and [`quantize_with`].
pub fn retarget_with(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Retargeted, Error> {
    Ok(pipeline::retarget(model, evidence, config, hooks)?)
}

/// Decides what would be quantized, and leaves the fused float graph in `model`.
///
/// # Errors
/// As [`quantize_with`].
pub fn plan(
    model: &mut Model,
    evidence: Evidence<'_>,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, QuantPlan), Error> {
    Ok(pipeline::plan(model, evidence, config, hooks)?)
}

/// Compares a quantized model, whatever tool wrote it, with its float model: at the outputs and value by value.
/// `histograms` asks for the distributions of values, too.
///
/// # Errors
/// If a model is not well-formed, the executor cannot run it, or the data does not fit.
pub fn compare(
    float: &Model,
    quantized: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    histograms: bool,
    config: &Config,
    progress: &dyn Progress,
) -> Result<Comparison, Error> {
    Ok(compare::compare(float, quantized, executor, samples, histograms, config, progress)?)
}

/// Rewrites the float graph only: constants folded, operators fused, dead code removed.
///
/// # Errors
/// If the model is not well-formed.
pub fn optimize(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Report, Error> {
    Ok(pipeline::optimize(model, config, hooks)?)
}

/// As [`optimize`], and where a rule of fusion applied, or why it did not.
///
/// # Errors
/// As [`optimize`]; and if there is no rule of this name.
pub fn optimize_traced(
    model: &mut Model,
    rule: &str,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, RuleTrace), Error> {
    Ok(pipeline::optimize_traced(model, rule, config, hooks)?)
}

/// Writes the quantized operators of a model in one format, and changes nothing else. Returns what stays in the other,
/// with the reasons.
///
/// # Errors
/// If the model is not well-formed, or its operator set is too old to say it.
pub fn convert(model: &mut Model, format: OperatorFormat) -> Result<Vec<Note>, Error> {
    let mut notes = Notes::default();
    pipeline::convert(model, format, &mut notes)?;
    Ok(notes.iter().cloned().collect())
}

/// What the runtime of a target will make of a model as it is, quantized or not, by whatever tool.
///
/// # Errors
/// If there is no such target, or it predicts nothing, or the model is not well-formed.
pub fn predict(model: &Model, target: &str) -> Result<Forecast, Error> {
    Ok(squint_passes::predict::predict(model, target)?)
}
