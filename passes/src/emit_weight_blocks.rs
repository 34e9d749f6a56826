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
//!
//! A table becomes an operand of ONNX Runtime's own GatherBlockQuantized: a Gather behind a DequantizeLinear would
//! dequantize all of the table in every run.
//!
//! ```text
//! y = Gather (table, i)
//!
//! y = com.microsoft.GatherBlockQuantized <gather_axis = 0, quantize_axis = 1, block_size = 32, bits = 8>
//!     (table_quantized, i, table_scale, table_zero_point)
//! ```
//!
//! ONNX Runtime 1.31 leaves a product in float that a Relu or Clip follows: its selectors take the two for the clamp before
//! a quantizer. For it they are written as Max and Min, which compute the same.

use crate::numbers;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{BlockPlan, resolve_target};
use crate::tailor::need_microsoft;
use squint_ir::tensor::pack_bits;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, Type, ValueId, ValueTable};
use squint_ops::MICROSOFT;
use squint_targets::Placement;

/// Operand slot of the weight of a product.
const PRODUCT_SLOT: u32 = 1;

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
        // Blocks came with the types of 4 bits; tables have an operator of ONNX Runtime's own.
        if let Some(widest) = newest_type(cx) {
            numbers::raise(model, cx, widest)?;
        }
        let clamps_apart = resolve_target(&cx.config.target)?.placement() == Placement::Regions;
        if cx.plan.blocks.iter().any(|(_, plan)| plan.slot != PRODUCT_SLOT) {
            need_microsoft(model);
        }
        let g = model.main_mut();
        let mut written: ValueTable<Vec<(bool, ValueId)>> = ValueTable::new();
        let mut tables: ValueTable<[ValueId; 3]> = ValueTable::new();
        for (op, plan) in cx.plan.blocks.iter() {
            let Some(w) = g.operand(op, plan.slot) else { continue };
            if g.op(op).is("Gather") {
                look_up(g, op, w, plan, &mut tables)?;
                continue;
            }
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
            if clamps_apart {
                clamps_as_extremes(g, op);
            }
        }
        Ok(Changed::Yes)
    }
}

/// The type of levels of products that needs the newest operator set.
fn newest_type(cx: &PassCx<'_>) -> Option<DType> {
    let products = cx.plan.blocks.iter().map(|(_, plan)| plan).filter(|plan| plan.slot == PRODUCT_SLOT);
    let needed = products.map(|plan| if plan.dtype == DType::Uint2 { DType::Uint2 } else { DType::Int4 });
    needed.max_by_key(|dtype| numbers::opset_of(*dtype))
}

/// Makes a Gather one that dequantizes the rows that it looks up. Levels of fewer than 8 bits lie in bytes along rows.
fn look_up(
    g: &mut Graph,
    op: OpId,
    table: ValueId,
    plan: &BlockPlan,
    written: &mut ValueTable<[ValueId; 3]>,
) -> Result<(), PassError> {
    let parts = match written.get(table) {
        Some(parts) => *parts,
        None => {
            let name = g.value(table).name().to_owned();
            let (rows, blocks) = (plan.outputs, plan.inner.div_ceil(plan.size));
            let bits = plan.dtype.bits();
            let levels = packed_rows(&plan.levels, [rows, plan.inner], bits)?;
            let levels = g.add_const(&format!("{name}_quantized"), levels);
            let by_row = |i: usize| i % blocks * rows + i / blocks;
            let scales: Vec<f32> = (0..rows * blocks).map(|i| plan.scales[by_row(i)]).collect();
            let scale = g.add_const(&format!("{name}_scale"), Tensor::from_f32(&[rows, blocks], &scales));
            let zeros = packed_rows(&plan.zeros, [rows, blocks], bits)?;
            let zeros = g.add_const(&format!("{name}_zero_point"), zeros);
            let parts = [levels, scale, zeros];
            written.insert(table, parts);
            parts
        }
    };
    let (indices, result, name) = (g.operand(op, 1), g.result(op, 0), g.label(op));
    let (Some(indices), Some(result)) = (indices, result) else { return Ok(()) };
    let spec = OpSpec::new("GatherBlockQuantized")
        .domain(MICROSOFT)
        .name(name)
        .near(op)
        .attr("gather_axis", 0)
        .attr("quantize_axis", 1)
        .attr("block_size", plan.size as i64)
        .attr("bits", plan.dtype.bits() as i64)
        .operands([parts[0], indices, parts[1], parts[2]]);
    let gather = g.add_op(spec);
    g.set_result(gather, 0, Some(result));
    g.remove_op(op);
    Ok(())
}

/// Levels that are stored column by column, as bytes row by row, each row of whole bytes.
fn packed_rows(levels: &[i16], [rows, columns]: [usize; 2], bits: usize) -> Result<Tensor, PassError> {
    let width = (columns * bits).div_ceil(8);
    let mut bytes = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let values: Vec<i64> = (0..columns).map(|c| i64::from(levels[c * rows + row])).collect();
        match bits {
            8 => bytes.extend(values.iter().map(|q| *q as u8)),
            bits => bytes.extend_from_slice(&pack_bits(values.into_iter(), bits)),
        }
    }
    Tensor::raw(DType::Uint8, &[rows, width], bytes.into())
        .map_err(|e| PassError::Config(format!("quantized table: {e}")))
}

/// Writes each Relu and Clip that reads a product as Max and Min.
fn clamps_as_extremes(g: &mut Graph, product: OpId) {
    let readers: Vec<OpId> =
        g.results(product).into_iter().flatten().flat_map(|v| g.uses(v)).map(|u| u.op).collect();
    for clamp in readers {
        let limits = match g.op(clamp).op_type.as_str() {
            "Relu" => vec![("Max", g.add_const("zero", Tensor::scalar_f32(0.0)))],
            "Clip" => {
                let limit = |slot, extreme| g.operand(clamp, slot).map(|v| (extreme, v));
                [limit(1, "Max"), limit(2, "Min")].into_iter().flatten().collect()
            }
            _ => continue,
        };
        let (Some(mut x), Some(y), Some((last, first))) =
            (g.operand(clamp, 0), g.result(clamp, 0), limits.split_last())
        else {
            continue;
        };
        let (name, ty) = (g.label(clamp), g.ty(y).cloned());
        for (extreme, limit) in first {
            let spec =
                OpSpec::new(extreme).name(format!("{name}_{extreme}")).near(clamp).operands([x, *limit]);
            x = g.emit(spec, &format!("{name}_{extreme}"), ty.clone());
        }
        let spec = OpSpec::new(last.0).name(format!("{name}_{}", last.0)).near(clamp).operands([x, last.1]);
        let extreme = g.add_op(spec);
        g.set_result(extreme, 0, Some(y));
        g.remove_op(clamp);
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
