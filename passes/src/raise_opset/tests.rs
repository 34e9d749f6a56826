//! Raised models in text, before and after.

use super::RaiseOpset;
use crate::config::Config;
use crate::pass::{Changed, Pass, PassCx};
use squint_ir::text;

/// The operators of a model of one graph after raising, one a line, without types.
fn raised(opset: i64, signature: &str, body: &str) -> String {
    let source =
        format!("<ir_version: 4, opset_import: [\"\" : {opset}, \"custom\" : 1]> m {signature} {{ {body} }}");
    let mut model = text::parse(&source).expect("the fixture is ONNX text");
    let config = Config::new("cpu-vnni");
    let changed = RaiseOpset.run(&mut model, &mut PassCx::new(&config)).map_err(|e| e.to_string());
    match changed {
        Err(e) => return e,
        Ok(changed) => assert_eq!(changed, Changed::from(opset < 13)),
    }
    assert_eq!(model.onnx_opset(), opset.max(13));
    let printed = text::print(&model, &text::PrintOptions { hide_types: true, ..Default::default() });
    let body = printed.split_once("{\n").map_or(printed.as_str(), |(_, b)| b);
    let lines = body.lines().map(str::trim).filter(|l| l.contains('('));
    lines.collect::<Vec<_>>().join("\n")
}

const X: &str = "(float[2,3,4,5] x) => (float[] y)";

fn check(opset: i64, body: &str, wanted: &str) {
    assert_eq!(raised(opset, X, body), wanted, "{opset}: {body}");
}

#[test]
fn attributes_become_operands() {
    check(7, "y = Clip <min = 0.0, max = 6.0> (x)", "y = Clip (x, y_min, y_max)");
    check(10, "y = Clip <max = 6.0> (x)", "y = Clip (x, \"\", y_max)");
    check(9, "y = Slice <starts = [1], ends = [2]> (x)", "y = Slice (x, y_starts, y_ends)");
    check(8, "y, i = TopK <k = 2, axis = 1> (x)", "y, i = TopK <axis = 1> (x, y_k)");
    check(7, "y = Pad <pads = [0,0,1,1,0,0,1,1], value = 0.0> (x)", "y = Pad (x, y_pads)");
    check(10, "y = Pad <pads = [0,0,1,1,0,0,1,1], value = 2.0> (x)", "y = Pad (x, y_pads, y_value)");
    check(12, "y = Squeeze <axes = [0]> (x)", "y = Squeeze (x, y_axes)");
    check(12, "y = Squeeze (x)", "y = Squeeze (x)");
    check(12, "y = ReduceSum <axes = [1], keepdims = 0> (x)", "y = ReduceSum <keepdims = 0> (x, y_axes)");
    check(12, "y, z = Split <axis = 1, split = [1,2]> (x)", "y, z = Split <axis = 1> (x, y_split)");
    check(11, "y = Dropout <ratio = 0.5> (x)", "y = Dropout (x, y_ratio)");
}

#[test]
fn limits_have_the_type_of_the_data() {
    let found = raised(10, "(double[2] x) => (double[2] y)", "y = Clip <min = 0.0> (x)");
    assert_eq!(found, "[y_min_cast] y_min_cast = Cast <to = 11> (y_min)\ny = Clip (x, y_min_cast)");
}

#[test]
fn upsample_goes_all_the_way_to_resize() {
    let wanted = "y = Resize <mode = \"nearest\", coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> \
                  (x, \"\", y_scales)";
    check(7, "y = Upsample <mode = \"nearest\", scales = [1.0, 1.0, 2.0, 2.0]> (x)", wanted);
    let wanted =
        "y = Resize <mode = \"linear\", coordinate_transformation_mode = \"asymmetric\"> (x, \"\", s)";
    let body =
        "s = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Upsample <mode = \"linear\"> (x, s)";
    assert!(raised(9, X, body).ends_with(wanted), "{}", raised(9, X, body));
    let body = body.replace("Upsample", "Resize");
    assert!(raised(10, X, &body).ends_with(wanted));
    assert!(!raised(11, X, "y = Resize (x, r, s)").contains("asymmetric"));
}

#[test]
fn softmax_is_flattened_where_it_must_be() {
    let flat = "[y_flatten] y_flatten = Flatten <axis = 1> (x)\ny_flat = Softmax <axis = -1> (y_flatten)\n\
                [y_shape] y_shape = Shape (x)\n[y_reshape] y = Reshape (y_flat, y_shape)";
    check(12, "y = Softmax (x)", flat);
    check(12, "y = Softmax <axis = 3> (x)", "y = Softmax <axis = -1> (x)");
    let found = raised(7, "(float[N,10,1,1] x) => (float[N,10,1,1] y)", "y = LogSoftmax (x)");
    assert_eq!(found, "y = LogSoftmax <axis = 1> (x)");
    check(13, "y = Softmax (x)", "y = Softmax (x)");
}

#[test]
fn bodies_are_raised_and_other_domains_are_not() {
    let body = "y = If (c) <then_branch = t () => (float[] a) { a = Squeeze <axes = [0]> (x) }, \
                else_branch = e () => (float[] a) { a = custom.Squeeze <axes = [0]> (x) }>";
    let found = raised(11, "(float[1,3] x, bool c) => (float[] y)", body);
    assert!(found.contains("Squeeze (x, a_axes)"), "{found}");
    assert!(found.contains("custom.Squeeze <axes = [0]> (x)"), "{found}");
}

#[test]
fn what_cannot_be_raised_is_refused() {
    assert!(raised(6, X, "y = Relu (x)").contains("operator set 6"));
    assert_eq!(raised(6, X, "y = custom.Relu (x)"), "y = custom.Relu (x)");
    let bn = "y = BatchNormalization <spatial = 0> (x, x, x, x, x)";
    let why = raised(8, X, bn);
    assert!(why.contains("node `y`: BatchNormalization of operator set 8"), "{why}");
    assert!(raised(8, X, "y, m = Dropout (x) z = Relu (m)").contains("mask"));
}
