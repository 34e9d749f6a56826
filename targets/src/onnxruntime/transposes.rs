//! Transposes are pushed forward until they meet and cancel (`onnx_transpose_optimization.cc`).
//!
//! One walk in order of execution: a Transpose before an operator goes behind it if that leaves fewer of them before
//! it, and does not bring a new one behind it that cancels with nothing. Conversions that were around a Transpose are
//! mended afterwards: a DequantizeLinear before it and no QuantizeLinear behind gives a pair behind, and the reverse.

mod place;
mod ways;

use super::linear::{Linear, code_type};
use super::sim::{Gone, Sim};
use squint_ir::types::Dim;
use squint_ir::{OpId, ValueId, ValueTable};
use ways::{Way, operands, way};

/// Operator sets of models in which the runtime moves transposes.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;

/// Values from which ways through known operators lead to transposes, with the permutations of those.
type Leads = ValueTable<Vec<Vec<usize>>>;

/// Pushes transposes forward, and mends the conversions around them.
pub(super) fn push(sim: &mut Sim) -> bool {
    if !OPSETS.contains(&sim.opset) {
        return false;
    }
    let order = sim.order();
    let leads = leads(sim, &order);
    let quantized = order.iter().any(|op| sim.is_dq(*op));
    let mut changed = false;
    for op in order {
        changed |= sim.g.has_op(op) && push_through(sim, op, &leads);
    }
    if quantized {
        changed |= mend(sim);
    }
    changed
}

fn leads(sim: &Sim, order: &[OpId]) -> Leads {
    let mut leads = Leads::new();
    for op in order.iter().rev() {
        let there: Vec<Vec<usize>> = match way(sim, *op) {
            Some(Way::Transpose) => permutation(sim, *op).into_iter().collect(),
            Some(way) if way.transposes_results() => {
                let results = sim.g.results(*op).into_iter().flatten();
                results.filter_map(|v| leads.get(v)).flatten().cloned().collect()
            }
            _ => Vec::new(),
        };
        if there.is_empty() {
            continue;
        }
        for v in operands(sim, *op).into_iter().filter_map(|slot| sim.g.operand(*op, slot)) {
            let mut known = leads.get(v).cloned().unwrap_or_default();
            for perm in &there {
                if !known.contains(perm) {
                    known.push(perm.clone());
                }
            }
            leads.insert(v, known);
        }
    }
    leads
}

/// The first Transpose before an operator that can go behind it does.
fn push_through(sim: &mut Sim, op: OpId, leads: &Leads) -> bool {
    let Some(way) = way(sim, op) else { return false };
    let slots = operands(sim, op);
    for slot in &slots {
        let found = sim.parent(op, *slot).and_then(|t| Some((t, permutation(sim, t)?)));
        let Some((transpose, perm)) = found else { continue };
        if pays(sim, op, way, &slots, &perm, leads) && ways::push(sim, op, way, &slots, transpose, &perm) {
            return true;
        }
    }
    false
}

/// The permutation of a Transpose that names one.
fn permutation(sim: &Sim, op: OpId) -> Option<Vec<usize>> {
    let node = sim.g.op(op);
    let perm = node.ints("perm").filter(|_| node.is("Transpose"))?;
    let perm: Option<Vec<usize>> = perm.iter().map(|p| usize::try_from(*p).ok()).collect();
    perm.filter(|p| (0..p.len()).all(|i| p.contains(&i)))
}

/// Whether fewer axes are permuted before the operator, and not as many more behind it.
fn pays(sim: &Sim, op: OpId, way: Way, slots: &[u32], perm: &[usize], leads: &Leads) -> bool {
    if matches!(way, Way::Transpose) {
        return true;
    }
    let mut cost = 0;
    for slot in slots {
        cost += sim.g.operand(op, *slot).map_or(0, |v| operand_cost(sim, v, perm));
    }
    let results: Vec<ValueId> = sim.g.results(op).into_iter().flatten().collect();
    // Behind a branch there are several of them, and only one that cancels makes up for that.
    let arrives = |v: &ValueId| {
        let there = leads.get(*v);
        there.is_some_and(|t| sim.g.uses(*v).len() <= 1 || t.contains(&place::inverse(perm)))
    };
    if cost < 0 && way.transposes_results() && !results.iter().any(arrives) {
        cost += results.iter().map(|v| axes(sim, *v)).max().unwrap_or(0);
    }
    cost < 0
}

/// Axes of an operand that would have to be permuted; negative if a Transpose is saved.
fn operand_cost(sim: &Sim, v: ValueId, perm: &[usize]) -> i64 {
    let Some((producer, _)) = sim.g.producer(v) else {
        return if sim.is_constant(v) { 0 } else { axes(sim, v) };
    };
    if place::constant_behind(sim, producer).is_some() {
        return 0;
    }
    let before = sim.parent(producer, 0).filter(|_| sim.is_dq(producer));
    match permutation(sim, before.unwrap_or(producer)) {
        Some(p) if p == perm && removable(sim, before.unwrap_or(producer)) => -axes(sim, v),
        Some(_) => 0,
        None => axes(sim, v),
    }
}

/// Whether all that reads a Transpose is known, and no output of the graph.
fn removable(sim: &Sim, transpose: OpId) -> bool {
    !sim.makes_output(transpose)
        && sim.edges(transpose).iter().all(|u| !u.capture && way(sim, u.op).is_some())
}

/// How many axes of a value are not of length 1; 5 if nothing is known of its shape.
fn axes(sim: &Sim, v: ValueId) -> i64 {
    match sim.fact(v).shape {
        Some(shape) => shape.iter().filter(|d| **d != Dim::Known(1)).count() as i64,
        None => 5,
    }
}

/// Mends conversions around transposes, and drops those that are left with nothing between them.
fn mend(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if !sim.g.has_op(op) {
            continue;
        }
        if sim.is_q(op) {
            changed |= drop_empty(sim, op).is_some();
        } else if sim.g.op(op).is("Transpose") {
            changed |= quantize_behind(sim, op).or_else(|| quantize_before(sim, op)).is_some();
        }
    }
    changed
}

/// DQ → Q of the same parameters, with one reader.
fn drop_empty(sim: &mut Sim, q: OpId) -> Option<()> {
    let dq = sim.parent(q, 0).filter(|p| sim.is_dq(*p) && sim.only_edge(*p).is_some())?;
    let (a, b) = (Linear::of(sim, q)?, Linear::of(sim, dq)?);
    let equal = |x: ValueId, y: ValueId| {
        x == y || matches!((sim.tensor(x), sim.tensor(y)), (Some(x), Some(y)) if x.bytes() == y.bytes())
    };
    let zeros = match (a.zero_point, b.zero_point) {
        (Some(x), Some(y)) => equal(x, y),
        (None, None) => true,
        (Some(z), None) | (None, Some(z)) => sim.tensor(z)?.bytes().iter().all(|x| *x == 0),
    };
    let (x, y) = (b.data, sim.result(q)?);
    if !zeros || !equal(a.scale, b.scale) || code_type(sim, q) != code_type(sim, dq) {
        return None;
    }
    let by = sim.g.producer(x);
    let uses = sim.g.uses(y);
    match (uses.as_slice(), sim.is_output(y)) {
        ([only], false) if !only.capture => sim.replace(y, x),
        ([], true) => {
            let (maker, slot) = by.filter(|(p, _)| sim.only_edge(*p).is_some())?;
            sim.remove(q, Gone::Into(maker));
            sim.remove(dq, Gone::Into(maker));
            sim.g.set_result(maker, slot, Some(y));
            return Some(());
        }
        _ => return None,
    }
    let gone = by.map_or(Gone::Folded, |(p, _)| Gone::Into(p));
    sim.remove(q, gone);
    sim.remove(dq, gone);
    Some(())
}

/// DQ → Transpose → operator becomes DQ → Transpose → Q → DQ → operator.
fn quantize_behind(sim: &mut Sim, transpose: OpId) -> Option<()> {
    let dq = sim.parent(transpose, 0).filter(|p| sim.is_dq(*p))?;
    match sim.edges(transpose).as_slice() {
        [] => {}
        [u] if !sim.is_q(u.op) => {}
        _ => return None,
    }
    let perm = permutation(sim, transpose)?;
    place::pair_behind(sim, transpose, dq, &place::inverse(&perm))
}

/// Operator → Transpose → Q becomes operator → Q → DQ → Transpose → Q.
fn quantize_before(sim: &mut Sim, transpose: OpId) -> Option<()> {
    let q = sim.only_edge(transpose).filter(|u| sim.is_q(u.op) && u.slot == 0 && !u.capture)?.op;
    let before = sim.parent(transpose, 0).filter(|p| !sim.is_dq(*p))?;
    let x = sim.g.operand(transpose, 0)?;
    if sim.g.uses(x).len() != 1 || sim.is_output(x) {
        return None;
    }
    let perm = permutation(sim, transpose)?;
    place::pair_behind(sim, before, q, &perm)
}
