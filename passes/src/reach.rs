//! How far an executor gets with a model.
//!
//! An executor may lack an operator, or fail to load one. What comes before such an operator is measured and quantized
//! as ever: the executor is given the model without the operators that it refuses and all that follow from them, and
//! with the values that these read for outputs. What is out of reach stays in float.

use crate::calibrate::refusal;
use crate::evidence::Evidence;
use crate::pass::{PassCx, PassError};
use crate::raise_qoperator;
use squint_ir::execute::{
    Change, Editor, Execute, ExecuteError, Observer, Sample, Samples, Session, Unsupported,
};
use squint_ir::{Graph, Model, OpId, OpTable, Tensor, ValueId, ValueTable};
use squint_ops::Class;
use std::borrow::Cow;

/// Why an operator out of reach stays in float.
pub(crate) const BEYOND: &str = "what calibrates does not get there";

/// Operators that an executor may fail to load before it is given up.
const CULPRITS: usize = 4;

/// An executor that is given no more of a model than it can run. Observed values out of reach are never shown.
pub(crate) struct Reach<'e> {
    executor: &'e dyn Execute,
    samples: &'e dyn Samples,
    /// Operators out of reach.
    beyond: OpTable<()>,
    /// Of the main graph as far as it is run.
    outputs: Vec<ValueId>,
    /// Operators that the executor refuses, each with the reason.
    refused: Vec<Unsupported>,
}

impl<'e> Reach<'e> {
    /// How far the executor of this evidence says that it gets, if there is one.
    ///
    /// # Errors
    /// If no contraction can be run; if the model has a cycle.
    pub(crate) fn of(model: &Model, evidence: Evidence<'e>) -> Result<Option<Reach<'e>>, PassError> {
        let over = |(executor, samples)| Reach::over(model, executor, samples);
        evidence.samples.map(over).transpose()
    }

    /// The same for an executor and samples.
    ///
    /// # Errors
    /// As [`Reach::of`].
    pub(crate) fn over(
        model: &Model,
        executor: &'e dyn Execute,
        samples: &'e dyn Samples,
    ) -> Result<Reach<'e>, PassError> {
        let whole = Reach {
            executor,
            samples,
            beyond: OpTable::new(),
            outputs: model.main().outputs.clone(),
            refused: Vec::new(),
        };
        // Where operators on integers have to be raised first, the graph that is run has other operators.
        if raise_qoperator::occurs(model) {
            return Ok(whole);
        }
        match executor.preflight(model) {
            refused if refused.is_empty() => Ok(whole),
            refused => whole.without(model, refused),
        }
    }

    /// How far it gets where it fails to load the model for the first sample.
    ///
    /// # Errors
    /// `failure`, which it failed with, if that is another failure, or if too little can be run.
    pub(crate) fn after(&self, model: &Model, failure: PassError) -> Result<Reach<'e>, PassError> {
        let PassError::Execute(ExecuteError::Load { problem, .. }) = &failure else { return Err(failure) };
        if raise_qoperator::occurs(model) || self.samples.is_empty() {
            return Err(failure);
        }
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let sample = self.samples.get(0).map_err(PassError::Data)?;
        let mut problem = problem.clone();
        let mut refused = self.refused.clone();
        for _ in 0..CULPRITS {
            let Some(culprit) = self.culprit(model, &order, &refused, &sample) else { break };
            let op = model.main().op(culprit);
            let (node, op_type) = (model.main().label(culprit), op.qualified_type());
            // Executors say where, too, as well as they know.
            let reason = problem.split_once("): ").map_or(problem.as_str(), |(_, what)| what).to_owned();
            refused.push(Unsupported { op: culprit, node, op_type, reason });
            let Ok(reach) = self.without(model, refused.clone()) else { break };
            match reach.load(model, &sample) {
                None => return Ok(reach),
                Some(other) => problem = other,
            }
        }
        Err(failure)
    }

    /// The first operator, in this order, that makes the executor fail to load; found by bisection.
    fn culprit(
        &self,
        model: &Model,
        order: &[OpId],
        refused: &[Unsupported],
        sample: &Sample,
    ) -> Option<OpId> {
        let refused = follow(model.main(), order, refused.iter().map(|r| r.op));
        let loads = |n: usize| {
            let rest = order[n..].iter().copied();
            let beyond = follow(model.main(), order, rest.chain(refused.iter().map(|(op, ())| op)));
            let outputs = outputs(model.main(), order, &beyond);
            let reach = Reach { beyond, outputs, refused: Vec::new(), ..*self };
            reach.outputs.is_empty() || reach.load(model, sample).is_none()
        };
        let (mut low, mut high) = (0, order.len());
        if loads(high) {
            return None;
        }
        while high - low > 1 {
            let middle = (low + high) / 2;
            if loads(middle) { low = middle } else { high = middle }
        }
        Some(order[high - 1])
    }

    /// What the executor says that fails to load the model for this sample; `None` if it loads.
    fn load(&self, model: &Model, sample: &Sample) -> Option<String> {
        let run = || self.prepare(model, &[])?.run(sample, &mut |_, _, _| None);
        match run() {
            Err(ExecuteError::Load { problem, .. }) => Some(problem),
            _ => None,
        }
    }

    /// The same without operators that are refused.
    fn without(&self, model: &Model, refused: Vec<Unsupported>) -> Result<Reach<'e>, PassError> {
        let g = model.main();
        let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
        let beyond = follow(g, &order, refused.iter().map(|r| r.op));
        let outputs = outputs(g, &order, &beyond);
        let contracts = |op: &&OpId| {
            let op = g.op(**op);
            squint_ops::row(&op.domain, &op.op_type).is_some_and(|r| r.class == Class::Contraction)
        };
        if !order.iter().filter(|op| !beyond.contains(**op)).any(|op| contracts(&op)) {
            let (executor, problem) = (self.executor.name(), refusal(&refused));
            return Err(PassError::Unsupported { executor, problem });
        }
        Ok(Reach { beyond, outputs, refused, ..*self })
    }

    /// Gives the main graph the outputs that it has as far as it is run, tells planning what is out of reach, and the user
    /// why. Returns what is learnt from then.
    pub(crate) fn enter<'s>(
        &'s self,
        model: &mut Model,
        cx: &mut PassCx<'_>,
        evidence: Evidence<'s>,
    ) -> Evidence<'s> {
        if let Some(note) = self.note() {
            cx.notes.add("", note);
        }
        cx.beyond = self.beyond.clone();
        model.main_mut().outputs.clone_from(&self.outputs);
        Evidence { samples: Some((self, self.samples)), ..evidence }
    }

    /// What is out of reach, for the user, if anything is.
    pub(crate) fn note(&self) -> Option<String> {
        let beyond = self.beyond.count();
        if beyond == 0 {
            return None;
        }
        let (executor, problem) = (self.executor.name(), refusal(&self.refused));
        let stay = if beyond == 1 { "operator stays" } else { "operators from there on stay" };
        let help = match executor {
            "tract" => "; `--runtime onnxruntime` runs all of the model, if ONNX Runtime is installed",
            _ => "",
        };
        Some(format!("{executor} does not run {problem}: {beyond} {stay} in float{help}"))
    }

    /// The model as far as it is run.
    fn within<'m>(&self, model: &'m Model) -> Cow<'m, Model> {
        if self.beyond.count() == 0 {
            return Cow::Borrowed(model);
        }
        let mut model = model.clone();
        model.main_mut().outputs = self.outputs.clone();
        let order = model.main().topo().unwrap_or_default();
        for op in order.into_iter().rev().filter(|op| self.beyond.contains(*op)) {
            let bodies: Vec<_> = model.main().op(op).bodies().collect();
            bodies.into_iter().for_each(|body| model.remove_graph(body));
            model.main_mut().remove_op_and_results(op);
        }
        Cow::Owned(model)
    }
}

/// These operators and all that follow from them.
fn follow(g: &Graph, order: &[OpId], from: impl Iterator<Item = OpId>) -> OpTable<()> {
    let mut beyond = OpTable::new();
    for op in from {
        beyond.insert(op, ());
    }
    for op in order {
        let behind = |v: ValueId| g.producer(v).is_some_and(|(op, _)| beyond.contains(op));
        if reads(g, *op).any(behind) {
            beyond.insert(*op, ());
        }
    }
    beyond
}

/// What an operator and its bodies read.
fn reads(g: &Graph, op: OpId) -> impl Iterator<Item = ValueId> {
    g.operands(op).into_iter().chain(g.captures(op)).flatten()
}

/// The outputs of a graph that are made within reach, and the values made there that are read beyond.
fn outputs(g: &Graph, order: &[OpId], beyond: &OpTable<()>) -> Vec<ValueId> {
    let made = |v: &ValueId| g.producer(*v).is_some_and(|(op, _)| !beyond.contains(op));
    let kept = g.outputs.iter().copied().filter(|v| g.producer(*v).is_none() || made(v));
    let cut = order.iter().filter(|op| beyond.contains(**op)).flat_map(|op| reads(g, *op)).filter(made);
    let mut seen = ValueTable::new();
    kept.chain(cut).filter(|v| seen.insert(*v, ()).is_none()).collect()
}

impl Execute for Reach<'_> {
    fn name(&self) -> &'static str {
        self.executor.name()
    }

    fn preflight(&self, model: &Model) -> Vec<Unsupported> {
        self.executor.preflight(&self.within(model))
    }

    fn prepare<'e>(
        &'e self,
        model: &Model,
        observe: &[ValueId],
    ) -> Result<Box<dyn Session + 'e>, ExecuteError> {
        let within = self.within(model);
        if matches!(within, Cow::Borrowed(_)) {
            return self.executor.prepare(model, observe);
        }
        let beyond = |v: ValueId| model.main().producer(v).is_some_and(|(op, _)| self.beyond.contains(op));
        let slots: Vec<usize> = (0..observe.len()).filter(|i| !beyond(observe[*i])).collect();
        let observe: Vec<ValueId> = slots.iter().map(|i| observe[*i]).collect();
        Ok(Box::new(Within { session: self.executor.prepare(&within, &observe)?, slots }))
    }
}

/// A session that exposes some of the values that are asked for.
struct Within<'e> {
    session: Box<dyn Session + 'e>,
    /// Of each value that it exposes, the position among those that are asked for; ascending.
    slots: Vec<usize>,
}

impl Session for Within<'_> {
    fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        self.session.run(sample, &mut |slot, dims, data| observe(self.slots[slot], dims, data))
    }

    fn run_edited(&self, sample: &Sample, edit: &mut Editor<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        self.session.run_edited(sample, &mut |slot, dims, elements| edit(self.slots[slot], dims, elements))
    }

    fn release(&self) {
        self.session.release();
    }

    fn run_each(
        &self,
        sample: &Sample,
        groups: &[Vec<usize>],
        change: &Change<'_>,
        each: &mut dyn FnMut(usize, Vec<Tensor>),
    ) -> Result<Vec<Tensor>, ExecuteError> {
        let within =
            |group: &Vec<usize>| group.iter().filter_map(|i| self.slots.binary_search(i).ok()).collect();
        let groups: Vec<Vec<usize>> = groups.iter().map(within).collect();
        let change = |slot: usize, dims: &[usize], data: &[f32]| change(self.slots[slot], dims, data);
        self.session.run_each(sample, &groups, &change, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use squint_ir::OpSpec;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Refuses `Refused`, fails to load `Broken`, and gives nothing for outputs; counts the models that it loads.
    #[derive(Default)]
    struct Picky(AtomicUsize);

    /// Whether the model is loaded.
    struct Loaded(Result<usize, ExecuteError>);

    impl Execute for Picky {
        fn name(&self) -> &'static str {
            "picky"
        }

        fn preflight(&self, model: &Model) -> Vec<Unsupported> {
            let g = model.main();
            let refused = g.ops().filter(|op| g.op(*op).is("Refused"));
            let why =
                |op| Unsupported { op, node: g.label(op), op_type: "Refused".into(), reason: "no".into() };
            refused.map(why).collect()
        }

        fn prepare<'e>(
            &'e self,
            model: &Model,
            observe: &[ValueId],
        ) -> Result<Box<dyn Session + 'e>, ExecuteError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let g = model.main();
            let broken = g.ops().find(|op| g.op(*op).is("Broken"));
            let problem = broken.map(|op| format!("node `{}` (Broken): it is", g.label(op)));
            Ok(Box::new(Loaded(match problem {
                Some(problem) => Err(ExecuteError::Load { executor: "picky", problem }),
                None => Ok(observe.len()),
            })))
        }
    }

    impl Session for Loaded {
        fn run(&self, _: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
            for slot in 0..self.0.clone()? {
                observe(slot, &[1], &[0.0]);
            }
            Ok(vec![])
        }
    }

    struct One;

    impl Samples for One {
        fn len(&self) -> usize {
            1
        }

        fn get(&self, _: usize) -> Result<Sample, String> {
            Ok(vec![])
        }
    }

    /// `a = Conv (x, w)`, `b = Relu (a)`, `c = odd (b)`, `d = Conv (c, w)`, `e = Add (a, d)`; outputs `b` and `e`.
    fn model(odd: &str) -> (Model, Vec<ValueId>, Vec<OpId>) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let w = g.add_const("w", Tensor::from_f32(&[1, 1, 1, 1], &[0.5]));
        let a = g.emit(OpSpec::new("Conv").operands([x, w]), "a", None);
        let b = g.emit(OpSpec::new("Relu").operands([a]), "b", None);
        let c = g.emit(OpSpec::new(odd).operands([b]), "c", None);
        let d = g.emit(OpSpec::new("Conv").operands([c, w]), "d", None);
        let e = g.emit(OpSpec::new("Add").operands([a, d]), "e", None);
        (g.inputs, g.outputs) = (vec![x], vec![b, e]);
        let ops = g.topo().unwrap();
        (model, vec![a, b, c, d, e], ops)
    }

    fn beyond(reach: &Reach<'_>) -> Vec<OpId> {
        reach.beyond.iter().map(|(op, ())| op).collect()
    }

    #[test]
    fn what_follows_from_a_refused_operator_is_out_of_reach() {
        let (mut model, values, ops) = model("Refused");
        let executor = Picky::default();
        let reach = Reach::over(&model, &executor, &One).unwrap();
        assert_eq!(beyond(&reach), ops[2..]);
        assert_eq!(reach.outputs, [values[1], values[0]], "an output, and what is read beyond");
        assert_eq!(
            reach.note().unwrap(),
            "picky does not run `c` (Refused): no: 3 operators from there on stay in float"
        );
        // What is run is the rest, and values keep their places.
        assert_eq!(reach.preflight(&model), []);
        let observed = [values[3], values[1], values[2], values[0]];
        let mut seen = Vec::new();
        let mut observe = |slot: usize, _: &[usize], _: &[f32]| {
            seen.push(slot);
            None
        };
        reach.prepare(&model, &observed).unwrap().run(&vec![], &mut observe).unwrap();
        assert_eq!(seen, [1, 3]);
        let config = Config::new("cpu-vnni");
        let mut cx = PassCx::new(&config);
        reach.enter(&mut model, &mut cx, Evidence::default());
        assert_eq!((model.main().outputs.clone(), cx.beyond.count()), (vec![values[1], values[0]], 3));
        assert_eq!(model.main().op_count(), 5, "nothing is taken out of the model");
    }

    #[test]
    fn all_is_in_reach_of_an_executor_that_refuses_nothing() {
        let (model, values, _) = model("Relu");
        let executor = Picky::default();
        let reach = Reach::over(&model, &executor, &One).unwrap();
        assert_eq!((beyond(&reach), reach.note()), (vec![], None));
        assert_eq!(reach.outputs, [values[1], values[4]]);
        assert!(Reach::of(&model, Evidence::default()).unwrap().is_none());
    }

    #[test]
    fn an_operator_that_fails_to_load_is_found() {
        let (model, values, ops) = model("Broken");
        let executor = Picky::default();
        let reach = Reach::over(&model, &executor, &One).unwrap();
        let failure = || {
            PassError::from(ExecuteError::Load {
                executor: "picky",
                problem: "node `c` (Broken): it is".into(),
            })
        };
        let nearer = reach.after(&model, failure()).unwrap();
        assert_eq!(
            (beyond(&nearer), nearer.outputs.clone()),
            (ops[2..].to_vec(), vec![values[1], values[0]])
        );
        assert!(nearer.note().unwrap().contains("`c` (Broken): it is: 3 operators"));
        assert!(executor.0.load(Ordering::Relaxed) < 6, "it is found by bisection");
        // Other failures are as they were.
        let other = reach.after(&model, PassError::Data("no data".into()));
        assert!(matches!(other, Err(PassError::Data(_))));
        let (whole, ..) = self::model("Relu");
        assert!(matches!(reach.after(&whole, failure()), Err(PassError::Execute(_))));
    }

    #[test]
    fn a_model_with_no_contraction_in_reach_is_refused() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let w = g.add_const("w", Tensor::from_f32(&[1, 1, 1, 1], &[0.5]));
        let a = g.emit(OpSpec::new("Refused").operands([x]), "a", None);
        let b = g.emit(OpSpec::new("Conv").operands([a, w]), "b", None);
        (g.inputs, g.outputs) = (vec![x], vec![b]);
        let executor = Picky::default();
        let refused = Reach::over(&model, &executor, &One).err().unwrap().to_string();
        assert_eq!(refused, "picky cannot run this model: `a` (Refused): no");
    }
}
