//! Running both models on samples.

use super::matching::{Matches, matches};
use super::skeleton::{Rounding, Skeleton};
use super::units::{Units, scaled_weight};
use crate::calibrate::{axis, prepare, threads};
use crate::calibration::Sketch;
use crate::config::Config;
use crate::equalize::SCALED;
use crate::in_order::in_order;
use crate::outputs::{Error, Kind, OutputError, OutputErrors, kinds};
use crate::pass::PassError;
use crate::pipeline;
use crate::runner::{Hooks, Progress};
use squint_ir::execute::{Execute, Sample, Samples, Session};
use squint_ir::{Graph, Model, OpId, Tensor, ValueId};
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
    /// True if its channels are in other units in the quantized model. Errors are in those of the float model.
    pub scaled: bool,
    /// Error with everything before it quantized.
    pub accumulated: Error,
    /// Error with everything before it in float.
    pub local: Error,
    /// Distribution in float, in the units of the quantized model, if asked for.
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
    /// True if its rows and columns are in other units in the quantized model, of which `error` is.
    pub scaled: bool,
    /// Distribution in float, in those units.
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
    /// If its channels are in other units in the quantized model, their axis.
    pub(super) scaled: Option<usize>,
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
        let matched = matches(g, model.main());
        let scaled = Scaled::of(&quantized);
        let weights = weights(g, model.main(), &matched, &scaled);
        for (v, w) in matched.values {
            let seen = rounded.get(w);
            let shown = seen.map_or(w, |(shown, _)| *shown);
            // What the float passes made anew is not in the model that is run.
            if q.has_value(shown) && g.konst(v).is_none() {
                let rounding = seen.and_then(|(_, r)| *r);
                let scaled = scaled.value(model.main(), w).then(|| axis(g, v));
                found.push(Pair { float: v, quantized: shown, rounded: seen.is_some(), rounding, scaled });
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
    let values = subjects.pairs.len();
    let units = subjects.pairs.iter().map(|p| p.scaled.map(Units::new)).collect();
    let mut pair = Sessions { float: f.as_ref(), quantized: q.as_ref(), kinds: &kinds, histograms, units };
    if pair.units.iter().any(Option::is_some) {
        for i in 0..samples.len().min(UNIT_SAMPLES) {
            pair.learn_units(&samples.get(i).map_err(PassError::Data)?)?;
        }
    }
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

/// Names of values that equalisation has scaled in a quantized model: channel by channel they are in other units than
/// those of the float model, and so are the weights of the operators that read or make them.
struct Scaled<'m>(BTreeSet<&'m str>);

impl<'m> Scaled<'m> {
    fn of(quantized: &'m Model) -> Scaled<'m> {
        Scaled(quantized.metadata_value(SCALED).into_iter().flat_map(str::lines).collect())
    }

    fn value(&self, g: &Graph, v: ValueId) -> bool {
        self.0.contains(g.value(v).name())
    }

    fn touches(&self, g: &Graph, op: OpId) -> bool {
        g.operands(op).into_iter().chain(g.results(op)).flatten().any(|v| self.value(g, v))
    }
}

/// Constants of rank 2 and more, of the same shape and not the same, that matched operators read.
fn weights(a: &Graph, b: &Graph, matched: &Matches, scaled: &Scaled<'_>) -> Vec<WeightComparison> {
    let mut found = Vec::new();
    for (op, other) in &matched.operators {
        let scaled = scaled.touches(b, *other);
        for (v, w) in a.operands(*op).into_iter().zip(b.operands(*other)) {
            let (Some(x), Some(y)) = (v.and_then(|v| a.konst(v)), w.and_then(|w| b.konst(w))) else {
                continue;
            };
            if x.rank() < 2 || x.dims() != y.dims() || !x.dtype().is_float() {
                continue;
            }
            let groups = a.op(*op).int("group").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            let x = if scaled { scaled_weight(x, y, groups) } else { x.to_f32s() };
            let y = y.f32s();
            let error = Error::between(&x, &y);
            if error.noise == 0.0 {
                continue;
            }
            let mut sketch = Sketch::new();
            sketch.observe(&x);
            let range = y.iter().fold((0f32, 0f32), |(lo, hi), y| (lo.min(*y), hi.max(*y)));
            let (node, op_type) = (a.label(*op), a.op(*op).qualified_type());
            found.push(WeightComparison { node, op_type, error, scaled, sketch, range });
        }
    }
    found
}

/// Samples that units are learnt from.
const UNIT_SAMPLES: usize = 16;

/// What one sample needs.
struct Sessions<'a> {
    float: &'a dyn Session,
    quantized: &'a dyn Session,
    kinds: &'a [Kind],
    histograms: bool,
    /// Of each value that is in other units in the quantized model.
    units: Vec<Option<Units>>,
}

/// A value of the float model.
#[derive(Clone, Default)]
struct Exact {
    dims: Vec<usize>,
    data: Vec<f32>,
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
    /// The outputs of the float model, and its values.
    fn exact(&self, sample: &Sample) -> Result<(Vec<Tensor>, Vec<Exact>), PassError> {
        let mut exact = vec![Exact::default(); self.units.len()];
        let outputs = self.float.run(sample, &mut |slot, dims, data| {
            exact[slot] = Exact { dims: dims.to_vec(), data: data.to_vec() };
            None
        })?;
        Ok((outputs, exact))
    }

    /// Learns in which units values are, each where everything before it is in float.
    fn learn_units(&mut self, sample: &Sample) -> Result<(), PassError> {
        let (_, mut exact) = self.exact(sample)?;
        let units = &mut self.units;
        self.quantized.run(sample, &mut |slot, dims, data| {
            let x = std::mem::take(&mut exact[slot]);
            if x.dims != dims {
                return None;
            }
            match &mut units[slot] {
                None => Some(x.data),
                Some(units) => {
                    units.learn(dims, &x.data, data);
                    units.scaled(dims, &x.data)
                }
            }
        })?;
        Ok(())
    }

    /// The error of a value, in the units of the float model.
    fn error(&self, slot: usize, exact: &Exact, data: &[f32]) -> Error {
        let Some(units) = &self.units[slot] else { return Error::between(&exact.data, data) };
        let (x, y) = units.in_float(&exact.dims, &exact.data, data);
        Error::between(&x, &y)
    }

    /// A value of the float model in the units of the quantized one; `None` if these are not known.
    fn scaled(&self, slot: usize, exact: Exact) -> Option<Vec<f32>> {
        match &self.units[slot] {
            Some(units) => units.scaled(&exact.dims, &exact.data),
            None => Some(exact.data),
        }
    }

    fn sample(&self, sample: &Sample, values: usize) -> Result<Totals, PassError> {
        let mut totals = Totals::new(values, self.kinds.len());
        let (reference, mut exact) = self.exact(sample)?;
        // What has another layout in the quantized model is another array.
        let outputs = self.quantized.run(sample, &mut |slot, dims, data| {
            if exact[slot].dims == dims {
                totals.accumulated[slot] = self.error(slot, &exact[slot], data);
            }
            None
        })?;
        self.quantized.run(sample, &mut |slot, dims, data| {
            if exact[slot].dims != dims {
                return None;
            }
            totals.local[slot] = self.error(slot, &exact[slot], data);
            let exact = self.scaled(slot, std::mem::take(&mut exact[slot]))?;
            if self.histograms {
                totals.sketches[slot].observe(&exact);
            }
            Some(exact)
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
        let values: Vec<_> = values
            .map(|(p, ((accumulated, local), sketch))| {
                let maker = g.producer(p.float).map(|(op, _)| op);
                ValueComparison {
                    name: g.value(p.float).name().to_owned(),
                    quantized_name: q.value(p.quantized).name().to_owned(),
                    op_type: maker.map(|op| g.op(op).qualified_type()).unwrap_or_default(),
                    node: maker.map(|op| g.label(op)).unwrap_or_default(),
                    rounded: p.rounded,
                    scaled: p.scaled.is_some(),
                    rounding: p.rounding,
                    accumulated,
                    local,
                    sketch: (sketch.n_samples() > 0).then_some(sketch),
                }
            })
            .collect();
        let weights = self.weights.clone();
        // What never had the same shape is another array.
        let unmatched = self.unmatched + self.pairs.len() - values.len();
        Comparison { samples, outputs, values, weights, unmatched }
    }
}
