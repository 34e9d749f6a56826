//! What a plan does to the outputs, without the target's runtime: the float graph is run with every planned
//! value rounded to its grid as soon as it is made, and every value that is quantized in every run to the grid of the
//! range that it has then.
//!
//! The simulation leaves out the rounding of weights and the differences between kernels; both are small
//! beside that of activations at 8 bits, and the same for all plans that are compared.

mod alone;
mod deviation;
mod errors;
mod rounding;

use crate::calibrate::threads;
use crate::config::Config;
use crate::float_graph::FloatGraph;
use crate::outputs::{Error, Expected, Kind, OutputErrors, kinds};
use crate::pass::PassError;
use crate::plan::QuantPlan;
use crate::trials::SMALL;
pub(crate) use deviation::{Deviation, ENOUGH_ROWS};
pub(crate) use errors::{Errors, Measured};
use rayon::prelude::*;
pub(crate) use rounding::Rounding;
use squint_ir::execute::{Elements, Sample, Samples, Session};
use squint_ir::{Model, Tensor, ValueId, ValueTable};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A few samples with their float outputs.
pub(crate) struct Simulator<'a> {
    float: &'a FloatGraph<'a>,
    observed: &'a [ValueId],
    samples: Inputs<'a>,
    references: Vec<Vec<Tensor>>,
    /// What is compared in the place of outputs, of each sample.
    tapped: Vec<Vec<Tensor>>,
    kinds: Vec<Kind>,
    pool: rayon::ThreadPool,
}

/// Samples that are run again and again: those that fit some memory stay there, others are read each time.
struct Inputs<'a> {
    samples: &'a dyn Samples,
    numbers: Vec<usize>,
    read: Vec<OnceLock<Sample>>,
    /// Bytes that may yet be kept.
    room: AtomicUsize,
}

/// Bytes of samples that a simulator keeps.
const ROOM: usize = 64 << 20;

impl<'a> Inputs<'a> {
    fn new(samples: &'a dyn Samples, numbers: &[usize]) -> Inputs<'a> {
        let read = numbers.iter().map(|_| OnceLock::new()).collect();
        Inputs { samples, numbers: numbers.to_vec(), read, room: AtomicUsize::new(ROOM) }
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, i: usize) -> Result<Cow<'_, Sample>, PassError> {
        if let Some(sample) = self.read[i].get() {
            return Ok(Cow::Borrowed(sample));
        }
        let sample = self.samples.get(self.numbers[i]).map_err(PassError::Data)?;
        let size: usize = sample.iter().map(|(_, t)| t.bytes().len()).sum();
        let take = |room: usize| room.checked_sub(size);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Ok(Cow::Owned(sample));
        }
        Ok(Cow::Borrowed(self.read[i].get_or_init(|| sample)))
    }
}

impl<'a> Simulator<'a> {
    /// Runs the samples of these numbers in float.
    ///
    /// # Errors
    /// If a sample cannot be read or run.
    pub(crate) fn on(
        model: &Model,
        float: &'a FloatGraph<'a>,
        observed: &'a [ValueId],
        samples: &'a dyn Samples,
        numbers: &[usize],
        config: &Config,
    ) -> Result<Simulator<'a>, PassError> {
        let n = numbers.len();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(config).min(n)).build();
        let pool = pool.map_err(|e| PassError::Config(format!("threads for simulation: {e}")))?;
        let run = |i: &usize| float.reference(*i, samples).map(|r| (r.outputs, r.tapped));
        let references = pool.install(|| numbers.par_iter().map(run).collect::<Result<Vec<_>, _>>())?;
        let (references, tapped) = references.into_iter().unzip();
        let kinds = kinds(model.main(), config.class_axis);
        let samples = Inputs::new(samples, numbers);
        Ok(Simulator { float, observed, samples, references, tapped, kinds, pool })
    }

    /// What the outputs are, in their order.
    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// What a plan does.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn deviation(&self, plan: &QuantPlan) -> Result<Deviation, PassError> {
        Ok(self.compare(&self.references, &self.outputs(plan)?))
    }

    /// What a plan does, and how many classes are expected to change by it, output by output.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn deviation_of_classes(
        &self,
        plan: &QuantPlan,
    ) -> Result<(Deviation, Vec<Expected>), PassError> {
        let outputs = self.outputs(plan)?;
        let each = outputs.iter().map(Vec::as_slice);
        Ok((self.compare(&self.references, &outputs), self.expected(each)))
    }

    /// How many classes are expected to change, output by output, where all samples have been measured with a plan: nothing
    /// of outputs that are not small.
    pub(crate) fn expected_of(&self, measured: &[Measured]) -> Vec<Expected> {
        self.expected(measured.iter().map(|m| m.outputs.as_slice()))
    }

    /// The same from the outputs of each sample.
    fn expected<'o>(&self, outputs: impl Iterator<Item = &'o [Tensor]> + Clone) -> Vec<Expected> {
        let others = self.float.known_but(&self.samples.numbers);
        let of_output = |(i, kind): (usize, &Kind)| {
            let classes = kind.classes()?;
            let mut expected = Expected::default();
            for (x, y) in self.references.iter().zip(outputs.clone()) {
                expected.take(x.get(i)?, y.get(i)?, classes);
            }
            others.iter().filter_map(|x| x.get(i)).for_each(|x| expected.take_float(x, classes));
            Some(expected)
        };
        self.kinds.iter().enumerate().filter_map(of_output).collect()
    }

    /// The outputs of each sample with the values that a plan quantizes rounded.
    fn outputs(&self, plan: &QuantPlan) -> Result<Vec<Vec<Tensor>>, PassError> {
        let roundings = self.roundings(plan);
        let run = |i: usize| self.samples.get(i).and_then(|sample| self.run(&sample, &roundings));
        let all = (0..self.samples.len()).into_par_iter();
        self.pool.install(|| all.map(run).collect())
    }

    /// How a plan rounds each observed value.
    pub(crate) fn roundings(&self, plan: &QuantPlan) -> Vec<Option<Rounding>> {
        let mut dynamic = ValueTable::new();
        for v in plan.dynamic.iter().flat_map(|(_, d)| &d.reads) {
            dynamic.insert(*v, ());
        }
        let of = |v: &ValueId| match plan.values.get(*v) {
            Some(p) => Some(Rounding::Planned(p.dtype, p.params)),
            None => dynamic.contains(*v).then_some(Rounding::Dynamic),
        };
        self.observed.iter().map(of).collect()
    }

    /// The outputs for a sample, with observed values rounded.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn run(
        &self,
        sample: &Sample,
        roundings: &[Option<Rounding>],
    ) -> Result<Vec<Tensor>, PassError> {
        let session = self.float.session();
        Ok(session.run_edited(sample, &mut |slot, _, data| round(roundings, slot, data))?)
    }

    /// What a plan does to each sample, in the graph of `session`.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn errors_in(&self, session: &dyn Session, plan: &QuantPlan) -> Result<Errors, PassError> {
        let roundings = self.roundings(plan);
        self.errors_with(session, &|slot, _, data| round(&roundings, slot, data))
    }

    /// What two plans do to each sample in graphs of their own, which are made ready side by side or one after the other.
    ///
    /// # Errors
    /// If one cannot be made, or the executor fails.
    pub(crate) fn errors_of_two<'p, 's>(
        &self,
        side_by_side: bool,
        first: impl FnOnce() -> Result<(Box<dyn Session + 's>, &'p QuantPlan), PassError> + Send,
        second: impl FnOnce() -> Result<(Box<dyn Session + 's>, &'p QuantPlan), PassError> + Send,
    ) -> Result<(Errors, Errors), PassError> {
        let one =
            |(session, plan): (Box<dyn Session + 's>, &QuantPlan)| self.errors_in(session.as_ref(), plan);
        if !side_by_side {
            return Ok((first().and_then(one)?, second().and_then(one)?));
        }
        let (a, b) = self.pool.install(|| rayon::join(|| first().and_then(one), || second().and_then(one)));
        Ok((a?, b?))
    }

    /// What becomes of each sample in the graph of `session`, which exposes the observed values first of all, with values
    /// as they are edited.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn errors_with(
        &self,
        session: &dyn Session,
        edit: &(impl Fn(usize, &[usize], &mut Elements<'_>) + Sync),
    ) -> Result<Errors, PassError> {
        Ok(Errors::of(&self.measure(session, 0..self.samples.len(), edit)?))
    }

    /// What becomes of some of the samples, as [`Simulator::errors_with`].
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn measure(
        &self,
        session: &dyn Session,
        samples: Range<usize>,
        edit: &(impl Fn(usize, &[usize], &mut Elements<'_>) + Sync),
    ) -> Result<Vec<Measured>, PassError> {
        let taps = self.float.taps();
        let run = |i: usize| {
            let sample = self.samples.get(i)?;
            let planned = taps.run(session, &sample, &mut |slot, dims, data| edit(slot, dims, data))?;
            let pairs = self.tapped[i].iter().zip(&planned.tapped);
            let differences = pairs.map(|(float, planned)| Error::between_tensors(float, planned)).collect();
            let sums = OutputErrors::between(&self.references[i], &planned.outputs, &self.kinds);
            let small = planned.outputs.iter().map(Tensor::len).sum::<usize>() <= SMALL;
            let outputs = if small { planned.outputs } else { Vec::new() };
            Ok::<_, PassError>(Measured { differences, sums, outputs })
        };
        self.pool.install(|| samples.into_par_iter().map(run).collect())
    }

    /// The difference between the outputs of some runs in float and of as many others.
    pub(crate) fn compare(&self, references: &[Vec<Tensor>], outputs: &[Vec<Tensor>]) -> Deviation {
        let mut sums = OutputErrors::new(self.kinds.len());
        for (reference, output) in references.iter().zip(outputs) {
            sums.add(&OutputErrors::between(reference, output, &self.kinds));
        }
        Deviation::of(&sums)
    }
}

/// Rounds an observed value as planned for its slot, if it is.
pub(crate) fn round(roundings: &[Option<Rounding>], slot: usize, data: &mut Elements<'_>) {
    if let Some(Some(rounding)) = roundings.get(slot) {
        rounding.round(data.edit());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{DynamicPlan, Tie, ValuePlan};
    use squint_ir::affine::QuantParams;
    use squint_ir::execute::{ExecuteError, Observer};
    use squint_ir::{DType, OpSpec};

    /// A network of one value, which is its output.
    struct Identity;

    impl Session for Identity {
        fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
            let x = sample[0].1.to_f32s();
            let dims = sample[0].1.dims().to_vec();
            Ok(vec![Tensor::from_f32(&dims, &observe(0, &dims, &x).unwrap_or(x))])
        }
    }

    struct Ramp;

    impl Samples for Ramp {
        fn len(&self) -> usize {
            10
        }

        fn get(&self, index: usize) -> Result<Sample, String> {
            let x: Vec<f32> = (0..200).map(|i| (i + index) as f32 / 100.0).collect();
            Ok(vec![("x".into(), Tensor::from_f32(&[100, 2], &x))])
        }
    }

    fn model(op_type: &str) -> (Model, ValueId) {
        let mut m = Model::new("g", 17);
        let g = m.main_mut();
        let x = g.add_value("x", None);
        let y = g.emit(OpSpec::new(op_type).operands([x]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        (m, y)
    }

    fn plan(y: ValueId, scale: f32) -> QuantPlan {
        let params = QuantParams { scale, zero_point: 0 };
        let (why, tie) = (String::new(), Tie::Own);
        let value = ValuePlan {
            dtype: DType::Uint8,
            params,
            codes: None,
            saturates: false,
            made_by_integer: true,
            why,
            tie,
            note: None,
        };
        let mut plan = QuantPlan::default();
        plan.values.insert(y, value);
        plan
    }

    #[test]
    fn the_error_is_that_of_rounding_and_clipping() {
        let (m, y) = model("Relu");
        let config = Config::new("cpu-vnni");
        let observed = [y];
        let float = FloatGraph::of(Box::new(Identity), &m, &observed);
        let s = Simulator::on(&m, &float, &observed, &Ramp, &[0, 2, 5, 7], &config).unwrap();
        let at = |scale: f32| s.deviation(&plan(y, scale)).unwrap();
        assert_eq!(s.deviation(&QuantPlan::default()).unwrap().error, 0.0);
        let (fine, coarse) = (at(0.0101), at(0.05));
        assert!(fine.sqnr() > 50.0 && coarse.sqnr() > 35.0 && coarse.error > fine.error);
        // Half of the ramp is clipped.
        assert!(at(0.004).sqnr() < 10.0);
        assert_eq!(s.error_of_each(&plan(y, 0.05), 4).unwrap().get(y), Some(&coarse.error));
    }

    #[test]
    fn a_value_quantized_in_every_run_is_never_clipped() {
        let (m, y) = model("Relu");
        let config = Config::new("cpu-vnni");
        let observed = [y];
        let float = FloatGraph::of(Box::new(Identity), &m, &observed);
        let s = Simulator::on(&m, &float, &observed, &Ramp, &[0, 2, 5, 7], &config).unwrap();
        let mut dynamic = QuantPlan::default();
        let op = m.main().producer(y).unwrap().0;
        dynamic.dynamic.insert(op, DynamicPlan { reads: vec![y], weights: Vec::new() });
        let found = s.deviation(&dynamic).unwrap();
        assert!(found.error > 0.0 && found.sqnr() > 50.0);
        // Far beyond what a planned scale would cover.
        let wide: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let rounded = Rounding::Dynamic.rounded(&wide);
        assert!(wide.iter().zip(&rounded).all(|(x, y)| (x - y).abs() < 0.5));
        assert_eq!(s.error_of_each_dynamic(&[y], 4).unwrap().get(y), Some(&found.error));
    }

    #[test]
    fn errors_are_taken_before_a_softmax() {
        let mut m = Model::new("g", 17);
        let g = m.main_mut();
        let x = g.add_value("x", None);
        let logits = g.emit(OpSpec::new("Relu").operands([x]), "logits", None);
        let y = g.emit(OpSpec::new("Softmax").operands([logits]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let config = Config::new("cpu-vnni");
        let observed = [logits];
        let float = FloatGraph::of(Box::new(Identity), &m, &observed);
        let s = Simulator::on(&m, &float, &observed, &Ramp, &[0, 2, 5, 7], &config).unwrap();
        let errors = |scale: f32| s.errors_in(&Identity, &plan(logits, scale)).unwrap();
        assert!(errors(0.0101).gain_over(&errors(0.05)) > 10.0);
    }

    #[test]
    fn flips_are_counted_for_probabilities_only() {
        let config = Config::new("cpu-vnni");
        for (op_type, flips) in [("Softmax", true), ("Relu", false)] {
            let (m, y) = model(op_type);
            let observed = [y];
            let float = FloatGraph::of(Box::new(Identity), &m, &observed);
            let s = Simulator::on(&m, &float, &observed, &Ramp, &[0, 2, 5, 7], &config).unwrap();
            // A grid so coarse that neighbours tie: the first wins where the second did.
            assert_eq!(s.deviation(&plan(y, 0.5)).unwrap().flips > 0.5, flips);
        }
    }
}
