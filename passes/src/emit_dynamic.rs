//! `emit-dynamic`: writes operators that quantize their activations in every run.
//!
//! A matrix product becomes the operators that ONNX has for it, which ONNX Runtime fuses
//! (`matmul_integer_to_float.cc`, `dynamic_quantize_matmul_fusion.cc`) into DynamicQuantizeMatMul, or into one
//! MatMulIntegerToFloat for each of several products that read the same value:
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear (x)        # once for all that read x
//! i = MatMulInteger (q, w_quantized, z)
//! y = Mul (Cast <to = float> (i), Mul (s, w_scale))
//! ```
//!
//! A bias is added behind them, and goes along. Other runtimes run the operators one by one. An LSTM becomes `com.microsoft.DynamicQuantizeLSTM`, for which ONNX has no operators: its
//! weights are transposed.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{DynamicPlan, OpPlan, QuantPlan, WeightPlan, rows};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Shape, Tensor, Type, ValueId, ValueTable};
use squint_ops::MICROSOFT;

/// The pass.
pub(crate) struct EmitDynamic;

impl Pass for EmitDynamic {
    fn name(&self) -> &'static str {
        "emit-dynamic"
    }

    fn needs(&self) -> Phase {
        Phase::Planned
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Quantized)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let mut recurrent = false;
        let mut emitter = Emitter { g: model.main_mut(), plan: &cx.plan, quantized: ValueTable::new() };
        let planned: Vec<OpId> =
            order.into_iter().filter(|op| matches!(cx.plan.ops.get(*op), Some(OpPlan::Dynamic(_)))).collect();
        for op in &planned {
            match emitter.g.op(*op).op_type.as_str() {
                "LSTM" => {
                    emitter.lstm(*op)?;
                    recurrent = true;
                }
                _ => emitter.product(*op)?,
            }
        }
        if recurrent && model.opset(MICROSOFT).is_none() {
            model.set_opset(MICROSOFT, 1);
        }
        Ok((!planned.is_empty()).into())
    }
}

/// A value's levels, scale and zero point.
type Quantized = (ValueId, ValueId, ValueId);

struct Emitter<'a> {
    g: &'a mut Graph,
    plan: &'a QuantPlan,
    /// What has been quantized already.
    quantized: ValueTable<Quantized>,
}

impl Emitter<'_> {
    fn planned(&self, op: OpId) -> Result<DynamicPlan, PassError> {
        let plan = self.plan.dynamic.get(op).cloned();
        plan.ok_or_else(|| PassError::Model(format!("`{}` has no plan", self.g.label(op))))
    }

    /// A MatMul or Gemm.
    fn product(&mut self, op: OpId) -> Result<(), PassError> {
        let plan = self.planned(op)?;
        let [w] = &plan.weights[..] else { return Err(self.unfit(op)) };
        let (Some(x), Some(y)) = (self.g.operand(op, 0), self.g.result(op, 0)) else {
            return Err(self.unfit(op));
        };
        let (label, bias) = (self.g.label(op), self.g.operand(op, 2));
        let shape = self.g.ty(y).and_then(Type::shape).cloned();
        let typed = |dtype| Some(Type::tensor(dtype, shape.clone()));
        let (q, scale, zero) = self.quantize(x, op);
        let (weight, weight_scale) = self.weight(op, w)?;
        let mut emit = |op_type: &str, operands: &[ValueId], ty| {
            let spec = OpSpec::new(op_type).name(format!("{label}_{op_type}")).near(op);
            let spec = if op_type == "Cast" { spec.attr("to", i64::from(DType::Float.code())) } else { spec };
            self.g.emit(spec.operands(operands.iter().copied()), &format!("{label}_{op_type}_Output"), ty)
        };
        let sums = emit("MatMulInteger", &[q, weight, zero], typed(DType::Int32));
        let sums = emit("Cast", &[sums], typed(DType::Float));
        let unit = OpSpec::new("Mul").name(format!("{label}_scales_Mul")).near(op);
        let unit = self.g.emit(unit.operands([scale, weight_scale]), &format!("{label}_scales"), None);
        let anchor = OpSpec::new("Mul").name(format!("{label}_Mul")).near(op);
        let last = match bias {
            None => anchor.operands([sums, unit]),
            Some(b) => {
                let product = self.g.emit(
                    anchor.operands([sums, unit]),
                    &format!("{label}_Mul_Output"),
                    typed(DType::Float),
                );
                let b = self.flat(b);
                OpSpec::new("Add").name(format!("{label}_Add")).near(op).operands([product, b])
            }
        };
        // Placed before the operator goes, which it is placed beside.
        self.g.set_result(op, 0, None);
        self.g.add_op(last.results([y]));
        self.g.remove_op(op);
        Ok(())
    }

    /// The value in levels; made once for all that read it.
    fn quantize(&mut self, x: ValueId, near: OpId) -> Quantized {
        if let Some(q) = self.quantized.get(x) {
            return *q;
        }
        let name = self.g.value(x).name().to_owned();
        let levels = Type::tensor(DType::Uint8, self.g.ty(x).and_then(Type::shape).cloned());
        let scalar = |dtype| Some(Type::tensor(dtype, Some(Shape::new())));
        let q = self.g.add_value(&format!("{name}_quantized"), Some(levels));
        let scale = self.g.add_value(&format!("{name}_scale"), scalar(DType::Float));
        let zero = self.g.add_value(&format!("{name}_zero_point"), scalar(DType::Uint8));
        let spec =
            OpSpec::new("DynamicQuantizeLinear").name(format!("{name}_DynamicQuantizeLinear")).near(near);
        self.g.add_op(spec.operands([x]).results([q, scale, zero]));
        self.quantized.insert(x, (q, scale, zero));
        (q, scale, zero)
    }

    /// The levels of a matrix, with output channels along the last axis, and their scales.
    fn weight(&mut self, op: OpId, w: &WeightPlan) -> Result<(ValueId, ValueId), PassError> {
        let v = self.g.operand(op, w.slot);
        let (Some(v), Some(t)) = (v, v.and_then(|v| self.g.konst(v).cloned())) else {
            return Err(self.unfit(op));
        };
        let &[a, b] = t.dims() else { return Err(self.unfit(op)) };
        let levels = w.levels(&t).ok_or_else(|| self.unfit(op))?;
        let (dims, levels) =
            if w.axis == Some(0) { ([b, a], transposed(&levels, a, b)) } else { ([a, b], levels) };
        let name = self.g.value(v).name().to_owned();
        let q = self.g.add_const(&format!("{name}_quantized"), Tensor::from_i8(&dims, &levels));
        let scales: Vec<f32> = w.params.iter().map(|p| p.scale).collect();
        let scale = self.g.add_const(&format!("{name}_scale"), Tensor::from_f32(&[scales.len()], &scales));
        Ok((q, scale))
    }

    /// A bias `[1, n]` as `[n]`, any other as it is.
    fn flat(&mut self, b: ValueId) -> ValueId {
        let name = self.g.value(b).name().to_owned();
        match self.g.konst(b).map(|t| (t.dims(), t)) {
            Some((&[1, n], t)) => match t.reshaped(&[n]) {
                Ok(t) => self.g.add_const(&name, t),
                Err(_) => b,
            },
            _ => b,
        }
    }

    /// An LSTM.
    fn lstm(&mut self, op: OpId) -> Result<(), PassError> {
        let plan = self.planned(op)?;
        for (w, slot) in plan.weights.iter().zip([8, 10]) {
            let v = self.g.operand(op, w.slot);
            let (Some(v), Some(t)) = (v, v.and_then(|v| self.g.konst(v).cloned())) else {
                return Err(self.unfit(op));
            };
            let &[directions, gates, n] = t.dims() else { return Err(self.unfit(op)) };
            let levels = rows(&t).and_then(|rows| w.levels(&rows)).ok_or_else(|| self.unfit(op))?;
            let matrices = levels.chunks_exact((gates * n).max(1));
            let levels: Vec<i8> = matrices.flat_map(|m| transposed(m, gates, n)).collect();
            let name = self.g.value(v).name().to_owned();
            let q = Tensor::from_i8(&[directions, n, gates], &levels);
            let q = self.g.add_const(&format!("{name}_quantized"), q);
            let scales: Vec<f32> = w.params.iter().map(|p| p.scale).collect();
            let scale = Tensor::from_f32(&[directions, gates], &scales);
            let scale = self.g.add_const(&format!("{name}_scale"), scale);
            let zero = Tensor::from_i8(&[directions, gates], &vec![0; scales.len()]);
            let zero = self.g.add_const(&format!("{name}_zero_point"), zero);
            for (slot, value) in [(w.slot, q), (slot, scale), (slot + 1, zero)] {
                self.g.set_operand(op, slot, Some(value));
            }
        }
        let node = self.g.op_mut(op);
        node.op_type = "DynamicQuantizeLSTM".into();
        node.domain = MICROSOFT.into();
        node.remove_attr("layout");
        Ok(())
    }

    fn unfit(&self, op: OpId) -> PassError {
        PassError::Model(format!("`{}`: its plan does not fit it", self.g.label(op)))
    }
}

/// A matrix `[rows, columns]` as `[columns, rows]`.
fn transposed(levels: &[i8], rows: usize, columns: usize) -> Vec<i8> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| levels[r * columns + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::transposed;

    #[test]
    fn columns_become_rows() {
        assert_eq!(transposed(&[1, 2, 3, 4, 5, 6], 2, 3), [1, 4, 2, 5, 3, 6]);
        assert!(transposed(&[], 0, 3).is_empty());
    }
}
