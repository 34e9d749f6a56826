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

use crate::onnxruntime::kernels::{self, Kernel, Pattern};
use crate::onnxruntime::{self, Signs};
use crate::{
    Costs, Dynamic, FloatKernels, FloatResult, Format, Numbers, Operand, Pairs, Params, Prediction, Site,
    Subject, Support, Target, Window,
};
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
    /// What its float kernels prefer.
    float: FloatKernels,
}

const VNNI: Processor = Processor {
    table: &table::vnni::TABLE,
    direct_outputs: 4,
    saturates: false,
    float: FloatKernels { block: Some(16) },
};

const AVX2: Processor = Processor {
    table: &table::avx2::TABLE,
    direct_outputs: 8,
    saturates: true,
    float: FloatKernels { block: Some(8) },
};

/// Costs are those of [`VNNI`], whose dot products are alike. The blocked layout of float convolutions is not built for
/// this processor.
const DOT_PRODUCTS: Processor = Processor { float: FloatKernels { block: None }, ..VNNI };

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

/// `arm64`. No such processor was at hand to measure.
pub(crate) const ARM64: Cpu = Cpu {
    name: "arm64",
    description: "ONNX Runtime on 64-bit ARM CPUs: int8 activations, int8 per-channel weights",
    activations: Format { dtype: DType::Int8, grid: Grid::I8 },
    processor: DOT_PRODUCTS,
};

impl Target for Cpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn description(&self) -> &'static str {
        self.description
    }

    fn without_16_bits(&self) -> &'static str {
        // Its selectors of Q/DQ patterns take 16 bits only for operators that move data, which drop the quantizers.
        "ONNX Runtime's CPU provider has no kernel that computes with activations of 16 bits: it would compute in \
         float and convert besides; `float` keeps them in float"
    }

    fn activations(&self) -> Format {
        self.activations
    }

    fn weights(&self) -> Format {
        Format { dtype: DType::Int8, grid: Grid::I8_SYMMETRIC }
    }

    fn bound_operands(&self, site: &Site<'_>) -> Vec<u32> {
        // The runtime moves a DequantizeLinear down through these (`qdq_propagation.cc`): behind integers they move
        // integers, whatever is written.
        match site.op.op_type.as_str() {
            "Reshape" | "Transpose" => vec![0],
            _ => Vec::new(),
        }
    }

    fn bound_to_operands(&self, site: &Site<'_>) -> Vec<u32> {
        // Behind a QuantizeLinear a pool is not moved to the layout of integer convolutions, and its kernel for the other
        // is up to ten times slower than the float one.
        match site.row.class {
            Class::MaxPool | Class::AveragePool => vec![0],
            _ => Vec::new(),
        }
    }

    fn integer_neighbours(&self, window: Window) -> Option<u64> {
        self.processor.integer_neighbours(window)
    }

    fn float_kernels(&self) -> Option<&FloatKernels> {
        Some(&self.processor.float)
    }

    fn min_opset(&self) -> i64 {
        // DequantizeLinear has an axis, for per-channel weights, since 13.
        13
    }

    fn max_opset(&self) -> i64 {
        // It reads newer ones than it guarantees.
        i64::MAX
    }

    fn lacks(&self, numbers: Numbers) -> Option<String> {
        match numbers {
            Numbers::Half(dtype) => Some(format!(
                "ONNX Runtime has no kernels for {dtype} on CPUs: it would cast to float32 and back around each operator"
            )),
            Numbers::Float8 => Some("ONNX Runtime has no kernels for 8-bit floats on CPUs".into()),
            Numbers::Blocks { size, .. } if size < 16 || !size.is_power_of_two() => {
                Some(format!("blocks of {size} weights: MatMulNBits takes powers of two from 16 on"))
            }
            Numbers::Blocks { .. } | Numbers::Tables { .. } => None,
        }
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
            Class::Clamp => return Support::Absorbed,
            Class::Index => return Support::Plain,
            Class::Reduction => return float("reductions have no integer kernel"),
            _ => {}
        }
        match site.op.op_type.as_str() {
            // No kernels of their own, but arithmetic that has some: an addition whose grid clips, and a product.
            "HardSwish" => return integer("QLinearAdd and QLinearMul", Params::Own),
            "HardSigmoid" if rises(site.op) => {
                return integer("QLinearAdd", Params::Fixed { lo: 0.0, hi: 1.0 });
            }
            _ => {}
        }
        let Some(kernel) = kernels::kernel(&site.op.op_type) else { return float(without_kernel(site)) };
        if let Err(why) = kernels::suits(site) {
            return float(why);
        }
        match kernel.pattern {
            Pattern::Conv | Pattern::MatMul | Pattern::Gemm => contraction(site, kernel),
            Pattern::Unary | Pattern::All if site.row.class == Class::Bounded => {
                integer(kernel.name, Params::Fixed { lo: 0.0, hi: 255.0 / 256.0 })
            }
            Pattern::Unary | Pattern::All => integer(kernel.name, Params::Own),
            Pattern::Where => float("selection between tensors pays only inside an integer region"),
            Pattern::Moved { .. } if site.row.class == Class::MaxPool => {
                integer(kernel.name, Params::SameAsInput)
            }
            Pattern::Moved { .. } if site.operand(0).is_some_and(|x| x.konst().is_some()) => {
                float("it reads a table of constants")
            }
            Pattern::Moved { .. } => integer("moved as uint8", Params::SameAsInput),
            Pattern::Read => float("no integer kernel"),
        }
    }

    fn predict(&self, subject: &Subject<'_>) -> Option<Prediction> {
        let signed = self.activations.dtype == DType::Int8;
        Some(onnxruntime::predict(subject, Signs { signed, slow_unsigned_weights: !signed }))
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

/// True for a HardSigmoid that is larger where its operand is: then a scale makes its line.
fn rises(op: &Op) -> bool {
    let (alpha, beta) = (op.float("alpha").unwrap_or(0.2), op.float("beta").unwrap_or(0.5));
    alpha.is_normal() && alpha > 0.0 && beta.is_finite()
}

/// Why an operator without a kernel stays in float.
fn without_kernel(site: &Site<'_>) -> &'static str {
    match (site.row.class, site.op.op_type.as_str()) {
        (_, "ConvTranspose") => "ConvTranspose has no integer kernel",
        (_, "Pad") => "Pad has no integer kernel",
        (_, "Upsample") => "Resize interpolates: only nearest has an integer kernel",
        (Class::Binary, _) => "no integer kernel for this arithmetic",
        (Class::Unary | Class::Bounded, _) => "no integer kernel for this function",
        (Class::Normalization, _) => "normalisations have no integer kernel",
        (Class::Recurrent, _) => "recurrent layers have no static integer kernel",
        (Class::Control, _) => "bodies of control flow stay float",
        (Class::Quantized, _) => "already quantized",
        _ => "no integer kernel",
    }
}

fn contraction(site: &Site<'_>, kernel: &Kernel) -> Support {
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
    let float_result = match kernel.pattern {
        Pattern::Gemm => FloatResult::Always,
        Pattern::MatMul => matmul_float_result(site),
        _ => FloatResult::Never,
    };
    Support::Integer { kernel: kernel.name, params: Params::Own, float_result }
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
