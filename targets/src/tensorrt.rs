//! TensorRT's explicit quantization: QuantizeLinear and DequantizeLinear in the graph say what runs in INT8.
//!
//! TensorRT places nothing itself (calibrators are deprecated since 10.12 and gone in 11): it moves Q towards producers
//! and DQ towards consumers and fuses what it finds. Its rules ("Q/DQ layer-placement recommendations" of its developer
//! guide) are opposite to those of ONNX Runtime on CPUs:
//!
//! - every input of a weighted operator is quantized, its result is not: the Q of the next reader does that;
//! - of the two operands of a residual Add only the skip connection is quantized, or the Add is not fused into the
//!   convolution that makes the other one;
//! - zero points are 0, activations have one scale, weights one for each output channel, biases stay float;
//! - what only moves elements needs no Q/DQ: Q and DQ pass through if scales on both sides are equal.
//!
//! TensorRT is not at hand to measure: costs only order operators by their work. What its versions accept lies in
//! `version`.

mod lint;
mod numbers;
mod predict;
mod version;

use crate::{
    Costs, Dynamic, Finding, FloatResult, Format, Numbers, Operand, Pairs, Params, Placement, Prediction,
    Site, Subject, Support, Target,
};
use squint_ir::affine::Grid;
use squint_ir::{DType, Graph, Model, Op, OpId, ValueId};
use squint_ops::Class;
use version::Version;

/// A target for a version of TensorRT.
pub(crate) struct TensorRt {
    name: &'static str,
    description: &'static str,
    version: Version,
}

/// The newest version.
pub(crate) const TENSORRT: TensorRt = TensorRt {
    name: "tensorrt",
    description: "the newest TensorRT, 11, explicit quantization: symmetric int8, Q/DQ at the inputs of weighted operators",
    version: Version::V11,
};

/// TensorRT 8.6.
pub(crate) const TENSORRT_8_6: TensorRt = TensorRt {
    name: "tensorrt-8.6",
    description: "TensorRT 8.6: operator sets up to 17; int8 only, and what is float by flags of the builder",
    version: Version::V8_6,
};

/// TensorRT 10.
pub(crate) const TENSORRT_10: TensorRt = TensorRt {
    name: "tensorrt-10",
    description: "TensorRT 10: operator sets up to 24; int8, FP8, INT4 weights",
    version: Version::V10,
};

/// TensorRT 11.
pub(crate) const TENSORRT_11: TensorRt = TensorRt {
    name: "tensorrt-11",
    description: "TensorRT 11: operator sets up to 25; int8, FP8, INT4 weights; the graph alone says what is half precision",
    version: Version::V11,
};

impl Target for TensorRt {
    fn name(&self) -> &'static str {
        self.name
    }

    fn description(&self) -> &'static str {
        self.description
    }

    fn without_16_bits(&self) -> &'static str {
        "TensorRT's Q/DQ layers have no integers of 16 bits; what is `float` runs in FP16 where the builder may use it"
    }

    fn activations(&self) -> Format {
        Format { dtype: DType::Int8, grid: Grid::I8_SYMMETRIC }
    }

    fn weights(&self) -> Format {
        Format { dtype: DType::Int8, grid: Grid::I8_SYMMETRIC }
    }

    fn min_opset(&self) -> i64 {
        // QuantizeLinear and DequantizeLinear have an axis since 13.
        13
    }

    fn max_opset(&self) -> i64 {
        *self.version.opsets().end()
    }

    fn lacks(&self, numbers: Numbers) -> Option<String> {
        numbers::lacks(self.version, numbers)
    }

    fn float8(&self, site: &Site<'_>) -> Result<(), &'static str> {
        numbers::float8(site)
    }

    fn placement(&self) -> Placement {
        Placement::Inputs
    }

    fn support(&self, site: &Site<'_>) -> Support {
        let activations = site.activations().into_iter().filter_map(|slot| site.operand(slot as usize));
        for o in activations.chain(site.result()) {
            match o.fact.dtype {
                Some(d) if d.is_float() => {}
                Some(_) => return Support::Plain,
                None => return float("its element type is unknown"),
            }
        }
        match site.row.class {
            Class::Contraction => contraction(site),
            Class::AveragePool => average_pool(site),
            Class::Binary if site.op.op_type == "Add" => match residual(site) {
                Some(_) => int8("residual Add"),
                None => float("pointwise: fused with its neighbours, in their precision"),
            },
            Class::Movement | Class::Join | Class::MaxPool => {
                float("moves elements only: Q and DQ pass through it")
            }
            Class::Clamp | Class::Binary | Class::Bounded | Class::Unary => {
                float("pointwise: fused with its neighbours, in their precision")
            }
            Class::Normalization => float("normalisations stay float"),
            Class::Reduction => float("reductions stay float"),
            Class::Recurrent => float("recurrent layers stay float"),
            Class::Index => Support::Plain,
            Class::Control => float("bodies of control flow stay float"),
            Class::Quantized => float("already quantized"),
            Class::Other => float("no INT8 kernel"),
        }
    }

    fn quantized_operands(&self, site: &Site<'_>) -> Vec<u32> {
        match site.op.op_type.as_str() {
            "Add" => residual(site).into_iter().collect(),
            _ => site.activations(),
        }
    }

    fn bound_operands(&self, site: &Site<'_>) -> Vec<u32> {
        // A convolution in INT8 behind which a residual Add reads two floats has to leave its result in float.
        let skip = if site.op.op_type == "Add" { residual(site) } else { None };
        let made = |slot: &u32| {
            let maker = site.operand(*slot as usize).and_then(|o| site.graph.producer(o.value));
            maker.is_some_and(|(op, _)| is_weighted(site.graph.op(op)))
        };
        skip.map_or_else(Vec::new, |_| [0, 1].into_iter().filter(made).collect())
    }

    fn dynamic(&self, _: &Site<'_>) -> Dynamic {
        Dynamic::None { reason: "TensorRT has no dynamic INT8 quantization" }
    }

    fn dynamic_cost(&self, _: &Site<'_>, _: usize) -> Option<u64> {
        None
    }

    fn predict(&self, subject: &Subject<'_>) -> Option<Prediction> {
        Some(predict::predict(subject))
    }

    fn lint(&self, model: &Model) -> Vec<Finding> {
        lint::lint(model, self.version)
    }

    fn input_channels(&self, _: &Op, _: &[usize]) -> Option<usize> {
        None
    }

    fn saturating_pairs(&self, _: &Op, _: &[usize]) -> Option<Pairs> {
        None
    }

    fn cost(&self, site: &Site<'_>) -> Costs {
        let elements = site.result().and_then(Operand::elements).unwrap_or(1);
        let work = site.macs().max(elements);
        Costs { integer: work / 2, float: work.max(1) }
    }

    fn quantize_cost(&self, _: &Operand, _: Option<&Site<'_>>) -> u64 {
        // Fused into the producer.
        0
    }

    fn dequantize_cost(&self, _: &Operand, _: Option<&Site<'_>>) -> u64 {
        0
    }
}

fn float(reason: &'static str) -> Support {
    Support::Float { reason }
}

fn int8(kernel: &'static str) -> Support {
    Support::Integer { kernel, params: Params::Own, float_result: FloatResult::Always }
}

/// Fewer rows, columns or inner elements than this make a matrix product that INT8 does not speed up.
const THIN: usize = 16;

fn contraction(site: &Site<'_>) -> Support {
    let Some((_, weight, _)) = site.weight() else {
        return float("both operands are activations: attention is fused as a whole, in float");
    };
    if site.operand(0).is_some_and(|x| x.konst().is_some()) {
        return float("its data operand is the constant");
    }
    let Some(dims) = weight.konst().map(|w| w.dims()) else { return float("its weight is not a constant") };
    let group = site.op.int("group").unwrap_or(1);
    match (site.op.op_type.as_str(), dims) {
        ("Conv", [outputs, inputs, ..])
            if group == 1 && (*outputs < THIN || *inputs < THIN) && !at_the_input(site) =>
        {
            float("fewer than 16 channels: INT8 tiles would be mostly empty")
        }
        ("Conv", [outputs, ..]) if group > 1 && outputs % 8 != 0 => {
            float("a grouped convolution whose channels are no multiple of 8")
        }
        ("Conv", _) => int8("INT8 convolution"),
        ("ConvTranspose", _) if group > 1 => {
            float("a grouped ConvTranspose: its weight has no per-channel axis")
        }
        ("ConvTranspose", _) => int8("INT8 deconvolution"),
        ("Gemm" | "MatMul", [.., inner, columns]) if *inner < THIN || *columns < THIN => {
            float("a matrix of fewer than 16 rows or columns")
        }
        ("Gemm" | "MatMul", [_, _, ..]) => int8("INT8 matrix product"),
        _ => float("no INT8 kernel"),
    }
}

/// True for the first convolution, which has a kernel of its own for pictures of few channels.
fn at_the_input(site: &Site<'_>) -> bool {
    let x = site.graph.operand(site.id, 0);
    let outputs = site.operand(1).and_then(|w| w.dims.as_deref()?.first().copied());
    x.is_some_and(|x| site.graph.producer(x).is_none()) && outputs.is_some_and(|n| n % 8 == 0)
}

/// An average has an INT8 kernel only with integers on both sides: if weighted operators alone read it.
fn average_pool(site: &Site<'_>) -> Support {
    let g = site.graph;
    let Some(result) = site.result() else { return float("its result is not used") };
    if feeds_weighted(g, result.value, 8) {
        int8("INT8 pooling")
    } else {
        float("its result is needed in float: INT8 averages have INT8 results")
    }
}

/// True if all that reads a value, through operators that only move elements, has a weight.
fn feeds_weighted(g: &Graph, v: ValueId, depth: usize) -> bool {
    let through = |op: OpId| {
        let row = squint_ops::row(&g.op(op).domain, &g.op(op).op_type);
        match row.map(|r| r.class) {
            Some(Class::Contraction) => true,
            Some(Class::Movement) if depth > 0 => {
                g.results(op).into_iter().flatten().all(|r| feeds_weighted(g, r, depth - 1))
            }
            _ => false,
        }
    };
    let uses = g.uses(v);
    !g.is_output(v) && !uses.is_empty() && uses.iter().all(|u| !u.capture && u.slot == 0 && through(u.op))
}

/// The slot of the skip connection, if an Add joins one with the result of a weighted operator that nothing else
/// reads. Where both operands are such results, the one on the longer way from where they part is the backbone.
pub(crate) fn residual(site: &Site<'_>) -> Option<u32> {
    let g = site.graph;
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    if a.konst().is_some() || b.konst().is_some() || a.value == b.value || !same_shape(a, b) {
        return None;
    }
    match (made_by_weight(g, a.value), made_by_weight(g, b.value)) {
        (true, false) => Some(1),
        (false, true) => Some(0),
        (true, true) => {
            let (from_a, from_b) = distances(g, a.value, b.value)?;
            Some(if from_a >= from_b { 1 } else { 0 })
        }
        (false, false) => None,
    }
}

/// True if no operand is repeated for the other one, as far as can be known. (Lengths are known once the model has run;
/// what is observed is decided before that.)
fn same_shape(a: &Operand, b: &Operand) -> bool {
    match (&a.fact.shape, &b.fact.shape) {
        (Some(x), Some(y)) if x == y => true,
        _ => a.dims.is_some() && a.dims == b.dims,
    }
}

fn is_weighted(op: &Op) -> bool {
    op.is_onnx() && matches!(op.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
}

/// True if a weighted operator makes a value for one reader, perhaps with a bias added by an
/// operator of its own or a BatchNormalization behind it.
fn made_by_weight(g: &Graph, v: ValueId) -> bool {
    let Some((op, _)) = g.producer(v) else { return false };
    if g.only_use(v).is_none() {
        return false;
    }
    match g.op(op).op_type.as_str() {
        _ if is_weighted(g.op(op)) => true,
        "BatchNormalization" => g.operand(op, 0).is_some_and(|x| made_by_weight(g, x)),
        "Add" => {
            let [a, b] = [g.operand(op, 0), g.operand(op, 1)];
            match (a, b) {
                (Some(x), Some(c)) | (Some(c), Some(x)) if g.konst(c).is_some() && g.konst(x).is_none() => {
                    g.producer(x).is_some_and(|(p, _)| matches!(g.op(p).op_type.as_str(), "Gemm" | "MatMul"))
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// How many operators lie between each of two values and the last value that both are made from.
fn distances(g: &Graph, a: ValueId, b: ValueId) -> Option<(usize, usize)> {
    const MOST: usize = 512;
    let (from_a, from_b) = (ancestors(g, a, MOST), ancestors(g, b, MOST));
    let meet = from_a.iter().filter_map(|(v, da)| {
        let db = from_b.iter().find(|(w, _)| w == v).map(|(_, d)| *d)?;
        Some((*da, db))
    });
    meet.min_by_key(|(da, db)| da + db)
}

/// Values that a value is made from, nearest first, with how many operators lie between.
fn ancestors(g: &Graph, v: ValueId, most: usize) -> Vec<(ValueId, usize)> {
    let mut found = vec![(v, 0)];
    let mut next = 0;
    while next < found.len() && found.len() < most {
        let (v, d) = found[next];
        next += 1;
        let Some((op, _)) = g.producer(v) else { continue };
        for x in g.operands(op).into_iter().flatten().filter(|x| g.konst(*x).is_none()) {
            if !found.iter().any(|(w, _)| *w == x) {
                found.push((x, d + 1));
            }
        }
    }
    found
}
