//! The float graph as stages run it: one session for all of them, and the outputs of samples that plans are compared
//! on later, kept when the sample is run for another purpose.

use crate::calibrate::prepare;
use crate::pass::PassError;
use crate::repair::{self, ChannelSums, Channels};
use crate::trials::Trials;
use squint_ir::execute::{Editor, Elements, Execute, ExecuteError, Sample, Samples, Session};
use squint_ir::{Graph, Model, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Is shown each observed value: its slot, dimensions and elements.
pub(crate) type Watcher<'a> = dyn FnMut(usize, &[usize], &[f32]) + 'a;

/// The float graph with observed values exposed.
pub(crate) struct FloatGraph<'e> {
    session: Box<dyn Session + 'e>,
    taps: Taps,
    /// Samples whose outputs are kept.
    keep: BTreeSet<usize>,
    kept: Mutex<BTreeMap<usize, Reference>>,
    /// Observed values whose channels are summed, by position.
    summed: BTreeMap<usize, (ValueId, Channels)>,
    /// Samples of which they are summed.
    sum: BTreeSet<usize>,
    sums: Mutex<BTreeMap<usize, ChannelSums>>,
    /// Values that stages observe; those behind them are observed for their sums only.
    observed: usize,
}

/// What the float graph makes of a sample. Clones share the elements.
#[derive(Clone)]
pub(crate) struct Reference {
    /// The outputs.
    pub(crate) outputs: Vec<Tensor>,
    /// What is compared in their place, see [`Taps`].
    pub(crate) tapped: Vec<Tensor>,
}

impl<'e> FloatGraph<'e> {
    /// Makes the graph ready to run.
    ///
    /// # Errors
    /// If the executor refuses it.
    pub(crate) fn new(
        model: &Model,
        observed: &[ValueId],
        executor: &'e dyn Execute,
    ) -> Result<FloatGraph<'e>, PassError> {
        Ok(FloatGraph::of(prepare(model, observed, executor)?, model, observed))
    }

    /// As [`FloatGraph::new`], for stages that try plans: what they need of a sample is kept when it is run, whatever for:
    /// the outputs of samples that plans are compared on, and sums of channels of those that biases are learnt from.
    ///
    /// # Errors
    /// If the executor refuses it.
    pub(crate) fn for_trials(
        model: &Model,
        observed: &[ValueId],
        executor: &'e dyn Execute,
        trials: &Trials,
    ) -> Result<FloatGraph<'e>, PassError> {
        let summed = repair::summed(model.main());
        let mut exposed = observed.to_vec();
        exposed.extend(summed.iter().map(|(v, _)| *v).filter(|v| !observed.contains(v)));
        let mut float = FloatGraph::of(prepare(model, &exposed, executor)?, model, observed);
        let position = |v: ValueId| exposed.iter().position(|e| *e == v);
        float.summed = summed.into_iter().filter_map(|(v, c)| Some((position(v)?, (v, c)))).collect();
        float.keep(&trials.tried_on());
        float.keep(&trials.decided_on());
        let split = trials.split(repair::LEARNT_FROM);
        float.keep(&split.held_back);
        let outputs = model.main().outputs.iter().map(|v| trials.dims.get(*v));
        let elements = outputs.map(|d| d.map_or(usize::MAX, |d| d.iter().product()));
        float.keep(&trials.remembered(elements.fold(0, usize::saturating_add)));
        float.sum = split.learnt_from.into_iter().collect();
        Ok(float)
    }

    /// The same with a session that is there already.
    pub(crate) fn of(session: Box<dyn Session + 'e>, model: &Model, observed: &[ValueId]) -> FloatGraph<'e> {
        let taps = Taps::new(model.main(), observed);
        FloatGraph {
            session,
            taps,
            keep: BTreeSet::new(),
            kept: Mutex::default(),
            summed: BTreeMap::new(),
            sum: BTreeSet::new(),
            sums: Mutex::default(),
            observed: observed.len(),
        }
    }

    /// Keeps the outputs of a sample from now on.
    pub(crate) fn keep(&mut self, numbers: &[usize]) {
        self.keep.extend(numbers);
    }

    /// Runs the sample of this number, as [`Session::run`] does; the observer changes nothing.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(crate) fn run(
        &self,
        number: usize,
        sample: &Sample,
        observe: &mut Watcher<'_>,
    ) -> Result<(), ExecuteError> {
        let mut sums = ChannelSums::new();
        let sum = self.sum.contains(&number);
        let mut watch = |slot: usize, dims: &[usize], data: &mut Elements<'_>| {
            if let Some((v, channels)) = self.summed.get(&slot).filter(|_| sum)
                && let Some(of_value) = channels.sums(dims, data)
            {
                sums.insert(*v, of_value);
            }
            if slot < self.observed {
                observe(slot, dims, data);
            }
        };
        if self.keep.contains(&number) {
            let reference = self.taps.run(self.session.as_ref(), sample, &mut watch)?;
            self.kept().insert(number, reference);
        } else {
            self.session.run_edited(sample, &mut watch)?;
        }
        if sum {
            self.sums().insert(number, sums);
        }
        Ok(())
    }

    /// Sums of the channels of values in the sample of a number, which is run unless they were kept.
    ///
    /// # Errors
    /// If the sample cannot be read or run.
    pub(crate) fn sums_of(&self, number: usize, samples: &dyn Samples) -> Result<ChannelSums, PassError> {
        let known = || self.sums().get(&number).cloned();
        if let Some(known) = known() {
            return Ok(known);
        }
        let sample = samples.get(number).map_err(PassError::Data)?;
        self.run(number, &sample, &mut |_, _, _| {})?;
        Ok(known().unwrap_or_default())
    }

    /// What the graph makes of the sample of a number, which is run unless it was kept.
    ///
    /// # Errors
    /// If the sample cannot be read or run.
    pub(crate) fn reference(&self, number: usize, samples: &dyn Samples) -> Result<Reference, PassError> {
        if let Some(known) = self.kept().get(&number) {
            return Ok(known.clone());
        }
        let sample = samples.get(number).map_err(PassError::Data)?;
        let reference = self.taps.run(self.session.as_ref(), &sample, &mut |_, _, _| {})?;
        if self.keep.contains(&number) {
            self.kept().insert(number, reference.clone());
        }
        Ok(reference)
    }

    /// The outputs of samples that were run and are kept, but those of these numbers.
    pub(crate) fn known_but(&self, numbers: &[usize]) -> Vec<Vec<Tensor>> {
        let kept = self.kept();
        kept.iter().filter(|(i, _)| !numbers.contains(i)).map(|(_, r)| r.outputs.clone()).collect()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Reference>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, ChannelSums>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, to run samples that have no number.
    pub(crate) fn session(&self) -> &dyn Session {
        self.session.as_ref()
    }

    /// Where outputs are compared.
    pub(crate) fn taps(&self) -> &Taps {
        &self.taps
    }
}

/// Of each output the position of the observed value that it follows from by a function that saturates, if there is
/// one: where that saturates it hides errors, so plans are compared before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taps(Vec<Option<usize>>);

impl Taps {
    pub(crate) fn new(g: &Graph, observed: &[ValueId]) -> Taps {
        Taps(g.outputs.iter().map(|v| tap(g, *v, observed)).collect())
    }

    /// Runs a sample, with values as they are edited, and returns what is compared, too.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub(crate) fn run(
        &self,
        session: &dyn Session,
        sample: &Sample,
        edit: &mut Editor<'_>,
    ) -> Result<Reference, ExecuteError> {
        let mut seen: Vec<Option<Tensor>> = vec![None; self.0.len()];
        let outputs = session.run_edited(sample, &mut |slot, dims, data| {
            edit(slot, dims, data);
            for (tap, seen) in self.0.iter().zip(&mut seen) {
                if *tap == Some(slot) {
                    *seen = Some(Tensor::from_f32(dims, data));
                }
            }
        })?;
        let tapped = seen.into_iter().zip(&outputs);
        let tapped = tapped.map(|(seen, output)| seen.unwrap_or_else(|| output.clone())).collect();
        Ok(Reference { outputs, tapped })
    }
}

/// The slot of the observed value from which an output follows by a function that saturates.
fn tap(g: &Graph, output: ValueId, observed: &[ValueId]) -> Option<usize> {
    let (op, _) = g.producer(output)?;
    let saturates = ["Softmax", "Sigmoid", "LogSoftmax"].iter().any(|t| g.op(op).is(t));
    let before = g.operand(op, 0).filter(|_| saturates)?;
    observed.iter().position(|v| *v == before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::OpSpec;
    use squint_ir::execute::Observer;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// `y = Softmax (logits)`, `logits = Relu (x)`: shows the logits, and gives what is put in their place.
    struct Counted<'c>(&'c AtomicUsize);

    impl Session for Counted<'_> {
        fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let (dims, x) = (sample[0].1.dims(), sample[0].1.to_f32s());
            let logits = observe(0, dims, &x).unwrap_or(x);
            Ok(vec![Tensor::from_f32(dims, &logits.iter().map(|x| x.min(1.0)).collect::<Vec<_>>())])
        }
    }

    struct Numbers;

    impl Samples for Numbers {
        fn len(&self) -> usize {
            4
        }

        fn get(&self, index: usize) -> Result<Sample, String> {
            Ok(vec![("x".into(), Tensor::from_f32(&[1], &[index as f32]))])
        }
    }

    #[test]
    fn outputs_are_kept_with_what_is_compared_in_their_place() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let logits = g.emit(OpSpec::new("Relu").operands([x]), "logits", None);
        let y = g.emit(OpSpec::new("Softmax").operands([logits]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let runs = AtomicUsize::new(0);
        let mut float = FloatGraph::of(Box::new(Counted(&runs)), &model, &[logits]);
        assert_eq!(*float.taps(), Taps(vec![Some(0)]));
        float.keep(&[3]);
        let mut seen = vec![];
        for i in [2, 3] {
            let sample = Numbers.get(i).unwrap();
            float.run(i, &sample, &mut |_, _, data| seen.extend_from_slice(data)).unwrap();
        }
        assert_eq!(seen, [2.0, 3.0]);
        let reference = float.reference(3, &Numbers).unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 2, "it was kept");
        assert_eq!((reference.outputs[0].to_f32s(), reference.tapped[0].to_f32s()), (vec![1.0], vec![3.0]));
        float.reference(2, &Numbers).unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn only_functions_that_saturate_are_looked_behind() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let y = g.emit(OpSpec::new("Relu").operands([x]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        assert_eq!(Taps::new(g, &[x, y]), Taps(vec![None]));
    }
}
