//! `fuse-silu`: behind a DequantizeLinear, `x·σ(x)` becomes one operator.
//!
//! ```text
//! Mul (x, Sigmoid (x))   =   com.microsoft.QuickGelu<alpha = 1> (x)
//! ```
//!
//! ONNX Runtime does it in float graphs (`quick_gelu_fusion.cc`). Of a DequantizeLinear it makes one for each reader, so that
//! there the two operands are no longer the same value for it, and it reads the integers twice.

use super::{Tailoring, need_microsoft, operators, replace};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, OpSpec, ValueId};
use squint_ops::MICROSOFT;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "fuse-silu", rewrite: fuse };

fn fuse(model: &mut Model, _: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for sigmoid in operators(model, &["Sigmoid"])? {
        let g = model.main_mut();
        let Some((x, product)) = silu(g, sigmoid) else { continue };
        let spec = OpSpec::new("QuickGelu").domain(MICROSOFT).operands([x]).attr("alpha", 1.0f32);
        changed |= replace(g, product, spec, "fuse-silu");
    }
    if changed {
        need_microsoft(model);
    }
    Ok(changed)
}

/// What is gated by its own sigmoid, and the product, if nothing else reads either.
fn silu(g: &Graph, sigmoid: OpId) -> Option<(ValueId, OpId)> {
    let x = g.operand(sigmoid, 0)?;
    let (maker, _) = g.producer(x)?;
    let product = g.only_use(g.result(sigmoid, 0)?)?.op;
    let operands = [g.operand(product, 0), g.operand(product, 1)];
    let fits = g.op(maker).is("DequantizeLinear")
        && g.op(product).is("Mul")
        && operands.contains(&Some(x))
        // Beside other readers there are two of the DequantizeLinear whatever is done here.
        && g.uses(x).len() == 2
        && !g.is_output(x);
    fits.then_some((x, product))
}

#[cfg(test)]
mod tests {
    use super::super::testing::rewritten;
    use super::*;
    use crate::eliminate_dead_code::EliminateDeadCode;
    use crate::fuse::testing::{ops, parse};

    fn run(body: &str) -> String {
        let model = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 13]> m (uint8[3,5] q, float[3,5] f) => (float[3,5] y) \
             <float s = {{0.5}}, uint8 z = {{3}}> {{ {body} }}"
        ));
        ops(&rewritten(&model, "cpu-vnni", &[&PASS, &EliminateDeadCode], |_, _| {}).0)
    }

    #[test]
    fn one_reader_of_the_integers_is_left() {
        let body = |last: &str| format!("x = DequantizeLinear (q, s, z) g = Sigmoid (x) {last}");
        assert_eq!(run(&body("y = Mul (x, g)")), "DequantizeLinear QuickGelu");
        assert_eq!(run(&body("y = Mul (g, x)")), "DequantizeLinear QuickGelu");
        assert_eq!(run(&body("y = Mul (f, g)")), "DequantizeLinear Sigmoid Mul");
        assert_eq!(run(&body("h = Mul (x, g) y = Add (h, x)")), "DequantizeLinear Sigmoid Mul Add");
        // The runtime sees it by itself.
        assert_eq!(run("g = Sigmoid (f) y = Mul (f, g)"), "Sigmoid Mul");
    }
}
