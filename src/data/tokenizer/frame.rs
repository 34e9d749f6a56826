//! What is around the tokens of a text: special tokens, and padding; and how long it may be.

use super::Encoding;
use super::field::{Object, id, unknown};
use serde_json::Value;

/// Longest padding, so that a damaged file takes no memory without bound.
const MAX_LENGTH: usize = 1 << 20;

/// Special tokens before and behind a text.
#[derive(Debug, Default)]
pub(super) struct Frame {
    before: Vec<Token>,
    behind: Vec<Token>,
    /// Type of the text itself.
    kind: u32,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    id: u32,
    kind: u32,
}

/// The greatest length.
#[derive(Debug)]
pub(super) struct Truncation {
    pub(super) max_length: usize,
    /// Whether the beginning is cut off instead of the end.
    pub(super) left: bool,
}

/// How short texts are filled up.
#[derive(Clone, Debug)]
pub(super) struct Padding {
    /// `None`: no further than to a multiple.
    fixed: Option<usize>,
    multiple: usize,
    left: bool,
    id: u32,
    kind: u32,
}

impl Frame {
    /// # Errors
    /// If it is not known.
    pub(super) fn read(value: &Value) -> Result<Frame, String> {
        let mut frame = Frame::default();
        if !value.is_null() {
            frame.wrap(value)?;
        }
        Ok(frame)
    }

    fn wrap(&mut self, value: &Value) -> Result<(), String> {
        let o = Object::of(value, "the post-processor")?;
        match o.kind()? {
            "Sequence" => return o.list("processors")?.iter().try_for_each(|v| self.wrap(v)),
            // It moves places within the text, which are of no interest here.
            "ByteLevel" => {}
            "BertProcessing" | "RobertaProcessing" => {
                let special = |key: &str| {
                    let entry = o.get(key).get(1).and_then(id);
                    entry.ok_or_else(|| o.wrong(key, "a token and its number"))
                };
                self.before.insert(0, Token { id: special("cls")?, kind: 0 });
                self.behind.push(Token { id: special("sep")?, kind: 0 });
                self.kind = 0;
            }
            "TemplateProcessing" => self.template(o)?,
            other => return unknown("post-processor", other),
        }
        Ok(())
    }

    fn template(&mut self, o: Object<'_>) -> Result<(), String> {
        let (mut before, mut behind, mut seen) = (Vec::new(), Vec::new(), false);
        for piece in o.list("single")? {
            let piece = Object::of(piece, "a piece of the template")?;
            if let Some(text) = piece.get("Sequence").as_object() {
                if seen || text.get("id").and_then(Value::as_str) != Some("A") {
                    return Err("its template for one text has none or several".into());
                }
                self.kind = text.get("type_id").and_then(id).unwrap_or(0);
                seen = true;
                continue;
            }
            let special = Object::of(piece.get("SpecialToken"), "a special token of the template")?;
            let (name, kind) = (special.text("id")?, special.id("type_id")?);
            let ids = o.get("special_tokens").get(name).and_then(|t| t["ids"].as_array());
            let ids = ids.and_then(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>());
            let ids = ids.ok_or_else(|| format!("its template has no numbers for `{name}`"))?;
            let side = if seen { &mut behind } else { &mut before };
            side.extend(ids.into_iter().map(|id| Token { id, kind }));
        }
        if !seen {
            return Err("its template for one text has none or several".into());
        }
        before.append(&mut self.before);
        self.before = before;
        self.behind.append(&mut behind);
        Ok(())
    }

    /// Number of special tokens.
    pub(super) fn len(&self) -> usize {
        self.before.len() + self.behind.len()
    }

    /// Puts them around the tokens of a text.
    pub(super) fn put(&self, ids: &[u32]) -> Encoding {
        let text = ids.iter().map(|id| Token { id: *id, kind: self.kind });
        let all: Vec<Token> =
            self.before.iter().copied().chain(text).chain(self.behind.iter().copied()).collect();
        Encoding {
            ids: all.iter().map(|t| t.id).collect(),
            types: all.iter().map(|t| t.kind).collect(),
            mask: vec![1; all.len()],
        }
    }
}

/// Cuts tokens to a number.
pub(super) fn truncate(ids: &mut Vec<u32>, room: usize, left: bool) {
    if left && ids.len() > room {
        ids.drain(..ids.len() - room);
    }
    ids.truncate(room);
}

impl Truncation {
    /// # Errors
    /// If it is damaged.
    pub(super) fn read(value: &Value) -> Result<Option<Truncation>, String> {
        if value.is_null() {
            return Ok(None);
        }
        let o = Object::of(value, "the truncation")?;
        Ok(Some(Truncation {
            max_length: o.count("max_length")?,
            left: o.optional_text("direction")? == Some("Left"),
        }))
    }
}

impl Padding {
    /// # Errors
    /// If it is damaged.
    pub(super) fn read(value: &Value) -> Result<Option<Padding>, String> {
        if value.is_null() {
            return Ok(None);
        }
        let o = Object::of(value, "the padding")?;
        let fixed = match o.get("strategy") {
            Value::Object(strategy) => {
                let length = strategy.get("Fixed").and_then(Value::as_u64).map(|n| n as usize);
                Some(length.filter(|n| *n <= MAX_LENGTH).ok_or_else(|| o.wrong("strategy", "known"))?)
            }
            _ => None,
        };
        let multiple = if o.get("pad_to_multiple_of").is_null() { 1 } else { o.count("pad_to_multiple_of")? };
        Ok(Some(Padding {
            fixed,
            multiple: multiple.clamp(1, MAX_LENGTH),
            left: o.text("direction")? == "Left",
            id: o.id("pad_id")?,
            kind: o.id("pad_type_id")?,
        }))
    }

    /// On the right, with this token.
    pub(super) fn of(id: u32) -> Padding {
        Padding { fixed: None, multiple: 1, left: false, id, kind: 0 }
    }

    /// The length that `n` tokens are brought to.
    pub(super) fn length(&self, n: usize) -> usize {
        self.fixed.unwrap_or(n).next_multiple_of(self.multiple).max(n)
    }

    /// Fills up to a length.
    pub(super) fn put(&self, encoding: &mut Encoding, length: usize) {
        let Encoding { ids, types, mask } = encoding;
        for (list, filler) in [(ids, self.id), (types, self.kind), (mask, 0)] {
            let missing = length.saturating_sub(list.len());
            let at = if self.left { 0 } else { list.len() };
            list.splice(at..at, std::iter::repeat_n(filler, missing));
        }
    }
}
