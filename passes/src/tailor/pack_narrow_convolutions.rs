//! `pack-narrow-convolutions`: neighbouring pixels of a convolution with few output channels are computed as channels of
//! one pixel.
//!
//! ```text
//! y = Conv <kernel_shape = [3, 39], pads = [1, 19, 1, 19]> (x, w)      # 8 channels
//!
//! c = Conv <kernel_shape = [3, 46], strides = [1, 8], pads = [1, 19, 1, 19]> (x, w')   # 8 · 8 channels
//! r = Reshape (c, [0, 8, 8, -1, W/8])   t = Transpose <perm = [0, 1, 3, 4, 2]> (r)   y = Reshape (t, [0, 8, -1, W])
//! ```
//!
//! Float kernels compute whole blocks of output channels, 16 with AVX-512: 8 channels leave half of the lanes idle, one
//! channel 15 of 16. The weight of channel `m·f + r` is that of channel `m`, `r` strides further on. When that pays is
//! known by [`FloatKernels::neighbours`](squint_targets::FloatKernels::neighbours).
//!
//! The same goes for convolutions in integers: with fewer outputs than a register holds they have no direct kernel
//! ([`Target::integer_neighbours`](squint_targets::Target::integer_neighbours)).
//!
//! Functions of single elements behind the operator stay behind the Conv, to be absorbed by it, and so does the
//! QuantizeLinear, so that what is moved are integers.

use super::{Tailoring, is_dequantized, konst, operators};
use crate::elementwise::{elementwise_behind, replace_with_elementwise};
use crate::infer_types::infer_concrete;
use crate::pass::{PassCx, PassError};
use crate::plan::resolve_target;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId, ValueTable};
use squint_ops::Fact;
use squint_targets::{FloatKernels, Window};
use std::sync::Arc;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "pack-narrow-convolutions", rewrite: pack };

fn pack(model: &mut Model, cx: &mut PassCx<'_>, kernels: &FloatKernels) -> Result<bool, PassError> {
    let target = resolve_target(&cx.config.target)?;
    // Symbols stand for what the first sample had when it is asked what pays, and for anything in what is made.
    let concrete = infer_concrete(model, &cx.statistics.dims)?;
    let mut changed = false;
    for op in operators(model, &["Conv"])? {
        let g = model.main();
        let Some(constants) = Constants::of(g, op) else { continue };
        let neighbours = |window| match constants.weight.dequantize {
            Some(_) => target.integer_neighbours(window),
            None => kernels.neighbours(window),
        };
        if let Some(packing) = Packing::of(g, op, &constants, &neighbours, &cx.facts, &concrete) {
            packing.rewrite(model.main_mut(), op, &constants);
            changed = true;
        }
    }
    Ok(changed)
}

/// The weight and bias of a convolution that is all in float or all in integers.
struct Constants {
    weight: Source,
    bias: Option<Source>,
}

/// A constant, or integers that a DequantizeLinear makes a constant of.
struct Source {
    tensor: Arc<Tensor>,
    name: String,
    dequantize: Option<OpId>,
}

impl Constants {
    fn of(g: &Graph, op: OpId) -> Option<Constants> {
        let weight = Source::of(g, g.operand(op, 1)?)?;
        let bias = match g.operand(op, 2) {
            Some(v) => Some(Source::of(g, v)?),
            None => None,
        };
        let ends_in_integers =
            || elementwise_behind(g, op).last().is_some_and(|q| g.op(*q).is("QuantizeLinear"));
        let consistent = match weight.dequantize {
            Some(_) => {
                is_dequantized(g, g.operand(op, 0)?)
                    && ends_in_integers()
                    && bias.as_ref().is_none_or(|b| b.dequantize.is_some())
            }
            None => bias.as_ref().is_none_or(|b| b.dequantize.is_none()),
        };
        consistent.then_some(Constants { weight, bias })
    }
}

impl Source {
    fn of(g: &Graph, v: ValueId) -> Option<Source> {
        let name = || g.value(v).name().to_owned();
        if let Some(tensor) = konst(g, v) {
            let float = tensor.dtype() == DType::Float;
            return float.then(|| Source { tensor: tensor.clone(), name: name(), dequantize: None });
        }
        let (dq, _) = g.producer(v).filter(|(p, _)| g.op(*p).is("DequantizeLinear"))?;
        let mut parameters = g.operands(dq).into_iter().flatten().map(|v| Some((v, konst(g, v)?)));
        let (codes, tensor) = parameters.next()??;
        let (_, scale) = parameters.next()??;
        // What is added are zeros.
        let symmetric = match parameters.next() {
            Some(zero_point) => zero_point?.1.to_f64s().iter().all(|z| *z == 0.0),
            None => true,
        };
        let along_rows = scale.len() == 1 || (scale.rank() == 1 && g.op(dq).int("axis").unwrap_or(1) == 0);
        let fits = symmetric && along_rows && matches!(tensor.dtype(), DType::Int8 | DType::Int32);
        let name = g.value(codes).name().to_owned();
        fits.then(|| Source { tensor: tensor.clone(), name, dequantize: Some(dq) })
    }

    /// Puts another tensor in its place, whose rows are those of this one, each so many times.
    fn replace(&self, g: &mut Graph, tensor: Tensor, times: usize, near: OpId, origin: &str) -> ValueId {
        let made = g.add_const(&format!("{}_packed", self.name), tensor);
        let Some(dq) = self.dequantize else { return made };
        let mut operands = g.operands(dq);
        operands[0] = Some(made);
        for slot in operands.iter_mut().skip(1) {
            let Some(v) = *slot else { continue };
            let Some(old) = konst(g, v).filter(|k| k.len() > 1).cloned() else { continue };
            let name = format!("{}_packed", g.value(v).name());
            *slot = Some(g.add_const(&name, repeat_rows(&old, times)));
        }
        let copy = OpSpec::from_op(g.op(dq).clone()).operands(operands).near(near).origin(origin);
        g.emit(copy, &format!("{}_dequantized", self.name), None)
    }
}

/// Each row of a tensor so many times.
fn repeat_rows(t: &Tensor, times: usize) -> Tensor {
    let mut dims = t.dims().to_vec();
    let rows = dims.first().copied().unwrap_or(1).max(1);
    let row = t.bytes().len() / rows;
    let repeated: Vec<u8> = (0..rows).flat_map(|r| t.bytes()[r * row..][..row].repeat(times)).collect();
    dims[0] = rows * times;
    Tensor::raw(t.dtype(), &dims, repeated.into()).expect("invariant: as many times the bytes as elements")
}

/// How a convolution is packed.
struct Packing {
    /// 0 for rows, 1 for columns of pixels.
    axis: usize,
    /// Neighbours that become channels.
    neighbours: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    pads: [i64; 4],
    /// Pixels of the result along the axis.
    length: usize,
    /// `[M, C]` of the weight.
    channels: [usize; 2],
}

impl Packing {
    fn of(
        g: &Graph,
        id: OpId,
        constants: &Constants,
        neighbours: &dyn Fn(Window) -> Option<u64>,
        facts: &ValueTable<Fact>,
        concrete: &ValueTable<Fact>,
    ) -> Option<Packing> {
        let op = g.op(id);
        let [outputs, inputs, high, wide] = *constants.weight.tensor.dims() else { return None };
        let pads: [i64; 4] = match op.ints("pads") {
            None | Some([]) => [0; 4],
            Some(pads) => pads.try_into().ok()?,
        };
        let strides: [usize; 2] = match op.ints("strides") {
            None | Some([]) => [1; 2],
            Some(&[a, b]) => [a.try_into().ok()?, b.try_into().ok()?],
            Some(_) => return None,
        };
        let plain = matches!(op.string("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "")
            && op.int("group").unwrap_or(1) == 1
            && pads.iter().all(|p| *p >= 0);
        if !plain {
            return None;
        }
        let length = |facts: &ValueTable<Fact>, v, i: usize| -> Option<usize> {
            facts.get(v)?.shape.as_ref()?.get(i)?.known()?.try_into().ok()
        };
        let (x, y) = (g.operand(id, 0)?, g.result(id, 0)?);
        let pixels = length(concrete, y, 2)?.checked_mul(length(concrete, y, 3)?)?;
        let window = |axis| Window::along(axis, op, constants.weight.tensor.dims(), pixels as u64);
        // Of the two axes the one with the longer kernel gains more.
        let axes = if high > wide { [0, 1] } else { [1, 0] };
        axes.into_iter().find_map(|axis| {
            let (from, to) = (length(facts, x, 2 + axis)?, length(facts, y, 2 + axis).filter(|n| *n > 0)?);
            let neighbours = neighbours(window(axis)?)? as usize;
            let packed = to.div_ceil(neighbours);
            let (mut kernel, mut strides, mut pads) = ([high, wide], strides, pads);
            let step = strides[axis];
            kernel[axis] += step * (neighbours - 1);
            strides[axis] *= neighbours;
            // The last window ends behind the data by so much.
            let end = (packed - 1) * strides[axis] + kernel[axis];
            pads[2 + axis] = (end as i64 - from as i64 - pads[axis]).max(0);
            let channels = [outputs, inputs];
            Some(Packing { axis, neighbours, kernel, strides, pads, length: to, channels })
        })
    }

    fn rewrite(self, g: &mut Graph, id: OpId, constants: &Constants) {
        let label = g.label(id);
        let origin = format!("pack-narrow-convolutions({label})");
        let Some(x) = g.operand(id, 0) else { return };
        let (weight, f) = (&constants.weight, self.neighbours);
        let mut operands = vec![x, weight.replace(g, self.weight(&weight.tensor), f, id, &origin)];
        if let Some(bias) = &constants.bias {
            operands.push(bias.replace(g, repeat_rows(&bias.tensor, f), f, id, &origin));
        }
        let mut op = g.op(id).clone();
        let ints = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<i64>>();
        op.set_attr("kernel_shape", ints(&self.kernel));
        op.set_attr("strides", ints(&self.strides));
        op.set_attr("pads", self.pads.to_vec());
        op.remove_attr("auto_pad");
        let first = OpSpec::from_op(op).operands(operands).near(id).origin(origin.clone());
        replace_with_elementwise(g, id, first, "packed", |g, value, end| self.unpack(g, value, end, &origin));
    }

    /// `[M·f, C, k, k']`: the kernel of a channel at `f` places.
    fn weight(&self, weight: &Tensor) -> Tensor {
        let [outputs, inputs] = self.channels;
        let [high, wide] = self.kernel;
        let f = self.neighbours;
        let (from, size) = (weight.bytes(), weight.bytes().len() / weight.len().max(1));
        let step = self.strides[self.axis] / f;
        let mut old = self.kernel;
        old[self.axis] -= step * (f - 1);
        let mut packed = vec![0; outputs * f * inputs * high * wide * size];
        for i in 0..weight.len() {
            let (rest, v) = (i / old[1], i % old[1]);
            let (rest, u) = (rest / old[0], rest % old[0]);
            let (m, c) = (rest / inputs, rest % inputs);
            for r in 0..f {
                let mut at = [u, v];
                at[self.axis] += r * step;
                let to = (((m * f + r) * inputs + c) * high + at[0]) * wide + at[1];
                packed[to * size..][..size].copy_from_slice(&from[i * size..][..size]);
            }
        }
        Tensor::raw(weight.dtype(), &[outputs * f, inputs, high, wide], packed.into())
            .expect("invariant: as many bytes as elements have")
    }

    /// Puts neighbours back into their places. The last operator is returned, the others are in the graph.
    fn unpack(&self, g: &mut Graph, value: ValueId, near: OpId, origin: &str) -> OpSpec {
        let (m, f, packed) =
            (self.channels[0] as i64, self.neighbours as i64, self.length.div_ceil(self.neighbours) as i64);
        // The lengths of the batch and of the other axis are those that there are.
        let (apart, perm, together) = match self.axis {
            0 => ([0, m, f, packed, -1], [0, 1, 3, 2, 4], [0, m, packed * f, -1]),
            _ => ([0, m, f, -1, packed], [0, 1, 3, 4, 2], [0, m, -1, packed * f]),
        };
        let name = g.value(value).name().to_owned();
        let spec = |op_type: &str| OpSpec::new(op_type).near(near).origin(origin);
        let constant = |g: &mut Graph, what: &str, list: &[i64]| {
            g.add_const(&format!("{name}_{what}"), Tensor::from_i64(&[list.len()], list))
        };
        let shape = constant(g, "apart", &apart);
        let split = g.emit(spec("Reshape").operands([value, shape]), &format!("{name}_neighbours"), None);
        let turn = spec("Transpose").attr("perm", perm.to_vec()).operands([split]);
        let turned = g.emit(turn, &format!("{name}_in_place"), None);
        let shape = constant(g, "together", &together);
        let join = spec("Reshape").operands([turned, shape]);
        if packed * f == self.length as i64 {
            return join;
        }
        let joined = g.emit(join, &format!("{name}_longer"), None);
        let bounds = [("start", 0), ("end", self.length as i64), ("axis", 2 + self.axis as i64)];
        let [start, end, axis] = bounds.map(|(what, n)| constant(g, what, &[n]));
        spec("Slice").operands([joined, start, end, axis])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, rewritten};
    use super::*;
    use crate::fuse::testing::{ops, outputs, parse};

    fn run(target: &str, attributes: &str, weight: &str, x: &str, behind: &str) -> (Model, Model) {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float{x} x) => (float[N,M,H,W] z) \
             <float{weight} w = [\"location\": \"gen:randn\"], float[1] b = {{0.5}}> \
             {{ y = Conv <{attributes}> (x, w, b) {behind} }}"
        ));
        let (after, _) = rewritten(&before, target, &[&PASS], |model, cx| {
            // What the first sample had where the model has symbols.
            let x = model.main().inputs[0];
            let shape = model.main().ty(x).and_then(|t| t.shape()).unwrap();
            let seen = shape.iter().zip([2, 8, 12, 300]);
            let dims = seen.map(|(d, seen)| d.known().map_or(seen, |n| n as usize));
            cx.statistics.dims.insert(x, dims.collect());
        });
        (before, after)
    }

    #[test]
    fn packed_convolutions_compute_the_same() {
        for (attributes, weight, x, expected) in [
            (
                "pads = [1, 19, 1, 19]",
                "[1,8,3,39]",
                "[2,8,12,300]",
                "Conv Relu Reshape Transpose Reshape Slice",
            ),
            ("pads = [1, 18, 1, 19]", "[1,8,3,39]", "[2,8,12,289]", "Conv Relu Reshape Transpose Reshape"),
            ("pads = [1, 18, 1, 19]", "[1,8,3,39]", "[N,8,H,289]", "Conv Relu Reshape Transpose Reshape"),
            ("strides = [1, 2]", "[1,1,1,64]", "[2,1,1,20000]", "Conv Relu Reshape Transpose Reshape Slice"),
            ("pads = [19, 1, 19, 1]", "[1,8,39,3]", "[2,8,304,12]", "Conv Relu Reshape Transpose Reshape"),
            ("strides = [3, 1]", "[1,8,31,3]", "[2,8,900,5]", "Conv Relu Reshape Transpose Reshape Slice"),
        ] {
            let (before, after) = run("cpu-vnni", attributes, weight, x, "z = Relu (y)");
            assert_eq!(ops(&after), expected, "{attributes} {weight} {x}");
            assert_near(&before, &after, 1e-4, &format!("{attributes} {weight} {x}"));
        }
    }

    #[test]
    fn integers_are_packed_before_they_are_dequantized() {
        let before = parse(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[1,8,6,64] x) => (float[N,M,H,W] z) \
             <float s = {0.01}, uint8 p = {100}, float[2] ws = {0.01, 0.02}, int8[2] wz = {0, 0}, \
              float[2] bs = {0.0001, 0.0002}, float[2,8,3,7] w = [\"location\": \"gen:randn\"], \
              float[2] b = {0.5, -0.5}, int32[2] bz = {0, 0}> { \
              wq = QuantizeLinear <axis = 0> (w, ws, wz) q = QuantizeLinear (x, s, p) d = DequantizeLinear (q, s, p) \
              wd = DequantizeLinear <axis = 0> (wq, ws, wz) y = Conv <pads = [1, 3, 1, 3]> (d, wd, b) r = Relu (y) \
              o = QuantizeLinear (r, s, p) z = DequantizeLinear (o, s, p) }",
        );
        let mut folded = before.clone();
        // The codes of the weight as a constant; the bias as integers with its scales.
        let codes = outputs_of(&before, "wq");
        let g = folded.main_mut();
        let (wq, b) = (g.value_named("wq").unwrap(), g.value_named("b").unwrap());
        let (quantize, _) = g.producer(wq).unwrap();
        g.set_result(quantize, 0, None);
        g.remove_op(quantize);
        g.set_const(wq, Some(codes.into()));
        let bytes: Vec<u8> = [5000i32, -2500].iter().flat_map(|x| x.to_le_bytes()).collect();
        let bq = g.add_const("bq", Tensor::raw(DType::Int32, &[2], bytes.into()).unwrap());
        let (bs, bz) = (g.value_named("bs"), g.value_named("bz"));
        let (conv, _) = g.producer(g.value_named("y").unwrap()).unwrap();
        let dq = OpSpec::new("DequantizeLinear").attr("axis", 0i64).operands([Some(bq), bs, bz]).near(conv);
        let bd = g.emit(dq, "bd", None);
        g.set_operand(conv, 2, Some(bd));
        assert!(!g.is_used(b));
        let (after, _) = rewritten(&folded, "cpu-vnni", &[&PASS], |_, _| {});
        let text = ops(&after);
        assert!(
            text.ends_with("Conv Relu QuantizeLinear Reshape Transpose Reshape DequantizeLinear"),
            "{text}"
        );
        let [(_, a), (_, b)] = [&outputs(&folded)[0], &outputs(&after)[0]];
        assert_eq!((a.dims(), a.f32s()), (b.dims(), b.f32s()));
    }

    /// What a model makes of its inputs in a value that is no output.
    fn outputs_of(model: &Model, name: &str) -> Tensor {
        let mut model = model.clone();
        let v = model.main().value_named(name).unwrap();
        model.main_mut().outputs = vec![v];
        outputs(&model).remove(0).1
    }

    #[test]
    fn what_cannot_be_packed_or_gains_nothing_stays() {
        for (target, attributes, weight, x) in [
            ("tensorrt", "pads = [1, 19, 1, 19]", "[1,8,3,39]", "[2,8,12,300]"),
            ("cpu-vnni", "pads = [1, 19, 1, 19]", "[1,8,3,39]", "[2,8,H,W]"),
            ("cpu-vnni", "dilations = [1, 2]", "[1,8,1,39]", "[2,8,12,300]"),
            ("cpu-vnni", "", "[1,8,1,1]", "[2,8,12,300]"),
        ] {
            let (_, after) = run(target, attributes, weight, x, "z = Relu (y)");
            assert_eq!(ops(&after), "Conv Relu", "{target} {attributes} {weight} {x}");
        }
    }
}
