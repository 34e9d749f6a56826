//! Weights of products and tables in blocks: which can be, on which grid, and what numbers stand for them.
//!
//! A weight is a matrix with one column for each output; `size` weights in a row along a column share a scale. Levels are
//! signed with zero point 0 for TensorRT, unsigned with a zero point for each block elsewhere, which has one level more
//! to spare and fits blocks that lie to one side.
//!
//! Without data each weight is rounded to the nearest level. On samples two repairs learn more, in [`learn`]:
//!
//! - [`awq`] scales the channels of what products read, so that weights of channels with large activations are rounded
//!   more finely; the factors go into what makes the channels, or into a Mul ([`absorb`]);
//! - [`gptq`] rounds weights one after another and lets those that follow make up for the error, by the second moments
//!   of what products read ([`moments`]).

mod absorb;
mod awq;
mod gptq;
mod learn;
mod moments;
mod trial;

use crate::calibration::Method;
use crate::calibration::blocks::{BlockGrid, Choice};
use crate::config::{Config, FLOAT_TABLES};
use crate::numbers::CPU_BLOCK;
use crate::pass::{PassCx, PassError};
use crate::plan::{BlockPlan, resolve_target};
pub(crate) use learn::{NAME_OF_ROUNDING, NAME_OF_SCALING, round, scale};
pub(crate) use moments::SLICE;
use rayon::prelude::*;
use squint_ir::affine::QuantParams;
use squint_ir::{DType, OpId, Tensor};
use squint_ops::Class;
use squint_targets::{Placement, Site};

/// The kernel that looks rows up in a table in blocks.
const TABLE: &str = "GatherBlockQuantized";

/// Tables of fewer elements are left alone: 64 KiB in float32.
const SMALL_TABLE: usize = 1 << 14;

/// Levels with a zero point for each block.
fn unsigned(bits: u8) -> (DType, BlockGrid) {
    let (dtype, highest) = match bits {
        2 => (DType::Uint2, 3),
        4 => (DType::Uint4, 15),
        _ => (DType::Uint8, 255),
    };
    (dtype, BlockGrid { lowest: 0, highest, zero_point: true })
}

/// What the target's kernels take.
pub(crate) struct Kernels {
    /// What the kernel is called.
    pub(crate) name: &'static str,
    /// Whether it looks rows up in a table, and is no product.
    tables: bool,
    dtype: DType,
    grid: BlockGrid,
    size: usize,
    /// Whether the last block of a column may be shorter.
    short_blocks: bool,
    /// Whether rows must hold whole bytes.
    even: bool,
}

impl Kernels {
    /// Those of the configured target.
    ///
    /// # Errors
    /// If there is no such target.
    pub(crate) fn new(cx: &PassCx<'_>) -> Result<Kernels, PassError> {
        let on_gpu = resolve_target(&cx.config.target)?.placement() == Placement::Inputs;
        let blocks = cx.config.blocks;
        let size = blocks.size.unwrap_or(CPU_BLOCK);
        let grid = |lowest, highest, zero_point| BlockGrid { lowest, highest, zero_point };
        let (name, dtype, grid) = match (on_gpu, blocks.bits) {
            (true, _) => ("INT4-weight matrix product", DType::Int4, grid(-8, 7, false)),
            (false, bits) => {
                let (dtype, grid) = unsigned(bits);
                ("MatMulNBits", dtype, grid)
            }
        };
        Ok(Kernels { name, tables: false, dtype, grid, size, short_blocks: !on_gpu, even: on_gpu })
    }

    /// Those that look rows up in tables, if tables are quantized.
    pub(crate) fn of_tables(config: &Config) -> Option<Kernels> {
        let blocks = config.blocks;
        let bits = blocks.table_bits.filter(|bits| *bits != FLOAT_TABLES)?;
        let (dtype, grid) = unsigned(bits);
        let size = blocks.size.unwrap_or(CPU_BLOCK);
        Some(Kernels { name: TABLE, tables: true, dtype, grid, size, short_blocks: true, even: false })
    }

    /// The weight of an operator that has a kernel, or why it stays in float.
    pub(crate) fn find<'t>(&self, site: &'t Site<'_>) -> Result<Matrix<'t>, String> {
        match site.row.class {
            _ if self.tables => self.table(site).map_err(str::to_owned),
            Class::Contraction => self.matrix(site),
            _ => Err("only weights of products and tables are quantized".into()),
        }
    }

    /// The table that a Gather looks rows up in, or why it stays in float.
    fn table<'t>(&self, site: &'t Site<'_>) -> Result<Matrix<'t>, &'static str> {
        let of_rows = |op: OpId, slot: u32| {
            let op = site.graph.op(op);
            slot == 0 && op.is("Gather") && op.int("axis").unwrap_or(0) == 0
        };
        let Some((table, t)) = site.operand(0).and_then(|o| Some((o.value, o.konst()?))) else {
            return Err("it picks from an activation");
        };
        let &[outputs, inner] = t.dims() else { return Err("what it picks from is no table of rows") };
        if t.dtype() != DType::Float {
            return Err("its table is not float32");
        }
        if t.len() < SMALL_TABLE {
            return Err("its table is small");
        }
        if !site.graph.uses(table).iter().all(|u| !u.capture && of_rows(u.op, u.slot)) {
            return Err("not only rows are picked from its table");
        }
        if inner < self.size {
            return Err("a row of its table is shorter than a block");
        }
        if !(inner * self.dtype.bits()).is_multiple_of(8) {
            return Err("a row of its table is no whole number of bytes");
        }
        if t.f32s().iter().any(|x| !x.is_finite()) {
            return Err("its table has infinite or NaN elements");
        }
        Ok(Matrix { tensor: t, slot: 0, transposed: true, inner, outputs })
    }

    /// The weight of a contraction that has a kernel, or why it stays in float.
    fn matrix<'t>(&self, site: &'t Site<'_>) -> Result<Matrix<'t>, String> {
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
        Ok(Matrix { tensor: t, slot, transposed, inner, outputs })
    }

    /// How the scale of a block is chosen.
    pub(crate) fn choice(&self, cx: &PassCx<'_>) -> Choice {
        Choice {
            grid: self.grid,
            constraints: cx.config.constraints,
            search: cx.config.weight_method == Method::Mse,
        }
    }

    /// Weights in a column that share a scale.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A plan that rounds each weight to the nearest level.
    pub(crate) fn nearest(&self, cx: &PassCx<'_>, matrix: &Matrix<'_>) -> BlockPlan {
        let columns = matrix.columns();
        let choice = self.choice(cx);
        let solved = |column: Vec<f32>| -> Vec<(QuantParams, Vec<i16>)> {
            column.chunks(self.size).map(|block| choice.solve(block, None)).collect()
        };
        let solved: Vec<_> = columns.into_par_iter().map(solved).collect();
        let mut plan = self.empty(matrix);
        for (n, column) in solved.into_iter().enumerate() {
            for (b, (params, levels)) in column.into_iter().enumerate() {
                plan.set_params(b, n, params);
                for (i, level) in levels.into_iter().enumerate() {
                    plan.levels[(b * self.size + i) * matrix.outputs + n] = level;
                }
            }
        }
        plan
    }

    /// A plan of zeros, to be filled in.
    pub(crate) fn empty(&self, matrix: &Matrix<'_>) -> BlockPlan {
        let scales = matrix.inner.div_ceil(self.size) * matrix.outputs;
        BlockPlan {
            slot: matrix.slot,
            transposed: matrix.transposed,
            dtype: self.dtype,
            size: self.size,
            inner: matrix.inner,
            outputs: matrix.outputs,
            levels: vec![0; matrix.inner * matrix.outputs],
            scales: vec![0.0; scales],
            zeros: if self.grid.zero_point { vec![0; scales] } else { Vec::new() },
        }
    }
}

/// A weight as it is multiplied: `inner` rows, a column for each output.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'t> {
    tensor: &'t Tensor,
    slot: u32,
    transposed: bool,
    /// Rows.
    pub(crate) inner: usize,
    /// Columns.
    pub(crate) outputs: usize,
}

impl Matrix<'_> {
    /// All columns, one after another.
    pub(crate) fn columns(&self) -> Vec<Vec<f32>> {
        self.some_columns(self.outputs)
    }

    /// No more than so many columns, evenly spread.
    pub(crate) fn some_columns(&self, most: usize) -> Vec<Vec<f32>> {
        let data = self.tensor.f32s();
        let column = |o: usize| -> Vec<f32> {
            match self.transposed {
                true => data[o * self.inner..(o + 1) * self.inner].to_vec(),
                false => (0..self.inner).map(|k| data[k * self.outputs + o]).collect(),
            }
        };
        self.numbers(most).map(column).collect()
    }

    /// What a plan changes in no more than so many columns, evenly spread.
    pub(crate) fn changes(&self, plan: &BlockPlan, most: usize) -> Vec<Vec<f32>> {
        let mut columns = self.some_columns(most);
        for (o, column) in self.numbers(most).zip(&mut columns) {
            for (k, w) in column.iter_mut().enumerate() {
                *w -= plan.weight(k, o);
            }
        }
        columns
    }

    fn numbers(&self, most: usize) -> impl Iterator<Item = usize> {
        let (n, all) = (self.outputs.min(most), self.outputs);
        (0..n).map(move |i| i * all / n)
    }
}

impl BlockPlan {
    /// Sets scale and zero point of a block of a column.
    pub(crate) fn set_params(&mut self, block: usize, column: usize, params: QuantParams) {
        let at = block * self.outputs + column;
        self.scales[at] = params.scale;
        if let Some(zero) = self.zeros.get_mut(at) {
            *zero = params.zero_point as i16;
        }
    }

    /// What the level in a row and a column stands for.
    fn weight(&self, row: usize, column: usize) -> f32 {
        let block = row / self.size * self.outputs + column;
        let zero = self.zeros.get(block).copied().unwrap_or(0);
        f32::from(self.levels[row * self.outputs + column] - zero) * self.scales[block]
    }

    /// What the levels stand for, as the tensor of the graph lies.
    pub(crate) fn real(&self) -> Tensor {
        let (rows, columns) =
            if self.transposed { (self.outputs, self.inner) } else { (self.inner, self.outputs) };
        let place = |i: usize| (i / columns, i % columns);
        let data: Vec<f32> = (0..rows * columns)
            .map(place)
            .map(|(r, c)| if self.transposed { self.weight(c, r) } else { self.weight(r, c) })
            .collect();
        Tensor::from_f32(&[rows, columns], &data)
    }
}
