//! Constant tensors: element type, dimensions and raw little-endian bytes that are shared, never copied.

use crate::DType;
use bytes::Bytes;
use half::{bf16, f16};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// A dense constant.
///
/// The bytes are row-major and little-endian as in `TensorProto.raw_data`, sub-byte elements packed
/// lowest bits first. They are reference-counted: cloning a tensor, or slicing one out of a memory map,
/// copies nothing. They may be unaligned.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: Data,
    /// Where the bytes lie on disk, when they are an unchanged slice of a file.
    pub source: Option<FileSlice>,
    /// Encoded fields that this IR does not interpret (documentation, metadata), kept for export.
    pub residue: Bytes,
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Raw(Bytes),
    Strings(Arc<[Bytes]>),
}

/// A range of a file; its length is the tensor's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSlice {
    /// The file.
    pub path: Arc<Path>,
    /// Byte offset in it.
    pub offset: u64,
    /// What the model says of where its external data lie: the keys `location`, `offset`, `length`, `checksum`
    /// and others, as they are written there. `None` for data inside the model's own file.
    pub external: Option<Arc<[(String, String)]>>,
}

impl FileSlice {
    /// The path of external data as the model names it, relative to the model's folder.
    pub fn location(&self) -> Option<&str> {
        let entries = self.external.as_deref()?;
        entries.iter().find(|(key, _)| key == "location").map(|(_, value)| value.as_str())
    }
}

/// Why bytes do not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The product of the dimensions does not fit the address space.
    #[error("dimensions {0:?} overflow")]
    Overflow(Vec<usize>),
    /// The data is shorter or longer than the dimensions say.
    #[error("{dtype} tensor of shape {dims:?} needs {expected} bytes, has {actual}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Declared dimensions.
        dims: Vec<usize>,
        /// Bytes they need.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
}

impl PartialEq for Tensor {
    /// Equal content; where the bytes came from does not matter.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.dims == other.dims
            && self.data == other.data
            && self.residue == other.residue
    }
}

macro_rules! from_vec {
    ($($(#[$doc:meta])* $name:ident, $t:ty, $dtype:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// If `data` is not as long as the product of `dims`.
        pub fn $name(dims: &[usize], data: &[$t]) -> Tensor {
            assert_eq!(dims.iter().product::<usize>(), data.len(), "invariant: dims match data");
            let mut raw = Vec::with_capacity(std::mem::size_of_val(data));
            for x in data { raw.extend_from_slice(&x.to_le_bytes()); }
            Tensor { dtype: DType::$dtype, dims: dims.to_vec(), data: Data::Raw(raw.into()), source: None, residue: Bytes::new() }
        }
    )*};
}

impl Tensor {
    from_vec! {
        /// A binary32 tensor.
        from_f32, f32, Float;
        /// A binary64 tensor.
        from_f64, f64, Double;
        /// An unsigned 8-bit tensor.
        from_u8, u8, Uint8;
        /// A signed 8-bit tensor.
        from_i8, i8, Int8;
        /// A signed 32-bit tensor.
        from_i32, i32, Int32;
        /// A signed 64-bit tensor.
        from_i64, i64, Int64;
    }

    /// A boolean tensor.
    ///
    /// # Panics
    /// If `data` is not as long as the product of `dims`.
    pub fn from_bool(dims: &[usize], data: &[bool]) -> Tensor {
        let bytes: Vec<u8> = data.iter().map(|b| u8::from(*b)).collect();
        Tensor { dtype: DType::Bool, ..Tensor::from_u8(dims, &bytes) }
    }

    /// A tensor over raw bytes, which are shared.
    ///
    /// # Errors
    /// If the length of `data` is not what `dtype` and `dims` need.
    pub fn raw(dtype: DType, dims: &[usize], data: Bytes) -> Result<Tensor, TensorError> {
        let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let expected = n.and_then(|n| dtype.packed_len(n));
        let expected = expected.ok_or_else(|| TensorError::Overflow(dims.to_vec()))?;
        if expected != data.len() {
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), expected, actual: data.len() });
        }
        Ok(Tensor { dtype, dims: dims.to_vec(), data: Data::Raw(data), source: None, residue: Bytes::new() })
    }

    /// A tensor of byte strings.
    ///
    /// # Errors
    /// If the number of strings is not the product of `dims`.
    pub fn strings(dims: &[usize], data: Vec<Bytes>) -> Result<Tensor, TensorError> {
        let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let expected = n.ok_or_else(|| TensorError::Overflow(dims.to_vec()))?;
        if expected != data.len() {
            let (dtype, dims, actual) = (DType::String, dims.to_vec(), data.len());
            return Err(TensorError::Length { dtype, dims, expected, actual });
        }
        let data = Data::Strings(data.into());
        Ok(Tensor { dtype: DType::String, dims: dims.to_vec(), data, source: None, residue: Bytes::new() })
    }

    /// A binary32 scalar (rank 0).
    pub fn scalar_f32(x: f32) -> Tensor {
        Tensor::from_f32(&[], &[x])
    }

    /// A signed 64-bit scalar (rank 0).
    pub fn scalar_i64(x: i64) -> Tensor {
        Tensor::from_i64(&[], &[x])
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first; empty for a scalar.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Raw bytes; empty for a string tensor.
    pub fn bytes(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match &self.data {
            Data::Raw(b) => b,
            Data::Strings(_) => &EMPTY,
        }
    }

    /// The strings of a string tensor.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(s) => Some(s),
            Data::Raw(_) => None,
        }
    }

    /// The same data under other dimensions of the same product; nothing is copied.
    ///
    /// # Errors
    /// If the products differ.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor, TensorError> {
        match &self.data {
            Data::Raw(b) => Tensor::raw(self.dtype, dims, b.clone()),
            Data::Strings(s) => Tensor::strings(dims, s.to_vec()),
        }
    }

    /// Elements as binary32: borrowed when the tensor is an aligned float tensor, converted otherwise.
    /// Empty for strings and complex numbers.
    pub fn f32s(&self) -> Cow<'_, [f32]> {
        let bytes = self.bytes();
        if self.dtype == DType::Float
            && cfg!(target_endian = "little")
            && bytes.as_ptr().align_offset(std::mem::align_of::<f32>()) == 0
        {
            // SAFETY: aligned, initialised, every bit pattern is a valid f32, and the slice borrows self.
            let s = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), bytes.len() / 4) };
            return Cow::Borrowed(s);
        }
        Cow::Owned(self.to_f64_iter().map(|x| x as f32).collect())
    }

    /// Elements as binary32, in a vector of one's own.
    pub fn to_f32s(&self) -> Vec<f32> {
        self.f32s().into_owned()
    }

    /// Elements as binary64.
    pub fn to_f64s(&self) -> Vec<f64> {
        self.to_f64_iter().collect()
    }

    /// Elements of an integer or boolean tensor as signed 64 bits; `None` for other types.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        use DType::*;
        let b = self.bytes();
        macro_rules! each {
            ($t:ty) => {
                chunks(b).map(|c| <$t>::from_le_bytes(c) as i64).collect()
            };
        }
        Some(match self.dtype {
            Bool | Uint8 => b.iter().map(|x| i64::from(*x)).collect(),
            Int8 => b.iter().map(|x| i64::from(*x as i8)).collect(),
            Uint16 => each!(u16),
            Int16 => each!(i16),
            Uint32 => each!(u32),
            Int32 => each!(i32),
            Uint64 => each!(u64),
            Int64 => each!(i64),
            Uint4 => self.packed(4).map(i64::from).collect(),
            Int4 => self.packed(4).map(|x| i64::from((x << 4) as i8 >> 4)).collect(),
            Uint2 => self.packed(2).map(i64::from).collect(),
            Int2 => self.packed(2).map(|x| i64::from((x << 6) as i8 >> 6)).collect(),
            _ => return None,
        })
    }

    /// The one element of a tensor with a single element, as binary64.
    pub fn scalar_value(&self) -> Option<f64> {
        if self.len() == 1 { self.to_f64_iter().next() } else { None }
    }

    fn to_f64_iter(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        use DType::*;
        let b = self.bytes();
        match self.dtype {
            Float => Box::new(chunks(b).map(|c| f64::from(f32::from_le_bytes(c)))),
            Double => Box::new(chunks(b).map(f64::from_le_bytes)),
            Float16 => Box::new(chunks(b).map(|c| f16::from_le_bytes(c).to_f64())),
            Bfloat16 => Box::new(chunks(b).map(|c| bf16::from_le_bytes(c).to_f64())),
            Float8e4m3fn => Box::new(b.iter().map(|x| minifloat(*x, 4, 3, 7, Special::NanOnly))),
            Float8e4m3fnuz => Box::new(b.iter().map(|x| minifloat(*x, 4, 3, 8, Special::NegZeroNan))),
            Float8e5m2 => Box::new(b.iter().map(|x| minifloat(*x, 5, 2, 15, Special::Ieee))),
            Float8e5m2fnuz => Box::new(b.iter().map(|x| minifloat(*x, 5, 2, 16, Special::NegZeroNan))),
            Float8e8m0 => Box::new(b.iter().map(|x| match x {
                255 => f64::NAN,
                e => 2f64.powi(i32::from(*e) - 127),
            })),
            Float4e2m1 => {
                Box::new(self.packed(4).map(|x| minifloat((x & 8) << 4 | x & 7, 2, 1, 1, Special::None)))
            }
            Float6e2m3 => Box::new(self.packed(6).map(|x| minifloat(sign_of_six(x), 2, 3, 1, Special::None))),
            Float6e3m2 => Box::new(self.packed(6).map(|x| minifloat(sign_of_six(x), 3, 2, 3, Special::None))),
            _ => Box::new(self.to_i64s().unwrap_or_default().into_iter().map(|x| x as f64)),
        }
    }

    /// The bits of each element of a type of less than a byte, as an unsigned integer.
    pub(crate) fn codes(&self) -> impl Iterator<Item = u8> + '_ {
        debug_assert!((1..8).contains(&self.dtype.bits()), "invariant: elements are packed");
        self.packed(self.dtype.bits())
    }

    /// Elements of fewer than 8 bits from a stream that begins with the lowest bit of the first byte.
    fn packed(&self, bits: usize) -> impl Iterator<Item = u8> + '_ {
        let b = self.bytes();
        (0..self.len()).map(move |i| {
            let at = i * bits;
            let next = b.get(at / 8 + 1).copied().unwrap_or(0);
            let window = u16::from_le_bytes([b[at / 8], next]) >> (at % 8);
            (window & ((1 << bits) - 1)) as u8
        })
    }
}

/// Packs integers of 2, 4 or 6 bits as ONNX stores them: a stream of bits, the lowest bit of the first byte
/// first. An element of 6 bits may lie in two bytes.
pub fn pack_bits(values: impl ExactSizeIterator<Item = i64>, bits: usize) -> Bytes {
    let mut out = vec![0u8; (values.len() * bits).div_ceil(8)];
    for (i, v) in values.enumerate() {
        let at = i * bits;
        let [low, high] = ((v as u16 & ((1 << bits) - 1)) << (at % 8)).to_le_bytes();
        out[at / 8] |= low;
        if high != 0 {
            out[at / 8 + 1] |= high;
        }
    }
    out.into()
}

/// A float of 6 bits with its sign moved to bit 7.
fn sign_of_six(x: u8) -> u8 {
    (x & 0x20) << 2 | x & 0x1f
}

fn chunks<const N: usize>(b: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    b.as_chunks::<N>().0.iter().copied()
}

#[derive(PartialEq)]
enum Special {
    None,
    Ieee,
    NanOnly,
    NegZeroNan,
}

/// Decodes an 8-bit float with `e` exponent bits, `m` mantissa bits and the given bias (ONNX
/// documentation, "Float stored in 8 bits"). For smaller formats the sign is moved to bit 7 first.
fn minifloat(x: u8, e: u32, m: u32, bias: i32, special: Special) -> f64 {
    let (sign, body) = (if x & 0x80 != 0 { -1.0 } else { 1.0 }, x & 0x7f);
    let (exp, man) = (i32::from(body >> m), f64::from(body & ((1 << m) - 1)));
    let top = (1 << e) - 1;
    match special {
        Special::NegZeroNan if x == 0x80 => return f64::NAN,
        Special::NanOnly if body == 0x7f => return f64::NAN,
        Special::Ieee if exp == top => return if man == 0.0 { sign * f64::INFINITY } else { f64::NAN },
        _ => {}
    }
    let scale = f64::from(1u32 << m);
    sign * if exp == 0 {
        man / scale * 2f64.powi(1 - bias)
    } else {
        (1.0 + man / scale) * 2f64.powi(exp - bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert!(Tensor::raw(DType::Float, &[2], Bytes::from_static(&[0; 8])).is_ok());
        assert!(matches!(
            Tensor::raw(DType::Float, &[2], Bytes::from_static(&[0; 7])),
            Err(TensorError::Length { expected: 8, actual: 7, .. })
        ));
        assert!(matches!(
            Tensor::raw(DType::Float, &[usize::MAX, 2], Bytes::new()),
            Err(TensorError::Overflow(_))
        ));
    }

    #[test]
    fn unaligned_floats_are_read() {
        let mut raw = vec![0u8];
        raw.extend_from_slice(&1.5f32.to_le_bytes());
        let t = Tensor::raw(DType::Float, &[1], Bytes::from(raw).slice(1..)).unwrap();
        assert_eq!(t.to_f32s(), [1.5]);
    }

    #[test]
    fn sub_byte_integers_unpack_with_sign() {
        let t = Tensor::raw(DType::Int4, &[3], pack_bits([-8i64, 7, -1].into_iter(), 4)).unwrap();
        assert_eq!(t.to_i64s().unwrap(), [-8, 7, -1]);
        let t = Tensor::raw(DType::Int2, &[5], pack_bits([-2i64, 1, -1, 0, 1].into_iter(), 2)).unwrap();
        assert_eq!(t.to_i64s().unwrap(), [-2, 1, -1, 0, 1]);
    }

    #[test]
    fn six_bit_floats_are_four_to_three_bytes() {
        // `byte0 = x0 | ((x1 & 0x3) << 6); byte1 = (x1 >> 2) | ((x2 & 0xF) << 4); byte2 = (x2 >> 4) | (x3 << 2)`,
        // says the comment on `TensorProto.raw_data`.
        let codes = [0x1f, 0x3f, 0x08, 0x21, 0x2a];
        let raw = pack_bits(codes.into_iter(), 6);
        let [x0, x1, x2, x3] = [0x1f, 0x3f, 0x08, 0x21u8];
        let first = [x0 | (x1 & 3) << 6, x1 >> 2 | (x2 & 15) << 4, x2 >> 4 | x3 << 2];
        assert_eq!(raw[..], [&first[..], &[0x2a]].concat());
        let t = Tensor::raw(DType::Float6e2m3, &[5], raw.clone()).unwrap();
        assert_eq!(t.codes().map(i64::from).collect::<Vec<_>>(), codes);
        assert_eq!(t.to_f64s(), [7.5, -7.5, 1.0, -0.125, -1.25]);
        let t = Tensor::raw(DType::Float6e3m2, &[5], raw).unwrap();
        assert_eq!(t.to_f64s(), [28.0, -28.0, 0.5, -0.0625, -0.75]);
    }

    #[test]
    fn small_floats_decode() {
        let f = |d, x: u8| Tensor::raw(d, &[1], Bytes::copy_from_slice(&[x])).unwrap().to_f64s()[0];
        assert_eq!(f(DType::Float8e4m3fn, 0x7e), 448.0);
        assert!(f(DType::Float8e4m3fn, 0x7f).is_nan());
        assert_eq!(f(DType::Float8e5m2, 0x7b), 57344.0);
        assert_eq!(f(DType::Float8e4m3fn, 0x01), 2f64.powi(-9));
        assert_eq!(f(DType::Float4e2m1, 0x07), 6.0);
        assert_eq!(f(DType::Float4e2m1, 0x09), -0.5);
        assert_eq!(f(DType::Float8e8m0, 128), 2.0);
    }
}
