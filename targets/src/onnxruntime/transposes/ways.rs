//! What a Transpose before an operator becomes behind it, operator by operator.

use super::super::sim::{Gone, Sim};
use super::permutation;
use super::place::{compose, inverse, raise_rank, remove_idle, transpose_operand, transpose_result};
use squint_ir::{OpId, OpSpec, Tensor, ValueId};
use squint_ops::Fact;

/// How an operator lets a Transpose through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All operands, element by element.
    Elements,
    /// All operands that are no scalars, which are broadcast to each other.
    Broadcast,
    /// The first operand; other operands and attributes follow the axes.
    First,
    /// All operands, side by side along an axis.
    Join,
    /// The first operand, which may lose axes: what remains of the permutation is behind.
    Reduces,
    /// As `Reduces`; the axes are those to leave out.
    Squeezes,
    /// Axes of length 1 are added.
    Unsqueezes,
    /// Another Transpose.
    Transpose,
    /// The shape of the operand: no Transpose is behind.
    Shape,
    /// Known, but only what runs after the nodes are assigned pushes through it.
    Stops {
        /// Whether a Transpose would be behind it.
        behind: bool,
    },
}

impl Way {
    /// Whether the operator's results are transposed when a Transpose goes through it.
    pub(super) fn transposes_results(self) -> bool {
        !matches!(self, Way::Transpose | Way::Shape | Way::Stops { behind: false })
    }
}

/// How a Transpose goes through an operator; `None` if it never does.
pub(super) fn way(sim: &Sim, op: OpId) -> Option<Way> {
    let node = sim.g.op(op);
    let op_type = node.op_type.as_str();
    if node.domain == "com.microsoft" {
        return match op_type {
            "QuantizeLinear" | "DequantizeLinear" | "QLinearLeakyRelu" | "QLinearSigmoid" => Some(Way::First),
            "QLinearAdd" | "QLinearMul" => Some(Way::Broadcast),
            "QLinearConcat" => Some(Way::Join),
            "QLinearSoftmax" | "QLinearReduceMean" | "QLinearAveragePool" | "QLinearGlobalAveragePool" => {
                Some(Way::Stops { behind: true })
            }
            _ => None,
        };
    }
    if !node.is_onnx() {
        return None;
    }
    Some(match op_type {
        "Cast" | "Exp" | "Gelu" | "Identity" | "LeakyRelu" | "Log" | "Reciprocal" | "Relu" | "Sigmoid"
        | "Sqrt" | "Tanh" | "Abs" | "Not" | "Ceil" | "Floor" | "Neg" | "Erf" | "HardSigmoid" | "Round"
        | "IsInf" | "IsNaN" | "Selu" | "Shrink" | "Sign" | "Softplus" | "Softsign" | "ThresholdedRelu"
        | "Celu" | "HardSwish" | "Sin" | "Cos" | "Tan" | "Sinh" | "Cosh" | "Asin" | "Acos" | "Atan"
        | "Asinh" | "Acosh" | "Atanh" => Way::Elements,
        "Add" | "Max" | "Min" | "Mul" | "Sub" | "Div" | "And" | "Or" | "Xor" | "Mod" | "PRelu"
        | "BitShift" | "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "Mean" | "Sum"
        | "Pow" | "Where" => Way::Broadcast,
        "Clip" | "CastLike" | "Split" | "Pad" | "Slice" | "Tile" | "Softmax" | "Hardmax" | "LogSoftmax"
        | "QuantizeLinear" | "DequantizeLinear" => Way::First,
        "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd"
        | "ReduceSum" | "ReduceSumSquare" | "ReduceL1" | "ReduceL2" | "ArgMin" | "ArgMax" => Way::Reduces,
        "Concat" => Way::Join,
        "Squeeze" => Way::Squeezes,
        "Unsqueeze" => Way::Unsqueezes,
        "Transpose" => Way::Transpose,
        "Shape" => Way::Shape,
        "MaxPool" | "Resize" => Way::Stops { behind: true },
        "Reshape" => Way::Stops { behind: false },
        _ => return None,
    })
}

/// The operands of an operator that a Transpose goes through together.
pub(super) fn operands(sim: &Sim, op: OpId) -> Vec<u32> {
    let all = sim.g.operands(op).len() as u32;
    let contrib = sim.g.op(op).domain == "com.microsoft";
    match way(sim, op) {
        Some(Way::Elements) => (0..all).collect(),
        Some(Way::Join) if contrib => (2..all).step_by(3).collect(),
        Some(Way::Join) => (0..all).collect(),
        Some(Way::Broadcast) if contrib => vec![0, 3],
        Some(Way::Broadcast) => {
            let scalar = |slot: &u32| sim.g.operand(op, *slot).is_some_and(|v| sim.fact(v).rank() == Some(0));
            (0..all).filter(|slot| !scalar(slot)).collect()
        }
        _ => vec![0],
    }
}

/// Lets a Transpose through an operator; false if it stays before it, and nothing changed.
pub(super) fn push(
    sim: &mut Sim,
    op: OpId,
    way: Way,
    slots: &[u32],
    transpose: OpId,
    perm: &[usize],
) -> bool {
    let Some(behind) = behind(sim, op, way, slots, perm) else {
        return match way {
            Way::Transpose => join(sim, op, transpose, perm).is_some(),
            Way::Shape => read_shape(sim, op, transpose, perm).is_some(),
            _ => false,
        };
    };
    let before = inverse(perm);
    for slot in slots {
        if way == Way::Broadcast {
            raise_rank(sim, op, *slot, perm.len());
        }
        transpose_operand(sim, op, *slot, &before);
    }
    for slot in 0..sim.g.results(op).len() as u32 {
        transpose_result(sim, op, slot, &behind, transpose);
    }
    true
}

/// The permutation behind an operator, whose axes are rewritten; `None` if a Transpose does not go through.
fn behind(sim: &mut Sim, op: OpId, way: Way, slots: &[u32], perm: &[usize]) -> Option<Vec<usize>> {
    let rank = perm.len();
    match way {
        Way::Elements => Some(perm.to_vec()),
        Way::Broadcast => {
            let fits = |slot: &u32| {
                sim.g.operand(op, *slot).is_some_and(|v| sim.fact(v).rank().is_some_and(|r| r <= rank))
            };
            slots.iter().all(fits).then(|| perm.to_vec())
        }
        Way::Join => {
            let at = axis(sim.g.op(op).int("axis")?, rank)?;
            sim.g.op_mut(op).set_attr("axis", perm[at] as i64);
            Some(perm.to_vec())
        }
        Way::First => first(sim, op, perm),
        Way::Reduces => {
            let keeps = sim.g.op(op).int("keepdims").unwrap_or(1) != 0;
            let arg = sim.g.op(op).op_type.starts_with("Arg");
            let axes = if arg {
                vec![axis(sim.g.op(op).int("axis").unwrap_or(0), rank)?]
            } else {
                axes(sim, op, rank)?.unwrap_or_else(|| (0..rank).collect())
            };
            let moved: Vec<usize> = axes.iter().map(|a| perm[*a]).collect();
            if arg {
                sim.g.op_mut(op).set_attr("axis", moved[0] as i64);
            } else {
                set_axes(sim, op, &moved);
            }
            Some(if keeps { perm.to_vec() } else { without(perm, &moved) })
        }
        Way::Squeezes => {
            let axes = axes(sim, op, rank)??;
            let moved: Vec<usize> = axes.iter().map(|a| perm[*a]).collect();
            set_axes(sim, op, &moved);
            Some(without(perm, &moved))
        }
        Way::Unsqueezes => {
            let n = list(sim, op)??.len();
            let added = axes(sim, op, rank + n)??;
            Some(with(perm, &added))
        }
        Way::Transpose | Way::Shape | Way::Stops { .. } => None,
    }
}

fn first(sim: &mut Sim, op: OpId, perm: &[usize]) -> Option<Vec<usize>> {
    let rank = perm.len();
    let node = sim.g.op(op);
    let default = match node.op_type.as_str() {
        "Split" => 0,
        "Softmax" | "Hardmax" | "LogSoftmax" if sim.opset >= 13 => -1,
        "Softmax" | "Hardmax" | "LogSoftmax" => {
            // All axes from this one on are one, and no axis may cross it.
            let at = axis(node.int("axis").unwrap_or(1), rank)?;
            return (0..rank).all(|i| (i < at) == (perm[i] < at)).then(|| perm.to_vec());
        }
        "QuantizeLinear" | "DequantizeLinear" => {
            if node.int("block_size").unwrap_or(0) != 0 {
                return None;
            }
            1
        }
        "Slice" => {
            let constant = |slot| sim.g.operand(op, slot).is_none_or(|v| sim.is_constant(v));
            return (sim.opset >= 10 && (1..5).all(constant)).then(|| perm.to_vec());
        }
        "Pad" => {
            return (sim.opset >= 11 && sim.g.operand(op, 3).is_none()).then(|| perm.to_vec());
        }
        _ => return Some(perm.to_vec()),
    };
    let quantizer = sim.is_q(op) || sim.is_dq(op);
    match axis(node.int("axis").unwrap_or(default), rank) {
        Some(at) => sim.g.op_mut(op).set_attr("axis", perm[at] as i64),
        // One scale for all has no axis, whatever the attribute says.
        None if quantizer && sim.g.operand(op, 1).is_some_and(|s| sim.is_scalar(s)) => {}
        None => return None,
    }
    Some(perm.to_vec())
}

fn axis(at: i64, rank: usize) -> Option<usize> {
    let at = if at < 0 { at + rank as i64 } else { at };
    usize::try_from(at).ok().filter(|a| *a < rank)
}

/// The axes that an operator names; `None` if they are not known, `Some(None)` if it names none.
#[allow(clippy::option_option, reason = "unknown and not given are two things")]
fn list(sim: &Sim, op: OpId) -> Option<Option<Vec<i64>>> {
    if let Some(axes) = sim.g.op(op).ints("axes") {
        return Some(Some(axes.to_vec()));
    }
    match sim.g.operand(op, 1) {
        Some(v) => sim.tensor(v)?.to_i64s().map(Some),
        None => Some(None),
    }
}

#[allow(clippy::option_option, reason = "as `list`")]
fn axes(sim: &Sim, op: OpId, rank: usize) -> Option<Option<Vec<usize>>> {
    match list(sim, op)? {
        None => Some(None),
        Some(axes) => axes.into_iter().map(|a| axis(a, rank)).collect::<Option<Vec<_>>>().map(Some),
    }
}

fn set_axes(sim: &mut Sim, op: OpId, axes: &[usize]) {
    let mut axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
    axes.sort_unstable();
    if sim.g.op(op).ints("axes").is_some() {
        sim.g.op_mut(op).set_attr("axes", axes);
    } else if sim.g.operand(op, 1).is_some() {
        let constant = sim.add_const("axes", Tensor::from_i64(&[axes.len()], &axes));
        sim.g.set_operand(op, 1, Some(constant));
    }
}

/// A permutation without some of the axes that it takes.
fn without(perm: &[usize], axes: &[usize]) -> Vec<usize> {
    let place = |p: usize| (0..p).filter(|a| !axes.contains(a)).count();
    perm.iter().filter(|p| !axes.contains(p)).map(|p| place(*p)).collect()
}

/// A permutation with axes added that stay where they are.
fn with(perm: &[usize], added: &[usize]) -> Vec<usize> {
    let rank = perm.len() + added.len();
    let old: Vec<usize> = (0..rank).filter(|i| !added.contains(i)).collect();
    let mut taken = perm.iter();
    (0..rank)
        .filter_map(|i| if added.contains(&i) { Some(i) } else { taken.next().map(|p| old[*p]) })
        .collect()
}

/// Two transposes in a row are one, or none.
fn join(sim: &mut Sim, op: OpId, before: OpId, perm: &[usize]) -> Option<()> {
    let both = compose(perm, &permutation(sim, op).filter(|p| p.len() == perm.len())?);
    let (x, y) = (sim.g.operand(before, 0)?, sim.result(op)?);
    let nothing = both.iter().enumerate().all(|(i, p)| i == *p);
    if nothing && !sim.is_output(y) {
        sim.replace(y, x);
        sim.remove(op, Gone::Folded);
    } else {
        sim.g.set_operand(op, 0, Some(x));
        let both: Vec<i64> = both.iter().map(|p| *p as i64).collect();
        sim.g.op_mut(op).set_attr("perm", both);
    }
    remove_idle(sim, before);
    Some(())
}

/// The shape of what is transposed is that of the source, read in another order.
fn read_shape(sim: &mut Sim, op: OpId, before: OpId, perm: &[usize]) -> Option<()> {
    let (x, y): (ValueId, ValueId) = (sim.g.operand(before, 0)?, sim.result(op)?);
    if sim.g.op(op).attr("start").is_some() || sim.g.op(op).attr("end").is_some() {
        return None;
    }
    let fact = Fact { konst: None, ..sim.fact(y) };
    let raw = sim.add_value("shape", fact);
    let order: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
    let order = sim.add_const("order", Tensor::from_i64(&[order.len()], &order));
    sim.g.set_operand(op, 0, Some(x));
    sim.g.set_result(op, 0, Some(raw));
    sim.add_op(OpSpec::new("Gather").near(op).operands([raw, order]).results([y]), None);
    remove_idle(sim, before);
    Some(())
}
