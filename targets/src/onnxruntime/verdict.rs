//! The rewritten graph, read back: where each operator of the model runs, and why.

use super::Signs;
use super::absorb::{Kept, redundant};
use super::fold::is_activation;
use super::kernels::is_integer;
use super::linear::Differs;
use super::select::{Miss, select};
use super::sim::{Gone, Sim};
use crate::prediction::{Kind, Runs, Why};
use squint_ir::{DType, Graph, OpId, ValueId};
use squint_ops::{Class, Port};
use std::collections::BTreeMap;

/// Where each operator of the graph runs, in order of execution.
pub(super) fn nodes(g: &Graph, sim: &Sim, signs: Signs) -> Vec<(OpId, Runs)> {
    let standing = sim.standing();
    let order = g.topo().unwrap_or_default();
    let fate = |op: OpId| match standing.get(op).and_then(|list| list.first()) {
        Some(live) => runs(g, sim, signs, op, *live),
        None if !is_computation(g, op) => Runs::Folded,
        None => match sim.gone(op, &standing) {
            Gone::Into(by) if by != op && g.has_op(by) => Runs::Inside(by),
            _ => Runs::Folded,
        },
    };
    order.into_iter().map(|op| (op, fate(op))).collect()
}

/// How often each integer kernel and each conversion stands in the graph.
pub(super) fn kernels(sim: &Sim) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for op in sim.g.ops() {
        let node = sim.g.op(op);
        if is_integer(&node.op_type) || is_conversion(&node.op_type) || moved(sim, op).is_some() {
            *out.entry(node.op_type.clone()).or_default() += 1;
        }
    }
    out
}

fn is_conversion(op_type: &str) -> bool {
    matches!(op_type, "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear")
}

/// A Constant computes nothing, wherever it goes.
fn is_computation(g: &Graph, op: OpId) -> bool {
    !g.op(op).is("Constant")
}

fn runs(g: &Graph, sim: &Sim, signs: Signs, op: OpId, live: OpId) -> Runs {
    let node = sim.g.op(live);
    if is_conversion(&node.op_type) {
        return Runs::Converts;
    }
    if is_integer(&node.op_type) {
        return Runs::Integer { kernel: node.op_type.clone(), note: slow(sim, signs, live) };
    }
    if let Some(dtype) = moved(sim, live) {
        return Runs::Integer { kernel: format!("{} of {dtype}", node.op_type), note: None };
    }
    if !computes_floats(sim, live) {
        return Runs::Plain;
    }
    Runs::Float(why(g, sim, op, live))
}

/// The type of integers that an operator moves or compares as they are.
fn moved(sim: &Sim, op: OpId) -> Option<DType> {
    let node = sim.g.op(op);
    let row = squint_ops::row(&node.domain, &node.op_type)?;
    let data = match row.class {
        Class::Movement | Class::Join | Class::MaxPool | Class::Reduction => 0,
        Class::Other if node.op_type == "Where" => 1,
        _ => return None,
    };
    let x = sim.g.operand(op, data).filter(|v| !sim.is_constant(*v))?;
    let small = |d: &DType| matches!(d, DType::Int8 | DType::Uint8 | DType::Int16 | DType::Uint16);
    sim.dtype(x).filter(|d| small(d) && node.is_onnx() && node.op_type != "Cast")
}

/// Whether floats flow through an operator; unknown types are taken for floats.
fn computes_floats(sim: &Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    let Some(row) = squint_ops::row(&node.domain, &node.op_type) else { return true };
    if !is_activation(row.class) {
        return false;
    }
    let operands = (0u32..).zip(sim.g.operands(op)).filter(|(s, _)| row.port(*s) != Port::Index);
    let mut values = operands.filter_map(|(_, v)| v).chain(sim.g.results(op).into_iter().flatten());
    values.any(|v| sim.dtype(v).is_none_or(DType::is_float))
}

/// A kernel that is much slower than another for the same work.
fn slow(sim: &Sim, signs: Signs, op: OpId) -> Option<String> {
    let (data, weight) = match sim.g.op(op).op_type.as_str() {
        "QLinearConv" | "QLinearMatMul" | "QGemm" => (0, 3),
        "MatMulIntegerToFloat" | "MatMulInteger" | "ConvInteger" => (0, 1),
        _ => return None,
    };
    let dtype = |slot| sim.dtype(sim.g.operand(op, slot)?);
    if dtype(data) == Some(DType::Int8) && !signs.signed {
        return Some("int8 data has no fast kernel on this processor: use uint8".into());
    }
    if dtype(weight) == Some(DType::Uint8) && signs.slow_unsigned_weights {
        return Some("a uint8 weight has no fast kernel on this processor: use int8".into());
    }
    None
}

fn why(g: &Graph, sim: &Sim, op: OpId, live: OpId) -> Why {
    let node = sim.g.op(live);
    let miss = match select(sim, live) {
        Ok(_) => Miss::NoKernel,
        Err(miss) => miss,
    };
    let (mut reason, remedy) = match clamp_alone(sim, live) {
        Some(kept) => clamped(&node.op_type, &kept),
        None => words(sim, live, &miss),
    };
    if g.op(op).is("MatMul") && node.op_type == "Gemm" {
        reason = format!("joined with the Add behind it to a Gemm, and {reason}");
    }
    let kind = match miss {
        _ if fenced(sim, live) && !matches!(miss, Miss::NoKernel) => Kind::Accident,
        Miss::NoKernel if clamp_alone(sim, live).is_some() => Kind::Accident,
        Miss::NoKernel | Miss::Unsuited(_) => Kind::NoKernel,
        _ => Kind::LeftInFloat,
    };
    Why { reason, remedy, kind }
}

/// A Relu or Clip between a dequantized operand and a quantized result: why it does not vanish.
fn clamp_alone(sim: &Sim, op: OpId) -> Option<Kept> {
    if !matches!(sim.g.op(op).op_type.as_str(), "Relu" | "Clip") {
        return None;
    }
    sim.parent(op, 0).filter(|p| sim.is_dq(*p))?;
    let q = sim.only_edge(op).filter(|u| sim.is_q(u.op))?;
    redundant(sim, op, q.op).err()
}

/// Whether somebody quantized what is around an operator: its weight, or all that it reads and makes.
fn fenced(sim: &Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    let Some(row) = squint_ops::row(&node.domain, &node.op_type) else { return false };
    let dq = |v: ValueId| sim.g.producer(v).map(|(p, _)| p).filter(|p| sim.is_dq(*p));
    let operands: Vec<(u32, ValueId)> =
        (0u32..).zip(sim.g.operands(op)).filter_map(|(s, v)| Some((s, v?))).collect();
    let weight = operands.iter().any(|(s, v)| {
        matches!(row.port(*s), Port::Weight(_))
            && dq(*v).is_some_and(|p| sim.g.operand(p, 0).is_some_and(|w| sim.is_constant(w)))
    });
    let mut data =
        operands.iter().filter(|(s, v)| row.port(*s) == Port::Act && !sim.is_constant(*v)).peekable();
    let read = data.peek().is_some() && data.all(|(_, v)| dq(*v).is_some());
    let quantized = |v: ValueId| {
        let uses = sim.g.uses(v);
        let behind = |at: OpId| sim.edges(at).iter().any(|u| sim.is_q(u.op));
        uses.iter().any(|u| {
            sim.is_q(u.op) || (matches!(sim.g.op(u.op).op_type.as_str(), "Relu" | "Clip") && behind(u.op))
        })
    };
    let made = sim.g.results(op).into_iter().flatten().all(quantized);
    weight || (read && made)
}

/// The reason and what would change it.
fn words(sim: &Sim, op: OpId, miss: &Miss) -> (String, String) {
    let name = |v: &ValueId| format!("`{}`", sim.g.value(*v).name());
    let node = sim.g.op(op);
    let pair = "QuantizeLinear and DequantizeLinear";
    match miss {
        Miss::NoKernel => (format!("no integer kernel for {}", node.op_type), String::new()),
        Miss::Unsuited(why) => ((*why).to_owned(), String::new()),
        Miss::NothingQuantized => {
            ("nothing that it reads is quantized".into(), format!("put {pair} before it"))
        }
        Miss::Operand(v) => {
            (format!("its operand {} is not quantized", name(v)), format!("put {pair} on {}", name(v)))
        }
        Miss::Shared(v) => (
            format!("its dequantized operand {} is also a graph output or read by a body", name(v)),
            "give those a DequantizeLinear of their own".into(),
        ),
        Miss::Result(v) => {
            (format!("its result {} is not quantized", name(v)), format!("put {pair} behind it"))
        }
        Miss::OtherReaders(v) => (
            format!("its result {} has other readers beside one QuantizeLinear", name(v)),
            "let them read the dequantized result".into(),
        ),
        Miss::GraphOutput(v) => (
            format!("its result {} is also a graph output", name(v)),
            "make the dequantized result the graph output".into(),
        ),
        Miss::Clamp(clamp, kept) => {
            let (reason, remedy) = clamped(&sim.g.op(*clamp).op_type, kept);
            (format!("the {} behind it stays: {reason}", sim.g.op(*clamp).op_type), remedy)
        }
        Miss::Types(why) => (why.clone(), "use uint8 for all activations, int8 for weights".into()),
        Miss::Width(d) => (format!("no integer kernel for {d}"), "use uint8".into()),
        Miss::BiasType(d) => (
            format!("its bias is {}, not int32", d.map_or("of unknown type".into(), |d| d.to_string())),
            "quantize the bias to int32 with the product of scales, or leave it in float".into(),
        ),
        Miss::BiasScale(by) => (
            format!(
                "the scale of its bias is {:.1} % off the product of those of data and weight",
                100.0 * by
            ),
            "requantize the bias, or leave it in float".into(),
        ),
        Miss::BiasParams(why) => ((*why).to_owned(), "requantize the bias, or leave it in float".into()),
        Miss::Params(differs) => (
            match differs {
                Differs::NoZeroPoint => "a zero point is left out before or behind it".into(),
                Differs::NotScalar => "the scales before and behind it are no constant scalars".into(),
                Differs::ZeroPoint => "the zero points before and behind it differ".into(),
                Differs::Scale(a, b) => format!("the scales before and behind it differ: {b} and {a}"),
            },
            "use the same scale and zero point before and behind it".into(),
        ),
        Miss::NegativeScale => {
            ("its scale is not positive, and elements are compared".into(), "use a positive scale".into())
        }
    }
}

/// Why a Relu or Clip is not implied by what follows.
fn clamped(op_type: &str, kept: &Kept) -> (String, String) {
    match kept {
        Kept::NotScalar => (
            format!("{op_type} cannot be absorbed: the scale behind it is no constant scalar of rank 0"),
            "use a scale of rank 0".into(),
        ),
        Kept::Limits => (
            format!("{op_type} cannot be absorbed: its limits are not constants"),
            "make them constants".into(),
        ),
        Kept::Below(zero, wanted) => (
            format!("{op_type} cannot be absorbed: zero point {zero}, not {wanted}"),
            format!("quantize its result with zero point {wanted}, or its operand too"),
        ),
        Kept::Wider { range, limits } => (
            format!(
                "{op_type} cannot be absorbed: the integers reach from {} to {}, its limits are {} and {}",
                range.0, range.1, limits.0, limits.1
            ),
            "quantize its result within the limits, or its operand too".into(),
        ),
    }
}
