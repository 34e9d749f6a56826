//! `dequantize-constants`: computes what DequantizeLinear and QuantizeLinear make of constants.
//!
//! Before: `w = DequantizeLinear (codes, scale, zero)`, `y = Conv (x, w)`. After: `y = Conv (x, w)` with a
//! float constant `w`, the very numbers that the integer codes stand for. This is for *executing* quantized
//! models, weight-only ones of 4 bits and blocked scales among them, and no part of compiling them: a
//! quantized weight that is to stay quantized keeps its DequantizeLinear.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Model, OpId, Tensor};
use squint_ops::EvalCx;
use std::sync::Arc;

/// The pass.
pub(crate) struct DequantizeConstants;

impl Pass for DequantizeConstants {
    fn name(&self) -> &'static str {
        "dequantize-constants"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            changed |= compute(model, op);
        }
        Ok(changed.into())
    }
}

/// Replaces a quantizer of a constant by its result.
fn compute(model: &mut Model, id: OpId) -> bool {
    let g = model.main();
    let op = g.op(id);
    if !matches!(op.op_type.as_str(), "DequantizeLinear" | "QuantizeLinear") {
        return false;
    }
    let Some(eval) = squint_ops::row(&op.domain, &op.op_type).and_then(|r| r.eval) else { return false };
    let Some(result) = g.result(id, 0).filter(|v| !g.is_output(*v)) else { return false };
    let operands = g.operands(id);
    let constant = |v: Option<_>| match v {
        None => Some(None),
        Some(v) if g.is_input(v) => None,
        Some(v) => g.konst(v).map(|t| Some(t.as_ref())),
    };
    let Some(inputs) = operands.into_iter().map(constant).collect::<Option<Vec<Option<&Tensor>>>>() else {
        return false;
    };
    let opset = model.opset(&op.domain).unwrap_or(1);
    let site = EvalCx { op, opset, inputs: &inputs, n_results: 1 };
    let Some(tensor) = eval(&site).ok().and_then(|mut results| results.pop()) else { return false };
    let g = model.main_mut();
    g.remove_op(id);
    g.set_const(result, Some(Arc::new(tensor)));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use squint_ir::OpSpec;

    #[test]
    fn weights_become_what_their_codes_stand_for() {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let x = g.add_value("x", None);
        let codes = g.add_const("codes", Tensor::from_i8(&[2, 2], &[1, 2, 3, 4]));
        let scale = g.add_const("scale", Tensor::from_f32(&[2], &[0.5, 2.0]));
        let spec = OpSpec::new("DequantizeLinear").attr("axis", 0).operands([codes, scale]);
        let w = g.emit(spec, "w", None);
        let y = g.emit(OpSpec::new("MatMul").operands([x, w]), "y", None);
        // A quantizer of data stays.
        let q = g.emit(OpSpec::new("QuantizeLinear").operands([y, scale]), "q", None);
        (g.inputs, g.outputs) = (vec![x], vec![q]);
        let config = Config::new("cpu-vnni");
        DequantizeConstants.run(&mut model, &mut PassCx::new(&config)).unwrap();
        let g = model.main();
        assert_eq!(g.konst(w).unwrap().to_f32s(), [0.5, 1.0, 6.0, 8.0]);
        assert_eq!(g.op_count(), 2);
    }
}
