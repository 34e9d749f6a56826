//! `hold-quantizers`: a QuantizeLinear behind a float MaxPool stays behind it.
//!
//! ```text
//! p = MaxPool (x)   q = QuantizeLinear (p, s, z)
//!
//! p = MaxPool (x)   h = Conv <group = C> (p, ones)   q = QuantizeLinear (h, s, z)
//! ```
//!
//! ONNX Runtime moves a QuantizeLinear up through operators that only move data, and counts MaxPool among them
//! (`qdq_propagation.cc`, release 1.31). There it quantizes four times the elements, and takes the pool out of the layout of
//! float convolutions without bringing it into that of integer ones: 5.6 ms, where the float pool takes 0.7 (32 channels of
//! 900 × 120 pixels). No such operator is a convolution, and one by ones is one pass in blocks over the smaller value.

use super::layouts::channels;
use super::{Tailoring, convolution_of_each, in_float, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{Graph, Model, OpId, Tensor, ValueId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "hold-quantizers", rewrite: hold_all };

fn hold_all(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    if kernels.block.is_none() {
        return Ok(false);
    }
    let mut changed = false;
    for op in operators(model, &["MaxPool"])? {
        let g = model.main_mut();
        let result = in_float(g, op).and_then(|_| g.result(op, 0)).filter(|_| g.results(op).len() == 1);
        let Some(p) = result.filter(|p| is_quantized(g, *p)) else { continue };
        let Some(n) = channels(&cx.facts, p) else { continue };
        hold(g, op, p, n);
        changed = true;
    }
    Ok(changed)
}

/// True if quantizers are all that reads a value.
fn is_quantized(g: &Graph, v: ValueId) -> bool {
    let uses = g.uses(v);
    !g.is_output(v) && !uses.is_empty() && uses.iter().all(|u| g.op(u.op).is("QuantizeLinear") && u.slot == 0)
}

fn hold(g: &mut Graph, pool: OpId, p: ValueId, channels: usize) {
    let name = g.value(p).name().to_owned();
    let ones =
        g.add_const(&format!("{name}_ones"), Tensor::from_f32(&[channels, 1, 1, 1], &vec![1.0; channels]));
    let ty = g.ty(p).cloned();
    let held = g.add_value(&format!("{name}_held"), ty);
    g.replace_uses(p, held);
    let conv = convolution_of_each(channels)
        .operands([p, ones])
        .results([held])
        .near(pool)
        .origin(format!("hold-quantizers({})", g.label(pool)));
    g.add_op(conv);
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::{ops, outputs};

    fn run(target: &str, body: &str) -> String {
        let (before, after) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,4,6,6] x) => (float[1,4,5,5] y) \
             <float s = {{0.01}}, uint8 z = {{100}}> {{ {body} y = DequantizeLinear (q, s, z) }}"
            ),
        );
        assert_eq!(outputs(&before), outputs(&after), "{body}");
        ops(&after)
    }

    #[test]
    fn a_convolution_by_ones_stands_between() {
        let body = "p = MaxPool <kernel_shape = [2, 2]> (x) q = QuantizeLinear (p, s, z)";
        assert_eq!(run("cpu-vnni", body), "MaxPool Conv QuantizeLinear DequantizeLinear");
        assert_eq!(run("tensorrt", body), "MaxPool QuantizeLinear DequantizeLinear");
    }

    #[test]
    fn pools_of_integers_and_other_operators_stay() {
        let body = "u = QuantizeLinear (x, s, z) d = DequantizeLinear (u, s, z) p = MaxPool <kernel_shape = [2, 2]> (d) \
                    q = QuantizeLinear (p, s, z)";
        assert!(!run("cpu-vnni", body).contains("Conv"));
        let body = "p = AveragePool <kernel_shape = [2, 2]> (x) q = QuantizeLinear (p, s, z)";
        assert!(!run("cpu-vnni", body).contains("Conv"));
    }
}
