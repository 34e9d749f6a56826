//! The cost model of the CPU targets: which kernel an operator runs in, and how much work that is.
//!
//! Each kernel has a row of linear terms in [`table`](super::table); this file chooses the row and counts the units
//! of work. Some facts of ONNX Runtime (release 1.31) shape it:
//!
//! - Float convolutions keep their data in blocks of 16 channels (`nchwc_transformer.cc`), integer ones in NHWC
//!   (`nhwc_transformer.cc`); going from one to the other costs two changes of layout beside the conversion.
//! - Float convolutions swallow a Relu and an Add behind them (`conv_activation_fusion.cc`,
//!   `conv_add_act_fusion.cc`; a Clip too, but it costs what it costs alone), and `x · Sigmoid(x)` is one float
//!   kernel (`quick_gelu_fusion.cc`) unless `x` comes from a DequantizeLinear, which is copied for each reader.
//! - Integer convolutions have a direct kernel (`convsym.cpp`) for 4 k input and at least 16 output channels (a multiple
//!   of 4 or 8: `Processor::direct_outputs`), and for 16 k depthwise channels; all others copy every window first. So an image of 3 channels is padded to 4.

use super::Processor;
use crate::{Costs, Operand, Site, Window};
use squint_ir::Op;
use squint_ops::Class;

/// Nanoseconds of one core, for a call and for each unit of work, on one processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// For a call.
    pub(super) call: f64,
    /// For a multiply–accumulate, or an element of a pool's window.
    pub(super) mac: f64,
    /// For what is set up beside: see [`Work::fetches`].
    pub(super) fetch: f64,
    /// For an element of the result.
    pub(super) element: f64,
}

/// What a kernel costs on the processors of a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
    /// One was measured.
    One(Terms),
    /// The mean of two.
    Mean(Terms, Terms),
    /// The slower of two counts.
    Slower(Terms, Terms),
}

/// Units of work of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Multiply–accumulates with channels padded to what the kernel computes, or elements of a pool's windows.
    pub(super) macs: u64,
    /// Positions of the window over all pixels of an integer convolution or a pool (each a pointer or a copy), rows of
    /// pixels with a float convolution, weights of a Gemm, or rows of a Softmax.
    pub(super) fetches: u64,
    /// Elements of the result, channels padded; of the operand of a mean.
    pub(super) elements: u64,
}

impl Terms {
    fn cost(self, work: Work) -> f64 {
        let Work { macs, fetches, elements } = work;
        self.call + self.mac * macs as f64 + self.fetch * fetches as f64 + self.element * elements as f64
    }
}

impl Kernel {
    pub(super) fn cost(self, work: Work) -> u64 {
        let nanoseconds = match self {
            Kernel::One(terms) => terms.cost(work),
            Kernel::Mean(a, b) => (a.cost(work) + b.cost(work)) / 2.0,
            Kernel::Slower(a, b) => a.cost(work).max(b.cost(work)),
        };
        nanoseconds as u64
    }

    /// The same where another kernel is called anyway.
    pub(super) fn without_call(self) -> Kernel {
        let free = |terms| Terms { call: 0.0, ..terms };
        match self {
            Kernel::One(terms) => Kernel::One(free(terms)),
            Kernel::Mean(a, b) => Kernel::Mean(free(a), free(b)),
            Kernel::Slower(a, b) => Kernel::Slower(free(a), free(b)),
        }
    }

    pub(super) fn each(self, elements: u64) -> u64 {
        self.cost(Work { elements, ..Work::default() })
    }
}

/// Nanoseconds for an element of a shuffle of channels in integers: in the layout of integer convolutions it takes bytes one by
/// one. (ONNX Runtime 1.31, ShuffleNet V1: 1077 µs for 272 channels of 28 × 28 pixels, in float 81 µs.)
const SHUFFLE: u64 = 5;

/// Tenths of a nanosecond more for an element of what a linear Resize makes outside of the layout of float convolutions. (ONNX
/// Runtime 1.31: 1.7 to 2.2 ns for an element, in that layout 0.9 to 1.2.)
const RESIZE_PLAIN: u64 = 9;

/// Assumed for values of unknown size.
const DEFAULT_ELEMENTS: u64 = 100_000;

/// Channels in a block of the float layout, and in a register of the integer kernels.
const BLOCK: u64 = 16;

impl Processor {
    /// Costs of an operator.
    pub(super) fn operator(&self, site: &Site<'_>) -> Costs {
        let out = elements_of(site.result());
        let inp = elements_of(site.operand(0));
        let pair =
            |integer: Kernel, float: Kernel, n: u64| Costs { integer: integer.each(n), float: float.each(n) };
        match site.row.class {
            Class::Contraction if site.op.op_type == "Conv" => self.convolution(site).unwrap_or(EQUAL),
            Class::Contraction => self.matrix(site, out),
            Class::Movement => match site.op.op_type.as_str() {
                "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => {
                    pair(self.table.move_u8, self.table.move_f32, 0)
                }
                "Transpose" if shuffles_channels(site) => {
                    let costs = pair(self.table.move_u8, self.table.move_f32, out);
                    Costs { integer: costs.integer + out * SHUFFLE, ..costs }
                }
                "Resize" => pair(self.table.resize_u8, self.table.resize_f32, out),
                _ => pair(self.table.move_u8, self.table.move_f32, out),
            },
            Class::Join => pair(self.table.concat_u8, self.table.concat_f32, out),
            Class::MaxPool | Class::AveragePool => self.pool(site, inp, out),
            Class::Binary => self.binary(site, out),
            Class::Clamp if site.op.op_type == "Relu" && behind_convolution(site, 0) => EQUAL,
            // The gate of a hard swish, which is booked at the Add: `expand-hard-swish` makes one pass of both.
            Class::Clamp if gates_hard_swish(site) => EQUAL,
            Class::Clamp => Costs { integer: 0, float: self.table.clamp_f32.each(out) },
            Class::Bounded if site.op.op_type == "Softmax" => {
                let columns =
                    site.result().and_then(|r| r.dims.as_ref()?.last().copied()).unwrap_or(1).max(1) as u64;
                let work = Work { fetches: out / columns, elements: out, ..Work::default() };
                Costs { integer: self.table.softmax_u8.cost(work), float: self.table.softmax_f32.cost(work) }
            }
            _ if is_hard_gate(site.op) => self.hard_gate(site, out),
            // All of the fused kernel is booked here, and nothing on the Mul.
            Class::Bounded if gates_its_input(site) => pair(self.table.lookup_u8, self.table.silu_f32, out),
            Class::Bounded => pair(self.table.lookup_u8, self.table.sigmoid_f32, out),
            Class::Unary if behind_convolution(site, 0) => {
                Costs { integer: self.table.lookup_u8.each(out), float: 0 }
            }
            Class::Unary => pair(self.table.lookup_u8, self.table.leaky_relu_f32, out),
            Class::Recurrent => Costs { integer: 0, float: self.recurrent(site) },
            _ => EQUAL,
        }
    }

    /// The input channels with which the direct kernel of integer convolutions takes a convolution that it refuses as it
    /// is.
    pub(super) fn input_channels(&self, op: &Op, weight: &[usize]) -> Option<usize> {
        let [outputs, inputs, _, _] = weight else { return None };
        let eligible =
            op.op_type == "Conv" && op.int("group").unwrap_or(1) == 1 && self.wide_enough(*outputs as u64);
        (eligible && inputs % 4 != 0).then(|| inputs.next_multiple_of(4))
    }

    /// True if the direct kernel takes so many output channels.
    fn wide_enough(&self, outputs: u64) -> bool {
        outputs >= BLOCK && outputs.is_multiple_of(self.direct_outputs)
    }

    /// Cost of quantizing a float value.
    pub(super) fn quantize(&self, value: &Operand, producer: Option<&Site<'_>>) -> u64 {
        let n = elements_of(Some(value));
        let blocked = producer.is_some_and(in_blocks) && is_picture(value);
        self.table.quantize.each(n)
            + self.change_layout(value)
            + if blocked { self.table.unblock.each(n) } else { 0 }
    }

    /// Cost of dequantizing a value for a float reader.
    pub(super) fn dequantize(&self, value: &Operand, reader: Option<&Site<'_>>) -> u64 {
        let n = elements_of(Some(value));
        let mut cost = self.table.dequantize.each(n) + self.change_layout(value);
        if let Some(reader) = reader {
            if in_blocks(reader) && is_picture(value) {
                cost += self.table.block.each(n);
            }
            let slot =
                (0u32..2).find(|slot| reader.operand(*slot as usize).is_some_and(|o| o.value == value.value));
            if reader.op.op_type == "Add" && slot.is_some_and(|slot| behind_convolution(reader, slot)) {
                // The convolution is not in float: the Add does not disappear into it.
                cost += self.table.add_f32.each(n);
            }
            if leaves_blocks(reader, value) {
                cost += elements_of(reader.result()) * RESIZE_PLAIN / 10;
            }
            if is_hard_gate(reader.op) && in_convolution(reader) {
                // The convolution that it disappears into is not in float.
                cost += self.hard_gate_f32(reader, n);
            } else if gates_its_input(reader) {
                // Behind a DequantizeLinear the two operators are not fused.
                cost += (self.table.sigmoid_f32.each(n) + self.table.mul_f32.each(n))
                    .saturating_sub(self.table.silu_f32.each(n));
            }
        }
        cost
    }

    /// A HardSigmoid or HardSwish: on integers an addition, and a product.
    fn hard_gate(&self, site: &Site<'_>, out: u64) -> Costs {
        let product = if site.op.is("HardSwish") { self.table.mul_u8.each(out) } else { 0 };
        let float = if in_convolution(site) { 0 } else { self.hard_gate_f32(site, out) };
        Costs { integer: self.table.add_u8.each(out) + product, float }
    }

    /// The same alone in float, with the product that it is the gate of.
    fn hard_gate_f32(&self, site: &Site<'_>, out: u64) -> u64 {
        let gates = site.op.is("HardSwish") || gates_its_input(site);
        self.table.clamp_f32.each(out) + if gates { self.table.mul_f32.each(out) } else { 0 }
    }

    fn change_layout(&self, value: &Operand) -> u64 {
        if is_picture(value) { self.table.to_nhwc.each(elements_of(Some(value))) } else { 0 }
    }

    fn convolution(&self, site: &Site<'_>) -> Option<Costs> {
        let (result, weight) = (site.result()?.dims.as_deref()?, site.operand(1)?.dims.as_deref()?);
        let group = site.op.int("group").unwrap_or(1).max(1) as u64;
        let (outputs, inputs) = (*weight.first()? as u64, *weight.get(1)? as u64);
        let of = |dims: &[usize]| dims.iter().map(|d| *d as u64).product::<u64>();
        let window = of(weight.get(2..)?);
        let pixels = of(result) / outputs.max(1);
        let lines = pixels / (*result.last()? as u64).max(1) * *weight.get(2)? as u64;
        if group > 1 && inputs == 1 && outputs == group {
            let elements = outputs.next_multiple_of(BLOCK) * pixels;
            let work = Work { macs: window * elements, fetches: window * pixels, elements };
            let integer =
                if outputs % BLOCK == 0 { self.table.depthwise_direct_u8 } else { self.table.depthwise_u8 };
            let float = Work { fetches: lines * outputs.div_ceil(BLOCK), ..work };
            return Some(Costs { integer: integer.cost(work), float: self.table.depthwise_f32.cost(float) });
        }
        let wide = group * (outputs / group).next_multiple_of(BLOCK);
        let elements = wide * pixels;
        let fetches = window * pixels * group;
        let work = Work { macs: inputs.next_multiple_of(4) * window * elements, fetches, elements };
        if group > 1 {
            return Some(Costs {
                integer: self.table.grouped_u8.cost(work),
                float: self.table.grouped_f32.cost(work),
            });
        }
        let (kernel, pad) = match self.input_channels(site.op, weight) {
            Some(padded) => {
                let there = elements_of(site.operand(0)) / inputs.max(1);
                (self.table.conv_direct_u8, self.table.pad_u8.each(there * padded as u64))
            }
            None if inputs % 4 == 0 && self.wide_enough(outputs) => (self.table.conv_direct_u8, 0),
            None => (self.table.conv_unrolled_u8, 0),
        };
        // Along the longer kernel.
        let axis = usize::from(weight.get(2) <= weight.get(3));
        let packed = Window::along(axis, site.op, weight, pixels);
        let alone = kernel.cost(work) + pad;
        let integer = packed.and_then(|w| self.pack_integers(w)).map_or(alone, |(_, cost)| cost.min(alone));
        let macs = inputs * window * elements;
        let row = match window {
            1 => self.table.pointwise_f32,
            _ if inputs < BLOCK => self.table.stem_f32,
            _ => self.table.conv_f32,
        };
        let float = match window {
            1 => row.cost(Work { macs, fetches: pixels, elements }),
            _ => row.cost(Work { macs, fetches: lines * wide / BLOCK, elements }),
        };
        let neighbours = packed.and_then(|w| Some((w, self.float.neighbours(w)?)));
        let float = neighbours.map_or(float, |(w, f)| {
            let wide = (f * outputs).next_multiple_of(BLOCK);
            let elements = wide * pixels.div_ceil(f);
            let macs = inputs * w.taps_of(f) * elements;
            let work = Work { macs, fetches: lines.div_ceil(f) * wide / BLOCK, elements };
            float.min(row.cost(work) + self.table.move_f32.each(outputs * pixels))
        });
        Some(Costs { integer, float })
    }

    /// How many neighbouring pixels an integer convolution should compute as channels, so that there are enough for the
    /// direct kernel, and what that costs.
    fn pack_integers(&self, window: Window) -> Option<(u64, u64)> {
        if !window.inputs.is_multiple_of(4) || window.outputs >= BLOCK {
            return None;
        }
        let cost = |f: u64| {
            let (taps, pixels) = (window.taps_of(f), window.pixels.div_ceil(f));
            let elements = (f * window.outputs).next_multiple_of(BLOCK) * pixels;
            let work = Work { macs: window.inputs * taps * elements, fetches: taps * pixels, elements };
            self.table.conv_direct_u8.cost(work) + self.table.move_u8.each(window.outputs * window.pixels)
        };
        let wide = |f: &u64| self.wide_enough(f * window.outputs);
        [2, 4, 8, 16].into_iter().filter(wide).map(|f| (cost(f), f)).min().map(|(cost, f)| (f, cost))
    }

    /// As [`pack_integers`](Self::pack_integers), where it pays clearly.
    pub(super) fn integer_neighbours(&self, window: Window) -> Option<u64> {
        let (f, packed) = self.pack_integers(window)?;
        let elements = BLOCK * window.pixels;
        let taps = window.taps_of(1);
        let work = Work { macs: window.inputs * taps * elements, fetches: taps * window.pixels, elements };
        (packed * 6 < self.table.conv_unrolled_u8.cost(work) * 5).then_some(f)
    }

    fn matrix(&self, site: &Site<'_>, out: u64) -> Costs {
        let Some((_, weight, _)) = site.weight() else { return EQUAL };
        let weights = elements_of(Some(weight));
        let (macs, out) = (site.macs(), out.max(1));
        let (inner, columns) = (macs / out, (weights * out).checked_div(macs).unwrap_or(1).max(1));
        let padded = out / columns * inner.next_multiple_of(4) * columns.next_multiple_of(BLOCK);
        let work = |macs| Work { macs, fetches: weights, elements: out };
        Costs { integer: self.table.gemm_u8.cost(work(padded)), float: self.table.gemm_f32.cost(work(macs)) }
    }

    fn pool(&self, site: &Site<'_>, inp: u64, out: u64) -> Costs {
        if site.op.op_type == "GlobalAveragePool" {
            return Costs { integer: self.table.mean_u8.each(inp), float: self.table.mean_f32.each(inp) };
        }
        let window =
            site.op.ints("kernel_shape").map_or(1, |k| k.iter().map(|k| (*k).max(1) as u64).product::<u64>());
        let channels =
            site.result().and_then(|r| r.dims.as_ref()?.get(1).copied()).unwrap_or(BLOCK as usize).max(1)
                as u64;
        let work = Work { macs: out * window, fetches: out / channels * window, elements: out };
        // Float pools of whole blocks stay in the layout of convolutions.
        let (integer, float) = match (site.op.op_type.as_str(), channels % BLOCK) {
            ("MaxPool", 0) => (self.table.max_pool_u8, self.table.max_pool_f32),
            ("MaxPool", _) => (self.table.max_pool_u8, self.table.max_pool_plain_f32),
            (_, 0) => (self.table.average_pool_u8, self.table.average_pool_f32),
            _ => (self.table.average_pool_u8, self.table.average_pool_plain_f32),
        };
        Costs { integer: integer.cost(work), float: float.cost(work) }
    }

    fn binary(&self, site: &Site<'_>, out: u64) -> Costs {
        let whole = (0..2).all(|slot| site.operand(slot).is_none_or(|o| elements_of(Some(o)) == out));
        let (integer, float) = match site.op.op_type.as_str() {
            _ if !whole => (self.table.scale_u8, self.table.scale_f32.each(out)),
            "Add" if (0..2).any(|slot| behind_convolution(site, slot)) => (self.table.add_u8, 0),
            "Add" => (self.table.add_u8, self.table.add_f32.each(out)),
            _ if gate_slot(site).is_some() => (self.table.mul_u8, 0),
            _ => (self.table.mul_u8, self.table.mul_f32.each(out)),
        };
        Costs { integer: integer.each(out), float }
    }
}

/// No reason to prefer either.
const EQUAL: Costs = Costs { integer: 0, float: 0 };

fn elements_of(value: Option<&Operand>) -> u64 {
    value.and_then(Operand::elements).unwrap_or(DEFAULT_ELEMENTS)
}

/// True for a value with channels and more than one pixel: it has a layout.
fn is_picture(value: &Operand) -> bool {
    value.dims.as_deref().is_some_and(|d| d.len() == 4 && d[2] * d[3] > 1)
}

/// True if the float kernel works on blocks of channels.
fn in_blocks(site: &Site<'_>) -> bool {
    match site.op.op_type.as_str() {
        // Few input channels are read from plain layout.
        "Conv" => site.operand(1).and_then(|w| w.dims.as_deref()).is_none_or(|d| d.len() == 4 && d[1] != 3),
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "Concat" | "Add" | "LeakyRelu" | "Relu"
        | "Clip" | "HardSwish" => true,
        "Sigmoid" | "HardSigmoid" => gates_its_input(site),
        "Mul" => {
            let dims = |o: Option<&Operand>| o.and_then(|o| o.dims.clone());
            let result = dims(site.result());
            gate_slot(site).is_some() || (0..2).all(|slot| dims(site.operand(slot)) == result)
        }
        _ => false,
    }
}

/// True for a linear Resize by whole factors of channels that only a float convolution brings into blocks: whole blocks get
/// there by one that `resize-in-blocks` adds.
fn leaves_blocks(site: &Site<'_>, value: &Operand) -> bool {
    let dims = |o: Option<&Operand>| o.and_then(|o| o.dims.clone()).filter(|d| d.len() == 4);
    let whole = |from: usize, to: usize| from > 0 && to.is_multiple_of(from);
    let (Some(x), Some(y)) = (value.dims.as_deref(), dims(site.result())) else { return false };
    site.op.is("Resize")
        && site.op.string("mode") == Some("linear")
        && matches!((x, &y[..]), ([_, c, h, w], [_, _, high, wide])
            if !(*c as u64).is_multiple_of(BLOCK) && whole(*h, *high) && whole(*w, *wide))
}

/// True if a float convolution makes the operand at a slot, for this operator only.
fn behind_convolution(site: &Site<'_>, slot: u32) -> bool {
    let Some(x) = site.graph.operand(site.id, slot) else { return false };
    let conv = site.graph.producer(x).is_some_and(|(p, _)| site.graph.op(p).op_type == "Conv");
    conv && site.graph.only_use(x).is_some()
}

/// True for a Transpose of groups of channels of pictures.
fn shuffles_channels(site: &Site<'_>) -> bool {
    site.op.ints("perm").is_some_and(|perm| perm == [0, 2, 1, 3, 4])
}

/// True for the Clip of `x · Clip(x + b)`.
fn gates_hard_swish(site: &Site<'_>) -> bool {
    let g = site.graph;
    let find = || {
        let (add, _) = g.producer(g.operand(site.id, 0)?).filter(|(p, _)| g.op(*p).op_type == "Add")?;
        let user = g.only_use(g.results(site.id).first().copied()??)?;
        let x = g.operand(user.op, 1 - user.slot.min(1))?;
        Some(g.op(user.op).op_type == "Mul" && (0..2).any(|slot| g.operand(add, slot) == Some(x)))
    };
    site.op.op_type == "Clip" && find().unwrap_or(false)
}

/// The slot of `f(x)` if the operator is `x · f(x)` with a Sigmoid or HardSigmoid.
fn gate_slot(site: &Site<'_>) -> Option<u32> {
    let g = site.graph;
    let [a, b] = [g.operand(site.id, 0)?, g.operand(site.id, 1)?];
    let gate_of = |gate, x| {
        g.producer(gate).is_some_and(|(p, _)| is_gate(g.op(p)) && g.operand(p, 0) == Some(x))
            && g.only_use(gate).is_some()
    };
    match site.op.op_type.as_str() {
        "Mul" if gate_of(a, b) => Some(0),
        "Mul" if gate_of(b, a) => Some(1),
        _ => None,
    }
}

fn is_gate(op: &Op) -> bool {
    op.is("Sigmoid") || op.is("HardSigmoid")
}

fn is_hard_gate(op: &Op) -> bool {
    op.is("HardSwish") || op.is("HardSigmoid")
}

/// True for a hard gate that the float convolution before it computes as its activation (`nchwc_transformer.cc`).
fn in_convolution(site: &Site<'_>) -> bool {
    let g = site.graph;
    let Some(x) = g.operand(site.id, 0) else { return false };
    let readers = if site.op.is("HardSwish") { 1 } else { 2 };
    g.producer(x).is_some_and(|(p, _)| g.op(p).is("Conv"))
        && g.uses(x).len() == readers
        && (site.op.is("HardSwish") || gates_its_input(site))
}

/// True for the gate of `x · f(x)` with a Sigmoid or HardSigmoid.
fn gates_its_input(site: &Site<'_>) -> bool {
    let g = site.graph;
    let find = || {
        let x = g.operand(site.id, 0)?;
        let gate = g.results(site.id).first().copied()??;
        let user = g.only_use(gate)?;
        let other = g.operand(user.op, 1 - user.slot.min(1))?;
        Some(g.op(user.op).op_type == "Mul" && other == x)
    };
    is_gate(site.op) && find().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::super::VNNI;
    use super::*;
    use squint_ir::{Graph, OpId, OpSpec, Tensor, ValueId};
    use squint_ops::Fact;

    /// A graph under construction whose values all have known dimensions.
    #[derive(Default)]
    struct Bench {
        graph: Graph,
        dims: Vec<(ValueId, Vec<usize>)>,
    }

    impl Bench {
        fn value(&mut self, dims: &[usize]) -> ValueId {
            let v = self.graph.add_value(&format!("v{}", self.dims.len()), None);
            self.dims.push((v, dims.to_vec()));
            v
        }

        fn weight(&mut self, dims: &[usize]) -> ValueId {
            let zeros = Tensor::from_f32(dims, &vec![0.0; dims.iter().product()]);
            let v = self.graph.add_const(&format!("w{}", self.dims.len()), zeros);
            self.dims.push((v, dims.to_vec()));
            v
        }

        fn op(&mut self, op_type: &str, operands: &[ValueId], dims: &[usize]) -> (OpId, ValueId) {
            let result = self.value(dims);
            let spec = OpSpec::new(op_type).operands(operands.iter().copied()).results([result]);
            (self.graph.add_op(spec), result)
        }

        fn site(&self, op: OpId) -> Site<'_> {
            let operand = |value| {
                let dims = self.dims.iter().find(|(v, _)| *v == value).map(|(_, d)| d.clone());
                let fact = Fact { konst: self.graph.konst(value).cloned(), ..Fact::default() };
                Operand { value, fact, dims }
            };
            Site::new(&self.graph, op, 13, operand).expect("invariant: the operator has a row")
        }

        fn conv(&mut self, weight: &[usize], side: usize) -> OpId {
            let x = self.value(&[1, weight[1], side, side]);
            let w = self.weight(weight);
            self.op("Conv", &[x, w], &[1, weight[0], side, side]).0
        }
    }

    #[test]
    fn dense_convolutions_pay_in_integers_and_thin_depthwise_ones_do_not() {
        let mut b = Bench::default();
        let dense = b.conv(&[128, 128, 3, 3], 28);
        let costs = VNNI.operator(&b.site(dense));
        assert!(costs.integer * 3 < costs.float, "{costs:?}");
        let x = b.value(&[1, 24, 44, 44]);
        let w = b.weight(&[24, 1, 3, 3]);
        let y = b.value(&[1, 24, 44, 44]);
        let depthwise = b.graph.add_op(OpSpec::new("Conv").attr("group", 24).operands([x, w]).results([y]));
        let costs = VNNI.operator(&b.site(depthwise));
        assert!(costs.integer > costs.float, "{costs:?}");
    }

    #[test]
    fn images_are_padded_to_four_channels_for_the_direct_kernel() {
        let mut b = Bench::default();
        let conv = b.conv(&[32, 3, 3, 3], 112);
        let op = b.graph.op(conv);
        assert_eq!(VNNI.input_channels(op, &[32, 3, 3, 3]), Some(4));
        assert_eq!(VNNI.input_channels(op, &[32, 4, 3, 3]), None);
        assert_eq!(VNNI.input_channels(op, &[8, 3, 3, 3]), None, "too few outputs");
    }

    #[test]
    fn silu_is_one_float_kernel_unless_its_operand_comes_from_integers() {
        let mut b = Bench::default();
        let dims = [1, 64, 28, 28];
        let x = b.value(&dims);
        let (sigmoid, gate) = b.op("Sigmoid", &[x], &dims);
        let (mul, _) = b.op("Mul", &[x, gate], &dims);
        let both = VNNI.operator(&b.site(sigmoid)).float + VNNI.operator(&b.site(mul)).float;
        assert!(both < VNNI.table.sigmoid_f32.each(64 * 28 * 28));
        let value = b.site(sigmoid).operands[0].clone().expect("invariant: it reads x");
        assert!(
            VNNI.dequantize(&value, Some(&b.site(sigmoid)))
                > VNNI.dequantize(&value, None) + VNNI.table.block.each(1)
        );
    }

    #[test]
    fn an_add_behind_a_float_convolution_is_free() {
        let mut b = Bench::default();
        let conv = b.conv(&[16, 16, 1, 1], 14);
        let y = b.graph.results(conv)[0].expect("invariant: it has a result");
        let x = b.value(&[1, 16, 14, 14]);
        let (add, _) = b.op("Add", &[x, y], &[1, 16, 14, 14]);
        assert_eq!(VNNI.operator(&b.site(add)).float, 0);
    }
}
