//! One small bad model for each rule, and good ones in which nothing is found.

use super::lint;
use crate::tensorrt::Version;
use squint_ir::{Model, text};

/// A graph from `x` to `y`, both `[1, 2, 4, 4]`, with parameters that most cases use.
fn model(opset: i64, more: &str, body: &str) -> Model {
    let source = format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
m (float[1,2,4,4] x, float[1,2,4,4] x2, float ds) => (float[1,2,4,4] y)
<float s = {{0.1}}, float t = {{0.2}}, int8 z = {{0}}, float[2] s2 = {{0.1, 0.2}}, int8[2] z2 = {{0, 0}},
 int8[2,2,1,1] w = {{1, 2, 3, 4}}, float[2,2,1,1] wf = {{1, 2, 3, 4}}, float[2] bias = {{0.5, 0.25}},
 int8[2,2] m2 = {{1, 2, 3, 4}}{more}>
{{ {body} }}"#
    );
    text::parse(&source).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// Q/DQ around `x`, and the weight `w` with a scale for each output channel.
const PAIRED: &str = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) dw = DequantizeLinear <axis = 0> (w, s2, z2)";

fn rules(opset: i64, more: &str, body: &str) -> Vec<&'static str> {
    rules_of(Version::V11, opset, more, body)
}

fn rules_of(version: Version, opset: i64, more: &str, body: &str) -> Vec<&'static str> {
    lint(&model(opset, more, body), version).into_iter().map(|f| f.rule).collect()
}

/// Of an activation, without a weighted operator.
fn pair(more: &str, quantize: &str, dequantize: &str) -> Vec<&'static str> {
    rules(21, more, &format!("q = {quantize} y = {dequantize}"))
}

#[test]
fn what_is_placed_by_the_rules_is_clean() {
    let good = [
        format!("{PAIRED} y = Conv (d, dw, bias)"),
        format!("{PAIRED} c = Conv (d, dw, bias) y = Relu (c)"),
        // A residual Add with the skip connection quantized.
        format!("{PAIRED} c = Conv (d, dw, bias) a = Add (c, d) y = Relu (a)"),
        // A Concat and a pool between equal scales.
        format!(
            "{PAIRED} c = MaxPool <kernel_shape = [1, 1]> (d) qc = QuantizeLinear (c, s, z) dc = DequantizeLinear (qc, s, z) \
             y = Conv (dc, dw)"
        ),
        // A float weight with Q/DQ of its own.
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) qw = QuantizeLinear <axis = 0> (wf, s2, z2) \
         dw = DequantizeLinear <axis = 0> (qw, s2, z2) y = Conv (d, dw)"
            .to_owned(),
        "y = Conv (x, wf, bias)".to_owned(),
    ];
    for body in good {
        assert_eq!(rules(13, "", &body), [""; 0], "{body}");
    }
}

#[test]
fn parameters_that_the_parser_refuses() {
    let q = "QuantizeLinear (x, s, z)";
    let d = "DequantizeLinear (q, s, z)";
    // Extra constants, the two operators, what is found.
    let cases: [(&str, &str, &str, &[&str]); 14] = [
        (", int8 z3 = {3}", "QuantizeLinear (x, s, z3)", d, &["zero-point"]),
        (", int8 z3 = {3}", q, "DequantizeLinear (q, s, z3)", &["zero-point"]),
        (", uint8 u = {0}", "QuantizeLinear (x, s, u)", "DequantizeLinear (q, s, u)", &["uint8", "uint8"]),
        (", float n = {-0.1}", "QuantizeLinear (x, n, z)", d, &["scale-not-positive"]),
        (", float n = {0}", q, "DequantizeLinear (q, n, z)", &["scale-not-positive"]),
        (", float n = {inf}", "QuantizeLinear (x, n, z)", d, &["scale-not-finite"]),
        (", float[0] n = {}, int8[0] e = {}", "QuantizeLinear (x, n, e)", d, &["scale-empty"]),
        ("", "QuantizeLinear (x, ds, z)", d, &["scale-not-constant"]),
        ("", "QuantizeLinear <axis = 1> (x, s2, z2)", d, &["per-channel-activation"]),
        ("", q, "DequantizeLinear <axis = 1> (q, s2, z2)", &["per-channel-activation"]),
        ("", "QuantizeLinear (x, s, z2)", d, &["zero-point-shape"]),
        (", int16 h = {0}", "QuantizeLinear (x, s, h)", "DequantizeLinear (q, s, h)", &["16-bit", "16-bit"]),
        ("", "QuantizeLinear <output_dtype = 2> (x, s, z)", d, &["zero-point-type"]),
        ("", "QuantizeLinear (x, s)", "DequantizeLinear (q, s)", &["uint8"]),
    ];
    for (more, q, d, found) in cases {
        assert_eq!(pair(more, q, d), found, "{q} {d}");
    }
    assert_eq!(
        rules(13, "", "z9 = Cast <to = 3> (ds) q = QuantizeLinear (x, s, z9) y = DequantizeLinear (q, s, z)"),
        ["zero-point-not-constant"]
    );
}

/// What is found about a weight that an operator reads as its second operand.
fn weight(opset: i64, more: &str, dequantize: &str, reader: &str) -> Vec<&'static str> {
    let body =
        format!("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) dw = {dequantize} y = {reader}");
    rules(opset, more, &body)
}

#[test]
fn weights_that_the_parser_refuses() {
    let conv = "Conv (d, dw)";
    let cases: [(i64, &str, &str, &str, &[&str]); 22] = [
        (13, "", "DequantizeLinear (w, s2, z2)", conv, &["axis-missing"]),
        (13, "", "DequantizeLinear <axis = 5> (w, s2, z2)", conv, &["axis-range"]),
        (13, "", "DequantizeLinear <axis = 2> (w, s2, z2)", conv, &["scale-count"]),
        (13, "", "DequantizeLinear <axis = 1> (w, s2, z2)", conv, &["weight-axis"]),
        (13, "", "DequantizeLinear <axis = 0> (w, s2, z2)", "ConvTranspose (d, dw)", &["weight-axis"]),
        (13, "", "DequantizeLinear <axis = 0> (m2, s2, z2)", "Gemm (d, dw)", &["weight-axis"]),
        (13, "", "DequantizeLinear <axis = 1> (m2, s2, z2)", "Gemm <transB = 1> (d, dw)", &["weight-axis"]),
        (13, "", "DequantizeLinear <axis = 0> (m2, s2, z2)", "MatMul (d, dw)", &["weight-axis"]),
        (
            13,
            ", int32[2] b = {1, 2}",
            "DequantizeLinear (w, s, z) db = DequantizeLinear (b, s)",
            "Conv (d, dw, db)",
            &["int32-bias"],
        ),
        (21, ", uint4[2,2,1,1] v = {1, 2, 3, 4}", "DequantizeLinear (v, s)", conv, &["uint4"]),
        (19, ", int4[2,2,1,1] v = {1, 2, 3, 4}", "DequantizeLinear (v, s)", conv, &["int4-opset"]),
        (25, ", int2[2,2,1,1] v = {1, 1, 1, 1}", "DequantizeLinear (v, s)", conv, &["2-bit"]),
        (
            21,
            ", int4 z4 = {0}",
            "DequantizeLinear (w, s, z) q4 = QuantizeLinear (x2, s, z4) d4 = DequantizeLinear (q4, s, z4) unused = Relu (d4)",
            conv,
            &["int4-activation", "int4-activation"],
        ),
        (19, ", float8e5m2[2,2,1,1] v = {1, 1, 1, 1}", "DequantizeLinear (v, s)", conv, &["fp8-format"]),
        (18, ", float8e4m3fn[2,2,1,1] v = {1, 1, 1, 1}", "DequantizeLinear (v, s)", conv, &["fp8-opset"]),
        (
            21,
            ", float[2] b2 = {1, 1}",
            "DequantizeLinear <axis = 0, block_size = 2> (m2, b2, z2)",
            "MatMul (d, dw)",
            &["block-rank"],
        ),
        (
            21,
            ", float[1,1] b2 = {1}, int8[1,1] y2 = {0}",
            "DequantizeLinear <axis = 0, block_size = 2> (m2, b2, y2)",
            "MatMul (d, dw)",
            &["block-axes"],
        ),
        (
            21,
            ", float[1,2] b2 = {1, 1}, int8[1,2] y2 = {0, 0}",
            "DequantizeLinear <axis = 0, block_size = 3> (m2, b2, y2)",
            "MatMul (d, dw)",
            &["block-divides"],
        ),
        (
            19,
            ", float[1,2] b2 = {1, 1}, int8[1,2] y2 = {0, 0}",
            "DequantizeLinear <axis = 0, block_size = 2> (m2, b2, y2)",
            "MatMul (d, dw)",
            &["block-opset"],
        ),
        (
            21,
            ", int4[2,2] v = {1, 2, 3, 4}, float[1,2] b2 = {1, 1}",
            "DequantizeLinear <axis = 0, block_size = 2> (v, b2)",
            "MatMul (d, dw)",
            &["int4-block"],
        ),
        (
            13,
            "",
            "DequantizeLinear (w, s, z) moved = Transpose <perm = [1, 0, 2, 3]> (dw)",
            "Conv (d, moved)",
            &["weight-not-constant"],
        ),
        (13, "", "DequantizeLinear (w, s, z)", "Conv (q, dw)", &["quantized-operand", "activation-in-float"]),
    ];
    for (opset, more, dequantize, reader, found) in cases {
        assert_eq!(weight(opset, more, dequantize, reader), found, "{dequantize} {reader}");
    }
    let odd = ", int4[64,1] v = {".to_owned() + &["1"; 64].join(", ") + "}, float[1,1] b2 = {1}";
    let found = weight(21, &odd, "DequantizeLinear <axis = 0, block_size = 64> (v, b2)", "MatMul (d, dw)");
    assert_eq!(found, ["int4-odd"]);
}

#[test]
fn operators_that_the_parser_does_not_have() {
    let cases = [
        ("y = QLinearConv (x, s, z, w, s, z, s, z)", "integer-operator"),
        ("y = ConvInteger (x, w)", "integer-operator"),
        ("y = MatMulInteger (x, m2)", "integer-operator"),
        ("y = QLinearMatMul (x, s, z, m2, s, z, s, z)", "integer-operator"),
        ("y, ys, yz = DynamicQuantizeLinear (x)", "dynamic-quantization"),
        ("y = com.microsoft.QLinearAdd (x, s, z, x2, s, z, s, z)", "microsoft-operator"),
        ("y = com.microsoft.QuantizeLinear (x, s, z)", "microsoft-quantizer"),
    ];
    for (body, found) in cases {
        assert_eq!(rules(21, "", body), [found], "{body}");
    }
}

#[test]
fn places_that_break_fusions() {
    let second = |v: &str| format!("q2 = QuantizeLinear ({v}, t, z) d2 = DequantizeLinear (q2, t, z)");
    let conv = format!("{PAIRED} c = Conv (d, dw)");
    let skip = "qs = QuantizeLinear (x2, s, z) ds2 = DequantizeLinear (qs, s, z)";
    let cases = [
        (format!("{conv} {} y = Relu (d2)", second("c")), "breaks-fusion"),
        (format!("{conv} {} y = Sigmoid (d2)", second("c")), "breaks-fusion"),
        (
            format!("{conv} {} y = BatchNormalization (d2, bias, bias, bias, bias)", second("c")),
            "breaks-fusion",
        ),
        (format!("{conv} {} {skip} y = Add (d2, ds2)", second("c")), "residual-both"),
        (format!("{conv} {} y = Add (d2, x2)", second("c")), "residual-backbone"),
        (format!("{conv} y = Add (c, x2)"), "residual-none"),
        (
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Conv (d, wf)".into(),
            "weight-in-float",
        ),
        ("dw = DequantizeLinear <axis = 0> (w, s2, z2) y = Conv (x, dw)".into(), "activation-in-float"),
        (
            format!("{PAIRED} p = MaxPool <kernel_shape = [1, 1]> (d) {} y = Conv (d2, dw)", second("p")),
            "pool-scales",
        ),
        (
            format!("{PAIRED} p = Transpose <perm = [0, 1, 3, 2]> (d) {} y = Conv (d2, dw)", second("p")),
            "movement-scales",
        ),
        (
            format!("{PAIRED} {} p = Concat <axis = 1> (d, d2) y = Conv (p, wf)", second("x2")),
            "concat-scales",
        ),
        (format!("{PAIRED} {} b = Conv (d2, dw) a = Conv (d, dw) y = Mul (a, b)", second("x")), "two-scales"),
        (format!("{PAIRED} n = Softmax (d) {} y = Conv (d2, dw)", second("n")), "float-only"),
        (format!("{conv} q2 = QuantizeLinear (c, t, z) y = DequantizeLinear (q2, t, z)"), "quantized-output"),
    ];
    for (body, found) in cases {
        let mut m = model(13, "", &body);
        // The shapes that inference would find.
        let g = m.main_mut();
        let ty = g.ty(g.inputs[0]).cloned();
        if let Some(c) = g.value_named("c") {
            g.set_type(c, ty);
        }
        let all: Vec<_> = lint(&m, Version::V11).into_iter().map(|f| f.rule).collect();
        assert_eq!(all, [found], "{body}");
    }
    let minus = ", int8[1,2,1,1] low = {-128, 5}";
    assert_eq!(weight(13, minus, "DequantizeLinear (low, s, z)", "Conv (d, dw)"), ["weight-level-128"]);
}

#[test]
fn integers_are_not_clipped() {
    let body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) qw = QuantizeLinear <axis = 0> (wf, s2, z2) \
                cw = Clip (qw, lo, hi) dw = DequantizeLinear <axis = 0> (cw, s2, z2) y = Conv (d, dw)";
    assert_eq!(rules(13, ", int8 lo = {-7}, int8 hi = {7}", body), ["clip-of-integers"]);
}

#[test]
fn what_versions_differ_in() {
    let pair = "q = QuantizeLinear (x, s, f8) y = DequantizeLinear (q, s, f8)";
    let fp8 = ", float8e4m3fn f8 = {0}";
    let int4 = ", int4[64,2] v = {".to_owned()
        + &["1"; 128].join(", ")
        + "}, float[1,2] b2 = {1, 1}, float[2,64] tall = {"
        + &["1"; 128].join(", ")
        + "}";
    let weight =
        "dw = DequantizeLinear <axis = 0, block_size = 64> (v, b2) h = MatMul (tall, dw) y = Add (x, s)";
    let short = "q = QuantizeLinear <output_dtype = 3> (x, s) y = DequantizeLinear (q, s)";
    let mixed = "h = Cast <to = 10> (x) q = QuantizeLinear (h, s, z) y = DequantizeLinear (q, s, z)";
    let typed = "float16[1,2,4,4] h";
    // Operator set, constants, body, what 8.6, 10 and 11 find.
    let cases: [(i64, &str, &str, [&[&str]; 3]); 8] = [
        (6, "", "y = Relu (x)", [&["opset"], &["opset"], &["opset"]]),
        (8, "", "y = Relu (x)", [&[], &["opset"], &["opset"]]),
        (18, "", "y = Relu (x)", [&["opset"], &[], &[]]),
        (25, "", "y = Relu (x)", [&["opset"], &["opset"], &[]]),
        (19, fp8, pair, [&["opset", "type-of-version", "type-of-version"], &[], &[]]),
        (21, &int4, weight, [&["opset", "type-of-version", "blocks-of-version"], &[], &[]]),
        (21, "", short, [&["opset", "zero-point-missing"], &[], &[]]),
        (
            17,
            "",
            "a = Swish (x) b = Gelu (a) y = Unique (b)",
            [
                &["no-importer", "no-importer", "no-importer"],
                &["no-importer", "no-importer"],
                &["no-importer"],
            ],
        ),
    ];
    for (opset, more, body, found) in cases {
        for (version, found) in [Version::V8_6, Version::V10, Version::V11].into_iter().zip(found) {
            assert_eq!(rules_of(version, opset, more, body), found, "{version:?} {body}");
        }
    }
    let scales = |opset, version| rules_of(version, opset, &format!(", {typed}"), mixed);
    assert_eq!(scales(19, Version::V11), ["scale-type"]);
    assert_eq!(scales(17, Version::V10), [""; 0]);
    assert_eq!(scales(17, Version::V8_6), [""; 0]);
}
