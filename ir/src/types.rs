//! Types of values: element type and shape, with symbolic dimensions.

use crate::DType;
use std::fmt;

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A length known at compile time.
    Known(u64),
    /// A named length (`dim_param`), equal wherever the name is.
    Symbol(String),
    /// A length about which nothing is known.
    Unknown,
}

/// A shape: one dimension per axis.
pub type Shape = Vec<Dim>;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A dense tensor; `shape` is `None` when even the rank is unknown.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Shape, if the rank is known.
        shape: Option<Shape>,
    },
    /// A sparse tensor.
    SparseTensor {
        /// Element type.
        dtype: DType,
        /// Shape, if the rank is known.
        shape: Option<Shape>,
    },
    /// A sequence of values of one type.
    Sequence(Box<Type>),
    /// A value or nothing.
    Optional(Box<Type>),
    /// A map from a key type to values of one type.
    Map(DType, Box<Type>),
    /// A type of a domain of its own, which only its operators know.
    Opaque {
        /// The domain; empty for `ai.onnx`.
        domain: String,
        /// The name in that domain.
        name: String,
    },
    /// A type this IR cannot say (of an element type newer than the schema), encoded as in the file. It has no
    /// textual form.
    Encoded(bytes::Bytes),
}

impl Type {
    /// A dense tensor type.
    pub fn tensor(dtype: DType, shape: Option<Shape>) -> Type {
        Type::Tensor { dtype, shape }
    }

    /// Element type of a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Type::Tensor { dtype, .. } => Some(*dtype),
            _ => None,
        }
    }

    /// Shape of a dense tensor, if its rank is known.
    pub fn shape(&self) -> Option<&Shape> {
        match self {
            Type::Tensor { shape, .. } => shape.as_ref(),
            _ => None,
        }
    }
}

impl Dim {
    /// The length, if known.
    pub fn known(&self) -> Option<u64> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Known(n as u64)
    }
}

/// All lengths of a shape, if every one is known.
pub fn known_dims(shape: &[Dim]) -> Option<Vec<usize>> {
    shape.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok())).collect()
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(s) => crate::text::write_name(f, s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl fmt::Display for Type {
    /// The type in ONNX textual syntax: `float[N,3,?]`, `seq(float[2])`, `float` for a scalar, `float[]` for
    /// unknown rank.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = |f: &mut fmt::Formatter<'_>, dtype: &DType, shape: &Option<Shape>| {
            write!(f, "{dtype}")?;
            match shape {
                None => f.write_str("[]"),
                Some(dims) if dims.is_empty() => Ok(()),
                Some(dims) => {
                    f.write_str("[")?;
                    for (i, d) in dims.iter().enumerate() {
                        if i > 0 {
                            f.write_str(",")?;
                        }
                        write!(f, "{d}")?;
                    }
                    f.write_str("]")
                }
            }
        };
        match self {
            Type::Tensor { dtype, shape } => body(f, dtype, shape),
            Type::SparseTensor { dtype, shape } => {
                f.write_str("sparse_tensor(")?;
                body(f, dtype, shape)?;
                f.write_str(")")
            }
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Optional(t) => write!(f, "optional({t})"),
            Type::Map(k, t) => write!(f, "map({k}, {t})"),
            Type::Opaque { domain, name } => {
                let part = |f: &mut fmt::Formatter<'_>, text: &str| match text {
                    "" => Ok(()),
                    _ if crate::text::is_qualified(text) => f.write_str(text),
                    _ => crate::text::write_name(f, text),
                };
                f.write_str("opaque(")?;
                part(f, domain)?;
                f.write_str(if domain.is_empty() { "" } else { ", " })?;
                part(f, name)?;
                f.write_str(")")
            }
            Type::Encoded(_) => f.write_str("opaque()"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_print_in_onnx_syntax() {
        let t = Type::tensor(DType::Float, Some(vec![Dim::Symbol("N".into()), Dim::Known(3), Dim::Unknown]));
        assert_eq!(t.to_string(), "float[N,3,?]");
        assert_eq!(Type::Sequence(Box::new(Type::tensor(DType::Int64, None))).to_string(), "seq(int64[])");
        assert_eq!(Type::tensor(DType::Bool, Some(vec![])).to_string(), "bool");
    }
}
