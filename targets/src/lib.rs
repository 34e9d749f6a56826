//! What deployment runtimes execute in integers.
//!
//! A [`Target`] answers three questions: which grids activations and weights use, whether an operator with
//! quantized operands would run in an integer kernel ([`Target::support`]), and what an operator and a
//! conversion cost ([`Target::cost`]). Targets are keyed by the class of an operator, with exceptions that
//! each carry their reason; a new target is a new file here and a line in [`TARGETS`].

mod cost;
mod cpu;
mod float;
mod lint;
mod onnxruntime;
mod pairs;
mod prediction;
mod site;
mod tensorrt;

pub use cost::Costs;
pub use float::{FloatKernels, Window};
pub use lint::{Finding, Severity};
pub use pairs::Pairs;
pub use prediction::{Fault, Kind, Prediction, Runs, Subject, Why};
pub use site::{Operand, Site};

use squint_ir::affine::Grid;
use squint_ir::{DType, Model, Op};

/// A deployment runtime on a kind of processor.
pub trait Target: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// One line for `--help`.
    fn description(&self) -> &'static str;

    /// How activations are quantized.
    fn activations(&self) -> Format;

    /// How weights are quantized, one scale for each output channel.
    fn weights(&self) -> Format;

    /// Why activations of 16 bits are no way between those of 8 and float, in the user's language.
    fn without_16_bits(&self) -> &'static str;

    /// Smallest version of the default operator set in which the emitted graph can be written.
    fn min_opset(&self) -> i64;

    /// Newest version of the default operator set that the runtime reads.
    fn max_opset(&self) -> i64;

    /// Why the runtime does not compute with these numbers, with its own words where it has some; `None` if it does.
    fn lacks(&self, numbers: Numbers) -> Option<String>;

    /// Whether an operator that runs in integers has a kernel for 8-bit floats, too.
    ///
    /// # Errors
    /// Why it has none, in the user's language.
    fn float8(&self, site: &Site<'_>) -> Result<(), &'static str> {
        let _ = site;
        Err("no kernel for 8-bit floats")
    }

    /// Whether the runtime has kernels for floats of this type. Where it has not, what is not quantized is computed in
    /// float32.
    fn computes_in(&self, dtype: DType) -> bool {
        matches!(dtype, DType::Float | DType::Double)
    }

    /// What the runtime does with an operator whose activations are all quantized.
    fn support(&self, site: &Site<'_>) -> Support;

    /// Where quantized values lie.
    fn placement(&self) -> Placement {
        Placement::Regions
    }

    /// What the runtime would refuse or not fuse in a quantized model whose types are inferred.
    fn lint(&self, model: &Model) -> Vec<Finding> {
        let _ = model;
        Vec::new()
    }

    /// Slots of the activations that an operator with [`Support::Integer`] reads quantized.
    fn quantized_operands(&self, site: &Site<'_>) -> Vec<u32> {
        site.activations()
    }

    /// Slots of the operands whose makers may run in integers only if this operator does, too.
    fn bound_operands(&self, site: &Site<'_>) -> Vec<u32> {
        let _ = site;
        Vec::new()
    }

    /// Slots of the operands whose makers must run in integers if this operator does: where it is always better to
    /// quantize its result.
    fn bound_to_operands(&self, site: &Site<'_>) -> Vec<u32> {
        let _ = site;
        Vec::new()
    }

    /// What the runtime will make of a graph, quantized or not, by whatever tool; `None` if that cannot be predicted
    /// for this target.
    fn predict(&self, subject: &Subject<'_>) -> Option<Prediction> {
        let _ = subject;
        None
    }

    /// How many input channels a convolution in integers should have, if its kernel is much faster with more
    /// channels than those of its weight (of these dimensions); the others are filled with zeros.
    fn input_channels(&self, op: &Op, weight: &[usize]) -> Option<usize>;

    /// Which products of a weight (of these dimensions) the kernel adds in pairs that saturate at 16 bits; `None` if it
    /// adds all of them exactly.
    fn saturating_pairs(&self, op: &Op, weight: &[usize]) -> Option<Pairs>;

    /// What the runtime does with an operator that is to quantize its activations in every run, with the range that
    /// they have in it.
    fn dynamic(&self, site: &Site<'_>) -> Dynamic;

    /// What it costs to run an operator in that way, if `readers` of its kind share the activation that it quantizes.
    /// Nanoseconds of one core; `None` where lengths are unknown.
    fn dynamic_cost(&self, site: &Site<'_>, readers: usize) -> Option<u64>;

    /// What its float kernels prefer among graphs that compute the same; `None` if it rewrites graphs itself.
    fn float_kernels(&self) -> Option<&FloatKernels> {
        None
    }

    /// How many neighbouring pixels a convolution in integers should compute as channels of one, as in
    /// [`FloatKernels::neighbours`]; `None` for none.
    fn integer_neighbours(&self, window: Window) -> Option<u64> {
        let _ = window;
        None
    }

    /// What it costs to run an operator, in nanoseconds of one core.
    fn cost(&self, site: &Site<'_>) -> Costs;

    /// What it costs to quantize a value that is made in float: by an operator, or (`None`) outside of the graph.
    /// All integer readers share the result. Nanoseconds of one core.
    fn quantize_cost(&self, value: &Operand, producer: Option<&Site<'_>>) -> u64;

    /// What it costs a float reader (`None`: outside of the graph) that a value is made in integers. Each reader
    /// pays for itself. Nanoseconds of one core.
    fn dequantize_cost(&self, value: &Operand, reader: Option<&Site<'_>>) -> u64;
}

/// An element type with the levels of it that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Element type.
    pub dtype: DType,
    /// Levels.
    pub grid: Grid,
}

/// Numbers beside float32 and 8-bit integers that a model may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Floats of 16 bits for all that is not quantized.
    Half(DType),
    /// 8-bit floats (E4M3) in the place of 8-bit integers.
    Float8,
    /// Integer weights with a scale for each block of this many of them, for operators on float activations.
    Blocks {
        /// 2, 4 or 8.
        bits: u8,
        /// Weights that share a scale, in a row along the inner axis.
        size: usize,
    },
    /// The same for the rows of tables that operators pick from.
    Tables {
        /// 2, 4 or 8.
        bits: u8,
    },
}

/// Where a runtime wants quantized values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Around regions of operators in integers: operands and results are quantized, biases are integers.
    Regions,
    /// At the operands of operators only: results and biases stay float, and values that are moved from one place to
    /// another have equal scales.
    Inputs,
}

/// What a runtime does with an operator between quantized activations.
#[derive(Clone, Debug, PartialEq)]
pub enum Support {
    /// Runs in an integer kernel.
    Integer {
        /// The kernel's name in the runtime.
        kernel: &'static str,
        /// How parameters of the result relate to those of the operands.
        params: Params,
        /// Whether the kernel can also leave its result in float.
        float_result: FloatResult,
    },
    /// Disappears into the operator before it when that one runs in integers.
    Absorbed,
    /// Runs in float.
    Float {
        /// Why, in the user's language.
        reason: &'static str,
    },
    /// Not an operator of activations: nothing to quantize.
    Plain,
}

/// What a runtime does with an operator that is to quantize its activations in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// It runs in an integer kernel, between float values.
    Kernel(DynamicKernel),
    /// It cannot.
    None {
        /// Why, in the user's language.
        reason: &'static str,
    },
}

/// An integer kernel that finds scales of activations itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicKernel {
    /// The kernel's name in the runtime.
    pub name: &'static str,
    /// Slots of the operands that it quantizes; those behind the first may be left out.
    pub activations: &'static [u32],
    /// Slots of its weights, each with one scale for each output channel.
    pub weights: &'static [u32],
}

/// Whether an integer kernel can leave its result in float, without a QuantizeLinear behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatResult {
    /// Its result must be quantized.
    Never,
    /// It can.
    Always,
    /// It can, unless an operator of this type reads the result: the runtime would fuse the two in float.
    UnlessReadBy(&'static str),
}

/// How quantization parameters of results are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Params {
    /// Results have parameters of their own.
    Own,
    /// Results must have exactly the parameters of the first operand.
    SameAsInput,
    /// The range of the result is known beforehand.
    Fixed {
        /// Smallest element.
        lo: f32,
        /// Largest element.
        hi: f32,
    },
}

const TARGETS: &[&dyn Target] = &[
    &cpu::CPU_VNNI,
    &cpu::CPU_AVX2,
    &cpu::ARM64,
    &tensorrt::TENSORRT,
    &tensorrt::TENSORRT_8_6,
    &tensorrt::TENSORRT_10,
    &tensorrt::TENSORRT_11,
];

/// The target for the processor that this program runs on.
pub fn host() -> &'static dyn Target {
    cpu::host()
}

/// The target of a name.
pub fn target(name: &str) -> Option<&'static dyn Target> {
    TARGETS.iter().copied().find(|t| t.name() == name)
}

/// All targets.
pub fn targets() -> impl Iterator<Item = &'static dyn Target> {
    TARGETS.iter().copied()
}
