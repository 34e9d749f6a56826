use super::*;
use crate::{AttrValue, Bytes, DType, OpSpec, Type};
use proptest::prelude::*;

/// A text that is as the printer would print it.
fn canonical(text: &str) -> Model {
    let model = parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print(&model, &PrintOptions::default()), text);
    model
}

#[test]
fn every_literal_survives() {
    canonical(
        r#"<
  ir_version: 10,
  opset_import: ["" : 21, "com.microsoft" : 1],
  doc_string: "say \"a\\b\"",
  metadata_props: ["k": "v", "size": "large"]
>
every (float[N,3,?] x, seq(float[]) s, map(int64, string) m, optional(float16[2]) o, opaque() p) => (
  float y,
  bool["a/b"] "q.1",
  opaque(test.rng.RNG) r,
  seq(opaque(my.domain, Handle)) t,
  opaque("not a name", ) u,
  sparse_tensor(float6e3m2[2,N]) v
)
{
}
"#,
    );
    canonical(
        r#"<ir_version: 10, opset_import: ["" : 21]>
constants () => ()
<
  float[7] f = {1, -0, 1e-7, 3.4028235e38, inf, -inf, nan},
  double d = {0.1},
  float16[2] h = {15360, 64512},
  bfloat16[1] b = {16256},
  float8e4m3fn[2] e = {126, 255},
  int4[3] i4 = {-8, 7, -1},
  uint2[5] u2 = {0, 1, 2, 3, 1},
  float4e2m1[3] f4 = {7, 15, 0},
  float6e2m3[5] f6 = {31, 63, 0, 32, 5},
  uint64[1] u = {18446744073709551615},
  int64[1,1] i = {-9223372036854775808},
  bool[2] t = {1, 0},
  complex64[1] c = {1.5, -2},
  string[2] w = {"a\"b", ""},
  int8[0] none = {}
>
{
}
"#,
    );
    canonical(
        r#"<ir_version: 10, opset_import: ["" : 21]>
attributes (x) => ("out/1:0")
<
  float[2] "mid.0"
>
{
  [node_1] "", "mid.0" = com.acme.Op:v2 <i = -3, f = 1.0, s = "t", is = [1, 2], fs = [0.5, nan], ss = ["a", "b"], e: ints = []> (x, "", x)
  ["a b"] "out/1:0" = "my-ops.v1".Op <t = float[2] {1, 2.5}, ty = seq(int64), ts = [float {1}, int32[1] {2}], tys = [bool, float[N]]> ("mid.0")
   = Sink (x)
}
"#,
    );
}

#[test]
fn bodies_capture_what_they_do_not_define() {
    let model = canonical(
        r#"<ir_version: 10, opset_import: ["" : 21]>
main (bool c, float[2] x) => (float[2] y)
{
  h = Relu (x)
  y = If (c) <
    then_branch = then_body () => (float[2] a)
    {
      a = If (c) <
        then_branch = inner () => (h)
        {
        },
        else_branch = other () => (b)
        {
          k = Neg (h)
          b = Add (x, k)
        }
      >
    },
    else_branch = else_body () => (float[2] x)
    {
    }
  >
}
"#,
    );
    let main = model.main();
    let op = main.ops().find(|o| main.op(*o).is("If")).unwrap();
    let captured: Vec<_> = main.captures(op).into_iter().flatten().map(|v| main.value(v).name()).collect();
    assert_eq!(captured, ["c", "h", "x"]);
    let inner = model.graph_ids().find(|g| model.graph(*g).name == "inner").unwrap();
    let out = model.graph(inner).outputs[0];
    assert_eq!(model.resolve(inner, out), (model.main_id(), main.value_named("h").unwrap()));
}

#[test]
fn a_renamed_outer_value_keeps_its_captures() {
    let text = "<ir_version: 10, opset_import: [\"\" : 21]> g (bool c, float x) => (y) {
        h = Relu (x) y = If (c) <then_branch = t () => (a) { a = Neg (h) }, else_branch = e () => (h) {}> }";
    let mut model = parse(text).unwrap();
    let h = model.main().value_named("h").unwrap();
    model.main_mut().rename(h, "renamed");
    let printed = print(&model, &PrintOptions::default());
    assert!(printed.contains("a = Neg (renamed)") && printed.contains("e () => (renamed)"), "{printed}");
    assert!(equal(&parse(&printed).unwrap(), &model));
}

#[test]
fn functions_survive() {
    let model = canonical(
        r#"<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
main (float[2] x) => (float[2] y)
{
  y = local.f:o <alpha = 2.0> (x)
}

<domain: "local", overload: "o", opset_import: ["" : 21]>
f <alpha, beta = 1.0> (x) => (y)
{
  a = Constant <value_float: float = @alpha> ()
  y = Mul (x, a)
}
"#,
    );
    assert_eq!(model.functions[0].attributes, ["alpha"]);
    assert_eq!(model.functions[0].defaults[0].value, AttrValue::Float(1.0));
}

#[test]
fn what_upstream_prints_is_read() {
    let upstream = r#"<
   ir_version: 10,
   opset_import: ["" : 21]
>
g (float[1,3] x) => (float[1,3] y)
   <float[3] w =  {1,2,3}, int64 k =  {5}, float[1,3] t>
{
   [n] t = Add <z: int = 0> (x, w)
   y = If (k) <then_branch: graph = b () => (float[1,3] u) {
      u = Identity (t)
   }, axes: ints = [1, 2]>
   z = Op (,x) w2 = Op(x,)
}"#;
    let model = parse(upstream).unwrap();
    let printed = print(&model, &PrintOptions::default());
    assert!(printed.contains("z = Op (\"\", x)\n  w2 = Op (x)\n"), "{printed}");
    assert!(printed.contains("  float[3] w = {1, 2, 3},\n"), "{printed}");
    canonical(
        "<ir_version: 3, opset_import: [\"\" : 8]>\ng (float a, float[N] b) => ()\n<\n  float[1] b = {1},\n  float a = {2}\n>\n{\n}\n",
    );
    // An input may have a default, and decimal half floats are an extension.
    let model = parse("g (float16[2] h = {1.0, -inf}) => () {}").unwrap();
    let h = model.main().konst(model.main().inputs[0]).unwrap();
    assert_eq!(h.to_f32s(), [1.0, f32::NEG_INFINITY]);
}

#[test]
fn elided_constants_and_comments() {
    let text = "<ir_version: 10, opset_import: [\"\" : 21]> g (x) => (y) <float[3] w = [\"location\": \"gen:ones\"]> { y = Add (x, w) }";
    let model = parse_with(text, &mut |r| {
        assert_eq!((r.name.as_str(), r.get("location"), r.get("offset")), ("w", Some("gen:ones"), None));
        Ok(Tensor::from_f32(&r.dims, &[1.0; 3]))
    })
    .unwrap();
    let fact = |_: GraphId, v: ValueId| Some(format!("fact {v}"));
    let options = PrintOptions { elide: Some(2), facts: Some(&fact), ids: true, ..PrintOptions::default() };
    let printed = print(&model, &options);
    assert!(printed.contains("\"length\": \"12\"]  # fact %v0\n"), "{printed}");
    assert!(printed.contains("y = Add (x, w)  # %op3 %v2; fact %v2\n"), "{printed}");
    assert!(printed.contains("g (x) => (y)  # x: fact %v1\n"), "{printed}");
    assert!(parse(&printed).unwrap_err().message.contains("`w`"));
    let location = |_: &Tensor| Some("gen:ones".to_owned());
    let options = PrintOptions { elide: Some(2), location: Some(&location), ..PrintOptions::default() };
    assert!(print(&model, &options).contains("w = [\"location\": \"gen:ones\"]\n"));
}

#[test]
fn errors_are_drawn() {
    let error = parse("g (float[2] x) => (y)\n{\n  y = Relu (x }\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected `)`, found `}`\n --> line 3, column 15\n3 |   y = Relu (x }\n  |               ^"
    );
    for (text, message) in [
        ("g (x) => (y) { y = A (x) y = B (x) }", "`y` is defined twice in this graph"),
        ("g (float x = {1}) => (y) <float x = {1}> {}", "`x` is defined twice in this graph"),
        ("g (x) => (y) <float y = {1}> { y = A (x) }", "`y` is defined twice in this graph"),
        ("g (x) => (y) <float[2] w = {1}> {}", "float[2] needs 2 numbers, found 1"),
        ("g (x) => (y) <int8 w = {128}> {}", "128 is not between -128 and 127, the range of int8"),
        ("g (x) => (y) <float[N] w = {1}> {}", "a constant needs a tensor type whose dimensions are numbers"),
        ("g (x) => (y) <float w = {1e99}> {}", "`1e99` is too large"),
        ("g (x) => (y) { y = A <p = []> (x) }", "an empty list needs its kind, as in `axes: ints = []`"),
        ("g (x) => (y) { y = A <p = [1, \"s\"]> (x) }", "the values of a list must be of one kind"),
        ("g (x) => (y) { y = A <p: int = 1.5> (x) }", "the value is not of the kind that is declared"),
        ("g (x) => (\"y) {}", "the string that starts here has no end"),
        ("g (x) => (y) { § }", "unexpected character `\\u{a7}`"),
        ("<ir: 1> g () => () {}", "a model has no field `ir`"),
        ("g () => () {", "expected a node or `}`, found the end of the text"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}\n{error}");
    }
    let long = format!("g (float[2] {}, !) => () {{}}", "x".repeat(500));
    assert!(parse(&long).unwrap_err().to_string().lines().all(|l| l.len() < 140));
}

#[test]
fn nesting_is_bounded() {
    for text in
        ["g (".to_owned() + &"seq(".repeat(100_000), "g () => () { y = A () <b = g () => () {".repeat(10_000)]
    {
        let message = parse(&text).unwrap_err().message;
        assert!(message.contains("nested more than") || message.contains("expected"), "{message}");
    }
    let deep = "g () => () { = A () <b = ".repeat(10_000);
    assert!(parse(&deep).unwrap_err().message.contains("nested more than 64 deep"));
}

#[test]
fn a_node_line_knows_its_parts() {
    let model = parse("g (x) => (y) { [n] y = a.Conv <p = [1]> (x, \"\", \"w 1\") }").unwrap();
    let line = print_node(&model, model.main_id(), model.main().ops().next().unwrap());
    assert_eq!(line.text, "[n] y = a.Conv <p = [1]> (x, \"\", \"w 1\")");
    assert_eq!(&line.text[line.op_type.clone()], "a.Conv");
    assert_eq!(&line.text[line.operands[2].clone()], "\"w 1\"");
    assert_eq!(&line.text[line.results[0].clone()], "y");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes as a string, any bits as numbers, any text as names.
    #[test]
    fn parse_inverts_print(
        bytes in proptest::collection::vec(any::<u8>(), 0..12),
        private in "[\u{f007f}-\u{f0100}é\"\\\\\n]{0,4}",
        name in "\\PC{1,6}",
        floats in proptest::collection::vec(any::<f32>(), 0..6),
        raw in proptest::collection::vec(any::<u8>(), 16),
        dtype in proptest::sample::select(DType::ALL.to_vec()),
    ) {
        let mut model = Model::new("g", 21);
        let n = if dtype == DType::String { 0 } else { 128 / dtype.bits() };
        let g = model.main_mut();
        let w = g.add_const(&name, Tensor::from_f32(&[floats.len()], &floats));
        // A canonical NaN is all that is promised.
        let plain = !dtype.is_float() && dtype.bits() < 64 && dtype != DType::String;
        let data = if plain { raw } else { vec![0; 16] };
        if let Ok(t) = Tensor::raw(dtype, &[n], data.into()) {
            g.add_const("raw", t);
        }
        let spec = OpSpec::new("Op").name(name.clone()).operands([w]).attr("fs", AttrValue::Floats(floats));
        let spec = spec.attr("s", AttrValue::Strings(vec![Bytes::from(bytes), Bytes::from(private)]));
        let y = g.emit(spec, &name, Some(Type::tensor(DType::Float, None)));
        g.outputs.push(y);
        let text = print(&model, &PrintOptions::default());
        let back = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        prop_assert_eq!(print(&back, &PrintOptions::default()), text);
        let attributes = |m: &Model| m.main().op(m.main().ops().next().unwrap()).attributes[1].clone();
        prop_assert_eq!(attributes(&back), attributes(&model));
        for v in model.main().values() {
            let twin = back.main().value_named(model.main().value(v).name()).unwrap();
            if let Some(t) = model.main().konst(v).filter(|t| t.to_f64s().iter().all(|x| !x.is_nan())) {
                prop_assert_eq!(back.main().konst(twin), Some(t));
            }
        }
    }

    /// Nothing panics, whatever is read.
    #[test]
    fn any_text_is_read_or_refused(text in "[g(){}<>=\\[\\],:.?@\" a-c0-9#\n-]{0,60}") {
        if let Ok(model) = parse(&text) {
            let printed = print(&model, &PrintOptions::default());
            let back = parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
            prop_assert!(equal(&back, &model));
        }
    }
}

#[test]
fn a_negative_length_is_an_unknown_one() {
    let read = |dim: &str| {
        parse(&format!("<ir_version: 8, opset_import: [\"\": 17]> g (float[{dim},3] x) => (x) {{}}"))
    };
    assert!(equal(&read("-1").unwrap(), &read("?").unwrap()));
}
