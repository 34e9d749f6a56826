//! Runs the float graph on the user's data and sketches every observed value.
//!
//! Samples are independent, so threads take them one by one from a counter; each keeps sketches of its
//! own, and sketches merge exactly, so the statistics do not depend on the number of threads or on which
//! thread ran which sample. A thread holds one sample at a time. For a checkpoint the threads come together
//! after the samples that they are on, and begin again.

mod axis;
mod tally;

pub(crate) use axis::{axis, channel_axes};
pub use tally::{DataHash, First, Seen, Tally};

use crate::config::{Config, OperatorFormat};
use crate::float_graph::FloatGraph;
use crate::pass::PassError;
use crate::raise_qoperator;
use crate::report::Notes;
use crate::runner::Progress;
use crate::statistics::Statistics;
use squint_ir::execute::{Execute, Samples, Session};
use squint_ir::{Model, ValueId};
use std::borrow::Cow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Name of the stage.
pub const NAME: &str = "calibrate";

/// The model as an executor can run it: itself, or, where it holds operators on integers that the executor does not
/// have, a copy in which they are raised. The float values of a model that is compiled have the same ids in both.
fn runnable<'m>(model: &'m Model, executor: &dyn Execute) -> Result<Cow<'m, Model>, PassError> {
    if !raise_qoperator::occurs(model) || executor.preflight(model).is_empty() {
        return Ok(Cow::Borrowed(model));
    }
    let mut raised = model.clone();
    crate::pipeline::convert(&mut raised, OperatorFormat::Qdq, &mut Notes::default())?;
    Ok(Cow::Owned(raised))
}

/// Makes the model ready to run, with `observed`, values of the main graph, exposed. Operators on integers that the
/// executor does not have are raised before.
///
/// # Errors
/// If the executor refuses the model.
pub fn prepare<'e>(
    model: &Model,
    observed: &[ValueId],
    executor: &'e dyn Execute,
) -> Result<Box<dyn Session + 'e>, PassError> {
    let model = runnable(model, executor)?;
    let refused = executor.preflight(&model);
    if !refused.is_empty() {
        return Err(PassError::Unsupported { executor: executor.name(), problem: refusal(&refused) });
    }
    Ok(executor.prepare(&model, observed)?)
}

/// Statistics of `observed` over all samples, in a graph that exposes them. Samples that have been seen
/// already, if some `begun` has, are not run again.
///
/// # Errors
/// If there is no sample, one cannot be read or does not fit, or the executor fails.
pub(crate) fn calibrate(
    model: &Model,
    observed: &[ValueId],
    float: &FloatGraph<'_>,
    samples: &dyn Samples,
    begun: Option<Tally>,
    config: &Config,
    progress: &dyn Progress,
) -> Result<Statistics, PassError> {
    let each = config.method.depends_on_order();
    let mut tally = begun.unwrap_or_else(|| Tally::new(observed.len(), each));
    let indices: Vec<usize> = (0..samples.len()).filter(|i| !tally.done().contains(i)).collect();
    let run = Run { float, samples, threads: threads(config), progress, hash: false };
    run.take(&indices, &mut tally, None)?;
    Ok(tally.statistics(model, observed))
}

/// Worker threads to use: as many as the configuration says, or one per core.
pub fn threads(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.threads.unwrap_or_else(cores).max(1)
}

/// What is run, and how.
pub(crate) struct Run<'a> {
    /// The float graph, with the values of the tally exposed.
    pub(crate) float: &'a FloatGraph<'a>,
    /// The data.
    pub(crate) samples: &'a dyn Samples,
    /// Worker threads.
    pub(crate) threads: usize,
    /// Who watches.
    pub(crate) progress: &'a dyn Progress,
    /// Whether samples are hashed, too.
    pub(crate) hash: bool,
}

/// What is done with unfinished work, so that it is not lost.
pub(crate) struct Checkpoint<'a> {
    /// At least so much time lies between two.
    pub(crate) every: Duration,
    /// Stores what has been seen so far.
    pub(crate) save: &'a mut dyn FnMut(&Tally) -> Result<(), PassError>,
}

impl Run<'_> {
    /// Runs the samples of these numbers and adds what is seen to `tally`.
    ///
    /// # Errors
    /// As [`calibrate`](calibrate()); and if a checkpoint cannot be saved.
    pub(crate) fn take(
        &self,
        indices: &[usize],
        tally: &mut Tally,
        mut checkpoint: Option<Checkpoint<'_>>,
    ) -> Result<(), PassError> {
        if self.samples.is_empty() {
            return Err(PassError::Data("the calibration data has no sample".into()));
        }
        let mut rest = indices;
        while !rest.is_empty() {
            let deadline = checkpoint.as_ref().and_then(|c| Instant::now().checked_add(c.every));
            let work = Work {
                run: self,
                empty: tally.emptied(),
                indices: rest,
                deadline,
                shared: Shared::default(),
            };
            let before = indices.len() - rest.len();
            let parts = work.run(self.threads.min(rest.len()), before, indices.len());
            if let Some((_, e)) = into_inner(work.shared.failure) {
                return Err(e);
            }
            for part in &parts {
                tally.merge(part);
            }
            let taken = work.shared.next.into_inner().min(rest.len());
            rest = &rest[taken..];
            if let Some(c) = &mut checkpoint
                && !rest.is_empty()
            {
                (c.save)(tally)?;
            }
        }
        Ok(())
    }
}

/// Samples up to the next checkpoint.
struct Work<'a> {
    run: &'a Run<'a>,
    /// What a thread begins with.
    empty: Tally,
    indices: &'a [usize],
    deadline: Option<Instant>,
    shared: Shared,
}

/// What threads share.
#[derive(Default)]
struct Shared {
    /// Position of the next sample in the list.
    next: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
    /// The failure of the earliest sample, so that the message does not depend on threads.
    failure: Mutex<Option<(usize, PassError)>>,
}

impl Work<'_> {
    /// What each thread saw; `before` samples of `total` have been run already.
    fn run(&self, threads: usize, before: usize, total: usize) -> Vec<Tally> {
        let parts = Mutex::new(Vec::new());
        std::thread::scope(|s| {
            for _ in 1..threads {
                s.spawn(|| self.take_all(&parts, before, total));
            }
            self.take_all(&parts, before, total);
        });
        into_inner(parts)
    }

    fn take_all(&self, parts: &Mutex<Vec<Tally>>, before: usize, total: usize) {
        let mut tally = self.empty.emptied();
        // One sample at least, so that every round makes progress.
        while !self.shared.stop.load(Ordering::Relaxed)
            && (tally.done().is_empty() || self.deadline.is_none_or(|d| Instant::now() < d))
        {
            let next = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(&sample) = self.indices.get(next) else { break };
            match self.one(sample, &mut tally) {
                Ok(()) => {
                    let done = self.shared.done.fetch_add(1, Ordering::Relaxed) + 1;
                    self.run.progress.samples(before + done, total);
                }
                Err(e) => {
                    self.shared.stop.store(true, Ordering::Relaxed);
                    let mut failure = lock(&self.shared.failure);
                    if failure.as_ref().is_none_or(|(f, _)| next < *f) {
                        *failure = Some((next, e));
                    }
                }
            }
        }
        lock(parts).push(tally);
    }

    fn one(&self, i: usize, tally: &mut Tally) -> Result<(), PassError> {
        let sample = self.run.samples.get(i).map_err(PassError::Data)?;
        tally.begin(i, &sample, self.run.hash);
        let observe = &mut |slot: usize, dims: &[usize], data: &[f32]| tally.observe(i, slot, dims, data);
        Ok(self.run.float.run(i, &sample, observe)?)
    }
}

/// The first few of the operators that an executor refuses, as users are told.
pub(crate) fn refusal(refused: &[squint_ir::execute::Unsupported]) -> String {
    let shown: Vec<String> =
        refused.iter().take(5).map(|u| format!("`{}` ({}): {}", u.node, u.op_type, u.reason)).collect();
    let more = if refused.len() > 5 { format!("; and {} more", refused.len() - 5) } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

/// A poisoned lock means that another thread panicked; its panic is reported where it is joined.
fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn into_inner<T>(m: Mutex<T>) -> T {
    m.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
