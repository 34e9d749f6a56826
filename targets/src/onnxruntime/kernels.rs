//! Which operators of a model have an integer kernel on the CPU, and in which patterns ONNX Runtime finds it.
//!
//! One row per operator, after `qdq_selector_action_transformer.cc` of release 1.31. Placement asks this table what
//! could run in integers, and the [simulator](super) asks it what does: there is one truth. The oracle builds a
//! pattern for each row and compares the prediction with the graph that the runtime writes.

use crate::{Operand, Site};
use squint_ops::MICROSOFT;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Operator type in the float graph.
    pub(crate) op_type: &'static str,
    /// Operator type of the integer kernel; that of the operator itself where it moves integers as they are.
    pub(crate) name: &'static str,
    /// Domain of the kernel.
    pub(crate) domain: &'static str,
    /// The pattern of DequantizeLinear and QuantizeLinear around the operator.
    pub(crate) pattern: Pattern,
}

/// What has to stand around an operator for it to run in integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Data, weight and, if there is one, bias dequantized, the result quantized.
    Conv,
    /// Both operands dequantized; the result quantized, or not (`MatMulIntegerToFloat`).
    MatMul,
    /// All operands dequantized; the result quantized or not.
    Gemm,
    /// One operand dequantized and the result quantized, in the same type.
    Unary,
    /// All operands dequantized and the result quantized, in the same type.
    All,
    /// Both data operands dequantized and the result quantized, in the same type; the condition is none.
    Where,
    /// The operand dequantized and every result quantized with the same parameters: the elements are only moved.
    Moved {
        /// Whether 16-bit integers may be moved too.
        wide: bool,
        /// Whether the scale must be positive, as elements are compared.
        ordered: bool,
    },
    /// The operand dequantized; the result is no activation.
    Read,
}

const fn own(op_type: &'static str, name: &'static str, pattern: Pattern) -> Kernel {
    Kernel { op_type, name, domain: MICROSOFT, pattern }
}

const fn standard(op_type: &'static str, name: &'static str, pattern: Pattern) -> Kernel {
    Kernel { op_type, name, domain: "", pattern }
}

const fn moved(op_type: &'static str) -> Kernel {
    standard(op_type, op_type, Pattern::Moved { wide: true, ordered: false })
}

const fn compared(op_type: &'static str) -> Kernel {
    standard(op_type, op_type, Pattern::Moved { wide: false, ordered: true })
}

const KERNELS: &[Kernel] = &[
    standard("Conv", "QLinearConv", Pattern::Conv),
    standard("MatMul", "QLinearMatMul", Pattern::MatMul),
    own("Gemm", "QGemm", Pattern::Gemm),
    own("Add", "QLinearAdd", Pattern::All),
    own("Mul", "QLinearMul", Pattern::All),
    own("Concat", "QLinearConcat", Pattern::All),
    own("Where", "QLinearWhere", Pattern::Where),
    own("AveragePool", "QLinearAveragePool", Pattern::Unary),
    own("GlobalAveragePool", "QLinearGlobalAveragePool", Pattern::Unary),
    own("LeakyRelu", "QLinearLeakyRelu", Pattern::Unary),
    own("Sigmoid", "QLinearSigmoid", Pattern::Unary),
    own("Softmax", "QLinearSoftmax", Pattern::Unary),
    compared("MaxPool"),
    compared("ReduceMax"),
    compared("ReduceMin"),
    standard("Resize", "Resize", Pattern::Moved { wide: false, ordered: false }),
    moved("Split"),
    moved("DepthToSpace"),
    moved("Expand"),
    moved("Flatten"),
    moved("Gather"),
    moved("GatherElements"),
    moved("Reshape"),
    moved("Slice"),
    moved("Squeeze"),
    moved("Tile"),
    moved("Transpose"),
    moved("Unsqueeze"),
    standard("ArgMax", "ArgMax", Pattern::Read),
];

/// The name of the kernel that leaves the product of two integer matrices in float.
pub(crate) const MATMUL_TO_FLOAT: &str = "MatMulIntegerToFloat";

/// Operators that are integer kernels by themselves, whatever stands around them.
const INTEGER: &[&str] = &[
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "NhwcMaxPool",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearReduceMean",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearWhere",
    "QMoE",
];

/// The row of an operator of the default domain, if some pattern around it gives integers.
pub(crate) fn kernel(op_type: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|k| k.op_type == op_type)
}

/// Whether an operator is an integer kernel by itself.
pub(crate) fn is_integer(op_type: &str) -> bool {
    INTEGER.binary_search(&op_type).is_ok()
}

/// Whether the attributes and shapes of an operator suit its integer kernel, whatever stands around it.
///
/// # Errors
/// What does not suit, in the user's language.
pub(crate) fn suits(site: &Site<'_>) -> Result<(), &'static str> {
    let op = site.op;
    match op.op_type.as_str() {
        "Gemm" => gemm(site),
        "MatMul" if site.operand(1).and_then(Operand::rank).is_some_and(|r| r < 2) => {
            Err("a matrix times a vector has no integer kernel")
        }
        "MaxPool" if site.opset < 12 => Err("MaxPool has an integer kernel from operator set 12 on"),
        "MaxPool" if site.results.get(1).is_some_and(Option::is_some) => {
            Err("MaxPool with indices has no integer kernel")
        }
        // The integer kernel does not know the attribute, and the model would be refused.
        "AveragePool" if op.attr("dilations").is_some() => {
            Err("AveragePool with dilations has no integer kernel")
        }
        "Resize" if op.string("mode").unwrap_or("nearest") != "nearest" => {
            Err("Resize interpolates: only nearest has an integer kernel")
        }
        _ => Ok(()),
    }
}

fn gemm(site: &Site<'_>) -> Result<(), &'static str> {
    let op = site.op;
    let one = |name: &str| op.float(name).unwrap_or(1.0) == 1.0;
    // QGemm would not apply them to the bias.
    if site.operand(2).is_some() && !(one("alpha") && one("beta")) {
        return Err("Gemm with a bias and alpha or beta has no integer kernel");
    }
    // QGemm takes a bias of one number per output column only.
    let columns = || {
        let axis = usize::from(op.int("transB").unwrap_or(0) == 0);
        site.operand(1)?.dims.as_ref()?.get(axis).copied()
    };
    let Some(bias) = site.operand(2).and_then(|b| b.dims.as_deref()) else { return Ok(()) };
    match (bias, columns()) {
        ([n] | [1, n], Some(c)) if *n == c => Ok(()),
        (_, None) => Ok(()),
        _ => Err("the bias of this Gemm is not one number per output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_integer_kernels_is_sorted_and_holds_those_of_the_table() {
        assert!(INTEGER.is_sorted());
        for k in KERNELS.iter().filter(|k| k.op_type != k.name) {
            assert!(is_integer(k.name), "{}", k.name);
        }
    }
}
