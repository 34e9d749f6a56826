//! What tract cannot run, or runs wrong without saying so, found before anything is run.
//!
//! tract matches operators by type alone, so one of a foreign domain that shares its name with a standard
//! one would run as that; some attributes it never reads. Found by running the ONNX backend node tests and
//! the models of this project against ONNX Runtime; what fails loudly anyway is listed only where an
//! earlier and clearer message helps.

use crate::convert;
use crate::registry;
use squint_ir::execute::Unsupported;
use squint_ir::{DType, Graph, Model, Op, OpId, Type, ValueId};
use tract_onnx::model::Onnx;

/// Operators of foreign domains that tract implements.
const FOREIGN: &[(&str, &[&str])] = &[
    (
        "com.microsoft",
        &[
            "BiasGelu",
            "DequantizeLinear",
            "FastGelu",
            "GatherBlockQuantized",
            "Gelu",
            "GroupQueryAttention",
            "MatMulNBits",
            "MultiHeadAttention",
            "QuantizeLinear",
            "QuickGelu",
            "SimplifiedLayerNormalization",
            "SkipLayerNormalization",
        ],
    ),
    (
        "ai.onnx.ml",
        &[
            "ArrayFeatureExtractor",
            "CategoryMapper",
            "LinearClassifier",
            "LinearRegressor",
            "Normalizer",
            "TreeEnsembleClassifier",
        ],
    ),
];

/// Every operator of `model` that tract cannot be trusted with, in the order of the main graph; operators
/// inside bodies are reported at the operator that owns the body.
pub(crate) fn check(model: &Model) -> Vec<Unsupported> {
    let onnx = registry::onnx();
    let graph = model.main();
    let mut found = vec![];
    for id in graph.ops() {
        visit(model, &onnx, graph, id, &mut |op, name, reason| {
            found.push(Unsupported { op: id, node: name, op_type: op.qualified_type(), reason });
        });
    }
    found
}

/// Reports the operator and those in its bodies.
fn visit(model: &Model, onnx: &Onnx, graph: &Graph, id: OpId, report: &mut dyn FnMut(&Op, String, String)) {
    let op = graph.op(id);
    if let Some(reason) = refusal(model, onnx, graph, id) {
        report(op, node_name(graph, id), reason);
        return;
    }
    for body in op.bodies() {
        let body = model.graph(body);
        for inner in body.ops() {
            visit(model, onnx, body, inner, report);
        }
    }
}

/// The name of an operator's node, or that of its first result.
pub(crate) fn node_name(graph: &Graph, id: OpId) -> String {
    match graph.op(id).name.as_str() {
        "" => {
            let first = graph.results(id).into_iter().flatten().next();
            first.map(|v| graph.value(v).name().to_owned()).unwrap_or_default()
        }
        name => name.to_owned(),
    }
}

fn refusal(model: &Model, onnx: &Onnx, graph: &Graph, id: OpId) -> Option<String> {
    let op = graph.op(id);
    if model.functions.iter().any(|f| f.name == op.op_type && f.domain == op.domain) {
        return Some("a function of the model, which tract does not inline".into());
    }
    if !op.is_onnx() {
        let known = FOREIGN.iter().find(|(domain, _)| *domain == op.domain);
        if !known.is_some_and(|(_, types)| types.contains(&op.op_type.as_str())) {
            return Some(format!("tract does not know this operator of domain `{}`", op.domain));
        }
    }
    if !onnx.op_register.0.contains_key(&op.op_type) {
        return Some("tract does not have this operator".into());
    }
    let values: Vec<_> = graph.operands(id).into_iter().chain(graph.results(id)).flatten().collect();
    let unknown = values.iter().find_map(|v| untyped(graph, *v)).or_else(|| {
        let dtype = op.tensor("value")?.dtype();
        convert::datum_type(dtype).is_none().then(|| format!("tract has no {dtype} tensors"))
    });
    unknown.or_else(|| misread(model, graph, id).map(str::to_owned))
}

/// Why tract cannot hold a value, if it cannot.
fn untyped(graph: &Graph, value: ValueId) -> Option<String> {
    let dtype = match (graph.konst(value), graph.ty(value)) {
        (Some(konst), _) => konst.dtype(),
        (None, None | Some(Type::Encoded(_))) => return None,
        (None, Some(Type::Tensor { dtype, .. })) => *dtype,
        (None, Some(other)) => return Some(format!("tract has no values of type {other}")),
    };
    convert::datum_type(dtype).is_none().then(|| format!("tract has no {dtype} tensors"))
}

/// What tract misunderstands about an operator that it has.
fn misread(model: &Model, graph: &Graph, id: OpId) -> Option<&'static str> {
    let op = graph.op(id);
    let dtype = |slot| {
        let value = graph.operand(id, slot)?;
        graph.konst(value).map(|k| k.dtype()).or_else(|| graph.ty(value)?.dtype())
    };
    let is = |wrong: bool, reason| wrong.then_some(reason);
    match op.op_type.as_str() {
        "LSTM" | "GRU" | "RNN" => is(op.string("direction") == Some("reverse"), "tract runs it forwards")
            .or_else(|| is(other_activations(op), "tract ignores `activations`"))
            .or_else(|| is(op.attr("clip").is_some(), "tract ignores `clip`"))
            .or_else(|| is(op.int("input_forget") == Some(1), "tract ignores `input_forget`")),
        "Attention" => {
            let past = graph.operand(id, 4).is_some();
            is(op.int("is_causal") == Some(1) && past, "tract masks wrongly when there is a past").or_else(
                || {
                    let window = op.attributes.iter().any(|a| a.name.contains("window"));
                    is(window, "tract ignores the attention window")
                },
            )
        }
        "Celu" => is(dtype(0) == Some(DType::Float16), "tract computes it wrongly on float16"),
        "SpaceToDepth" => is(op.string("mode") == Some("CRD"), "tract ignores `mode`"),
        "Swish" => is(op.float("alpha").is_some_and(|a| a != 1.0), "tract ignores `alpha`"),
        "QuantizeLinear" | "DequantizeLinear" => {
            is(op.int("block_size").unwrap_or(0) != 0, "scales of blocks are not supported")
        }
        "Pad" => is(op.string("mode") == Some("wrap"), "tract does not wrap"),
        "BatchNormalization" => is(op.int("training_mode") == Some(1), "tract does not train"),
        "Upsample" => is(model.onnx_opset() < 9, "tract needs the scales as an operand (operator set 9)"),
        _ => None,
    }
}

/// True if a recurrent operator names activations other than its defaults.
fn other_activations(op: &Op) -> bool {
    let Some(squint_ir::AttrValue::Strings(names)) = op.attr("activations") else { return false };
    let defaults: &[&str] = match op.op_type.as_str() {
        "LSTM" => &["sigmoid", "tanh", "tanh"],
        "GRU" => &["sigmoid", "tanh"],
        _ => &["tanh"],
    };
    names.iter().zip(defaults.iter().cycle()).any(|(a, b)| !a.eq_ignore_ascii_case(b.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{OpSpec, Tensor};

    fn reasons(build: impl FnOnce(&mut Graph)) -> Vec<(String, String)> {
        let mut model = Model::new("g", 17);
        build(model.main_mut());
        check(&model).into_iter().map(|u| (u.op_type, u.reason)).collect()
    }

    fn float(g: &mut Graph, name: &str) -> ValueId {
        g.add_value(name, Some(Type::tensor(DType::Float, None)))
    }

    #[test]
    fn a_standard_name_in_a_foreign_domain_is_refused() {
        let found = reasons(|g| {
            let x = float(g, "x");
            g.emit(OpSpec::new("Relu").operands([x]), "fine", None);
            g.emit(OpSpec::new("Add").domain("com.acme").operands([x, x]), "y", None);
            g.emit(OpSpec::new("FastGelu").domain("com.microsoft").operands([x]), "z", None);
        });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "com.acme::Add");
    }

    #[test]
    fn what_tract_lacks_or_misreads_is_found() {
        let found = reasons(|g| {
            let x = float(g, "x");
            g.emit(OpSpec::new("Loop").operands([x]), "a", None);
            g.emit(OpSpec::new("GRU").operands([x, x, x]).attr("direction", "reverse"), "b", None);
            g.emit(OpSpec::new("GRU").operands([x, x, x]).attr("direction", "bidirectional"), "fine", None);
            let q = g.add_const("q", Tensor::raw(DType::Int4, &[2], vec![0].into()).unwrap());
            g.emit(OpSpec::new("DequantizeLinear").operands([q, x]), "c", None);
        });
        let types: Vec<&str> = found.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(types, ["Loop", "GRU", "DequantizeLinear"]);
        assert_eq!(found[2].1, "tract has no int4 tensors");
    }

    #[test]
    fn bodies_are_searched() {
        let mut model = Model::new("g", 17);
        let mut body = Graph::new("then");
        let y = body.emit(OpSpec::new("Det"), "y", None);
        body.outputs.push(y);
        let body = model.add_graph(body);
        let op = OpSpec::new("If").name("choose").attr("then_branch", squint_ir::AttrValue::Graph(body));
        let id = model.main_mut().add_op(op);
        let found = check(&model);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].op, found[0].op_type.as_str(), found[0].node.as_str()), (id, "Det", "y"));
    }
}
