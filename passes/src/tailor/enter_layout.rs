//! `enter-layout`: a value that is quantized between float and a chain of residual sums goes through a convolution by one.
//!
//! ```text
//! q = QuantizeLinear (x)   a = Conv (DQ q)   s = Add (DQ a, DQ q)   b = Conv (DQ s)   …
//!
//! p = QuantizeLinear (x)   q = Conv <group = C> (DQ p, 64 · 1/64)   a = Conv (DQ q)   s = Add (DQ a, DQ q)   …
//! ```
//!
//! Integer convolutions work on channels that lie side by side, and ONNX Runtime transposes before and behind them
//! (`nhwc_transformer.cc`). A sum of two such results stays in that layout; but one operand from outside keeps the sum out
//! of it, and with it each sum behind that has it for an operand: two transpositions for each block of a residual network
//! whose first convolution is faster in float. The result of a convolution is in the layout. The product with 64 and the
//! scale 1/64 are exact, and so is the rounding to the same scale.

use super::layouts::channels;
use super::{Tailoring, convolution_of_each, is_dequantized, operators};
use crate::elementwise::quantizes_with_one_scale;
use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "enter-layout", rewrite: enter_all };

/// Channels for which the kernel of single channels reads them as they lie.
const REGISTER: usize = 16;

/// Sums in a row from which on it pays: each saves two transpositions, which take a quarter of the time of the
/// convolution. (ONNX Runtime 1.31, 16 channels of 32 × 32 pixels: 3.5 µs and 12 µs.)
const SUMS: usize = 3;

fn enter_all(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["QuantizeLinear"])? {
        let g = model.main_mut();
        let Some(x) = g.operand(op, 0).filter(|_| quantizes_with_one_scale(g, op)) else { continue };
        let outside = maker(g, x).is_none_or(|p| !reads_integers(g, p));
        let wide = channels(&cx.facts, x).filter(|c| c % REGISTER == 0);
        if let Some(c) = wide.filter(|_| outside && begins_residuals(g, op)) {
            enter(g, op, c);
            changed = true;
        }
    }
    Ok(changed)
}

fn maker(g: &Graph, v: ValueId) -> Option<OpId> {
    g.producer(v).map(|(op, _)| op)
}

/// True if the data of an operator is dequantized, that of one that only clamps before it clamps.
fn reads_integers(g: &Graph, op: OpId) -> bool {
    let op = unclamped(g, op);
    g.op(op).is("DequantizeLinear") || g.operand(op, 0).is_some_and(|x| is_dequantized(g, x))
}

/// The operators that read a quantized value behind its DequantizeLinear, each with the slot.
fn readers(g: &Graph, quantizer: OpId) -> Vec<(OpId, u32)> {
    let Some(q) = g.result(quantizer, 0) else { return Vec::new() };
    let dequantized = g.uses(q).into_iter().filter(|u| g.op(u.op).is("DequantizeLinear"));
    let values = dequantized.filter_map(|u| g.result(u.op, 0));
    values.flat_map(|v| g.uses(v)).filter(|u| !u.capture).map(|u| (u.op, u.slot)).collect()
}

/// The quantizer of the result of an operator in integers, behind what it absorbs.
fn quantizer_behind(g: &Graph, op: OpId) -> Option<OpId> {
    let next = g.only_use(g.result(op, 0)?)?.op;
    match g.op(next).op_type.as_str() {
        "QuantizeLinear" => Some(next),
        "Relu" | "Clip" => quantizer_behind(g, next),
        _ => None,
    }
}

/// True if a quantized value is added to the result of an integer convolution, the sum to that of another, and so on for
/// [`SUMS`] sums, which convolutions read.
fn begins_residuals(g: &Graph, quantizer: OpId) -> bool {
    let mut at = quantizer;
    for _ in 0..SUMS {
        let mut sums = readers(g, at).into_iter().filter(|(op, _)| g.op(*op).is("Add"));
        let Some(next) = sums.find_map(|(add, slot)| residual_sum(g, add, slot)) else { return false };
        at = next;
    }
    true
}

/// The quantizer of a sum with the result of an integer convolution, which a convolution reads.
fn residual_sum(g: &Graph, add: OpId, slot: u32) -> Option<OpId> {
    let dequantizer =
        maker(g, g.operand(add, 1 - slot.min(1))?).filter(|d| g.op(*d).is("DequantizeLinear"))?;
    let real = g.operand(maker(g, g.operand(dequantizer, 0)?)?, 0)?;
    let made = unclamped(g, maker(g, real)?);
    let sum = quantizer_behind(g, add)?;
    let convolved = g.op(made).is("Conv") && reads_integers(g, made);
    let convolves = readers(g, sum).iter().any(|(op, slot)| *slot == 0 && g.op(*op).is("Conv"));
    (convolved && convolves).then_some(sum)
}

/// What stands before a Relu or Clip.
fn unclamped(g: &Graph, op: OpId) -> OpId {
    let clamps = ["Relu", "Clip"].iter().any(|t| g.op(op).is(t));
    let before = g.operand(op, 0).filter(|_| clamps).and_then(|v| maker(g, v));
    before.map_or(op, |p| unclamped(g, p))
}

fn enter(g: &mut Graph, quantizer: OpId, channels: usize) {
    let Some(q) = g.result(quantizer, 0) else { return };
    let name = g.value(q).name().to_owned();
    let origin = format!("enter-layout({})", g.label(quantizer));
    let spec = |op_type: &str| OpSpec::new(op_type).near(quantizer).origin(origin.clone());
    let parameters: Vec<Option<ValueId>> = g.operands(quantizer).into_iter().skip(1).collect();
    let attributes = g.op(quantizer).clone();
    let with = |v: ValueId| [vec![Some(v)], parameters.clone()].concat();
    g.set_result(quantizer, 0, None);
    let entering = g.add_value(&format!("{name}_entering"), g.ty(q).cloned());
    g.set_result(quantizer, 0, Some(entering));
    let real = g.emit(spec("DequantizeLinear").operands(with(entering)), &format!("{name}_entered"), None);
    let codes = Tensor::raw(DType::Int8, &[channels, 1, 1, 1], vec![64u8; channels].into());
    let codes =
        g.add_const(&format!("{name}_sixty_four"), codes.expect("invariant: a byte for each element"));
    let scale = g.add_const(&format!("{name}_one_64th"), Tensor::scalar_f32(1.0 / 64.0));
    let zero = Tensor::raw(DType::Int8, &[], vec![0u8].into()).expect("invariant: one byte");
    let zero = g.add_const(&format!("{name}_zero"), zero);
    let ones = g.emit(spec("DequantizeLinear").operands([codes, scale, zero]), &format!("{name}_ones"), None);
    let conv = convolution_of_each(channels).near(quantizer).origin(origin.clone());
    let same = g.emit(conv.operands([real, ones]), &format!("{name}_same"), None);
    let again = OpSpec::from_op(attributes).name("").operands(with(same)).near(quantizer).origin(origin);
    let again = g.add_op(again);
    g.set_result(again, 0, Some(q));
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::{ops, outputs};

    fn run(channels: usize, behind: &str) -> String {
        let (before, after) = tailored(
            &PASS,
            "cpu-vnni",
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,{channels},6,6] i) => (float[N,M,H,W] y) \
             <float s = {{0.02}}, uint8 z = {{110}}, float[{channels},{channels},1,1] w = [\"location\": \"gen:randn\"], \
              float ws = {{0.01}}, int8 wz = {{0}}> {{ x = Sigmoid (i) \
              q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) v = QuantizeLinear (w, ws, wz) \
              u = DequantizeLinear (v, ws, wz) c = Conv (d, u) r = Relu (c) a = QuantizeLinear (r, s, z) \
              e = DequantizeLinear (a, s, z) {behind} }}"
            ),
        );
        assert_eq!(outputs(&before), outputs(&after), "the same to the bit");
        ops(&after)
    }

    /// Sums of the value before with the convolution of it, so many, and a convolution behind.
    fn sums(n: usize) -> String {
        let mut text = String::new();
        let (mut before, mut convolved) = ("d".to_owned(), "e".to_owned());
        for i in 0..n {
            text += &format!(
                "t{i} = Add ({convolved}, {before}) b{i} = QuantizeLinear (t{i}, s, z) \
                 f{i} = DequantizeLinear (b{i}, s, z) c{i} = Conv (f{i}, u) a{i} = QuantizeLinear (c{i}, s, z) \
                 e{i} = DequantizeLinear (a{i}, s, z) "
            );
            (before, convolved) = (format!("f{i}"), format!("e{i}"));
        }
        text + &format!("y = Tanh ({convolved})")
    }

    const ENTERED: &str = "Sigmoid QuantizeLinear DequantizeLinear DequantizeLinear Conv";

    #[test]
    fn what_residual_sums_begin_with_is_convolved_by_one() {
        let made = run(16, &sums(3));
        assert!(made.starts_with(ENTERED), "{made}");
    }

    #[test]
    fn other_sums_and_numbers_of_channels_stay() {
        let no_sum = "t = Tanh (d) g = Conv (e, u) y = Add (g, t)".to_owned();
        for (channels, behind) in [(12, sums(3)), (16, sums(2)), (16, no_sum)] {
            let made = run(channels, &behind);
            assert!(!made.starts_with(ENTERED), "{made}");
        }
    }
}
