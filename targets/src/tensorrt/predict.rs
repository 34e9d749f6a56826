//! What TensorRT would make of a graph: which operators it fuses into one kernel, and in which precision.
//!
//! Read from its developer guide ("Q/DQ processing", "Q/DQ layer-placement recommendations" and "Types of fusions") and
//! from layer names in public logs, such as `conv2.weight + QuantizeLinear + Conv + Add + Relu`; TensorRT itself was not at
//! hand. `examples/tensorrt/compare_layers.py` compares the groups with those of a real engine.
//!
//! 1. A weighted operator takes in the DequantizeLinear of its operands and the quantizers of its weight, and behind it,
//!    as long as nothing else reads the value: a BatchNormalization, an Add of a constant, one residual Add, one
//!    activation, and the QuantizeLinear behind all that. It runs in INT8 if both operands are quantized.
//! 2. What only moves elements passes integers on between quantizers of equal scales; a quantizer behind it moves to
//!    before it.
//! 3. An average between quantizers runs in INT8.
//! 4. Other pointwise operators in a row are one kernel, in float.

use super::is_weighted;
use super::lint::{affine, dequantizer, is_onnx, is_weight, quantizer};
use crate::prediction::{Kind, Prediction, Runs, Subject, Why};
use squint_ir::{DType, Graph, OpId, OpTable, ValueId};
use squint_ops::Class;

pub(crate) fn predict(subject: &Subject<'_>) -> Prediction {
    let g = subject.graph;
    let order = g.topo().unwrap_or_else(|_| g.ops().collect());
    let mut p = Predictor { g, runs: OpTable::new() };
    // Weighted operators first: what is in their kernels is in no other.
    let (weighted, others): (Vec<OpId>, Vec<OpId>) = order.iter().partition(|op| is_weighted(g.op(**op)));
    weighted.into_iter().for_each(|op| p.weighted(op));
    // Quantizers last: they convert if no kernel took them.
    let (quantizers, others): (Vec<OpId>, Vec<OpId>) =
        others.into_iter().partition(|op| affine(g, *op).is_some());
    others.into_iter().chain(quantizers).for_each(|op| p.other(op));
    let mut prediction = Prediction::default();
    for op in order {
        let runs = p.runs.get(op).cloned().unwrap_or(Runs::Plain);
        let kernel = match &runs {
            Runs::Integer { kernel, .. } => Some(kernel.clone()),
            Runs::Converts => Some(g.op(op).op_type.clone()),
            _ => None,
        };
        if let Some(kernel) = kernel {
            *prediction.kernels.entry(kernel).or_default() += 1;
        }
        prediction.nodes.push((op, runs));
    }
    prediction
}

/// Said of what passes integers on.
const MOVED: &str = "moves INT8";

/// The one scale of a QuantizeLinear or DequantizeLinear.
fn scale(g: &Graph, op: OpId) -> Option<f64> {
    affine(g, op)?.scale?.scalar_value()
}

struct Predictor<'a> {
    g: &'a Graph,
    runs: OpTable<Runs>,
}

impl Predictor<'_> {
    fn set(&mut self, op: OpId, runs: Runs) {
        if !self.runs.contains(op) {
            self.runs.insert(op, runs);
        }
    }

    fn float(&mut self, op: OpId, kind: Kind, reason: &str, remedy: &str) {
        self.set(op, Runs::Float(Why { reason: reason.into(), remedy: remedy.into(), kind }));
    }

    fn weighted(&mut self, op: OpId) {
        let g = self.g;
        let (act, weight) = (dequantizer(g, op, 0), dequantizer(g, op, 1));
        match (act, weight) {
            (Some(d), Some(_)) => {
                let float8 = affine(g, d).is_some_and(|a| a.dtype == Some(DType::Float8e4m3fn));
                let precision = if float8 { "FP8" } else { "INT8" };
                let kernel = match g.op(op).op_type.as_str() {
                    "Conv" => "convolution",
                    "ConvTranspose" => "deconvolution",
                    _ => "matrix product",
                };
                self.set(op, Runs::Integer { kernel: format!("{precision} {kernel}"), note: None });
            }
            (None, Some(d)) if affine(g, d).is_some_and(|a| a.dtype == Some(DType::Int4)) => self.float(
                op,
                Kind::LeftInFloat,
                "its weight has 4 bits, and is multiplied in half precision",
                "",
            ),
            (None, None) => {
                self.float(op, Kind::LeftInFloat, "its operands are not quantized", "quantize both operands")
            }
            _ => self.float(
                op,
                Kind::Accident,
                "one of its operands is quantized and the other is not",
                "quantize both operands, or none",
            ),
        }
        if act.is_some() && weight.is_some() {
            self.take_operand(op, 0, op);
        }
        if weight.is_some() {
            self.take_operand(op, 1, op);
        }
        self.followers(op);
    }

    /// Takes the DequantizeLinear of an operand into a kernel, and for a constant what quantizes it, too.
    fn take_operand(&mut self, op: OpId, slot: u32, kernel: OpId) {
        let Some(d) = dequantizer(self.g, op, slot) else { return };
        self.set(d, Runs::Inside(kernel));
        if is_weight(self.g, op, slot)
            && let Some(q) = quantizer(self.g, d)
        {
            self.set(q, Runs::Inside(kernel));
        }
    }

    /// What is fused behind a weighted operator.
    fn followers(&mut self, op: OpId) {
        let g = self.g;
        let Some(mut v) = g.result(op, 0) else { return };
        let int8 = matches!(self.runs.get(op), Some(Runs::Integer { .. }));
        let (mut residual, mut activation) = (false, false);
        loop {
            if let Some(silu) = self.silu(v).filter(|_| !activation) {
                silu.iter().for_each(|part| self.set(*part, Runs::Inside(op)));
                activation = true;
                v = match g.result(silu[1], 0) {
                    Some(v) => v,
                    None => return,
                };
                continue;
            }
            let Some(next) = g.only_use(v).filter(|u| !u.capture && g.op(u.op).is_onnx()) else { return };
            if let Some(quantizers) = self.quantized_behind(next.op).filter(|_| next.slot == 0 && int8) {
                // The quantizer moves to before what it commutes with, which is left with integers.
                self.set(next.op, Runs::Integer { kernel: MOVED.into(), note: None });
                quantizers.into_iter().for_each(|q| self.set(q, Runs::Inside(op)));
                return;
            }
            let taken = match g.op(next.op).op_type.as_str() {
                "BatchNormalization" => next.slot == 0 && !activation && !residual,
                "Relu" | "Clip" | "LeakyRelu" | "HardSwish" | "Gelu" | "Sigmoid" | "Tanh" => {
                    !std::mem::replace(&mut activation, true)
                }
                "Add" if is_weight(g, next.op, 1 - next.slot) => !activation,
                "Add" if !activation && !std::mem::replace(&mut residual, true) => {
                    self.take_operand(next.op, 1 - next.slot, op);
                    true
                }
                "QuantizeLinear" if next.slot == 0 && int8 => {
                    self.set(next.op, Runs::Inside(op));
                    return;
                }
                _ => false,
            };
            // The other way into an Add may have taken it.
            if !taken || self.runs.contains(next.op) {
                return;
            }
            self.set(next.op, Runs::Inside(op));
            v = match g.result(next.op, 0) {
                Some(v) => v,
                None => return,
            };
        }
    }

    /// The quantizers behind an operator that only moves elements, if all its results are quantized alike.
    fn quantized_behind(&self, op: OpId) -> Option<Vec<OpId>> {
        let g = self.g;
        let row = squint_ops::row(&g.op(op).domain, &g.op(op).op_type)?;
        if !matches!(row.class, Class::Movement | Class::MaxPool) {
            return None;
        }
        let results = g.results(op).into_iter().flatten();
        let quantizers: Vec<OpId> = results
            .map(|v| Some(g.only_use(v)?.op).filter(|q| is_onnx(g, *q, "QuantizeLinear")))
            .collect::<Option<_>>()?;
        let first = quantizers.first().and_then(|q| scale(g, *q))?;
        quantizers.iter().all(|q| scale(g, *q) == Some(first)).then_some(quantizers)
    }

    /// The Sigmoid and the Mul of `x · sigmoid(x)`, if nothing else reads either.
    fn silu(&self, x: ValueId) -> Option<[OpId; 2]> {
        let g = self.g;
        let uses = g.uses(x);
        let [a, b] = uses[..] else { return None };
        if g.is_output(x) {
            return None;
        }
        let (sigmoid, mul) = if is_onnx(g, a.op, "Sigmoid") { (a.op, b.op) } else { (b.op, a.op) };
        let joined = g.only_use(g.result(sigmoid, 0)?)?;
        (is_onnx(g, sigmoid, "Sigmoid") && is_onnx(g, mul, "Mul") && joined.op == mul)
            .then_some([sigmoid, mul])
    }

    fn other(&mut self, op: OpId) {
        let g = self.g;
        if self.runs.contains(op) {
            return;
        }
        if affine(g, op).is_some() {
            return self.set(op, Runs::Converts);
        }
        let node = g.op(op);
        let Some(row) = squint_ops::row(&node.domain, &node.op_type) else {
            return self.float(op, Kind::NoKernel, "a plugin: what is around it is not fused", "");
        };
        match row.class {
            Class::Movement | Class::Join | Class::MaxPool => self.between(op, MOVED, row.class),
            Class::AveragePool => self.between(op, "INT8 pooling", row.class),
            Class::Clamp | Class::Binary | Class::Bounded | Class::Unary => self.pointwise(op),
            Class::Index => self.set(op, Runs::Plain),
            Class::Normalization => self.float(op, Kind::NoKernel, "normalisations run in float", ""),
            Class::Reduction => self.float(op, Kind::NoKernel, "reductions run in float", ""),
            Class::Recurrent => self.float(op, Kind::NoKernel, "recurrent layers run in float", ""),
            _ => self.float(op, Kind::NoKernel, "it has no INT8 kernel", ""),
        }
    }

    /// An operator that runs in INT8 between quantizers; where it only moves elements, their scales must be equal.
    fn between(&mut self, op: OpId, kernel: &str, class: Class) {
        let g = self.g;
        let count = if class == Class::Join { g.operands(op).len() as u32 } else { 1 };
        let before: Option<Vec<OpId>> = (0..count).map(|slot| dequantizer(g, op, slot)).collect();
        let results: Vec<ValueId> = g.results(op).into_iter().flatten().collect();
        let behind: Option<Vec<OpId>> = results
            .iter()
            .map(|v| Some(g.only_use(*v)?.op).filter(|q| is_onnx(g, *q, "QuantizeLinear")))
            .collect();
        let (Some(before), Some(behind)) = (before, behind) else {
            return self.float(op, Kind::LeftInFloat, "it is not between quantizers", "");
        };
        let first = before.first().and_then(|q| scale(g, *q));
        let equal = before.iter().chain(&behind).all(|q| first.is_some() && scale(g, *q) == first);
        if class != Class::AveragePool && !equal {
            return self.float(
                op,
                Kind::Accident,
                "the scales around it differ",
                "give all quantizers around it the same scale",
            );
        }
        self.set(op, Runs::Integer { kernel: kernel.into(), note: None });
        before.into_iter().chain(behind).for_each(|q| self.set(q, Runs::Inside(op)));
    }

    /// A pointwise operator: in the kernel of the one before it, if nothing else reads between them.
    fn pointwise(&mut self, op: OpId) {
        let g = self.g;
        let joined = g.operands(op).into_iter().flatten().find_map(|v| {
            g.only_use(v)?;
            let (before, _) = g.producer(v)?;
            let row = squint_ops::row(&g.op(before).domain, &g.op(before).op_type)?;
            let pointwise = matches!(row.class, Class::Clamp | Class::Binary | Class::Bounded | Class::Unary);
            match self.runs.get(before)? {
                Runs::Inside(kernel) if pointwise && !is_weighted(g.op(*kernel)) => Some(*kernel),
                Runs::Float(_) if pointwise => Some(before),
                _ => None,
            }
        });
        match joined {
            Some(kernel) => self.set(op, Runs::Inside(kernel)),
            None => {
                self.float(op, Kind::NoKernel, "pointwise operators run in float, fused with each other", "")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{ValueTable, text};

    /// Kernels with what is inside, by results: `c: r q`.
    fn groups(body: &str) -> Vec<String> {
        let source = format!(
            r#"<ir_version: 10, opset_import: ["" : 17]>
m (float[1,2,4,4] x, float[1,2,4,4] skip) => (float[1,2,4,4] y)
<float s = {{0.1}}, float t = {{0.2}}, int8 z = {{0}}, float[2] s2 = {{0.1, 0.2}}, int8[2] z2 = {{0, 0}},
 int8[2,2,1,1] w = {{1, 2, 3, 4}}, float[2,2,1,1] wf = {{1, 2, 3, 4}}>
{{ q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) dw = DequantizeLinear <axis = 0> (w, s2, z2) {body} }}"#
        );
        let model = text::parse(&source).unwrap_or_else(|e| panic!("{e}\n{source}"));
        let g = model.main();
        let facts = ValueTable::new();
        let nodes = predict(&Subject { graph: g, facts: &facts, opset: 17, overridable: true }).nodes;
        let inside = |op: OpId| {
            let of = nodes.iter().filter(|(_, r)| *r == Runs::Inside(op)).map(|(o, _)| g.label(*o));
            of.collect::<Vec<_>>().join(" ")
        };
        let line = |(op, runs): &(OpId, Runs)| match runs {
            Runs::Integer { .. } => Some(format!("INT8 {}: {}", g.label(*op), inside(*op))),
            Runs::Float(_) => Some(format!("float {}: {}", g.label(*op), inside(*op))),
            Runs::Converts => Some(g.label(*op)),
            _ => None,
        };
        nodes.iter().filter_map(line).collect()
    }

    #[test]
    fn a_convolution_takes_in_its_residual_add_and_activation() {
        let body = "qs = QuantizeLinear (skip, s, z) ds = DequantizeLinear (qs, s, z) c = Conv (d, dw) \
                    a = Add (c, ds) r = Relu (a) qr = QuantizeLinear (r, s, z) y = DequantizeLinear (qr, s, z)";
        assert_eq!(groups(body), ["q", "qs", "INT8 c: d dw ds a r qr", "y"]);
    }

    #[test]
    fn quantizers_between_a_convolution_and_its_activation_part_them() {
        let body =
            "c = Conv (d, dw) qc = QuantizeLinear (c, s, z) dc = DequantizeLinear (qc, s, z) y = Relu (dc)";
        assert_eq!(groups(body), ["q", "INT8 c: d dw qc", "dc", "float y: "]);
    }

    #[test]
    fn half_quantized_is_float_and_silu_goes_along() {
        let body = "c = Conv (d, wf) g = Sigmoid (c) m = Mul (c, g) qm = QuantizeLinear (m, s, z) \
                    y = DequantizeLinear (qm, s, z)";
        assert_eq!(groups(body), ["q", "d", "dw", "float c: g m", "qm", "y"]);
    }

    #[test]
    fn a_quantizer_moves_to_before_a_pool() {
        let body = "c = Conv (d, dw) p = MaxPool <kernel_shape = [1, 1]> (c) qp = QuantizeLinear (p, s, z) \
                    y = DequantizeLinear (qp, s, z)";
        assert_eq!(groups(body), ["q", "INT8 c: d dw qp", "INT8 p: ", "y"]);
    }

    #[test]
    fn elements_are_moved_between_equal_scales_only() {
        let moved = |scale: &str| {
            format!(
                "p = MaxPool <kernel_shape = [1, 1]> (d) qp = QuantizeLinear (p, {scale}, z) \
                 dp = DequantizeLinear (qp, {scale}, z) y = Conv (dp, dw)"
            )
        };
        assert_eq!(groups(&moved("s")), ["q", "INT8 p: d qp", "INT8 y: dw dp"]);
        assert_eq!(groups(&moved("t")), ["q", "d", "float p: ", "qp", "INT8 y: dw dp"]);
    }

    #[test]
    fn pointwise_operators_in_a_row_are_one_kernel() {
        assert_eq!(groups("e = Exp (x) n = Neg (e) y = Add (n, skip)"), ["q", "d", "dw", "float e: n y"]);
    }
}
