//! `emit-fake-quant`: writes the plan as quantizers around values that stay float, for a framework that trains them.
//!
//! - Activations are quantized and dequantized where [`emit-qdq`](crate::emit_qdq) would do it.
//! - A weight stays float, and is followed by QuantizeLinear and DequantizeLinear; where not all levels of an 8-bit
//!   integer are used, there is a Clip between the two. Biases stay float: their grid follows from the scales.
//! - Values whose parameters are always equal share the initializers.
//!
//! `T.scale` and `T.zero_point` are the parameters of the value `T`. All of them are listed, as JSON, in the metadata
//! under [`QUANTIZERS`].

use crate::emit_qdq::Emitter;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{OpPlan, QuantPlan, Tie, WeightPlan, resolve_target};
use crate::recipe::quoted;
use crate::weights;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, Type, ValueId, ValueTable};

/// The key of the metadata that lists the quantizers.
pub(crate) const QUANTIZERS: &str = "squint.quantizers";

/// The pass.
pub(crate) struct EmitFakeQuant;

impl Pass for EmitFakeQuant {
    fn name(&self) -> &'static str {
        "emit-fake-quant"
    }

    fn needs(&self) -> Phase {
        Phase::Planned
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Quantized)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let plan = &cx.plan;
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let target = resolve_target(&cx.config.target)?;
        let mut emitter = Emitter::new(model.main_mut(), plan, &cx.facts, target, ".");
        let mut dequantized = ValueTable::new();
        for (v, p) in plan.values.iter() {
            dequantized.insert(v, emitter.pair(v, p));
        }
        let mut records = Vec::new();
        for (v, p) in plan.values.iter() {
            let Some(end) = dequantized.get(v).copied() else { continue };
            let root = root(plan, v);
            if let Some(from) = dequantized.get(root).filter(|_| root != v) {
                share(emitter.g, *from, end);
            }
            let unsigned = p.dtype == DType::Uint8;
            records.extend(Record::of(emitter.g, v, end).map(|record| Record {
                kind: "activation",
                levels: if unsigned { (0, 255) } else { (-128, 127) },
                trainable: plan.values.get(root).is_none_or(|p| p.tie != Tie::Fixed),
                ..record
            }));
        }
        let mut weights = ValueTable::new();
        for op in order {
            if !matches!(plan.ops.get(op), Some(OpPlan::Integer(_))) {
                continue;
            }
            emitter.read_dequantized(op, &dequantized);
            if let Some(w) = plan.weights.get(op) {
                weight(emitter.g, op, w, &mut weights, &mut records)?;
            }
        }
        let list: Vec<String> = records.iter().map(Record::json).collect();
        model.set_metadata(QUANTIZERS, &format!("[{}]", list.join(",\n ")));
        Ok((!records.is_empty()).into())
    }
}

/// The value whose parameters are those of `v`.
fn root(plan: &QuantPlan, v: ValueId) -> ValueId {
    let mut at = v;
    // A chain of ties is no longer than there are values.
    for _ in 0..plan.values.iter().count() {
        match plan.values.get(at).map(|p| p.tie) {
            Some(Tie::As(up)) if plan.values.contains(up) => at = up,
            _ => break,
        }
    }
    at
}

/// Gives the pair that ends in `to` the parameters of the pair that ends in `from`.
fn share(g: &mut Graph, from: ValueId, to: ValueId) {
    let (Some((source, _)), Some((dequantizer, _))) = (g.producer(from), g.producer(to)) else { return };
    let quantizer = g.operand(dequantizer, 0).and_then(|q| g.producer(q)).map(|(op, _)| op);
    for slot in [1, 2] {
        let parameter = g.operand(source, slot);
        for op in [Some(dequantizer), quantizer].into_iter().flatten() {
            g.set_operand(op, slot, parameter);
        }
    }
}

/// Puts quantizers behind the float weight of an operator: those it has already where they are the same.
fn weight(
    g: &mut Graph,
    op: OpId,
    w: &WeightPlan,
    done: &mut ValueTable<Vec<(Option<usize>, i8, ValueId)>>,
    records: &mut Vec<Record>,
) -> Result<(), PassError> {
    let (v, t) = weights::weight(g, op, w)?;
    let known =
        done.get(v).and_then(|all| all.iter().find(|(axis, qmax, _)| (*axis, *qmax) == (w.axis, w.qmax)));
    if let Some((_, _, end)) = known {
        g.set_operand(op, w.slot, Some(*end));
        return Ok(());
    }
    let layout = w.layout(t).filter(|l| l.channels == w.params.len());
    layout.ok_or_else(|| weights::misfit(g, op))?;
    let shape = t.dims().iter().map(|d| (*d).into()).collect();
    let ty = |dtype| Some(Type::tensor(dtype, Some(shape)));
    let name = g.value(v).name().to_owned();
    let scales: Vec<f32> = w.params.iter().map(|p| p.scale).collect();
    let dims: &[usize] = if w.axis.is_some() { &[scales.len()] } else { &[] };
    let scale = g.add_const(&format!("{name}.scale"), Tensor::from_f32(dims, &scales));
    let zero = g.add_const(&format!("{name}.zero_point"), Tensor::from_i8(dims, &vec![0; scales.len()]));
    let spec = |op_type: &str| {
        let spec = OpSpec::new(op_type).name(format!("{name}_{op_type}")).near(op);
        w.axis.filter(|_| op_type != "Clip").map_or(spec.clone(), |a| spec.attr("axis", a as i64))
    };
    let out = |op_type: &str| format!("{name}_{op_type}_Output");
    let integer: Option<Type> = ty.clone()(DType::Int8);
    let mut q =
        g.emit(spec("QuantizeLinear").operands([v, scale, zero]), &out("QuantizeLinear"), integer.clone());
    let levels = if w.qmax == i8::MAX {
        (i32::from(i8::MIN), i32::from(i8::MAX))
    } else {
        (-i32::from(w.qmax), i32::from(w.qmax))
    };
    if w.qmax != i8::MAX {
        let lo = g.add_const(&format!("{name}.qmin"), Tensor::from_i8(&[], &[-w.qmax]));
        let hi = g.add_const(&format!("{name}.qmax"), Tensor::from_i8(&[], &[w.qmax]));
        q = g.emit(spec("Clip").operands([q, lo, hi]), &out("Clip"), integer);
    }
    let end = g.emit(
        spec("DequantizeLinear").operands([q, scale, zero]),
        &out("DequantizeLinear"),
        ty(DType::Float),
    );
    g.set_operand(op, w.slot, Some(end));
    let entry = (w.axis, w.qmax, end);
    match done.get_mut(v) {
        Some(all) => all.push(entry),
        None => drop(done.insert(v, vec![entry])),
    }
    records.extend(Record::of(g, v, end).map(|record| Record {
        kind: "weight",
        axis: w.axis,
        levels,
        ..record
    }));
    Ok(())
}

/// What is said of a quantizer.
struct Record {
    value: String,
    kind: &'static str,
    scale: String,
    zero_point: String,
    axis: Option<usize>,
    levels: (i32, i32),
    trainable: bool,
}

impl Record {
    /// A quantizer of `v` whose DequantizeLinear makes `end`; `None` if it has no parameters of its own.
    fn of(g: &Graph, v: ValueId, end: ValueId) -> Option<Record> {
        let (dequantizer, _) = g.producer(end)?;
        let name = |v: ValueId| g.value(v).name().to_owned();
        let parameter = |slot| g.operand(dequantizer, slot).map(name);
        Some(Record {
            value: name(v),
            kind: "",
            scale: parameter(1)?,
            zero_point: parameter(2)?,
            axis: None,
            levels: (0, 0),
            trainable: true,
        })
    }

    fn json(&self) -> String {
        let (lo, hi) = self.levels;
        let bits = (hi - lo).ilog2() + 1;
        let axis = self.axis.map_or("null".to_owned(), |a| a.to_string());
        format!(
            "{{\"value\": {}, \"kind\": \"{}\", \"scale\": {}, \"zero_point\": {}, \"axis\": {axis}, \"bits\": {bits}, \
             \"signed\": {}, \"narrow\": {}, \"levels\": [{lo}, {hi}], \"trainable\": {}}}",
            quoted(&self.value),
            self.kind,
            quoted(&self.scale),
            quoted(&self.zero_point),
            lo < 0,
            lo == -hi,
            self.trainable,
        )
    }
}
