//! `compute-in-half`: what is not quantized is computed in a type of 16 bits, if that is asked for.
//!
//! ```text
//! m (float[N,3] x) => (float[N,3] y)  { a = Relu (x)   b = Exp (a)   y = Mul (a, b) }
//!
//! m (float[N,3] x) => (float[N,3] y)
//! { h = Cast <to = 10> (x)   a = Relu (h)   c = Cast <to = 1> (a)   b = Exp (c)   d = Cast <to = 10> (b)
//!   e = Mul (a, d)   y = Cast <to = 1> (e) }
//! ```
//!
//! Runtimes that are strongly typed compute in the types that the graph says; Casts stand where a type ends. Inputs and
//! outputs keep their types unless `compute_io` says otherwise. Constants are rounded; where one is too large for the
//! type it becomes the largest number. Scales of quantizers were planned so that the type holds them exactly
//! (`Constraints::scale_type`), and have the type of the data beside them, which strong typing asks for; a QuantizeLinear
//! that reads float32, such as an input, keeps a scale in float32.
//!
//! Operators that `stays` lists stay in float32, each for a reason, and a note counts them. An If, Loop or Scan reads and
//! makes float32; inside its bodies the type is that of 16 bits again, between Casts at what a body is given, captures and
//! results in. Magnitudes in there are not observed.

mod stays;

use crate::eliminate_dead_code::EliminateDeadCode;
use crate::infer_types::InferTypes;
use crate::names::uncover_names;
use crate::numbers;
use crate::optimize_bodies::for_each_body;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, OpTable, Shape, Type, ValueId, ValueTable, narrow};
use std::collections::BTreeMap;

/// The pass.
pub(crate) struct ComputeInHalf;

impl Pass for ComputeInHalf {
    fn name(&self) -> &'static str {
        "compute-in-half"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let Some(dtype) = cx.config.compute else { return Ok(Changed::No) };
        numbers::raise(model, cx, dtype)?;
        InferTypes.run(model, cx)?;
        let mut clamped = bodies(model, cx, dtype)?;
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let stays = stays::stays(model, cx, dtype, &order);
        tell(model.main(), cx, dtype, &stays);
        clamped += narrow(model, cx, dtype, &order, &stays, cx.config.compute_io);
        if clamped > 0 {
            cx.notes.add(
                "",
                format!("constants with elements beyond {dtype}, which become its largest number: {clamped}"),
            );
        }
        InferTypes.run(model, cx)?;
        Ok(Changed::Yes)
    }
}

/// Computes bodies in the type, between values in float32: what they are given, capture and result in. Returns how many
/// constants were clamped.
fn bodies(model: &mut Model, cx: &mut PassCx<'_>, dtype: DType) -> Result<usize, PassError> {
    let main = model.main_id();
    let mut clamped = 0;
    // Calibration knows the main graph, by ids that mean something else in a body.
    let statistics = std::mem::take(&mut cx.statistics);
    let changed = for_each_body(model, cx, main, &mut |model, cx| {
        InferTypes.run(model, cx)?;
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let stays = stays::stays(model, cx, dtype, &order);
        clamped += narrow(model, cx, dtype, &order, &stays, false);
        EliminateDeadCode.run(model, cx)?;
        Ok(true)
    });
    cx.statistics = statistics;
    if changed? {
        uncover_names(model);
        InferTypes.run(model, cx)?;
    }
    Ok(clamped)
}

/// Gives the operators of the main graph that do not stay the type. Returns how many constants were clamped.
fn narrow(
    model: &mut Model,
    cx: &PassCx<'_>,
    dtype: DType,
    order: &[OpId],
    stays: &OpTable<&'static str>,
    with_ends: bool,
) -> usize {
    let floats = of_types(model, cx, &[DType::Float]);
    let given = of_types(model, cx, &[DType::Float16, DType::Bfloat16]);
    let mut narrowing = Narrowing {
        g: model.main_mut(),
        dtype,
        floats,
        given,
        half: ValueTable::new(),
        constants: ValueTable::new(),
        casts: ValueTable::new(),
        clamped: 0,
    };
    if with_ends {
        narrowing.inputs();
    }
    for op in order {
        narrowing.op(*op, stays.contains(*op));
    }
    narrowing.outputs(with_ends);
    narrowing.clamped
}

/// Says what stays in float32.
fn tell(g: &Graph, cx: &mut PassCx<'_>, dtype: DType, stays: &OpTable<&'static str>) {
    let mut by_reason: BTreeMap<&str, Vec<OpId>> = BTreeMap::new();
    for (op, why) in stays.iter() {
        by_reason.entry(why).or_default().push(op);
    }
    for (why, ops) in by_reason {
        let (n, first) = (ops.len(), g.label(ops[0]));
        let others = if n > 1 { format!(" and {} others", n - 1) } else { String::new() };
        cx.notes.add("", format!("not in {dtype}: `{first}`{others}: {why}"));
    }
}

/// The values of some types.
fn of_types(model: &Model, cx: &PassCx<'_>, types: &[DType]) -> ValueTable<()> {
    let mut found = ValueTable::new();
    for v in model.main().values() {
        if cx.fact(model, v).dtype.is_some_and(|d| types.contains(&d)) {
            found.insert(v, ());
        }
    }
    found
}

/// Operands that are float32 whatever the type of the data is: factors and coordinates.
fn is_wide(g: &Graph, op: OpId, slot: u32) -> bool {
    matches!((g.op(op).op_type.as_str(), slot), ("Resize", 2) | ("Upsample" | "GridSample", 1))
}

struct Narrowing<'g> {
    g: &'g mut Graph,
    dtype: DType,
    /// Values that were float32 at first.
    floats: ValueTable<()>,
    /// Values that had 16 bits at first: the model's own choice.
    given: ValueTable<()>,
    /// Those of them that have the narrow type now.
    half: ValueTable<()>,
    /// Constants in the narrow type.
    constants: ValueTable<ValueId>,
    /// Values behind a Cast to the other type.
    casts: ValueTable<ValueId>,
    /// Constants with elements that the type does not hold.
    clamped: usize,
}

impl Narrowing<'_> {
    /// Inputs in the narrow type.
    fn inputs(&mut self) {
        for v in self.g.inputs.clone() {
            let captured = self.g.uses(v).iter().any(|u| u.capture);
            if self.floats.contains(v) && self.g.konst(v).is_none() && !captured {
                self.narrow(v);
            }
        }
    }

    fn narrow(&mut self, v: ValueId) {
        let shape = self.shape(v);
        self.g.set_type(v, Some(Type::tensor(self.dtype, shape)));
        self.half.insert(v, ());
    }

    fn shape(&self, v: ValueId) -> Option<Shape> {
        self.g.ty(v).and_then(|t| t.shape().cloned())
    }

    /// Gives an operator operands of its type, and that type to its results.
    fn op(&mut self, op: OpId, stays: bool) {
        let mut wide = stays;
        if self.g.op(op).is("Cast") {
            return self.model_cast(op, wide);
        }
        match self.g.op(op).op_type.as_str() {
            // Data is quantized in the type that it has.
            "QuantizeLinear" => {
                wide |= self.g.operand(op, 0).is_some_and(|v| self.is_wide_value(v)) || !self.holds_scale(op)
            }
            "DequantizeLinear" => wide |= !self.holds_scale(op),
            _ => {}
        }
        for (slot, v) in (0u32..).zip(self.g.operands(op)) {
            let Some(v) = v.filter(|v| self.floats.contains(*v)) else { continue };
            let wanted = !(wide || is_wide(self.g, op, slot));
            let read = match (self.g.konst(v).is_some() && !self.g.is_input(v), wanted) {
                (true, true) => self.constant(v),
                (true, false) => v,
                (false, _) if wanted == self.half.contains(v) => v,
                (false, _) => self.cast(v, op),
            };
            if read != v {
                self.g.set_operand(op, slot, Some(read));
            }
        }
        if wide {
            return;
        }
        for v in self.g.results(op).into_iter().flatten() {
            if self.floats.contains(v) {
                self.narrow(v);
            }
        }
    }

    /// A Cast of the model reads what there is; what it makes of integers has the narrow type.
    fn model_cast(&mut self, op: OpId, stays: bool) {
        let to_float = self.g.op(op).int("to") == Some(i64::from(DType::Float.code()));
        let from_half = self.g.operand(op, 0).is_some_and(|v| self.given.contains(v));
        if stays || from_half || !to_float {
            return;
        }
        self.g.op_mut(op).set_attr("to", i64::from(self.dtype.code()));
        for v in self.g.results(op).into_iter().flatten() {
            self.narrow(v);
        }
    }

    /// True for a value that is computed in float32.
    fn is_wide_value(&self, v: ValueId) -> bool {
        self.floats.contains(v) && !self.half.contains(v)
    }

    /// True if the type holds the scale of a quantizer exactly.
    fn holds_scale(&self, op: OpId) -> bool {
        let scale = self.g.operand(op, 1).and_then(|v| self.g.konst(v));
        scale.is_some_and(|t| narrow::half(t, self.dtype).is_some_and(|h| h.to_f64s() == t.to_f64s()))
    }

    fn constant(&mut self, v: ValueId) -> ValueId {
        if let Some(c) = self.constants.get(v) {
            return *c;
        }
        let Some(t) = self.g.konst(v).cloned() else { return v };
        let Some(h) = narrow::half(&t, self.dtype) else { return v };
        let most = narrow::largest(self.dtype).unwrap_or(f32::MAX);
        self.clamped += usize::from(t.f32s().iter().any(|x| x.is_finite() && x.abs() > most));
        let name = format!("{}_{}", self.g.value(v).name(), self.dtype);
        let c = self.g.add_const(&name, h);
        self.constants.insert(v, c);
        c
    }

    /// The value in the other type, for all who read it there.
    fn cast(&mut self, v: ValueId, reader: OpId) -> ValueId {
        if let Some(c) = self.casts.get(v) {
            return *c;
        }
        let to = if self.half.contains(v) { DType::Float } else { self.dtype };
        let name = format!("{}_{to}", self.g.value(v).name());
        let ty = Type::tensor(to, self.shape(v));
        let near = self.g.producer(v).map_or(reader, |(op, _)| op);
        let c = self.g.emit(cast(to, &name).near(near).operands([v]), &name, Some(ty));
        self.casts.insert(v, c);
        c
    }

    /// Gives outputs the type that they are to have.
    fn outputs(&mut self, narrow: bool) {
        let mut done: ValueTable<()> = ValueTable::new();
        for v in self.g.outputs.clone() {
            let computed = self.floats.contains(v) && self.g.konst(v).is_none() && !self.g.is_input(v);
            if !computed || self.half.contains(v) == narrow || done.insert(v, ()).is_some() {
                continue;
            }
            let Some((op, slot)) = self.g.producer(v) else { continue };
            if narrow && self.g.uses(v).iter().any(|u| u.capture) {
                continue;
            }
            let (from, to) = if narrow { (DType::Float, self.dtype) } else { (self.dtype, DType::Float) };
            let name = self.g.value(v).name().to_owned();
            let raw = self.g.add_value(&format!("{name}_{from}"), Some(Type::tensor(from, self.shape(v))));
            self.g.redirect_uses(v, raw, |_| true);
            self.g.set_result(op, slot, Some(raw));
            let shape = self.shape(v);
            self.g.set_type(v, Some(Type::tensor(to, shape)));
            self.g.add_op(cast(to, &name).near(op).operands([raw]).results([v]));
        }
    }
}

fn cast(to: DType, name: &str) -> OpSpec {
    OpSpec::new("Cast").name(format!("{name}_Cast")).attr("to", i64::from(to.code()))
}
