//! `subpixel-convolutions`: a transposed convolution becomes a convolution that computes all pixels of a block as
//! channels, which are then put side by side.
//!
//! ```text
//! y = ConvTranspose <strides = [2, 2]> (x, w, b)   z = Relu (y)
//!
//! c = Conv (x, w', b')   r = Relu (c)   z = DepthToSpace <blocksize = 2> (r)
//! ```
//!
//! With stride `s`, the pixel `s·q + r` of the result is a sum over those taps `k` of the kernel for which `k ≡ r + p`
//! (mod `s`), each at the pixel `q + (r + p − k) / s` of the data: for each of the `s²` remainders an ordinary convolution
//! (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009). No runtime that
//! squint knows but TensorRT has an integer kernel for ConvTranspose; every one has them for Conv and for DepthToSpace.
//! In float both forms take the same time in ONNX Runtime 1.31 (3.2 to 8.9 ms on five sizes, 5 % apart at most), as its
//! ConvTranspose is a matrix product whose result is scattered, too.
//!
//! Along one axis there is no DepthToSpace: two axes are exchanged between two Reshapes. In float that costs a fifth more than
//! the ConvTranspose (in integers the whole takes a third of its time); `restore-transposed` goes back where it stayed float.
//!
//! Functions of single elements behind the operator stay behind the Conv, to be absorbed by it.
//!
//! It runs after the float graph is final, so that what could be folded into the weights has been.

use crate::elementwise::replace_with_elementwise;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::windows;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::Fact;

/// The pass.
pub(crate) struct SubpixelConvolutions;

impl Pass for SubpixelConvolutions {
    fn name(&self) -> &'static str {
        ORIGIN
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let transposed = |op: &OpId| model.main().op(*op).is("ConvTranspose");
        for op in order.into_iter().filter(transposed).collect::<Vec<_>>() {
            match Subpixel::of(model.main(), op, &cx.facts) {
                Ok(subpixel) => {
                    subpixel.rewrite(model.main_mut(), op);
                    changed = true;
                }
                Err(why) => cx.notes.add(model.main().label(op), format!("stays a ConvTranspose: {why}")),
            }
        }
        Ok(changed.into())
    }
}

/// What operators of this pass have in their provenance.
pub(crate) const ORIGIN: &str = "subpixel-convolutions";

/// A convolution may have so many times the weights of the transposed one; the others are zeros.
const MAX_GROWTH: usize = 3;

/// How an axis of the kernel is cut into those of single remainders.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    stride: i64,
    kernel: i64,
    /// Padding before the first pixel.
    before: i64,
    /// Smallest distance of a pixel of the data that contributes from the one at the same place.
    first: i64,
    /// Largest.
    last: i64,
    /// Padding of the convolution behind the last pixel.
    behind: i64,
}

impl Axis {
    /// One of length 1.
    const SINGLE: Axis = Axis { stride: 1, kernel: 1, before: 0, first: 0, last: 0, behind: 0 };

    fn new(stride: i64, kernel: i64, before: i64, behind: i64, extra: i64) -> Result<Axis, &'static str> {
        // The result has `s·(n − 1) + k − p_b − p_e + o` pixels: `s·n + rest` of them.
        let rest = kernel - stride - before - behind + extra;
        if rest % stride != 0 {
            return Err("its result is not a whole number of blocks");
        }
        let distances = (0..stride)
            .flat_map(|r| (0..kernel).map(move |k| r + before - k))
            .filter(|d| d % stride == 0)
            .map(|d| d / stride);
        let first = distances.clone().min().ok_or("its kernel is empty")?;
        let last = distances.max().ok_or("its kernel is empty")?;
        let axis = Axis { stride, kernel, before, first, last, behind: last + rest / stride };
        if first > 0 || axis.behind < 0 {
            return Err("its padding crops the data");
        }
        Ok(axis)
    }

    /// Taps of the convolution.
    fn taps(self) -> usize {
        (self.last - self.first + 1) as usize
    }

    /// The tap of the convolution at which a tap of the kernel stands for pixels of a remainder; `None` if it does not
    /// contribute to them.
    fn tap(self, remainder: usize, tap: usize) -> Option<usize> {
        let distance = remainder as i64 + self.before - tap as i64;
        (distance % self.stride == 0).then(|| (distance / self.stride - self.first) as usize)
    }
}

/// What is computed instead.
struct Subpixel {
    pads: Vec<i64>,
    weight: Tensor,
    bias: Option<Tensor>,
    arrange: Arrange,
}

/// How pixels that were computed as channels get to their places.
enum Arrange {
    /// Blocks along two axes.
    DepthToSpace { block: i64 },
    /// Along one: a Reshape, a Transpose, a Reshape.
    Exchange { cut: Vec<i64>, perm: Vec<i64>, join: Vec<i64> },
}

impl Subpixel {
    fn of(g: &Graph, id: OpId, facts: &ValueTable<Fact>) -> Result<Subpixel, &'static str> {
        let op = g.op(id);
        let konst = |slot| g.operand(id, slot).filter(|v| !g.is_input(*v)).and_then(|v| g.konst(v));
        let weight =
            konst(1).filter(|w| w.dtype() == DType::Float).ok_or("its weight is no float32 constant")?;
        let (inputs, outputs, high, wide) = match *weight.dims() {
            [inputs, outputs, wide] => (inputs, outputs, 1, wide),
            [inputs, outputs, high, wide] => (inputs, outputs, high, wide),
            _ => return Err("it has not one or two spatial axes"),
        };
        let n = weight.rank() - 2;
        let bias = match g.operand(id, 2) {
            None => None,
            Some(_) => Some(konst(2).filter(|b| b.len() == outputs).ok_or("its bias is no constant")?),
        };
        if op.int("group").unwrap_or(1) != 1 {
            return Err("it has groups");
        }
        if op.attr("output_shape").is_some() {
            return Err("its padding depends on lengths");
        }
        let list = |name, n, default| windows::list(op, name, n, default);
        let (strides, dilations) = (list("strides", n, 1)?, list("dilations", n, 1)?);
        let (pads, extra) = (windows::pads(op, n)?, list("output_padding", n, 0)?);
        if strides.iter().any(|s| !(1..=64).contains(s)) || strides.iter().all(|s| *s == 1) {
            return Err("its strides are not larger than 1");
        }
        if dilations.iter().any(|d| *d != 1) {
            return Err("it is dilated");
        }
        if pads.iter().chain(&extra).any(|p| !(0..=1 << 20).contains(p)) {
            return Err("its padding is out of bounds");
        }
        let axis =
            |i: usize, kernel: usize| Axis::new(strides[i], kernel as i64, pads[i], pads[n + i], extra[i]);
        let axes = if n == 1 { [Axis::SINGLE, axis(0, wide)?] } else { [axis(0, high)?, axis(1, wide)?] };
        let block = axes.iter().map(|a| a.stride as usize).product::<usize>();
        if axes[0].taps() * axes[1].taps() * block > MAX_GROWTH * high * wide {
            return Err("a convolution would be much larger");
        }
        let last = g.result(id, 0).and_then(|y| facts.get(y)?.shape.as_ref()?.last()?.known());
        let arrange = Arrange::of(n, &axes, outputs as i64, last)?;
        let repeat = |b: &Tensor| {
            let all = b.f32s().iter().flat_map(|b| std::iter::repeat_n(*b, block)).collect::<Vec<_>>();
            Tensor::from_f32(&[all.len()], &all)
        };
        let begins = axes.iter().map(|a| -a.first);
        let pads = begins.chain(axes.iter().map(|a| a.behind)).collect::<Vec<_>>();
        let (taps, spread) =
            ([axes[0].taps(), axes[1].taps()], spread(&weight.f32s(), [inputs, outputs], &axes));
        let dims = [&[block * outputs, inputs], &taps[2 - n..]].concat();
        let pads = if n == 1 { vec![pads[1], pads[3]] } else { pads };
        let weight = Tensor::from_f32(&dims, &spread);
        Ok(Subpixel { pads, weight, bias: bias.map(|b| repeat(b)), arrange })
    }

    fn rewrite(self, g: &mut Graph, id: OpId) {
        let label = g.label(id);
        let (mut op, x) = (g.op(id).clone(), g.operand(id, 0));
        let named = |slot, what: &str| {
            let name = g.operand(id, slot).map_or(label.as_str(), |v| g.value(v).name());
            format!("{name}_{what}")
        };
        let names = [named(1, "subpixel"), named(2, "subpixel")];
        for name in ["output_padding", "output_shape", "strides", "kernel_shape", "auto_pad", "dilations"] {
            op.remove_attr(name);
        }
        op.op_type = "Conv".into();
        op.set_attr("pads", self.pads);
        let weight = g.add_const(&names[0], self.weight);
        let bias = self.bias.map(|b| g.add_const(&names[1], b));
        let origin = format!("{ORIGIN}({label})");
        let operands = [x, Some(weight), bias];
        let operands = &operands[..if bias.is_some() { 3 } else { 2 }];
        let first = OpSpec::from_op(op).operands(operands.iter().copied()).near(id).origin(origin.clone());
        replace_with_elementwise(g, id, first, "subpixels", |g, value, end| {
            self.arrange.emit(g, &label, value, end, &origin)
        });
    }
}

impl Arrange {
    /// For so many spatial axes, with the length of the last one of the result where it is known.
    fn of(n: usize, axes: &[Axis; 2], outputs: i64, last: Option<u64>) -> Result<Arrange, &'static str> {
        let [high, wide] = [axes[0].stride, axes[1].stride];
        if n == 1 {
            return Ok(Arrange::Exchange {
                cut: vec![0, outputs, wide, -1],
                perm: vec![0, 1, 3, 2],
                join: vec![0, 0, -1],
            });
        }
        if high == wide {
            return Ok(Arrange::DepthToSpace { block: high });
        }
        let last =
            last.and_then(|n| i64::try_from(n).ok()).ok_or("its strides differ, and a length is unknown")?;
        match (high, wide) {
            (1, s) => Ok(Arrange::Exchange {
                cut: vec![0, outputs, s, -1, last / s],
                perm: vec![0, 1, 3, 4, 2],
                join: vec![0, 0, 0, -1],
            }),
            (s, 1) => Ok(Arrange::Exchange {
                cut: vec![0, outputs, s, -1, last],
                perm: vec![0, 1, 3, 2, 4],
                join: vec![0, 0, -1, last],
            }),
            _ => Err("its strides differ, and both are larger than 1"),
        }
    }

    /// What puts the pixels of a value into their places: all but the last operator, which is returned.
    fn emit(&self, g: &mut Graph, label: &str, value: ValueId, end: OpId, origin: &str) -> OpSpec {
        let spec = |g: &mut Graph, op: &str, what: &str| {
            OpSpec::new(op).name(g.fresh_name(&format!("{label}_{what}"))).near(end).origin(origin)
        };
        match self {
            Arrange::DepthToSpace { block } => spec(g, "DepthToSpace", "DepthToSpace")
                .attr("blocksize", *block)
                // The remainder is the inner part of the channel: in ONNX Runtime 1.31 it takes 0.7 of the time of the
                // other mode.
                .attr("mode", "CRD")
                .operands([value]),
            Arrange::Exchange { cut, perm, join } => {
                let shape = |g: &mut Graph, what: &str, dims: &[i64]| {
                    g.add_const(&format!("{label}_{what}"), Tensor::from_i64(&[dims.len()], dims))
                };
                let (cut, join) = (shape(g, "cut", cut), shape(g, "join", join));
                let cutting = spec(g, "Reshape", "Cut").operands([value, cut]);
                let value = g.emit(cutting, &format!("{label}_remainders"), None);
                let exchanging =
                    spec(g, "Transpose", "Exchange").attr("perm", perm.clone()).operands([value]);
                let value = g.emit(exchanging, &format!("{label}_pixels"), None);
                spec(g, "Reshape", "Join").operands([value, join])
            }
        }
    }
}

/// The weight of the convolution, `[M·s·t, C, taps, taps]`, of that of a transposed one, `[C, M, k, l]`, with strides `s` and
/// `t`.
fn spread(weight: &[f32], [inputs, outputs]: [usize; 2], axes: &[Axis; 2]) -> Vec<f32> {
    let [a, b] = *axes;
    let (blocks, taps) = ([a.stride as usize, b.stride as usize], [a.taps(), b.taps()]);
    let block = blocks[0] * blocks[1];
    let mut spread = vec![0.0; block * outputs * inputs * taps[0] * taps[1]];
    let (high, wide) = (a.kernel as usize, b.kernel as usize);
    let mut remainders = (0..blocks[0]).flat_map(|r| (0..blocks[1]).map(move |s| (r, s)));
    for (n, (r, s)) in remainders.by_ref().enumerate() {
        for (u, v) in (0..high).flat_map(|u| (0..wide).map(move |v| (u, v))) {
            let (Some(i), Some(j)) = (a.tap(r, u), b.tap(s, v)) else { continue };
            for c in 0..inputs {
                for m in 0..outputs {
                    let to = (((m * block + n) * inputs + c) * taps[0] + i) * taps[1] + j;
                    spread[to] = weight[((c * outputs + m) * high + u) * wide + v];
                }
            }
        }
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::fuse::testing::{outputs, parse};
    use crate::infer_types::InferTypes;

    fn model(attributes: &str, dims: &str, behind: &str) -> Model {
        parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,3,5,4] x) => (float[N,M,H,W] z) \
             <float{dims} w = [\"location\": \"gen:randn\"], float[2] b = {{0.5, -0.25}}, float six = {{6}}> \
             {{ y = ConvTranspose <{attributes}> (x, w, b) {behind} }}"
        ))
    }

    /// The model after the pass, and what was noted.
    fn run(model: &Model) -> (Model, Vec<String>) {
        let config = Config::new("cpu-vnni");
        let (mut model, mut cx) = (model.clone(), PassCx::new(&config));
        InferTypes.run(&mut model, &mut cx).unwrap();
        SubpixelConvolutions.run(&mut model, &mut cx).unwrap();
        InferTypes.run(&mut model, &mut cx).unwrap();
        (model, cx.notes.iter().map(|n| n.message.clone()).collect())
    }

    fn types(m: &Model) -> Vec<String> {
        let g = m.main();
        g.topo().unwrap().into_iter().map(|o| g.op(o).op_type.clone()).collect()
    }

    #[test]
    fn all_pixels_of_a_block_are_computed_as_channels() {
        for (attributes, dims) in [
            ("strides = [2, 2]", "[3,2,2,2]"),
            ("strides = [2, 2], pads = [1, 1, 1, 1]", "[3,2,4,4]"),
            ("strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]", "[3,2,3,3]"),
            ("strides = [2, 2], pads = [0, 1, 0, 1]", "[3,2,2,4]"),
            ("strides = [3, 3], pads = [0, 1, 0, 0], output_padding = [0, 1]", "[3,2,3,3]"),
            ("strides = [2, 2], pads = [2, 2, 2, 2], output_padding = [1, 1]", "[3,2,5,5]"),
            ("strides = [2, 2], pads = [3, 3, 3, 3]", "[3,2,4,4]"),
        ] {
            let before = model(attributes, dims, "z = Relu (y)");
            let (after, _) = run(&before);
            assert_eq!(types(&after), ["Conv", "Relu", "DepthToSpace"], "{attributes} {dims}");
            for ((name, x), (_, y)) in outputs(&before).iter().zip(&outputs(&after)) {
                assert_eq!(x.dims(), y.dims(), "{attributes} {dims}");
                let near = |(x, y): (&f32, &f32)| (x - y).abs() < 1e-5;
                assert!(x.f32s().iter().zip(y.f32s().iter()).all(near), "{name} {attributes} {dims}");
            }
        }
    }

    #[test]
    fn functions_of_elements_stay_behind_the_convolution() {
        let (after, _) = run(&model("strides = [2, 2]", "[3,2,2,2]", "c = Clip (y, , six) z = Sigmoid (c)"));
        assert_eq!(types(&after), ["Conv", "Clip", "Sigmoid", "DepthToSpace"]);
        // Rows of a Softmax are not single elements, and a second reader needs the pixels in their places.
        let (after, _) = run(&model("strides = [2, 2]", "[3,2,2,2]", "z = Softmax <axis = 1> (y)"));
        assert_eq!(types(&after), ["Conv", "DepthToSpace", "Softmax"]);
        let (after, _) = run(&model("strides = [2, 2]", "[3,2,2,2]", "r = Relu (y) z = Add (r, y)"));
        assert_eq!(types(&after), ["Conv", "DepthToSpace", "Relu", "Add"]);
    }

    #[test]
    fn what_is_no_whole_number_of_blocks_stays_with_the_reason() {
        for (attributes, dims, why) in [
            ("strides = [2, 2]", "[3,2,3,3]", "whole number"),
            ("strides = [2, 3]", "[3,2,2,3]", "both are larger"),
            ("strides = [1, 1]", "[3,2,3,3]", "not larger"),
            ("strides = [2, 2], dilations = [2, 2]", "[3,2,2,2]", "dilated"),
            ("strides = [2, 2], pads = [5, 5, 5, 5], output_padding = [1, 1]", "[3,2,5,5]", "crops"),
            ("strides = [2, 2], auto_pad = \"SAME_UPPER\"", "[3,2,2,2]", "depends on lengths"),
            ("strides = [4, 4], output_padding = [2, 2]", "[3,2,2,2]", "much larger"),
            ("strides = [2, 2], pads = [-1, 0, 0, 0]", "[3,2,2,2]", "out of bounds"),
        ] {
            let (after, notes) = run(&model(attributes, dims, "z = Relu (y)"));
            assert_eq!(types(&after), ["ConvTranspose", "Relu"], "{attributes}");
            assert!(notes.iter().any(|n| n.contains(why)), "{attributes}: {notes:?}");
        }
    }
}
