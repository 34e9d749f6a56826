//! `squint calibrate`.

use super::failure::Failure;
use super::model_file::{Input, check_output};
use super::options::{DataFlags, known_target};
use super::progress::Bar;
use super::runtime::RuntimeFlags;
use super::talk::Talk;
use clap::Args;
use squint::passes::calibrate::NAME as CALIBRATE;
use squint::passes::calibration::Counting;
use squint::stats::{self, CalibrateOptions, DataRecord, Shard};
use squint::{Config, Hooks, Progress, Samples};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Measure the values of a model on calibration data, and keep the statistics in a file.
///
/// `squint quantize --stats` quantizes with them, by any method, without the data. The file is the same, byte
/// for byte, for any number of threads, and when parts made with `--shard` are merged.
#[derive(Args)]
pub(crate) struct Calibrate {
    #[command(flatten)]
    model: Input,
    /// The file to write, by custom `.stats`.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The runtime that the model will be quantized for: it decides which values are measured.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
    /// Measure only samples I, I + N, I + 2 N, ... (I from 0 to N - 1). Merge the parts with `squint stats
    /// merge`.
    #[arg(long, value_name = "I/N", default_value_t = Shard::WHOLE)]
    shard: Shard,
    /// Go on where an interrupted run of the same command stopped. Unfinished work is in OUTPUT.partial.
    #[arg(long)]
    resume: bool,
    /// Save unfinished work every so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    checkpoint: u64,
    /// Keep the extremes of each sample, too, for the method moving-average: it depends on the order of the
    /// samples, which statistics otherwise forget.
    #[arg(long)]
    keep_extremes: bool,
    /// Count every element. Of samples of 32,768 and more, otherwise, the histogram of a value counts the tails and an
    /// evenly spread part of the bulk, in half of the time.
    #[arg(long)]
    every_element: bool,
    /// Measure the channels of this value, too; `*` stands for any characters. Less than 1 KiB for each channel. May
    /// be given again.
    #[arg(long, value_name = "VALUE")]
    per_channel: Vec<String>,
    /// Threads that run samples. The result does not depend on it. [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

impl Calibrate {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let begun = Instant::now();
        check_output(&self.output, &self.model.path)?;
        let mut config = Config::new(known_target(&self.target)?);
        config.threads = self.threads.map(NonZeroUsize::get);
        let mut model = self.model.load_valid(talk)?;
        let data = self.data.open(&model, talk)?;
        let executor = self.runtime.executor(talk)?;
        let partial = partial(&self.output);
        let options = CalibrateOptions {
            shard: self.shard,
            each: self.keep_extremes,
            counting: if self.every_element { Counting::Every } else { Counting::Thinned },
            channels: self.per_channel.clone(),
            checkpoint: Some(partial.clone()),
            every: Duration::from_secs(self.checkpoint),
            resume: self.resume,
        };
        let bar = Bar::new(talk);
        let watch = Watch { bar: &bar, calibrating: OnceLock::new(), notes: Mutex::default() };
        let hooks = Hooks { progress: &watch, ..Hooks::default() };
        let about = DataRecord {
            source: self.data.data.join(" "),
            preprocessing: data.preprocessing(),
            total: data.len(),
        };
        let start = Instant::now();
        let done = stats::calibrate(&mut model, executor.as_ref(), &data, about, &options, &config, &hooks);
        bar.clear();
        let recording = done?;
        for note in watch.notes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            talk.say(format_args!("note: {note}"));
        }
        let measured = Instant::now();
        stats::write(&recording, &self.output)?;
        // A checkpoint that is left behind does no harm.
        let _ = std::fs::remove_file(&partial);
        talk.say(format_args!(
            "measured {} values of `{}` on {} of {} samples: `{}`",
            recording.names.len(),
            self.model.path.display(),
            recording.tally.done().len(),
            data.len(),
            self.output.display()
        ));
        let calibrating = watch.calibrating.get().copied().unwrap_or(measured);
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        let end = Instant::now();
        talk.say(format_args!(
            "  time {:.2} s (load {:.2}, optimize {:.2}, {CALIBRATE} {:.2}, save {:.2})",
            seconds(begun, end),
            seconds(begun, start),
            seconds(start, calibrating),
            seconds(calibrating, measured),
            seconds(measured, end),
        ));
        Ok(())
    }
}

/// Passes on to the bar, and keeps when samples begin to run and what is to be told at the end.
struct Watch<'a> {
    bar: &'a Bar,
    calibrating: OnceLock<Instant>,
    notes: Mutex<Vec<String>>,
}

impl Progress for Watch<'_> {
    fn pass(&self, name: &str) {
        if name == CALIBRATE {
            let _ = self.calibrating.set(Instant::now());
        }
        self.bar.pass(name);
    }

    fn samples(&self, done: usize, total: usize) {
        self.bar.samples(done, total);
    }

    fn note(&self, message: &str) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }
}

/// Where unfinished work is kept: beside the output, on the same file system.
fn partial(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".partial");
    name.into()
}
