//! The row of an operator.

use crate::fact::{Fact, InferCx, InferError};
use squint_ir::{Op, Tensor};

/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

/// What a compiler needs to know of one operator.
#[derive(Clone, Copy)]
pub struct Row {
    /// Domain; empty for `ai.onnx`.
    pub domain: &'static str,
    /// Operator type.
    pub op_type: &'static str,
    /// Versions of the operator set at which its definition changed, ascending.
    pub since: &'static [i64],
    /// Class, by which targets are keyed.
    pub class: Class,
    /// What each operand is for; the last entry holds for all further operands.
    pub ports: &'static [Port],
    /// What each result is; the last entry holds for all further results.
    pub outs: &'static [Out],
    /// Types and shapes of the results from those of the operands.
    pub infer: Infer,
    /// The operator on constants, where it is worth folding.
    pub eval: Option<Eval>,
}

/// Classes of operators that runtimes treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Multiply–accumulate with a weight: Conv, ConvTranspose, Gemm, MatMul.
    Contraction,
    /// Recurrent networks: LSTM, GRU, RNN.
    Recurrent,
    /// Moves or copies elements, never changes them: Reshape, Transpose, Slice, Gather, nearest Resize …
    Movement,
    /// Puts several tensors side by side: Concat.
    Join,
    /// Picks the largest element of a window: MaxPool, GlobalMaxPool.
    MaxPool,
    /// Averages: AveragePool, GlobalAveragePool.
    AveragePool,
    /// Adds or multiplies two tensors: Add, Mul, and Sub, Div.
    Binary,
    /// Clips a range and is linear within: Relu, Clip.
    Clamp,
    /// Unary function with a bounded range of results: Sigmoid, Tanh, Softmax, HardSigmoid.
    Bounded,
    /// Any other unary function: LeakyRelu, Elu, Exp, Gelu …
    Unary,
    /// Normalises by statistics of the data: LayerNormalization, InstanceNormalization …
    Normalization,
    /// Reduces axes: ReduceMean, ArgMax …
    Reduction,
    /// Computes with shapes, indices or conditions rather than activations.
    Index,
    /// Owns bodies: If, Loop, Scan.
    Control,
    /// QuantizeLinear, DequantizeLinear, QLinearConv …: already quantized.
    Quantized,
    /// Everything else.
    Other,
}

/// What an operand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// Activation data.
    Act,
    /// The weight of a contraction when constant, with its output-channel axis; data otherwise.
    Weight(WeightAxis),
    /// Added to a contraction's accumulator.
    Bias,
    /// A float parameter that is never quantized (scales of a normalisation, limits of a Clip).
    Param,
    /// Integers or conditions: indices, shapes, axes, masks.
    Index,
}

/// Which axis of a weight counts output channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightAxis {
    /// Axis 0 (Conv).
    First,
    /// Axis 1 (ConvTranspose).
    Second,
    /// Axis 0 if `transB`, else 1 (Gemm).
    Gemm,
    /// The last axis (MatMul).
    Last,
}

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Out {
    /// A new activation with a range of its own.
    Act,
    /// Elements of the operand at a slot, so the same range holds.
    Same(u32),
    /// Elements of all `Act` operands together.
    Unify,
    /// An activation whose range is known beforehand.
    Fixed {
        /// Smallest possible element.
        lo: f32,
        /// Largest possible element.
        hi: f32,
    },
    /// Indices, shapes, conditions, states: never quantized.
    Plain,
}

/// The signature of [`Row::infer`].
pub type Infer = fn(&InferCx<'_>) -> Result<Vec<Fact>, InferError>;

/// The signature of [`Row::eval`].
pub type Eval = fn(&EvalCx<'_>) -> Result<Vec<Tensor>, EvalError>;

impl Row {
    /// A row of the default domain whose operands and results are all activations, without a kernel; the
    /// methods below change that.
    pub(crate) const fn new(op_type: &'static str, since: &'static [i64], class: Class, infer: Infer) -> Row {
        Row::onnx(op_type, since, class, &[Port::Act], &[Out::Act], infer, None)
    }

    /// The row, in the domain `com.microsoft` of ONNX Runtime's own operators.
    pub(crate) const fn microsoft(self) -> Row {
        Row { domain: MICROSOFT, ..self }
    }

    /// The row with other ports.
    pub(crate) const fn ports(self, ports: &'static [Port]) -> Row {
        Row { ports, ..self }
    }

    /// The row with other results.
    pub(crate) const fn outs(self, outs: &'static [Out]) -> Row {
        Row { outs, ..self }
    }

    /// The row with a kernel.
    pub(crate) const fn eval(self, eval: Eval) -> Row {
        Row { eval: Some(eval), ..self }
    }

    /// A row of the default domain.
    pub(crate) const fn onnx(
        op_type: &'static str,
        since: &'static [i64],
        class: Class,
        ports: &'static [Port],
        outs: &'static [Out],
        infer: Infer,
        eval: Option<Eval>,
    ) -> Row {
        Row { domain: "", op_type, since, class, ports, outs, infer, eval }
    }

    /// What the operand at a slot is for.
    pub fn port(&self, slot: u32) -> Port {
        *self.ports.get(slot as usize).or(self.ports.last()).unwrap_or(&Port::Act)
    }

    /// What the result at a slot is.
    pub fn out(&self, slot: u32) -> Out {
        *self.outs.get(slot as usize).or(self.outs.last()).unwrap_or(&Out::Act)
    }
}

impl WeightAxis {
    /// The axis for a weight of a rank, on an operator.
    pub fn resolve(self, op: &Op, rank: usize) -> Option<usize> {
        let axis = match self {
            WeightAxis::First => 0,
            WeightAxis::Second => 1,
            WeightAxis::Gemm => usize::from(op.int("transB").unwrap_or(0) == 0),
            WeightAxis::Last => rank.checked_sub(1)?,
        };
        (axis < rank).then_some(axis)
    }
}

/// An operator and its constant operands.
pub struct EvalCx<'a> {
    /// The operator.
    pub op: &'a Op,
    /// Version of its operator set.
    pub opset: i64,
    /// Operands by slot; `None` is an omitted optional one.
    pub inputs: &'a [Option<&'a Tensor>],
    /// Number of result slots.
    pub n_results: usize,
}

/// Why an operator was not computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// This combination of types or attributes has no kernel here; not a fault of the model.
    #[error("no kernel: {0}")]
    Unsupported(String),
    /// The operands do not fit the operator.
    #[error("{0}")]
    Invalid(String),
}

impl<'a> EvalCx<'a> {
    /// The operand at a slot.
    ///
    /// # Errors
    /// If it is omitted.
    pub fn input(&self, slot: usize) -> Result<&'a Tensor, EvalError> {
        self.inputs
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| EvalError::Invalid(format!("{} lacks operand {slot}", self.op.op_type)))
    }

    /// The operand at a slot, or `None` if it is omitted.
    pub fn optional(&self, slot: usize) -> Option<&'a Tensor> {
        self.inputs.get(slot).copied().flatten()
    }
}
