//! `raise-fake-quant`: quantizers of training tools become QuantizeLinear, Clip and DequantizeLinear.
//!
//! ```text
//! y = Quant <signed = 1, narrow = 1> (x, s, z, 4)         or   y = Mul (Clip (Round (Div (x, s)), -7, 7), s)
//!
//! q = QuantizeLinear (x, s, zero)   c = Clip (q, -7, 7)   y = DequantizeLinear (c, s, zero)
//! ```
//!
//! | spelling | written by | file |
//! |---|---|---|
//! | `Quant`, `IntQuant` (domains of QONNX and Brevitas) | Brevitas, QKeras | `quant_node.rs` |
//! | Div, Round, Clip, Mul and their like | tools that trace their own rounding | `chain.rs` |
//!
//! Fewer than 8 bits stand on the grid of 8-bit integers, behind a Clip of the integers: what Brevitas calls QCDQ.
//! Constants are rounded here, by whatever rule; data only by the one that ONNX has, to the nearest level and to the
//! even one of two. What ONNX cannot say is told by name: a quantizer of more than 8 bits, or of another rounding, is
//! left out and its value stays in float; a model that computes with single bits is refused.
//!
//! Sources: `qonnx` repository, `docs/qonnx-custom-ops/quant_op.md` and `bipolar_quant_op.md`; ONNX `Operators.md`.

mod chain;
mod quant_node;
mod quantizer;

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::raise_opset;
use squint_ir::{Model, Op};

/// The pass.
pub(crate) struct RaiseFakeQuant;

impl Pass for RaiseFakeQuant {
    fn name(&self) -> &'static str {
        "raise-fake-quant"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main();
        let nodes = g.ops().any(|op| is_training_domain(&g.op(op).domain));
        let rounds = g.ops().any(|op| g.op(op).is("Round"));
        if !nodes && !rounds {
            return Ok(Changed::No);
        }
        raise_opset::raise_to(model, cx, PER_AXIS, "QuantizeLinear along an axis")?;
        InferTypes.run(model, cx)?;
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            if !model.main().has_op(op) {
                continue;
            }
            let node = model.main().op(op);
            if is_training_domain(&node.domain) {
                quant_node::raise(model, cx, op)?;
                changed = true;
            } else if node.is("Mul") || node.is("Div") {
                changed |= chain::raise(model, cx, op);
            }
        }
        if nodes {
            model.opsets.retain(|(domain, _)| !is_training_domain(domain));
        }
        Ok(changed.into())
    }
}

/// The operator set in which QuantizeLinear has an axis.
const PER_AXIS: i64 = 13;

/// Domains of the operators of training tools.
const DOMAINS: &[&str] = &["qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"];

fn is_training_domain(domain: &str) -> bool {
    DOMAINS.contains(&domain)
}

/// True if an operator quantizes and dequantizes in one, as training tools write it.
pub(crate) fn is_quant_node(op: &Op) -> bool {
    is_training_domain(&op.domain)
}
