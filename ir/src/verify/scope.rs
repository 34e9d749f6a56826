//! Checks of one graph.

use super::{Entity, Level, Report};
use crate::types::known_dims;
use crate::{AttrValue, GraphId, Op, OpId, Type, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Each body, and each function's graph, has exactly one owner, and knows it.
pub(super) fn check_ownership(r: &mut Report<'_>) {
    let model = r.model;
    let mut owned: FxHashSet<GraphId> = model.functions.iter().map(|f| f.graph).collect();
    owned.insert(model.main_id());
    for id in model.graph_ids() {
        let g = model.graph(id);
        for op in g.ops() {
            for body in g.op(op).bodies() {
                if !r.live.contains(&body) {
                    r.error(id, Entity::Op(op), format!("holds {body}, which has been removed"));
                } else if !owned.insert(body) {
                    r.error(id, Entity::Op(op), format!("{body} is a body of another operator too"));
                } else if model.graph(body).owner != Some((id, op)) {
                    r.error(id, Entity::Op(op), format!("{body} does not know that it belongs here"));
                }
            }
        }
    }
    for id in model.graph_ids() {
        match model.graph(id).owner {
            Some(_) if !owned.contains(&id) => r.error(id, Entity::Graph, "no operator owns it"),
            None if !owned.contains(&id) => r.error(id, Entity::Graph, "nothing in the model uses it"),
            _ => {}
        }
    }
}

/// Everything about one graph that needs no other than those around it.
pub(super) fn check(r: &mut Report<'_>, id: GraphId, level: Level) {
    check_ends(r, id);
    check_ops(r, id, level);
    check_values(r, id, level);
    if let Err(cycle) = r.model.graph(id).topo() {
        r.error(id, Entity::Graph, cycle.to_string());
    }
}

/// Inputs and outputs.
fn check_ends(r: &mut Report<'_>, id: GraphId) {
    let g = r.model.graph(id);
    let mut seen = FxHashSet::default();
    for v in &g.inputs {
        if !g.has_value(*v) {
            r.error(id, Entity::Graph, format!("the input {v} has been removed"));
        } else if !seen.insert(*v) {
            r.error(id, Entity::Value(*v), "is an input twice");
        }
    }
    for v in &g.outputs {
        if !g.has_value(*v) {
            r.error(id, Entity::Graph, format!("the output {v} has been removed"));
        } else if !is_defined(r, id, *v) {
            r.error(id, Entity::Value(*v), "is an output, but nothing defines it");
        }
    }
}

fn check_ops(r: &mut Report<'_>, id: GraphId, level: Level) {
    let g = r.model.graph(id);
    let mut names: FxHashMap<&str, OpId> = FxHashMap::default();
    for op in g.ops() {
        let node = g.op(op);
        if node.op_type.is_empty() {
            r.error(id, Entity::Op(op), "has no operator type");
        }
        check_attributes(r, id, op, node);
        if level >= Level::File && !node.name.is_empty() && names.insert(&node.name, op).is_some() {
            r.warning(id, Entity::Op(op), format!("another operator is called `{}` too", node.name));
        }
        for (slot, v) in g.operands(op).into_iter().enumerate() {
            let Some(v) = v else { continue };
            let name = g.value(v).name();
            if !is_defined(r, id, v) {
                r.error(id, Entity::Op(op), format!("operand {slot}, `{name}`, is not defined"));
            } else if level >= Level::Typed && g.ty(v).is_none() && g.value(v).captured.is_none() {
                r.error(id, Entity::Op(op), format!("operand {slot}, `{name}`, has no type"));
            }
        }
    }
}

fn check_attributes(r: &mut Report<'_>, id: GraphId, op: OpId, node: &Op) {
    let mut seen = FxHashSet::default();
    for a in &node.attributes {
        if !seen.insert(a.name.as_str()) {
            r.error(id, Entity::Op(op), format!("attribute `{}` is given twice", a.name));
        }
        if let AttrValue::Reference { name, .. } = &a.value
            && name.is_empty()
        {
            r.error(
                id,
                Entity::Op(op),
                format!("attribute `{}` refers to an attribute without a name", a.name),
            );
        }
    }
}

fn check_values(r: &mut Report<'_>, id: GraphId, level: Level) {
    let g = r.model.graph(id);
    let slots = match g.owner {
        Some((outer, op)) if r.live.contains(&outer) && r.model.graph(outer).has_op(op) => {
            r.model.graph(outer).captures(op)
        }
        _ => Vec::new(),
    };
    let inputs: FxHashSet<ValueId> = g.inputs.iter().copied().collect();
    for v in g.values() {
        let value = g.value(v);
        if value.name().is_empty() {
            r.error(id, Entity::Value(v), "has no name");
        }
        let produced = g.producer(v).is_some();
        let otherwise = [
            (inputs.contains(&v), "an input"),
            (value.konst.is_some() || value.encoded, "a constant"),
            (value.captured.is_some(), "captured"),
        ];
        for (_, what) in otherwise.iter().filter(|(is, _)| *is && produced) {
            r.error(id, Entity::Value(v), format!("is the result of an operator, and {what} as well"));
        }
        for (_, what) in otherwise[..2].iter().filter(|(is, _)| *is && value.captured.is_some()) {
            r.error(id, Entity::Value(v), format!("is captured, and {what} as well"));
        }
        if let Some(slot) = value.captured {
            check_capture(r, id, v, slots.get(slot as usize).copied().flatten());
        } else if level >= Level::File {
            check_shadowing(r, id, v);
        }
        check_constant(r, id, v);
    }
}

fn check_capture(r: &mut Report<'_>, id: GraphId, v: ValueId, outer: Option<ValueId>) {
    let g = r.model.graph(id);
    let (Some((around, _)), Some(outer)) = (g.owner, outer) else {
        return r.error(id, Entity::Value(v), "is captured, but the graph around has no value for it");
    };
    if !is_defined(r, around, outer) {
        r.error(id, Entity::Value(v), "is captured, but nothing defines it outside");
    }
    let (home, origin) = r.model.resolve(around, outer);
    let name = r.model.graph(home).value(origin).name();
    // A value may be captured twice, as two that became equal.
    let another = |other: &ValueId| *other != v && r.model.resolve(id, *other) != (home, origin);
    if let Some(other) = g.value_named(name).filter(another) {
        r.error(id, Entity::Value(other), "has the name of another value that is captured");
    }
}

fn check_shadowing(r: &mut Report<'_>, id: GraphId, v: ValueId) {
    let name = r.model.graph(id).value(v).name();
    let mut owner = r.model.graph(id).owner;
    while let Some((outer, _)) = owner {
        let g = r.model.graph(outer);
        if g.value_named(name).is_some_and(|o| g.value(o).captured.is_none()) {
            return r.warning(
                id,
                Entity::Value(v),
                format!("hides the value of the same name in graph `{}`", g.name),
            );
        }
        owner = g.owner;
    }
}

fn check_constant(r: &mut Report<'_>, id: GraphId, v: ValueId) {
    let value = r.model.graph(id).value(v);
    let (Some(tensor), Some(ty)) = (&value.konst, &value.ty) else { return };
    let fits = match ty {
        Type::Tensor { dtype, shape } => {
            let rank = shape.as_ref().is_none_or(|s| s.len() == tensor.rank());
            let known = shape.iter().flatten().zip(tensor.dims());
            *dtype == tensor.dtype()
                && rank
                && known.into_iter().all(|(s, d)| s.known().is_none_or(|n| n == *d as u64))
        }
        _ => false,
    };
    if !fits {
        let dims: Vec<_> = tensor.dims().iter().map(|d| (*d).into()).collect();
        debug_assert!(known_dims(&dims).is_some(), "invariant: a tensor has known dimensions");
        let actual = Type::tensor(tensor.dtype(), Some(dims));
        r.error(id, Entity::Value(v), format!("is declared {ty}, but its constant is {actual}"));
    }
}

/// True if a value has a source.
fn is_defined(r: &Report<'_>, id: GraphId, v: ValueId) -> bool {
    let g = r.model.graph(id);
    let value = g.value(v);
    let elsewhere = value.captured.is_some() || value.encoded;
    value.konst.is_some() || elsewhere || g.producer(v).is_some() || g.is_input(v)
}
