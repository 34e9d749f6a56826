//! Which models may have plans with open dimensions ([`crate::signature`]).
//!
//! tract must neither be slower with them nor compute something else. It is slower with operators on windows: it chooses
//! how to compute a convolution when it knows the size of the picture. It computes something else where dimensions are
//! compared: what it cannot prove of a dimension that it does not know is false for it, and folded as such. So where
//! dimensions go in a model is followed here, and only what is known to be right with symbols may be done with them.

use squint_ir::{DType, Graph, Model, Op, OpId, ValueId};
use std::collections::HashMap;

/// Operators on windows, and those that go from step to step.
const CLOSED: &[&str] = &[
    "AveragePool",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "GRU",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LSTM",
    "LpPool",
    "MaxPool",
    "QLinearConv",
    "RNN",
    "Resize",
    "Upsample",
];

/// Operators that hand on elements of their first operand as they are. Others of their operands may be dimensions.
const MOVING: &[&str] = &[
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Unsqueeze",
];

/// Operators that compute with dimensions as polynomials, in which numbers are put when the plan is run.
const COMPUTING: &[&str] = &["Add", "Div", "Max", "Min", "Mul", "Neg", "ReduceProd", "ReduceSum", "Sub"];

/// Operators that make something else out of dimensions.
const TAKING: &[&str] = &["ConstantOfShape", "OneHot", "Pad", "Range", "Tile", "TopK", "Trilu"];

/// What integers have to do with dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Each is a dimension or a constant.
    Dimensions,
    /// Computed from dimensions.
    Computed,
}

/// Whether plans for a model may have open dimensions.
pub(crate) fn may_open(model: &Model) -> bool {
    let graph = model.main();
    let Ok(order) = graph.topo() else { return false };
    let mut origins = HashMap::new();
    order.into_iter().all(|id| follow(graph, id, &mut origins).is_some())
}

/// Notes what the results of an operator have to do with dimensions; `None` if it does with them what it may not do.
fn follow(graph: &Graph, id: OpId, origins: &mut HashMap<ValueId, Origin>) -> Option<()> {
    let op = graph.op(id);
    // The condition of an `If` may be a matter of dimensions, and so may what its branches do.
    if CLOSED.contains(&op.op_type.as_str()) || op.bodies().next().is_some() {
        return None;
    }
    let operands = graph.operands(id);
    let of: Vec<Option<Origin>> = operands.iter().map(|v| origins.get(v.as_ref()?).copied()).collect();
    let most = of.iter().flatten().max().copied();
    let result = match op.op_type.as_str() {
        "Shape" => Some(Origin::Dimensions),
        "Size" => Some(Origin::Computed),
        _ if most.is_none() => None,
        "Cast" => cast(op, most)?,
        "Concat" => most,
        // Which of the two it is, is known.
        "Where" if of[0].is_none() => most,
        "Equal" if never_equal(graph, &operands, &of) => None,
        moving if MOVING.contains(&moving) => of[0],
        computing if COMPUTING.contains(&computing) => Some(Origin::Computed),
        taking if TAKING.contains(&taking) => None,
        _ => return None,
    };
    if let Some(origin) = result {
        origins.extend(graph.results(id).into_iter().flatten().map(|v| (v, origin)));
    }
    Some(())
}

/// Numbers of type float are computed when the plan is run, whatever becomes of them.
fn cast(op: &Op, origin: Option<Origin>) -> Option<Option<Origin>> {
    let to = |dtype: DType| op.int("to") == Some(i64::from(dtype.code()));
    if [DType::Float, DType::Float16, DType::Double].into_iter().any(to) {
        return Some(None);
    }
    [DType::Int64, DType::Int32].into_iter().any(to).then_some(origin)
}

/// Whether an `Equal` compares dimensions with numbers that none of the open ones is, as exporters do with -1 in front of
/// `Expand`: open are only dimensions from 2 on.
fn never_equal(graph: &Graph, operands: &[Option<ValueId>], of: &[Option<Origin>]) -> bool {
    let small = |v: Option<ValueId>| {
        let numbers = v.and_then(|v| graph.konst(v)).and_then(|t| t.to_i64s());
        numbers.is_some_and(|n| n.iter().all(|n| *n < 2))
    };
    match of {
        [Some(Origin::Dimensions), None] => small(operands[1]),
        [None, Some(Origin::Dimensions)] => small(operands[0]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{Dim, OpSpec, Tensor, Type};

    /// Whether a model may be open that does something with its input `x` and the shape of it.
    fn open<T>(build: impl FnOnce(&mut Graph, ValueId, ValueId) -> T) -> bool {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(vec![Dim::Unknown]))));
        g.inputs.push(x);
        let shape = g.emit(OpSpec::new("Shape").operands([x]), "shape", None);
        let _ = build(g, x, shape);
        may_open(&model)
    }

    fn emit(g: &mut Graph, op: &str, operands: &[ValueId]) -> ValueId {
        g.emit(OpSpec::new(op).operands(operands.to_vec()), op, None)
    }

    fn cast(g: &mut Graph, to: DType, x: ValueId) -> ValueId {
        g.emit(OpSpec::new("Cast").attr("to", i64::from(to.code())).operands([x]), "cast", None)
    }

    #[test]
    fn windows_and_bodies_need_to_know_dimensions() {
        assert!(open(|g, x, _| emit(g, "Softmax", &[x])));
        assert!(!open(|g, x, _| emit(g, "Conv", &[x, x])));
        let mut model = Model::new("g", 17);
        let body = model.add_graph(Graph::new("then"));
        model.main_mut().add_op(OpSpec::new("If").attr("then_branch", squint_ir::AttrValue::Graph(body)));
        assert!(!may_open(&model));
    }

    #[test]
    fn dimensions_may_be_moved_and_computed_with_but_not_compared() {
        let shape_of_rows = |g: &mut Graph, x: ValueId, shape: ValueId| {
            let two = g.add_const("two", Tensor::from_i64(&[1], &[2]));
            let half = emit(g, "Div", &[shape, two]);
            let both = emit(g, "Concat", &[two, half]);
            (emit(g, "Reshape", &[x, both]), half)
        };
        assert!(open(|g, x, shape| shape_of_rows(g, x, shape)));
        assert!(!open(|g, x, shape| {
            let (_, half) = shape_of_rows(g, x, shape);
            emit(g, "Less", &[half, shape])
        }));
        // Of a float, tract knows no more than of other results.
        assert!(open(|g, x, shape| {
            let n = cast(g, DType::Float, shape);
            emit(g, "Less", &[x, n])
        }));
        assert!(!open(|g, _, shape| cast(g, DType::Bool, shape)));
    }

    #[test]
    fn dimensions_may_be_compared_with_what_they_never_are() {
        let chosen = |of: &[i64], computed: bool| {
            open(|g, x, shape| {
                let numbers = g.add_const("numbers", Tensor::from_i64(&[of.len()], of));
                let dims = if computed { emit(g, "Sub", &[shape, numbers]) } else { shape };
                let unset = emit(g, "Equal", &[dims, numbers]);
                let dims = emit(g, "Where", &[unset, numbers, dims]);
                emit(g, "Expand", &[x, dims])
            })
        };
        assert!(chosen(&[-1], false));
        assert!(!chosen(&[2], false));
        assert!(!chosen(&[-1], true));
    }
}
