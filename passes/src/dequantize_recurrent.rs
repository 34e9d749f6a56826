//! `dequantize-recurrent`: an LSTM that quantizes in every run becomes one in float with the weights that its codes
//! stand for.
//!
//! ```text
//! y = DynamicQuantizeLSTM (x, w, r, b, lengths, h, c, p, ws, wz, rs, rz)
//!
//! q, s, z = DynamicQuantizeLinear (x)
//! y = LSTM (DequantizeLinear (q, s, z), wᵀ, rᵀ, b, lengths, h, c, p)
//! ```
//!
//! This is for *executing* quantized models where the runtime is not there, and the only operator that is not executed
//! exactly: the kernel rounds its state to 8 bits at every step, too, which no operator of ONNX says. Weights lie
//! transposed, with one scale for all or one for each row of a gate (ONNX Runtime, `ContribOperators.md`).

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, ValueId};

/// The pass.
pub(crate) struct DequantizeRecurrent;

/// Operands that an LSTM has, too.
const SHARED: u32 = 8;

impl Pass for DequantizeRecurrent {
    fn name(&self) -> &'static str {
        "dequantize-recurrent"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, _: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            let node = model.main().op(op);
            if node.op_type == "DynamicQuantizeLSTM" && node.domain == squint_ops::MICROSOFT {
                changed |= rewrite(model.main_mut(), op);
            }
        }
        Ok(changed.into())
    }
}

/// Whether the operator is what the specification says, and so was rewritten.
fn rewrite(g: &mut Graph, op: OpId) -> bool {
    let weights = [1, 2].map(|slot| weight(g, op, slot, 6 + 2 * slot));
    let ([Some(w), Some(r)], Some(x)) = (weights, g.operand(op, 0)) else { return false };
    let label = g.label(op);
    let rounded = rounded(g, op, x, &label);
    let [w, r] = [("W", w), ("R", r)].map(|(name, t)| g.add_const(&format!("{label}_{name}"), t));
    for (slot, v) in [(0, rounded), (1, w), (2, r)] {
        g.set_operand(op, slot, Some(v));
    }
    for slot in SHARED..g.operands(op).len() as u32 {
        g.set_operand(op, slot, None);
    }
    let node = g.op_mut(op);
    node.op_type = "LSTM".into();
    node.domain = String::new();
    true
}

/// The value on the grid of the range that it has.
fn rounded(g: &mut Graph, near: OpId, x: ValueId, label: &str) -> ValueId {
    let part = |g: &mut Graph, what: &str| g.add_value(&format!("{label}_{what}"), None);
    let levels = [part(g, "levels"), part(g, "scale"), part(g, "zero_point")];
    g.add_op(OpSpec::new("DynamicQuantizeLinear").near(near).operands([x]).results(levels));
    let ty = g.ty(x).cloned();
    g.emit(OpSpec::new("DequantizeLinear").near(near).operands(levels), &format!("{label}_rounded"), ty)
}

/// A weight `[directions, n, gates]` of codes as `[directions, gates, n]` of what they stand for.
fn weight(g: &Graph, op: OpId, slot: u32, scale: u32) -> Option<Tensor> {
    let constant = |slot| g.operand(op, slot).and_then(|v| g.konst(v));
    let (codes, scales) = (constant(slot)?, constant(scale)?.to_f32s());
    let zeros = match constant(scale + 1) {
        Some(t) => t.to_i64s()?,
        None => vec![0],
    };
    let &[directions, n, gates] = codes.dims() else { return None };
    let (rows, codes) = (directions * gates, codes.to_i64s()?);
    let each = |len: usize| len == rows || len == directions || len == 1;
    (each(scales.len()) && each(zeros.len()) && rows > 0).then_some(())?;
    let mut out = Vec::with_capacity(codes.len());
    for row in 0..rows {
        let at = |len: usize| row * len / rows;
        let (scale, zero) = (scales[at(scales.len())], zeros[at(zeros.len())]);
        let (direction, gate) = (row / gates, row % gates);
        let code = |i: usize| codes[(direction * n + i) * gates + gate];
        out.extend((0..n).map(|i| (code(i) - zero) as f32 * scale));
    }
    Some(Tensor::from_f32(&[directions, gates, n], &out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::fuse::testing::{ops, parse};

    #[test]
    fn codes_become_rows_of_gates() {
        let mut model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
m (float[3,1,2] x) => (float[3,1,1,1] y)
<int8[1,2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}, int8[1,1,4] r = {1, 1, 1, 1}, float[1,4] ws = {1, 10, 100, 1000},
 int8[1,4] wz = {0, 0, 0, 1}, float[1] rs = {0.5}, int8[1] rz = {0}>
{
  [lstm] y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 1> (x, w, r, , , , , , ws, wz, rs, rz)
}"#,
        );
        let config = Config::new("cpu-vnni");
        let changed = DequantizeRecurrent.run(&mut model, &mut PassCx::new(&config)).unwrap();
        assert_eq!(changed, Changed::Yes);
        assert_eq!(ops(&model), "DynamicQuantizeLinear DequantizeLinear LSTM");
        let g = model.main();
        let lstm = g.ops().find(|op| g.op(*op).is("LSTM")).unwrap();
        let constant = |slot| g.konst(g.operand(lstm, slot).unwrap()).unwrap();
        assert_eq!(constant(1).dims(), [1, 4, 2]);
        assert_eq!(constant(1).to_f32s(), [1.0, 5.0, 20.0, 60.0, 300.0, 700.0, 3000.0, 7000.0]);
        assert_eq!(constant(2).to_f32s(), [0.5; 4]);
        assert_eq!((g.op(lstm).int("hidden_size"), g.operands(lstm).len()), (Some(1), 3));
    }
}
