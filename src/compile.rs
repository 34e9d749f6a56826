//! The compiler with its usual executor.

use crate::{Error, Hooks, Tract};
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_passes::config::{Config, OperatorFormat};
use squint_passes::pipeline;
use squint_passes::plan::QuantPlan;
use squint_passes::recording::Recording;
use squint_passes::report::{Note, Notes, Report};

/// Quantizes a model statically, with ranges from running it on `samples` in the embedded executor.
///
/// # Errors
/// If the model is not well-formed, the data does not fit it, or the executor cannot run it.
pub fn quantize(model: &mut Model, samples: &dyn Samples, config: &Config) -> Result<Report, Error> {
    quantize_with(model, &Tract, samples, config, &Hooks::default())
}

/// Quantizes a model statically with an executor of one's own, and with hooks around each pass.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_with(
    model: &mut Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Report, Error> {
    Ok(pipeline::quantize(model, executor, samples, config, hooks)?)
}

/// Decides what would be quantized, and leaves the fused float graph in `model`.
///
/// # Errors
/// As [`quantize`].
pub fn plan(
    model: &mut Model,
    samples: &dyn Samples,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, QuantPlan), Error> {
    Ok(pipeline::plan(model, &Tract, samples, config, hooks)?)
}

/// Quantizes a model statically, with statistics measured before (see [`crate::stats`]).
///
/// # Errors
/// If the model is not well-formed, or the statistics are of another graph.
pub fn quantize_recorded(
    model: &mut Model,
    recording: &Recording,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Report, Error> {
    Ok(pipeline::quantize_recorded(model, recording, config, hooks)?)
}

/// Decides what would be quantized with statistics measured before, and leaves the fused float graph in `model`.
///
/// # Errors
/// As [`quantize_recorded`].
pub fn plan_recorded(
    model: &mut Model,
    recording: &Recording,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, QuantPlan), Error> {
    Ok(pipeline::plan_recorded(model, recording, config, hooks)?)
}

/// Quantizes a model without data: activations are quantized in every run, by operators that can do that
/// ([`Scheme::Dynamic`](crate::Scheme::Dynamic), which the configuration must ask for).
///
/// # Errors
/// If the model is not well-formed, or another scheme is asked for.
pub fn quantize_dynamic(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Report, Error> {
    Ok(pipeline::quantize_dynamic(model, config, hooks)?)
}

/// Decides what would be quantized without data, and leaves the fused float graph in `model`.
///
/// # Errors
/// As [`quantize_dynamic`].
pub fn plan_dynamic(
    model: &mut Model,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<(Report, QuantPlan), Error> {
    Ok(pipeline::plan_dynamic(model, config, hooks)?)
}

/// Rewrites the float graph only: constants folded, operators fused, dead code removed.
///
/// # Errors
/// If the model is not well-formed.
pub fn optimize(model: &mut Model, config: &Config, hooks: &Hooks<'_>) -> Result<Report, Error> {
    Ok(pipeline::optimize(model, config, hooks)?)
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
