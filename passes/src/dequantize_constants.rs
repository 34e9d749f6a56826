//! `dequantize-constants`: computes what DequantizeLinear and QuantizeLinear make of constants.
//!
//! Before: `w = DequantizeLinear (codes, scale, zero)`, `y = Conv (x, w)`. After: `y = Conv (x, w)` with a
//! float constant `w`, the very numbers that the integer codes stand for; and a GatherBlockQuantized becomes a Gather from a
//! float table. This is for *executing* quantized
//! models, weight-only ones of 4 bits and blocked scales among them, and no part of compiling them: a
//! quantized weight that is to stay quantized keeps its DequantizeLinear.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Model, OpId, OpSpec, Tensor};
use squint_ops::{EvalCx, MICROSOFT};
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
            changed |= compute(model, op) || dequantize_table(model, op);
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

/// Makes a Gather of an operator that looks rows up in a quantized table: all indices of the axis give the table.
fn dequantize_table(model: &mut Model, id: OpId) -> bool {
    let g = model.main();
    let op = g.op(id);
    if op.op_type != "GatherBlockQuantized" || op.domain != MICROSOFT {
        return false;
    }
    let constant = |slot| g.operand(id, slot).filter(|v| !g.is_input(*v)).and_then(|v| g.konst(v));
    let (Some(data), Some(scale), Some(indices)) = (constant(0), constant(2), g.operand(id, 1)) else {
        return false;
    };
    let zeros = constant(3);
    if zeros.is_none() && g.operand(id, 3).is_some() {
        return false;
    }
    let axis = op.int("gather_axis").unwrap_or(0);
    let Some(at) = squint_ops::kernel::resolve_axis(axis, data.rank()) else { return false };
    let all: Vec<i64> = (0..data.dims()[at] as i64).collect();
    let all = Tensor::from_i64(&[all.len()], &all);
    let inputs = [Some(data.as_ref()), Some(&all), Some(scale.as_ref()), zeros.map(AsRef::as_ref)];
    let site = EvalCx { op, opset: 1, inputs: &inputs, n_results: 1 };
    let eval = squint_ops::row(MICROSOFT, "GatherBlockQuantized").and_then(|r| r.eval);
    let Some(table) = eval.and_then(|eval| eval(&site).ok()?.pop()) else { return false };
    let (name, result) = (g.label(id), g.result(id, 0));
    let g = model.main_mut();
    let table = g.add_const(&format!("{name}_table"), table);
    let spec = OpSpec::new("Gather").name(name).near(id).attr("axis", axis).operands([table, indices]);
    let gather = g.add_op(spec);
    g.set_result(gather, 0, result);
    g.remove_op(id);
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
