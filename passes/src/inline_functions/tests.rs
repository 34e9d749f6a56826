//! Models in text, before and after.

use super::InlineFunctions;
use crate::config::Config;
use crate::pass::{Changed, Pass, PassCx};
use squint_ir::{Model, text, verify};

const HEADER: &str = "<ir_version: 10, opset_import: [\"\" : 18, \"local\" : 1]>";

fn inlined_model(source: &str) -> Result<Model, String> {
    let mut model = text::parse(source).map_err(|e| e.to_string()).expect("the fixture is ONNX text");
    let config = Config::new("cpu-vnni");
    let changed = InlineFunctions.run(&mut model, &mut PassCx::new(&config)).map_err(|e| e.to_string())?;
    assert_eq!(changed, Changed::Yes);
    let found: Vec<String> = verify::verify(&model).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(model.functions.is_empty());
    let options = text::PrintOptions::default();
    let printed = text::print(&model, &options);
    let back = text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert!(text::equal(&back, &model), "{printed}");
    Ok(model)
}

/// The lines of nodes after inlining, or the error. Quotes of names are left out.
fn inlined(main: &str, functions: &str) -> String {
    match inlined_model(&format!("{HEADER} {main} {functions}")) {
        Err(e) => e,
        Ok(model) => {
            let options = text::PrintOptions { hide_types: true, ..Default::default() };
            let printed = text::print(&model, &options).replace('"', "");
            let lines = printed.lines().map(str::trim).filter(|l| l.contains(" = ") || l.contains("=>"));
            lines.skip(1).collect::<Vec<_>>().join("\n")
        }
    }
}

const F: &str = "<domain: \"local\", opset_import: [\"\" : 18]>";

#[test]
fn functions_in_functions_are_expanded_under_the_names_of_their_calls() {
    let found = inlined(
        "m (float[2] x) => (float[2] y, float[2] z) { [c] y = local.outer (x) [d] z = local.outer (y) }",
        "<domain: \"local\", opset_import: [\"\" : 18, \"local\" : 1]>
         outer (a) => (b) { [i] h = local.inner (a) [n] b = Neg (h) }
         <domain: \"local\", opset_import: [\"\" : 18]> inner (a) => (b) { t = Abs (a) [s] b = Add (t, a) }",
    );
    assert_eq!(
        found,
        "c/i/t = Abs (x)\n[c/i/s] c/h = Add (c/i/t, x)\n[c/n] y = Neg (c/h)\n\
         d/i/t = Abs (y)\n[d/i/s] d/h = Add (d/i/t, y)\n[d/n] z = Neg (d/h)"
    );
}

#[test]
fn attributes_come_from_the_call_then_the_default_then_nowhere() {
    let f = "<domain: \"local\", opset_import: [\"\" : 18]>
             f <alpha = 2.0, axis> (a) => (b) { h = Elu <alpha: float = @alpha> (a) b = Softmax <axis: int = @axis> (h) }";
    let of =
        |call: &str| inlined(&format!("m (float[2] x) => (float[2] y) {{ [c] y = local.f {call}(x) }}"), f);
    assert_eq!(of(""), "c/h = Elu <alpha = 2.0> (x)\ny = Softmax (c/h)");
    assert_eq!(of("<axis = 1, alpha = 0.5> "), "c/h = Elu <alpha = 0.5> (x)\ny = Softmax <axis = 1> (c/h)");
    // What the outer call leaves out is left out of the inner one, whose default holds.
    let outer = "<domain: \"local\", opset_import: [\"local\" : 1]> g <beta> (a) => (b) { [i] b = local.f <alpha: float = @beta> (a) }";
    let found = inlined("m (float[2] x) => (float[2] y) { [c] y = local.g (x) }", &format!("{f} {outer}"));
    assert_eq!(found, "c/i/h = Elu <alpha = 2.0> (x)\ny = Softmax (c/i/h)");
}

#[test]
fn bodies_are_copied_with_what_they_capture() {
    let f = "f (c, a, b) => (y) { t = Neg (a) y = If (c) <
               then_branch = then () => (r) { r = Add (t, b) },
               else_branch = other () => (r) { u = If (c) <
                 then_branch = p () => (a) { }, else_branch = q () => (v) { v = local.g (b) }> r = Abs (u) }> }
             <domain: \"local\", opset_import: [\"\" : 18]> g (a) => (b) { [e] b = Exp (a) }";
    let f = format!("<domain: \"local\", opset_import: [\"\" : 18, \"local\" : 1]> {f}");
    // One value is given for two inputs, and the bodies capture it once.
    let found =
        inlined("m (bool c, float[2] x) => (float[2] y) { k = Not (c) [call] y = local.f (k, x, x) }", &f);
    assert_eq!(
        found,
        "k = Not (c)\ncall/t = Neg (x)\ny = If (k) <\nthen_branch = then () => (call/r)\ncall/r = Add (call/t, x)\n\
         else_branch = other () => (call/r_1)\ncall/u = If (k) <\nthen_branch = p () => (x)\n\
         else_branch = q () => (call/v)\n[call/v/e] call/v = Exp (x)\ncall/r_1 = Abs (call/u)"
    );
}

#[test]
fn calls_in_bodies_are_found_and_no_name_is_hidden() {
    let found = inlined(
        "m (bool c, float[2] a, float[2] \"f/t\") => (float[2] y) {
           y = If (c) <then_branch = then () => (r) { [f] r = local.f (a) },
                       else_branch = other () => (s) { [f] s = local.f (\"f/t\") }> }",
        &format!("{F} f (t1) => (a) {{ t = Neg (t1) a = Exp (t) }}"),
    );
    assert!(found.contains("f/t_1 = Neg (a)\nr = Exp (f/t_1)"), "{found}");
    assert!(found.contains("f/t_2 = Neg (f/t)\ns = Exp (f/t_2)"), "{found}");
}

#[test]
fn signatures_may_be_filled_in_part() {
    let f = format!("{F} f (a, lo, hi) => (y, n, a) {{ y = Clip (a, lo, hi) n = Neg (y) }}");
    let of = |body: &str| inlined(&format!("m (float x, float k) => (float y) {{ {body} }}"), &f);
    assert_eq!(of("[c] y = local.f (x, \"\", k)"), "y = Clip (x, , k)\nc/n = Neg (y)");
    assert_eq!(of("[c] \"\", y = local.f (x)"), "c/y = Clip (x)\ny = Neg (c/y)");
    // A result that is an operand is copied.
    let found = of("[c] \"\", \"\", y = local.f (x, k)");
    assert_eq!(found, "c/y = Clip (x, k)\nc/n = Neg (c/y)\n[c/Identity] y = Identity (x)");
    assert!(
        of("[c] y, n, z = local.f (\"\", k)")
            .contains("node `c` (call of function `local::f`): uses a result")
    );
    assert!(of("[c] y = local.f (x, x, x, x)").contains("gives 4 operands to a function that has 3"));
}

#[test]
fn one_result_may_be_returned_twice() {
    let f = format!("{F} f (a) => (y, y) {{ y = Neg (a) }}");
    let found = inlined("m (float x) => (float y, float z) { [c] y, z = local.f (x) }", &f);
    assert_eq!(found, "y = Neg (x)\n[c/Identity] z = Identity (y)");
}

#[test]
fn recursion_names_the_functions() {
    let f = "<domain: \"local\", opset_import: [\"local\" : 1]> f (a) => (b) { b = local.g (a) }
             <domain: \"local\", overload: \"v\", opset_import: [\"local\" : 1]> h (a) => (b) { b = local.g (a) }
             <domain: \"local\", opset_import: [\"local\" : 1]> g (a) => (b) { b = local.h:v (a) }";
    let found = inlined("m (float x) => (float y) { y = local.f (x) }", f);
    assert_eq!(
        found,
        "model functions must not call themselves, but `local::g` calls `local::h:v` calls `local::g`"
    );
}

#[test]
fn what_would_not_end_is_refused() {
    let doubling = |n: usize| -> String {
        let one = |i: usize| {
            let next = i + 1;
            format!("{F} f{i} (a) => (b) {{ h = local.f{next} (a) b = local.f{next} (h) }}\n")
        };
        (0..n).map(one).collect::<String>() + &format!("{F} f{n} (a) => (a) {{}}")
    };
    let main = "m (float x) => (float y) { y = local.f0 (x) }";
    let header = HEADER;
    let run = |functions: String| inlined_model(&format!("{header} {main} {functions}")).unwrap_err();
    assert!(run(doubling(40)).contains("operators and values"));
    let chain: String = (0..70)
        .map(|i| format!("{F} f{i} (a) => (b) {{ b = local.f{} (a) }}\n", i + 1))
        .chain([format!("{F} f70 (a) => (b) {{ b = Neg (a) }}")])
        .collect();
    assert!(run(chain).contains("nested 71 deep"));
}

#[test]
fn operator_sets_are_merged() {
    let main = "m (float x) => (float y) { y = local.f (x) }";
    let run = |model: &str, function: &str, body: &str| {
        inlined_model(&format!(
            "<ir_version: 10, opset_import: [\"\" : 18, {model}]> {main}
             <domain: \"local\", opset_import: [{function}]> f (a) => (b) {{ {body} }}"
        ))
        .map(|m| m.opsets)
    };
    let body = "h = com.acme.Op (a) b = Neg (h)";
    let found = run("\"local\" : 1", "\"ai.onnx\" : 18, \"com.acme\" : 3", body).unwrap();
    assert_eq!(found, [(String::new(), 18), ("com.acme".into(), 3)]);
    let found = run("\"local\" : 1, \"com.acme\" : 2", "\"\" : 18, \"com.acme\" : 3", body).unwrap_err();
    assert_eq!(
        found,
        "function `local::f` uses operator set 3 of domain `com.acme`, the model uses 2: \
         export the model again with one version of the domain"
    );
    // Not used, so no matter.
    let found = run("\"local\" : 1, \"com.acme\" : 2", "\"\" : 18, \"com.acme\" : 3", "b = Neg (a)").unwrap();
    assert_eq!(found, [(String::new(), 18), ("com.acme".into(), 2)]);
}

#[test]
fn origin_says_which_calls_were_inlined() {
    let model = inlined_model(&format!(
        "{HEADER} m (float x) => (float y) {{ [c] y = local.f (x) }}
         <domain: \"local\", opset_import: [\"\" : 18, \"local\" : 1]> f (a) => (b) {{ [i] b = local.g (a) }}
         {F} g (a) => (b) {{ [n] b = Neg (a) }} {F} unused (a) => (b) {{ b = Exp (a) }}"
    ))
    .unwrap();
    let op = model.main().ops().next().unwrap();
    assert_eq!(model.main().op(op).origin, ["inline-functions(c)", "inline-functions(c/i)"]);
    assert_eq!(model.graph_ids().count(), 1, "functions leave no graphs");
}
