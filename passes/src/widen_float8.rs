//! `widen-float8`: quantizers of data to 8-bit floats say what they round to by an attribute, not by a zero point, and what
//! is between them is float32 to an executor.
//!
//! ```text
//! q = QuantizeLinear (x, scale, zero)               y = DequantizeLinear (q, scale, zero)      # zero: float8e4m3fn
//!
//! q = QuantizeLinear <output_dtype = 17> (x, scale)  y = DequantizeLinear (q, scale)
//! ```
//!
//! The two say the same: a zero point of floats is zero. This is for *executing* models where the executor has no such
//! type: it rounds to the numbers of E4M3, and keeps them in float32.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{DType, Graph, Model, OpId};

/// The pass.
pub(crate) struct WidenFloat8;

impl Pass for WidenFloat8 {
    fn name(&self) -> &'static str {
        "widen-float8"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main_mut();
        let mut changed = false;
        for op in g.ops().collect::<Vec<_>>() {
            changed |= quantizer(g, op);
        }
        Ok(changed.into())
    }
}

/// Rewrites a QuantizeLinear to 8-bit floats and the operators that dequantize its result, if nothing else reads it.
fn quantizer(g: &mut Graph, op: OpId) -> bool {
    let Some(q) = g.result(op, 0).filter(|q| g.op(op).is("QuantizeLinear") && !g.is_output(*q)) else {
        return false;
    };
    let readers = g.uses(q);
    let pairs = readers.iter().all(|u| !u.capture && u.slot == 0 && g.op(u.op).is("DequantizeLinear"));
    if !pairs || !is_zero(g, op) || !readers.iter().all(|u| is_zero(g, u.op)) {
        return false;
    }
    g.op_mut(op).set_attr("output_dtype", i64::from(DType::Float8e4m3fn.code()));
    for op in readers.iter().map(|u| u.op).chain([op]) {
        g.set_operand(op, 2, None);
    }
    // What an executor has there.
    g.set_type(q, None);
    true
}

/// Whether an operator has a zero point of this type, which is zero.
fn is_zero(g: &Graph, op: OpId) -> bool {
    let zero = g.operand(op, 2).and_then(|z| g.konst(z));
    zero.is_some_and(|z| z.dtype() == DType::Float8e4m3fn && z.to_f64s().iter().all(|z| *z == 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use squint_ir::{OpSpec, Tensor};

    /// A pair of quantizers with a zero point of this code; whether it was rewritten.
    fn rewritten(zero: u8) -> (Model, bool) {
        let mut model = Model::new("g", 23);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let scale = g.add_const("scale", Tensor::scalar_f32(0.5));
        let zero = Tensor::raw(DType::Float8e4m3fn, &[], vec![zero].into()).unwrap();
        let zero = g.add_const("zero", zero);
        let q = g.emit(OpSpec::new("QuantizeLinear").operands([x, scale, zero]), "q", None);
        let y = g.emit(OpSpec::new("DequantizeLinear").operands([q, scale, zero]), "y", None);
        (g.inputs, g.outputs) = (vec![x], vec![y]);
        let config = Config::new("tensorrt");
        let changed = WidenFloat8.run(&mut model, &mut PassCx::new(&config)).unwrap();
        (model, changed == Changed::Yes)
    }

    #[test]
    fn zero_points_become_an_attribute() {
        let (model, changed) = rewritten(0);
        let g = model.main();
        assert!(changed && g.ops().all(|op| g.operand(op, 2).is_none()));
        let quantizer = g.ops().next().unwrap();
        assert_eq!(g.op(quantizer).int("output_dtype"), Some(17));
        assert!(!rewritten(0x38).1, "one is no zero point of floats");
    }
}
