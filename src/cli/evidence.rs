//! What ranges are found by: data, statistics, or ranges of another tool.

use super::failure::Failure;
use super::options::DataFlags;
use super::runtime::RuntimeFlags;
use super::stats::{note_missing, read_all};
use super::talk::Talk;
use clap::Args;
use squint::ir::execute::Execute;
use squint::stats::{Recording, cache};
use squint::{Config, Dataset, Evidence, GivenRanges, Known, Model, Samples, Scheme};
use std::path::PathBuf;

/// Data, what takes its place, and what runs it.
#[derive(Args)]
pub(crate) struct EvidenceFlags {
    #[command(flatten)]
    data: DataFlags,
    /// Use statistics that `squint calibrate` measured. Several files are parts of one calibration. With
    /// `--data` besides, nothing is measured again, but plans are tried on that data.
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Calibration data")]
    stats: Vec<PathBuf>,
    /// Use the ranges in another tool's calibration cache: TensorRT's, or the JSON of ONNX Runtime's
    /// `quantize_static(calibration_cache_path=...)`. With `--data` besides, plans are tried on that data.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["stats", "method"],
        help_heading = "Calibration data"
    )]
    cache: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// The evidence, read and opened.
pub(crate) struct Material {
    known: Option<Read>,
    data: Option<(Box<dyn Execute>, Dataset)>,
}

enum Read {
    Recording(Box<Recording>),
    Ranges(GivenRanges),
}

impl EvidenceFlags {
    /// Whether nothing is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.data.is_empty() && self.stats.is_empty() && self.cache.is_none()
    }

    /// How many samples the data is cut down to, if it is.
    pub(crate) fn samples(&self) -> Option<usize> {
        self.data.samples()
    }

    /// Reads what is given; without anything, says how to give data.
    ///
    /// # Errors
    /// If something cannot be read or does not fit the model, or the executor cannot be loaded.
    pub(crate) fn read(&self, model: &Model, config: &Config, talk: &Talk) -> Result<Material, Failure> {
        let known = match &self.cache {
            Some(path) => Some(Read::Ranges(cache::read(path)?)),
            None if self.stats.is_empty() => None,
            None => {
                let recording = read_all(&self.stats)?;
                note_missing(&recording, talk);
                Some(Read::Recording(Box::new(recording)))
            }
        };
        if known.is_some() && self.data.data.is_empty() {
            if config.effort > 0 {
                talk.say(format_args!(
                    "note: without data no plan is tried, and ranges and placement follow from the statistics alone; \
                     with `--data` besides they are tried on samples"
                ));
            }
            return Ok(Material { known, data: None });
        }
        let rounding = config.blocks.rounding;
        if config.scheme == Scheme::WeightOnly && rounding.needs_samples() {
            if self.data.data.is_empty() {
                return Err(Failure::with_help(
                    format!(
                        "`--weight-rounding {rounding}` needs calibration data: it looks at what products read"
                    ),
                    "give some typical inputs with `--data PATH`; `--weight-rounding nearest` needs none",
                ));
            }
            let data = self.data.open(model, talk)?;
            return Ok(Material { known, data: Some((self.runtime.executor(talk)?, data)) });
        }
        let needs_none = matches!(config.scheme, Scheme::Dynamic | Scheme::WeightOnly);
        if known.is_none() && self.data.data.is_empty() && needs_none {
            return Ok(Material { known: None, data: None });
        }
        let data = self.data.open(model, talk)?;
        Ok(Material { known, data: Some((self.runtime.executor(talk)?, data)) })
    }
}

impl Material {
    pub(crate) fn evidence(&self) -> Evidence<'_> {
        Evidence {
            known: self.known.as_ref().map(|k| match k {
                Read::Recording(r) => Known::Recording(r),
                Read::Ranges(r) => Known::Ranges(r),
            }),
            samples: self.data.as_ref().map(|(executor, data)| (executor.as_ref(), data as &dyn Samples)),
        }
    }

    /// What was done to the data before the model saw it.
    pub(crate) fn preprocessing(&self) -> String {
        match (&self.known, &self.data) {
            (Some(Read::Recording(r)), _) => r.data.preprocessing.clone(),
            (Some(Read::Ranges(r)), None) => format!("ranges of {}", r.source),
            (_, Some((_, data))) => data.preprocessing(),
            (None, None) => String::new(),
        }
    }
}
