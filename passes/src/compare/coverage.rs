//! Which operators of a quantized model stand between quantizers.
//!
//! This is what the file says, whatever runtime reads it: an operator whose data is dequantized right before it and
//! whose result is quantized right behind it (a contraction may leave its result in float) is meant to run in
//! integers, and so is one that is an integer operator itself.

use crate::report::{Fate, NodeReport};
use squint_ir::{Graph, Model, OpId, ValueId};
use squint_ops::{Class, Port, Row};

/// Every operator of the main graph but the quantizers, in order of execution.
pub fn coverage(model: &Model) -> Vec<NodeReport> {
    let g = model.main();
    let order = g.topo().unwrap_or_default();
    let ops = order.into_iter().filter(|op| !is_quantizer(g, *op));
    let report =
        |op| NodeReport { node: g.label(op), op_type: g.op(op).qualified_type(), macs: 0, fate: fate(g, op) };
    ops.map(report).collect()
}

fn is_quantizer(g: &Graph, op: OpId) -> bool {
    matches!(g.op(op).op_type.as_str(), "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear")
}

fn fate(g: &Graph, op: OpId) -> Fate {
    let o = g.op(op);
    let Some(row) = squint_ops::row(&o.domain, &o.op_type) else {
        return Fate::Float("squint does not know this operator".into());
    };
    if row.class == Class::Quantized {
        return Fate::Integer("an integer operator");
    }
    let data: Vec<ValueId> = data(g, op, row);
    if data.is_empty() || row.class == Class::Index {
        return Fate::Plain;
    }
    if is_clamp(g, op) && in_range_of_contraction(g, op, data[0]) {
        return Fate::Integer("in the range of the integers that the operator before makes");
    }
    // Movement of integers between quantizers.
    let integer = |v: &ValueId| g.ty(*v).and_then(|t| t.dtype()).is_some_and(|d| !d.is_float());
    let dequantized = |v: &ValueId| {
        g.producer(*v).is_some_and(|(p, _)| g.op(p).op_type == "DequantizeLinear") || integer(v)
    };
    if let Some(v) = data.iter().find(|v| !dequantized(v)) {
        return Fate::Float(format!("operand `{}` is not quantized", g.value(*v).name()));
    }
    if row.class == Class::Contraction {
        return Fate::Integer("between quantizers");
    }
    let raw = g.results(op).into_iter().flatten().find(|v| !integer(v) && !only_quantized(g, *v));
    match raw {
        Some(v) => Fate::Float(format!("result `{}` is not quantized", g.value(v).name())),
        None => Fate::Integer("between quantizers"),
    }
}

fn is_clamp(g: &Graph, op: OpId) -> bool {
    g.op(op).is("Relu") || g.op(op).is("Clip")
}

/// True if a clamp is all that reads a contraction in integers, and a QuantizeLinear all that reads the clamp.
fn in_range_of_contraction(g: &Graph, clamp: OpId, data: ValueId) -> bool {
    let Some((maker, _)) = g.producer(data) else { return false };
    let o = g.op(maker);
    let contracts = squint_ops::row(&o.domain, &o.op_type).is_some_and(|r| r.class == Class::Contraction);
    let quantized = g.result(clamp, 0).is_some_and(|r| only_quantized(g, r));
    contracts && g.only_use(data).is_some() && quantized && matches!(fate(g, maker), Fate::Integer(_))
}

/// Operands that are data: weights too, unless they are float constants' own business.
fn data(g: &Graph, op: OpId, row: &Row) -> Vec<ValueId> {
    let operands = (0u32..).zip(g.operands(op)).filter_map(|(slot, v)| Some((slot, v?)));
    let ports = operands.filter(|(slot, _)| matches!(row.port(*slot), Port::Act | Port::Weight(_)));
    ports.map(|(_, v)| v).collect()
}

/// True if only a QuantizeLinear, or a clamp that only a QuantizeLinear reads, reads the value.
fn only_quantized(g: &Graph, v: ValueId) -> bool {
    let Some(only) = g.only_use(v) else { return false };
    match g.op(only.op).op_type.as_str() {
        "QuantizeLinear" => true,
        _ if is_clamp(g, only.op) => g
            .result(only.op, 0)
            .is_some_and(|r| g.only_use(r).is_some_and(|u| g.op(u.op).op_type == "QuantizeLinear")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::text;

    #[test]
    fn a_clamp_is_part_of_the_product_before_it() {
        let model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             g (float[1,2] x) => (float[1,2] y)
             <float s = {0.1}, uint8 z = {0}, int8[2,2] codes = {1, 2, 3, 4}>
             {
               q = QuantizeLinear (x, s, z)
               d = DequantizeLinear (q, s, z)
               w = DequantizeLinear (codes, s)
               [product] p = MatMul (d, w)
               [clamp] r = Relu (p)
               b = QuantizeLinear (r, s, z)
               e = DequantizeLinear (b, s, z)
               [alone] y = Relu (e)
             }",
        );
        let fates: Vec<_> = coverage(&model.unwrap()).into_iter().map(|n| n.fate).collect();
        assert_eq!(
            fates,
            [
                Fate::Integer("between quantizers"),
                Fate::Integer("in the range of the integers that the operator before makes"),
                Fate::Float("result `y` is not quantized".into()),
            ]
        );
    }

    #[test]
    fn what_stands_between_quantizers_is_meant_for_integers() {
        let model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             g (float[1,2] x) => (float[1,2] y)
             <float s = {0.1}, uint8 z = {0}, int8[2,2] codes = {1, 2, 3, 4}>
             {
               q = QuantizeLinear (x, s, z)
               d = DequantizeLinear (q, s, z)
               w = DequantizeLinear (codes, s)
               [product] p = MatMul (d, w)
               [tail] t = Tanh (p)
               [shape] n = Shape (x)
               [last] y = Reshape (t, n)
             }",
        );
        let fates: Vec<_> = coverage(&model.unwrap()).into_iter().map(|n| (n.node, n.fate)).collect();
        let float = |why: &str| Fate::Float(why.into());
        assert_eq!(
            fates,
            [
                ("product".into(), Fate::Integer("between quantizers")),
                ("tail".into(), float("operand `p` is not quantized")),
                ("shape".into(), Fate::Plain),
                ("last".into(), float("operand `t` is not quantized")),
            ]
        );
    }
}
