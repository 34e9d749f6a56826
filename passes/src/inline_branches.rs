//! `inline-branches`: an `If` whose condition is constant becomes the branch that is taken.
//!
//! ```text
//! y = If (true) <then_branch = g () => (t) { t = Relu (x) }, else_branch = …>      becomes   y = Relu (x)
//! ```
//!
//! Exporters that trace scripts write conditions on ranks and options as `If`; once shapes are folded, they
//! are constant. What stood in the branch can be folded with what stands around it, which may decide further
//! conditions: the pass repeats until none is constant. Values of the branch keep their names where these are
//! free in the whole model, since bodies must not hide names from around them. The branch not taken goes, with
//! all inside.

use crate::fold_constants::FoldConstants;
use crate::names::Names;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{AttrValue, Graph, GraphId, Model, OpId, OpSpec, ValueId, ValueTable};

/// The pass.
pub(crate) struct InlineBranches;

impl Pass for InlineBranches {
    fn name(&self) -> &'static str {
        "inline-branches"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut taken = Vec::new();
        let mut changed = false;
        loop {
            for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
                taken.extend(decided(model.main(), op).map(|branch| (op, branch)));
            }
            if taken.is_empty() {
                return Ok(changed.into());
            }
            let mut names = taken_names(model);
            for (op, branch) in taken.drain(..) {
                splice(model, &mut names, op, branch)?;
            }
            FoldConstants.run(model, cx)?;
            changed = true;
        }
    }
}

/// The branch that an `If` takes always.
fn decided(g: &Graph, id: OpId) -> Option<GraphId> {
    let op = g.op(id);
    let condition = g.operand(id, 0).filter(|c| op.is("If") && !g.is_input(*c))?;
    let branch = if g.konst(condition)?.scalar_value()? != 0.0 { "then_branch" } else { "else_branch" };
    match op.attr(branch)? {
        AttrValue::Graph(body) => Some(*body),
        _ => None,
    }
}

/// Names of values and of nodes.
struct Taken {
    values: Names,
    nodes: Names,
}

fn taken_names(model: &Model) -> Taken {
    let mut taken = Taken { values: Names::default(), nodes: Names::default() };
    for g in model.graph_ids().map(|id| model.graph(id)) {
        g.values().for_each(|v| drop(taken.values.take(g.value(v).name())));
        g.ops().for_each(|o| drop(taken.nodes.take(&g.op(o).name)));
    }
    taken
}

/// Puts the operators of a branch in the place of its `If`.
fn splice(model: &mut Model, names: &mut Taken, id: OpId, branch: GraphId) -> Result<(), PassError> {
    let body = std::mem::take(model.graph_mut(branch));
    let home = model.main_id();
    let g = model.main_mut();
    let label = g.label(id);
    let (results, captures) = (g.results(id), g.captures(id));
    let missing = || PassError::Model(format!("node `{label}`: a branch uses a value that is not there"));

    let mut map: ValueTable<ValueId> = ValueTable::new();
    for v in body.values() {
        let value = body.value(v);
        let here = match value.captured {
            Some(slot) => captures.get(slot as usize).copied().flatten().ok_or_else(missing)?,
            None => {
                let here = g.add_value(&names.values.take(value.name()), value.ty.clone());
                let copy = g.value_mut(here);
                (copy.konst, copy.doc) = (value.konst.clone(), value.doc.clone());
                (copy.metadata, copy.residue) = (value.metadata.clone(), value.residue.clone());
                here
            }
        };
        map.insert(v, here);
    }
    let here = |v: Option<ValueId>| v.and_then(|v| map.get(v).copied());
    let origin = format!("inline-branches({label})");
    for inner in body.topo().map_err(|c| PassError::Model(c.to_string()))? {
        let mut op = body.op(inner).clone();
        op.name = if op.name.is_empty() { String::new() } else { names.nodes.take(&op.name) };
        let spec = OpSpec::from_op(op)
            .operands(body.operands(inner).into_iter().map(here))
            .results(body.results(inner).into_iter().map(here))
            .near(id)
            .origin(origin.clone());
        let moved = model.main_mut().add_op(spec);
        adopt(model, (home, moved), body.captures(inner).into_iter().map(here).collect());
    }
    for (output, result) in body.outputs.iter().zip(results) {
        let (Some(x), Some(y)) = (here(Some(*output)), result) else { continue };
        let g = model.main_mut();
        // A copy, which other passes drop where they can: the result of the If may be a graph output.
        let name = names.nodes.take(&format!("{label}/Identity"));
        let copy = OpSpec::new("Identity").name(name).operands([x]).near(id).origin(origin.clone());
        let copy = g.add_op(copy);
        g.set_result(copy, 0, Some(y));
    }
    let bodies: Vec<GraphId> = model.main().op(id).bodies().collect();
    model.main_mut().remove_op(id);
    bodies.into_iter().for_each(|b| model.remove_graph(b));
    Ok(())
}

/// Tells the bodies of an operator that has moved who owns them, and where their captured values are now.
fn adopt(model: &mut Model, (home, op): (GraphId, OpId), captures: Vec<Option<ValueId>>) {
    let g = model.main_mut();
    let slots: Vec<Option<u32>> = captures.into_iter().map(|v| v.map(|v| g.add_capture(op, v))).collect();
    for body in model.main().op(op).bodies().collect::<Vec<_>>() {
        let g = model.graph_mut(body);
        g.owner = Some((home, op));
        // Two captured values may have become one.
        let mut first: Vec<(u32, ValueId)> = Vec::new();
        for v in g.values().filter(|v| g.value(*v).captured.is_some()).collect::<Vec<_>>() {
            let slot = g.value(v).captured.and_then(|s| slots.get(s as usize).copied().flatten());
            let twin = first.iter().find(|(s, _)| Some(*s) == slot).map(|(_, v)| *v);
            match (twin, slot) {
                (Some(twin), _) => {
                    g.replace_uses(v, twin);
                    g.remove_value(v);
                }
                (None, slot) => {
                    g.value_mut(v).captured = slot;
                    first.extend(slot.map(|s| (s, v)));
                }
            }
        }
    }
}
