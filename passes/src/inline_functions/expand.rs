//! One call becomes a copy of a function's body.

use super::calls::{self, Callees};
use crate::pass::PassError;
use rustc_hash::{FxHashMap, FxHashSet};
use squint_ir::{
    AttrValue, Attribute, Dim, Function, Graph, GraphId, Model, Op, OpId, OpSpec, Type, ValueId, ValueTable,
};

/// What a value of a function becomes; `None` if it is an operand that the call omits.
type Map = ValueTable<Option<ValueId>>;

/// Expands calls in `model` of functions in `library`, a copy of the model before.
pub(super) struct Expansion<'a> {
    model: &'a mut Model,
    library: &'a Model,
    callees: Callees<'a>,
    values: Names,
    nodes: Names,
}

/// A call, detached from its graph.
struct Call<'a> {
    function: &'a Function,
    /// The calling node, with its attributes.
    op: Op,
    /// Its name, or that of its first result.
    label: String,
}

/// A graph that is copied, and its copy.
#[derive(Clone, Copy)]
struct Scope {
    from: GraphId,
    to: GraphId,
    /// The operator beside which the copies stand; `None` in a body, which is a copy throughout.
    anchor: Option<OpId>,
}

impl<'a> Expansion<'a> {
    pub(super) fn new(model: &'a mut Model, library: &'a Model) -> Expansion<'a> {
        let (mut values, mut nodes) = (Names::default(), Names::default());
        let mut work = vec![model.main_id()];
        while let Some(id) = work.pop() {
            let g = model.graph(id);
            values.taken.extend(g.values().map(|v| g.value(v).name().to_owned()));
            for op in g.ops() {
                nodes.taken.insert(g.op(op).name.clone());
                work.extend(g.op(op).bodies());
            }
        }
        Expansion { model, library, callees: Callees::new(&library.functions), values, nodes }
    }

    /// Replaces a call, and returns the calls that stand in its place now.
    ///
    /// # Errors
    /// If the call does not fit its function.
    pub(super) fn expand(&mut self, graph: GraphId, id: OpId) -> Result<Vec<(GraphId, OpId)>, PassError> {
        let library = self.library;
        let g = self.model.graph_mut(graph);
        let Some(callee) = self.callees.of(g.op(id)) else { return Ok(Vec::new()) };
        let function = &library.functions[callee];
        let (operands, results) = (g.operands(id), g.results(id));
        let call = Call { function, op: g.op(id).clone(), label: g.label(id) };
        let body = library.graph(function.graph);
        call.check(operands.len(), results.len(), body)?;

        let mut map = Map::new();
        for (slot, input) in body.inputs.iter().enumerate() {
            map.insert(*input, operands.get(slot).copied().flatten());
        }
        // Results of the call are made by what makes them in the body; where that is impossible, as the
        // function returns an input or a value twice, by a copy.
        let mut copied = Vec::new();
        for ((slot, output), result) in (0u32..).zip(&body.outputs).zip(&results) {
            let Some(result) = *result else { continue };
            g.set_result(id, slot, None);
            if body.producer(*output).is_none() || map.contains(*output) {
                copied.push((*output, result));
                continue;
            }
            map.insert(*output, Some(result));
            let value = g.value_mut(result);
            value.ty = value.ty.take().or_else(|| body.ty(*output).map(without_symbols));
        }

        let mut calls = Vec::new();
        let scope = Scope { from: function.graph, to: graph, anchor: Some(id) };
        self.copy(&call, scope, &mut map, &mut calls)?;
        for (output, result) in copied {
            let Some(source) = map.get(output).copied().flatten() else {
                return Err(call.refuse("uses a result that is an operand it omits"));
            };
            let name = self.nodes.fresh(&format!("{}/Identity", call.label));
            let spec = OpSpec::new("Identity").name(name).near(id).operands([source]).results([result]);
            let spec = call.origin().into_iter().fold(spec, OpSpec::origin);
            self.model.graph_mut(graph).add_op(spec);
        }
        self.model.graph_mut(graph).remove_op(id);
        Ok(calls)
    }

    /// Copies the values that `map` lacks, and all operators with their bodies.
    fn copy(
        &mut self,
        call: &Call<'_>,
        scope: Scope,
        map: &mut Map,
        calls: &mut Vec<(GraphId, OpId)>,
    ) -> Result<(), PassError> {
        let source = self.library.graph(scope.from);
        for v in source.values().filter(|v| !map.contains(*v)).collect::<Vec<_>>() {
            let value = source.value(v);
            let name = self.values.fresh(&format!("{}/{}", call.label, value.name()));
            let g = self.model.graph_mut(scope.to);
            let copy = g.add_value(&name, value.ty.as_ref().map(without_symbols));
            let to = g.value_mut(copy);
            (to.konst, to.encoded, to.doc) = (value.konst.clone(), value.encoded, value.doc.clone());
            (to.metadata, to.residue) = (value.metadata.clone(), value.residue.clone());
            map.insert(v, Some(copy));
        }
        let mapped = |map: &Map, slots: Vec<Option<ValueId>>| -> Vec<Option<ValueId>> {
            slots.into_iter().map(|v| map.get(v?).copied().flatten()).collect()
        };
        for id in source.topo().map_err(|c| PassError::Model(c.to_string()))? {
            let mut op = source.op(id).clone();
            if !op.name.is_empty() {
                op.name = self.nodes.fresh(&format!("{}/{}", call.label, op.name));
            }
            op.origin.splice(0..0, call.origin());
            op.attributes = call.resolve(op.attributes)?;
            let is_call = self.callees.of(&op).is_some();
            let spec = OpSpec::from_op(op)
                .operands(mapped(map, source.operands(id)))
                .results(mapped(map, source.results(id)));
            let spec = match scope.anchor {
                Some(anchor) => spec.near(anchor),
                None => spec,
            };
            let copy = self.model.graph_mut(scope.to).add_op(spec);
            if is_call {
                calls.push((scope.to, copy));
            }
            let mut attributes = std::mem::take(&mut self.model.graph_mut(scope.to).op_mut(copy).attributes);
            for body in attributes.iter_mut().flat_map(|a| bodies_mut(&mut a.value)) {
                *body = self.copy_body(call, (scope, id, copy), *body, map, calls)?;
            }
            self.model.graph_mut(scope.to).op_mut(copy).attributes = attributes;
        }
        Ok(())
    }

    /// Copies a body of the operator `owner` to its copy.
    fn copy_body(
        &mut self,
        call: &Call<'_>,
        (outer, owner, copy): (Scope, OpId, OpId),
        from: GraphId,
        outer_map: &Map,
        calls: &mut Vec<(GraphId, OpId)>,
    ) -> Result<GraphId, PassError> {
        let source = self.library.graph(from);
        let mut body = Graph::new(source.name.clone());
        (body.doc, body.metadata) = (source.doc.clone(), source.metadata.clone());
        body.owner = Some((outer.to, copy));
        let to = self.model.add_graph(body);

        let captures = self.library.graph(outer.from).captures(owner);
        let mut map = Map::new();
        // The call may give one value for two inputs: then the body captures it once.
        let mut by_slot: FxHashMap<u32, ValueId> = FxHashMap::default();
        for v in source.values().collect::<Vec<_>>() {
            let Some(slot) = source.value(v).captured else { continue };
            let captured = captures.get(slot as usize).copied().flatten();
            let Some(value) = captured.and_then(|c| outer_map.get(c).copied().flatten()) else {
                map.insert(v, None);
                continue;
            };
            let slot = self.model.graph_mut(outer.to).add_capture(copy, value);
            let inner = by_slot.get(&slot).copied().unwrap_or_else(|| {
                let (home, original) = self.model.resolve(outer.to, value);
                let name = self.model.graph(home).value(original).name().to_owned();
                let g = self.model.graph_mut(to);
                let inner = g.add_value(&name, source.ty(v).map(without_symbols));
                g.value_mut(inner).captured = Some(slot);
                inner
            });
            by_slot.insert(slot, inner);
            map.insert(v, Some(inner));
        }
        self.copy(call, Scope { from, to, anchor: None }, &mut map, calls)?;
        let ends = |ends: &[ValueId]| -> Option<Vec<ValueId>> {
            ends.iter().map(|v| map.get(*v).copied().flatten()).collect()
        };
        let (Some(inputs), Some(outputs)) = (ends(&source.inputs), ends(&source.outputs)) else {
            return Err(call.refuse("omits an operand that a body of the function returns"));
        };
        let g = self.model.graph_mut(to);
        (g.inputs, g.outputs) = (inputs, outputs);
        Ok(to)
    }
}

impl Call<'_> {
    fn check(&self, operands: usize, results: usize, body: &Graph) -> Result<(), PassError> {
        let counts = [("operands", operands, body.inputs.len()), ("results", results, body.outputs.len())];
        for (what, given, has) in counts {
            if given > has {
                return Err(self.refuse(&format!("gives {given} {what} to a function that has {has}")));
            }
        }
        match self.op.bodies().next() {
            Some(_) => Err(self.refuse("passes a graph as an attribute, which cannot be inlined")),
            None => Ok(()),
        }
    }

    /// Puts values in the place of references to attributes of the function.
    fn resolve(&self, attributes: Vec<Attribute>) -> Result<Vec<Attribute>, PassError> {
        let mut resolved = Vec::with_capacity(attributes.len());
        for mut a in attributes {
            if let AttrValue::Reference { name, .. } = &a.value {
                let default = || self.function.defaults.iter().find(|d| d.name == *name).map(|d| &d.value);
                let Some(value) = self.op.attr(name).or_else(default) else { continue };
                if !value.graphs().is_empty() {
                    return Err(self.refuse("has a graph as a default attribute, which cannot be inlined"));
                }
                a.value = value.clone();
            }
            resolved.push(a);
        }
        Ok(resolved)
    }

    fn origin(&self) -> Vec<String> {
        let mut origin = self.op.origin.clone();
        origin.push(format!("inline-functions({})", self.label));
        origin
    }

    fn refuse(&self, why: &str) -> PassError {
        let function = calls::label(self.function);
        PassError::Model(format!("node `{}` (call of function `{function}`): {why}", self.label))
    }
}

/// The type with unknown lengths for named ones: a name in a function means another length in each call.
fn without_symbols(ty: &Type) -> Type {
    let unnamed = |shape: &Option<Vec<Dim>>| {
        let dim = |d: &Dim| if matches!(d, Dim::Symbol(_)) { Dim::Unknown } else { d.clone() };
        shape.as_ref().map(|s| s.iter().map(dim).collect())
    };
    match ty {
        Type::Tensor { dtype, shape } => Type::Tensor { dtype: *dtype, shape: unnamed(shape) },
        Type::SparseTensor { dtype, shape } => Type::SparseTensor { dtype: *dtype, shape: unnamed(shape) },
        Type::Sequence(t) => Type::Sequence(Box::new(without_symbols(t))),
        Type::Optional(t) => Type::Optional(Box::new(without_symbols(t))),
        Type::Map(k, t) => Type::Map(*k, Box::new(without_symbols(t))),
        Type::Opaque { .. } | Type::Encoded(_) => ty.clone(),
    }
}

fn bodies_mut(value: &mut AttrValue) -> &mut [GraphId] {
    match value {
        AttrValue::Graph(g) => std::slice::from_mut(g),
        AttrValue::Graphs(gs) => gs,
        _ => &mut [],
    }
}

/// Names that are new in the whole model.
#[derive(Default)]
struct Names {
    taken: FxHashSet<String>,
    /// How many names were made from each that was taken.
    made: FxHashMap<String, u32>,
}

impl Names {
    /// `base` itself, or `base_1`, `base_2` …
    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        while !self.taken.insert(name.clone()) {
            let n = self.made.entry(base.to_owned()).or_insert(0);
            *n += 1;
            name = format!("{base}_{n}");
        }
        name
    }
}
