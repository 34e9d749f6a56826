//! Checks of operator sets and of model functions.

use super::{Entity, Report};
use crate::{AttrValue, Function, GraphId};
use rustc_hash::{FxHashMap, FxHashSet};

type Key<'a> = (&'a str, &'a str, &'a str);

/// For each graph of a function, the index of the function.
pub(super) fn home_by_graph(r: &Report<'_>) -> FxHashMap<GraphId, usize> {
    let mut home = FxHashMap::default();
    for (i, f) in r.model.functions.iter().enumerate() {
        let mut todo = vec![f.graph];
        while let Some(id) = todo.pop() {
            // A graph that is gone, or seen twice, is reported elsewhere.
            if r.live.contains(&id) && home.insert(id, i).is_none() {
                let g = r.model.graph(id);
                todo.extend(g.ops().flat_map(|op| g.op(op).bodies().collect::<Vec<_>>()));
            }
        }
    }
    home
}

/// Operator sets are imported (exporters forget their own domains, so this is a warning), and references to
/// attributes resolve.
pub(super) fn check_imports(r: &mut Report<'_>, id: GraphId, home: &FxHashMap<GraphId, usize>) {
    let (model, function) = (r.model, home.get(&id).and_then(|i| r.model.functions.get(*i)));
    let opsets = function.map_or(&model.opsets, |f| &f.opsets);
    let imported: FxHashSet<&str> = opsets.iter().map(|(d, _)| normal(d)).collect();
    let attributes: FxHashSet<&str> = function.map(attribute_names).into_iter().flatten().collect();
    let g = model.graph(id);
    for op in g.ops() {
        let node = g.op(op);
        let domain = normal(&node.domain);
        if !imported.contains(domain) {
            let what =
                if domain.is_empty() { "the default domain".into() } else { format!("domain `{domain}`") };
            r.warning(id, Entity::Op(op), format!("no operator set is imported for {what}"));
        }
        for a in &node.attributes {
            if let AttrValue::Reference { name, .. } = &a.value
                && !attributes.contains(name.as_str())
            {
                let message = match function {
                    Some(f) => {
                        format!("attribute `{}` refers to `{name}`, not an attribute of `{}`", a.name, f.name)
                    }
                    None => format!("attribute `{}` refers to `{name}` outside of a function", a.name),
                };
                r.error(id, Entity::Op(op), message);
            }
        }
    }
}

/// Signatures, calls, recursion.
pub(super) fn check(r: &mut Report<'_>, home: &FxHashMap<GraphId, usize>) {
    let model = r.model;
    let mut by_key: FxHashMap<Key<'_>, usize> = FxHashMap::default();
    for (i, f) in model.functions.iter().enumerate() {
        let at = Entity::Graph;
        if by_key.insert((normal(&f.domain), &f.name, &f.overload), i).is_some() {
            r.error(f.graph, at, format!("another function is called `{}` in domain `{}`", f.name, f.domain));
        }
        let mut seen = FxHashSet::default();
        for name in attribute_names(f).filter(|n| !seen.insert(*n)) {
            r.error(f.graph, at, format!("attribute `{name}` is declared twice"));
        }
        let g = model.graph(f.graph);
        for v in g.values().filter(|v| g.konst(*v).is_some()) {
            r.error(f.graph, Entity::Value(v), "is a constant, which a function cannot hold");
        }
    }
    if by_key.is_empty() {
        return;
    }
    let mut calls: Vec<Vec<usize>> = vec![Vec::new(); model.functions.len()];
    for id in model.graph_ids() {
        let g = model.graph(id);
        for op in g.ops() {
            let node = g.op(op);
            let key = (normal(&node.domain), node.op_type.as_str(), node.overload.as_str());
            let Some(callee) = by_key.get(&key).copied() else { continue };
            let body = model.graph(model.functions[callee].graph);
            let counts = [
                ("operands", g.operands(op).len(), body.inputs.len()),
                ("results", g.results(op).len(), body.outputs.len()),
            ];
            for (what, given, wanted) in counts.into_iter().filter(|(_, given, wanted)| given > wanted) {
                r.error(id, Entity::Op(op), format!("gives {given} {what} to a function that has {wanted}"));
            }
            if let Some(caller) = home.get(&id) {
                calls[*caller].push(callee);
            }
        }
    }
    for i in recursive(&calls) {
        r.error(model.functions[i].graph, Entity::Graph, "the function calls itself");
    }
}

/// Functions left over when those that call nothing (more) are taken away again and again, less those that
/// only call such: the ones on a cycle of calls, and between cycles.
fn recursive(calls: &[Vec<usize>]) -> Vec<usize> {
    let forward = peel(calls);
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); calls.len()];
    for (caller, callees) in calls.iter().enumerate() {
        for callee in callees {
            callers[*callee].push(caller);
        }
    }
    let backward = peel(&callers);
    (0..calls.len()).filter(|i| forward[*i] && backward[*i]).collect()
}

/// True for the nodes from which a cycle can be reached.
fn peel(edges: &[Vec<usize>]) -> Vec<bool> {
    let mut waiting: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut sources: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, targets) in edges.iter().enumerate() {
        for to in targets {
            sources[*to].push(from);
        }
    }
    let mut free: Vec<usize> = (0..edges.len()).filter(|i| waiting[*i] == 0).collect();
    while let Some(i) = free.pop() {
        for from in &sources[i] {
            waiting[*from] -= 1;
            if waiting[*from] == 0 {
                free.push(*from);
            }
        }
    }
    waiting.into_iter().map(|n| n > 0).collect()
}

fn attribute_names(f: &Function) -> impl Iterator<Item = &str> {
    f.attributes.iter().map(String::as_str).chain(f.defaults.iter().map(|a| a.name.as_str()))
}

/// The default domain has two names.
fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
