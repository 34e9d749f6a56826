//! Functions of single elements, which may stand in front of what moves elements as well as behind it.

use squint_ir::{Graph, Op, OpId, OpSpec, ValueId};
use squint_ops::{Class, row};

/// True if an operator computes each element of its only result from one element of its first operand.
pub(crate) fn is_elementwise(g: &Graph, id: OpId) -> bool {
    let op = g.op(id);
    let class = row(&op.domain, &op.op_type).map(|r| r.class);
    let scalars = g.operands(id).into_iter().skip(1).flatten();
    matches!(class, Some(Class::Clamp | Class::Unary | Class::Bounded))
        && !takes_rows(op)
        && g.results(id).len() == 1
        && scalars.into_iter().all(|v| g.konst(v).is_some_and(|k| k.len() == 1))
}

/// True for functions whose rows, not elements, follow from those of the operand.
pub(crate) fn takes_rows(op: &Op) -> bool {
    ["Softmax", "LogSoftmax", "Hardmax"].iter().any(|t| op.is(t))
}

/// The operators behind one, each the only reader of what comes before, that are [`is_elementwise`]; and a QuantizeLinear
/// with one scale behind them.
pub(crate) fn elementwise_behind(g: &Graph, id: OpId) -> Vec<OpId> {
    let mut chain = Vec::new();
    let mut last = id;
    loop {
        let next = g.result(last, 0).and_then(|v: ValueId| g.only_use(v)).filter(|u| u.slot == 0);
        let Some(next) =
            next.map(|u| u.op).filter(|op| is_elementwise(g, *op) || quantizes_with_one_scale(g, *op))
        else {
            return chain;
        };
        last = next;
        chain.push(last);
        if g.op(last).is("QuantizeLinear") {
            return chain;
        }
    }
}

/// True for a QuantizeLinear whose scale and zero point are single constants.
pub(crate) fn quantizes_with_one_scale(g: &Graph, op: OpId) -> bool {
    let mut parameters = g.operands(op).into_iter().skip(1).flatten();
    g.op(op).is("QuantizeLinear")
        && parameters.all(|v| !g.is_input(v) && g.konst(v).is_some_and(|k| k.len() == 1))
}

/// Replaces an operator, and `between`, the [`elementwise_behind`] it, by `first` and copies of them, whose results have
/// `suffix` in their names; and the result of the last of them by what `put` makes of the new one: an operator that has no
/// result yet. It is given the operator that its own is to stand near.
pub(crate) fn replace_with_elementwise(
    g: &mut Graph,
    id: OpId,
    first: OpSpec,
    suffix: &str,
    put: impl FnOnce(&mut Graph, ValueId, OpId) -> OpSpec,
) {
    let between = elementwise_behind(g, id);
    let end = between.last().copied().unwrap_or(id);
    let Some(result) = g.result(end, 0) else { return };
    let named = |g: &Graph, op: OpId| {
        let name = g.result(op, 0).map_or(String::new(), |v| g.value(v).name().to_owned());
        format!("{name}_{suffix}")
    };
    let name = named(g, id);
    let mut value = g.emit(first, &name, None);
    for next in &between {
        let name = named(g, *next);
        let mut operands = g.operands(*next);
        operands[0] = Some(value);
        value = g.emit(OpSpec::from_op(g.op(*next).clone()).operands(operands).near(*next), &name, None);
    }
    let last = put(g, value, end);
    g.set_result(end, 0, None);
    let last = g.add_op(last);
    g.set_result(last, 0, Some(result));
    // From the end, so that nothing reads what is removed.
    for op in between.iter().rev().chain([&id]) {
        g.remove_op_and_results(*op);
    }
}
