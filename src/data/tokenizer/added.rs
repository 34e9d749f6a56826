//! Tokens that are found in the text before it is split into words, such as `[MASK]`.

use super::field::Object;
use super::normalizer::Normalizer;
use serde_json::Value;

/// The added tokens.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Found in the text as it is.
    raw: Vec<Token>,
    /// Found in the normalized text.
    normalized: Vec<Token>,
}

#[derive(Clone, Debug)]
struct Token {
    /// What is looked for.
    text: String,
    /// What stands in the file.
    name: String,
    id: u32,
    single_word: bool,
    left: bool,
    right: bool,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An added token.
    Token(u32),
    /// Normalized text between them, and whether the whole text begins with it.
    Text(String, bool),
}

impl Added {
    /// # Errors
    /// What is wrong with the list.
    pub(super) fn read(list: &Value, normalizer: &Normalizer) -> Result<Added, String> {
        let mut all = Added::default();
        let list = match list {
            Value::Null => return Ok(all),
            v => v.as_array().ok_or("`added_tokens` is no list")?,
        };
        for entry in list {
            let entry = Object::of(entry, "an added token")?;
            let name = entry.text("content")?.to_owned();
            let normalized = entry.flag("normalized", !entry.flag("special", false)?)?;
            let text = if normalized { normalizer.apply(&name)? } else { name.clone() };
            if text.is_empty() {
                continue;
            }
            let token = Token {
                text,
                name,
                id: entry.id("id")?,
                single_word: entry.flag("single_word", false)?,
                left: entry.flag("lstrip", false)?,
                right: entry.flag("rstrip", false)?,
            };
            if normalized { &mut all.normalized } else { &mut all.raw }.push(token);
        }
        Ok(all)
    }

    /// The number of a token.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.raw.iter().chain(&self.normalized).find(|t| t.name == name).map(|t| t.id)
    }

    /// Parts a text, and normalizes what is between added tokens.
    ///
    /// # Errors
    /// If the normalizer fails.
    pub(super) fn split(&self, text: &str, normalizer: &Normalizer) -> Result<Vec<Found>, String> {
        let mut out = Vec::new();
        for part in cut(text, &self.raw, true) {
            match part {
                Found::Text(text, first) => {
                    out.extend(cut(&normalizer.apply(&text)?, &self.normalized, first));
                }
                token => out.push(token),
            }
        }
        Ok(out)
    }
}

/// Cuts a text at tokens: the leftmost, and of several there the longest.
fn cut(text: &str, tokens: &[Token], first: bool) -> Vec<Found> {
    let mut out = Vec::new();
    let (mut begun, mut at) = (0, 0);
    while at < text.len() {
        let here = tokens.iter().filter(|t| text[at..].starts_with(&t.text));
        let Some(token) = here.max_by_key(|t| t.text.len()) else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        let (mut start, mut end) = (at, at + token.text.len());
        at = end;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let joined =
            text[..start].chars().next_back().is_some_and(is_word) || text[end..].starts_with(is_word);
        if token.single_word && joined {
            continue;
        }
        if token.left {
            start = text[..start].trim_end().len().max(begun);
        }
        if token.right {
            end = text.len() - text[end..].trim_start().len();
        }
        if begun < start {
            out.push(Found::Text(text[begun..start].to_owned(), first && begun == 0));
        }
        out.push(Found::Token(token.id));
        (begun, at) = (end, end);
    }
    if begun < text.len() {
        out.push(Found::Text(text[begun..].to_owned(), first && begun == 0));
    }
    out
}
