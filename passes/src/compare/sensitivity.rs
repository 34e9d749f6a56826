//! How much each value's quantization alone changes the outputs: measured at the outputs, never guessed from weights.
//!
//! For each sample the float network is run once, then the quantized one with every value replaced by its float form
//! as soon as it is made: what it made before that is the value with its own weights and its own rounding quantized,
//! and nothing else. Each such value is then put into the float network by itself, and what becomes of the outputs is
//! that value's effect. What only a clamp reads and nothing rounds is no value by itself: the clamp vanishes into the
//! operator before it, whose weights are those of the clamped value. An executor that can computes what lies before the
//! change once for all values ([`Session::run_each`]).

use super::metrics::{Meaning, OutputError};
use super::run::{Pair, Subjects, compare_outputs};
use crate::calibrate::threads;
use crate::config::Config;
use crate::pass::PassError;
use crate::runner::Progress;
use rayon::prelude::*;
use squint_ir::execute::{Execute, Sample, Samples, Session};
use squint_ir::{Graph, Model};

/// The effect of each value, the worst first.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Samples run.
    pub samples: usize,
    /// Effects by error, the largest first.
    pub effects: Vec<Effect>,
}

/// What quantizing one value does to the outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// The value's name in the float model after fusion.
    pub value: String,
    /// Name of the node that makes it; empty for an input.
    pub node: String,
    /// Type of that operator; empty for an input.
    pub op_type: String,
    /// Energy of the difference over energy of the float output, the mean over outputs.
    pub error: f64,
    /// Mean Kullback–Leibler divergence in nats, where an output is scores or probabilities of classes.
    pub kl: Option<f64>,
}

/// Sums over outputs.
type Sums = Vec<Option<OutputError>>;

/// Measures the effect of each quantized value of `quantized`, a model that was made from `float`.
///
/// # Errors
/// If a model is not well-formed, the executor cannot run it, or the data does not fit.
pub fn sensitivity(
    float: &Model,
    quantized: &Model,
    executor: &dyn Execute,
    samples: &dyn Samples,
    config: &Config,
    progress: &dyn Progress,
) -> Result<Sensitivity, PassError> {
    if samples.is_empty() {
        return Err(PassError::Data("the data has no sample".into()));
    }
    progress.pass("match values");
    let subjects = Subjects::new(float, quantized, config)?;
    progress.pass("sensitivity");
    let [f, q] = subjects.sessions(executor)?;
    let meanings = subjects.meanings();
    let g = subjects.float.main();
    let apart: Vec<bool> = subjects.pairs.iter().map(|p| !vanishes(g, p)).collect();
    let sessions = Sessions { float: f.as_ref(), quantized: q.as_ref(), meanings: &meanings, apart: &apart };
    let values = subjects.pairs.len();
    let mut totals: Vec<Option<Sums>> = vec![None; values];
    let threads = threads(config).min(samples.len());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| PassError::Config(format!("threads for sensitivity: {e}")))?;
    let indices: Vec<usize> = (0..samples.len()).collect();
    // Sums are added in the order of samples, whichever thread took which.
    for chunk in indices.chunks(threads) {
        let one = |i: &usize| sessions.effects(&samples.get(*i).map_err(PassError::Data)?, values);
        for part in pool.install(|| chunk.par_iter().map(one).collect::<Vec<_>>()) {
            for (slot, sums) in part? {
                match &mut totals[slot] {
                    Some(total) => add(total, &sums),
                    total => *total = Some(sums),
                }
            }
        }
        progress.samples(chunk[chunk.len() - 1] + 1, samples.len());
    }
    let found = subjects.pairs.iter().zip(&totals).filter_map(|(p, sums)| Some((p.float, sums.as_ref()?)));
    let mut effects: Vec<Effect> = found
        .map(|(v, sums)| {
            let maker = g.producer(v).map(|(op, _)| op);
            Effect {
                value: g.value(v).name().to_owned(),
                node: maker.map(|op| g.label(op)).unwrap_or_default(),
                op_type: maker.map(|op| g.op(op).qualified_type()).unwrap_or_default(),
                error: mean_error(sums),
                kl: mean_divergence(sums),
            }
        })
        .collect();
    // A stable sort: equals stay in order of execution.
    effects.sort_by(|a, b| b.error.total_cmp(&a.error));
    Ok(Sensitivity { samples: samples.len(), effects })
}

/// Whether a value is part of the clamped one behind it.
fn vanishes(g: &Graph, pair: &Pair) -> bool {
    let reader = g.only_use(pair.float).map(|u| g.op(u.op));
    !pair.rounded && reader.is_some_and(|op| op.is("Relu") || op.is("Clip"))
}

struct Sessions<'a> {
    float: &'a dyn Session,
    quantized: &'a dyn Session,
    meanings: &'a [Meaning],
    /// Whether each value is one by itself.
    apart: &'a [bool],
}

impl Sessions<'_> {
    /// What each value that is quantized does to the outputs of one sample.
    fn effects(&self, sample: &Sample, values: usize) -> Result<Vec<(usize, Sums)>, PassError> {
        let mut exact: Vec<Vec<f32>> = vec![Vec::new(); values];
        self.float.run(sample, &mut |slot, _, data| {
            exact[slot] = data.to_vec();
            None
        })?;
        let mut changes: Vec<Option<Vec<f32>>> = vec![None; values];
        self.quantized.run(sample, &mut |slot, _, data| {
            if exact[slot].len() != data.len() || !self.apart[slot] {
                return None;
            }
            if exact[slot] != data {
                changes[slot] = Some(data.to_vec());
            }
            Some(std::mem::take(&mut exact[slot]))
        })?;
        let groups: Vec<Vec<usize>> =
            (0..values).filter(|slot| changes[*slot].is_some()).map(|s| vec![s]).collect();
        let mut outputs = vec![Vec::new(); groups.len()];
        let change = |slot: usize, _: &[usize], _: &[f32]| changes[slot].clone();
        let reference =
            self.float.run_each(sample, &groups, &change, &mut |i, changed| outputs[i] = changed)?;
        let compared = groups.iter().zip(outputs);
        Ok(compared.map(|(slots, o)| (slots[0], compare_outputs(&reference, &o, self.meanings))).collect())
    }
}

fn add(total: &mut Sums, more: &Sums) {
    for (total, more) in total.iter_mut().zip(more) {
        match (total, more) {
            (Some(total), Some(more)) => total.add(more),
            (total, more) => *total = total.or(*more),
        }
    }
}

/// Energy of the difference over energy of the float output, the mean over outputs; 1 for what is not finite.
pub fn mean_error(outputs: &[Option<OutputError>]) -> f64 {
    let errors: Vec<f64> = outputs.iter().flatten().map(|o| o.error.relative()).collect();
    let finite = errors.iter().map(|e| if e.is_finite() { *e } else { 1.0 });
    finite.sum::<f64>() / errors.len().max(1) as f64
}

fn mean_divergence(outputs: &[Option<OutputError>]) -> Option<f64> {
    let all: Vec<f64> = outputs.iter().flatten().filter_map(|o| Some(o.classes?.kl())).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}
