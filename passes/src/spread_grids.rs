//! `spread-grids`: values without a quantizer of their own take over the grids of their neighbours where that is sound.
//!
//! - What is only moved, or picked by MaxPool, has the levels of what it is made from; and the other way round, where
//!   every reader of a value moves it onto one grid.
//! - A Relu or Clip leaves of the levels those within its limits.
//! - Averages lie between the numbers that they are made from.
//! - A Concat has the grid that its operands agree on, or else one for their whole range.
//!
//! Nothing is measured here. What is on a grid afterwards counts as observed, with the range of the grid; what is not stays
//! in float.

use crate::calibration::Sketch;
use crate::evidence::lengths_of_inputs;
use crate::frozen::{Frozen, FrozenValue, Levels, same_levels};
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{DType, Graph, Model, OpId, ValueId};
use squint_ops::{Class, Out};

/// The pass.
pub(crate) struct SpreadGrids;

impl Pass for SpreadGrids {
    fn name(&self) -> &'static str {
        "spread-grids"
    }

    fn needs(&self) -> Phase {
        Phase::Observed
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Calibrated)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main();
        let order = g.topo().map_err(|c| PassError::Model(c.to_string()))?;
        let frozen = cx.frozen.get_or_insert_default();
        for op in order.iter().rev() {
            backward(g, *op, frozen);
        }
        for op in &order {
            forward(g, *op, frozen);
        }
        if cx.statistics.dims.iter().next().is_none() {
            cx.statistics.dims = lengths_of_inputs(g);
        }
        let ranges: Vec<(ValueId, (f32, f32))> =
            frozen.values.iter().map(|(v, f)| (v, f.levels.range())).collect();
        for (v, (lo, hi)) in ranges.into_iter().chain(known_beforehand(g, &order)) {
            if cx.statistics.sketch(v).is_none() {
                let mut sketch = Sketch::new();
                sketch.observe(&[lo, hi]);
                cx.statistics.sketches.insert(v, sketch);
            }
        }
        Ok(Changed::No)
    }
}

/// Results whose range is that of their function.
fn known_beforehand<'a>(g: &'a Graph, order: &'a [OpId]) -> impl Iterator<Item = (ValueId, (f32, f32))> + 'a {
    order.iter().filter_map(move |op| {
        let node = g.op(*op);
        match squint_ops::row(&node.domain, &node.op_type)?.outs.first()? {
            Out::Fixed { lo, hi } => Some((g.result(*op, 0)?, (*lo, *hi))),
            _ => None,
        }
    })
}

fn inherit(g: &Graph, frozen: &mut Frozen, v: ValueId, levels: Levels, from: ValueId) {
    if !frozen.values.contains(v) && g.konst(v).is_none() {
        let was = frozen.values.get(from).map_or((DType::Float, 0), |f| f.was);
        frozen.values.insert(v, FrozenValue { levels, was, inherited: Some(from) });
    }
}

fn forward(g: &Graph, op: OpId, frozen: &mut Frozen) {
    let node = g.op(op);
    let Some(row) = squint_ops::row(&node.domain, &node.op_type) else { return };
    let grid = |slot: u32| g.operand(op, slot).and_then(|v| Some((v, frozen.levels(v)?)));
    let found = match row.class {
        Class::Clamp => grid(0).zip(clamp(g, op)).map(|((x, levels), (lo, hi))| (x, levels.clamped(lo, hi))),
        Class::AveragePool => grid(0),
        Class::Join if row.outs.first() == Some(&Out::Unify) => union(g, op, frozen),
        _ => same_levels(g, op).and_then(grid),
    };
    let Some((from, levels)) = found else { return };
    // The second result of MaxPool holds positions.
    let n = if row.class == Class::Movement { usize::MAX } else { 1 };
    for v in g.results(op).into_iter().take(n).flatten() {
        inherit(g, frozen, v, levels, from);
    }
}

/// The limits of a Relu or Clip around zero, if they are constant.
pub(crate) fn clamp(g: &Graph, op: OpId) -> Option<(f64, f64)> {
    let limit = |slot, open: f64| match g.operand(op, slot) {
        None => Some(open),
        Some(v) => g.konst(v).and_then(|t| t.scalar_value()),
    };
    let (lo, hi) = match g.op(op).op_type.as_str() {
        "Relu" => (0.0, f64::INFINITY),
        "Clip" => (limit(1, f64::NEG_INFINITY)?, limit(2, f64::INFINITY)?),
        _ => return None,
    };
    (lo <= 0.0 && hi > 0.0).then_some((lo, hi))
}

/// A grid for all operands of a Concat: theirs, if they have the same, else 256 levels for their range.
fn union(g: &Graph, op: OpId, frozen: &Frozen) -> Option<(ValueId, Levels)> {
    let operands: Vec<ValueId> = g.operands(op).into_iter().flatten().collect();
    let grids: Vec<Levels> = operands.iter().map(|v| frozen.levels(*v)).collect::<Option<_>>()?;
    let first = *grids.first()?;
    if grids.iter().all(|l| *l == first) {
        return Some((operands[0], first));
    }
    let (lo, hi) =
        grids.iter().map(|l| l.range()).fold((0f32, 0f32), |(a, b), (lo, hi)| (a.min(lo), b.max(hi)));
    let p = squint_ir::affine::Grid::U8.params(lo, hi);
    let levels = Levels { scale: p.scale, lowest: -p.zero_point, highest: 255 - p.zero_point };
    Some((operands[0], levels))
}

/// Gives what an operator moves the grid of the result, if all that reads it does the same.
fn backward(g: &Graph, op: OpId, frozen: &mut Frozen) {
    for v in g.operands(op).into_iter().flatten() {
        if frozen.levels(v).is_some() || g.konst(v).is_some() || g.is_output(v) {
            continue;
        }
        let moved_onto = |u: squint_ir::Use| {
            let joins = g.op(u.op).is("Concat");
            let moves = !u.capture && (joins || same_levels(g, u.op) == Some(u.slot));
            let mut results = g.results(u.op).into_iter().flatten().map(|r| Some((r, frozen.levels(r)?)));
            let first = results.next().flatten().filter(|_| moves)?;
            results.all(|r| r.is_some_and(|(_, levels)| levels == first.1)).then_some(first)
        };
        let onto: Option<Vec<(ValueId, Levels)>> = g.uses(v).into_iter().map(moved_onto).collect();
        if let Some([first, rest @ ..]) = onto.as_deref()
            && rest.iter().all(|(_, levels)| *levels == first.1)
        {
            inherit(g, frozen, v, first.1, first.0);
        }
    }
}
