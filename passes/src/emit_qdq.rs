//! `emit-qdq`: writes the plan into the graph as QuantizeLinear and DequantizeLinear.
//!
//! - A value made by an integer operator is quantized once, right behind it, and everybody reads the
//!   dequantized form: one float reader of the raw result would keep the operator in float.
//! - A value made in float, or a graph input, is read raw by float operators and quantized for the others.
//! - A graph output keeps its name: it is the dequantized form, and the raw result gets another.
//! - What the model quantizes itself, on the planned grid, is not quantized again.
//! - Where the target wants more input channels than a convolution has, the quantized input is padded with
//!   channels of zeros, and the weight likewise.
//! - HardSigmoid and HardSwish become additions and products (`hard_gates`).
//! - Weights become integers behind a DequantizeLinear, biases 32-bit integers with the exact product of
//!   scales, or stay float where the target wants them so.
//!
//! Names follow what tools around ONNX Runtime expect: `T_scale`, `T_zero_point`, `T_quantized`,
//! `T_QuantizeLinear_Output`, `T_DequantizeLinear_Output`.

mod hard_gates;

use crate::config::Quantized;
use crate::numbers;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::islands;
use crate::plan::{OpPlan, QuantPlan, ValuePlan, WeightPlan, resolve_target};
use crate::weights;
use squint_ir::affine::{QuantParams, quantize};
use squint_ir::{DType, Dim, Graph, Model, OpId, OpSpec, Tensor, Type, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::{Pairs, Target};

/// The pass.
pub(crate) struct EmitQdq;

impl Pass for EmitQdq {
    fn name(&self) -> &'static str {
        "emit-qdq"
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
        let mut emitter = Emitter::new(model.main_mut(), plan, &cx.facts, target, "_");
        let mut dequantized = ValueTable::new();
        for (v, p) in plan.values.iter() {
            let d = if emitter.g.konst(v).is_some() { emitter.constant(v, p)? } else { emitter.pair(v, p) };
            dequantized.insert(v, d);
        }
        for op in order {
            if matches!(plan.ops.get(op), Some(OpPlan::Integer(_))) {
                emitter.operator(op, &dequantized)?;
            }
        }
        let changed = plan.values.iter().next().is_some();
        if changed && cx.config.quantized == Quantized::Float8 {
            numbers::raise(model, cx, DType::Float8e4m3fn)?;
        }
        Ok(changed.into())
    }
}

/// A weight that has been quantized for an operator.
struct Tied {
    axis: Option<usize>,
    levels: ValueId,
    scale: ValueId,
    /// The dequantized form.
    out: ValueId,
}

/// Writes a plan into a graph.
pub(crate) struct Emitter<'a> {
    pub(crate) g: &'a mut Graph,
    plan: &'a QuantPlan,
    facts: &'a ValueTable<Fact>,
    target: &'a dyn Target,
    /// What stands between the name of a value and those of its parameters.
    separator: &'static str,
    /// Weights by the float constant.
    tied: ValueTable<Vec<Tied>>,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(
        g: &'a mut Graph,
        plan: &'a QuantPlan,
        facts: &'a ValueTable<Fact>,
        target: &'a dyn Target,
        separator: &'static str,
    ) -> Emitter<'a> {
        Emitter { g, plan, facts, target, separator, tied: ValueTable::new() }
    }

    /// Quantizes and dequantizes a value, which stays float; returns the dequantized form.
    pub(crate) fn pair(&mut self, v: ValueId, p: &ValuePlan) -> ValueId {
        let same = |g: &Graph, op: OpId| islands::grid(g, op) == Some((p.dtype, p.params));
        if let Some((op, _)) = self.g.producer(v)
            && self.g.op(op).op_type == "DequantizeLinear"
            && same(self.g, op)
        {
            return v;
        }
        let quantizer = self.g.uses(v).into_iter().find(|u| {
            u.slot == 0 && !u.capture && self.g.op(u.op).op_type == "QuantizeLinear" && same(self.g, u.op)
        });
        if let Some(quantizer) = quantizer
            && !self.g.is_output(v)
        {
            return self.behind(v, quantizer.op, p);
        }
        if p.saturates && p.made_by_integer {
            self.drop_clamps(v);
        }
        let name = self.g.value(v).name().to_owned();
        let ty = self.g.ty(v).cloned();
        let anchor = self.g.producer(v).map(|(op, _)| op);
        let (scale, zero) = self.params(&name, p);
        let raw = if p.made_by_integer && self.g.is_output(v) { self.move_result(v, &name) } else { v };
        let quantized_type = ty.as_ref().map(|t| Type::tensor(p.dtype, t.shape().cloned()));
        let mut q = OpSpec::new("QuantizeLinear").name(format!("{name}_QuantizeLinear"));
        let mut d = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear"));
        if let Some(a) = anchor {
            (q, d) = (q.near(a), d.near(a));
        }
        let q = self.g.emit(
            q.operands([raw, scale, zero]),
            &format!("{name}_QuantizeLinear_Output"),
            quantized_type,
        );
        let codes = self.limit(q, &name, p, anchor);
        if raw != v {
            // The graph output itself is the dequantized form.
            self.g.add_op(d.operands([codes, scale, zero]).results([v]));
            return v;
        }
        let out = self.g.add_value(&format!("{name}_DequantizeLinear_Output"), ty);
        if p.made_by_integer {
            let quantizer = self.g.producer(q).map(|(op, _)| op);
            self.g.redirect_uses(v, out, |op| Some(op) != quantizer);
        }
        self.g.add_op(d.operands([codes, scale, zero]).results([out]));
        out
    }

    /// Removes the clamps before a quantizer that does what they do. (The runtime finds that out itself only where the
    /// codes of the whole element type lie within the limits.)
    fn drop_clamps(&mut self, v: ValueId) {
        while let Some((clamp, 0)) = self.g.producer(v)
            && matches!(self.plan.ops.get(clamp), Some(OpPlan::Absorbed(_)))
            && let Some(x) = self.g.operand(clamp, 0)
            && let Some((maker, slot)) = self.g.producer(x)
        {
            self.g.remove_op(clamp);
            self.g.set_result(maker, slot, Some(v));
            self.g.remove_value(x);
        }
    }

    /// Keeps quantized data to the codes that its grid has, if that is fewer than those of its type.
    fn limit(&mut self, q: ValueId, name: &str, p: &ValuePlan, anchor: Option<OpId>) -> ValueId {
        let Some((lo, hi)) = p.codes else { return q };
        let ty = self.g.ty(q).cloned();
        let mut code = |which: &str, code: i32| {
            let t = Tensor::raw(p.dtype, &[], vec![code as u8].into()).ok();
            t.map(|t| self.g.add_const(&format!("{name}_{which}"), t))
        };
        let operands = [Some(q), code("lowest", lo), code("highest", hi)];
        let clip = OpSpec::new("Clip").name(format!("{name}_Clip")).operands(operands);
        let clip = match anchor {
            Some(a) => clip.near(a),
            None => clip,
        };
        self.g.emit(clip, &format!("{name}_Clip_Output"), ty)
    }

    /// Dequantizes what a QuantizeLinear of the model makes of a value on the planned grid, for all its other readers.
    fn behind(&mut self, v: ValueId, quantizer: OpId, p: &ValuePlan) -> ValueId {
        let operands = self.g.operands(quantizer);
        let (Some(q), Some(scale)) = (self.g.result(quantizer, 0), operands.get(1).copied().flatten()) else {
            return v;
        };
        let name = self.g.value(v).name().to_owned();
        let ty = self.g.ty(v).cloned();
        let out = self.g.add_value(&format!("{name}_DequantizeLinear_Output"), ty);
        if p.made_by_integer {
            self.g.redirect_uses(v, out, |op| op != quantizer);
        }
        let d = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear")).near(quantizer);
        let zero = operands.get(2).copied().flatten();
        self.g.add_op(d.operands([Some(q), Some(scale), zero]).results([out]));
        out
    }

    /// Gives the producer of a graph output another value to make. Readers keep reading `v`.
    fn move_result(&mut self, v: ValueId, name: &str) -> ValueId {
        let ty = self.g.ty(v).cloned();
        let raw = self.g.add_value(&format!("{name}_QuantizeLinear_Input"), ty);
        if let Some((op, slot)) = self.g.producer(v) {
            self.g.set_result(op, slot, Some(raw));
        }
        raw
    }

    /// Quantizes a constant activation, for example an operand of an Add.
    fn constant(&mut self, v: ValueId, p: &ValuePlan) -> Result<ValueId, PassError> {
        let name = self.g.value(v).name().to_owned();
        let Some(t) = self.g.konst(v).cloned() else { return Ok(v) };
        let QuantParams { scale, zero_point } = p.params;
        let (lo, hi) = levels(p.dtype)?;
        let codes: Vec<u8> = t.f32s().iter().map(|x| quantize(*x, scale, zero_point, lo, hi) as u8).collect();
        let (scale, zero) = self.params(&name, p);
        let codes = integers(p.dtype, t.dims(), codes)?;
        let q = self.g.add_const(&format!("{name}_quantized"), codes);
        let ty = self.g.ty(v).cloned();
        let spec = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear"));
        Ok(self.g.emit(spec.operands([q, scale, zero]), &format!("{name}_DequantizeLinear_Output"), ty))
    }

    fn params(&mut self, name: &str, p: &ValuePlan) -> (ValueId, ValueId) {
        let separator = self.separator;
        let scale = self.g.add_const(&format!("{name}{separator}scale"), Tensor::scalar_f32(p.params.scale));
        let zero = integers(p.dtype, &[], vec![p.params.zero_point as u8]);
        let zero = zero.unwrap_or_else(|_| Tensor::from_u8(&[], &[p.params.zero_point as u8]));
        (scale, self.g.add_const(&format!("{name}{separator}zero_point"), zero))
    }

    /// Makes an integer operator read dequantized values.
    pub(crate) fn read_dequantized(&mut self, op: OpId, dequantized: &ValueTable<ValueId>) {
        for (slot, v) in (0u32..).zip(self.g.operands(op)) {
            if let Some(d) = v.and_then(|v| dequantized.get(v)) {
                self.g.set_operand(op, slot, Some(*d));
            }
        }
    }

    /// Makes an integer operator read dequantized values and a dequantized weight and bias.
    fn operator(&mut self, op: OpId, dequantized: &ValueTable<ValueId>) -> Result<(), PassError> {
        self.read_dequantized(op, dequantized);
        let Some(w) = self.plan.weights.get(op) else { return self.hard_gate(op) };
        // Weight and input get the same channels: none where too little is known of the input.
        let missing = self.missing_channels(op, w);
        let padded = missing > 0 && self.pad_input(op, missing).is_some();
        let channels = if padded { missing } else { 0 };
        let weight = self.weight(op, w, channels)?;
        self.g.set_operand(op, w.slot, Some(weight));
        if let Some(bias) = weights::bias(self.g, op, w) {
            let bias = self.bias(op, &bias, w);
            self.g.set_operand(op, 2, Some(bias));
        }
        Ok(())
    }

    /// Input channels that the target wants beside those there are.
    fn missing_channels(&self, op: OpId, w: &WeightPlan) -> usize {
        let weight = self.g.operand(op, w.slot).and_then(|v| self.g.konst(v));
        let dims = weight.map_or(&[][..], |t| t.dims());
        let wanted = self.target.input_channels(self.g.op(op), dims);
        wanted.zip(dims.get(1).copied()).map_or(0, |(wanted, there)| wanted.saturating_sub(there))
    }

    /// Appends channels of zeros to the quantized form of what a convolution reads; `None`, and nothing done, if that
    /// is not behind a DequantizeLinear with a zero point.
    fn pad_input(&mut self, op: OpId, channels: usize) -> Option<()> {
        let d = self.g.operand(op, 0)?;
        let (dequantizer, _) = self.g.producer(d)?;
        let [Some(q), Some(scale), Some(zero)] = self.g.operands(dequantizer)[..] else { return None };
        let grow = |t: Option<&Type>| {
            let mut shape = t?.shape()?.clone();
            let there = shape.get(1)?.known()?;
            shape[1] = Dim::Known(there + channels as u64);
            Some(Type::tensor(t?.dtype()?, Some(shape)))
        };
        let (codes_type, ty) = (grow(self.g.ty(q)), grow(self.g.ty(d)));
        // The rank of what a convolution reads is that of its weight, whose type is known.
        let rank = self.g.konst(self.g.operand(op, 1)?)?.rank();
        let mut pads = vec![0; 2 * rank];
        pads[rank + 1] = channels as i64;
        let label = self.g.label(op);
        let pads = self.g.add_const(&format!("{label}_channel_pads"), Tensor::from_i64(&[pads.len()], &pads));
        let pad = OpSpec::new("Pad").name(format!("{label}_PadChannels")).near(op).operands([q, pads, zero]);
        let padded = self.g.emit(pad, &format!("{label}_PadChannels_Output"), codes_type);
        let name = format!("{label}_PadChannels_DequantizeLinear");
        let spec =
            OpSpec::new("DequantizeLinear").name(name.clone()).near(op).operands([padded, scale, zero]);
        let d = self.g.emit(spec, &format!("{name}_Output"), ty);
        self.g.set_operand(op, 0, Some(d));
        Some(())
    }

    /// The dequantized weight, with so many more input channels of zeros.
    fn weight(&mut self, op: OpId, w: &WeightPlan, channels: usize) -> Result<ValueId, PassError> {
        let (v, t) = weights::weight(self.g, op, w)?;
        let t = t.clone();
        // Without channels of zeros, the last input of one position of the window meets the first of the next.
        let convolves = self.g.op(op).is("Conv");
        let pairs = w.pairs.map(|p| Pairs { joined: convolves && channels == 0, ..p });
        let codes =
            WeightPlan { pairs, ..w.clone() }.levels(&t).ok_or_else(|| weights::misfit(self.g, op))?;
        let name = self.g.value(v).name().to_owned();
        let zero = w.params.first().map_or(0, |p| p.zero_point as i8);
        let (dims, codes) = pad_channels(t.dims(), codes, channels, zero);
        let shape = dims.iter().map(|d| (*d).into()).collect();
        let bytes = |codes: &[i8]| codes.iter().map(|q| *q as u8).collect();
        let levels = integers(w.dtype, &dims, bytes(&codes))?;
        let scales: Vec<f32> = w.params.iter().map(|p| p.scale).collect();
        if let Some(tied) = self.tied(v, w, &levels, &scales) {
            return Ok(tied);
        }
        let q = self.g.add_const(&format!("{name}_quantized"), levels);
        let dims: &[usize] = if w.axis.is_some() { &[scales.len()] } else { &[] };
        let scale = self.g.add_const(&format!("{name}_scale"), Tensor::from_f32(dims, &scales));
        let zeros: Vec<i8> = w.params.iter().map(|p| p.zero_point as i8).collect();
        let zeros = integers(w.dtype, dims, bytes(&zeros))?;
        let zero = self.g.add_const(&format!("{name}_zero_point"), zeros);
        let mut spec = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear")).near(op);
        if let Some(a) = w.axis {
            spec = spec.attr("axis", a as i64);
        }
        let ty = Some(Type::tensor(DType::Float, Some(shape)));
        let out =
            self.g.emit(spec.operands([q, scale, zero]), &format!("{name}_DequantizeLinear_Output"), ty);
        let tied = Tied { axis: w.axis, levels: q, scale, out };
        match self.tied.get_mut(v) {
            Some(all) => all.push(tied),
            None => drop(self.tied.insert(v, vec![tied])),
        }
        Ok(out)
    }

    /// The dequantized form of a weight that another operator has already, on the same grid.
    fn tied(&self, v: ValueId, w: &WeightPlan, levels: &Tensor, scales: &[f32]) -> Option<ValueId> {
        let is = |v: ValueId, t: &Tensor| self.g.konst(v).is_some_and(|k| **k == *t);
        let dims: &[usize] = if w.axis.is_some() { &[scales.len()] } else { &[] };
        let scale = Tensor::from_f32(dims, scales);
        let same = |t: &&Tied| t.axis == w.axis && is(t.levels, levels) && is(t.scale, &scale);
        self.tied.get(v)?.iter().find(same).map(|t| t.out)
    }

    fn bias(&mut self, op: OpId, bias: &[f32], w: &WeightPlan) -> ValueId {
        let name = match self.g.operand(op, 2) {
            Some(b) => self.g.value(b).name().to_owned(),
            None => format!("{}_bias", self.g.label(op)),
        };
        if w.bias_scales.is_empty() {
            let dims = &[bias.len()];
            return self.g.add_const(&format!("{name}_corrected"), Tensor::from_f32(dims, bias));
        }
        let (scales, codes) = (&w.bias_scales, weights::bias_codes(bias, w));
        // One number per output channel, whatever shape the float bias had.
        let q = self.g.add_const(&format!("{name}_quantized"), Tensor::from_i32(&[codes.len()], &codes));
        let dims: &[usize] = if w.axis.is_some() { &[scales.len()] } else { &[] };
        let scale = self.g.add_const(&format!("{name}_scale"), Tensor::from_f32(dims, scales));
        let mut spec = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear"));
        if w.axis.is_some() {
            spec = spec.attr("axis", 0);
        }
        let ty = Type::tensor(DType::Float, Some(vec![codes.len().into()]));
        self.g.emit(spec.operands([q, scale]), &format!("{name}_DequantizeLinear_Output"), Some(ty))
    }
}

/// Appends zeros along axis 1 of a weight: more input channels for each output channel.
fn pad_channels(dims: &[usize], codes: Vec<i8>, channels: usize, zero: i8) -> (Vec<usize>, Vec<i8>) {
    let [_, there, window @ ..] = dims else { return (dims.to_vec(), codes) };
    let window: usize = window.iter().product();
    if channels == 0 || there * window == 0 {
        return (dims.to_vec(), codes);
    }
    let mut padded = Vec::new();
    for output in codes.chunks_exact(there * window) {
        padded.extend_from_slice(output);
        padded.resize(padded.len() + channels * window, zero);
    }
    let mut dims = dims.to_vec();
    dims[1] += channels;
    (dims, padded)
}

fn levels(dtype: DType) -> Result<(i32, i32), PassError> {
    match dtype {
        DType::Uint8 => Ok((0, 255)),
        DType::Int8 => Ok((-128, 127)),
        d => Err(PassError::Config(format!("{d} activations cannot be written"))),
    }
}

fn integers(dtype: DType, dims: &[usize], codes: Vec<u8>) -> Result<Tensor, PassError> {
    let t = Tensor::raw(dtype, dims, codes.into());
    t.map_err(|e| PassError::Config(format!("quantized constant: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_a_weight_adds_channels_behind_those_of_each_output() {
        let (dims, codes) = pad_channels(&[2, 1, 2], vec![1, 2, 3, 4], 1, 0);
        assert_eq!(dims, [2, 2, 2]);
        assert_eq!(codes, [1, 2, 0, 0, 3, 4, 0, 0]);
        assert_eq!(pad_channels(&[1, 2], vec![5, 6], 0, 0), (vec![1, 2], vec![5, 6]));
    }
}
