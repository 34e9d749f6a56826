//! Optimises a model piece by piece.
//!
//! tract's optimiser looks at the whole model again for each of its rewrites, so its time grows with the square of
//! the number of nodes: of a chain of 800 observed operators more than ten seconds. But nothing is rewritten across an
//! [`Observe`]. What lies between observed tensors can as well be optimised by itself, and the pieces put together
//! afterwards. A model without observed tensors is one piece.
//!
//! Weights are laid out anew for the kernels that multiply by them, in each piece; the plans of one session keep one
//! copy of what is the same in several of them ([`Constants`]).

use crate::observe::Observe;
use std::sync::{Mutex, PoisonError, Weak};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;

/// The same model, optimised.
///
/// # Errors
/// If tract fails to rewrite a piece.
pub(crate) fn optimize(model: TypedModel, shared: &Constants) -> TractResult<TypedModel> {
    let mut whole = Whole::of(&model)?;
    let pieces = split(&model)?;
    let outputs = model.outputs.clone();
    for outlet in &outputs {
        if let Some(constant) = constant(&model, *outlet)? {
            whole.place(*outlet, constant)?;
        }
    }
    // Weights are let go as soon as their piece is done with them.
    drop(model);
    for piece in pieces {
        let model = piece.model.into_optimized()?;
        whole.add(Piece { model, ..piece }, shared)?;
    }
    whole.connect(&outputs)
}

/// Whether a node is there to be computed in a run.
fn computed(node: &TypedNode) -> bool {
    !node.op_is::<Const>() && !node.op_is::<TypedSource>()
}

/// A node that makes what an outlet is in every run, and its fact.
type Constant = (Const, TypedFact);

/// `None` for an outlet that is not the same in every run.
fn constant(model: &TypedModel, outlet: OutletId) -> TractResult<Option<Constant>> {
    let fact = model.outlet_fact(outlet)?;
    let op = match (model.node(outlet.node).op_as::<Const>(), &fact.konst) {
        (Some(op), _) => op.clone(),
        (None, Some(value)) => Const::new_with_opt_exotic_fact(value.clone(), fact.exotic_fact.clone())?,
        (None, None) => return Ok(None),
    };
    Ok(Some((op, fact.clone())))
}

/// A part of a model that can be optimised by itself.
struct Piece {
    model: TypedModel,
    /// What its inputs are in the whole model.
    inputs: Vec<OutletId>,
    /// What its outputs are there.
    outputs: Vec<OutletId>,
}

/// The parts between observed tensors, each with the nodes that observe its results, in the order in which they begin.
fn split(model: &TypedModel) -> TractResult<Vec<Piece>> {
    let mut order = model.eval_order()?;
    order.retain(|id| computed(model.node(*id)));
    let mut groups = Groups::new(model.nodes().len());
    for id in &order {
        for input in &model.node(*id).inputs {
            let from = model.node(input.node);
            let constant = model.outlet_fact(*input)?.konst.is_some();
            if computed(from) && !from.op_is::<Observe>() && !constant {
                groups.join(*id, input.node);
            }
        }
    }
    let mut number = vec![None; model.nodes().len()];
    let mut members: Vec<Vec<usize>> = vec![];
    for id in order {
        let n = *number[groups.first_of(id)].get_or_insert_with(|| {
            members.push(vec![]);
            members.len() - 1
        });
        members[n].push(id);
    }
    let pieces = members.into_iter().map(|nodes| piece(model, &nodes)).collect::<TractResult<Vec<_>>>()?;
    // What only makes constants has no outputs left.
    Ok(pieces.into_iter().filter(|p| !p.outputs.is_empty()).collect())
}

/// The part that consists of these nodes, which are in order.
fn piece(model: &TypedModel, nodes: &[usize]) -> TractResult<Piece> {
    let part = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    let mut piece = Piece { model: part, inputs: vec![], outputs: vec![] };
    let mut here: HashMap<OutletId, OutletId> = HashMap::new();
    for id in nodes {
        let node = model.node(*id);
        for input in &node.inputs {
            if here.contains_key(input) {
                continue;
            }
            let name = format!("{}#{}", model.node(input.node).name, input.slot);
            let outlet = match constant(model, *input)? {
                Some((op, fact)) => piece.model.add_node(name, op, tvec!(fact))?.into(),
                None => {
                    piece.inputs.push(*input);
                    piece.model.add_source(name, model.outlet_fact(*input)?.clone())?
                }
            };
            here.insert(*input, outlet);
        }
        let facts = node.outputs.iter().map(|o| o.fact.clone()).collect();
        let added = piece.model.add_node(&node.name, node.op.clone(), facts)?;
        for (slot, input) in node.inputs.iter().enumerate() {
            piece.model.add_edge(here[input], InletId::new(added, slot))?;
        }
        for (slot, output) in node.outputs.iter().enumerate() {
            let outlet = OutletId::new(*id, slot);
            here.insert(outlet, OutletId::new(added, slot));
            let needed = node.op_is::<Observe>() || model.outputs.contains(&outlet);
            if needed && output.fact.konst.is_none() {
                piece.outputs.push(outlet);
            }
        }
    }
    let outputs: Vec<OutletId> = piece.outputs.iter().map(|o| here[o]).collect();
    piece.model.select_output_outlets(&outputs)?;
    Ok(piece)
}

/// The optimised model while it is put together.
struct Whole {
    model: TypedModel,
    /// Where inputs and outputs of pieces are.
    places: HashMap<OutletId, Wire>,
    edges: Vec<(Wire, InletId)>,
}

/// Where a tensor comes from.
#[derive(Clone, Copy)]
enum Wire {
    /// An outlet that has been added.
    Here(OutletId),
    /// An outlet of the original model: an input, or the output of a piece.
    There(OutletId),
}

impl Whole {
    /// The inputs of a model.
    fn of(model: &TypedModel) -> TractResult<Whole> {
        let part = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
        let mut whole = Whole { model: part, places: HashMap::new(), edges: vec![] };
        for input in &model.inputs {
            let fact = model.outlet_fact(*input)?.clone();
            let place = whole.model.add_source(&model.node(input.node).name, fact)?;
            whole.places.insert(*input, Wire::Here(place));
        }
        Ok(whole)
    }

    /// Puts a constant in the place of an outlet.
    fn place(&mut self, outlet: OutletId, (op, fact): Constant) -> TractResult<()> {
        if !self.places.contains_key(&outlet) {
            let name = format!("output#{}#{}", outlet.node, outlet.slot);
            let added = self.model.add_node(name, op, tvec!(fact))?;
            self.places.insert(outlet, Wire::Here(added.into()));
        }
        Ok(())
    }

    /// Adds the nodes of an optimised piece.
    fn add(&mut self, piece: Piece, shared: &Constants) -> TractResult<()> {
        let Piece { model, inputs, outputs } = piece;
        let outer = inputs.into_iter().map(Wire::There);
        let mut here: HashMap<OutletId, Wire> = model.inputs.iter().copied().zip(outer).collect();
        let mut readers = vec![];
        for node in model.nodes.into_iter().filter(|n| !n.op_is::<TypedSource>()) {
            let mut facts: TVec<TypedFact> = node.outputs.into_iter().map(|o| o.fact).collect();
            let mut op = node.op;
            if let Some(konst) = op.downcast_ref::<Const>() {
                let bytes = facts[0].mem_size().as_i64().unwrap_or_default();
                let value = shared.one_copy(&node.name, konst.val(), bytes as usize);
                let exotic = facts[0].exotic_fact.clone();
                op = Box::new(Const::new_with_opt_exotic_fact(value.clone(), exotic)?);
                facts[0].konst = facts[0].konst.take().map(|_| value);
            }
            let slots = facts.len();
            let id = self.model.add_node(node.name, op, facts)?;
            let outlets = (0..slots).map(|s| (OutletId::new(node.id, s), Wire::Here(OutletId::new(id, s))));
            here.extend(outlets);
            readers.push((id, node.inputs));
        }
        for (id, inputs) in readers {
            let edges = inputs.iter().enumerate().map(|(slot, o)| (here[o], InletId::new(id, slot)));
            self.edges.extend(edges);
        }
        self.places.extend(outputs.into_iter().zip(model.outputs.iter().map(|o| here[o])));
        Ok(())
    }

    fn found(&self, wire: Wire) -> TractResult<OutletId> {
        match wire {
            Wire::Here(outlet) => Ok(outlet),
            // Pieces do not only pass their inputs on: this ends.
            Wire::There(outlet) => {
                let place = self.places.get(&outlet).with_context(|| format!("nothing makes {outlet:?}"))?;
                self.found(*place)
            }
        }
    }

    /// The model with all edges between its nodes.
    fn connect(mut self, outputs: &[OutletId]) -> TractResult<TypedModel> {
        for (from, to) in std::mem::take(&mut self.edges) {
            let from = self.found(from)?;
            self.model.add_edge(from, to)?;
        }
        let outputs = outputs.iter().map(|o| self.found(Wire::There(*o))).collect::<TractResult<Vec<_>>>()?;
        self.model.select_output_outlets(&outputs)?;
        Ok(self.model)
    }
}

/// Disjoint sets of nodes, each known by the first of them.
struct Groups(Vec<usize>);

impl Groups {
    fn new(n: usize) -> Groups {
        Groups((0..n).collect())
    }

    fn first_of(&mut self, mut id: usize) -> usize {
        while self.0[id] != id {
            self.0[id] = self.0[self.0[id]];
            id = self.0[id];
        }
        id
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first_of(a), self.first_of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// Constants of the plans of one session, by the name of their node, each with its size in bytes. They live as long as
/// some plan has them.
#[derive(Default)]
pub(crate) struct Constants(Mutex<HashMap<String, Vec<Held>>>);

/// A tensor that plans hold, and its bytes.
type Held = (Weak<Tensor>, usize);

impl Constants {
    /// The tensor that some plan has already, if it is equal to this one.
    pub(crate) fn one_copy(&self, name: &str, tensor: &Arc<Tensor>, bytes: usize) -> Arc<Tensor> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(name.to_owned()).or_default();
        known.retain(|(t, _)| t.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(|(t, _)| t.upgrade()).find(|t| t == tensor) {
            return same;
        }
        known.push((Arc::downgrade(tensor), bytes));
        tensor.clone()
    }

    /// Bytes of all constants that some plan has.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().filter(|(t, _)| t.strong_count() > 0).map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tract;
    use squint_ir::execute::{Execute, Observer};
    use squint_ir::{DType, Dim, Model, OpSpec, Type, ValueId};

    /// `u = Neg (x)` is read before and behind the observed `s = Sigmoid (u)`: `p = Mul (u, s)`, `y = MatMul (p, w)`.
    fn model() -> (Model, Vec<ValueId>) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let shape = vec![Dim::Symbol("N".into()), Dim::Known(2)];
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(shape))));
        let w = g.add_const("w", squint_ir::Tensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        let u = g.emit(OpSpec::new("Neg").operands([x]), "u", None);
        let s = g.emit(OpSpec::new("Sigmoid").operands([u]), "s", None);
        let p = g.emit(OpSpec::new("Mul").operands([u, s]), "p", None);
        let y = g.emit(OpSpec::new("MatMul").operands([p, w]), "y", None);
        // An input and a constant are outputs, too.
        (g.inputs, g.outputs) = (vec![x], vec![y, x, w]);
        g.set_type(y, Some(Type::tensor(DType::Float, None)));
        (model, vec![x, u, s, p, y])
    }

    fn run(observe: &[ValueId], observer: &mut Observer<'_>) -> Vec<Vec<f32>> {
        let session = Tract.prepare(&model().0, observe).unwrap();
        let sample = vec![("x".to_owned(), squint_ir::Tensor::from_f32(&[1, 2], &[1.0, -1.0]))];
        session.run(&sample, observer).unwrap().iter().map(squint_ir::Tensor::to_f32s).collect()
    }

    #[test]
    fn pieces_compute_what_the_whole_does() {
        let values = model().1;
        let whole = run(&[], &mut |_, _, _| None);
        assert_eq!(whole[1..], [vec![1.0, -1.0], vec![1.0, 2.0, 3.0, 4.0]]);
        // All of them, each alone, and the one around which `u` goes.
        for observe in [&values[..], &values[..1], &values[1..2], &values[2..3], &values[3..4], &values[4..]]
        {
            let mut seen = 0;
            let outputs = run(observe, &mut |_, _, _| {
                seen += 1;
                None
            });
            assert_eq!((outputs, seen), (whole.clone(), observe.len()));
        }
        // What takes the place of `s` is seen behind it, and `u` goes on as it was.
        let outputs = run(&values[2..3], &mut |_, _, _| Some(vec![1.0, 0.0]));
        assert_eq!(outputs[0], [-1.0, -2.0]);
    }

    #[test]
    fn equal_constants_are_one() {
        let constants = Constants::default();
        let tensor = |x: f32| Arc::new(Tensor::from(x));
        let first = constants.one_copy("w", &tensor(1.0), 4);
        assert!(Arc::ptr_eq(&first, &constants.one_copy("w", &tensor(1.0), 4)));
        let other = constants.one_copy("w", &tensor(2.0), 4);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(constants.bytes(), 8);
        // What no plan holds any longer does not count.
        drop(first);
        assert_eq!(constants.bytes(), 4);
    }
}
