//! ONNX Runtime's CPU provider, on three kinds of processors.
//!
//! - With VNNI (AVX512-VNNI or AVX-VNNI), unsigned activations with signed weights are the one combination with a fast
//!   exact kernel (`VPDPBUSD`).
//! - Without it the same combination is still the fast one, but `VPMADDUBSW` adds products in pairs that saturate at 16
//!   bits: weights are kept from it ([`pairs`]).
//! - On 64-bit ARM both are signed (`SDOT`, `SMMLA`).
//!
//! Per-channel weight scales cost nothing. What fuses is the same on all of them: a claim about ONNX Runtime's
//! `qdq_selector_action_transformer.cc` and `qdq_selectors.cc`, release 1.31; the oracle checks it against what the
//! runtime writes out after optimisation. What kernels cost was measured: [`table`].

mod costs;
mod dynamic;
mod pairs;
mod table;

use crate::{Costs, Dynamic, FloatResult, Format, Operand, Pairs, Params, Site, Support, Target};
use squint_ir::affine::Grid;
use squint_ir::{DType, Op};
use squint_ops::Class;

/// A kind of processor, as the kernels of the runtime tell them apart.
struct Processor {
    /// What kernels cost.
    table: &'static table::Table,
    /// The direct kernel of integer convolutions takes numbers of output channels that this divides.
    direct_outputs: u64,
    /// Whether sums of two products saturate.
    saturates: bool,
}

const VNNI: Processor = Processor { table: &table::vnni::TABLE, direct_outputs: 4, saturates: false };

const AVX2: Processor = Processor { table: &table::avx2::TABLE, direct_outputs: 8, saturates: true };

/// The runtime on a kind of processor.
pub(crate) struct Cpu {
    name: &'static str,
    description: &'static str,
    activations: Format,
    processor: Processor,
}

/// `cpu-vnni`.
pub(crate) const CPU_VNNI: Cpu = Cpu {
    name: "cpu-vnni",
    description: "ONNX Runtime on x86-64 CPUs with VNNI: uint8 activations, int8 per-channel weights",
    activations: Format { dtype: DType::Uint8, grid: Grid::U8 },
    processor: VNNI,
};

/// `cpu-avx2`.
pub(crate) const CPU_AVX2: Cpu = Cpu {
    name: "cpu-avx2",
    description: "ONNX Runtime on x86-64 CPUs without VNNI: as cpu-vnni, with weights that cannot saturate 16 bits",
    activations: Format { dtype: DType::Uint8, grid: Grid::U8 },
    processor: AVX2,
};

/// `arm64`. No such processor was at hand to measure: costs are those of `cpu-vnni`, whose dot products are alike.
pub(crate) const ARM64: Cpu = Cpu {
    name: "arm64",
    description: "ONNX Runtime on 64-bit ARM CPUs: int8 activations, int8 per-channel weights",
    activations: Format { dtype: DType::Int8, grid: Grid::I8 },
    processor: VNNI,
};

impl Target for Cpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn description(&self) -> &'static str {
        self.description
    }

    fn activations(&self) -> Format {
        self.activations
    }

    fn weights(&self) -> Format {
        Format { dtype: DType::Int8, grid: Grid::I8_SYMMETRIC }
    }

    fn min_opset(&self) -> i64 {
        // DequantizeLinear has an axis, for per-channel weights, since 13.
        13
    }

    fn support(&self, site: &Site<'_>) -> Support {
        if !site.op.is_onnx() {
            return float("not an ONNX operator: only its own domain knows it");
        }
        let activations = site.activations().into_iter().filter_map(|slot| site.operand(slot as usize));
        for o in activations.chain(site.result()) {
            match o.fact.dtype {
                Some(DType::Float) => {}
                Some(d) if d.is_float() => return float("only float32 activations have integer kernels"),
                Some(_) => return Support::Plain,
                None => return float("its element type is unknown"),
            }
        }
        match site.row.class {
            Class::Contraction => contraction(site),
            Class::Movement => movement(site),
            Class::Join => integer("QLinearConcat", Params::Own),
            Class::MaxPool => max_pool(site),
            Class::AveragePool => average_pool(site),
            Class::Binary => binary(site),
            Class::Clamp => Support::Absorbed,
            Class::Bounded => bounded(site),
            Class::Unary if site.op.op_type == "LeakyRelu" => integer("QLinearLeakyRelu", Params::Own),
            Class::Unary => float("no integer kernel for this function"),
            Class::Normalization => float("normalisations have no integer kernel"),
            Class::Reduction => float("reductions have no integer kernel"),
            Class::Recurrent => float("recurrent layers have no static integer kernel"),
            Class::Index => Support::Plain,
            Class::Control => float("bodies of control flow stay float"),
            Class::Quantized => float("already quantized"),
            Class::Other if site.op.op_type == "Where" => {
                float("selection between tensors pays only inside an integer region")
            }
            Class::Other => float("no integer kernel"),
        }
    }

    fn input_channels(&self, op: &Op, weight: &[usize]) -> Option<usize> {
        self.processor.input_channels(op, weight)
    }

    fn saturating_pairs(&self, op: &Op, weight: &[usize]) -> Option<Pairs> {
        self.processor.saturates.then(|| pairs::of(op, weight, self.input_channels(op, weight))).flatten()
    }

    fn dynamic(&self, site: &Site<'_>) -> Dynamic {
        dynamic::support(site)
    }

    fn dynamic_cost(&self, site: &Site<'_>, readers: usize) -> Option<u64> {
        self.processor.dynamic(site, readers)
    }

    fn cost(&self, site: &Site<'_>) -> Costs {
        self.processor.operator(site)
    }

    fn quantize_cost(&self, value: &Operand, producer: Option<&Site<'_>>) -> u64 {
        self.processor.quantize(value, producer)
    }

    fn dequantize_cost(&self, value: &Operand, reader: Option<&Site<'_>>) -> u64 {
        self.processor.dequantize(value, reader)
    }
}

fn float(reason: &'static str) -> Support {
    Support::Float { reason }
}

fn integer(kernel: &'static str, params: Params) -> Support {
    Support::Integer { kernel, params, float_result: FloatResult::Never }
}

fn contraction(site: &Site<'_>) -> Support {
    let op = site.op;
    let Some((_, weight, _)) = site.weight() else {
        return float("both operands are activations: unsigned times unsigned has no VNNI kernel");
    };
    if weight.fact.dtype != Some(DType::Float) {
        return float("its weight is not float32");
    }
    if site.operand(0).is_some_and(|x| x.konst().is_some()) {
        return float("its data operand is the constant");
    }
    if let Some(Some(b)) = site.operands.get(2)
        && b.konst().is_none()
    {
        return float("its bias is not a constant");
    }
    match op.op_type.as_str() {
        "Conv" => integer("QLinearConv", Params::Own),
        "Gemm" => {
            let plain = op.int("transA").unwrap_or(0) == 0
                && op.float("alpha").unwrap_or(1.0) == 1.0
                && op.float("beta").unwrap_or(1.0) == 1.0;
            let bias_ok =
                site.operand(2).and_then(|b| b.konst()).is_none_or(|b| gemm_bias_fits(b.dims(), site));
            match (plain, bias_ok) {
                (false, _) => float("Gemm with transA, alpha or beta has no integer kernel"),
                (_, false) => float("the bias of this Gemm is not one number per output"),
                _ => Support::Integer {
                    kernel: "QGemm",
                    params: Params::Own,
                    float_result: FloatResult::Always,
                },
            }
        }
        "MatMul" if site.operand(1).and_then(|w| w.rank()).is_some_and(|r| r < 2) => {
            float("a matrix times a vector has no integer kernel")
        }
        "MatMul" => Support::Integer {
            kernel: "QLinearMatMul",
            params: Params::Own,
            float_result: matmul_float_result(site),
        },
        "ConvTranspose" => float("ConvTranspose has no integer kernel"),
        _ => float("no integer kernel"),
    }
}

/// MatMulIntegerToFloat leaves its result in float; but the runtime first joins a MatMul with an Add behind
/// it into a Gemm, for which no such kernel exists, whenever it can: for matrices, and for stacks of matrices
/// whose lengths it knows (`matmul_add_fusion.cc`).
fn matmul_float_result(site: &Site<'_>) -> FloatResult {
    let shape = site.result().and_then(|r| r.fact.shape.as_ref());
    match shape {
        Some(s) if s.len() > 2 && s.iter().any(|d| d.known().is_none()) => FloatResult::Always,
        _ => FloatResult::UnlessReadBy("Add"),
    }
}

/// QGemm takes a bias of one number per output column only.
fn gemm_bias_fits(dims: &[usize], site: &Site<'_>) -> bool {
    let columns = site.weight().and_then(|(_, w, axis)| Some(w.konst()?.dims()[axis?]));
    matches!((dims, columns), ([n], Some(c)) | ([1, n], Some(c)) if *n == c)
}

fn movement(site: &Site<'_>) -> Support {
    let (op, same) = (site.op, Params::SameAsInput);
    match op.op_type.as_str() {
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather" | "GatherElements"
        | "Expand" | "Tile" | "Flatten" | "DepthToSpace" | "Split" => {
            if site.operand(0).is_some_and(|x| x.konst().is_some()) {
                float("it reads a table of constants")
            } else {
                integer("moved as uint8", same)
            }
        }
        "Resize" if op.string("mode").unwrap_or("nearest") == "nearest" => integer("moved as uint8", same),
        "Resize" | "Upsample" => float("Resize interpolates: only nearest has an integer kernel"),
        "Pad" => float("Pad has no integer kernel"),
        _ => float("no integer kernel"),
    }
}

fn max_pool(site: &Site<'_>) -> Support {
    let indices = site.results.get(1).is_some_and(Option::is_some);
    match site.op.op_type.as_str() {
        "MaxPool" if indices => float("MaxPool with indices has no integer kernel"),
        // The 8-bit kernel came with operator set 12, and only for up to three spatial axes.
        "MaxPool" => integer("MaxPool", Params::SameAsInput),
        _ => float("no integer kernel"),
    }
}

fn average_pool(site: &Site<'_>) -> Support {
    match site.op.op_type.as_str() {
        "AveragePool" if site.op.ints("dilations").is_some_and(|d| d.iter().any(|x| *x != 1)) => {
            float("AveragePool with dilations has no integer kernel")
        }
        "AveragePool" => integer("QLinearAveragePool", Params::Own),
        "GlobalAveragePool" => integer("QLinearGlobalAveragePool", Params::Own),
        _ => float("no integer kernel"),
    }
}

fn binary(site: &Site<'_>) -> Support {
    match site.op.op_type.as_str() {
        "Add" => integer("QLinearAdd", Params::Own),
        "Mul" => integer("QLinearMul", Params::Own),
        _ => float("no integer kernel for this arithmetic"),
    }
}

fn bounded(site: &Site<'_>) -> Support {
    match site.op.op_type.as_str() {
        "Sigmoid" => integer("QLinearSigmoid", Params::Fixed { lo: 0.0, hi: 255.0 / 256.0 }),
        "Softmax" => integer("QLinearSoftmax", Params::Fixed { lo: 0.0, hi: 255.0 / 256.0 }),
        _ => float("no integer kernel for this function"),
    }
}

/// The target of this processor.
pub(crate) fn host() -> &'static Cpu {
    #[cfg(target_arch = "x86_64")]
    {
        // AVX-VNNI without AVX-512 has kernels of its own in the runtime, also exact.
        let vnni = std::arch::is_x86_feature_detected!("avx512vnni")
            || std::arch::is_x86_feature_detected!("avxvnni");
        if vnni { &CPU_VNNI } else { &CPU_AVX2 }
    }
    #[cfg(target_arch = "aarch64")]
    {
        &ARM64
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        &CPU_VNNI
    }
}
