//! Quantization that is repeated.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::DType;

pub(super) const RULES: &[Rule] = rules! {
    /// `Q(DQ(q)) = q` with the same scale and zero point: a level is nearest to itself.
    "drop-repeated-quantize":
        "d& = DequantizeLinear (q, s, z?); y = QuantizeLinear (d, s, z?)"
        => "y = q", drop_repeated_quantize;
};

fn drop_repeated_quantize(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (from, to) = (rw.fact("q").dtype, rw.fact("y").dtype);
    let levels = [DType::Uint8, DType::Int8, DType::Uint16, DType::Int16];
    if from != to || !from.is_some_and(|t| levels.contains(&t)) {
        return Err("the element types differ, or are not 8 or 16 bits wide".into());
    }
    for attribute in ["axis", "block_size"] {
        if rw.op("d").int(attribute) != rw.op("y").int(attribute) {
            return Err(format!("`{attribute}` differs").into());
        }
    }
    rw.replace_root_by(rw.v("q"))
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    #[test]
    fn levels_stay_levels() {
        let rule = "drop-repeated-quantize";
        let text = "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3] x) => (float[2,3] y) \
                    <float s = {0.01}, float t = {0.02}, uint8 z = {128}, uint8 o = {127}> { \
                    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) \
                    r = QuantizeLinear (d, s, z) y = DequantizeLinear (r, s, z) }";
        assert_eq!(fires(rule, text), "QuantizeLinear DequantizeLinear");
        for (from, to) in [("(d, s, z)", "(d, t, z)"), ("(d, s, z)", "(d, s, o)")] {
            misses(rule, &text.replace(from, to));
        }
    }
}
