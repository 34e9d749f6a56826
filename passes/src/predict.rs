//! What a target will make of a model as it is, quantized or not, by whatever tool.
//!
//! The prediction itself is the target's; here its parts are put together: types of the values, calls of model
//! functions replaced by their bodies, multiply–accumulates counted.

use crate::config::Config;
use crate::infer_types::{infer_concrete, infer_declared};
use crate::inline_functions::InlineFunctions;
use crate::pass::{Pass, PassCx, PassError};
use crate::plan::resolve_target;
use squint_ir::types::known_dims;
use squint_ir::{Model, OpTable, ValueId, ValueTable};
use squint_ops::{Class, Fact};
use squint_targets::{Fault, Operand, Runs, Site, Subject};
use std::collections::BTreeMap;

/// What becomes of a model.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Every operator of the main graph, calls of functions replaced by their bodies, in order of execution.
    pub nodes: Vec<NodeForecast>,
    /// How often each integer kernel and each conversion stands in the graph that the runtime makes of it.
    pub kernels: BTreeMap<String, usize>,
    /// Why the runtime would refuse it: the node where it is one's fault, what is wrong, what to do.
    pub faults: Vec<(Option<String>, Fault)>,
}

/// What becomes of one operator.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeForecast {
    /// Node name, or its first result.
    pub node: String,
    /// Operator type.
    pub op_type: String,
    /// Multiply–accumulates, with 1 for lengths that the model leaves open; 0 for other operators than contractions.
    pub macs: u64,
    /// Whether it multiplies and accumulates.
    pub contraction: bool,
    /// Where it runs.
    pub runs: Runs,
    /// Position of the node whose kernel does its work, where [`Runs::Inside`] says so.
    pub inside: Option<usize>,
}

/// What a target will make of a model.
///
/// # Errors
/// If there is no such target or it predicts nothing, or the model is not well-formed.
pub fn predict(model: &Model, target: &str) -> Result<Forecast, PassError> {
    let target = resolve_target(target)?;
    let inlined = inline(model)?;
    let model = inlined.as_ref().unwrap_or(model);
    let g = model.main();
    let facts = infer_declared(model)?;
    let opset = model.onnx_opset();
    let overridable = model.ir_version >= 4;
    let subject = Subject { graph: g, facts: &facts, opset, overridable };
    let Some(prediction) = target.predict(&subject) else {
        return Err(PassError::Config(format!(
            "what the runtime of target `{}` makes of a model cannot be predicted",
            target.name()
        )));
    };
    let macs = macs(model, &facts)?;
    let mut positions = OpTable::new();
    for (i, (op, _)) in prediction.nodes.iter().enumerate() {
        positions.insert(*op, i);
    }
    let row = |op, runs: Runs| {
        let node = g.op(op);
        let row = squint_ops::row(&node.domain, &node.op_type);
        let inside = match &runs {
            Runs::Inside(by) => positions.get(*by).copied(),
            _ => None,
        };
        let macs = macs.get(op).copied();
        let contraction = macs.is_some() || row.is_some_and(|r| r.class == Class::Contraction);
        let (node, op_type, macs) = (g.label(op), node.qualified_type(), macs.unwrap_or(0));
        NodeForecast { node, op_type, macs, contraction, runs, inside }
    };
    let faults = prediction.faults.into_iter().map(|f| (f.op.map(|op| g.label(op)), f)).collect();
    let nodes = prediction.nodes.into_iter().map(|(op, runs)| row(op, runs)).collect();
    Ok(Forecast { nodes, kernels: prediction.kernels, faults })
}

/// A copy of the model without functions, if it has any.
fn inline(model: &Model) -> Result<Option<Model>, PassError> {
    if model.functions.is_empty() {
        return Ok(None);
    }
    let mut copy = model.clone();
    let config = Config::new("");
    InlineFunctions.run(&mut copy, &mut PassCx::new(&config))?;
    Ok(Some(copy))
}

/// Multiply–accumulates of the contractions whose lengths are known, or would be if every open length were 1.
fn macs(model: &Model, declared: &ValueTable<Fact>) -> Result<OpTable<u64>, PassError> {
    let g = model.main();
    let mut dims = ValueTable::new();
    for v in &g.inputs {
        if let Some(shape) = declared.get(*v).and_then(|f| f.shape.as_ref()) {
            dims.insert(*v, shape.iter().map(|d| d.known().unwrap_or(1) as usize).collect::<Vec<_>>());
        }
    }
    let concrete = infer_concrete(model, &dims)?;
    let operand = |value: ValueId| {
        let fact = match g.konst(value) {
            Some(t) => Fact::constant(t.clone()),
            None => concrete.get(value).cloned().unwrap_or_default(),
        };
        let dims = fact.shape.as_deref().and_then(known_dims);
        Operand { value, fact, dims }
    };
    let mut out = OpTable::new();
    for op in g.ops() {
        let macs = Site::new(g, op, model.onnx_opset(), operand).and_then(|s| s.multiplications());
        if let Some(macs) = macs {
            out.insert(op, macs);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
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
}
