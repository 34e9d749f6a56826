//! `emit-weight-blocks`: writes planned blocks of weights into the graph.
//!
//! ```text
//! y = MatMul (x, w)
//!
//! d = DequantizeLinear <axis = 0, block_size = 32> (w_quantized, w_scale, w_zero_point)
//! y = MatMul (x, d)
//! ```
//!
//! ONNX Runtime makes one MatMulNBits of the two (`qdq_selectors.cc`: a constant matrix in two dimensions, blocks along
//! axis 0; of a Gemm without transposition and factors), TensorRT one product with INT4 weights. A Gemm that reads its
//! weight transposed gets it turned.

use crate::numbers;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::BlockPlan;
use squint_ir::tensor::pack_bits;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, Type, ValueId, ValueTable};

/// The pass.
pub(crate) struct EmitWeightBlocks;

impl Pass for EmitWeightBlocks {
    fn name(&self) -> &'static str {
        "emit-weight-blocks"
    }

    fn needs(&self) -> Phase {
        Phase::Planned
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Quantized)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if cx.plan.blocks.iter().next().is_none() {
            return Ok(Changed::No);
        }
        // Blocks came with the types of 4 bits.
        numbers::raise(model, cx, DType::Int4)?;
        let g = model.main_mut();
        let mut written: ValueTable<Vec<(bool, ValueId)>> = ValueTable::new();
        for (op, plan) in cx.plan.blocks.iter() {
            let Some(w) = g.operand(op, 1) else { continue };
            let before = written.get(w).and_then(|all| all.iter().find(|(t, _)| *t == plan.transposed));
            let d = match before {
                Some((_, d)) => *d,
                None => {
                    let d = dequantized(g, op, w, plan)?;
                    match written.get_mut(w) {
                        Some(all) => all.push((plan.transposed, d)),
                        None => drop(written.insert(w, vec![(plan.transposed, d)])),
                    }
                    d
                }
            };
            g.set_operand(op, 1, Some(d));
            if plan.transposed {
                g.op_mut(op).remove_attr("transB");
            }
        }
        Ok(Changed::Yes)
    }
}

/// The weight behind a DequantizeLinear.
fn dequantized(g: &mut Graph, op: OpId, w: ValueId, plan: &BlockPlan) -> Result<ValueId, PassError> {
    let name = g.value(w).name().to_owned();
    let dims = [plan.inner, plan.outputs];
    let blocks = [plan.inner.div_ceil(plan.size), plan.outputs];
    let levels = g.add_const(&format!("{name}_quantized"), integers(plan.dtype, &dims, &plan.levels)?);
    let scale = g.add_const(&format!("{name}_scale"), Tensor::from_f32(&blocks, &plan.scales));
    let mut operands = vec![levels, scale];
    if !plan.zeros.is_empty() {
        let zeros = integers(plan.dtype, &blocks, &plan.zeros)?;
        operands.push(g.add_const(&format!("{name}_zero_point"), zeros));
    }
    let spec = OpSpec::new("DequantizeLinear")
        .name(format!("{name}_DequantizeLinear"))
        .near(op)
        .attr("axis", 0)
        .attr("block_size", plan.size as i64)
        .operands(operands);
    let ty = Type::tensor(DType::Float, Some(dims.map(Into::into).to_vec()));
    Ok(g.emit(spec, &format!("{name}_DequantizeLinear_Output"), Some(ty)))
}

fn integers(dtype: DType, dims: &[usize], values: &[i16]) -> Result<Tensor, PassError> {
    let bytes = match dtype.bits() {
        8 => values.iter().map(|q| *q as u8).collect(),
        bits => pack_bits(values.iter().map(|q| i64::from(*q)), bits),
    };
    Tensor::raw(dtype, dims, bytes).map_err(|e| PassError::Config(format!("quantized weight: {e}")))
}
