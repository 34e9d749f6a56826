//! Slices that cut a value into all its parts along an axis become one Split (`gather_fusion.cc`,
//! `GatherSliceToSplitFusion`).

use super::sim::{Gone, Sim};
use squint_ir::{Dim, OpId, ValueId};

/// Joins the Slices of every value.
pub(super) fn join(sim: &mut Sim) -> bool {
    let mut changed = false;
    // A Split has the lengths as an operand since 13.
    if sim.opset < 13 {
        return changed;
    }
    for op in sim.order() {
        if sim.g.has_op(op) && sim.g.op(op).is("Slice") {
            changed |= join_at(sim, op).is_some();
        }
    }
    changed
}

/// A part of a value along an axis.
struct Part {
    op: OpId,
    axis: usize,
    /// Of the axis.
    length: i64,
    begin: i64,
    end: i64,
}

fn join_at(sim: &mut Sim, op: OpId) -> Option<()> {
    let x = sim.g.operand(op, 0)?;
    let shape = sim.fact(x).shape.filter(|_| !sim.is_output(x) && sim.g.producer(x).is_some())?;
    let axis = part(sim, op, &shape)?.axis;
    // What else reads the value goes on reading it.
    let slices = sim.g.uses(x).into_iter().filter(|u| u.slot == 0 && sim.g.op(u.op).is("Slice"));
    let mut parts = slices.map(|u| part(sim, u.op, &shape)).collect::<Option<Vec<Part>>>()?;
    parts.sort_by_key(|p| p.begin);
    let follows = parts.windows(2).all(|p| p[0].end == p[1].begin);
    let whole = parts[0].begin == 0 && parts.last()?.end == parts[0].length;
    if parts.len() < 2 || !follows || !whole || parts.iter().any(|p| p.axis != axis) {
        return None;
    }
    let results: Vec<ValueId> = parts.iter().map(|p| sim.result(p.op)).collect::<Option<_>>()?;
    let split = parts[0].op;
    for slot in 1..5 {
        sim.g.set_operand(split, slot, None);
    }
    let node = sim.g.op_mut(split);
    node.op_type = "Split".into();
    node.attributes.clear();
    node.set_attr("axis", axis as i64);
    for (slot, (part, y)) in (1u32..).zip(parts[1..].iter().zip(&results[1..])) {
        sim.remove(part.op, Gone::Into(split));
        sim.g.set_result(split, slot, Some(*y));
    }
    Some(())
}

/// What a Slice with constant limits along one axis takes, without steps.
fn part(sim: &Sim, op: OpId, shape: &[Dim]) -> Option<Part> {
    sim.g.op(op).is("Slice").then_some(())?;
    let one = |slot| {
        let numbers = sim.tensor(sim.g.operand(op, slot)?)?.to_i64s()?;
        <[i64; 1]>::try_from(numbers).ok().map(|[n]| n)
    };
    let axis = one(3)?;
    let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
    let length = i64::try_from(shape.get(axis)?.known()?).ok()?;
    let within = |n: i64| if n < 0 { (n + length).max(0) } else { n.min(length) };
    let steps = sim.g.operand(op, 4).map_or(Some(1), |_| one(4))?;
    (steps == 1).then(|| Some(Part { op, axis, length, begin: within(one(1)?), end: within(one(2)?) }))?
}
