//! Transposed convolutions that are convolutions.
//!
//! Source: `Conv` and `ConvTranspose` in ONNX `Operators.md`.

use super::super::{Miss, Rewrite, Rule};
use crate::windows;
use squint_ir::{OpSpec, Tensor};

pub(super) const RULES: &[Rule] = rules! {
    /// With strides of 1 `ConvTranspose(x, w)` is `Conv(x, w')`: the kernel turned around, inputs and outputs exchanged, and
    /// padded by `(k − 1)·d − p`. Runtimes compute the one as a matrix product whose result is scattered, the other
    /// directly.
    "transposed-to-convolution":
        "y = ConvTranspose (x, w!, b?)"
        => "y = Conv (x, w', b)", transposed_to_convolution;
};

fn transposed_to_convolution(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.expect_float("w")?;
    rw.expect_free_weight("w")?;
    let (weight, mut op) = (rw.konst("w")?, rw.op("y").clone());
    let [inputs, outputs, ref kernel @ ..] = *weight.dims() else {
        return Err("its weight has no channels".into());
    };
    let n = kernel.len();
    let group = usize::try_from(op.int("group").unwrap_or(1)).ok().filter(|g| *g > 0 && inputs % g == 0);
    let group = group.ok_or("its groups do not fit its weight")?;
    if windows::list(&op, "strides", n, 1)?.iter().any(|s| *s != 1) {
        return Err("its strides are not 1".into());
    }
    if op.attr("output_shape").is_some() {
        return Err("its padding depends on lengths".into());
    }
    let (pads, dilations) = (windows::pads(&op, n)?, windows::list(&op, "dilations", n, 1)?);
    let extra = windows::list(&op, "output_padding", n, 0)?;
    let pad = |i: usize| {
        let reach = (kernel[i % n] as i64 - 1).checked_mul(dilations[i % n])?;
        let extra = if i < n { 0 } else { extra[i - n] };
        reach.checked_sub(pads[i])?.checked_add(extra).filter(|p| (0..=1 << 20).contains(p))
    };
    let pads: Option<Vec<i64>> = (0..2 * n).map(pad).collect();
    let pads = pads.ok_or("its padding crops more than the kernel reaches")?;
    let turned = turned(&weight.f32s(), [inputs, outputs], kernel, group);
    for name in ["output_padding", "strides", "auto_pad"] {
        op.remove_attr(name);
    }
    op.op_type = "Conv".into();
    op.set_attr("pads", pads);
    let turned = rw.add_const("w", turned);
    let operands = [Some(rw.v("x")), Some(turned), rw.opt("b")];
    let operands = &operands[..if rw.has("b") { 3 } else { 2 }];
    rw.replace_root(OpSpec::from_op(op).operands(operands.iter().copied()));
    Ok(())
}

/// The weight `[C, M/g, k…]` as `[M, C/g, k…]`, the taps of each kernel in the opposite order.
fn turned(weight: &[f32], [inputs, outputs]: [usize; 2], kernel: &[usize], group: usize) -> Tensor {
    let (taps, within) = (kernel.iter().product::<usize>(), inputs / group);
    let mut turned = Vec::with_capacity(weight.len());
    for (g, m) in (0..group).flat_map(|g| (0..outputs).map(move |m| (g, m))) {
        for c in 0..within {
            let at = ((g * within + c) * outputs + m) * taps;
            turned.extend(weight[at..at + taps].iter().rev());
        }
    }
    let dims: Vec<usize> = [group * outputs, within].into_iter().chain(kernel.iter().copied()).collect();
    Tensor::from_f32(&dims, &turned)
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    const RULE: &str = "transposed-to-convolution";

    fn model(attributes: &str, dims: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,4,5,6] x) => (float[N,M,H,W] y) \
             <float{dims} w = [\"location\": \"gen:randn\"], float[6] b = {{1, 2, 3, 4, 5, 6}}> \
             {{ y = ConvTranspose <{attributes}> (x, w, b) }}"
        )
    }

    #[test]
    fn what_it_computes_stays_the_same() {
        for (attributes, dims) in [
            ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", "[4,6,3,3]"),
            ("strides = [1, 1]", "[4,6,1,3]"),
            ("pads = [0, 1, 2, 0], dilations = [1, 2]", "[4,6,3,2]"),
            ("group = 2, pads = [1, 0, 1, 0]", "[4,3,2,2]"),
            ("output_padding = [0, 1], dilations = [2, 2]", "[4,6,2,2]"),
        ] {
            assert_eq!(fires(RULE, &model(attributes, dims)), "Conv", "{attributes}");
        }
    }

    #[test]
    fn strides_and_crops_stay() {
        assert!(misses(RULE, &model("strides = [2, 1]", "[4,6,3,3]")).contains("strides"));
        assert!(misses(RULE, &model("pads = [3, 0, 0, 0]", "[4,6,3,3]")).contains("crops"));
        assert!(
            misses(RULE, &model("auto_pad = \"SAME_UPPER\"", "[4,6,3,3]")).contains("depends on lengths")
        );
    }
}
