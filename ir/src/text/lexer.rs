//! Tokens.

use super::TextError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[A-Za-z_][A-Za-z0-9_]*`; `nan` and `inf` among them.
    Ident,
    /// A string with its quotes.
    Str,
    /// Digits, perhaps with a minus sign.
    Int,
    /// A number with a decimal point or an exponent, or one of `-nan`, `-inf`.
    Float,
    /// One of `()[]{}<>,=:.?@`.
    Punct(u8),
    /// `=>`.
    Arrow,
    /// The end of the text.
    End,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Byte offset.
    pub(super) at: usize,
}

impl Token<'_> {
    /// The token as messages call it.
    pub(super) fn describe(&self) -> String {
        match self.kind {
            Kind::End => "the end of the text".into(),
            Kind::Str => "a string".into(),
            _ => format!("`{}`", self.text),
        }
    }
}

/// Splits a text into tokens, skipping blanks and comments.
pub(super) struct Lexer<'a> {
    pub(super) text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { text, at: 0 }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token<'a>, TextError> {
        self.skip_blanks();
        let rest = &self.text.as_bytes()[self.at..];
        let (kind, len) = match rest.first() {
            None => (Kind::End, 0),
            Some(b'"') => (Kind::Str, self.string(rest)?),
            Some(b'0'..=b'9') => number(rest),
            Some(b'-') => self.negative(rest)?,
            Some(c) if is_word_start(*c) => (Kind::Ident, word(rest)),
            Some(b'=') if rest.get(1) == Some(&b'>') => (Kind::Arrow, 2),
            Some(c) if b"()[]{}<>,=:.?@".contains(c) => (Kind::Punct(*c), 1),
            Some(_) => {
                let c = self.text[self.at..].chars().next().unwrap_or_default();
                return Err(self.error(format!("unexpected character `{}`", c.escape_default())));
            }
        };
        let token = Token { kind, text: &self.text[self.at..self.at + len], at: self.at };
        self.at += len;
        Ok(token)
    }

    fn skip_blanks(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(c) = bytes.get(self.at) {
            if *c == b'#' {
                self.at += bytes[self.at..].iter().position(|c| *c == b'\n').unwrap_or(bytes.len() - self.at);
            } else if c.is_ascii_whitespace() || *c == 0x0b {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn string(&self, rest: &[u8]) -> Result<usize, TextError> {
        let mut i = 1;
        loop {
            match rest.get(i) {
                Some(b'"') => return Ok(i + 1),
                Some(b'\\') => i += 2,
                Some(_) => i += 1,
                None => return Err(self.error("the string that starts here has no end")),
            }
        }
    }

    fn negative(&self, rest: &[u8]) -> Result<(Kind, usize), TextError> {
        match rest.get(1) {
            Some(b'0'..=b'9') => {
                let (kind, len) = number(&rest[1..]);
                Ok((kind, len + 1))
            }
            Some(c) if is_word_start(*c) => Ok((Kind::Float, word(&rest[1..]) + 1)),
            _ => Err(self.error("expected a number after `-`")),
        }
    }

    fn error(&self, message: impl Into<String>) -> TextError {
        TextError::new(self.text, self.at, message)
    }
}

/// True if a name needs no quotes by its characters.
pub(super) fn is_identifier(name: &str) -> bool {
    name.bytes().next().is_some_and(is_word_start) && word(name.as_bytes()) == name.len()
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_'
}

fn word(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count()
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|c| c.is_ascii_digit()).count()
}

/// Digits, at most one point, and an exponent.
fn number(bytes: &[u8]) -> (Kind, usize) {
    let mut len = digits(bytes);
    let mut kind = Kind::Int;
    if bytes.get(len) == Some(&b'.') {
        kind = Kind::Float;
        len += 1 + digits(&bytes[len + 1..]);
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        kind = Kind::Float;
        len += 1;
        len += usize::from(matches!(bytes.get(len), Some(b'+' | b'-')));
        len += digits(&bytes[len..]);
    }
    (kind, len)
}
