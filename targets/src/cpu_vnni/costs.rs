//! The cost model of `cpu-vnni`: which kernel an operator runs in, and how much work that is.
//!
//! Each kernel has a row of linear terms in [`table`](super::table); this file chooses the row and counts the units
//! of work. Three facts of ONNX Runtime (release 1.31) shape it:
//!
//! - Float convolutions keep their data in blocks of 16 channels (`nchwc_transformer.cc`), integer ones in NHWC
//!   (`nhwc_transformer.cc`); going from one to the other costs two changes of layout beside the conversion.
//! - Float convolutions swallow a Relu and an Add behind them (`conv_activation_fusion.cc`,
//!   `conv_add_act_fusion.cc`; a Clip too, but it costs what it costs alone), and `x · Sigmoid(x)` is one float kernel (`quick_gelu_fusion.cc`) unless `x` comes
//!   from a DequantizeLinear, which is copied for each reader.
//! - Integer convolutions have a direct kernel (`convsym.cpp`) for 4 k input and at least 16 output channels, and for
//!   16 k depthwise channels; all others copy every window first. So an image of 3 channels is padded to 4.

use super::table as t;
use crate::{Costs, Operand, Site};
use squint_ir::Op;
use squint_ops::Class;

/// Nanoseconds of one core, for a call and for each unit of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// For a call.
    pub(super) call: f64,
    /// For a multiply–accumulate, or an element of a pool's window.
    pub(super) mac: f64,
    /// For what is set up beside: see [`Work::fetches`].
    pub(super) fetch: f64,
    /// For an element of the result.
    pub(super) element: f64,
}

/// Units of work of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    /// Multiply–accumulates with channels padded to what the kernel computes, or elements of a pool's windows.
    macs: u64,
    /// Positions of the window over all pixels of an integer convolution or a pool (each a pointer or a copy), rows of
    /// pixels with a float convolution, weights of a Gemm, or rows of a Softmax.
    fetches: u64,
    /// Elements of the result, channels padded; of the operand of a mean.
    elements: u64,
}

impl Kernel {
    fn cost(self, work: Work) -> u64 {
        let Work { macs, fetches, elements } = work;
        let units = self.mac * macs as f64 + self.fetch * fetches as f64 + self.element * elements as f64;
        (self.call + units) as u64
    }

    fn each(self, elements: u64) -> u64 {
        self.cost(Work { elements, ..Work::default() })
    }
}

/// Assumed for values of unknown size.
const DEFAULT_ELEMENTS: u64 = 100_000;

/// Channels in a block of the float layout, and in a register of the integer kernels.
const BLOCK: u64 = 16;

/// Costs of an operator.
pub(super) fn operator(site: &Site<'_>) -> Costs {
    let out = elements_of(site.result());
    let inp = elements_of(site.operand(0));
    let pair =
        |integer: Kernel, float: Kernel, n: u64| Costs { integer: integer.each(n), float: float.each(n) };
    match site.row.class {
        Class::Contraction if site.op.op_type == "Conv" => convolution(site).unwrap_or(EQUAL),
        Class::Contraction => matrix(site, out),
        Class::Movement => match site.op.op_type.as_str() {
            "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => pair(t::MOVE_U8, t::MOVE_F32, 0),
            "Resize" => pair(t::RESIZE_U8, t::RESIZE_F32, out),
            _ => pair(t::MOVE_U8, t::MOVE_F32, out),
        },
        Class::Join => pair(t::CONCAT_U8, t::CONCAT_F32, out),
        Class::MaxPool | Class::AveragePool => pool(site, inp, out),
        Class::Binary => binary(site, out),
        Class::Clamp if site.op.op_type == "Relu" && behind_convolution(site, 0) => EQUAL,
        Class::Clamp => Costs { integer: 0, float: t::CLAMP_F32.each(out) },
        Class::Bounded if site.op.op_type == "Softmax" => {
            let columns =
                site.result().and_then(|r| r.dims.as_ref()?.last().copied()).unwrap_or(1).max(1) as u64;
            let work = Work { fetches: out / columns, elements: out, ..Work::default() };
            Costs { integer: t::SOFTMAX_U8.cost(work), float: t::SOFTMAX_F32.cost(work) }
        }
        // All of the fused kernel is booked here, and nothing on the Mul.
        Class::Bounded if gates_its_input(site) => pair(t::LOOKUP_U8, t::SILU_F32, out),
        Class::Bounded => pair(t::LOOKUP_U8, t::SIGMOID_F32, out),
        Class::Unary if behind_convolution(site, 0) => Costs { integer: t::LOOKUP_U8.each(out), float: 0 },
        Class::Unary => pair(t::LOOKUP_U8, t::LEAKY_RELU_F32, out),
        _ => EQUAL,
    }
}

/// The input channels with which the direct kernel of integer convolutions takes a convolution that it refuses as it
/// is.
pub(super) fn input_channels(op: &Op, weight: &[usize]) -> Option<usize> {
    let [outputs, inputs, _, _] = weight else { return None };
    let eligible = op.op_type == "Conv" && op.int("group").unwrap_or(1) == 1 && wide_enough(*outputs as u64);
    (eligible && inputs % 4 != 0).then(|| inputs.next_multiple_of(4))
}

/// True if the direct kernel takes so many output channels.
fn wide_enough(outputs: u64) -> bool {
    outputs >= BLOCK && outputs.is_multiple_of(4)
}

/// Cost of quantizing a float value.
pub(super) fn quantize(value: &Operand, producer: Option<&Site<'_>>) -> u64 {
    let n = elements_of(Some(value));
    let blocked = producer.is_some_and(in_blocks) && is_picture(value);
    t::QUANTIZE.each(n) + change_layout(value) + if blocked { t::UNBLOCK.each(n) } else { 0 }
}

/// Cost of dequantizing a value for a float reader.
pub(super) fn dequantize(value: &Operand, reader: Option<&Site<'_>>) -> u64 {
    let n = elements_of(Some(value));
    let mut cost = t::DEQUANTIZE.each(n) + change_layout(value);
    if let Some(reader) = reader {
        if in_blocks(reader) && is_picture(value) {
            cost += t::BLOCK.each(n);
        }
        let slot =
            (0u32..2).find(|slot| reader.operand(*slot as usize).is_some_and(|o| o.value == value.value));
        if reader.op.op_type == "Add" && slot.is_some_and(|slot| behind_convolution(reader, slot)) {
            // The convolution is not in float: the Add does not disappear into it.
            cost += t::ADD_F32.each(n);
        }
        if gates_its_input(reader) {
            // Behind a DequantizeLinear the two operators are not fused.
            cost += (t::SIGMOID_F32.each(n) + t::MUL_F32.each(n)).saturating_sub(t::SILU_F32.each(n));
        }
    }
    cost
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

fn change_layout(value: &Operand) -> u64 {
    if is_picture(value) { t::TO_NHWC.each(elements_of(Some(value))) } else { 0 }
}

/// True if the float kernel works on blocks of channels.
fn in_blocks(site: &Site<'_>) -> bool {
    match site.op.op_type.as_str() {
        // Few input channels are read from plain layout.
        "Conv" => site.operand(1).and_then(|w| w.dims.as_deref()).is_none_or(|d| d.len() == 4 && d[1] != 3),
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "Concat" | "Add" | "LeakyRelu" | "Relu"
        | "Clip" => true,
        "Sigmoid" => gates_its_input(site),
        "Mul" => silu_gate(site).is_some(),
        _ => false,
    }
}

/// True if a float convolution makes the operand at a slot, for this operator only.
fn behind_convolution(site: &Site<'_>, slot: u32) -> bool {
    let Some(x) = site.graph.operand(site.id, slot) else { return false };
    let conv = site.graph.producer(x).is_some_and(|(p, _)| site.graph.op(p).op_type == "Conv");
    conv && site.graph.only_use(x).is_some()
}

/// The slot of `Sigmoid(x)` if the operator is `x · Sigmoid(x)`.
fn silu_gate(site: &Site<'_>) -> Option<u32> {
    let g = site.graph;
    let [a, b] = [g.operand(site.id, 0)?, g.operand(site.id, 1)?];
    let gate_of = |gate, x| {
        g.producer(gate).is_some_and(|(p, _)| g.op(p).op_type == "Sigmoid" && g.operand(p, 0) == Some(x))
            && g.only_use(gate).is_some()
    };
    match site.op.op_type.as_str() {
        "Mul" if gate_of(a, b) => Some(0),
        "Mul" if gate_of(b, a) => Some(1),
        _ => None,
    }
}

/// True for the Sigmoid of `x · Sigmoid(x)`.
fn gates_its_input(site: &Site<'_>) -> bool {
    let g = site.graph;
    let find = || {
        let x = g.operand(site.id, 0)?;
        let gate = g.results(site.id).first().copied()??;
        let user = g.only_use(gate)?;
        let other = g.operand(user.op, 1 - user.slot.min(1))?;
        Some(g.op(user.op).op_type == "Mul" && other == x)
    };
    site.op.op_type == "Sigmoid" && find().unwrap_or(false)
}

fn convolution(site: &Site<'_>) -> Option<Costs> {
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
        let integer = if outputs % BLOCK == 0 { t::DEPTHWISE_DIRECT_U8 } else { t::DEPTHWISE_U8 };
        let float = Work { fetches: lines * outputs.div_ceil(BLOCK), ..work };
        return Some(Costs { integer: integer.cost(work), float: t::DEPTHWISE_F32.cost(float) });
    }
    let wide = group * (outputs / group).next_multiple_of(BLOCK);
    let elements = wide * pixels;
    let fetches = window * pixels * group;
    let work = Work { macs: inputs.next_multiple_of(4) * window * elements, fetches, elements };
    if group > 1 {
        return Some(Costs { integer: t::GROUPED_U8.cost(work), float: t::GROUPED_F32.cost(work) });
    }
    let (kernel, pad) = match input_channels(site.op, weight) {
        Some(padded) => {
            let there = elements_of(site.operand(0)) / inputs.max(1);
            (t::CONV_DIRECT_U8, t::PAD_U8.each(there * padded as u64))
        }
        None if inputs % 4 == 0 && wide_enough(outputs) => (t::CONV_DIRECT_U8, 0),
        None => (t::CONV_UNROLLED_U8, 0),
    };
    let integer = kernel.cost(work) + pad;
    let macs = inputs * window * elements;
    let float = match window {
        1 => t::POINTWISE_F32.cost(Work { macs, fetches: pixels, elements }),
        _ => {
            let row = if inputs < BLOCK { t::STEM_F32 } else { t::CONV_F32 };
            row.cost(Work { macs, fetches: lines * wide / BLOCK, elements })
        }
    };
    Some(Costs { integer, float })
}

fn matrix(site: &Site<'_>, out: u64) -> Costs {
    let Some((_, weight, _)) = site.weight() else { return EQUAL };
    let weights = elements_of(Some(weight));
    let (macs, out) = (site.macs(), out.max(1));
    let (inner, columns) = (macs / out, (weights * out).checked_div(macs).unwrap_or(1).max(1));
    let padded = out / columns * inner.next_multiple_of(4) * columns.next_multiple_of(BLOCK);
    let work = |macs| Work { macs, fetches: weights, elements: out };
    Costs { integer: t::GEMM_U8.cost(work(padded)), float: t::GEMM_F32.cost(work(macs)) }
}

fn pool(site: &Site<'_>, inp: u64, out: u64) -> Costs {
    if site.op.op_type == "GlobalAveragePool" {
        return Costs { integer: t::MEAN_U8.each(inp), float: t::MEAN_F32.each(inp) };
    }
    let window =
        site.op.ints("kernel_shape").map_or(1, |k| k.iter().map(|k| (*k).max(1) as u64).product::<u64>());
    let channels =
        site.result().and_then(|r| r.dims.as_ref()?.get(1).copied()).unwrap_or(BLOCK as usize).max(1) as u64;
    let work = Work { macs: out * window, fetches: out / channels * window, elements: out };
    // Float pools of whole blocks stay in the layout of convolutions.
    let (integer, float) = match (site.op.op_type.as_str(), channels % BLOCK) {
        ("MaxPool", 0) => (t::MAX_POOL_U8, t::MAX_POOL_F32),
        ("MaxPool", _) => (t::MAX_POOL_U8, t::MAX_POOL_PLAIN_F32),
        (_, 0) => (t::AVERAGE_POOL_U8, t::AVERAGE_POOL_F32),
        _ => (t::AVERAGE_POOL_U8, t::AVERAGE_POOL_PLAIN_F32),
    };
    Costs { integer: integer.cost(work), float: float.cost(work) }
}

fn binary(site: &Site<'_>, out: u64) -> Costs {
    let whole = (0..2).all(|slot| site.operand(slot).is_none_or(|o| elements_of(Some(o)) == out));
    let (integer, float) = match site.op.op_type.as_str() {
        _ if !whole => (t::SCALE_U8, t::SCALE_F32.each(out)),
        "Add" if (0..2).any(|slot| behind_convolution(site, slot)) => (t::ADD_U8, 0),
        "Add" => (t::ADD_U8, t::ADD_F32.each(out)),
        _ if silu_gate(site).is_some() => (t::MUL_U8, 0),
        _ => (t::MUL_U8, t::MUL_F32.each(out)),
    };
    Costs { integer: integer.each(out), float }
}

#[cfg(test)]
mod tests {
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
        let costs = operator(&b.site(dense));
        assert!(costs.integer * 3 < costs.float, "{costs:?}");
        let x = b.value(&[1, 24, 44, 44]);
        let w = b.weight(&[24, 1, 3, 3]);
        let y = b.value(&[1, 24, 44, 44]);
        let depthwise = b.graph.add_op(OpSpec::new("Conv").attr("group", 24).operands([x, w]).results([y]));
        let costs = operator(&b.site(depthwise));
        assert!(costs.integer > costs.float, "{costs:?}");
    }

    #[test]
    fn images_are_padded_to_four_channels_for_the_direct_kernel() {
        let mut b = Bench::default();
        let conv = b.conv(&[32, 3, 3, 3], 112);
        let op = b.graph.op(conv);
        assert_eq!(input_channels(op, &[32, 3, 3, 3]), Some(4));
        assert_eq!(input_channels(op, &[32, 4, 3, 3]), None);
        assert_eq!(input_channels(op, &[8, 3, 3, 3]), None, "too few outputs");
    }

    #[test]
    fn silu_is_one_float_kernel_unless_its_operand_comes_from_integers() {
        let mut b = Bench::default();
        let dims = [1, 64, 28, 28];
        let x = b.value(&dims);
        let (sigmoid, gate) = b.op("Sigmoid", &[x], &dims);
        let (mul, _) = b.op("Mul", &[x, gate], &dims);
        let both = operator(&b.site(sigmoid)).float + operator(&b.site(mul)).float;
        assert!(both < t::SIGMOID_F32.each(64 * 28 * 28));
        let value = b.site(sigmoid).operands[0].clone().expect("invariant: it reads x");
        assert!(dequantize(&value, Some(&b.site(sigmoid))) > dequantize(&value, None) + t::BLOCK.each(1));
    }

    #[test]
    fn an_add_behind_a_float_convolution_is_free() {
        let mut b = Bench::default();
        let conv = b.conv(&[16, 16, 1, 1], 14);
        let y = b.graph.results(conv)[0].expect("invariant: it has a result");
        let x = b.value(&[1, 16, 14, 14]);
        let (add, _) = b.op("Add", &[x, y], &[1, 16, 14, 14]);
        assert_eq!(operator(&b.site(add)).float, 0);
    }
}
