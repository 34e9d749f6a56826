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
    let factors = factors::solve(model.main(), &classes, &[(r, ranges(&[6.0, 1.0, 0.0]))]);
    let at = |c: usize| factors[of(&model, &classes, "r")[c]];
    assert_eq!((at(0), at(2)), (1.0, 1.0));
    assert!((at(1) - 6.0 / 1.05).abs() < 1e-4, "{}", at(1));
    // Nothing is known of a Clip that was not watched.
    let q = value(&model, "q");
    let factors = factors::solve(model.main(), &classes, &[(q, ranges(&[1.0, 2.0, 4.0]))]);
    assert!(of(&model, &classes, "r").iter().all(|c| factors[*c] == 1.0));
}

#[test]
fn a_full_layer_is_scaled_less_than_a_depthwise_one() {
    let (model, classes) = classes(CLIPPED);
    let (r, q) = (value(&model, "r"), value(&model, "q"));
    let seen = [(r, ranges(&[5.0, 0.5, 0.5])), (q, ranges(&[5.0, 0.5, 0.5]))];
    let factors = factors::solve(model.main(), &classes, &seen);
    let at = |name: &str| factors[of(&model, &classes, name)[1]] / factors[of(&model, &classes, name)[0]];
    assert!(at("r") > 9.0, "{}", at("r"));
    assert!(at("q") > 1.0 && at("q") < at("r"), "{}", at("q"));
}
