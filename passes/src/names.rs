//! Distinct names.

use rustc_hash::{FxHashMap, FxHashSet};
use squint_ir::{GraphId, Model, ValueId};

/// Gives out names, each once.
#[derive(Default)]
pub(crate) struct Names {
    taken: FxHashSet<String>,
    /// The last number tried behind a name, so that many of the same name take linear time.
    last: FxHashMap<String, u32>,
}

impl Names {
    /// `wanted` itself if it is free, or with the next free number behind it.
    pub(crate) fn take(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            let n = self.last.entry(wanted.to_owned()).or_default();
            *n += 1;
            name = format!("{wanted}_{n}");
        }
        name
    }
}

/// Renames values of bodies that have the name of a value around them: a pass may make the body use that one.
/// Returns whether there were any.
pub(crate) fn uncover_names(model: &mut Model) -> bool {
    let mut names = Names::default();
    for g in model.graph_ids().map(|id| model.graph(id)) {
        g.values().for_each(|v| drop(names.take(g.value(v).name())));
    }
    uncover_in(model, &mut names, model.main_id(), &FxHashSet::default())
}

fn uncover_in(model: &mut Model, names: &mut Names, graph: GraphId, around: &FxHashSet<String>) -> bool {
    let g = model.graph_mut(graph);
    let own: Vec<ValueId> = g.values().filter(|v| g.value(*v).captured.is_none()).collect();
    let mut changed = false;
    for v in &own {
        if around.contains(g.value(*v).name()) {
            let name = names.take(g.value(*v).name());
            g.rename(*v, &name);
            changed = true;
        }
    }
    let bodies: Vec<GraphId> = g.ops().flat_map(|o| g.op(o).bodies().collect::<Vec<_>>()).collect();
    if bodies.is_empty() {
        return changed;
    }
    let mut around = around.clone();
    around.extend(own.iter().map(|v| g.value(*v).name().to_owned()));
    for body in bodies {
        changed |= uncover_in(model, names, body, &around);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_numbered_past_those_taken() {
        let mut names = Names::default();
        let got: Vec<String> = ["a", "a_1", "a", "a", "b"].iter().map(|n| names.take(n)).collect();
        assert_eq!(got, ["a", "a_1", "a_2", "a_3", "b"]);
    }
}
