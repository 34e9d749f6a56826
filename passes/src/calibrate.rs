//! Runs the float graph on the user's data and sketches every observed value.
//!
//! Samples are independent, so threads take them one by one from a counter; each keeps sketches of its
//! own, and sketches merge exactly, so the statistics do not depend on the number of threads or on which
//! thread ran which sample. A thread holds one sample at a time.

use crate::calibration::Sketch;
use crate::config::Config;
use crate::pass::PassError;
use crate::runner::Progress;
use crate::statistics::Statistics;
use squint_ir::execute::{Execute, Samples, Session};
use squint_ir::{Model, ValueId};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Name of the stage.
pub const NAME: &str = "calibrate";

/// Makes a model ready to run with `observed`, values of its main graph, exposed.
///
/// # Errors
/// If the executor cannot run the model, with the nodes that are at fault.
pub fn prepare<'m>(
    model: &'m Model,
    observed: &[ValueId],
    executor: &'m dyn Execute,
) -> Result<Box<dyn Session + 'm>, PassError> {
    let refused = executor.preflight(model);
    if !refused.is_empty() {
        return Err(PassError::Config(refusal(executor.name(), &refused)));
    }
    Ok(executor.prepare(model, observed)?)
}

/// Statistics of `observed`, the values that `session` exposes, over all samples.
///
/// # Errors
/// If there is no sample, one cannot be read or does not fit, or the executor fails.
pub fn calibrate(
    model: &Model,
    observed: &[ValueId],
    session: &dyn Session,
    samples: &dyn Samples,
    config: &Config,
    progress: &dyn Progress,
) -> Result<Statistics, PassError> {
    if samples.is_empty() {
        return Err(PassError::Data("the calibration data has no sample".into()));
    }
    let work = Work::new(session, samples, progress);
    let threads = threads(config).min(samples.len());
    let parts = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 1..threads {
            s.spawn(|| work.take_all(observed.len(), &parts));
        }
        work.take_all(observed.len(), &parts);
    });
    if let Some((_, e)) = into_inner(work.failure) {
        return Err(e);
    }
    let mut total = vec![Seen::default(); observed.len()];
    for part in into_inner(parts) {
        for (all, one) in total.iter_mut().zip(part) {
            all.merge(one);
        }
    }
    let mut statistics = Statistics { samples: samples.len(), ..Statistics::default() };
    for (v, seen) in observed.iter().zip(total) {
        statistics.sketches.insert(*v, seen.sketch);
        if let Some((_, dims)) = seen.dims {
            statistics.dims.insert(*v, dims);
        }
    }
    for (name, dims) in into_inner(work.first) {
        if let Some(v) = model.main().value_named(&name) {
            statistics.dims.insert(v, dims);
        }
    }
    Ok(statistics)
}

/// Worker threads to use.
pub(crate) fn threads(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.threads.unwrap_or_else(cores).max(1)
}

/// What was seen of one value.
#[derive(Clone, Default)]
struct Seen {
    sketch: Sketch,
    /// Dimensions, with the sample they come from: the first one counts.
    dims: Option<(usize, Vec<usize>)>,
}

impl Seen {
    fn merge(&mut self, other: Seen) {
        self.sketch.merge(&other.sketch);
        if let Some((sample, dims)) = other.dims
            && self.dims.as_ref().is_none_or(|(s, _)| sample < *s)
        {
            self.dims = Some((sample, dims));
        }
    }
}

struct Work<'a> {
    session: &'a dyn Session,
    samples: &'a dyn Samples,
    progress: &'a dyn Progress,
    next: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
    /// The failure of the earliest sample, so that the message does not depend on threads.
    failure: Mutex<Option<(usize, PassError)>>,
    /// Inputs of the first sample with their dimensions.
    first: Mutex<Vec<(String, Vec<usize>)>>,
}

impl<'a> Work<'a> {
    fn new(session: &'a dyn Session, samples: &'a dyn Samples, progress: &'a dyn Progress) -> Work<'a> {
        let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Work {
            session,
            samples,
            progress,
            next,
            done,
            stop,
            failure: Mutex::new(None),
            first: Mutex::new(Vec::new()),
        }
    }

    fn take_all(&self, n: usize, parts: &Mutex<Vec<Vec<Seen>>>) {
        let mut seen = vec![Seen::default(); n];
        while !self.stop.load(Ordering::Relaxed) {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.samples.len() {
                break;
            }
            match self.one(i, &mut seen) {
                Ok(()) => {
                    let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
                    self.progress.samples(done, self.samples.len());
                }
                Err(e) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let mut failure = lock(&self.failure);
                    if failure.as_ref().is_none_or(|(f, _)| i < *f) {
                        *failure = Some((i, e));
                    }
                }
            }
        }
        lock(parts).push(seen);
    }

    fn one(&self, i: usize, seen: &mut [Seen]) -> Result<(), PassError> {
        let sample = self.samples.get(i).map_err(PassError::Data)?;
        if i == 0 {
            *lock(&self.first) = sample.iter().map(|(name, t)| (name.clone(), t.dims().to_vec())).collect();
        }
        self.session.run(&sample, &mut |slot, dims, data| {
            let s = &mut seen[slot];
            s.sketch.observe(data);
            if s.dims.as_ref().is_none_or(|(first, _)| i < *first) {
                s.dims = Some((i, dims.to_vec()));
            }
            None
        })?;
        Ok(())
    }
}

fn refusal(executor: &str, refused: &[squint_ir::execute::Unsupported]) -> String {
    let shown: Vec<String> =
        refused.iter().take(5).map(|u| format!("`{}` ({}): {}", u.node, u.op_type, u.reason)).collect();
    let more = if refused.len() > 5 { format!("; and {} more", refused.len() - 5) } else { String::new() };
    format!("{executor} cannot run this model for calibration: {}{more}", shown.join("; "))
}

/// A poisoned lock means that another thread panicked; its panic is reported where it is joined.
fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn into_inner<T>(m: Mutex<T>) -> T {
    m.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
