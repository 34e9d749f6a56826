//! HardSigmoid and HardSwish on integers: an addition whose grid does the clipping, and a product.
//!
//! ```text
//! g = HardSigmoid <alpha, beta> (x)
//!
//! x' = DequantizeLinear (q, alpha·s, z)   g = Add (x', beta)     q the integers of x on the grid (s, z)
//! ```
//!
//! The line costs nothing: the same integers read with another scale are `alpha·x`. What it adds to them saturates at 0 and 1,
//! where the grid of the result ends. A HardSwish is the product of its operand with that, on `[0, 1]` in 255 steps.

use super::{Emitter, levels};
use crate::pass::PassError;
use crate::plan::{Tie, ValuePlan, islands};
use squint_ir::affine::QuantParams;
use squint_ir::{DType, OpId, OpSpec, Tensor, ValueId};

impl Emitter<'_> {
    /// Makes integer arithmetic of an operator that reads a dequantized value, if it is one of the two.
    ///
    /// # Errors
    /// If its operand has another element type than activations have.
    pub(super) fn hard_gate(&mut self, op: OpId) -> Result<(), PassError> {
        let node = self.g.op(op);
        // Those of a HardSwish, and the defaults of a HardSigmoid (ONNX `Operators.md`).
        let (alpha, beta) = match node.op_type.as_str() {
            "HardSwish" => (1.0 / 6.0, 0.5),
            "HardSigmoid" => (node.float("alpha").unwrap_or(0.2), node.float("beta").unwrap_or(0.5)),
            _ => return Ok(()),
        };
        let Some(x) = self.g.operand(op, 0) else { return Ok(()) };
        let Some((line, dtype)) = self.times(op, x, alpha) else { return Ok(()) };
        let beta = self.addend(op, beta, dtype)?;
        let (op_type, operands) = match self.g.op(op).is("HardSwish") {
            true => ("Mul", [x, self.gate(op, [line, beta], dtype)?]),
            false => ("Add", [line, beta]),
        };
        let node = self.g.op_mut(op);
        node.origin.push(format!("emit-qdq({})", node.op_type));
        node.op_type = op_type.to_owned();
        node.attributes.clear();
        for (slot, v) in (0..).zip(operands) {
            self.g.set_operand(op, slot, Some(v));
        }
        Ok(())
    }

    /// A dequantized value times a factor, and the type of its integers; `None` if they have no constant scale.
    fn times(&mut self, op: OpId, x: ValueId, factor: f32) -> Option<(ValueId, DType)> {
        let (dequantizer, _) = self.g.producer(x)?;
        let (dtype, params) = islands::grid(self.g, dequantizer)?;
        let operands = self.g.operands(dequantizer);
        let label = format!("{}_line", self.g.label(op));
        let scale = self.g.add_const(&format!("{label}_scale"), Tensor::scalar_f32(params.scale * factor));
        let operands = [operands.first().copied()?, Some(scale), operands.get(2).copied().flatten()];
        let spec = OpSpec::new("DequantizeLinear").name(format!("{label}_DequantizeLinear")).near(op);
        let ty = self.g.ty(x).cloned();
        let line = self.g.emit(spec.operands(operands), &format!("{label}_DequantizeLinear_Output"), ty);
        Some((line, dtype))
    }

    /// A constant at the end of a grid that begins, or ends, with zero: exact, and in the range of the sum. Beside one pixel
    /// of many channels there is one for each: the runtime walks over the axes of length 1 that two operands share first,
    /// and a scalar would be added to one element at a time (ONNX Runtime 1.31: 47 µs for 1280 channels, or 2 µs).
    fn addend(&mut self, op: OpId, beta: f32, dtype: DType) -> Result<ValueId, PassError> {
        let (lowest, highest) = levels(dtype)?;
        let scale = if beta == 0.0 { 1.0 } else { beta.abs() / (highest - lowest) as f32 };
        let zero_point = if beta < 0.0 { highest } else { lowest };
        let dims = self.one_pixel(op).unwrap_or_default();
        let beta = Tensor::from_f32(&dims, &vec![beta; dims.iter().product()]);
        let v = self.g.add_const(&format!("{}_beta", self.g.label(op)), beta);
        self.constant(v, &on_grid(dtype, QuantParams { scale, zero_point }))
    }

    /// Lengths of what an operator makes but for the batch, if there are channels and the last axes have one element.
    fn one_pixel(&self, op: OpId) -> Option<Vec<usize>> {
        let shape = self.facts.get(self.g.result(op, 0)?)?.shape.as_ref()?;
        let (_, lengths) = shape.split_first()?;
        let lengths: Option<Vec<usize>> = lengths.iter().map(|d| d.known()?.try_into().ok()).collect();
        lengths.filter(|l| l.len() > 1 && l[1..].iter().all(|n| *n == 1) && l[0] <= MOST_CHANNELS)
    }

    /// The sum of two values, on the grid of `[0, 1]`.
    fn gate(&mut self, op: OpId, operands: [ValueId; 2], dtype: DType) -> Result<ValueId, PassError> {
        let label = format!("{}_gate", self.g.label(op));
        let ty = self.g.ty(operands[0]).cloned();
        let add = OpSpec::new("Add").name(label.clone()).near(op).operands(operands);
        let sum = self.g.emit(add, &label, ty);
        let (lowest, highest) = levels(dtype)?;
        let params = QuantParams { scale: 1.0 / (highest - lowest) as f32, zero_point: lowest };
        Ok(self.pair(sum, &on_grid(dtype, params)))
    }
}

/// No network has more, and a file could say anything.
const MOST_CHANNELS: usize = 1 << 16;

/// What makes a quantized value of one that this file makes.
fn on_grid(dtype: DType, params: QuantParams) -> ValuePlan {
    ValuePlan {
        dtype,
        params,
        codes: None,
        saturates: false,
        made_by_integer: true,
        why: String::new(),
        tie: Tie::Fixed,
        note: None,
    }
}
