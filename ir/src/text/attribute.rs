//! The grammar of attribute values.

use super::TextError;
use super::ast::{AttributeValue, GraphText};
use super::lexer::Kind;
use super::literal::unescape_bytes;
use super::parse::Parser;
use super::print_value::attribute_kind;
use crate::{AttrValue, Bytes, Tensor, Type};
use std::sync::Arc;

/// One value of an attribute, which may be an element of a list.
enum Single {
    Int(i64, f32),
    Float(f32),
    String(Bytes),
    Tensor(Arc<Tensor>),
    Graph(Box<GraphText>),
    Type(Type),
}

impl Parser<'_, '_> {
    /// `(':' kind)? '=' value`
    pub(super) fn attribute_value(&mut self) -> Result<AttributeValue, TextError> {
        let mut kind = 0;
        if self.eat(b':')? {
            kind =
                attribute_kind(self.token.text).ok_or_else(|| self.unexpected("the kind of an attribute"))?;
            self.bump()?;
        }
        self.expect(b'=')?;
        let at = self.token.at;
        if self.eat(b'@')? {
            let name = self.name()?.text;
            return Ok(AttributeValue::Plain(AttrValue::Reference { name, kind }));
        }
        let value = if self.at(b'[') {
            let mut all = Vec::new();
            self.list(b'[', b']', |p| {
                all.push(p.single(kind == FLOATS)?);
                Ok(())
            })?;
            self.attribute_list(at, all, kind)?
        } else {
            single_value(self.single(kind == FLOAT)?)
        };
        let found = kind_of(&value);
        if kind != 0 && kind != found {
            return Err(self.error_at(at, "the value is not of the kind that is declared"));
        }
        Ok(value)
    }

    fn single(&mut self, float: bool) -> Result<Single, TextError> {
        let at = self.token.at;
        match self.token.kind {
            Kind::Int => {
                let as_float = self.token.text.parse().unwrap_or(f32::NAN);
                if float { Ok(Single::Float(self.float()?)) } else { Ok(Single::Int(self.int()?, as_float)) }
            }
            Kind::Str => {
                let text = self.string()?;
                // Only our own printer quotes the name of a graph here.
                if self.at(b'(') {
                    return Ok(Single::Graph(Box::new(self.graph_after(text)?)));
                }
                Ok(Single::String(unescape_bytes(&text).into()))
            }
            _ if self.at_type() => {
                let ty = self.ty()?;
                if !self.at(b'{') && !self.at(b'=') && !matches!(self.token.kind, Kind::Ident | Kind::Str) {
                    return Ok(Single::Type(ty));
                }
                let name = match self.token.kind {
                    Kind::Ident | Kind::Str => self.name()?.text,
                    _ => String::new(),
                };
                self.eat(b'=')?;
                Ok(Single::Tensor(self.tensor(at, &name, Some(&ty))?))
            }
            _ if self.at_float() => Ok(Single::Float(self.float()?)),
            Kind::Ident => Ok(Single::Graph(Box::new(self.graph()?))),
            _ => Err(self.unexpected("the value of an attribute")),
        }
    }

    fn attribute_list(&self, at: usize, all: Vec<Single>, kind: i32) -> Result<AttributeValue, TextError> {
        let mixed = || self.error_at(at, "the values of a list must be of one kind");
        macro_rules! all_of {
            ($list:ident, $($pattern:pat => $value:expr),+) => {{
                let value = |v| match v { $($pattern => Some($value),)+ _ => None };
                let values: Option<Vec<_>> = all.into_iter().map(value).collect();
                AttributeValue::Plain(AttrValue::$list(values.ok_or_else(mixed)?))
            }};
        }
        let floats = all.iter().any(|v| matches!(v, Single::Float(_)));
        Ok(match all.first() {
            Some(Single::Int(..) | Single::Float(_)) if floats => {
                all_of!(Floats, Single::Float(x) => x, Single::Int(_, x) => x)
            }
            Some(Single::Int(..)) => all_of!(Ints, Single::Int(x, _) => x),
            Some(Single::String(_)) => all_of!(Strings, Single::String(x) => x),
            Some(Single::Tensor(_)) => all_of!(Tensors, Single::Tensor(x) => x),
            Some(Single::Type(_)) => all_of!(Types, Single::Type(x) => x),
            Some(Single::Float(_)) => return Err(mixed()),
            Some(Single::Graph(_)) => {
                let graphs: Option<Vec<GraphText>> =
                    all.into_iter().map(|v| if let Single::Graph(g) = v { Some(*g) } else { None }).collect();
                AttributeValue::Graphs(graphs.ok_or_else(mixed)?)
            }
            None => AttributeValue::Plain(match kind {
                FLOATS => AttrValue::Floats(Vec::new()),
                INTS => AttrValue::Ints(Vec::new()),
                STRINGS => AttrValue::Strings(Vec::new()),
                TENSORS => AttrValue::Tensors(Vec::new()),
                GRAPHS => AttrValue::Graphs(Vec::new()),
                TYPES => AttrValue::Types(Vec::new()),
                0 => return Err(self.error_at(at, "an empty list needs its kind, as in `axes: ints = []`")),
                _ => return Err(self.error_at(at, "a list is not of the kind that is declared")),
            }),
        })
    }
}

// `AttributeProto.AttributeType`.
const FLOAT: i32 = 1;
const FLOATS: i32 = 6;
const INTS: i32 = 7;
const STRINGS: i32 = 8;
const TENSORS: i32 = 9;
const GRAPHS: i32 = 10;
const TYPES: i32 = 14;

fn single_value(single: Single) -> AttributeValue {
    AttributeValue::Plain(match single {
        Single::Int(x, _) => AttrValue::Int(x),
        Single::Float(x) => AttrValue::Float(x),
        Single::String(x) => AttrValue::String(x),
        Single::Tensor(x) => AttrValue::Tensor(x),
        Single::Type(x) => AttrValue::Type(x),
        Single::Graph(x) => return AttributeValue::Graph(x),
    })
}

fn kind_of(value: &AttributeValue) -> i32 {
    match value {
        AttributeValue::Graph(_) => 5,
        AttributeValue::Graphs(_) => GRAPHS,
        AttributeValue::Plain(v) => match v {
            AttrValue::Float(_) => FLOAT,
            AttrValue::Int(_) => 2,
            AttrValue::String(_) => 3,
            AttrValue::Tensor(_) => 4,
            AttrValue::Graph(_) => 5,
            AttrValue::Floats(_) => FLOATS,
            AttrValue::Ints(_) => INTS,
            AttrValue::Strings(_) => STRINGS,
            AttrValue::Tensors(_) => TENSORS,
            AttrValue::Graphs(_) => GRAPHS,
            AttrValue::Type(_) => 13,
            AttrValue::Types(_) => TYPES,
            AttrValue::Reference { kind, .. } => *kind,
            AttrValue::Opaque(_) => 0,
        },
    }
}
