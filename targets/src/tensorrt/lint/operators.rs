//! Operators that TensorRT's parser does not have.

use super::Findings;
use squint_ir::OpId;

pub(super) fn check(f: &mut Findings<'_>, op: OpId) {
    let o = f.g.op(op);
    let op_type = &o.op_type;
    match (o.domain.as_str(), op_type.as_str()) {
        ("", "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger") => f.refuse(
            "integer-operator",
            op,
            format!("No importer registered for op: {op_type}: operators on integers are refused"),
            "write it with Q/DQ around the float operator",
        ),
        ("", "DynamicQuantizeLinear") => f.refuse(
            "dynamic-quantization",
            op,
            "No importer registered for op: DynamicQuantizeLinear: scales must be constants",
            "quantize statically, with calibration data",
        ),
        ("com.microsoft", "QuantizeLinear" | "DequantizeLinear") => f.refuse(
            "microsoft-quantizer",
            op,
            format!("No importer registered for op: {op_type} of domain com.microsoft"),
            "use the operator of the default domain (types of 4 bits need operator set 21)",
        ),
        ("com.microsoft", _) => f.refuse(
            "microsoft-operator",
            op,
            format!("No importer registered for op: {op_type} of domain com.microsoft"),
            "export the float model without optimisation for ONNX Runtime, and quantize that",
        ),
        _ => {}
    }
}
