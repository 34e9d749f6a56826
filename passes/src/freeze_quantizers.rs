//! `freeze-quantizers`: takes the quantizers out of a quantized model, and keeps what they say.
//!
//! ```text
//! w_f = DequantizeLinear <axis = 0> (w, ws)           integers w on the grids ws
//! c = Conv (x_f, w_f)   q = QuantizeLinear (c, s, z)   y = DequantizeLinear (q, s, z)   r = MaxPool (y)
//!
//! c = Conv (x, w')      r = MaxPool (c)                w' on the grids ws, c on the grid (s, z)
//! ```
//!
//! What remains is a float graph that the other passes know how to handle. Constants become the numbers that their
//! integers stand for, float constants behind a quantizer those that it makes of them; the integers are kept beside them.
//! Biases of 32-bit integers become real numbers.
//!
//! A quantizer is a clamp, too. Where the network needs it as one, it becomes an operator of the float graph: a Relu if
//! the lowest level is zero and what it quantizes may be negative (tools that write integer operators leave the Relu to
//! the saturation of the result), a Clip if the levels are fewer than those of 8 bits.
//!
//! Weights that were rounded before the model was written, and have no quantizer, get their integers from their numbers
//! (`recover`).
//!
//! It assumes that other spellings have been raised to QuantizeLinear, perhaps Clip, and DequantizeLinear
//! (`raise-qoperator`, `raise-fake-quant`). It leaves alone what computes its scales, blocked scales, integers that
//! come from outside or go there, and bodies of control flow.

mod recover;

use crate::evidence::makes_nothing_negative;
use crate::frozen::{DifferenceKind, Frozen, FrozenValue, FrozenWeight, Levels};
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::affine::ChannelLayout;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::Class;
use std::sync::Arc;

/// The pass.
pub(crate) struct FreezeQuantizers;

impl Pass for FreezeQuantizers {
    fn name(&self) -> &'static str {
        "freeze-quantizers"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut frozen = cx.frozen.take().unwrap_or_default();
        let mut positive: ValueTable<()> = ValueTable::new();
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            let g = model.main();
            if !g.has_op(op) {
                continue;
            }
            if !is_quantizer(g, op, "DequantizeLinear") {
                if makes_nothing_negative(g, op, &positive) {
                    for v in g.results(op).into_iter().flatten() {
                        positive.insert(v, ());
                    }
                }
                continue;
            }
            let Some(found) = Found::at(model, cx, op)? else { continue };
            changed |= match found.source {
                Source::Integers(_) | Source::Constant(_) => {
                    freeze_constant(model.main_mut(), &found, &mut frozen)
                }
                Source::Data(x) => freeze_data(model.main_mut(), x, &found, &mut frozen, &mut positive),
            };
        }
        if frozen.values.iter().next().is_some() {
            let n = recover::recover(model.main(), &mut frozen);
            if n > 0 {
                let what = "lie on grids of 8 bits without a quantizer: their integers are those";
                cx.notes.add("", format!("weights of {n} operators {what}"));
            }
        }
        cx.frozen = Some(frozen);
        Ok(changed.into())
    }
}

fn is_quantizer(g: &Graph, op: OpId, op_type: &str) -> bool {
    let node = g.op(op);
    node.op_type == op_type
        && (node.is_onnx() || node.domain == squint_ops::MICROSOFT)
        && node.int("block_size").unwrap_or(0) == 0
}

/// A DequantizeLinear with what stands before it.
struct Found {
    op: OpId,
    /// What it makes.
    y: ValueId,
    grid: Grid,
    source: Source,
    /// Levels that are left by a Clip of the integers.
    bounds: (i64, i64),
}

enum Source {
    /// Integers of the file.
    Integers(Arc<Tensor>),
    /// A float constant that is quantized.
    Constant(Arc<Tensor>),
    /// A value that is quantized in every run.
    Data(ValueId),
}

/// Scales and zero points.
#[derive(Clone, PartialEq)]
struct Grid {
    dtype: DType,
    axis: i64,
    scales: Vec<f32>,
    zeros: Vec<i64>,
}

impl Grid {
    /// What a QuantizeLinear or DequantizeLinear says of integers of a type; `None` if it is computed.
    ///
    /// # Errors
    /// If a scale is no scale.
    fn of(g: &Graph, op: OpId, dtype: DType) -> Result<Option<Grid>, PassError> {
        let konst = |slot| g.operand(op, slot).map(|v| g.konst(v).filter(|_| !g.is_input(v)));
        let Some(Some(scale)) = konst(1) else { return Ok(None) };
        let scales = scale.to_f32s();
        if let Some(s) = scales.iter().find(|s| !(s.is_normal() && **s > 0.0)) {
            return Err(PassError::Model(format!(
                "`{}`: {s} is no scale of a quantizer: scales are positive, finite and not subnormal",
                g.label(op)
            )));
        }
        let zeros = match konst(2) {
            None => vec![0; scales.len()],
            Some(None) => return Ok(None),
            Some(Some(z)) => match z.to_i64s() {
                Some(z) if z.len() == scales.len() => z,
                Some(z) if z.len() == 1 => vec![z[0]; scales.len()],
                _ => return Ok(None),
            },
        };
        let axis = g.op(op).int("axis").unwrap_or(1);
        Ok(Some(Grid { dtype, axis, scales, zeros }))
    }

    fn text(&self) -> String {
        match (self.scales.as_slice(), self.zeros.as_slice()) {
            ([s], [z]) => format!("{} s={s:.6} z={z}", self.dtype),
            (s, _) => format!("{} with {} scales", self.dtype, s.len()),
        }
    }

    fn one(&self) -> bool {
        self.scales.len() == 1
    }
}

impl Found {
    /// What there is at a DequantizeLinear; `None` if it is left alone.
    ///
    /// # Errors
    /// If a scale is no scale.
    fn at(model: &Model, cx: &mut PassCx<'_>, op: OpId) -> Result<Option<Found>, PassError> {
        let g = model.main();
        let (Some(q), Some(y)) = (g.operand(op, 0), g.result(op, 0)) else { return Ok(None) };
        let zero = g.operand(op, 2).and_then(|z| cx.fact(model, z).dtype);
        let Some(dtype) = cx.fact(model, q).dtype.or(zero) else { return Ok(None) };
        let Some(full) = dtype.int_range() else {
            cx.notes.add(g.label(op), format!("its {dtype} is no grid of integers: it stays as it is"));
            return Ok(None);
        };
        let Some(grid) = Grid::of(g, op, dtype)? else {
            cx.notes.add(g.label(op), "its scales are computed: it stays as it is");
            return Ok(None);
        };
        let (q, bounds) = clipped(g, q, full);
        if bounds.0 > bounds.1 {
            return Ok(None);
        }
        let found = |source| Found { op, y, grid: grid.clone(), source, bounds };
        if let Some(t) = g.konst(q) {
            return Ok((!g.is_input(q)).then(|| found(Source::Integers(t.clone()))));
        }
        let Some((quantizer, 0)) = g.producer(q) else { return Ok(None) };
        if !is_quantizer(g, quantizer, "QuantizeLinear")
            || Grid::of(g, quantizer, dtype)?.as_ref() != Some(&grid)
        {
            return Ok(None);
        }
        let Some(x) = g.operand(quantizer, 0) else { return Ok(None) };
        Ok(Some(match g.konst(x).filter(|_| !g.is_input(x)) {
            Some(t) => found(Source::Constant(t.clone())),
            None => found(Source::Data(x)),
        }))
    }
}

/// The integers before Clip operators, and the levels that these leave.
fn clipped(g: &Graph, mut q: ValueId, full: (i64, i64)) -> (ValueId, (i64, i64)) {
    let mut bounds = full;
    while let Some((op, 0)) = g.producer(q)
        && g.op(op).is("Clip")
        && let Some(of) = g.operand(op, 0)
    {
        let limit = |slot, open| match g.operand(op, slot) {
            None => Some(open),
            Some(v) => g.konst(v)?.to_i64s()?.first().copied(),
        };
        let (Some(lo), Some(hi)) = (limit(1, full.0), limit(2, full.1)) else { break };
        bounds = (bounds.0.max(lo), bounds.1.min(hi));
        q = of;
    }
    (q, bounds)
}

/// Replaces a dequantized constant by its numbers. Whether it did.
fn freeze_constant(g: &mut Graph, found: &Found, frozen: &mut Frozen) -> bool {
    let Found { op, y, grid, bounds, .. } = found;
    if g.is_output(*y) {
        return false;
    }
    let (t, quantizes) = match &found.source {
        Source::Integers(t) => (t, false),
        Source::Constant(t) => (t, true),
        Source::Data(_) => return false,
    };
    let axis = match (
        grid.one(),
        usize::try_from(if grid.axis < 0 { grid.axis + t.rank() as i64 } else { grid.axis }),
    ) {
        (true, _) => None,
        (false, Ok(a)) if t.dims().get(a) == Some(&grid.scales.len()) => Some(a),
        _ => return false,
    };
    let Some(layout) = ChannelLayout::along(t.dims(), axis) else { return false };
    let channel = |i: usize| i / layout.inner.max(1) % layout.channels.max(1);
    let clamp = |q: f64| q.clamp(bounds.0 as f64, bounds.1 as f64) as i64;
    let levels: Vec<i64> = if quantizes {
        let level = |(i, x): (usize, &f32)| {
            let z = grid.zeros[channel(i)];
            clamp(f64::from((x / grid.scales[channel(i)]).round_ties_even()) + z as f64) - z
        };
        t.f32s().iter().enumerate().map(level).collect()
    } else {
        let Some(q) = t.to_i64s() else { return false };
        q.iter().enumerate().map(|(i, q)| clamp(*q as f64) - grid.zeros[channel(i)]).collect()
    };
    // In double precision, as a bias has more bits than a float.
    let number = |(i, k): (usize, &i64)| (*k as f64 * f64::from(grid.scales[channel(i)])) as f32;
    let numbers: Vec<f32> = levels.iter().enumerate().map(number).collect();
    let few = grid.dtype.bits() <= 8;
    if few && let Ok(levels) = levels.iter().map(|k| i16::try_from(*k)).collect::<Result<Arc<[i16]>, _>>() {
        let (lowest, highest) = (grid.zeros.iter().min(), grid.zeros.iter().max());
        let ends = (bounds.0 - highest.copied().unwrap_or(0), bounds.1 - lowest.copied().unwrap_or(0));
        let scales = grid.scales.clone().into();
        frozen
            .weights
            .insert(*y, FrozenWeight { levels, axis, scales, bounds: (ends.0 as i32, ends.1 as i32) });
    } else if grid.dtype.bits() == 16 {
        let why = "float: constants of 16 bits have no integer kernel";
        frozen.differ(g.value(*y).name(), DifferenceKind::Refused, grid.text(), why);
    }
    let dims = t.dims().to_vec();
    g.remove_op(*op);
    g.set_const(*y, Some(Arc::new(Tensor::from_f32(&dims, &numbers))));
    true
}

/// Takes out the quantizer of a value, or makes a clamp of it. Whether it did.
fn freeze_data(
    g: &mut Graph,
    x: ValueId,
    found: &Found,
    frozen: &mut Frozen,
    positive: &mut ValueTable<()>,
) -> bool {
    let Found { op, y, grid, bounds, .. } = found;
    let name = g.value(x).name().to_owned();
    let refused = if !grid.one() {
        Some("float: activations have one scale")
    } else if grid.dtype.bits() > 8 {
        Some("float: no target has integer kernels for more than 8 bits")
    } else {
        None
    };
    if let Some(why) = refused {
        frozen.differ(&name, DifferenceKind::Refused, grid.text(), why);
        bypass(g, *op, x, *y);
        return true;
    }
    let Some(levels) = Levels::new(grid.scales[0], grid.zeros[0], bounds.0, bounds.1) else {
        frozen.differ(&name, DifferenceKind::Refused, grid.text(), "float: zero is no level of it");
        bypass(g, *op, x, *y);
        return true;
    };
    let was = (grid.dtype, grid.zeros[0]);
    let grid_of = |levels| FrozenValue { levels, was, inherited: None };
    let again = requantized(g, *y);
    if again {
        frozen.differ(
            &name,
            DifferenceKind::Merged,
            grid.text(),
            "rounded once, by the quantizer behind this one",
        );
    }
    if let Some(clamp) = clamp(g, *op, x, levels, positive) {
        // The operator stays in its place, under its name, as a clamp.
        let label = g.label(*op);
        let spec = clamp_spec(g, &clamp, x, &label).near(*op).origin(format!("freeze-quantizers({label})"));
        put_in_place(g, *op, spec, *y);
        if levels.lowest == 0 {
            positive.insert(*y, ());
        }
        if !again {
            frozen.values.insert(*y, grid_of(levels));
        }
        return true;
    }
    let v = bypass(g, *op, x, *y);
    match frozen.values.get(v) {
        _ if again => {}
        Some(there) if there.levels != levels => {
            let (a, b) = (there.levels.range(), levels.range());
            let wider = b.1 - b.0 > a.1 - a.0;
            let is = "one grid for all readers: the wider of two";
            frozen.differ(&name, DifferenceKind::Merged, grid.text(), is);
            if wider {
                frozen.values.insert(v, grid_of(levels));
            }
        }
        Some(_) => {}
        None => drop(frozen.values.insert(v, grid_of(levels))),
    }
    true
}

/// Lets what an operator makes be the value that it reads; returns the one that is left.
fn bypass(g: &mut Graph, op: OpId, x: ValueId, y: ValueId) -> ValueId {
    if !g.is_output(y) {
        g.replace_uses(y, x);
        g.remove_op_and_results(op);
        return x;
    }
    match g.producer(x) {
        // The graph output keeps its name, if only the quantizer stands between.
        Some((producer, slot)) if !g.is_output(x) => {
            g.remove_op(op);
            g.set_result(producer, slot, Some(y));
            g.replace_uses(x, y);
        }
        _ => {
            let spec = OpSpec::new("Identity").name(g.label(op)).near(op).operands([x]);
            put_in_place(g, op, spec, y);
        }
    }
    y
}

/// Lets another operator make what this one makes.
fn put_in_place(g: &mut Graph, op: OpId, spec: OpSpec, y: ValueId) {
    let id = g.add_op(spec);
    g.set_result(id, 0, Some(y));
    g.remove_op(op);
}

/// True if nothing but other quantizers reads a dequantized value.
fn requantized(g: &Graph, y: ValueId) -> bool {
    let uses = g.uses(y);
    let quantizer = |u: &squint_ir::Use| !u.capture && u.slot == 0 && is_quantizer(g, u.op, "QuantizeLinear");
    !g.is_output(y) && !uses.is_empty() && uses.iter().all(quantizer)
}

/// What a quantizer does to its value besides rounding it.
enum Clamp {
    Relu,
    Clip(f32, f32),
}

/// The levels that 8 bits have, but for the few that a narrow range leaves out.
const NEARLY_ALL: i64 = 250;

/// The clamp that is lost with a quantizer, if the network needs it.
fn clamp(g: &Graph, quantizer: OpId, x: ValueId, levels: Levels, positive: &ValueTable<()>) -> Option<Clamp> {
    let maker = g.producer(x).map(|(op, _)| g.op(op));
    let class = maker.and_then(|op| squint_ops::row(&op.domain, &op.op_type)).map(|r| r.class);
    let moved = matches!(class, Some(Class::Movement | Class::MaxPool | Class::Join));
    if levels.count() < NEARLY_ALL {
        // What is only moved has been clamped where it was made.
        let (lo, hi) = levels.range();
        let there =
            matches!(g.producer(x), Some((op, _)) if op != quantizer && limits(g, op) == Some((lo, hi)));
        return (!moved && !there).then_some(Clamp::Clip(lo, hi));
    }
    let computes =
        matches!(class, Some(Class::Contraction | Class::Binary | Class::Normalization | Class::Unary));
    (levels.lowest == 0 && computes && !positive.contains(x)).then_some(Clamp::Relu)
}

/// The constant limits of a Clip.
fn limits(g: &Graph, op: OpId) -> Option<(f32, f32)> {
    let limit = |slot| Some(g.konst(g.operand(op, slot)?)?.scalar_value()? as f32);
    if g.op(op).is("Clip") { Some((limit(1)?, limit(2)?)) } else { None }
}

fn clamp_spec(g: &mut Graph, clamp: &Clamp, x: ValueId, label: &str) -> OpSpec {
    match clamp {
        Clamp::Relu => OpSpec::new("Relu").name(label).operands([x]),
        Clamp::Clip(lo, hi) => {
            let name = g.value(x).name().to_owned();
            let lo = g.add_const(&format!("{name}_lowest"), Tensor::scalar_f32(*lo));
            let hi = g.add_const(&format!("{name}_highest"), Tensor::scalar_f32(*hi));
            OpSpec::new("Clip").name(label).operands([x, lo, hi])
        }
    }
}
