//! Printing of names, strings, numbers, constants and the kinds of attributes.

use super::lexer::is_identifier;
use super::literal::{escape_bytes, is_type_word};
use crate::{DType, Tensor};
use std::fmt::{self, Debug, Display, Write};

/// Names of `AttributeProto.AttributeType` by code.
const KINDS: [(&str, i32); 14] = [
    ("float", 1),
    ("int", 2),
    ("string", 3),
    ("tensor", 4),
    ("graph", 5),
    ("floats", 6),
    ("ints", 7),
    ("strings", 8),
    ("tensors", 9),
    ("graphs", 10),
    ("sparse_tensor", 11),
    ("sparse_tensors", 12),
    ("type_proto", 13),
    ("type_protos", 14),
];

/// The code of a kind of attribute.
pub(super) fn attribute_kind(name: &str) -> Option<i32> {
    KINDS.iter().find(|(n, _)| *n == name).map(|(_, code)| *code)
}

/// The name of a kind of attribute.
pub(super) fn attribute_kind_name(code: i32) -> Option<&'static str> {
    KINDS.iter().find(|(_, c)| *c == code).map(|(name, _)| *name)
}

/// Writes a name, in quotes unless it is an identifier that cannot be taken for a type.
pub(crate) fn write_name(out: &mut impl Write, name: &str) -> fmt::Result {
    if is_identifier(name) && !is_type_word(name) { out.write_str(name) } else { write_quoted(out, name) }
}

/// True for identifiers with points between them.
pub(crate) fn is_qualified(name: &str) -> bool {
    name.split('.').all(is_identifier)
}

/// Writes a string in quotes.
pub(super) fn write_quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.write_char('\\')?;
        }
        out.write_char(c)?;
    }
    out.write_char('"')
}

/// Writes a byte string in quotes.
pub(super) fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    write_quoted(out, &escape_bytes(bytes))
}

/// Writes the shortest decimal that reads back as `x`, always with a point, an exponent or a word.
pub(super) fn write_float(out: &mut impl Write, x: f32) -> fmt::Result {
    if x.is_nan() { write_nan(out, x.is_sign_negative()) } else { write!(out, "{x:?}") }
}

fn write_nan(out: &mut impl Write, negative: bool) -> fmt::Result {
    out.write_str(if negative { "-nan" } else { "nan" })
}

/// Writes items with commas between them.
pub(super) fn write_list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    for (i, x) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        item(out, x)?;
    }
    Ok(())
}

/// Writes the elements of a tensor, without braces.
pub(super) fn write_elements(out: &mut String, tensor: &Tensor) -> fmt::Result {
    use DType::*;
    let bytes = tensor.bytes();
    match tensor.dtype() {
        String => write_list(out, tensor.as_strings().unwrap_or_default(), |o, s| write_bytes(o, s)),
        Float | Complex64 => {
            write_list(out, bytes.as_chunks().0, |o, c| write_real(o, f32::from_le_bytes(*c)))
        }
        Double | Complex128 => {
            write_list(out, bytes.as_chunks().0, |o, c| write_real(o, f64::from_le_bytes(*c)))
        }
        // The range of signed integers ends halfway.
        Uint64 => write_list(out, bytes.as_chunks().0, |o, c| write!(o, "{}", u64::from_le_bytes(*c))),
        Float16 | Bfloat16 => {
            write_list(out, bytes.as_chunks().0, |o, c| write!(o, "{}", u16::from_le_bytes(*c)))
        }
        Float4e2m1 | Float6e2m3 | Float6e3m2 => write_list(out, tensor.codes(), |o, x| write!(o, "{x}")),
        dtype => match tensor.to_i64s() {
            Some(ints) => write_list(out, ints, |o, x| write!(o, "{x}")),
            None => {
                debug_assert_eq!(dtype.bits(), 8, "invariant: only 8-bit floats are left");
                write_list(out, bytes, |o, b| write!(o, "{b}"))
            }
        },
    }
}

/// As [`write_float`], but a whole number has no point: the element type says that it is a float.
fn write_real<T: Copy + Debug + Into<f64>>(out: &mut String, x: T) -> fmt::Result {
    let wide: f64 = x.into();
    if wide.is_nan() {
        return write_nan(out, wide.is_sign_negative());
    }
    write!(out, "{x:?}")?;
    if out.ends_with(".0") {
        out.truncate(out.len() - 2);
    }
    Ok(())
}

/// Writes an element type and dimensions as a type.
pub(super) fn write_tensor_type(out: &mut String, dtype: DType, dims: &[impl Display]) -> fmt::Result {
    write!(out, "{dtype}")?;
    for (i, d) in dims.iter().enumerate() {
        write!(out, "{}{d}", if i == 0 { '[' } else { ',' })?;
    }
    if !dims.is_empty() {
        out.push(']');
    }
    Ok(())
}
