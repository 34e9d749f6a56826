use super::*;
use crate::{DType, Graph, OpSpec, Tensor, Type, text};

fn model(body: &str) -> Model {
    let text = format!("<ir_version: 10, opset_import: [\"\" : 21]>\n{body}");
    text::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

/// Messages with their labels, for the level at which models are written.
fn check(body: &str) -> Vec<String> {
    verify(&model(body)).iter().map(Violation::to_string).collect()
}

#[test]
fn good_models_have_no_violations() {
    let good = "main (bool c, float[2] x = {1, 2}) => (float[2] y, x)
        { h = Relu (x) y = If (c) <then_branch = t () => (h) {}, else_branch = e () => (z) { z = Neg (h) }> }
        <domain: \"\", opset_import: [\"\" : 21]> f <a> (x) => (y) { y = Elu <alpha: float = @a> (x) }";
    assert_eq!(check(good), [""; 0]);
    assert_eq!(verify_at(&Model::new("empty", 21), Level::Typed), []);
}

#[test]
fn all_violations_are_reported() {
    let found = check(
        "main (x) => (y, lost)
         {
           [a] u = Relu (missing)
           [a] y = acme.Op <k = 1, k = 2> (u, x)
           p = Neg (q)
           q = Neg (p)
           r = Elu <alpha: float = @beta> (x)
         }",
    );
    assert_eq!(
        found,
        [
            "error: graph `main`, value `lost`: is an output, but nothing defines it",
            "error: graph `main`, `a` (Relu): operand 0, `missing`, is not defined",
            "error: graph `main`, `a` (acme::Op): attribute `k` is given twice",
            "warning: graph `main`, `a` (acme::Op): another operator is called `a` too",
            "error: graph `main`: the graph has a cycle through `q`, `p`",
            "warning: graph `main`, `a` (acme::Op): no operator set is imported for domain `acme`",
            "error: graph `main`, `r` (Elu): attribute `alpha` refers to `beta` outside of a function",
        ]
    );
}

#[test]
fn a_body_may_hide_nothing_and_loops_through_bodies_are_cycles() {
    let hidden = check("main (bool c, x) => (y) { y = If (c) <then_branch = t () => (x) { x = Relu (c) }> }");
    assert_eq!(hidden, ["warning: graph `t`, value `x`: hides the value of the same name in graph `main`"]);
    let cycle = check("main (bool c) => (y) { z = Neg (y) y = If (c) <then_branch = t () => (z) {}> }");
    assert_eq!(cycle, ["error: graph `main`: the graph has a cycle through `y`, `z`"]);
}

#[test]
fn functions_have_signatures() {
    let found = check(
        "main (x) => (y) { y, z = f (x, x) }
         <domain: \"\", opset_import: [\"\" : 21]> f <a, a> (x) => (y) { y = g (x) }
         <domain: \"\", opset_import: [\"\" : 21]> g (x) => (y) { y = g (x) }
         <domain: \"\", opset_import: []> g (x) => (y) { y = Elu <alpha: float = @b> (x) }",
    );
    assert_eq!(
        found,
        [
            "warning: graph `g`, `y` (Elu): no operator set is imported for the default domain",
            "error: graph `g`, `y` (Elu): attribute `alpha` refers to `b`, not an attribute of `g`",
            "error: graph `f`: attribute `a` is declared twice",
            "error: graph `g`: another function is called `g` in domain ``",
            "error: graph `main`, `y` (f): gives 2 operands to a function that has 1",
            "error: graph `main`, `y` (f): gives 2 results to a function that has 1",
        ]
    );
    let recursion = check(
        "main (x) => (y) { y = f (x) }
         <domain: \"\", opset_import: [\"\" : 21]> f (x) => (y) { y = g (x) }
         <domain: \"\", opset_import: [\"\" : 21]> g (x) => (y) { y = h (x) }
         <domain: \"\", opset_import: [\"\" : 21]> h (x) => (y) { y = g (x) }",
    );
    assert_eq!(recursion.len(), 2, "{recursion:?}");
    assert!(recursion.iter().all(|e| e.contains("calls itself")), "{recursion:?}");
}

#[test]
fn what_text_cannot_say_wrong() {
    let mut m = model("main (x) => (y) { y = Relu (x) }");
    let g = m.main_mut();
    let (x, y) = (g.inputs[0], g.outputs[0]);
    g.inputs.push(x);
    g.value_mut(y).konst = Some(Tensor::scalar_f32(0.0).into());
    let w = g.add_const("w", Tensor::from_f32(&[2], &[0.0; 2]));
    g.set_type(w, Some(Type::tensor(DType::Float, Some(vec![3usize.into()]))));
    g.value_mut(x).captured = Some(7);
    let op = g.add_op(OpSpec::new("If"));
    let stray = m.add_graph(Graph::new("stray"));
    m.main_mut().op_mut(op).set_attr("then_branch", crate::AttrValue::Graph(stray));
    let found: Vec<String> = verify_at(&m, Level::Structure).iter().map(Violation::to_string).collect();
    assert_eq!(
        found,
        [
            format!("error: graph `main`, `{op}` (If): {stray} does not know that it belongs here"),
            "error: graph `main`, value `x`: is an input twice".into(),
            "error: graph `main`, value `x`: is captured, and an input as well".into(),
            "error: graph `main`, value `x`: is captured, but the graph around has no value for it".into(),
            "error: graph `main`, value `y`: is the result of an operator, and a constant as well".into(),
            "error: graph `main`, value `w`: is declared float[3], but its constant is float[2]".into(),
        ]
    );
}

#[test]
fn types_are_wanted_only_late() {
    let m = model("main (x) => (y) { y = Relu (x) }");
    assert_eq!(verify(&m), []);
    let found = verify_at(&m, Level::Typed);
    assert_eq!(errors(&found).unwrap(), "error: graph `main`, `y` (Relu): operand 0, `x`, has no type");
    let drawn = found[0].diagnostic(&m).to_string();
    assert!(drawn.contains("   | y = Relu (x)"), "{drawn}");
}

#[test]
fn two_captured_values_may_become_one() {
    let mut model = crate::text::parse(
        "<ir_version: 8, opset_import: [\"\" : 17]> m (bool c, float[2] x) => (float[2] y) { \
         a = Relu (x) b = Relu (x) \
         y = If (c) <then_branch = t () => (float[2] s) { s = Add (a, b) }, \
         else_branch = e () => (float[2] d) { d = Neg (b) }> }",
    )
    .expect("the fixture is ONNX text");
    let g = model.main_mut();
    let (a, b) = (g.value_named("a").expect("a"), g.value_named("b").expect("b"));
    g.replace_uses(b, a);
    assert_eq!(verify(&model), []);
    let printed = crate::text::print(&model, &crate::text::PrintOptions::default());
    let back = crate::text::parse(&printed).expect("what is printed can be read");
    assert!(printed.contains("Add (a, a)") && printed.contains("Neg (a)"), "{printed}");
    assert_eq!(verify(&back), []);
}
