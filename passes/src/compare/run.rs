//! Running both models on samples.

use super::matching::{Matches, matches};
use super::skeleton::{Rounding, Skeleton};
use crate::calibrate::{prepare, threads};
use crate::calibration::Sketch;
use crate::config::Config;
use crate::equalize::SCALED;
use crate::in_order::in_order;
use crate::outputs::{Error, Kind, OutputError, OutputErrors, kinds};
use crate::pass::PassError;
use crate::pipeline;
use crate::runner::{Hooks, Progress};
use squint_ir::execute::{Execute, Sample, Samples, Session};
use squint_ir::{Graph, Model, OpId, ValueId};
use std::collections::BTreeSet;

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Samples run.
    pub samples: usize,
    /// Outputs, in the order of the float model.
    pub outputs: Vec<OutputComparison>,
    /// Values inside, in order of execution of the float model.
    pub values: Vec<ValueComparison>,
    /// Weights, in order of execution of the float model.
    pub weights: Vec<WeightComparison>,
    /// Values of the float graph, after fusion, that have no counterpart.
    pub unmatched: usize,
}

/// An output of both models.
#[derive(Clone, Debug)]
pub struct OutputComparison {
    /// Its name in the float model.
    pub name: String,
    /// What its numbers are.
    pub kind: Kind,
    /// The difference; `None` if the two never had the same shape.
    pub error: Option<OutputError>,
}

/// A value of both models.
#[derive(Clone, Debug)]
pub struct ValueComparison {
    /// Its name in the float model.
    pub name: String,
    /// Its name in the quantized model: the dequantized form where it is rounded.
    pub quantized_name: String,
    /// Type of the operator that makes it; empty for an input.
    pub op_type: String,
    /// Name of that operator's node.
    pub node: String,
    /// The grid it is rounded to, if it is, with one scale.
    pub rounding: Option<Rounding>,
    /// True if it is rounded.
    pub rounded: bool,
    /// Error with everything before it quantized.
    pub accumulated: Error,
    /// Error with everything before it in float.
    pub local: Error,
    /// Distribution in float, if asked for.
    pub sketch: Option<Sketch>,
}

/// A weight of both models.
#[derive(Clone, Debug)]
pub struct WeightComparison {
    /// Name of the node that reads it in the float model.
    pub node: String,
    /// Type of that operator.
    pub op_type: String,
    /// How far the numbers that the codes stand for are from the float ones.
    pub error: Error,
    /// Distribution in float.
    pub sketch: Sketch,
    /// Smallest and largest number that the codes stand for.
    pub range: (f32, f32),
}

/// Two models with their common values, ready to be run.
pub(crate) struct Subjects {
    /// The float model after fusion.
    pub(crate) float: Model,
    /// The quantized model, lowered to what executors run.
    pub(crate) quantized: Model,
    /// Common values.
    pub(crate) pairs: Vec<Pair>,
    /// Common weights.
    weights: Vec<WeightComparison>,
    /// Values of the float graph without a counterpart.
    unmatched: usize,
}

/// A value of both models.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) float: ValueId,
    /// What readers see in the quantized model.
    pub(crate) quantized: ValueId,
    pub(super) rounded: bool,
    rounding: Option<Rounding>,
}

impl Subjects {
    /// Brings both models into a form in which they can be run and their values matched.
    ///
    /// # Errors
    /// If a model is not well-formed.
    pub(crate) fn new(float: &Model, quantized: &Model, config: &Config) -> Result<Subjects, PassError> {
        let (mut float, mut quantized) = (float.clone(), quantized.clone());
        pipeline::optimize(&mut float, config, &Hooks::default())?;
        pipeline::lower_quantized(&mut quantized, config, &Hooks::default())?;
        let Skeleton { mut model, rounded } = Skeleton::new(&quantized);
        pipeline::optimize(&mut model, config, &Hooks::default())?;
        let (g, q) = (float.main(), quantized.main());
        let mut found = Vec::new();
        let mut matched = matches(g, model.main());
        leave_out_scaled(&quantized, &model, &mut matched);
        let weights = weights(g, model.main(), &matched.operators);
        for (v, w) in matched.values {
            let seen = rounded.get(w);
            let shown = seen.map_or(w, |(shown, _)| *shown);
            // What the float passes made anew is not in the model that is run.
            if q.has_value(shown) && g.konst(v).is_none() {
                let rounding = seen.and_then(|(_, r)| *r);
                found.push(Pair { float: v, quantized: shown, rounded: seen.is_some(), rounding });
            }
        }
        let all = g.values().filter(|v| g.konst(*v).is_none()).count();
        let unmatched = all.saturating_sub(found.len());
        Ok(Subjects { float, quantized, pairs: found, weights, unmatched })
    }

    /// The sessions of the float and of the quantized model.
    ///
    /// # Errors
    /// If the executor refuses a model.
    pub(crate) fn sessions<'m>(
        &'m self,
        executor: &'m dyn Execute,
    ) -> Result<[Box<dyn Session + 'm>; 2], PassError> {
        let of = |side: fn(&Pair) -> ValueId| self.pairs.iter().map(side).collect::<Vec<_>>();
        let float = prepare(&self.float, &of(|p| p.float), executor)?;
        Ok([float, prepare(&self.quantized, &of(|p| p.quantized), executor)?])
    }

    /// What the outputs of the float model are.
    pub(crate) fn kinds(&self, config: &Config) -> Vec<Kind> {
        kinds(self.float.main(), config.class_axis)
    }
}

/// Compares a quantized model with its float model on all samples. `histograms` asks for distributions, too.
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
) -> Result<Comparison, PassError> {
    if samples.is_empty() {
        return Err(PassError::Data("the data has no sample".into()));
    }
    progress.pass("match values");
    let subjects = Subjects::new(float, quantized, config)?;
    progress.pass("compare");
    let [f, q] = subjects.sessions(executor)?;
    let kinds = subjects.kinds(config);
    let pair = Sessions { float: f.as_ref(), quantized: q.as_ref(), kinds: &kinds, histograms };
    let values = subjects.pairs.len();
    let mut totals = Totals::new(values, kinds.len());
    let numbers: Vec<usize> = (0..samples.len()).collect();
    let one = |i: usize| pair.sample(&samples.get(i).map_err(PassError::Data)?, values);
    in_order(&numbers, threads(config), one, |i, part| {
        totals.add(&part);
        progress.samples(i + 1, samples.len());
        Ok::<_, PassError>(())
    })?;
    Ok(subjects.comparison(totals, &kinds, samples.len()))
}

/// Leaves out values that equalisation has scaled in the quantized model, and operators that read or make them:
/// channel by channel they are in other units than those of the float model.
fn leave_out_scaled(quantized: &Model, skeleton: &Model, matched: &mut Matches) {
    let Some(names) = quantized.metadata_value(SCALED) else { return };
    let names: BTreeSet<&str> = names.lines().collect();
    let g = skeleton.main();
    let scaled = |v: ValueId| names.contains(g.value(v).name());
    matched.values.retain(|(_, w)| !scaled(*w));
    let touches = |op: OpId| g.operands(op).into_iter().chain(g.results(op)).flatten().any(scaled);
    matched.operators.retain(|(_, other)| !touches(*other));
}

/// Constants of rank 2 and more, of the same shape and not the same, that matched operators read.
fn weights(a: &Graph, b: &Graph, operators: &[(OpId, OpId)]) -> Vec<WeightComparison> {
    let mut found = Vec::new();
    for (op, other) in operators {
        for (v, w) in a.operands(*op).into_iter().zip(b.operands(*other)) {
            let (Some(x), Some(y)) = (v.and_then(|v| a.konst(v)), w.and_then(|w| b.konst(w))) else {
                continue;
            };
            if x.rank() < 2 || x.dims() != y.dims() || !x.dtype().is_float() {
                continue;
            }
            let (x, y) = (x.f32s(), y.f32s());
            let error = Error::between(&x, &y);
            if error.noise == 0.0 {
                continue;
            }
            let mut sketch = Sketch::new();
            sketch.observe(&x);
            let range = y.iter().fold((0f32, 0f32), |(lo, hi), y| (lo.min(*y), hi.max(*y)));
            let (node, op_type) = (a.label(*op), a.op(*op).qualified_type());
            found.push(WeightComparison { node, op_type, error, sketch, range });
        }
    }
    found
}

/// What one sample needs.
struct Sessions<'a> {
    float: &'a dyn Session,
    quantized: &'a dyn Session,
    kinds: &'a [Kind],
    histograms: bool,
}

/// Sums over samples.
struct Totals {
    accumulated: Vec<Error>,
    local: Vec<Error>,
    outputs: OutputErrors,
    sketches: Vec<Sketch>,
}

impl Totals {
    fn new(values: usize, outputs: usize) -> Totals {
        Totals {
            accumulated: vec![Error::default(); values],
            local: vec![Error::default(); values],
            outputs: OutputErrors::new(outputs),
            sketches: vec![Sketch::new(); values],
        }
    }

    fn add(&mut self, more: &Totals) {
        for (sums, more) in [(&mut self.accumulated, &more.accumulated), (&mut self.local, &more.local)] {
            sums.iter_mut().zip(more).for_each(|(a, b)| a.add(b));
        }
        self.outputs.add(&more.outputs);
        self.sketches.iter_mut().zip(&more.sketches).for_each(|(a, b)| a.merge(b));
    }
}

impl Sessions<'_> {
    fn sample(&self, sample: &Sample, values: usize) -> Result<Totals, PassError> {
        let mut totals = Totals::new(values, self.kinds.len());
        let mut exact: Vec<Vec<f32>> = vec![Vec::new(); values];
        let reference = self.float.run(sample, &mut |slot, _, data| {
            exact[slot] = data.to_vec();
            if self.histograms {
                totals.sketches[slot].observe(data);
            }
            None
        })?;
        let outputs = self.quantized.run(sample, &mut |slot, _, data| {
            if exact[slot].len() == data.len() {
                totals.accumulated[slot] = Error::between(&exact[slot], data);
            }
            None
        })?;
        self.quantized.run(sample, &mut |slot, _, data| {
            if exact[slot].len() != data.len() {
                return None;
            }
            totals.local[slot] = Error::between(&exact[slot], data);
            Some(std::mem::take(&mut exact[slot]))
        })?;
        totals.outputs = OutputErrors::with_divergence(&reference, &outputs, self.kinds);
        Ok(totals)
    }
}

impl Subjects {
    fn comparison(&self, totals: Totals, kinds: &[Kind], samples: usize) -> Comparison {
        let (g, q) = (self.float.main(), self.quantized.main());
        let outputs = g.outputs.iter().zip(kinds).zip(totals.outputs.0);
        let outputs = outputs
            .map(|((v, kind), error)| OutputComparison {
                name: g.value(*v).name().to_owned(),
                kind: *kind,
                error,
            })
            .collect();
        let sums = totals.accumulated.into_iter().zip(totals.local).zip(totals.sketches);
        let values = self.pairs.iter().zip(sums).filter(|(_, ((a, _), _))| a.elements > 0);
        let values = values
            .map(|(p, ((accumulated, local), sketch))| {
                let maker = g.producer(p.float).map(|(op, _)| op);
                ValueComparison {
                    name: g.value(p.float).name().to_owned(),
                    quantized_name: q.value(p.quantized).name().to_owned(),
                    op_type: maker.map(|op| g.op(op).qualified_type()).unwrap_or_default(),
                    node: maker.map(|op| g.label(op)).unwrap_or_default(),
                    rounded: p.rounded,
                    rounding: p.rounding,
                    accumulated,
                    local,
                    sketch: (sketch.n_samples() > 0).then_some(sketch),
                }
            })
            .collect();
        let weights = self.weights.clone();
        Comparison { samples, outputs, values, weights, unmatched: self.unmatched }
    }
}
