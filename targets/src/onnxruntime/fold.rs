//! What vanishes when a model is loaded: constants, and operators that do nothing.
//!
//! Models `constant_folding.cc`, which leaves DequantizeLinear alone so that weights stay integers (unless the result is
//! quantized again), and those of the
//! rewriting rules of the first level that other rewriting could depend on: Identity, Dropout and Cast that do
//! nothing, and what is added to, multiplied with or normalised behind a convolution with a constant weight
//! (`conv_add_fusion.cc`, `conv_mul_fusion.cc`, `conv_bn_fusion.cc`).

use super::sim::{Gone, Sim};
use squint_ir::{Dim, OpId, Tensor, ValueId};
use squint_ops::Class;

/// Operators whose results differ from run to run.
const RANDOM: &[&str] =
    &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

/// Replaces operators on constants by constants, and shapes that are known.
pub(super) fn fold_constants(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        changed |= sim.g.has_op(op) && fold(sim, op);
    }
    changed
}

fn fold(sim: &mut Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    if sim.is_dq(op) && !dequantized_in_between(sim, op)
        || RANDOM.contains(&node.op_type.as_str())
        || node.bodies().next().is_some()
        || sim.makes_output(op)
    {
        return false;
    }
    let known = |v: &ValueId| node.is("Shape") && sim.dims(*v).is_some();
    let operands: Vec<ValueId> = sim.g.operands(op).into_iter().flatten().collect();
    if !operands.iter().all(|v| sim.is_constant(*v) || known(v)) {
        return false;
    }
    let results = sim.g.results(op);
    let computed = constant(sim, op).map(|t| vec![t]).or_else(|| sim.compute(op));
    let mut computed = computed.unwrap_or_default().into_iter();
    for v in results {
        let tensor = computed.next();
        let Some(v) = v else { continue };
        match tensor {
            Some(t) => sim.set_const(v, t),
            None => sim.set_computed(v),
        }
    }
    sim.remove(op, Gone::Folded);
    for v in operands {
        drop_idle_makers(sim, v);
    }
    true
}

/// Whether a constant is dequantized only for one operator, whose result is quantized: the three are folded into one
/// constant of integers.
fn dequantized_in_between(sim: &Sim, dq: OpId) -> bool {
    let one = |op: OpId| sim.g.operands(op).len() == 1 && sim.g.results(op).len() == 1;
    let Some(next) = sim.only_edge(dq).map(|u| u.op).filter(|op| one(*op)) else { return false };
    let quantizer = sim.only_edge(next).map(|u| u.op).filter(|op| sim.is_q(*op));
    quantizer
        .is_some_and(|q| [1, 2].iter().all(|slot| sim.g.operand(q, *slot).is_none_or(|v| sim.is_constant(v))))
}

/// The contents of a Constant, and of the Shape of a tensor whose lengths are all known.
fn constant(sim: &Sim, op: OpId) -> Option<Tensor> {
    let node = sim.g.op(op);
    if node.is("Constant") {
        return match (node.tensor("value"), node.float("value_float"), node.int("value_int")) {
            (Some(t), ..) => Some(t.as_ref().clone()),
            (_, Some(x), _) => Some(Tensor::scalar_f32(x)),
            (.., Some(x)) => Some(Tensor::scalar_i64(x)),
            _ => None,
        };
    }
    if node.is("Shape") && node.attributes.is_empty() {
        let dims: Vec<i64> = sim.dims(sim.g.operand(op, 0)?)?.iter().map(|d| *d as i64).collect();
        return Some(Tensor::from_i64(&[dims.len()], &dims));
    }
    None
}

/// Makes the target shape of a Reshape constant where its lengths are numbers or those of the operand at the same place
/// (`reshape_fusion.cc`).
pub(super) fn fold_shapes(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        changed |= sim.g.has_op(op) && sim.g.op(op).is("Reshape") && fold_shape(sim, op).is_some();
    }
    changed
}

fn fold_shape(sim: &mut Sim, op: OpId) -> Option<()> {
    let (x, shape) = (sim.g.operand(op, 0)?, sim.g.operand(op, 1)?);
    let joined = sim.parent(op, 1).filter(|p| sim.g.op(*p).is("Concat"))?;
    let (from, to) = (sim.fact(x).shape?, sim.fact(shape).lengths()?);
    let kept = |i: usize, to: &Dim| match to {
        Dim::Known(n) => Some(*n as i64),
        Dim::Symbol(_) if from.get(i) == Some(to) => Some(0),
        _ => None,
    };
    // A length that is worked out at run time from the others.
    let open = |i: usize| {
        let part = sim.g.operands(joined).get(i).copied().flatten();
        part.and_then(|v| sim.tensor(v)?.to_i64s()).filter(|v| v.len() == 1).map(|v| v[0])
    };
    let lengths: Option<Vec<i64>> =
        to.iter().enumerate().map(|(i, d)| kept(i, d).or_else(|| open(i))).collect();
    let lengths = lengths?;
    let name = sim.g.value(shape).name().to_owned();
    let constant = sim.add_const(&name, Tensor::from_i64(&[lengths.len()], &lengths));
    sim.g.set_operand(op, 1, Some(constant));
    drop_idle_makers(sim, shape);
    Some(())
}

/// Removes what only an operand that is no longer read was computed for.
fn drop_idle_makers(sim: &mut Sim, v: ValueId) {
    let mut left = vec![v];
    while let Some(v) = left.pop() {
        let Some((maker, _)) = sim.g.producer(v) else { continue };
        if sim.edges(maker).is_empty() && !sim.makes_output(maker) {
            left.extend(sim.g.operands(maker).into_iter().flatten());
            sim.remove(maker, Gone::Folded);
        }
    }
}

/// Removes operators that do nothing, and joins constant arithmetic with convolutions.
pub(super) fn eliminate(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) {
            changed |= drop_idle(sim, op) || join_convolution(sim, op) || join_clip(sim, op);
        }
    }
    changed
}

fn drop_idle(sim: &mut Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    let (Some(x), Some(y)) = (sim.g.operand(op, 0), sim.result(op)) else { return false };
    let idle = match node.op_type.as_str() {
        "Identity" => node.is_onnx(),
        "Dropout" => node.is_onnx() && sim.g.results(op).iter().flatten().count() == 1,
        "Cast" => node.is_onnx() && sim.dtype(x).is_some_and(|d| node.int("to") == Some(d.code().into())),
        _ => false,
    };
    // A graph output keeps its maker, unless the operand can take its place.
    let replaceable =
        !sim.is_output(y) || (sim.g.producer(x).is_some() && !sim.is_output(x) && sim.g.uses(x).len() == 1);
    if !idle || !replaceable {
        return false;
    }
    sim.replace(y, x);
    let by = sim.g.producer(x).map(|(p, _)| p);
    sim.remove(op, by.map_or(Gone::Folded, Gone::Into));
    true
}

/// Conv of a constant weight, followed by constant arithmetic on channels.
fn join_convolution(sim: &mut Sim, op: OpId) -> bool {
    let node = sim.g.op(op);
    let slot = match node.op_type.as_str() {
        "BatchNormalization" if sim.g.results(op).iter().flatten().count() == 1 => 0,
        "Add" | "Mul" => match (sim.g.operand(op, 0), sim.g.operand(op, 1)) {
            (_, Some(b)) if sim.is_constant(b) => 0,
            (Some(a), _) if sim.is_constant(a) => 1,
            _ => return false,
        },
        _ => return false,
    };
    let Some(conv) = sim.parent(op, slot).filter(|p| sim.g.op(*p).is("Conv")) else { return false };
    let constant = |v: Option<ValueId>| v.is_none_or(|v| sim.tensor(v).is_some());
    let weight = sim.g.operand(conv, 1).and_then(|w| sim.tensor(w)).map(|w| w.dims().to_vec());
    let (Some(weight), Some(_)) = (weight, sim.only_edge(conv)) else { return false };
    let by_channel = node.op_type == "BatchNormalization";
    let channels = |v: ValueId| {
        let dims = sim.dims(v).unwrap_or_default();
        let wide = dims.iter().filter(|d| **d != 1).count();
        let elements: usize = dims.iter().product();
        // Numbers per channel stand in the channels' place: `[C]` of a normalisation, `[C,1,1]` of arithmetic.
        elements == weight[0] && wide <= 1 && (by_channel || dims.len() + 1 >= weight.len())
    };
    let others: Vec<ValueId> =
        (0u32..).zip(sim.g.operands(op)).filter(|(s, _)| *s != slot).filter_map(|(_, v)| v).collect();
    if !others.iter().all(|v| sim.tensor(*v).is_some() && channels(*v)) || !constant(sim.g.operand(conv, 2)) {
        return false;
    }
    let Some(y) = sim.result(op) else { return false };
    if sim.g.operand(conv, 2).is_none() && node.op_type != "Mul" {
        let bias = sim.add_const("bias", Tensor::from_f32(&[weight[0]], &vec![0.0; weight[0]]));
        sim.g.set_operand(conv, 2, Some(bias));
    }
    sim.remove(op, Gone::Into(conv));
    sim.g.set_result(conv, 0, Some(y));
    true
}

/// A Relu before a Clip with constant limits (`relu_clip_fusion.cc`).
fn join_clip(sim: &mut Sim, op: OpId) -> bool {
    if !sim.g.op(op).is("Relu") {
        return false;
    }
    let Some(next) = sim.only_edge(op).filter(|u| sim.g.op(u.op).is("Clip") && u.slot == 0) else {
        return false;
    };
    let Some(x) = sim.g.operand(op, 0) else { return false };
    if sim.g.operand(next.op, 1).is_some_and(|v| !sim.is_constant(v)) {
        return false;
    }
    sim.g.set_operand(next.op, 0, Some(x));
    sim.remove(op, Gone::Into(next.op));
    true
}

/// Whether an operator computes with activations at all.
pub(super) fn is_activation(class: Class) -> bool {
    !matches!(class, Class::Index | Class::Control)
}
