//! What stays in float32 where all else is computed in 16 bits.

use crate::pass::PassCx;
use squint_ir::{DType, Graph, Model, OpId, OpTable, ValueId, narrow};
use squint_ops::Class;

/// Operators that make numbers of nothing, whose type is an attribute or float32 alone; that add up long rows; or whose
/// operands are coordinates.
const WIDE: &[&str] = &[
    "Bernoulli",
    "ConstantOfShape",
    "CumSum",
    "DFT",
    "EyeLike",
    "MelWeightMatrix",
    "Multinomial",
    "NonMaxSuppression",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "RoiAlign",
    "STFT",
];

/// Functions that leave the range of float16 for ordinary operands.
const STEEP: &[&str] = &["Exp", "Pow"];

/// Reductions that pick elements, and add nothing up.
const PICKS: &[&str] = &["ArgMax", "ArgMin", "ReduceMax", "ReduceMin"];

/// Functions that make much of little: what a small constant kept from zero must not become zero before them.
const SENSITIVE: &[&str] = &["Div", "Log", "Pow", "Reciprocal", "Sqrt"];

/// The largest part of a type's range that values may take: later data may be larger than that of calibration.
const HEADROOM: f32 = 0.5;

/// The operators that stay, each with the reason, in the user's language.
pub(super) fn stays(model: &Model, cx: &PassCx<'_>, dtype: DType, order: &[OpId]) -> OpTable<&'static str> {
    let g = model.main();
    let mut stays: OpTable<&'static str> = OpTable::new();
    for op in order {
        let own = own_reason(model, cx, dtype, *op);
        let why = own.or_else(|| {
            let kept = |v: ValueId| g.producer(v).is_some_and(|(p, _)| stays.get(p) == Some(&VANISHES));
            let sensitive = SENSITIVE.contains(&g.op(*op).op_type.as_str());
            (sensitive && g.operands(*op).into_iter().flatten().any(kept)).then_some(VANISHES)
        });
        if let Some(why) = why {
            stays.insert(*op, why);
        }
    }
    // Lengths that are computed in float, backwards from the integers that are made of them.
    for op in order.iter().rev() {
        if !stays.contains(*op) && makes_lengths(model, cx, *op, &stays) {
            stays.insert(*op, LENGTHS);
        }
    }
    stays
}

const VANISHES: &str = "a constant beside which it would be zero in that type";
const LENGTHS: &str = "integers are made of its result";

fn own_reason(model: &Model, cx: &PassCx<'_>, dtype: DType, op: OpId) -> Option<&'static str> {
    let g = model.main();
    let node = g.op(op);
    let Some(row) = squint_ops::row(&node.domain, &node.op_type).filter(|_| node.is_onnx()) else {
        return Some("squint does not know which types it has");
    };
    let operands = || g.operands(op).into_iter().flatten();
    let results = || g.results(op).into_iter().flatten();
    if node.bodies().next().is_some() {
        return Some("between its bodies, which have Casts of their own, values are float32");
    }
    if results().any(|v| g.uses(v).iter().any(|u| u.capture)) {
        return Some("a body reads its result");
    }
    if operands().chain(results()).any(|v| cx.fact(model, v).dtype.is_none()) {
        return Some("the type of a value at it is unknown");
    }
    let op_type = node.op_type.as_str();
    if WIDE.contains(&op_type) {
        return Some("its operator is one of float32");
    }
    if row.class == Class::Reduction && !PICKS.contains(&op_type) {
        return Some("sums lose bits in fewer");
    }
    if dtype == DType::Float16 && STEEP.contains(&op_type) {
        return Some("it leaves the range of float16 soon");
    }
    if operands().chain(results()).any(|v| exceeds(cx, dtype, v)) {
        return Some("calibration saw values that are too large");
    }
    operands().any(|v| vanishes(g, dtype, v)).then_some(VANISHES)
}

/// True if calibration saw elements that do not fit well.
fn exceeds(cx: &PassCx<'_>, dtype: DType, v: ValueId) -> bool {
    let most = narrow::largest(dtype).unwrap_or(f32::MAX) * HEADROOM;
    let extremes = cx.statistics.sketch(v).and_then(|s| s.extremes());
    extremes.is_some_and(|(lo, hi)| lo < -most || hi > most)
}

/// True for a constant number that is zero in the type and is not zero.
fn vanishes(g: &Graph, dtype: DType, v: ValueId) -> bool {
    let Some(t) = g.konst(v).filter(|t| t.len() == 1 && t.dtype() == DType::Float) else { return false };
    let half = narrow::half(t, dtype).and_then(|h| h.scalar_value());
    t.scalar_value() != Some(0.0) && half == Some(0.0)
}

/// True for a Cast to integers that are no codes, and for what only such Casts read.
fn makes_lengths(model: &Model, cx: &PassCx<'_>, op: OpId, stays: &OpTable<&'static str>) -> bool {
    let g = model.main();
    let float = |v: ValueId| cx.fact(model, v).dtype == Some(DType::Float);
    let results = || g.results(op).into_iter().flatten();
    if g.op(op).is("Cast") {
        let whole =
            |v: ValueId| cx.fact(model, v).dtype.is_some_and(|d| matches!(d, DType::Int32 | DType::Int64));
        if results().any(whole) {
            return g.operand(op, 0).is_some_and(float);
        }
    }
    let class = squint_ops::row(&g.op(op).domain, &g.op(op).op_type).map(|r| r.class);
    let passes_on = matches!(
        class,
        Some(
            Class::Binary
                | Class::Clamp
                | Class::Index
                | Class::Movement
                | Class::Join
                | Class::Other
                | Class::Unary
        )
    );
    let leads = |v: ValueId| {
        let uses = g.uses(v);
        !g.is_output(v) && !uses.is_empty() && uses.iter().all(|u| stays.get(u.op) == Some(&LENGTHS))
    };
    passes_on && results().next().is_some() && results().all(|v| float(v) && leads(v))
}
