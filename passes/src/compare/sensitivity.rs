//! How much each value's quantization alone changes the outputs: measured at the outputs, never guessed from weights.
//!
//! For each sample the float network is run once, then the quantized one with every value replaced by its float form
//! as soon as it is made: what it made before that is the value with its own weights and its own rounding quantized,
//! and nothing else. Each such value is then put into the float network by itself, and what becomes of the outputs is
//! that value's effect. What only a clamp reads and nothing rounds is no value by itself: the clamp vanishes into the
//! operator before it, whose weights are those of the clamped value. An executor that can computes what lies before the
//! change once for all values ([`Session::run_each`]).

use super::run::{Pair, Subjects};
use crate::calibrate::threads;
use crate::config::Config;
use crate::in_order::in_order;
use crate::outputs::{Kind, OutputErrors};
use crate::pass::PassError;
use crate::runner::Progress;
use squint_ir::execute::{Execute, Sample, Samples, Session};
use squint_ir::{Graph, Model, OpId};
use squint_ops::Class;

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
    /// Name of the node of the convolution or product whose result it is, by itself or clamped.
    pub layer: Option<String>,
    /// Energy of the difference over energy of the float output, the mean over outputs.
    pub error: f64,
    /// Mean Kullback–Leibler divergence in nats, where an output is scores or probabilities of classes.
    pub kl: Option<f64>,
}

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
    let mut subjects = Subjects::new(float, quantized, config)?;
    // What is in other units cannot stand in the float model.
    subjects.pairs.retain(|p| p.scaled.is_none());
    progress.pass("sensitivity");
    let [f, q] = subjects.sessions(executor)?;
    let kinds = subjects.kinds(config);
    let g = subjects.float.main();
    let apart: Vec<bool> = subjects.pairs.iter().map(|p| !vanishes(g, p)).collect();
    let sessions = Sessions { float: f.as_ref(), quantized: q.as_ref(), kinds: &kinds, apart: &apart };
    let values = subjects.pairs.len();
    let mut totals: Vec<Option<OutputErrors>> = vec![None; values];
    let numbers: Vec<usize> = (0..samples.len()).collect();
    let one = |i: usize| sessions.effects(&samples.get(i).map_err(PassError::Data)?, values);
    in_order(&numbers, threads(config), one, |i, part| {
        for (slot, sums) in part {
            match &mut totals[slot] {
                Some(total) => total.add(&sums),
                total => *total = Some(sums),
            }
        }
        progress.samples(i + 1, samples.len());
        Ok::<_, PassError>(())
    })?;
    let found = subjects.pairs.iter().zip(&totals).filter_map(|(p, sums)| Some((p.float, sums.as_ref()?)));
    let mut effects: Vec<Effect> = found
        .map(|(v, sums)| {
            let maker = g.producer(v).map(|(op, _)| op);
            Effect {
                value: g.value(v).name().to_owned(),
                node: maker.map(|op| g.label(op)).unwrap_or_default(),
                op_type: maker.map(|op| g.op(op).qualified_type()).unwrap_or_default(),
                layer: maker.and_then(|op| layer(g, op)),
                error: sums.mean(),
                kl: sums.mean_divergence(),
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

/// The convolution or product whose result an operator makes, or clamps.
fn layer(g: &Graph, mut maker: OpId) -> Option<String> {
    while g.op(maker).is("Relu") || g.op(maker).is("Clip") {
        maker = g.producer(g.operand(maker, 0)?)?.0;
    }
    let o = g.op(maker);
    let row = squint_ops::row(&o.domain, &o.op_type)?;
    (row.class == Class::Contraction).then(|| g.label(maker))
}

struct Sessions<'a> {
    float: &'a dyn Session,
    quantized: &'a dyn Session,
    kinds: &'a [Kind],
    /// Whether each value is one by itself.
    apart: &'a [bool],
}

impl Sessions<'_> {
    /// What each value that is quantized does to the outputs of one sample.
    fn effects(&self, sample: &Sample, values: usize) -> Result<Vec<(usize, OutputErrors)>, PassError> {
        let mut exact: Vec<(Vec<usize>, Vec<f32>)> = vec![Default::default(); values];
        self.float.run(sample, &mut |slot, dims, data| {
            exact[slot] = (dims.to_vec(), data.to_vec());
            None
        })?;
        let mut changes: Vec<Option<Vec<f32>>> = vec![None; values];
        self.quantized.run(sample, &mut |slot, dims, data| {
            // What has another layout in the quantized model is another array.
            if exact[slot].0 != dims || !self.apart[slot] {
                return None;
            }
            let exact = std::mem::take(&mut exact[slot].1);
            if exact != data {
                changes[slot] = Some(data.to_vec());
            }
            Some(exact)
        })?;
        let groups: Vec<Vec<usize>> =
            (0..values).filter(|slot| changes[*slot].is_some()).map(|s| vec![s]).collect();
        let mut outputs = vec![Vec::new(); groups.len()];
        let change = |slot: usize, _: &[usize], _: &[f32]| changes[slot].clone();
        let reference =
            self.float.run_each(sample, &groups, &change, &mut |i, changed| outputs[i] = changed)?;
        let compared = groups.iter().zip(outputs);
        let errors = |o: Vec<_>| OutputErrors::with_divergence(&reference, &o, self.kinds);
        Ok(compared.map(|(slots, o)| (slots[0], errors(o))).collect())
    }
}
