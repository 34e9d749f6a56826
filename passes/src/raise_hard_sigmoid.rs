//! `raise-hard-sigmoid`: an addition that stands for a HardSigmoid on integers becomes one.
//!
//! ```text
//! q = QuantizeLinear (x, s, z)   l = DequantizeLinear (q, alpha·s, z)   a = Add (l, beta)   g = QuantizeLinear (a, 1/255, 0)
//!
//! q = QuantizeLinear (x, s, z)   l = DequantizeLinear (q, s, z)   a = HardSigmoid <alpha, beta> (l)   g = …
//! ```
//!
//! `emit-qdq` writes the first form. In the second, integers are read with the scale that they were made with, as all that
//! takes grids out of quantized models expects.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::islands;
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, ValueId};

/// The pass.
pub(crate) struct RaiseHardSigmoid;

impl Pass for RaiseHardSigmoid {
    fn name(&self) -> &'static str {
        "raise-hard-sigmoid"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            let g = model.main_mut();
            if let Some(found) = HardSigmoid::of(g, op) {
                found.rewrite(g);
                changed = true;
            }
        }
        Ok(changed.into())
    }
}

struct HardSigmoid {
    add: OpId,
    /// Reads the integers with the scale of the line.
    line: OpId,
    /// Makes them.
    quantizer: OpId,
    alpha: f32,
    beta: f32,
}

impl HardSigmoid {
    fn of(g: &Graph, add: OpId) -> Option<HardSigmoid> {
        if !g.op(add).is("Add") || !ends_at_one(g, g.only_use(g.result(add, 0)?)?.op) {
            return None;
        }
        let (a, b) = (g.operand(add, 0)?, g.operand(add, 1)?);
        let (line, beta) = shift(g, b).map(|k| (a, k)).or_else(|| shift(g, a).map(|k| (b, k)))?;
        let (line, _) = g.producer(line)?;
        let (dtype, scaled) = islands::grid(g, line).filter(|_| g.op(line).op_type == "DequantizeLinear")?;
        let (quantizer, _) = g.producer(g.operand(line, 0)?)?;
        let (of, params) = islands::grid(g, quantizer)?;
        let alpha = slope(params.scale, scaled.scale)?;
        let same = (of, params.zero_point) == (dtype, scaled.zero_point);
        same.then_some(HardSigmoid { add, line, quantizer, alpha, beta })
    }

    fn rewrite(self, g: &mut Graph) {
        let operands = g.operands(self.quantizer);
        let (codes, ty) = (g.operand(self.line, 0), g.operand(self.add, 0).and_then(|v| g.ty(v)).cloned());
        let (scale, zero) = (operands.get(1).copied().flatten(), operands.get(2).copied().flatten());
        let label = g.label(self.add);
        let spec = OpSpec::from_op(g.op(self.line).clone()).near(self.line).operands([codes, scale, zero]);
        let x = g.emit(spec, &format!("{label}_of"), ty);
        let spec = OpSpec::new("HardSigmoid")
            .name(g.op(self.add).name.clone())
            .attr("alpha", self.alpha)
            .attr("beta", self.beta)
            .operands([x])
            .near(self.add)
            .origin(format!("raise-hard-sigmoid({label})"));
        let Some(y) = g.result(self.add, 0) else { return };
        g.set_result(self.add, 0, None);
        let op = g.add_op(spec);
        g.set_result(op, 0, Some(y));
        g.remove_op_and_results(self.add);
        if g.result(self.line, 0).is_some_and(|l| g.uses(l).is_empty() && !g.is_output(l)) {
            g.remove_op_and_results(self.line);
        }
    }
}

/// True for a QuantizeLinear whose levels are those of `[0, 1]`.
fn ends_at_one(g: &Graph, op: OpId) -> bool {
    let Some((dtype, params)) = islands::grid(g, op).filter(|_| g.op(op).op_type == "QuantizeLinear") else {
        return false;
    };
    let Some((lo, hi)) = dtype.int_range() else { return false };
    let end = f64::from(params.scale) * (hi - lo) as f64;
    i64::from(params.zero_point) == lo && (end - 1.0).abs() < 1e-6
}

/// The number that all elements of a constant are, behind a DequantizeLinear or not.
fn shift(g: &Graph, v: ValueId) -> Option<f32> {
    let equal =
        |t: &Tensor| t.to_f32s().split_first().filter(|(x, xs)| xs.iter().all(|y| y == *x)).map(|(x, _)| *x);
    let konst = |v| g.konst(v).filter(|_| !g.is_input(v));
    if let Some(t) = konst(v) {
        return equal(t);
    }
    let (op, _) = g.producer(v)?;
    let (_, params) = islands::grid(g, op).filter(|_| g.op(op).op_type == "DequantizeLinear")?;
    let code = equal(konst(g.operand(op, 0)?)?)?;
    Some((code - params.zero_point as f32) * params.scale)
}

/// The factor between two scales that are not the same: one that is used, if it makes the second of the first.
fn slope(of: f32, scaled: f32) -> Option<f32> {
    let usual = [1.0 / 6.0, 0.2].into_iter().find(|a| of * a == scaled);
    let slope = usual.unwrap_or(scaled / of);
    (slope != 1.0 && slope.is_normal() && slope > 0.0).then_some(slope)
}
