//! `restore-transposed`: what `subpixel-convolutions` wrote for integers, and stayed in float, becomes a ConvTranspose again.
//!
//! ```text
//! c = Conv (x, w, b)   r = LeakyRelu (c)   k = Reshape (r, [0, M, s, -1])   t = Transpose <perm = [0, 1, 3, 2]> (k)
//! y = Reshape (t, [0, 0, -1])
//!
//! d = ConvTranspose <strides = [s]> (x, w', b')   y = LeakyRelu (d)
//! ```
//!
//! Exchanging axes of floats costs a fifth of the convolution and more. (ONNX Runtime 1.31, 128 channels to 64, 800 pixels to
//! 6,400, kernel of 16: 1.84 ms, as a convolution 2.19.) Blocks along two axes, which a DepthToSpace arranges, take the same
//! time in both forms and stay.

use super::{Tailoring, konst, operators};
use crate::elementwise::is_elementwise;
use crate::pass::{PassCx, PassError};
use crate::subpixel_convolutions::ORIGIN;
use crate::windows;
use squint_ir::{DType, Graph, Model, OpId, Tensor};
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "restore-transposed", rewrite: restore };

fn restore(model: &mut Model, _: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["Reshape"])? {
        let g = model.main_mut();
        if let Some(chain) = Chain::ending(g, op)
            && let Some(transposed) = Transposed::of(g, &chain)
        {
            chain.replace(g, transposed);
            changed = true;
        }
    }
    Ok(changed)
}

/// Operators from the convolution to the last Reshape.
struct Chain {
    conv: OpId,
    /// Functions of single elements behind it, in order.
    functions: Vec<OpId>,
    /// Reshape, Transpose, Reshape.
    exchange: [OpId; 3],
    /// Output channels of the transposed convolution, and its stride.
    outputs: usize,
    stride: usize,
    /// The spatial axis of the stride.
    axis: usize,
}

impl Chain {
    fn ending(g: &Graph, join: OpId) -> Option<Chain> {
        let made = |op: OpId, op_type: &str| {
            let ours = g.op(op).origin.iter().any(|o| o.starts_with(ORIGIN));
            (g.op(op).is(op_type) && ours).then_some(op)
        };
        let before = |op: OpId| {
            let x = g.operand(op, 0)?;
            g.only_use(x)?;
            g.producer(x).map(|(p, _)| p)
        };
        let join = made(join, "Reshape")?;
        let turn = made(before(join)?, "Transpose")?;
        let cut = made(before(turn)?, "Reshape")?;
        let lengths = konst(g, g.operand(cut, 1)?)?.to_i64s()?;
        let axis = match g.op(turn).ints("perm")? {
            [0, 1, 3, 2] => 0,
            [0, 1, 3, 2, 4] => 0,
            [0, 1, 3, 4, 2] => 1,
            _ => return None,
        };
        let (outputs, stride) =
            (usize::try_from(*lengths.get(1)?).ok()?, usize::try_from(*lengths.get(2)?).ok()?);
        let mut functions = Vec::new();
        let mut conv = before(cut)?;
        while is_elementwise(g, conv) {
            functions.insert(0, conv);
            conv = before(conv)?;
        }
        let conv = made(conv, "Conv")?;
        Some(Chain { conv, functions, exchange: [cut, turn, join], outputs, stride, axis })
    }

    fn replace(self, g: &mut Graph, transposed: Transposed) {
        let [cut, turn, join] = self.exchange;
        let end = self.functions.last().copied().unwrap_or(self.conv);
        let (Some(y), Some(last)) = (g.result(join, 0), g.result(end, 0)) else { return };
        let label = g.label(self.conv);
        let window = transposed.weight.dims()[2..].iter().map(|taps| *taps as i64).collect::<Vec<_>>();
        let weight = g.add_const(&format!("{label}_transposed"), transposed.weight);
        let bias = transposed.bias.map(|b| g.add_const(&format!("{label}_transposed_bias"), b));
        let op = g.op_mut(self.conv);
        op.op_type = "ConvTranspose".into();
        op.origin.push(format!("restore-transposed({label})"));
        op.attributes.clear();
        op.set_attr("kernel_shape", window);
        op.set_attr("strides", transposed.strides);
        op.set_attr("pads", transposed.pads);
        op.set_attr("output_padding", transposed.extra);
        g.set_operand(self.conv, 1, Some(weight));
        g.set_operand(self.conv, 2, bias);
        // What was computed as channels has another shape now.
        for op in [self.conv].iter().chain(&self.functions) {
            g.results(*op).into_iter().flatten().for_each(|v| g.set_type(v, None));
        }
        g.set_result(join, 0, None);
        [join, turn, cut].into_iter().for_each(|op| g.remove_op_and_results(op));
        g.set_result(end, 0, Some(y));
        g.remove_value(last);
    }
}

/// The transposed convolution.
struct Transposed {
    weight: Tensor,
    bias: Option<Tensor>,
    strides: Vec<i64>,
    pads: Vec<i64>,
    extra: Vec<i64>,
}

/// An axis of the transposed kernel: its taps, and the padding.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    taps: usize,
    begin: i64,
    end: i64,
    extra: i64,
}

impl Line {
    /// That of a convolution along an axis whose taps `n` stand for `remainder − stride·(n − begin)` of the transposed kernel,
    /// counted from its pixel; `none` says which of these have no weight. `None` if there are none at all, or if padding of the
    /// result would be as long as the stride.
    fn new(
        stride: usize,
        taps: usize,
        pads: (i64, i64),
        none: impl Fn(usize, usize) -> bool,
    ) -> Option<Line> {
        let all = (0..stride).flat_map(|r| (0..taps).map(move |n| (r, n)));
        let there = all.filter(|(r, n)| !none(*r, *n)).map(|(r, n)| offset(stride, pads.0, r, n));
        let lowest = there.clone().min()?.min(0);
        let count = there.max()? - lowest + 1;
        let s = stride as i64;
        let longer = pads.0 + pads.1 - (taps as i64 - 1);
        let rest = count + lowest - s - s * longer;
        let line = Line { taps: count as usize, begin: -lowest, end: rest.max(0), extra: (-rest).max(0) };
        (count > 0 && line.extra < s).then_some(line)
    }
}

/// Which tap of the transposed kernel, counted from its pixel, a tap of the convolution is for a remainder.
fn offset(stride: usize, begin: i64, remainder: usize, tap: usize) -> i64 {
    remainder as i64 - stride as i64 * (tap as i64 - begin)
}

impl Transposed {
    fn of(g: &Graph, chain: &Chain) -> Option<Transposed> {
        let (op, s) = (g.op(chain.conv), chain.stride);
        let weight = konst(g, g.operand(chain.conv, 1)?).filter(|w| w.dtype() == DType::Float)?;
        let [channels, inputs, ref window @ ..] = *weight.dims() else { return None };
        if channels != chain.outputs * s || op.int("group").unwrap_or(1) != 1 || window.len() > 2 {
            return None;
        }
        let n = window.len();
        let all_one = |name| windows::list(op, name, n, 1).is_ok_and(|l| l.iter().all(|x| *x == 1));
        if !all_one("strides") || !all_one("dilations") {
            return None;
        }
        let pads = windows::pads(op, n).ok()?;
        let w = weight.f32s();
        let inner: usize = window[chain.axis + 1..].iter().product();
        let outer: usize = window[..chain.axis].iter().product();
        // Where a weight lies: the channel, then taps before, along and behind the axis.
        let at = |channel: usize, c: usize, before: usize, tap: usize, behind: usize| {
            (((channel * inputs + c) * outer + before) * window[chain.axis] + tap) * inner + behind
        };
        let none = |r: usize, tap: usize| {
            let mut all = (0..chain.outputs * inputs * outer * inner).map(|i| {
                let (behind, i) = (i % inner, i / inner);
                let (before, i) = (i % outer, i / outer);
                w[at(i / inputs * s + r, i % inputs, before, tap, behind)]
            });
            all.all(|x| x == 0.0)
        };
        let mut lines = Vec::new();
        for (axis, taps) in window.iter().enumerate() {
            let around = (pads[axis], pads[n + axis]);
            lines.push(match axis == chain.axis {
                true => Line::new(s, *taps, around, none)?,
                false => Line::new(1, *taps, around, |_, _| false)?,
            });
        }
        // Along the other axis, with stride 1, the kernel is mirrored.
        let dims: Vec<usize> =
            [inputs, chain.outputs].into_iter().chain(lines.iter().map(|l| l.taps)).collect();
        let mut transposed = vec![0.0; dims.iter().product()];
        let line = lines[chain.axis];
        for channel in 0..channels {
            let (m, r) = (channel / s, channel % s);
            for tap in 0..window[chain.axis] {
                let Ok(k) = usize::try_from(offset(s, pads[chain.axis], r, tap) + line.begin) else {
                    continue;
                };
                if k >= line.taps {
                    continue;
                }
                for c in 0..inputs {
                    for (before, behind) in (0..outer).flat_map(|b| (0..inner).map(move |e| (b, e))) {
                        let mirrored = (outer - 1 - before, inner - 1 - behind);
                        let to = (((c * chain.outputs + m) * outer + mirrored.0) * line.taps + k) * inner
                            + mirrored.1;
                        transposed[to] = w[at(channel, c, before, tap, behind)];
                    }
                }
            }
        }
        let bias = match g.operand(chain.conv, 2) {
            None => None,
            Some(b) => Some(joined(&konst(g, b)?.f32s(), s)?),
        };
        let each = |f: fn(&Line) -> i64| lines.iter().map(f).collect::<Vec<_>>();
        Some(Transposed {
            weight: Tensor::from_f32(&dims, &transposed),
            bias,
            strides: (0..n).map(|i| if i == chain.axis { s as i64 } else { 1 }).collect(),
            pads: [each(|l| l.begin), each(|l| l.end)].concat(),
            extra: each(|l| l.extra),
        })
    }
}

/// One number of each group of equal ones.
fn joined(bias: &[f32], group: usize) -> Option<Tensor> {
    let equal = bias.chunks(group).all(|b| b.iter().all(|x| *x == b[0]));
    let one: Vec<f32> = bias.chunks(group).map(|b| b[0]).collect();
    equal.then(|| Tensor::from_f32(&[one.len()], &one))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, rewritten};
    use super::*;
    use crate::fuse::testing::{ops, parse};
    use crate::pass::Pass;
    use crate::subpixel_convolutions::SubpixelConvolutions;

    /// There and back: the operators on the way, and at the end.
    fn run(input: &str, dims: &str, attributes: &str, behind: &str) -> (String, String) {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[{input}] x) => (float[N,M,L] z) \
             <float[{dims}] w = [\"location\": \"gen:randn\"], float[2] b = {{0.5, -0.25}}, float six = {{6}}> \
             {{ y = ConvTranspose <{attributes}> (x, w, b) {behind} }}"
        ));
        let after = |passes: &[&dyn Pass]| {
            let (model, _) = rewritten(&before, "cpu-vnni", passes, |_, _| {});
            assert_near(&before, &model, 1e-5, &format!("{attributes} {dims} {}", ops(&model)));
            ops(&model)
        };
        (after(&[&SubpixelConvolutions]), after(&[&SubpixelConvolutions, &PASS]))
    }

    #[test]
    fn along_one_axis_there_and_back() {
        for (dims, attributes) in [
            ("3,2,2", "strides = [2]"),
            ("3,2,4", "strides = [2], pads = [1, 1]"),
            ("3,2,16", "strides = [8], pads = [4, 4]"),
            ("3,2,3", "strides = [2], pads = [1, 1], output_padding = [1]"),
            ("3,2,5", "strides = [3], pads = [0, 2]"),
            ("3,2,6", "strides = [2], pads = [4, 0]"),
        ] {
            let (on_the_way, end) = run("1,3,7", dims, attributes, "c = Clip (y, , six) z = Sigmoid (c)");
            assert_eq!(on_the_way, "Conv Clip Sigmoid Reshape Transpose Reshape", "{attributes}");
            assert_eq!(end, "ConvTranspose Clip Sigmoid", "{attributes}");
        }
        assert_eq!(
            run("1,3,7", "3,2,4", "strides = [2], pads = [1, 1]", "z = Abs (y)").1,
            "ConvTranspose Abs"
        );
    }

    #[test]
    fn along_one_axis_of_pictures_there_and_back() {
        for (dims, attributes) in [
            ("3,2,3,4", "strides = [1, 2], pads = [1, 1, 1, 1]"),
            ("3,2,4,3", "strides = [2, 1], pads = [1, 0, 1, 2]"),
            ("3,2,2,1", "strides = [2, 1]"),
        ] {
            let (on_the_way, end) = run("1,3,7,5", dims, attributes, "z = Relu (y)");
            assert_eq!(on_the_way, "Conv Relu Reshape Transpose Reshape", "{attributes}");
            assert_eq!(end, "ConvTranspose Relu", "{attributes}");
        }
    }
}
