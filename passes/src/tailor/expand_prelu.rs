//! `expand-prelu`: a PRelu becomes operators that are vectorised.
//!
//! ```text
//! PRelu (x, a)   =   a·x + (1 − a)·Relu (x)
//! ```
//!
//! ONNX Runtime computes a PRelu element by element (`prelu.cc`: 1.6 ms for 32 × 96 × 96 elements, for 0.4 as two products, a
//! Relu and a sum), and leaves the blocked layout of convolutions for it. Between values in blocks the products are
//! convolutions of each channel with one tap, the second of which adds the first. With one slope for all it is a LeakyRelu,
//! which a convolution in front takes up. Networks for faces and hands have one behind every convolution (He et al. 2015,
//! MTCNN, ArcFace, MediaPipe).

use super::layouts::{blocked, channels};
use super::{Tailoring, convolution_of_each, is_large, konst, operators, replace};
use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "expand-prelu", rewrite: expand };

fn expand(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["PRelu"])? {
        let g = model.main_mut();
        let (Some(x), Some(slope), Some(y)) = (g.operand(op, 0), g.operand(op, 1), g.result(op, 0)) else {
            continue;
        };
        let Some(slopes) = konst(g, slope).filter(|s| s.dtype() == DType::Float).cloned() else { continue };
        let numbers = slopes.f32s();
        if let Some(first) = numbers.first().filter(|first| numbers.iter().all(|a| a == *first)) {
            let leaky = OpSpec::new("LeakyRelu").operands([x]).attr("alpha", *first);
            replace(g, op, leaky, "expand-prelu");
            changed = true;
            continue;
        }
        let Some(factors) = by_channel(&cx.facts, x, &slopes) else { continue };
        let in_blocks = kernels.block.is_some_and(|b| factors.len() % b == 0 && blocked(g, x, &cx.facts, b));
        write_out(g, op, (x, y), &factors, in_blocks);
        changed = true;
    }
    Ok(changed)
}

/// The slope of each channel of a value of rank 4 that is large enough; `None` if slopes differ within a channel.
fn by_channel(facts: &ValueTable<Fact>, x: ValueId, slopes: &Tensor) -> Option<Vec<f32>> {
    let n = channels(facts, x)?;
    let of_channels = match *slopes.dims() {
        [1, c, _, _] | [c, _, _] => c == n,
        _ => false,
    };
    let numbers = slopes.f32s();
    if !of_channels || numbers.is_empty() || !is_large(facts, x) {
        return None;
    }
    let planes = numbers.chunks_exact(numbers.len() / n);
    planes.map(|plane| plane.iter().all(|a| *a == plane[0] && a.is_finite()).then_some(plane[0])).collect()
}

fn write_out(g: &mut Graph, op: OpId, (x, y): (ValueId, ValueId), slopes: &[f32], in_blocks: bool) {
    let (name, n) = (g.value(y).name().to_owned(), slopes.len());
    let rest: Vec<f32> = slopes.iter().map(|a| 1.0 - a).collect();
    let dims = if in_blocks { [n, 1, 1, 1] } else { [1, n, 1, 1] };
    let below = g.add_const(&format!("{name}_slopes"), Tensor::from_f32(&dims, slopes));
    let above = g.add_const(&format!("{name}_rest"), Tensor::from_f32(&dims, &rest));
    let product = |x: ValueId, k: ValueId| {
        let spec = if in_blocks { convolution_of_each(n) } else { OpSpec::new("Mul") };
        spec.operands([x, k]).near(op)
    };
    let relu = g.emit(OpSpec::new("Relu").operands([x]).near(op), &format!("{name}_positive"), None);
    let straight = g.emit(product(x, below), &format!("{name}_straight"), None);
    let bent = g.emit(product(relu, above), &format!("{name}_bent"), None);
    replace(g, op, OpSpec::new("Add").operands([straight, bent]), "expand-prelu");
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::ops;

    fn run(dims: &[usize], numbers: &[f32], size: usize, first: &str) -> String {
        let text = |of: Vec<String>| of.join(",");
        let (_, model) = tailored(
            &PASS,
            "cpu-vnni",
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 16]> m (float[1,32,{size},{size}] x0) => (float[1,32,{size},{size}] y) \
             <float[{}] a = {{{}}}, float[32,32,1,1] w = {{{}}}> {{ {first} y = PRelu (x, a) }}",
                text(dims.iter().map(ToString::to_string).collect()),
                text(numbers.iter().map(ToString::to_string).collect()),
                text(vec!["0.5".to_owned(); 1024]),
            ),
        );
        ops(&model)
    }

    fn slopes(n: usize, channels: usize) -> Vec<f32> {
        (0..n).map(|i| 0.01 * (i * channels / n) as f32 - 0.05).collect()
    }

    #[test]
    fn slopes_of_channels_are_written_out_and_one_for_all_is_a_leaky_relu() {
        let (one, all) = (slopes(32, 32), slopes(32 * 256, 32));
        assert_eq!(run(&[32, 1, 1], &one, 16, "x = Sin (x0)"), "Sin Relu Mul Mul Add");
        assert_eq!(run(&[1, 32, 16, 16], &all, 16, "x = Sin (x0)"), "Sin Relu Mul Mul Add");
        assert_eq!(run(&[32, 1, 1], &one, 16, "x = Conv (x0, w)"), "Conv Relu Conv Conv Add");
        assert_eq!(run(&[32, 1, 1], &[0.25; 32], 16, "x = Sin (x0)"), "Sin LeakyRelu");
        assert_eq!(run(&[1], &[0.25], 2, "x = Sin (x0)"), "Sin LeakyRelu");
    }

    #[test]
    fn small_values_and_slopes_within_channels_stay() {
        assert_eq!(run(&[32, 1, 1], &slopes(32, 32), 2, "x = Sin (x0)"), "Sin PRelu");
        assert_eq!(run(&[16], &slopes(16, 16), 16, "x = Sin (x0)"), "Sin PRelu");
        assert_eq!(run(&[32, 16, 1], &slopes(512, 512), 16, "x = Sin (x0)"), "Sin PRelu");
        assert_eq!(run(&[32, 0, 1], &[], 16, "x = Sin (x0)"), "Sin PRelu");
    }
}
