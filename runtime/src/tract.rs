//! The tract executor.
//!
//! A session keeps the model encoded, its weights left where they are, and makes plans for the inputs that it meets
//! ([`crate::plan`]): one for all lengths where that is as fast, else, or if tract fails to, one for each combination of
//! shapes ([`crate::signature`]). Threads share plans; each run has a state of its own. Plans hold
//! copies of the weights in the layouts that tract's kernels want. They share those that are the same; where shapes
//! ask for different ones, how many plans are kept depends on the size of the model; the least recently used goes
//! first.

use crate::convert;
use crate::inputs::{Input, arranged, inputs_of};
use crate::lower;
use crate::open::may_open;
use crate::pieces::Constants;
use crate::plan::{Plan, Problem, Source};
use crate::preflight::{self, node_name};
use crate::signature::Signature;
use crate::weights::Weights;
use squint_ir::execute::{Change, Editor, Execute, ExecuteError, Observer, Sample, Session, Unsupported};
use squint_ir::{Graph, Model, Tensor, ValueId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tract_onnx::prelude::{IntoTValue, TValue, TVec, TractError};

/// Name of the executor.
const NAME: &str = "tract";
/// Bytes of constants that the plans of one session may hold together, if they are more than [`FEWEST`].
const PLAN_BYTES: usize = 256 << 20;
/// Bytes of constants that are worth making again.
const LARGE: usize = 64 << 20;
/// Plans that a session keeps whatever they hold.
const FEWEST: usize = 2;
/// Plans that a session keeps at most.
const MOST: usize = 64;

/// Runs models with [tract](https://github.com/sonos/tract), embedded in the program.
///
/// Several threads may run samples on one session; tract itself uses no threads of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Execute for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn preflight(&self, model: &Model) -> Vec<Unsupported> {
        preflight::check(&lower::model(model))
    }

    fn prepare<'e>(
        &'e self,
        model: &Model,
        observe: &[ValueId],
    ) -> Result<Box<dyn Session + 'e>, ExecuteError> {
        Ok(Box::new(TractSession::new(model, observe)?))
    }
}

/// A model encoded for tract, and the plans made from it so far.
struct TractSession {
    /// Operator types by names of nodes and results.
    types: HashMap<String, String>,
    source: Source,
    inputs: Vec<Input>,
    /// Whether plans may have open dimensions.
    may_open: bool,
    observe: Vec<String>,
    plans: Mutex<Plans>,
}

impl TractSession {
    fn new(model: &Model, observe: &[ValueId]) -> Result<Self, ExecuteError> {
        let load = |problem| ExecuteError::Load { executor: NAME, problem };
        let graph = model.main();
        let inputs = inputs_of(model).map_err(load)?;
        // Names and ids are the same in the lowered model; only its encoding is kept.
        let (rest, weights) = Weights::take(&lower::model(model));
        let bytes = squint_proto::encode(&rest).map_err(|e| load(e.to_string()))?;
        Ok(TractSession {
            types: types(graph),
            source: Source { bytes, weights, shared: Constants::default() },
            inputs,
            may_open: may_open(model),
            observe: observe.iter().map(|v| graph.value(*v).name().to_owned()).collect(),
            plans: Mutex::default(),
        })
    }

    /// A plan for a sample, and its inputs.
    fn planned(&self, sample: &Sample) -> Result<(Slot, TVec<TValue>), ExecuteError> {
        let inputs = self.arrays(sample)?;
        let exact = Signature::exact(&inputs);
        if self.may_open
            && let Some(open) = exact.opened(&self.inputs)
        {
            // What tract cannot do with dimensions that it does not know shows when it loads the model or when it runs
            // it; nobody looks on yet.
            let tried = self.slot(&open, |plan| plan.run(inputs.clone(), &mut |_, _, _| ()).map(drop));
            if matches!(tried.get(), Some(Ok(_))) {
                return Ok((tried, inputs));
            }
        }
        Ok((self.slot(&exact, |_| Ok(())), inputs))
    }

    /// The plan for a signature, made if there is none and put to a test; threads that want the same one wait for it.
    fn slot(&self, signature: &Signature, test: impl FnOnce(&Plan) -> Result<(), Problem>) -> Slot {
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = plans().slot(signature);
        slot.get_or_init(|| {
            let plan = Plan::build(&self.source, signature, &self.observe);
            let plan = plan.and_then(|plan| test(&plan).map(|()| plan));
            plans().shrink(|| self.source.shared.bytes() > PLAN_BYTES);
            plan
        });
        slot
    }

    /// Runs something with a plan for a sample.
    fn with_plan<T>(
        &self,
        sample: &Sample,
        run: impl FnOnce(&Plan, TVec<TValue>) -> Result<T, ExecuteError>,
    ) -> Result<T, ExecuteError> {
        let (slot, inputs) = self.planned(sample)?;
        match slot.get() {
            Some(Ok(plan)) => run(plan, inputs),
            Some(Err(problem)) => Err(ExecuteError::Load { executor: NAME, problem: self.locate(problem) }),
            None => unreachable!("a slot is filled before it is handed out"),
        }
    }

    /// tract's complaint, with the user's node and operator. tract names what it makes from node `n`
    /// `n.something`.
    fn locate(&self, problem: &Problem) -> String {
        let Some(node) = &problem.node else { return problem.message.clone() };
        let prefixes =
            std::iter::successors(Some(node.as_str()), |n| n.rsplit_once('.').map(|(head, _)| head));
        for name in prefixes {
            if let Some(op_type) = self.types.get(name) {
                return format!("node `{name}` ({op_type}): {}", problem.message);
            }
        }
        format!("node `{node}`: {}", problem.message)
    }
}

/// Operator types by names of results and, first of all, of nodes.
fn types(graph: &Graph) -> HashMap<String, String> {
    let mut types = HashMap::new();
    for id in graph.ops() {
        for v in graph.results(id).into_iter().flatten() {
            types.insert(graph.value(v).name().to_owned(), graph.op(id).qualified_type());
        }
    }
    // The first of several nodes of one name is the one that is found.
    let nodes: Vec<_> = graph.ops().collect();
    for id in nodes.into_iter().rev() {
        types.insert(node_name(graph, id), graph.op(id).qualified_type());
    }
    types
}

impl TractSession {
    /// The arrays of a sample in the order of the inputs.
    fn arrays(&self, sample: &Sample) -> Result<TVec<TValue>, ExecuteError> {
        let array = |(input, tensor): (&Input, &Tensor)| {
            let array = convert::to_array(&lower::tensor(tensor)).map_err(|e| input.wrong(e))?;
            Ok(array.into_tvalue())
        };
        self.inputs.iter().zip(arranged(&self.inputs, sample)?).map(array).collect()
    }

    fn failed(&self, problem: &Problem) -> ExecuteError {
        ExecuteError::Run { executor: NAME, problem: self.locate(problem) }
    }
}

impl Session for TractSession {
    fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        self.run_edited(sample, &mut |slot, dims, elements| {
            if let Some(replaced) = observe(slot, dims, elements) {
                elements.edit().copy_from_slice(&replaced);
            }
        })
    }

    fn run_edited(&self, sample: &Sample, edit: &mut Editor<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        self.with_plan(sample, |plan, inputs| {
            tensors(&plan.run(inputs, edit).map_err(|problem| self.failed(&problem))?)
        })
    }

    fn release(&self) {
        if self.source.shared.bytes() > LARGE {
            self.plans.lock().unwrap_or_else(PoisonError::into_inner).recent.clear();
        }
    }

    fn run_each(
        &self,
        sample: &Sample,
        groups: &[Vec<usize>],
        change: &Change<'_>,
        each: &mut dyn FnMut(usize, Vec<Tensor>),
    ) -> Result<Vec<Tensor>, ExecuteError> {
        self.with_plan(sample, |plan, inputs| {
            let mut wrong = None;
            let outputs = plan.run_each(inputs, groups, change, &mut |i, outputs| match tensors(&outputs) {
                Ok(outputs) => each(i, outputs),
                Err(e) => wrong = wrong.take().or(Some(e)),
            });
            let outputs = outputs.map_err(|problem| self.failed(&problem))?;
            wrong.map_or_else(|| tensors(&outputs), Err)
        })
    }
}

/// Outputs of a run.
fn tensors(outputs: &[TValue]) -> Result<Vec<Tensor>, ExecuteError> {
    let failed = |e: TractError| ExecuteError::Run { executor: NAME, problem: e.to_string() };
    outputs.iter().map(|o| convert::from_array(o).map_err(failed)).collect()
}

/// A plan, or why there is none, once one thread has found out.
type Slot = Arc<OnceLock<Result<Plan, Problem>>>;

/// Plans by signature, the most recently used last.
#[derive(Default)]
struct Plans {
    recent: Vec<(Signature, Slot)>,
}

impl Plans {
    fn slot(&mut self, signature: &Signature) -> Slot {
        let entry = match self.recent.iter().position(|(s, _)| s == signature) {
            Some(i) => self.recent.remove(i),
            None => {
                if self.recent.len() >= MOST {
                    self.recent.remove(0);
                }
                (signature.clone(), Slot::default())
            }
        };
        let slot = entry.1.clone();
        self.recent.push(entry);
        slot
    }

    /// Lets old plans go while they are too large.
    fn shrink(&mut self, too_large: impl Fn() -> bool) {
        while self.recent.len() > FEWEST && too_large() {
            self.recent.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{DType, Dim, OpSpec, Type};

    /// `y = Relu(x · w + b)` with a symbolic batch.
    fn model() -> (Model, Vec<ValueId>) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let shape = vec![Dim::Symbol("N".into()), Dim::Known(2)];
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(shape))));
        let w = g.add_const("w", Tensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        let b = g.add_const("b", Tensor::from_f32(&[2], &[-4.0, 0.5]));
        let p = g.emit(OpSpec::new("MatMul").name("product").operands([x, w]), "p", None);
        let s = g.emit(OpSpec::new("Add").name("sum").operands([p, b]), "s", None);
        let y = g.emit(OpSpec::new("Relu").name("relu").operands([s]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let out = Type::tensor(DType::Float, None);
        g.set_type(y, Some(out));
        (model, vec![x, p, s, y, b])
    }

    fn sample(dims: &[usize], data: &[f32]) -> Sample {
        vec![("x".into(), Tensor::from_f32(dims, data))]
    }

    #[test]
    fn every_observed_value_is_seen_once() {
        let (model, observe) = model();
        let session = Tract.prepare(&model, &observe).unwrap();
        for n in [1, 3] {
            let data: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
            let mut seen = vec![vec![]; observe.len()];
            let outputs = session.run(&sample(&[n, 2], &data), &mut |i, dims, x| {
                seen[i].push((dims.to_vec(), x.to_vec()));
                None
            });
            let outputs = outputs.unwrap();
            assert!(seen.iter().all(|s| s.len() == 1), "{seen:?}");
            assert_eq!(seen[0][0], (vec![n, 2], data));
            assert_eq!(seen[1][0].1[..2], [3.0, 4.0]);
            assert_eq!(seen[2][0].1[..2], [-1.0, 4.5]);
            assert_eq!(seen[3][0].1[..2], [0.0, 4.5]);
            assert_eq!(seen[4][0].1, [-4.0, 0.5]);
            assert_eq!(outputs[0].to_f32s(), seen[3][0].1);
        }
    }

    #[test]
    fn changes_are_seen_at_the_outputs_one_group_at_a_time() {
        let (model, observe) = model();
        let session = Tract.prepare(&model, &observe).unwrap();
        let sample = sample(&[1, 2], &[1.0, 1.0]);
        // The input, the sum before the clamp, the output itself, a constant; and two values together, of which the
        // second sees what the first has done.
        let groups = [vec![0], vec![2], vec![3], vec![4], vec![1, 3], vec![]];
        let change = |slot: usize, _: &[usize], data: &[f32]| {
            let new = match slot {
                0 => [0.0, 0.0],
                1 => [10.0, 0.0],
                2 => [-1.0, 7.0],
                3 => return Some(data.iter().map(|x| 2.0 * x).collect()),
                _ => [9.0, 9.0],
            };
            Some(new.to_vec())
        };
        let mut changed = vec![vec![]; groups.len()];
        let outputs = session.run_each(&sample, &groups, &change, &mut |i, o| changed[i] = o[0].to_f32s());
        assert_eq!(outputs.unwrap()[0].to_f32s(), [0.0, 6.5]);
        assert_eq!(changed, [[0.0, 0.5], [0.0, 7.0], [0.0, 13.0], [0.0, 6.5], [12.0, 1.0], [0.0, 6.5]]);
    }

    #[test]
    fn half_precision_is_observed_in_single() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", Some(Type::tensor(DType::Float16, Some(vec![Dim::Known(2)]))));
        let y = g.emit(OpSpec::new("Neg").operands([x]), "y", Some(Type::tensor(DType::Float16, None)));
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let halves = [0x00, 0x3c, 0x00, 0xc1];
        let sample =
            vec![("x".to_owned(), Tensor::raw(DType::Float16, &[2], halves.to_vec().into()).unwrap())];
        let mut seen = vec![];
        let session = Tract.prepare(&model, &[y]).unwrap();
        let outputs = session.run(&sample, &mut |_, _, x| {
            seen.extend_from_slice(x);
            None
        });
        let outputs = outputs.unwrap();
        assert_eq!(seen, [-1.0, 2.5]);
        assert_eq!((outputs[0].dtype(), outputs[0].to_f32s()), (DType::Float16, seen));
    }

    #[test]
    fn samples_that_do_not_fit_are_refused() {
        let (model, _) = model();
        let session = Tract.prepare(&model, &[]).unwrap();
        let error = |s: &Sample| session.run(s, &mut |_, _, _| None).unwrap_err().to_string();
        assert_eq!(
            error(&sample(&[1, 3], &[0.0; 3])),
            "input `x`: the sample has shape [1, 3], the model wants float[N,2]"
        );
        let ints = vec![("x".to_owned(), Tensor::from_i64(&[1, 2], &[0, 0]))];
        assert_eq!(error(&ints), "input `x`: the sample has int64, the model wants float");
        let other = vec![("z".to_owned(), Tensor::from_f32(&[], &[0.0]))];
        assert_eq!(error(&other), "input `z`: the model has no such input; it has `x`");
        assert_eq!(error(&vec![]), "input `x`: the sample does not have it");
    }

    #[test]
    fn a_failing_operator_is_named() {
        let (mut model, _) = model();
        let g = model.main_mut();
        let x = g.inputs[0];
        let indices = g.add_const("i", Tensor::from_i64(&[1], &[7]));
        let y = g.emit(OpSpec::new("Gather").name("pick").operands([x, indices]), "z", None);
        g.outputs.push(y);
        g.set_type(y, Some(Type::tensor(DType::Float, None)));
        let session = Tract.prepare(&model, &[]).unwrap();
        let error = session.run(&sample(&[1, 2], &[0.0; 2]), &mut |_, _, _| None).unwrap_err();
        assert!(error.to_string().contains("node `pick` (Gather)"), "{error}");
    }

    #[test]
    fn one_plan_serves_all_lengths() {
        let (model, observe) = model();
        let session = TractSession::new(&model, &observe).unwrap();
        let run = |n: usize| {
            let data: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
            session.run(&sample(&[n, 2], &data), &mut |_, _, _| None).unwrap()[0].to_f32s()
        };
        let longest = run(7);
        assert_eq!(longest.len(), 14);
        (2..7).for_each(|n| assert_eq!(run(n), longest[..2 * n]));
        assert_eq!(session.plans.lock().unwrap().recent.len(), 1);
        // So it does where values are changed.
        let doubled = |n: usize| {
            let data: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
            let change = |_: usize, _: &[usize], x: &[f32]| Some(x.iter().map(|x| 2.0 * x).collect());
            let mut changed = vec![];
            let each = &mut |_: usize, outputs: Vec<Tensor>| changed = outputs[0].to_f32s();
            session.run_each(&sample(&[n, 2], &data), &[vec![1]], &change, each).unwrap();
            changed
        };
        assert_eq!(doubled(3), doubled(7)[..6]);
        assert_ne!(doubled(3), longest[..6]);
        assert_eq!(session.plans.lock().unwrap().recent.len(), 1);
        // A length of one is another matter: it is broadcast.
        assert_eq!(run(1), longest[..2]);
        assert_eq!(session.plans.lock().unwrap().recent.len(), 2);
    }

    #[test]
    fn where_tract_must_know_lengths_each_has_a_plan() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let float = |shape: &[Dim]| Some(Type::tensor(DType::Float, Some(shape.to_vec())));
        let x = g.add_value("x", float(&[Dim::Unknown]));
        // How many columns there are, tract does not find out.
        let halves = g.add_const("halves", Tensor::from_i64(&[2], &[2, -1]));
        let rows = g.emit(OpSpec::new("Reshape").operands([x, halves]), "rows", None);
        let y = g.emit(OpSpec::new("Neg").operands([rows]), "y", float(&[Dim::Known(2), Dim::Unknown]));
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let session = TractSession::new(&model, &[rows]).unwrap();
        for n in [6, 8] {
            let data: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut seen = vec![];
            let outputs = session.run(&sample(&[n], &data), &mut |_, dims, x| {
                seen.push((dims.to_vec(), x.to_vec()));
                None
            });
            assert_eq!(outputs.unwrap()[0].dims(), [2, n / 2]);
            assert_eq!(seen, [(vec![2, n / 2], data)]);
        }
        let plans = session.plans.lock().unwrap();
        let made: Vec<bool> =
            plans.recent.iter().map(|(_, slot)| matches!(slot.get(), Some(Ok(_)))).collect();
        assert_eq!(made, [true, false, true], "for 6, for any number, for 8");
    }

    #[test]
    fn old_plans_make_room() {
        let mut plans = Plans::default();
        let signature = |n: usize| {
            let array = tract_onnx::prelude::Tensor::zero::<f32>(&[n]).unwrap();
            Signature::exact(&[array.into_tvalue()])
        };
        let first = plans.slot(&signature(1));
        plans.slot(&signature(2));
        assert!(Arc::ptr_eq(&first, &plans.slot(&signature(1))), "kept");
        plans.slot(&signature(3));
        plans.shrink(|| true);
        assert_eq!(plans.recent.len(), FEWEST);
        assert!(Arc::ptr_eq(&first, &plans.slot(&signature(1))), "used more recently than 2");
        plans.shrink(|| false);
        (4..4 + MOST).for_each(|n| drop(plans.slot(&signature(n))));
        assert_eq!(plans.recent.len(), MOST);
    }
}
