//! Element types of ONNX tensors.
//!
//! Source: `TensorProto.DataType` in `onnx-ml.proto` (IR version 14) for the codes, and
//! `onnx/docs/Syntax.md` for the names.

use std::fmt;
use std::str::FromStr;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $bits:literal;)*) => {
        /// Element type of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// Every element type, in the order of their codes.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The code in `TensorProto.DataType`.
            pub fn code(self) -> i32 { match self { $(DType::$variant => $code,)* } }

            /// The type of a code, or `None` for `UNDEFINED` and codes newer than this schema.
            pub fn from_code(code: i32) -> Option<DType> { match code { $($code => Some(DType::$variant),)* _ => None } }

            /// The name in ONNX textual syntax, for example `float` or `int8`.
            pub fn name(self) -> &'static str { match self { $(DType::$variant => $name,)* } }

            /// Bits an element takes in raw data; 0 for strings, which have no fixed width.
            pub fn bits(self) -> usize { match self { $(DType::$variant => $bits,)* } }
        }
    };
}

dtypes! {
    /// IEEE 754 binary32.
    Float = 1, "float", 32;
    /// Unsigned 8 bits.
    Uint8 = 2, "uint8", 8;
    /// Signed 8 bits.
    Int8 = 3, "int8", 8;
    /// Unsigned 16 bits.
    Uint16 = 4, "uint16", 16;
    /// Signed 16 bits.
    Int16 = 5, "int16", 16;
    /// Signed 32 bits.
    Int32 = 6, "int32", 32;
    /// Signed 64 bits.
    Int64 = 7, "int64", 64;
    /// UTF-8 (by convention) byte strings.
    String = 8, "string", 0;
    /// One byte, 0 or 1.
    Bool = 9, "bool", 8;
    /// IEEE 754 binary16.
    Float16 = 10, "float16", 16;
    /// IEEE 754 binary64.
    Double = 11, "double", 64;
    /// Unsigned 32 bits.
    Uint32 = 12, "uint32", 32;
    /// Unsigned 64 bits.
    Uint64 = 13, "uint64", 64;
    /// Two binary32, real and imaginary.
    Complex64 = 14, "complex64", 64;
    /// Two binary64, real and imaginary.
    Complex128 = 15, "complex128", 128;
    /// Truncated binary32.
    Bfloat16 = 16, "bfloat16", 16;
    /// 4 exponent and 3 mantissa bits, no infinities.
    Float8e4m3fn = 17, "float8e4m3fn", 8;
    /// As `Float8e4m3fn`, without negative zero.
    Float8e4m3fnuz = 18, "float8e4m3fnuz", 8;
    /// 5 exponent and 2 mantissa bits.
    Float8e5m2 = 19, "float8e5m2", 8;
    /// As `Float8e5m2`, without infinities and negative zero.
    Float8e5m2fnuz = 20, "float8e5m2fnuz", 8;
    /// Unsigned 4 bits, two to a byte, low nibble first.
    Uint4 = 21, "uint4", 4;
    /// Signed 4 bits, two to a byte, low nibble first.
    Int4 = 22, "int4", 4;
    /// 2 exponent and 1 mantissa bits, two to a byte.
    Float4e2m1 = 23, "float4e2m1", 4;
    /// Power of two scale: 8 exponent bits.
    Float8e8m0 = 24, "float8e8m0", 8;
    /// Unsigned 2 bits, four to a byte.
    Uint2 = 25, "uint2", 2;
    /// Signed 2 bits, four to a byte.
    Int2 = 26, "int2", 2;
    /// 2 exponent and 3 mantissa bits, four to three bytes (OCP Microscaling Formats 1.0).
    Float6e2m3 = 27, "float6e2m3", 6;
    /// 3 exponent and 2 mantissa bits, four to three bytes (OCP Microscaling Formats 1.0).
    Float6e3m2 = 28, "float6e3m2", 6;
}

impl DType {
    /// Bytes that `n` elements take in raw data (sub-byte types are packed), or `None` on overflow and
    /// for strings.
    pub fn packed_len(self, n: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits => n.checked_mul(bits).map(|b| b.div_ceil(8)),
        }
    }

    /// True for the types whose values are real numbers on a floating-point grid.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(
            self,
            Float
                | Float16
                | Double
                | Bfloat16
                | Float8e4m3fn
                | Float8e4m3fnuz
                | Float8e5m2
                | Float8e5m2fnuz
                | Float4e2m1
                | Float8e8m0
                | Float6e2m3
                | Float6e3m2
        )
    }

    /// The inclusive range of an integer type, `None` for other types. Unsigned 64 bits are clipped to
    /// `i64::MAX`.
    pub fn int_range(self) -> Option<(i64, i64)> {
        use DType::*;
        Some(match self {
            Uint2 => (0, 3),
            Int2 => (-2, 1),
            Uint4 => (0, 15),
            Int4 => (-8, 7),
            Uint8 => (0, 255),
            Int8 => (-128, 127),
            Uint16 => (0, 65535),
            Int16 => (-32768, 32767),
            Uint32 => (0, u32::MAX.into()),
            Int32 => (i32::MIN.into(), i32::MAX.into()),
            Uint64 => (0, i64::MAX),
            Int64 => (i64::MIN, i64::MAX),
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        DType::ALL.iter().copied().find(|d| d.name() == s).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for d in DType::ALL {
            assert_eq!(DType::from_code(d.code()), Some(*d));
            assert_eq!(d.name().parse(), Ok(*d));
        }
        assert_eq!(DType::from_code(0), None);
    }

    #[test]
    fn sub_byte_types_are_packed() {
        assert_eq!(DType::Int4.packed_len(3), Some(2));
        assert_eq!(DType::Uint2.packed_len(5), Some(2));
        assert_eq!([1, 2, 3, 4, 5].map(|n| DType::Float6e3m2.packed_len(n)), [1, 2, 3, 3, 4].map(Some));
        assert_eq!(DType::Double.packed_len(usize::MAX), None);
    }
}
