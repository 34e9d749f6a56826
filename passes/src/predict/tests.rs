//! What is predicted of small graphs.

use super::*;

/// What becomes of the operators of a graph that are neither conversions nor folded: its type and kernel or reason.
fn fates(opset: i64, signature: &str, constants: &str, body: &str) -> Vec<String> {
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : {opset}, \"com.microsoft\" : 1]>\ng {signature}\n\
         <float s = {{0.05}}, float s2 = {{0.1}}, uint8 z = {{128}}, uint8 zero = {{0}}, {constants}>\n{{ {body} }}"
    );
    let model = squint_ir::text::parse(&text).unwrap();
    let forecast = predict(&model, "cpu-vnni").unwrap();
    let fate = |n: &NodeForecast| match &n.runs {
        Runs::Integer { kernel, .. } => Some(format!("{}: {kernel}", n.op_type)),
        Runs::Float(why) => Some(format!("{}: {}", n.op_type, why.reason)),
        Runs::Inside(_)
            if !n.op_type.ends_with("quantizeLinear") && !n.op_type.ends_with("QuantizeLinear") =>
        {
            Some(format!("{}: in {}", n.op_type, forecast.nodes[n.inside?].op_type))
        }
        _ => None,
    };
    forecast.nodes.iter().filter(|n| n.op_type != "DequantizeLinear").filter_map(fate).collect()
}

const IMAGE: &str = "(float[1,2,4,4] x) => (float[1,2,4,4] y)";
const WEIGHT: &str = "float ws = {0.01}, int8 wz = {0}, int8[2,2,1,1] w = {1, 2, 3, 4}";

#[test]
fn a_convolution_needs_a_quantized_result_that_nobody_else_reads() {
    let conv = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) \
                wd = DequantizeLinear (w, ws, wz) c = Conv (d, wd)";
    let all = fates(
        17,
        IMAGE,
        WEIGHT,
        &format!("{conv} cq = QuantizeLinear (c, s2, z) y = DequantizeLinear (cq, s2, z)"),
    );
    assert_eq!(all, ["Conv: QLinearConv"]);
    let float = fates(17, IMAGE, WEIGHT, &format!("{conv} y = Tanh (c)"));
    assert_eq!(float, ["Conv: its result `c` is not quantized", "Tanh: no integer kernel for Tanh"]);
    let both = "(float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] c)";
    let output = fates(
        17,
        both,
        WEIGHT,
        &format!("{conv} cq = QuantizeLinear (c, s2, z) y = DequantizeLinear (cq, s2, z)"),
    );
    assert_eq!(output, ["Conv: its result `c` is also a graph output"]);
}

#[test]
fn a_bias_has_the_product_of_scales() {
    let body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) \
                wd = DequantizeLinear (w, ws, wz) bd = DequantizeLinear (b, bs) c = Conv (d, wd, bd) \
                cq = QuantizeLinear (c, s2, z) y = DequantizeLinear (cq, s2, z)";
    let with = |scale: &str| format!("{WEIGHT}, int32[2] b = {{1, 2}}, float bs = {{{scale}}}");
    assert_eq!(fates(17, IMAGE, &with("0.0005"), body), ["Conv: QLinearConv"]);
    assert_eq!(
        fates(17, IMAGE, &with("0.000515"), body),
        ["Conv: the scale of its bias is 3.0 % off the product of those of data and weight"]
    );
}

#[test]
fn a_product_with_a_float_bias_and_result_is_joined_in_float() {
    let matrix = "(float[2,2] x) => (float[2,2] y)";
    let constants = "float ws = {0.01}, int8 wz = {0}, int8[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}";
    let product =
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) wd = DequantizeLinear (w, ws, wz)";
    assert_eq!(
        fates(17, matrix, constants, &format!("{product} y = MatMul (d, wd)")),
        ["MatMul: MatMulIntegerToFloat"]
    );
    let added = fates(17, matrix, constants, &format!("{product} m = MatMul (d, wd) y = Add (m, b)"));
    assert_eq!(
        added,
        [
            "MatMul: joined with the Add behind it to a Gemm, and its operand `b` is not quantized",
            "Add: in MatMul"
        ]
    );
}

#[test]
fn moved_elements_need_the_same_parameters() {
    let body = |scale: &str| {
        format!(
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) t = Transpose <perm = [0,1,3,2]> (d) \
             tq = QuantizeLinear (t, {scale}, z) y = DequantizeLinear (tq, {scale}, z)"
        )
    };
    assert_eq!(fates(17, IMAGE, WEIGHT, &body("s")), ["Transpose: Transpose of uint8"]);
    assert_eq!(
        fates(17, IMAGE, WEIGHT, &body("s2")),
        ["Transpose: the scales before and behind it differ: 0.05 and 0.1"]
    );
}

#[test]
fn dynamic_quantization_becomes_one_kernel() {
    let body = "q, qs, qz = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, qz, wz) \
                f = Cast <to = 1> (i) m = Mul (qs, ws) y = Mul (f, m)";
    let constants = "float ws = {0.01}, int8 wz = {0}, int8[2,2] w = {1, 2, 3, 4}";
    let got = fates(17, "(float[2,2] x) => (float[2,2] y)", constants, body);
    assert!(got.contains(&"MatMulInteger: DynamicQuantizeMatMul".to_owned()), "{got:?}");
}

#[test]
fn two_pairs_in_a_row_are_one_however_many_read_them() {
    let constants =
        "float ws = {0.01}, int8 wz = {0}, int8[2,2,1,1] w = {1, 2, 3, 4}, int8 n = {0}, int8 m = {4}";
    let body = "q = QuantizeLinear (x, s, n) d = DequantizeLinear (q, s, n) \
                q2 = QuantizeLinear (d, s2, m) a = DequantizeLinear (q2, s2, m) b = DequantizeLinear (q2, s2, m) \
                wd = DequantizeLinear (w, ws, wz) c = Conv (a, wd) \
                cq = QuantizeLinear (c, s2, z) y = DequantizeLinear (cq, s2, z) t = Tanh (b)";
    let both = "(float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] t)";
    // Two signed pairs, and two readers of what is quantized: none of it becomes unsigned.
    let fates = fates(17, both, constants, body);
    assert_eq!(fates[0], "Conv: its data is int8, and only uint8 has a kernel");
    // With one reader it does.
    let alone = body.replace("t = Tanh (b)", "").replace("b = DequantizeLinear (q2, s2, m) ", "");
    assert_eq!(super::tests::fates(17, IMAGE, constants, &alone), ["Conv: QLinearConv"]);
}

#[test]
fn transposes_go_forward_until_they_cancel() {
    let constants = "float ws = {0.01}, int8 wz = {0}, int8[2,2,1,1] w = {1, 2, 3, 4}";
    let nhwc = "(float[1,4,4,2] x) => (float[1,4,4,2] y)";
    let conv = |x: &str, y: &str| {
        format!(
            "{y}w = DequantizeLinear (w, ws, wz) {y}i = Transpose <perm = [0,3,1,2]> ({x}) {y}c = Conv ({y}i, {y}w) \
             {y}o = Transpose <perm = [0,2,3,1]> ({y}c) {y}q = QuantizeLinear ({y}o, s2, z) \
             {y} = DequantizeLinear ({y}q, s2, z)"
        )
    };
    let start = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)";
    let text = format!("{start} {} {}", conv("d", "a"), conv("a", "y"));
    let fates = fates(17, nhwc, constants, &text);
    let convolutions: Vec<_> = fates.iter().filter(|f| f.starts_with("Conv")).collect();
    assert_eq!(convolutions, ["Conv: QLinearConv", "Conv: QLinearConv"]);
    let floats: Vec<_> =
        fates.iter().filter(|f| f.starts_with("Transpose") && !f.contains("of uint8")).collect();
    assert!(floats.is_empty(), "{floats:?}");
}

#[test]
fn a_transposed_weight_is_an_attribute_of_a_gemm() {
    let constants = "float ws = {0.01}, int8 wz = {0}, int8[2,2] w = {1, 2, 3, 4}";
    let body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) wd = DequantizeLinear (w, ws, wz) \
                t = Transpose <perm = [1,0]> (wd) y = Gemm (d, t)";
    let fates = fates(17, "(float[2,2] x) => (float[2,2] y)", constants, body);
    assert_eq!(fates, ["Transpose: in Gemm", "Gemm: QGemm"]);
}

#[test]
fn a_permutation_of_axes_that_are_not_there_is_a_fault() {
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>\n\
                g (float[8] x) => (float[1,2,2,2] y) { n = Neg (x) y = Transpose <perm = [0,2,3,1]> (n) }";
    let model = squint_ir::text::parse(text).unwrap();
    let faults = predict(&model, "cpu-vnni").unwrap().faults;
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].1.problem, "it permutes axis 2, and its operand has 1 axes");
}

#[test]
fn what_the_runtime_refuses_is_said() {
    let text = "<ir_version: 8, opset_import: [\"\" : 11, \"my.ops\" : 1]>\n\
                g (uint8[2,2] x) => (float[2,2] y)\n\
                <float[2] s = {0.1, 0.2}, uint8[2] z = {0, 0}> \
                { d = DequantizeLinear <axis = 1> (x, s, z) y = my.ops.Twist (d) }";
    let model = squint_ir::text::parse(text).unwrap();
    let problems: Vec<String> =
        predict(&model, "cpu-vnni").unwrap().faults.into_iter().map(|(_, f)| f.problem).collect();
    assert_eq!(
        problems,
        [
            "such a DequantizeLinear needs operator set 13, the model has 11",
            "the domain `my.ops` of Twist is not built in"
        ]
    );
}
