//! What a compilation knows of the values of a model, and how it can learn more.

use crate::calibrate::{self, Tally};
use crate::calibration::{Method, Sketch};
use crate::config::{Config, Scheme};
use crate::float_graph::FloatGraph;
use crate::pass::{PassCx, PassError};
use crate::recording::Recording;
use crate::runner::Progress;
use crate::statistics::Statistics;
use squint_ir::execute::{Execute, Samples};
use squint_ir::types::known_dims;
use squint_ir::{Dim, Graph, Model, OpId, Type, ValueId, ValueTable};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Where ranges come from; by default nowhere, which is enough where they are found in every run.
#[derive(Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// What is known already; `None` to measure it on the samples.
    pub known: Option<Known<'a>>,
    /// Samples, and what runs the float model on them. What is known already is not measured again: then
    /// plans are tried on them.
    pub samples: Option<(&'a dyn Execute, &'a dyn Samples)>,
}

/// What is known before anything is run.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    /// Statistics measured before.
    Recording(&'a Recording),
    /// Ranges that another tool has found.
    Ranges(&'a GivenRanges),
}

/// Ranges by names of values, of the model or of its fused form. They are taken as they are, whatever the
/// method; only zero is taken in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GivenRanges {
    /// Where they come from, for people.
    pub source: String,
    /// Least and greatest value.
    pub ranges: BTreeMap<String, (f32, f32)>,
}

impl<'a> Evidence<'a> {
    /// Samples only.
    pub fn samples(executor: &'a dyn Execute, samples: &'a dyn Samples) -> Evidence<'a> {
        Evidence { known: None, samples: Some((executor, samples)) }
    }

    /// Statistics measured before, only.
    pub fn recording(recording: &'a Recording) -> Evidence<'a> {
        Evidence { known: Some(Known::Recording(recording)), samples: None }
    }
}

impl Known<'_> {
    /// Fills in statistics of the observed values.
    ///
    /// # Errors
    /// If it is about another graph.
    pub(crate) fn apply(self, model: &Model, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        match self {
            Known::Recording(recording) => {
                let method = cx.config.method;
                if method.depends_on_order() && !recording.tally.keeps_each() {
                    return Err(PassError::Config(format!(
                        "the method `{method}` follows the order of samples, which these statistics do not keep; \
                         calibrate with `--keep-extremes`"
                    )));
                }
                cx.statistics = recording.statistics(model, &cx.observed)?;
            }
            Known::Ranges(given) => {
                let missing = given.apply(model, cx)?;
                if let Some(first) = missing.first() {
                    let (n, name) = (missing.len(), model.main().value(*first).name());
                    let message = format!(
                        "{} has no range for {n} of {} values, which stay in float; the first is `{name}`",
                        given.source,
                        cx.observed.len()
                    );
                    cx.notes.add("", message);
                }
            }
        }
        Ok(())
    }
}

impl GivenRanges {
    /// Statistics with these ranges for extremes; returns the observed values that have none.
    fn apply(&self, model: &Model, cx: &mut PassCx<'_>) -> Result<Vec<ValueId>, PassError> {
        let g = model.main();
        let positive = never_negative(g)?;
        let mut missing = Vec::new();
        let mut statistics = Statistics { dims: lengths_of_inputs(g), ..Statistics::default() };
        for v in &cx.observed {
            let name = g.value(*v).name();
            let Some((lo, hi)) = self.ranges.get(name).copied() else {
                missing.push(*v);
                continue;
            };
            if !(lo.is_finite() && hi.is_finite() && lo <= hi) {
                let message = format!("{}: the range of `{name}` is {lo}..{hi}", self.source);
                return Err(PassError::Config(message));
            }
            // Symmetric ranges reach below zero also where nothing is.
            let lo = if positive.contains(*v) { lo.max(0.0) } else { lo };
            let mut sketch = Sketch::new();
            sketch.observe(&[lo.min(0.0), hi.max(0.0)]);
            statistics.sketches.insert(*v, sketch);
        }
        if !cx.observed.is_empty() && missing.len() == cx.observed.len() {
            let ours = g.value(missing[0]).name();
            let theirs = self.ranges.keys().next().map_or("nothing", String::as_str);
            return Err(PassError::Config(format!(
                "{} is of another model: it has none of the values to quantize (`{ours}`, ...), but `{theirs}`, ...",
                self.source
            )));
        }
        cx.statistics = statistics;
        Ok(missing)
    }
}

/// What the user is told if samples show nothing: every input is one number in all of them.
fn constant_data(g: &Graph, statistics: &Statistics) -> Option<String> {
    let seen = |v: &ValueId| Some((*v, statistics.sketch(*v)?)).filter(|(_, s)| s.n_finite() > 1);
    let constant = |(_, s): &(ValueId, &Sketch)| s.extremes().is_some_and(|(lo, hi)| lo == hi);
    let inputs: Vec<_> = g.inputs.iter().filter_map(seen).collect();
    let (first, sketch) = inputs.iter().all(constant).then(|| inputs.first())??;
    let (name, number) = (g.value(*first).name(), sketch.extremes()?.0);
    Some(format!(
        "every element of `{name}` is {number} in all samples: ranges are those of data in use only if samples are like it"
    ))
}

/// The dimensions of inputs, for costs. What is not known of a batch counts as one sample.
pub(crate) fn lengths_of_inputs(g: &Graph) -> ValueTable<Vec<usize>> {
    let mut lengths = ValueTable::new();
    for v in &g.inputs {
        let Some(shape) = g.ty(*v).and_then(Type::shape) else { continue };
        let mut shape = shape.clone();
        if let Some(batch) = shape.first_mut().filter(|d| d.known().is_none()) {
            *batch = Dim::Known(1);
        }
        if let Some(dims) = known_dims(&shape) {
            lengths.insert(*v, dims);
        }
    }
    lengths
}

/// Operators whose results are never negative.
const RECTIFIERS: &[&str] = &["Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"];

/// Operators that make nothing negative of what is not.
const KEEPERS: &[&str] = &[
    "Add",
    "AveragePool",
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "Mul",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// The values that are zero or more whatever the inputs are.
fn never_negative(g: &Graph) -> Result<ValueTable<()>, PassError> {
    let mut positive: ValueTable<()> = ValueTable::new();
    for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
        if makes_nothing_negative(g, op, &positive) {
            for v in g.results(op).into_iter().flatten() {
                positive.insert(v, ());
            }
        }
    }
    Ok(positive)
}

/// True if an operator makes nothing negative of what is known to be positive.
pub(crate) fn makes_nothing_negative(g: &Graph, op: OpId, positive: &ValueTable<()>) -> bool {
    let node = g.op(op);
    if !node.is_onnx() {
        return false;
    }
    let ty = node.op_type.as_str();
    if ty == "Clip" {
        let lower = g.operand(op, 1).and_then(|v| g.konst(v)?.scalar_value());
        return lower.is_some_and(|lo| lo >= 0.0);
    }
    // Of the others only the operators of several activations have constants that matter.
    let joins = matches!(ty, "Add" | "Concat" | "Mul");
    let of_value = |v: ValueId| match g.konst(v) {
        Some(t) => t.dtype().is_float() && t.f32s().iter().all(|x| *x >= 0.0),
        None => positive.contains(v),
    };
    let operands = g.operands(op);
    let considered = if joins { operands.len() } else { 1 };
    RECTIFIERS.contains(&ty)
        || KEEPERS.contains(&ty) && operands.into_iter().take(considered).flatten().all(of_value)
}

impl<'e> Evidence<'e> {
    /// The configuration with what this evidence settles: ranges that are given are not solved again.
    pub(crate) fn settled(self, config: &Config) -> Cow<'_, Config> {
        match self.known {
            Some(Known::Ranges(_)) => Cow::Owned(Config { method: Method::MinMax, ..config.clone() }),
            _ => Cow::Borrowed(config),
        }
    }

    /// Statistics of the observed values, into `cx`; and the graph that plans can be tried on, if there are samples.
    /// Those that have been seen already, if some `begun` has, are not measured again.
    ///
    /// # Errors
    /// If there is nothing to go by, what is known is about another graph, or the samples cannot be run.
    pub(crate) fn learn(
        self,
        model: &Model,
        cx: &mut PassCx<'_>,
        begun: Option<(FloatGraph<'e>, Tally)>,
        progress: &dyn Progress,
    ) -> Result<Option<FloatGraph<'e>>, PassError> {
        if let Some(known) = self.known {
            known.apply(model, cx)?;
        }
        let Some((executor, samples)) = self.samples else {
            // Dynamic ranges are found in every run.
            return match (self.known, cx.config.scheme) {
                (Some(_), _) | (None, Scheme::Dynamic) => Ok(None),
                (None, scheme) => {
                    Err(PassError::Config(format!("the scheme `{scheme}` needs ranges measured on data")))
                }
            };
        };
        let (float, begun) = match begun {
            Some((float, tally)) => (float, Some(tally)),
            None if cx.config.effort > 0 => {
                (FloatGraph::for_trials(model, &cx.observed, executor, &cx.trials)?, None)
            }
            None => (FloatGraph::new(model, &cx.observed, executor)?, None),
        };
        if let Some(Known::Ranges(_)) = self.known
            && !samples.is_empty()
        {
            for (name, t) in samples.get(0).map_err(PassError::Data)? {
                if let Some(v) = model.main().value_named(&name) {
                    cx.statistics.dims.insert(v, t.dims().to_vec());
                }
            }
        }
        if self.known.is_none() {
            cx.statistics =
                calibrate::calibrate(model, &cx.observed, &float, samples, begun, cx.config, progress)?;
            if let Some(note) = constant_data(model.main(), &cx.statistics) {
                cx.notes.add("", note);
            }
        }
        Ok(Some(float))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{OpSpec, Tensor};

    /// `y = Relu (x)`, `z = MaxPool (y)`, `w = Add (z, b)`.
    fn model(bias: f32) -> (Model, Vec<ValueId>) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let y = g.emit(OpSpec::new("Relu").operands([x]), "y", None);
        let z = g.emit(OpSpec::new("MaxPool").operands([y]), "z", None);
        let b = g.add_const("b", Tensor::scalar_f32(bias));
        let w = g.emit(OpSpec::new("Add").operands([z, b]), "w", None);
        (g.inputs, g.outputs) = (vec![x], vec![w]);
        (model, vec![x, y, z, w])
    }

    fn given(ranges: &[(&str, f32, f32)]) -> GivenRanges {
        let ranges = ranges.iter().map(|(n, lo, hi)| ((*n).to_owned(), (*lo, *hi))).collect();
        GivenRanges { source: "`a.cache`".into(), ranges }
    }

    #[test]
    fn symmetric_ranges_are_cut_where_nothing_is_negative() {
        for (bias, lowest) in [(1.0, 0.0), (-1.0, -4.0)] {
            let (model, values) = model(bias);
            let config = Config::new("cpu-vnni");
            let mut cx = PassCx::new(&config);
            cx.observed = values.clone();
            let known = given(&[("x", -4.0, 4.0), ("y", -4.0, 4.0), ("z", -4.0, 4.0), ("w", -4.0, 4.0)]);
            Known::Ranges(&known).apply(&model, &mut cx).unwrap();
            let extremes = |v: ValueId| cx.statistics.sketch(v).unwrap().extremes().unwrap();
            assert_eq!(values.iter().map(|v| extremes(*v).0).collect::<Vec<_>>(), [-4.0, 0.0, 0.0, lowest]);
        }
    }

    #[test]
    fn data_that_shows_nothing_is_noticed() {
        let (model, values) = model(0.0);
        let mut statistics = Statistics::default();
        let mut show = |data: &[f32]| {
            let mut sketch = Sketch::new();
            sketch.observe(data);
            statistics.sketches.insert(values[0], sketch);
            constant_data(model.main(), &statistics)
        };
        assert!(show(&[0.0, 0.0]).unwrap().contains("every element of `x` is 0 in all samples"));
        assert_eq!(show(&[0.0, 0.5]), None);
        assert_eq!(show(&[1.0]), None, "a number is no data");
    }

    #[test]
    fn what_is_missing_is_said_and_what_is_broken_refused() {
        let (model, values) = model(0.0);
        let config = Config::new("cpu-vnni");
        let mut cx = PassCx::new(&config);
        cx.observed = values;
        let mut apply = |ranges| Known::Ranges(&given(ranges)).apply(&model, &mut cx);
        apply(&[("x", 1.0, 2.0)]).unwrap();
        assert!(apply(&[("other", 0.0, 1.0)]).unwrap_err().to_string().contains("is of another model"));
        assert!(apply(&[("x", f32::NAN, 1.0)]).unwrap_err().to_string().contains("`x` is NaN..1"));
        let notes: Vec<_> = cx.notes.iter().map(|n| n.message.clone()).collect();
        assert_eq!(
            notes,
            ["`a.cache` has no range for 3 of 4 values, which stay in float; the first is `y`"]
        );
    }
}
