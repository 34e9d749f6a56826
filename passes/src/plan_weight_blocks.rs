//! `plan-weight-blocks`: decides which weights of products are quantized block by block, and how.
//!
//! Only the weights shrink: a product reads float activations, and its kernel multiplies them with the weights as they
//! come out of memory. That pays where reading weights is what takes the time: few rows of activations, large matrices.
//!
//! A weight is a matrix with one column for each output; `size` weights in a row along a column share a scale. Levels are
//! signed with zero point 0 for TensorRT, unsigned with a zero point for each block elsewhere, which has one level more
//! to spare and fits blocks that lie to one side.
//!
//! Left in float: weights that are computed, matrices stacked in more than two axes, matrices with fewer rows than a
//! block, and what the target's kernel does not take, each with its reason.

use crate::calibration::Method;
use crate::calibration::blocks::{BlockGrid, solve};
use crate::overrides::of_node;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::{BlockPlan, OpPlan, report, resolve_target, sites};
use rayon::prelude::*;
use squint_ir::{DType, Model, Tensor};
use squint_ops::Class;
use squint_targets::{Placement, Site};

/// The pass.
pub(crate) struct PlanWeightBlocks;

impl Pass for PlanWeightBlocks {
    fn name(&self) -> &'static str {
        "plan-weight-blocks"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn reaches(&self) -> Option<Phase> {
        Some(Phase::Planned)
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let target = resolve_target(&cx.config.target)?;
        let kernels = Kernels::new(cx, target.placement() == Placement::Inputs);
        let g = model.main();
        let sites = sites(model, cx)?;
        for (op, site) in &sites {
            let label = g.label(*op);
            let wish = of_node(&cx.config.overrides, &label, &g.op(*op).qualified_type());
            let decision = match site.row.class {
                Class::Index => OpPlan::Plain,
                _ if cx.config.keeps_float(&label) || wish.float == Some(true) => {
                    OpPlan::Float("kept in float by request".into())
                }
                Class::Contraction => match kernels.plan(cx, site) {
                    Ok(plan) => {
                        cx.plan.blocks.insert(*op, plan);
                        OpPlan::Integer(kernels.name)
                    }
                    Err(reason) => OpPlan::Float(reason),
                },
                _ => OpPlan::Float("only weights of products are quantized".into()),
            };
            cx.plan.ops.insert(*op, decision);
        }
        cx.plan.report = report(model, &cx.plan, &sites)?;
        if cx.plan.is_float() {
            cx.notes.add("", "no weight could be quantized: the model stays in float");
        }
        Ok(Changed::No)
    }
}

/// What the target's kernels take.
struct Kernels {
    name: &'static str,
    dtype: DType,
    grid: BlockGrid,
    size: usize,
    /// Whether the last block of a column may be shorter.
    short_blocks: bool,
    /// Whether rows must hold whole bytes.
    even: bool,
}

impl Kernels {
    fn new(cx: &PassCx<'_>, on_gpu: bool) -> Kernels {
        let blocks = cx.config.blocks;
        let size = blocks.size.unwrap_or(32);
        let grid = |lowest, highest, zero_point| BlockGrid { lowest, highest, zero_point };
        let (name, dtype, grid) = match (on_gpu, blocks.bits) {
            (true, _) => ("INT4-weight matrix product", DType::Int4, grid(-8, 7, false)),
            (false, 4) => ("MatMulNBits", DType::Uint4, grid(0, 15, true)),
            (false, _) => ("MatMulNBits", DType::Uint8, grid(0, 255, true)),
        };
        Kernels { name, dtype, grid, size, short_blocks: !on_gpu, even: on_gpu }
    }

    /// The plan for a contraction, or why it stays in float.
    fn plan(&self, cx: &PassCx<'_>, site: &Site<'_>) -> Result<BlockPlan, String> {
        let no = |why: &str| Err(why.to_owned());
        if !matches!(site.op.op_type.as_str(), "MatMul" | "Gemm") {
            return no("the weights of its kernel have no blocks");
        }
        let Some((slot, weight, _)) = site.weight() else { return no("both operands are activations") };
        let Some(t) = weight.konst() else { return no("its weight is not a constant") };
        let &[rows, columns] = t.dims() else { return no("its weights are stacked matrices") };
        if slot != 1 {
            return no("its data operand is the constant");
        }
        if t.dtype() != DType::Float {
            return no("its weight is not float32");
        }
        let gemm = site.op.op_type == "Gemm";
        let one = |name| site.op.float(name).unwrap_or(1.0) == 1.0;
        if gemm && (site.op.int("transA").unwrap_or(0) != 0 || !one("alpha") || !one("beta")) {
            return no("a Gemm with `transA`, `alpha` or `beta`");
        }
        let transposed = gemm && site.op.int("transB").unwrap_or(0) != 0;
        let (inner, outputs) = if transposed { (columns, rows) } else { (rows, columns) };
        if inner < self.size || outputs == 0 {
            return no("a column of its weight is shorter than a block");
        }
        if !self.short_blocks && inner % self.size != 0 {
            return no("blocks do not divide the columns of its weight");
        }
        if self.even && outputs % 2 != 0 {
            return no("an odd number of columns: weights of 4 bits lie in pairs");
        }
        if t.f32s().iter().any(|x| !x.is_finite()) {
            return no("its weight has infinite or NaN elements");
        }
        Ok(self.quantize(cx, t, transposed, (inner, outputs)))
    }

    fn quantize(
        &self,
        cx: &PassCx<'_>,
        t: &Tensor,
        transposed: bool,
        (inner, outputs): (usize, usize),
    ) -> BlockPlan {
        let data = t.f32s();
        let at = |k: usize, n: usize| if transposed { data[n * inner + k] } else { data[k * outputs + n] };
        let search = cx.config.weight_method == Method::Mse;
        let blocks = inner.div_ceil(self.size);
        let column = |n: usize| {
            let of = |b: usize| {
                let rows = b * self.size..inner.min((b + 1) * self.size);
                let block: Vec<f32> = rows.map(|k| at(k, n)).collect();
                solve(&block, self.grid, cx.config.constraints, search)
            };
            (0..blocks).map(of).collect::<Vec<_>>()
        };
        let columns: Vec<Vec<_>> = (0..outputs).into_par_iter().map(column).collect();
        let mut plan = BlockPlan {
            transposed,
            dtype: self.dtype,
            size: self.size,
            inner,
            outputs,
            levels: vec![0; inner * outputs],
            scales: vec![0.0; blocks * outputs],
            zeros: if self.grid.zero_point { vec![0; blocks * outputs] } else { Vec::new() },
        };
        for (n, column) in columns.into_iter().enumerate() {
            for (b, (p, levels)) in column.into_iter().enumerate() {
                plan.scales[b * outputs + n] = p.scale;
                if let Some(zero) = plan.zeros.get_mut(b * outputs + n) {
                    *zero = p.zero_point as i16;
                }
                for (i, level) in levels.into_iter().enumerate() {
                    plan.levels[(b * self.size + i) * outputs + n] = level;
                }
            }
        }
        plan
    }
}
