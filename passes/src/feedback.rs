//! Models that are one step of a recurrence: what they give at one step they are given at the next.
//!
//! Errors add up there from step to step, and states leave the ranges that they had in float. Scales that are found
//! in every run follow them; whether the outputs stay near those of float is tried over a sequence of steps.

use crate::pass::PassError;
use crate::plan::QuantPlan;
use crate::simulate::{Deviation, Simulator};
use squint_ir::execute::{Sample, Samples};
use squint_ir::{Model, Tensor, Type};

/// An input that takes what an output gave one step before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Name of the input.
    pub(crate) input: String,
    /// Position of the output.
    pub(crate) output: usize,
}

/// The states of a model: outputs with an input of the same type and shape, but perhaps for the batch. (A cache that
/// grows has another shape.) There is none unless some other input brings data and some other output takes results;
/// of inputs that all look like states, the first is the data.
pub(crate) fn states(model: &Model) -> Vec<State> {
    let g = model.main();
    if g.inputs.len() < 2 || g.outputs.len() < 2 {
        return Vec::new();
    }
    let same = |i: &Type, o: &Type| match (i.shape(), o.shape()) {
        (Some(a), Some(b)) if a.len() > 1 && a.len() == b.len() && i.dtype() == o.dtype() => {
            let mut lengths = a.iter().zip(b).map(|(a, b)| (a.known(), b.known()));
            let batch = lengths.next().is_none_or(|(a, b)| a.is_none() || b.is_none() || a == b);
            batch && lengths.all(|(a, b)| a.is_some() && a == b)
        }
        _ => false,
    };
    let mut free: Vec<usize> = (0..g.inputs.len()).collect();
    let mut pairs = Vec::new();
    for (output, o) in g.outputs.iter().enumerate() {
        let found =
            free.iter().position(|i| g.ty(g.inputs[*i]).zip(g.ty(*o)).is_some_and(|(i, o)| same(i, o)));
        if let Some(at) = found {
            pairs.push((free.remove(at), output));
        }
    }
    if free.is_empty() || pairs.len() == g.outputs.len() {
        pairs.retain(|(input, _)| *input != 0);
    }
    let state =
        |(input, output): (usize, usize)| State { input: g.value(g.inputs[input]).name().to_owned(), output };
    pairs.into_iter().map(state).collect()
}

/// A sequence of steps, with what the float model gives in each.
pub(crate) struct Sequence<'s> {
    states: &'s [State],
    steps: Vec<Sample>,
    references: Vec<Vec<Tensor>>,
}

impl<'s> Sequence<'s> {
    /// Runs the first `n` samples in float, one after the other: each but the first begins with the states that the
    /// one before left.
    ///
    /// # Errors
    /// If a sample cannot be read or run.
    pub(crate) fn new(
        states: &'s [State],
        simulator: &Simulator<'_>,
        samples: &dyn Samples,
        n: usize,
    ) -> Result<Sequence<'s>, PassError> {
        let steps = (0..n.min(samples.len())).map(|i| samples.get(i).map_err(PassError::Data));
        let mut sequence =
            Sequence { states, steps: steps.collect::<Result<_, _>>()?, references: Vec::new() };
        sequence.references = sequence.run(simulator, &QuantPlan::default())?;
        Ok(sequence)
    }

    /// What a plan does over all steps.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn deviation(
        &self,
        simulator: &Simulator<'_>,
        plan: &QuantPlan,
    ) -> Result<Deviation, PassError> {
        Ok(simulator.compare(&self.references, &self.run(simulator, plan)?))
    }

    fn run(&self, simulator: &Simulator<'_>, plan: &QuantPlan) -> Result<Vec<Vec<Tensor>>, PassError> {
        let roundings = simulator.roundings(plan);
        let mut all: Vec<Vec<Tensor>> = Vec::new();
        for step in &self.steps {
            let mut sample = step.clone();
            for state in self.states {
                let last = all.last().and_then(|outputs| outputs.get(state.output));
                let given = sample.iter_mut().find(|(name, _)| *name == state.input);
                // A state whose batch differs from the one of this sample is no continuation of it.
                if let (Some(last), Some((_, given))) = (last, given)
                    && last.dims() == given.dims()
                {
                    *given = last.clone();
                }
            }
            all.push(simulator.run(&sample, &roundings)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{DType, Dim};

    fn model(inputs: &[u64], outputs: &[u64]) -> Model {
        let mut m = Model::new("g", 17);
        let g = m.main_mut();
        let ty = |n: &u64| Some(Type::tensor(DType::Float, Some(vec![Dim::Known(1), Dim::Known(*n)])));
        g.inputs = inputs.iter().map(|n| g.add_value("x", ty(n))).collect();
        g.outputs = outputs.iter().map(|n| g.add_value("y", ty(n))).collect();
        m
    }

    fn found(m: &Model) -> Vec<(String, usize)> {
        states(m).into_iter().map(|s| (s.input, s.output)).collect()
    }

    #[test]
    fn states_are_told_from_data() {
        assert_eq!(found(&model(&[512, 64], &[1, 64])), [("x_1".to_owned(), 1)]);
        // Results as long as the data: one of the two is the state, and data comes first.
        assert_eq!(found(&model(&[257, 128], &[257, 128])), [("x_1".to_owned(), 1)]);
        assert_eq!(
            found(&model(&[512, 64, 64], &[64, 1, 64])),
            [("x_1".to_owned(), 0), ("x_2".to_owned(), 2)]
        );
        let mut symbolic = model(&[512, 64], &[1, 64]);
        let state = symbolic.main().outputs[1];
        let shape = vec![Dim::Symbol("N".into()), Dim::Known(64)];
        symbolic.main_mut().set_type(state, Some(Type::tensor(DType::Float, Some(shape))));
        assert_eq!(found(&symbolic).len(), 1);
        // One step of nothing: a filter, and a network of several heads.
        assert!(found(&model(&[512], &[512])).is_empty());
        assert!(found(&model(&[512], &[4, 512])).is_empty());
        assert!(found(&model(&[3, 5], &[7, 9])).is_empty());
    }
}
