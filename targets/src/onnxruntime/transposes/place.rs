//! Transposes and pairs of conversions are put on values and taken off.

use super::super::linear::{Linear, code_type};
use super::super::sim::{Gone, Sim};
use super::permutation;
use squint_ir::{Dim, OpId, OpSpec, Tensor, ValueId};
use squint_ops::Fact;

/// The constant that a DequantizeLinear reads, if one operator alone reads its result.
pub(super) fn constant_behind(sim: &Sim, dq: OpId) -> Option<ValueId> {
    let codes = sim.g.operand(dq, 0).filter(|v| sim.is_dq(dq) && sim.is_constant(*v))?;
    sim.only_edge(dq).map(|_| codes)
}

/// `inverse[perm[i]] = i`.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut out = vec![0; perm.len()];
    for (i, p) in perm.iter().enumerate() {
        out[*p] = i;
    }
    out
}

/// One permutation after another.
pub(super) fn compose(first: &[usize], second: &[usize]) -> Vec<usize> {
    second.iter().map(|p| first[*p]).collect()
}

/// What is known of a value once its axes are permuted.
fn permuted(fact: Fact, perm: &[usize]) -> Fact {
    let shape = fact.shape.filter(|s| s.len() == perm.len());
    let shape = shape.map(|s| perm.iter().map(|p| s[*p].clone()).collect());
    Fact { shape, konst: None, ..fact }
}

/// A Transpose of a value, as a copy of one of the model's where it stands for that.
fn transpose(sim: &mut Sim, x: ValueId, perm: &[usize], near: OpId, like: Option<OpId>) -> ValueId {
    let name = format!("{}_transposed", sim.g.value(x).name());
    let fact = permuted(sim.fact(x), perm);
    let y = sim.add_value(&name, fact);
    add_transpose(sim, x, y, perm, near, like);
    y
}

fn add_transpose(sim: &mut Sim, x: ValueId, y: ValueId, perm: &[usize], near: OpId, like: Option<OpId>) {
    let perm: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
    let spec = OpSpec::new("Transpose").attr("perm", perm).near(near).operands([x]).results([y]);
    sim.add_op(spec, like);
}

/// Removes a Transpose that nothing reads any more.
pub(super) fn remove_idle(sim: &mut Sim, transpose: OpId) {
    if sim.edges(transpose).is_empty() && !sim.makes_output(transpose) {
        sim.remove(transpose, Gone::Folded);
    }
}

/// Permutes the axes of an operand: a Transpose before it is cancelled where it can be.
pub(super) fn transpose_operand(sim: &mut Sim, op: OpId, slot: u32, perm: &[usize]) {
    let Some(x) = sim.g.operand(op, slot) else { return };
    let producer = sim.g.producer(x).map(|(p, _)| p);
    let dq = producer.filter(|p| sim.is_dq(*p));
    if sim.is_constant(x) {
        if let Some(y) = transpose_constant(sim, x, perm) {
            sim.g.set_operand(op, slot, Some(y));
        }
        return;
    }
    if let Some((dq, codes)) = dq.and_then(|dq| Some((dq, constant_behind(sim, dq)?))) {
        if let Some(y) = transpose_constant(sim, codes, perm) {
            sim.g.set_operand(dq, 0, Some(y));
            transpose_result_of(sim, dq, perm);
        }
        return;
    }
    if let Some(before) = dq.and_then(|dq| sim.parent(dq, 0))
        && permutation(sim, before).is_some_and(|p| p == inverse(perm))
        && let (Some(dq), Some(source)) = (dq, sim.g.operand(before, 0))
    {
        sim.g.set_operand(dq, 0, Some(source));
        transpose_result_of(sim, dq, perm);
        remove_idle(sim, before);
        return;
    }
    if let Some((before, first)) = producer.and_then(|p| Some((p, permutation(sim, p)?)))
        && first.len() == perm.len()
        && let Some(source) = sim.g.operand(before, 0)
    {
        let both = compose(&first, perm);
        let y = if both.iter().enumerate().all(|(i, p)| i == *p) {
            source
        } else {
            transpose(sim, source, &both, op, Some(before))
        };
        sim.g.set_operand(op, slot, Some(y));
        remove_idle(sim, before);
        return;
    }
    let same = |sim: &Sim, at: OpId| at != op && permutation(sim, at).is_some_and(|p| p == perm);
    let present = sim.g.uses(x).into_iter().find(|u| same(sim, u.op)).and_then(|u| sim.result(u.op));
    let y = present.unwrap_or_else(|| transpose(sim, x, perm, op, None));
    sim.g.set_operand(op, slot, Some(y));
    if let (None, Some(dq), Some((added, _))) = (present, dq, sim.g.producer(y)) {
        pair_behind(sim, added, dq, &inverse(perm));
    }
}

/// A constant with its axes permuted; `None` if that changes nothing.
fn transpose_constant(sim: &mut Sim, x: ValueId, perm: &[usize]) -> Option<ValueId> {
    let fact = sim.fact(x);
    let rank = fact.rank()?;
    if sim.dims(x).is_some_and(|d| d.iter().product::<usize>() == 1) {
        return None;
    }
    // Axes that broadcasting would add before the first one are of length 1.
    let mut shape = vec![Dim::Known(1); perm.len().saturating_sub(rank)];
    shape.extend(fact.shape.clone()?);
    let y = sim.add_value("transposed_constant", permuted(Fact { shape: Some(shape), ..fact }, perm));
    sim.set_computed(y);
    Some(y)
}

/// Puts axes of length 1 before the first one of an operand that is to be broadcast.
pub(super) fn raise_rank(sim: &mut Sim, op: OpId, slot: u32, rank: usize) {
    let Some(x) = sim.g.operand(op, slot) else { return };
    let fact = sim.fact(x);
    let missing = rank.saturating_sub(fact.rank().unwrap_or(rank));
    let producer = sim.g.producer(x).map(|(p, _)| p);
    let constant = sim.is_constant(x) || producer.is_some_and(|p| constant_behind(sim, p).is_some());
    if missing == 0 || constant {
        return;
    }
    let mut shape = vec![Dim::Known(1); missing];
    shape.extend(fact.shape.clone().unwrap_or_default());
    let name = format!("{}_unsqueezed", sim.g.value(x).name());
    let y = sim.add_value(&name, Fact { shape: Some(shape), konst: None, ..fact });
    let axes: Vec<i64> = (0..missing as i64).collect();
    let axes = sim.add_const("axes", Tensor::from_i64(&[missing], &axes));
    let added = sim.add_op(OpSpec::new("Unsqueeze").near(op).operands([x, axes]).results([y]), None);
    sim.g.set_operand(op, slot, Some(y));
    if let Some(dq) = producer.filter(|p| sim.is_dq(*p)) {
        let axes: Vec<usize> = (missing..rank).collect();
        pair_behind(sim, added, dq, &axes);
    }
}

/// Notes that what an operator makes has its axes permuted now.
fn transpose_result_of(sim: &mut Sim, op: OpId, perm: &[usize]) {
    if let Some(y) = sim.result(op) {
        let fact = permuted(sim.fact(y), perm);
        sim.g.set_type(y, fact.to_type());
        sim.learn(y, fact);
    }
    let axis = sim.g.op(op).int("axis").and_then(|a| usize::try_from(a).ok());
    if let Some(axis) = axis.filter(|a| *a < perm.len()) {
        sim.g.op_mut(op).set_attr("axis", inverse(perm)[axis] as i64);
    }
}

/// Puts a Transpose behind the `slot`-th result of an operator, which makes the result before it from now on.
pub(super) fn transpose_result(sim: &mut Sim, op: OpId, slot: u32, perm: &[usize], like: OpId) {
    let Some(y) = sim.g.result(op, slot) else { return };
    if perm.iter().enumerate().all(|(i, p)| i == *p) {
        return;
    }
    let name = format!("{}_before", sim.g.value(y).name());
    let fact = permuted(sim.fact(y), &inverse(perm));
    let x = sim.add_value(&name, fact);
    sim.g.set_result(op, slot, Some(x));
    add_transpose(sim, x, y, perm, op, Some(like));
}

/// Puts Q → DQ, with the parameters of `like`, behind the first result of an operator. Where there are parameters for
/// each element of an axis, `axes` says where each axis of `like` is there.
pub(super) fn pair_behind(sim: &mut Sim, op: OpId, like: OpId, axes: &[usize]) -> Option<()> {
    let linear = Linear::of(sim, like)?;
    if sim.g.op(like).int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let axis = if sim.is_scalar(linear.scale) {
        None
    } else {
        let at = sim.g.op(like).int("axis").unwrap_or(1);
        let at = if at < 0 { at + axes.len() as i64 } else { at };
        Some(*axes.get(usize::try_from(at).ok()?)? as i64)
    };
    let y = sim.result(op)?;
    let fact = Fact { konst: None, ..sim.fact(y) };
    let domain = sim.g.op(like).domain.clone();
    let dtype = code_type(sim, like);
    let name = sim.g.value(y).name().to_owned();
    let x = sim.add_value(&format!("{name}_unquantized"), fact.clone());
    let code = sim.add_value(&format!("{name}_quantized"), Fact { dtype, ..fact });
    sim.g.set_result(op, 0, Some(x));
    let mut data = x;
    for (op_type, result) in [("QuantizeLinear", code), ("DequantizeLinear", y)] {
        let operands = [Some(data), Some(linear.scale), linear.zero_point];
        let spec = OpSpec::new(op_type).domain(&domain).near(op).operands(operands).results([result]);
        let spec = match axis {
            Some(axis) => spec.attr("axis", axis),
            None => spec,
        };
        sim.add_op(spec, None);
        data = code;
    }
    Some(())
}
