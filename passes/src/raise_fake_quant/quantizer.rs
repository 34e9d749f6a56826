//! What any spelling of a quantizer says, and how it is written in operators of ONNX.

use crate::pass::PassCx;
use squint_ir::{DType, Model, OpId, OpSpec, Tensor, Type, ValueId};
use squint_ops::EvalCx;
use std::sync::Arc;

/// A quantizer: numbers `k · scale`, with whole `k` in a range.
pub(super) struct Quantizer {
    /// What it quantizes.
    pub(super) x: ValueId,
    /// Scales, of a shape that is broadcast to `x`.
    pub(super) scale: Arc<Tensor>,
    /// The level that stands for zero, one for all.
    pub(super) zero_point: i64,
    /// Levels from here.
    pub(super) lowest: i64,
    /// To here.
    pub(super) highest: i64,
    /// How it rounds.
    pub(super) rounding: Rounding,
}

/// Which of the two nearest levels is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rounding {
    /// The nearest one, the even one of two.
    Nearest,
    /// By another function of the quotient.
    Other(fn(f64) -> f64),
}

/// Why a quantizer cannot be said.
pub(super) enum Unsaid {
    /// The value does as well without: it stays in float.
    LeftOut(String),
    /// Nothing can be done.
    Refused(String),
}

impl Quantizer {
    /// Writes the quantizer: `y` is made by DequantizeLinear instead of by `op`.
    pub(super) fn write(
        &self,
        model: &mut Model,
        cx: &PassCx<'_>,
        op: OpId,
        y: ValueId,
    ) -> Result<(), Unsaid> {
        let konst = model.main().konst(self.x).filter(|_| !model.main().is_input(self.x)).cloned();
        if konst.is_none() && matches!(self.rounding, Rounding::Other(_)) {
            return Err(Unsaid::LeftOut("it rounds in another way than QuantizeLinear".into()));
        }
        let count = self.highest.checked_sub(self.lowest).and_then(|n| n.checked_add(1));
        let (dtype, shift) = match count {
            Some(n) if (2..=256).contains(&n) => self.dtype(),
            Some(n) if n < 2 => return Err(Unsaid::LeftOut("it has no two levels".into())),
            _ => return Err(Unsaid::LeftOut("it has more levels than 8 bits".into())),
        };
        let (lowest, highest) = (self.lowest + shift, self.highest + shift);
        let zero_point = self.zero_point + shift;
        let full = dtype.int_range().unwrap_or_default();
        if zero_point < full.0 || zero_point > full.1 {
            return Err(Unsaid::LeftOut("zero is no level of it".into()));
        }
        let rank = cx.rank(model, self.x).or_else(|| konst.as_ref().map(|t| t.rank()));
        let axis = axis(&self.scale, rank)?;
        let n = self.scale.len();
        if let (Some(t), Some(a)) = (&konst, axis)
            && t.dims().get(a) != Some(&n)
        {
            return Err(Unsaid::LeftOut("its scales do not fit what it quantizes".into()));
        }
        let dims: &[usize] = if axis.is_some() { &[n] } else { &[] };
        let scales = self.scale.to_f32s();
        let name = model.main().value(y).name().to_owned();
        let origin = format!("raise-fake-quant({})", model.main().label(op));
        let g = model.main_mut();
        let scale = g.add_const(&format!("{name}_scale"), Tensor::from_f32(dims, &scales));
        let zeros: Vec<u8> = vec![zero_point as u8; n];
        let Ok(zero) = Tensor::raw(dtype, dims, zeros.into()) else {
            return Err(Unsaid::Refused("its zero points have no tensor".into()));
        };
        let zero = g.add_const(&format!("{name}_zero_point"), zero);
        let levels_type =
            |g: &squint_ir::Graph| Some(Type::tensor(dtype, g.ty(y).and_then(Type::shape).cloned()));
        let with_axis = |spec: OpSpec| match axis {
            Some(axis) => spec.attr("axis", axis as i64),
            None => spec,
        };
        let quantized = match konst {
            Some(t) => {
                let inner: usize = axis.map_or(t.len().max(1), |a| t.dims()[a + 1..].iter().product());
                let data = t.f32s();
                let codes = data.iter().enumerate().map(|(i, x)| {
                    let s = scales[if axis.is_some() { i / inner.max(1) % n } else { 0 }];
                    let k = self.rounded(*x, s) + zero_point as f64;
                    k.clamp(lowest as f64, highest as f64) as i64 as u8
                });
                let codes: Vec<u8> = codes.collect();
                let Ok(codes) = Tensor::raw(dtype, t.dims(), codes.into()) else {
                    return Err(Unsaid::Refused("its integers have no tensor".into()));
                };
                g.add_const(&format!("{name}_quantized"), codes)
            }
            None => {
                let q = OpSpec::new("QuantizeLinear").name(format!("{name}_QuantizeLinear")).near(op);
                let q = with_axis(q).origin(origin.clone()).operands([self.x, scale, zero]);
                let ty = levels_type(g);
                let q = g.emit(q, &format!("{name}_QuantizeLinear_Output"), ty);
                if (lowest, highest) == full {
                    q
                } else {
                    let mut limit = |which: &str, level: i64| {
                        let t = Tensor::raw(dtype, &[], vec![level as u8].into());
                        t.map(|t| g.add_const(&format!("{name}_{which}"), t))
                    };
                    let (Ok(lo), Ok(hi)) = (limit("lowest", lowest), limit("highest", highest)) else {
                        return Err(Unsaid::Refused("its limits have no tensor".into()));
                    };
                    let clip = OpSpec::new("Clip").name(format!("{name}_Clip")).near(op);
                    let ty = levels_type(g);
                    g.emit(clip.operands([q, lo, hi]), &format!("{name}_Clip_Output"), ty)
                }
            }
        };
        let d = OpSpec::new("DequantizeLinear").name(format!("{name}_DequantizeLinear")).near(op);
        let d = g.add_op(with_axis(d).origin(origin).operands([quantized, scale, zero]));
        g.set_result(d, 0, Some(y));
        g.remove_op(op);
        Ok(())
    }

    /// An 8-bit type that has all levels, and what is added to them to be in it.
    fn dtype(&self) -> (DType, i64) {
        if self.lowest >= 0 && self.highest <= 255 {
            (DType::Uint8, 0)
        } else if self.lowest >= -128 && self.highest <= 127 {
            (DType::Int8, 0)
        } else {
            (DType::Uint8, -self.lowest)
        }
    }

    /// The level of a number, counted from zero, before it saturates.
    fn rounded(&self, x: f32, scale: f32) -> f64 {
        let k = x / scale;
        match self.rounding {
            Rounding::Nearest => f64::from(k.round_ties_even()),
            Rounding::Other(round) => round(f64::from(k)),
        }
    }
}

/// The axis of scales that are broadcast to a value of a rank, `None` for one scale.
fn axis(scale: &Tensor, rank: Option<usize>) -> Result<Option<usize>, Unsaid> {
    if scale.len() == 1 {
        return Ok(None);
    }
    let long: Vec<usize> = (0..scale.rank()).filter(|i| scale.dims()[*i] != 1).collect();
    let (&[at], Some(rank)) = (long.as_slice(), rank) else {
        return Err(Unsaid::LeftOut("its scales are not along one axis".into()));
    };
    match rank.checked_sub(scale.rank()) {
        Some(before) => Ok(Some(before + at)),
        None => Err(Unsaid::LeftOut("its scales have more axes than what it quantizes".into())),
    }
}

/// Elements of the constants that parameters are computed from.
const SMALL: usize = 1 << 16;

/// A parameter of a quantizer: a constant, or what a few operators make of constants.
pub(super) fn parameter(model: &Model, v: ValueId) -> Option<Arc<Tensor>> {
    computed(model, v, 8)
}

fn computed(model: &Model, v: ValueId, depth: usize) -> Option<Arc<Tensor>> {
    let g = model.main();
    if let Some(t) = g.konst(v) {
        return (!g.is_input(v) && t.len() <= SMALL).then(|| t.clone());
    }
    let (op, slot) = g.producer(v)?;
    let node = g.op(op);
    let eval = squint_ops::row(&node.domain, &node.op_type)?.eval?;
    if depth == 0 || slot != 0 {
        return None;
    }
    let inputs: Vec<Option<Arc<Tensor>>> = g
        .operands(op)
        .into_iter()
        .map(|v| v.map_or(Some(None), |v| computed(model, v, depth - 1).map(Some)))
        .collect::<Option<_>>()?;
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_deref).collect();
    let opset = model.opset(&node.domain).unwrap_or(1);
    let mut results = eval(&EvalCx { op: node, opset, inputs: &inputs, n_results: 1 }).ok()?;
    let t = results.drain(..).next()?;
    (t.len() <= SMALL).then(|| Arc::new(t))
}

/// Lets the value be what it was before a quantizer that is left out.
pub(super) fn leave_out(model: &mut Model, op: OpId, x: ValueId, y: ValueId) {
    let g = model.main_mut();
    if g.is_output(y) {
        let spec = OpSpec::new("Identity").name(g.label(op)).near(op).operands([x]);
        let id = g.add_op(spec);
        g.set_result(id, 0, Some(y));
        g.remove_op(op);
    } else {
        g.replace_uses(y, x);
        g.remove_op_and_results(op);
    }
}
