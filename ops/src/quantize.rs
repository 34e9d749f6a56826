//! Operators that are quantized already: what `squint` emits, and what half-quantized models contain.
//!
//! Source: ONNX `Operators.md`, and ONNX Runtime's `ContribOperators.md` for the domain `com.microsoft`. Scales
//! and zero points are parameters; integers are plain results, because they need no quantization any more.

mod linear;
mod qlinear;
mod table;

use crate::row::Infer;
use crate::{Class, Out, Port, Row, control};

/// Data.
const X: Port = Port::Act;
/// A scale or a zero point.
const P: Port = Port::Param;

const fn integers(op_type: &'static str, since: &'static [i64], ports: &'static [Port], infer: Infer) -> Row {
    Row::new(op_type, since, Class::Quantized, infer).ports(ports).outs(&[Out::Plain])
}

const fn floats(op_type: &'static str, since: &'static [i64], ports: &'static [Port], infer: Infer) -> Row {
    Row::new(op_type, since, Class::Quantized, infer).ports(ports)
}

const LINEAR: &[i64] = &[10, 13, 19, 21, 23, 24, 25, 28];
/// Data, scale and zero point, then scale and zero point of the result.
const UNARY: &[Port] = &[X, P, P, P, P];
/// Twice data, scale and zero point, then scale and zero point of the result.
const BINARY: &[Port] = &[X, P, P, X, P, P, P, P];

pub(crate) const ROWS: &[Row] = &[
    integers("QuantizeLinear", LINEAR, &[X, P, P], linear::infer_quantize).eval(linear::eval_quantize),
    floats("DequantizeLinear", LINEAR, &[X, P, P], linear::infer_dequantize).eval(linear::eval_dequantize),
    integers("DynamicQuantizeLinear", &[11], &[X], linear::infer_dynamic),
    integers("QLinearConv", &[10], &[X, P, P, X, P, P, P, P, Port::Bias], qlinear::conv),
    integers("QLinearMatMul", &[10, 21], BINARY, qlinear::matmul),
    integers("ConvInteger", &[10], &[X, X, P, P], qlinear::conv_integer),
    integers("MatMulInteger", &[10], &[X, X, P, P], qlinear::matmul_integer),
    // com.microsoft
    integers("QuantizeLinear", &[1], &[X, P, P], linear::infer_quantize)
        .microsoft()
        .eval(linear::eval_quantize),
    floats("DequantizeLinear", &[1], &[X, P, P], linear::infer_dequantize)
        .microsoft()
        .eval(linear::eval_dequantize),
    integers("QLinearConv", &[1], &[X, P, P, X, P, P, P, P, Port::Bias], qlinear::conv).microsoft(),
    integers("QLinearAdd", &[1], BINARY, qlinear::binary).microsoft(),
    integers("QLinearMul", &[1], BINARY, qlinear::binary).microsoft(),
    integers("QLinearSigmoid", &[1], UNARY, qlinear::unary).microsoft(),
    integers("QLinearLeakyRelu", &[1], UNARY, qlinear::unary).microsoft(),
    integers("QLinearSoftmax", &[1], UNARY, qlinear::unary).microsoft(),
    integers("QLinearAveragePool", &[1], UNARY, qlinear::average_pool).microsoft(),
    integers("QLinearGlobalAveragePool", &[1], UNARY, qlinear::global_average_pool).microsoft(),
    // From slot 2 on, every third is data and the rest its scale and zero point, which `ports` cannot say.
    integers("QLinearConcat", &[1], &[P, P, X], qlinear::concat).microsoft(),
    integers("QLinearWhere", &[1], &[Port::Index, X, P, P, X, P, P, P, P], qlinear::choose).microsoft(),
    integers("QGemm", &[1], &[X, P, P, X, P, P, Port::Bias, P, P], qlinear::gemm).microsoft(),
    floats("MatMulIntegerToFloat", &[1], &[X, X, P, P, P, P, Port::Bias], qlinear::matmul_to_float)
        .microsoft(),
    floats("DynamicQuantizeMatMul", &[1], &[X, X, P, P, Port::Bias], qlinear::matmul_to_float).microsoft(),
    floats("MatMulNBits", &[1], &[X, P], qlinear::matmul_n_bits).microsoft(),
    floats("GatherBlockQuantized", &[1], &[P, Port::Index, P, P], table::infer).microsoft().eval(table::eval),
    floats("DynamicQuantizeLSTM", &[1], &[X, P], control::recurrent).microsoft(),
];
