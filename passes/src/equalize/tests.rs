use super::*;
use crate::fuse::testing::{outputs, parse};
use crate::infer_types::infer_concrete;
use squint_ir::types::known_dims;
use squint_ir::{ValueId, ValueTable};

/// The classes of a model in text.
fn classes(text: &str) -> (Model, Classes) {
    let model = parse(text);
    let mut dims = ValueTable::new();
    for (v, fact) in infer_concrete(&model, &ValueTable::new()).unwrap().iter() {
        if let Some(d) = fact.shape.as_deref().and_then(known_dims) {
            dims.insert(v, d);
        }
    }
    let order = model.main().topo().unwrap();
    let classes = Classes::new(&model, &order, &dims);
    (model, classes)
}

fn value(model: &Model, name: &str) -> ValueId {
    model.main().value_named(name).expect("there is such a value")
}

/// The classes of a value's channels; 0 for pinned ones.
fn of(model: &Model, classes: &Classes, name: &str) -> Vec<usize> {
    let channels = classes.of(value(model, name)).expect("it has channels");
    channels.ids.iter().map(|id| classes.class(*id)).collect()
}

/// Scales every free class by a factor of its own: outputs must stay as they were. Returns how many there are.
fn scales_freely(text: &str) -> usize {
    let (model, classes) = classes(text);
    let before = outputs(&model);
    let free = |c: &usize| classes.class(*c as u32) == *c && !classes.pinned(*c);
    let factors: Vec<f64> =
        (0..classes.len()).map(|c| if free(&c) { 0.5 + 0.25 * (c % 7) as f64 } else { 1.0 }).collect();
    let scaled = apply::apply(&model, &classes, &factors);
    for ((name, a), (_, b)) in before.iter().zip(outputs(&scaled)) {
        for (a, b) in a.to_f64s().into_iter().zip(b.to_f64s()) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "`{name}` was {a}, is {b}");
        }
    }
    (0..classes.len()).filter(free).count()
}

#[test]
fn factors_pass_from_layer_to_layer() {
    let n = scales_freely(
        r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,3,6,6] x) => (float[1,2,3,3] y)
<float[4,3,1,1] a = ["location": "gen:randn"], float[4] ab = ["location": "gen:randn"],
 float[4,1,3,3] d = ["location": "gen:randn"], float[2,4,1,1] c = ["location": "gen:randn"]>
{
  p = Conv (x, a, ab)
  r = Relu (p)
  q = Conv <group = 4, pads = [1, 1, 1, 1]> (r, d)
  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q)
  y = Conv (m, c)
}"#,
    );
    assert_eq!(n, 8, "four channels before the depthwise layer, four behind it");
}

#[test]
fn sums_tie_and_shuffles_move() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,3,2,2] x) => (float[1,2,2,2] y)
<float[4,3,1,1] a = ["location": "gen:randn"], float[4,3,1,1] b = ["location": "gen:randn"],
 float[4,1,1] k = ["location": "gen:randn"], float[2,8,1,1] c = ["location": "gen:randn"],
 int64[5] split = {1, 2, 2, 2, 2}, int64[4] join = {1, 4, 2, 2}>
{
  p = Conv (x, a)
  q = Conv (x, b)
  s = Add (p, q)
  t = Add (s, k)
  u = Reshape (t, split)
  v = Transpose <perm = [0, 2, 1, 3, 4]> (u)
  w = Reshape (v, join)
  z = Concat <axis = 1> (w, s)
  y = Conv (z, c)
}"#;
    assert_eq!(scales_freely(text), 4);
    let (model, classes) = classes(text);
    let (p, z) = (of(&model, &classes, "p"), of(&model, &classes, "z"));
    assert_eq!(p, of(&model, &classes, "q"));
    assert_eq!(z, [p[0], p[2], p[1], p[3], p[0], p[1], p[2], p[3]]);
}

#[test]
fn what_commutes_with_no_factor_pins() {
    let (model, classes) = classes(
        r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,3,2,2] x) => (float[1,2,2,2] y, float[1,2,2,2] z)
<float[2,3,1,1] a = ["location": "gen:randn"], float[2,3,1,1] g = ["location": "gen:randn"],
 float[2,3,1,1] tied = ["location": "gen:randn"], float[2,2,1,1] c = ["location": "gen:randn"]>
{
  p = Conv (x, a)
  i = Conv (x, g)
  h = Sigmoid (i)
  gated = Mul (p, h)
  y = Conv (gated, c)
  s = Conv (x, tied)
  z = Conv (x, tied)
}"#,
    );
    assert_eq!(of(&model, &classes, "i"), [0, 0]);
    assert_eq!(of(&model, &classes, "y"), [0, 0], "outputs stay as they are");
    assert!(classes.of(value(&model, "s")).is_none(), "a weight that is used twice takes no factors");
    // A sigmoid of something else does not gate the channels of `p`: both have one size, so neither is scaled.
    assert!(classes.of(value(&model, "gated")).is_none());
    assert_eq!(of(&model, &classes, "p"), [0, 0]);
}

const CLIPPED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,3,2,2] x) => (float[1,2,2,2] y)
<float[3,3,1,1] a = ["location": "gen:randn"], float lo = {0}, float hi = {6},
 float[3,1,1,1] d = ["location": "gen:randn"], float[2,3,1,1] c = ["location": "gen:randn"]>
{
  p = Conv (x, a)
  r = Clip (p, lo, hi)
  q = Conv <group = 3> (r, d)
  y = Conv (q, c)
}"#;

fn ranges(hi: &[f32]) -> Ranges {
    let n = hi.len();
    let energy = hi.iter().map(|h| f64::from(h * h)).collect();
    Ranges { lo: vec![0.0; n], hi: hi.to_vec(), energy, filled: vec![1; n], count: 1 }
}

#[test]
fn channels_fill_the_range_but_no_clip() {
    let (model, classes) = classes(CLIPPED);
    let r = value(&model, "r");
    // One channel reaches the bound, one stays far below, one is dead.
    let factors = factors::solve(model.main(), &classes, &[(r, ranges(&[6.0, 1.0, 0.0]))]).factors;
    let at = |c: usize| factors[of(&model, &classes, "r")[c]];
    assert_eq!((at(0), at(2)), (1.0, 1.0));
    assert!((at(1) - 6.0 / 1.05).abs() < 1e-4, "{}", at(1));
    // Nothing is known of a Clip that was not watched.
    let q = value(&model, "q");
    let factors = factors::solve(model.main(), &classes, &[(q, ranges(&[1.0, 2.0, 4.0]))]).factors;
    assert!(of(&model, &classes, "r").iter().all(|c| factors[*c] == 1.0));
}

#[test]
fn a_full_layer_is_scaled_less_than_a_depthwise_one() {
    let (model, classes) = classes(CLIPPED);
    let (r, q) = (value(&model, "r"), value(&model, "q"));
    let seen = [(r, ranges(&[5.0, 0.5, 0.5])), (q, ranges(&[5.0, 0.5, 0.5]))];
    let factors::Solution { factors, gain } = factors::solve(model.main(), &classes, &seen);
    assert!(gain > 2.0, "{gain}");
    // Channels that fill the range already have nothing to gain.
    let alike = [(r, ranges(&[5.0; 3])), (q, ranges(&[5.0; 3]))];
    let gain = factors::solve(model.main(), &classes, &alike).gain;
    assert!(gain.abs() < 0.5, "{gain}");
    let at = |name: &str| factors[of(&model, &classes, name)[1]] / factors[of(&model, &classes, name)[0]];
    assert!(at("r") > 9.0, "{}", at("r"));
    assert!(at("q") > 1.0 && at("q") < at("r"), "{}", at("q"));
}

const SMOOTHED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[2,5,4] x) => (float[2,5,3] y)
<float[4] s = ["location": "gen:randn"], float[4] b = ["location": "gen:randn"],
 float[4,6] w = ["location": "gen:randn"], float[6,3] v = ["location": "gen:randn"]>
{
  n = LayerNormalization <axis = -1> (x, s, b)
  p = MatMul (n, w)
  r = Relu (p)
  y = MatMul (r, v)
}"#;

#[test]
fn a_matmul_behind_a_normalization_or_a_product_is_smoothed() {
    assert_eq!(scales_freely(SMOOTHED), 4 + 6, "channels of the normalization, and of the first product");
}

#[test]
fn a_matmul_behind_a_gate_is_smoothed() {
    let gated = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[2,5,4] x) => (float[2,5,3] y)
<float[4,6] w = ["location": "gen:randn"], float[4,6] g = ["location": "gen:randn"],
 float[6,3] v = ["location": "gen:randn"]>
{
  u = MatMul (x, w)
  m = ReduceMean <axes = [1], keepdims = 1> (x)
  h = MatMul (m, g)
  a = Sigmoid (h)
  p = Mul (u, a)
  y = MatMul (p, v)
}"#;
    assert_eq!(scales_freely(gated), 6, "the product that is gated takes the factors, the gate none");
}

#[test]
fn a_conv_is_smoothed_where_something_before_it_takes_the_factors() {
    let folded = r#"<ir_version: 8, opset_import: ["" : 17]>
m (float[1,2,4,4] x) => (float[1,3,4,4] y)
<float[5,2,1,1] a = ["location": "gen:randn"], float[5] ab = ["location": "gen:randn"],
 float[3,5,3,3] c = ["location": "gen:randn"]>
{
  p = Conv (x, a, ab)
  l = LeakyRelu <alpha = 0.1> (p)
  y = Conv <pads = [1, 1, 1, 1]> (l, c)
}"#;
    assert_eq!(scales_freely(folded), 5);
}

#[test]
fn what_nothing_can_take_a_factor_for_stays() {
    // The input of the model, and what comes out of a function that commutes with no factor.
    for before in ["n = Identity (x)", "n = Tanh (x)", "n = Softmax (x)"] {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17]>\nm (float[2,4] x) => (float[2,3] y)\n\
             <float[4,3] w = [\"location\": \"gen:randn\"]>\n{{ {before} y = MatMul (n, w) }}"
        );
        assert_eq!(scales_freely(&text), 0, "{before}");
    }
}

#[test]
fn an_outlier_is_moved_into_the_weight() {
    let (model, classes) = classes(SMOOTHED);
    let n = value(&model, "n");
    // The third channel is fifty times as loud as the others, which are left with five levels of 256.
    let factors = factors::solve(model.main(), &classes, &[(n, ranges(&[1.0, 1.0, 50.0, 1.0]))]).factors;
    let at = |c: usize| factors[of(&model, &classes, "n")[c]];
    let loud = at(2);
    for c in [0, 1, 3] {
        assert!(at(c) / loud > 3.0, "channel {c} by {}, the loud one by {loud}", at(c));
    }
    // Not all of it: the row of the weight that takes the inverse has levels to lose, too.
    assert!(at(0) / loud < 50.0, "{} and {loud}", at(0));
    // What is computed stays as it was.
    let scaled = apply::apply(&model, &classes, &factors);
    for ((name, a), (_, b)) in outputs(&model).iter().zip(outputs(&scaled)) {
        for (a, b) in a.to_f64s().into_iter().zip(b.to_f64s()) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "`{name}` was {a}, is {b}");
        }
    }
}
