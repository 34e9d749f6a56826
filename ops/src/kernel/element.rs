//! Elements of one type, for kernels that compute with them.

use crate::EvalError;
use squint_ir::{Bytes, DType, Tensor};

/// A Rust type that is the element type of a tensor.
pub trait Element: Copy + PartialEq + PartialOrd + Default + 'static {
    /// The ONNX element type.
    const DTYPE: DType;

    /// Reads all elements of little-endian bytes.
    fn read(bytes: &[u8]) -> Vec<Self>;

    /// Appends the little-endian bytes.
    fn write(self, to: &mut Vec<u8>);
}

/// The elements of a tensor.
///
/// # Errors
/// `Unsupported` if they are of another type.
pub fn values<T: Element>(tensor: &Tensor) -> Result<Vec<T>, EvalError> {
    if tensor.dtype() != T::DTYPE {
        return super::unsupported(format!("elements of type {}, {} expected", tensor.dtype(), T::DTYPE));
    }
    Ok(T::read(tensor.bytes()))
}

/// A tensor of elements.
///
/// # Errors
/// If `dims` does not fit the number of elements.
pub fn tensor<T: Element>(dims: &[usize], data: &[T]) -> Result<Tensor, EvalError> {
    let mut bytes = Vec::with_capacity(std::mem::size_of_val(data));
    for x in data {
        x.write(&mut bytes);
    }
    Ok(Tensor::raw(T::DTYPE, dims, Bytes::from(bytes))?)
}

macro_rules! elements {
    ($($t:ty, $dtype:ident;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;

            fn read(bytes: &[u8]) -> Vec<$t> {
                bytes.as_chunks().0.iter().map(|c| <$t>::from_le_bytes(*c)).collect()
            }

            fn write(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

elements! {
    f32, Float; f64, Double;
    u8, Uint8; u16, Uint16; u32, Uint32; u64, Uint64;
    i8, Int8; i16, Int16; i32, Int32; i64, Int64;
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    fn read(bytes: &[u8]) -> Vec<bool> {
        bytes.iter().map(|b| *b != 0).collect()
    }

    fn write(self, to: &mut Vec<u8>) {
        to.push(u8::from(self));
    }
}

/// Evaluates an expression with `$T` standing for the Rust type of an element type; `$otherwise` for types
/// outside the list (`float` for f32 and f64, `int` for the eight integer types).
macro_rules! numeric {
    ($dtype:expr, $T:ident => $body:expr, $otherwise:expr) => {
        $crate::kernel::numeric!(@ $dtype, $T => $body, $otherwise,
            [Float f32, Double f64, Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64,
             Int8 i8, Int16 i16, Int32 i32, Int64 i64])
    };
    (int $dtype:expr, $T:ident => $body:expr, $otherwise:expr) => {
        $crate::kernel::numeric!(@ $dtype, $T => $body, $otherwise,
            [Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32, Int64 i64])
    };
    (float $dtype:expr, $T:ident => $body:expr, $otherwise:expr) => {
        $crate::kernel::numeric!(@ $dtype, $T => $body, $otherwise, [Float f32, Double f64])
    };
    (@ $dtype:expr, $T:ident => $body:expr, $otherwise:expr, [$($d:ident $t:ty),*]) => {
        match $dtype {
            $(squint_ir::DType::$d => { type $T = $t; $body })*
            _ => $otherwise,
        }
    };
}
pub(crate) use numeric;
