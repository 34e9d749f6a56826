//! Measures a model on data, with checkpoints.

use super::{Recording, Shard, file};
use crate::Error;
use squint_ir::Model;
use squint_ir::execute::{Execute, Samples};
use squint_passes::calibration::Counting;
use squint_passes::config::Config;
use squint_passes::pipeline::{self, Part};
use squint_passes::recording::DataRecord;
use squint_passes::runner::Hooks;
use std::path::PathBuf;
use std::time::Duration;

/// Which part is measured, and how it survives an interruption.
#[derive(Clone, Debug, Default)]
pub struct CalibrateOptions {
    /// The part.
    pub shard: Shard,
    /// Whether the extremes of each sample are kept, for methods that depend on the order of samples.
    pub each: bool,
    /// Which elements of large samples are counted.
    pub counting: Counting,
    /// Names of values, with `*` for any characters, of which channels are told apart, too.
    pub channels: Vec<String>,
    /// Where unfinished work is kept; `None` to keep none.
    pub checkpoint: Option<PathBuf>,
    /// Time between checkpoints.
    pub every: Duration,
    /// Go on from the checkpoint, if there is one.
    pub resume: bool,
}

/// Measures the values of a model that its target could quantize. The result is the same, to the bit, for any
/// number of threads, and for any way to share the samples out and merge the parts.
///
/// `data` says what the samples are; their number is filled in.
///
/// # Errors
/// If the model is not well-formed, the data does not fit it, the executor cannot run it, or the checkpoint
/// belongs to something else or cannot be written.
pub fn calibrate(
    model: &mut Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    data: DataRecord,
    options: &CalibrateOptions,
    config: &Config,
    hooks: &Hooks<'_>,
) -> Result<Recording, Error> {
    let begun = match &options.checkpoint {
        Some(path) if options.resume && path.exists() => Some(file::read(path)?),
        _ => None,
    };
    let save = |recording: &Recording| match &options.checkpoint {
        Some(path) => file::write(recording, path).map_err(|e| e.to_string()),
        None => Ok(()),
    };
    let part = Part {
        data: DataRecord { total: samples.len(), ..data },
        indices: options.shard.indices(samples.len()),
        each: options.each,
        counting: options.counting,
        channels: &options.channels,
        begun: begun.as_ref(),
        every: options.checkpoint.as_ref().map(|_| options.every),
        save: &save,
    };
    Ok(pipeline::record(model, executor, samples, part, config, hooks)?)
}
