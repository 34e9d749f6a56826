//! ONNX Runtime on x86-64 with VNNI (AVX512-VNNI or AVX-VNNI).
//!
//! Unsigned activations with signed weights are the one combination with a fast exact kernel there
//! (`VPDPBUSD`); per-channel weight scales cost nothing. What fuses is a claim about ONNX Runtime's
//! `qdq_selector_action_transformer.cc` and `qdq_selectors.cc`, release 1.31; the oracle checks it
//! against what the runtime writes out after optimisation. What kernels cost was measured: [`table`].

mod costs;
mod table;

use crate::{Costs, FloatResult, Format, Operand, Params, Site, Support, Target};
use squint_ir::affine::Grid;
use squint_ir::{DType, Op};
use squint_ops::Class;

/// The target `cpu-vnni`.
pub(crate) struct CpuVnni;

impl Target for CpuVnni {
    fn name(&self) -> &'static str {
        "cpu-vnni"
    }

    fn description(&self) -> &'static str {
        "ONNX Runtime on x86-64 CPUs with VNNI: uint8 activations, int8 per-channel weights, QDQ form"
    }

    fn activations(&self) -> Format {
        Format { dtype: DType::Uint8, grid: Grid::U8 }
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
        costs::input_channels(op, weight)
    }

    fn cost(&self, site: &Site<'_>) -> Costs {
        costs::operator(site)
    }

    fn quantize_cost(&self, value: &Operand, producer: Option<&Site<'_>>) -> u64 {
        costs::quantize(value, producer)
    }

    fn dequantize_cost(&self, value: &Operand, reader: Option<&Site<'_>>) -> u64 {
        costs::dequantize(value, reader)
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
