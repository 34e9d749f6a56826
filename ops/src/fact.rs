//! What inference knows of a value: element type, shape, and contents where they are known.

use squint_ir::{DType, Dim, Op, Shape, Tensor, Type};
use std::sync::Arc;

/// Contents are followed as lengths in vectors of at most so many elements; no shape is longer.
const MAX_LENGTHS: usize = 64;

/// Knowledge about one value; every part may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// Element type.
    pub dtype: Option<DType>,
    /// Shape, if the rank is known.
    pub shape: Option<Shape>,
    /// The contents, if constant.
    pub konst: Option<Arc<Tensor>>,
    /// The contents of a scalar or vector of integers that stand for lengths, with symbols kept: what
    /// `Shape` gives for `[N,3,224,224]`, and what Gather, Concat, Unsqueeze and Cast make of it.
    pub dims: Option<Vec<Dim>>,
}

impl Fact {
    /// Nothing but an element type.
    pub fn of(dtype: Option<DType>) -> Fact {
        Fact { dtype, ..Fact::default() }
    }

    /// Element type and shape.
    pub fn new(dtype: Option<DType>, shape: Option<Shape>) -> Fact {
        Fact { dtype, shape, ..Fact::default() }
    }

    /// Everything about a constant; lengths too if it is a short list of integers.
    pub fn constant(tensor: Arc<Tensor>) -> Fact {
        let shape = tensor.dims().iter().map(|d| Dim::from(*d)).collect();
        let ints = if tensor.rank() <= 1
            && tensor.len() <= MAX_LENGTHS
            && matches!(tensor.dtype(), DType::Int64 | DType::Int32)
        {
            tensor.to_i64s()
        } else {
            None
        };
        // A negative number is no length: it stays readable through `konst` only.
        let dims = ints.and_then(|v| v.into_iter().map(|x| u64::try_from(x).ok().map(Dim::Known)).collect());
        Fact { dtype: Some(tensor.dtype()), shape: Some(shape), konst: Some(tensor), dims }
    }

    /// The fact of a declared type.
    pub fn from_type(ty: &Type) -> Fact {
        Fact::new(ty.dtype(), ty.shape().cloned())
    }

    /// The tensor type, if the element type is known.
    pub fn to_type(&self) -> Option<Type> {
        self.dtype.map(|d| Type::tensor(d, self.shape.clone()))
    }

    /// Rank, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The contents as lengths. A number that is no length (-1 in a `Reshape` target) is `Unknown` here.
    pub fn lengths(&self) -> Option<Vec<Dim>> {
        if let Some(dims) = &self.dims {
            return Some(dims.clone());
        }
        let tensor = self.konst.as_ref().filter(|t| t.rank() <= 1 && t.len() <= MAX_LENGTHS)?;
        let length = |x: i64| u64::try_from(x).map_or(Dim::Unknown, Dim::Known);
        Some(tensor.to_i64s()?.into_iter().map(length).collect())
    }

    /// The same fact with contents that stand for lengths, unless there are very many.
    pub fn with_lengths(mut self, dims: Option<Vec<Dim>>) -> Fact {
        self.dims = dims.filter(|d| d.len() <= MAX_LENGTHS);
        self
    }

    /// Constant integers.
    pub fn ints(&self) -> Option<Vec<i64>> {
        match (&self.konst, &self.dims) {
            (Some(t), _) => t.to_i64s(),
            (None, Some(d)) => d.iter().map(|d| d.known().and_then(|n| i64::try_from(n).ok())).collect(),
            _ => None,
        }
    }
}

/// An operator whose results are to be inferred.
pub struct InferCx<'a> {
    /// The operator.
    pub op: &'a Op,
    /// Version of its operator set.
    pub opset: i64,
    /// Operands by slot; `None` is an omitted optional one.
    pub inputs: &'a [Option<Fact>],
    /// Number of result slots.
    pub n_results: usize,
}

impl InferCx<'_> {
    /// The operand at a slot.
    ///
    /// # Errors
    /// If it is omitted.
    pub fn input(&self, slot: usize) -> Result<&Fact, InferError> {
        self.optional(slot).ok_or_else(|| InferError(format!("operand {slot} is missing")))
    }

    /// The operand at a slot, or `None` if it is omitted.
    pub fn optional(&self, slot: usize) -> Option<&Fact> {
        self.inputs.get(slot).and_then(Option::as_ref)
    }

    /// An error with the operator's type in front.
    pub fn error<T>(&self, message: impl std::fmt::Display) -> Result<T, InferError> {
        Err(InferError(message.to_string()))
    }
}

/// The operands do not fit the operator: what is wrong, without the node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InferError(pub String);
