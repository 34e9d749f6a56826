//! `infer-types`: types, shapes and known contents of every value of the main graph.
//!
//! One walk in execution order. What the rows of `squint-ops` infer is joined with what the file declares,
//! keeping the more precise of the two; an operator without a row, or one whose operands contradict it,
//! falls back to the declaration. What `If`, `Loop` and `Scan` give follows from a walk through their bodies
//! (`infer_types/bodies.rs`). Nothing is ever an error here: an unknown shape only means that later passes know
//! less.

mod bodies;

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::execute::Samples;
use squint_ir::types::known_dims;
use squint_ir::{Dim, Graph, GraphId, Model, OpId, Shape, Tensor, Type, ValueId, ValueTable};
use squint_ops::{Fact, InferCx, Row};

/// The pass.
pub(crate) struct InferTypes;

impl Pass for InferTypes {
    fn name(&self) -> &'static str {
        "infer-types"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Typed)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut walk = Walk::new(model);
        cx.facts = walk.graph(model.main_id(), declared(model))?;
        for (node, contradiction) in walk.contradictions {
            cx.notes.add(node, contradiction);
        }
        Ok(Changed::No)
    }
}

/// The facts of every value, with graph inputs as declared.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn infer_declared(model: &Model) -> Result<ValueTable<Fact>, PassError> {
    Walk::new(model).graph(model.main_id(), declared(model))
}

fn declared(model: &Model) -> ValueTable<Fact> {
    let g = model.main();
    let mut facts = ValueTable::new();
    for (v, ty) in g.inputs.iter().filter_map(|v| Some((*v, g.ty(*v)?))) {
        facts.insert(v, Fact::from_type(ty));
    }
    facts
}

/// Whether operators of the main graph that always run cannot run if the condition of an `If` among them is as given.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn contradicts(model: &Model, op: OpId, condition: bool) -> Result<bool, PassError> {
    let mut walk = Walk { assumed: Some((model.main_id(), op, condition)), ..Walk::new(model) };
    walk.graph(model.main_id(), declared(model))?;
    Ok(walk.certain)
}

/// The facts of every value when graph inputs have exactly the given dimensions; inputs without an entry
/// are as declared.
///
/// # Errors
/// If the graph has a cycle.
pub(crate) fn infer_concrete(
    model: &Model,
    dims: &ValueTable<Vec<usize>>,
) -> Result<ValueTable<Fact>, PassError> {
    let g = model.main();
    let mut facts = ValueTable::new();
    for v in &g.inputs {
        let declared = g.ty(*v).map(Fact::from_type).unwrap_or_default();
        let seen = dims.get(*v).map(|d| d.iter().map(|n| Dim::from(*n)).collect());
        facts.insert(*v, Fact { shape: seen.or(declared.shape.clone()), ..declared });
    }
    Walk::new(model).graph(model.main_id(), facts)
}

/// Dimensions of values in the first sample, as far as they follow from those of the inputs.
///
/// # Errors
/// If the sample cannot be read or the graph has a cycle.
pub(crate) fn dims_of_first(
    model: &Model,
    samples: &dyn Samples,
) -> Result<ValueTable<Vec<usize>>, PassError> {
    let g = model.main();
    let mut inputs = ValueTable::new();
    for (name, t) in samples.get(0).map_err(PassError::Data)? {
        if let Some(v) = g.value_named(&name) {
            inputs.insert(v, t.dims().to_vec());
        }
    }
    let mut dims = ValueTable::new();
    for (v, fact) in infer_concrete(model, &inputs)?.iter() {
        if let Some(d) = fact.shape.as_deref().and_then(known_dims) {
            dims.insert(v, d);
        }
    }
    Ok(dims)
}

/// A walk through a graph and the bodies in it.
struct Walk<'m> {
    model: &'m Model,
    /// Operators with what their operands say against each other.
    contradictions: Vec<(String, String)>,
    /// How many bodies the walk is inside of.
    depth: usize,
    /// How many of these may not run.
    uncertain: usize,
    /// Whether there is a contradiction among operators that always run.
    certain: bool,
    /// What a condition is taken to be, other than its operand says.
    assumed: Option<(GraphId, OpId, bool)>,
}

impl<'m> Walk<'m> {
    fn new(model: &'m Model) -> Walk<'m> {
        Walk { model, contradictions: Vec::new(), depth: 0, uncertain: 0, certain: false, assumed: None }
    }

    /// The facts of all values that operators make, added to those of inputs and captured values.
    fn graph(&mut self, id: GraphId, mut facts: ValueTable<Fact>) -> Result<ValueTable<Fact>, PassError> {
        let g = self.model.graph(id);
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            let node = g.op(op);
            let results = g.results(op);
            let inferred = match squint_ops::row(&node.domain, &node.op_type) {
                Some(_) if node.bodies().next().is_some() => self.owner_of_bodies((id, op), &facts)?,
                Some(row) => self.operator(g, op, row, &facts),
                None => Vec::new(),
            };
            let mut inferred = inferred.into_iter();
            for v in results {
                let fact = inferred.next().unwrap_or_default();
                let Some(v) = v else { continue };
                let declared = g.ty(v).map(Fact::from_type).unwrap_or_default();
                facts.insert(v, join(fact, declared));
            }
        }
        Ok(facts)
    }

    fn operator(&mut self, g: &Graph, op: OpId, row: &Row, facts: &ValueTable<Fact>) -> Vec<Fact> {
        let node = g.op(op);
        let operand = |v: ValueId| match g.ty(v) {
            // A fact says nothing of an optional, but its element is what this operator gives.
            Some(Type::Optional(element)) if node.is("OptionalGetElement") => Fact::from_type(element),
            _ => known(g, facts, v),
        };
        let inputs: Vec<Option<Fact>> = g.operands(op).into_iter().map(|v| v.map(operand)).collect();
        let opset = self.model.opset(&node.domain).unwrap_or(1);
        let n_results = g.results(op).len();
        match (row.infer)(&InferCx { op: node, opset, inputs: &inputs, n_results }) {
            Ok(facts) => decided(node, opset, row, &inputs).map_or(facts, |fact| vec![fact]),
            Err(e) => {
                self.certain |= self.uncertain == 0;
                let message = format!("shapes of this {} contradict: {e}", node.op_type);
                self.contradictions.push((g.label(op), message));
                Vec::new()
            }
        }
    }
}

/// Conditions that are computed while inferring, as which branches are taken depends on them.
const CONDITIONS: &[&str] =
    &["And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"];

/// `TensorProto.DataType.BOOL`.
const BOOL: i64 = 9;

/// What a condition on single numbers that are known is.
fn decided(op: &squint_ir::Op, opset: i64, row: &Row, inputs: &[Option<Fact>]) -> Option<Fact> {
    let to_bool = op.op_type == "Cast" && op.int("to") == Some(BOOL);
    if !to_bool && !CONDITIONS.contains(&op.op_type.as_str()) {
        return None;
    }
    let number = |fact: &Option<Fact>| -> Option<Tensor> {
        let fact = fact.as_ref()?;
        if let Some(konst) = &fact.konst {
            return (konst.len() == 1).then(|| konst.as_ref().clone());
        }
        let [one] = fact.ints()?[..] else { return None };
        let dims = vec![1; fact.rank()?];
        (fact.dtype == Some(squint_ir::DType::Int64)).then(|| Tensor::from_i64(&dims, &[one]))
    };
    let numbers: Vec<Tensor> = inputs.iter().map(number).collect::<Option<_>>()?;
    let inputs: Vec<Option<&Tensor>> = numbers.iter().map(Some).collect();
    let made = (row.eval?)(&squint_ops::EvalCx { op, opset, inputs: &inputs, n_results: 1 }).ok()?;
    Some(Fact::constant(made.into_iter().next()?.into()))
}

/// What is known of a value.
fn known(g: &Graph, facts: &ValueTable<Fact>, v: ValueId) -> Fact {
    match g.konst(v) {
        Some(t) => Fact::constant(t.clone()),
        None => facts.get(v).cloned().or_else(|| g.ty(v).map(Fact::from_type)).unwrap_or_default(),
    }
}

/// The more precise of what is inferred and what is declared; inferred where they contradict, since
/// declarations outlive edits of the tools that made the file.
fn join(inferred: Fact, declared: Fact) -> Fact {
    let shape = match (inferred.shape, declared.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => Some(join_shapes(a, b)),
        (a, b) => a.or(b),
    };
    Fact { dtype: inferred.dtype.or(declared.dtype), shape, ..inferred }
}

fn join_shapes(a: Shape, b: Shape) -> Shape {
    a.into_iter()
        .zip(b)
        .map(|(a, b)| match (a, b) {
            (Dim::Unknown, b) => b,
            (Dim::Symbol(_), b @ Dim::Known(_)) => b,
            (a, _) => a,
        })
        .collect()
}
