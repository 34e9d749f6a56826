//! The grammar of types, constants and literals.

use super::TextError;
use super::lexer::Kind;
use super::parse::Parser;
use crate::types::known_dims;
use crate::{Bytes, DType, Dim, Shape, Tensor, Type, tensor};
use half::{bf16, f16};
use std::sync::Arc;

/// A constant in external-data form: `float[3] w = ["location": "w.bin", "offset": "0", "length": "12"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRef {
    /// Name of the constant; empty for one that is an attribute.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// The pairs between the brackets.
    pub entries: Vec<(String, String)>,
}

impl ExternalRef {
    /// The value of an entry, for example of `location`, `offset`, `length` or `checksum`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

impl Parser<'_, '_> {
    /// True if a type starts here.
    pub(super) fn at_type(&self) -> bool {
        self.token.kind == Kind::Ident && is_type_word(self.token.text)
    }

    pub(super) fn ty(&mut self) -> Result<Type, TextError> {
        self.nested(|p| {
            let word = p.bump()?;
            if let Ok(dtype) = word.text.parse() {
                return Ok(Type::Tensor { dtype, shape: p.shape()? });
            }
            p.expect(b'(')?;
            let ty = match word.text {
                "seq" => Type::Sequence(Box::new(p.ty()?)),
                "optional" => Type::Optional(Box::new(p.ty()?)),
                "map" => {
                    let key = p.dtype()?;
                    p.expect(b',')?;
                    Type::Map(key, Box::new(p.ty()?))
                }
                "sparse_tensor" => Type::SparseTensor { dtype: p.dtype()?, shape: p.shape()? },
                "opaque" => p.opaque()?,
                other => return Err(p.error_at(word.at, format!("expected a type, found `{other}`"))),
            };
            p.expect(b')')?;
            Ok(ty)
        })
    }

    /// What stands between the parentheses: nothing, `name`, or `domain, name`.
    fn opaque(&mut self) -> Result<Type, TextError> {
        let (mut domain, mut name) = (String::new(), String::new());
        if !self.at(b')') {
            name = self.qualified_name()?;
            if self.eat(b',')? {
                domain = std::mem::take(&mut name);
                if !self.at(b')') {
                    name = self.qualified_name()?;
                }
            }
        }
        Ok(Type::Opaque { domain, name })
    }

    /// `name ('.' name)*`
    fn qualified_name(&mut self) -> Result<String, TextError> {
        let mut all = self.name()?.text;
        while self.eat(b'.')? {
            all.push('.');
            all.push_str(&self.name()?.text);
        }
        Ok(all)
    }

    fn dtype(&mut self) -> Result<DType, TextError> {
        let word = self.token;
        let dtype = word.text.parse().map_err(|()| self.unexpected("an element type"))?;
        self.bump()?;
        Ok(dtype)
    }

    /// Nothing is a scalar, `[]` is an unknown rank.
    fn shape(&mut self) -> Result<Option<Shape>, TextError> {
        if !self.at(b'[') {
            return Ok(Some(Vec::new()));
        }
        let mut dims = Vec::new();
        self.list(b'[', b']', |p| {
            dims.push(match p.token.kind {
                Kind::Punct(b'?') => {
                    p.bump()?;
                    Dim::Unknown
                }
                // Some tools write -1 for a length that is unknown, and upstream prints it as it is.
                Kind::Int => u64::try_from(p.int()?).map_or(Dim::Unknown, Dim::Known),
                _ => Dim::Symbol(p.name()?.text),
            });
            Ok(())
        })?;
        Ok(if dims.is_empty() { None } else { Some(dims) })
    }

    /// The data of a constant of type `ty`, in braces or in external-data form.
    pub(super) fn tensor(
        &mut self,
        at: usize,
        name: &str,
        ty: Option<&Type>,
    ) -> Result<Arc<Tensor>, TextError> {
        let typed = match ty {
            Some(Type::Tensor { dtype, shape: Some(shape) }) => known_dims(shape).map(|dims| (*dtype, dims)),
            _ => None,
        };
        let Some((dtype, dims)) = typed else {
            return Err(self.error_at(at, "a constant needs a tensor type whose dimensions are numbers"));
        };
        let tensor = if self.at(b'[') {
            let entries = self.pairs()?;
            let external = ExternalRef { name: name.into(), dtype, dims, entries };
            let loaded = (self.load)(&external);
            let tensor = loaded.map_err(|e| self.error_at(at, format!("cannot load `{name}`: {e}")))?;
            if tensor.dtype() != dtype || tensor.dims() != external.dims {
                let message = format!(
                    "`{name}` was loaded as {}{:?}, declared as {dtype}{:?}",
                    tensor.dtype(),
                    tensor.dims(),
                    external.dims
                );
                return Err(self.error_at(at, message));
            }
            tensor
        } else {
            self.elements(at, dtype, &dims)?
        };
        Ok(Arc::new(tensor))
    }

    fn elements(&mut self, at: usize, dtype: DType, dims: &[usize]) -> Result<Tensor, TextError> {
        let (mut count, mut raw, mut packed, mut strings) = (0usize, Vec::new(), Vec::new(), Vec::new());
        self.list(b'{', b'}', |p| {
            count += 1;
            match dtype {
                DType::String => strings.push(p.bytes()?),
                _ if dtype.bits() < 8 => packed.push(p.small_int(dtype)?),
                _ => p.element(dtype, &mut raw)?,
            }
            Ok(())
        })?;
        let complex = matches!(dtype, DType::Complex64 | DType::Complex128);
        let wanted = dims.iter().try_fold(1 + usize::from(complex), |n, d| n.checked_mul(*d));
        if wanted != Some(count) {
            let wanted = wanted.map_or("too many".into(), |n| n.to_string());
            return Err(self.error_at(at, format!("{dtype}{dims:?} needs {wanted} numbers, found {count}")));
        }
        let made = match dtype {
            DType::String => Tensor::strings(dims, strings),
            _ if dtype.bits() < 8 => {
                Tensor::raw(dtype, dims, tensor::pack_bits(packed.into_iter(), dtype.bits()))
            }
            _ => Tensor::raw(dtype, dims, raw.into()),
        };
        made.map_err(|e| self.error_at(at, e.to_string()))
    }

    /// Appends the bytes of one element (of one part, for complex numbers).
    fn element(&mut self, dtype: DType, raw: &mut Vec<u8>) -> Result<(), TextError> {
        use DType::*;
        let decimal = self.token.kind != Kind::Int;
        match dtype {
            Float | Complex64 => raw.extend_from_slice(&self.float()?.to_le_bytes()),
            Double | Complex128 => raw.extend_from_slice(&self.double()?.to_le_bytes()),
            Float16 if decimal => raw.extend_from_slice(&f16::from_f64(self.double()?).to_le_bytes()),
            Bfloat16 if decimal => raw.extend_from_slice(&bf16::from_f64(self.double()?).to_le_bytes()),
            Uint64 => {
                let token = self.token;
                let x: u64 = token.text.parse().map_err(|_| self.unexpected("an unsigned integer"))?;
                self.bump()?;
                raw.extend_from_slice(&x.to_le_bytes());
            }
            _ => {
                let x = self.small_int(dtype)?;
                raw.extend_from_slice(&x.to_le_bytes()[..dtype.bits() / 8]);
            }
        }
        Ok(())
    }

    /// An integer in the range of a type; for floats, in the range of their bits.
    fn small_int(&mut self, dtype: DType) -> Result<i64, TextError> {
        let at = self.token.at;
        let x = self.int()?;
        let (lo, hi) = dtype.int_range().unwrap_or_else(|| (0, (1 << dtype.bits()) - 1));
        if x < lo || x > hi {
            return Err(self.error_at(at, format!("{x} is not between {lo} and {hi}, the range of {dtype}")));
        }
        Ok(x)
    }

    pub(super) fn at_float(&self) -> bool {
        match self.token.kind {
            Kind::Float | Kind::Int => true,
            Kind::Ident => is_float_word(self.token.text),
            _ => false,
        }
    }

    pub(super) fn float(&mut self) -> Result<f32, TextError> {
        self.parse_float(|x: f32| x.is_infinite())
    }

    fn double(&mut self) -> Result<f64, TextError> {
        self.parse_float(|x: f64| x.is_infinite())
    }

    fn parse_float<T: std::str::FromStr + Copy>(&mut self, infinite: fn(T) -> bool) -> Result<T, TextError> {
        let token = self.token;
        if !self.at_float() {
            return Err(self.unexpected("a number"));
        }
        let x: T = token.text.parse().map_err(|_| self.unexpected("a number"))?;
        if infinite(x) && token.text.bytes().any(|c| c.is_ascii_digit()) {
            return Err(self.error_at(token.at, format!("`{}` is too large", token.text)));
        }
        self.bump()?;
        Ok(x)
    }

    /// A string that is bytes.
    fn bytes(&mut self) -> Result<Bytes, TextError> {
        Ok(unescape_bytes(&self.string()?).into())
    }
}

/// True for the words with which a type starts.
pub(super) fn is_type_word(word: &str) -> bool {
    matches!(word, "seq" | "map" | "optional" | "sparse_tensor" | "opaque") || word.parse::<DType>().is_ok()
}

/// True for the words that are numbers.
pub(super) fn is_float_word(word: &str) -> bool {
    ["nan", "inf", "infinity"].iter().any(|w| word.eq_ignore_ascii_case(w))
}

/// The text of a string without its quotes: a backslash stands for the character after it.
pub(super) fn unquote(quoted: &str) -> String {
    let inner = quoted.get(1..quoted.len() - 1).unwrap_or_default();
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// First of the characters that stand for bytes which are not UTF-8, less the lowest such byte.
const BYTE_CHARS: u32 = 0xf_0000;

/// The bytes that a text from `escape_bytes` stands for.
pub(super) fn unescape_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c).checked_sub(BYTE_CHARS) {
            Some(byte @ 0x80..=0xff) => out.push(byte as u8),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// A text for any bytes, the same text for bytes that are UTF-8 (but for 128 private characters).
pub(super) fn escape_bytes(bytes: &[u8]) -> String {
    let stand_in = |b: &u8| char::from_u32(BYTE_CHARS + u32::from(*b)).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u32::from(c).checked_sub(BYTE_CHARS) {
                Some(0x80..=0xff) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(stand_in)),
                _ => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(stand_in));
    }
    out
}
