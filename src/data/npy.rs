//! The header of NumPy's `.npy` format.
//!
//! Source: NumPy's `numpy.lib.format`, versions 1.0 to 3.0: a magic string, a version, a length, and a
//! Python dictionary literal such as `{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }`. The
//! literal is read by a parser of exactly this form: it does not recurse, and it accepts no more than
//! 64 KiB, so no header can exhaust the stack or the memory.

use squint_ir::DType;
use std::io::{self, Read};

/// What a `.npy` header says of the data after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Element type.
    pub(crate) dtype: DType,
    /// Whether elements are stored in the order of a big-endian machine.
    pub(crate) big_endian: bool,
    /// Whether the first axis varies fastest.
    pub(crate) fortran: bool,
    /// Lengths of the axes.
    pub(crate) dims: Vec<usize>,
    /// Bytes of data.
    pub(crate) data_len: usize,
    /// Bytes of header, from the magic string to the data.
    pub(crate) len: u64,
}

const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER: usize = 64 << 10;

/// Reads the header and leaves the reader at the first byte of data.
///
/// # Errors
/// A message that says what is wrong.
pub(crate) fn read_header(r: &mut impl Read) -> Result<Header, String> {
    let short = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => "is not a NumPy array, or is truncated".to_owned(),
        _ => e.to_string(),
    };
    let mut lead = [0u8; 8];
    r.read_exact(&mut lead).map_err(short)?;
    if &lead[..6] != MAGIC {
        return Err("is not a NumPy array (it does not start with `\\x93NUMPY`)".into());
    }
    let (len, lead_len) = match lead[6] {
        1 => {
            let mut b = [0u8; 2];
            r.read_exact(&mut b).map_err(short)?;
            (usize::from(u16::from_le_bytes(b)), 10)
        }
        2 | 3 => {
            let mut b = [0u8; 4];
            r.read_exact(&mut b).map_err(short)?;
            (u32::from_le_bytes(b) as usize, 12)
        }
        v => return Err(format!("has version {v} of the NumPy format; versions 1 to 3 are known")),
    };
    if len > MAX_HEADER {
        return Err(format!("has a header of {len} bytes; at most {MAX_HEADER} are read"));
    }
    let mut text = vec![0u8; len];
    r.read_exact(&mut text).map_err(short)?;
    let text = String::from_utf8(text).map_err(|_| "has a header that is not text".to_owned())?;
    interpret(&text, (lead_len + len) as u64)
}

fn interpret(text: &str, len: u64) -> Result<Header, String> {
    let bad = || {
        format!("has a header that cannot be read: `{}`", text.trim().chars().take(120).collect::<String>())
    };
    let (mut descr, mut fortran, mut dims) = (None, None, None);
    let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(bad)?;
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(bad)?;
        let value = after.trim_start().strip_prefix(':').ok_or_else(bad)?.trim_start();
        let after = match key {
            "descr" if value.starts_with('[') => {
                return Err("is a structured array; save plain arrays, one for each input".into());
            }
            "descr" => {
                let (d, after) = quoted(value).ok_or_else(bad)?;
                descr = Some(d);
                after
            }
            "fortran_order" => {
                let end = value.find([',', '}']).unwrap_or(value.len());
                fortran = Some(match value[..end].trim() {
                    "True" => true,
                    "False" => false,
                    _ => return Err(bad()),
                });
                &value[end..]
            }
            "shape" => {
                let (inside, after) =
                    value.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or_else(bad)?;
                let axes = inside.split(',').map(str::trim).filter(|a| !a.is_empty());
                // NumPy under Python 2 wrote `3L`.
                let axes: Result<Vec<usize>, _> = axes.map(|a| a.trim_end_matches('L').parse()).collect();
                dims = Some(axes.map_err(|_| bad())?);
                after
            }
            _ => return Err(bad()),
        };
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let (Some(descr), Some(fortran), Some(dims)) = (descr, fortran, dims) else { return Err(bad()) };
    let (dtype, big_endian) = element_type(descr)?;
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let data_len = count
        .and_then(|n| dtype.packed_len(n))
        .ok_or_else(|| format!("has the impossible shape {dims:?}"))?;
    Ok(Header { dtype, big_endian, fortran, dims, data_len, len })
}

/// Splits a quoted string off the front; such strings in headers have no escapes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The element type of a `descr`, and whether it is big-endian.
fn element_type(descr: &str) -> Result<(DType, bool), String> {
    let (order, kind) = match descr.as_bytes().first() {
        Some(b'<' | b'>' | b'=' | b'|') => descr.split_at(1),
        _ => ("=", descr),
    };
    let dtype = match kind {
        "b1" | "?" => DType::Bool,
        "u1" => DType::Uint8,
        "i1" => DType::Int8,
        "u2" => DType::Uint16,
        "i2" => DType::Int16,
        "u4" => DType::Uint32,
        "i4" => DType::Int32,
        "u8" => DType::Uint64,
        "i8" => DType::Int64,
        "f2" => DType::Float16,
        "f4" => DType::Float,
        "f8" => DType::Double,
        _ => {
            let what = if kind.starts_with('O') { "Python objects" } else { "elements" };
            return Err(format!("holds {what} of NumPy type `{descr}`; numbers and booleans can be read"));
        }
    };
    Ok((dtype, order == ">" && dtype.bits() > 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, text: &str) -> Vec<u8> {
        let mut b = MAGIC.to_vec();
        b.extend([version, 0]);
        match version {
            1 => b.extend((text.len() as u16).to_le_bytes()),
            _ => b.extend((text.len() as u32).to_le_bytes()),
        }
        b.extend(text.as_bytes());
        b
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let b = file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (64, 1, 32, 32), }      \n");
        let h = read_header(&mut b.as_slice()).unwrap();
        assert_eq!((h.dtype, h.fortran, h.big_endian, h.data_len), (DType::Float, false, false, 64 * 4096));
        assert_eq!((h.dims, h.len), (vec![64, 1, 32, 32], b.len() as u64));
        let b = file(3, "{'descr': '>i8', 'fortran_order': True, 'shape': (), }\n");
        let h = read_header(&mut b.as_slice()).unwrap();
        assert_eq!((h.dtype, h.fortran, h.big_endian, h.dims), (DType::Int64, true, true, vec![]));
        let b = file(2, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }\n");
        assert_eq!(read_header(&mut b.as_slice()).unwrap().dims, [3]);
    }

    #[test]
    fn bad_headers_are_refused() {
        let refused = |b: &[u8]| read_header(&mut &*b).unwrap_err();
        assert!(refused(b"PK\x03\x04....").contains("not a NumPy array"));
        assert!(refused(b"\x93NUMPY\x01\x00\xff\xff{").contains("truncated"));
        assert!(refused(&file(7, "{}")).contains("version 7"));
        assert!(refused(&file(1, &"(".repeat(60_000))).contains("cannot be read"));
        assert!(refused(&file(1, "{'descr': '<f4', 'shape': (1,)}")).contains("cannot be read"));
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }";
        assert!(refused(&file(1, huge)).contains("impossible shape"));
        let objects = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }";
        assert!(refused(&file(1, objects)).contains("Python objects"));
    }
}
