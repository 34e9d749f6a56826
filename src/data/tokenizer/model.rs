//! From words to numbers.

use super::bpe::Bpe;
use super::field::{Object, id, unknown};
use super::unigram::Unigram;
use serde_json::Value;
use std::collections::HashMap;

/// Numbers of tokens.
pub(super) type Vocabulary = HashMap<String, u32>;

/// A model of words.
#[derive(Debug)]
pub(super) enum Model {
    WordPiece(WordPiece),
    WordLevel { vocabulary: Vocabulary, unknown: Option<u32> },
    Bpe(Bpe),
    Unigram(Unigram),
}

/// The longest token that fits, again and again.
#[derive(Debug)]
pub(super) struct WordPiece {
    vocabulary: Vocabulary,
    unknown: u32,
    /// Stands in front of tokens that begin no word.
    prefix: String,
    max_characters: usize,
}

impl Model {
    /// # Errors
    /// If it is not known, or contradicts itself.
    pub(super) fn read(value: &Value) -> Result<Model, String> {
        let o = Object::of(value, "its model")?;
        // Files of early versions do not say it.
        let kind = match o.optional_text("type")? {
            Some(kind) => kind,
            None if !o.get("merges").is_null() => "BPE",
            None if o.get("vocab").is_array() => "Unigram",
            None if !o.get("max_input_chars_per_word").is_null() => "WordPiece",
            None => "WordLevel",
        };
        match kind {
            "WordPiece" => {
                let vocabulary = vocabulary(&o)?;
                let token = o.text("unk_token")?;
                Ok(Model::WordPiece(WordPiece {
                    unknown: known(&vocabulary, token)?,
                    prefix: o.text("continuing_subword_prefix")?.to_owned(),
                    max_characters: o.count("max_input_chars_per_word")?,
                    vocabulary,
                }))
            }
            "WordLevel" => {
                let vocabulary = vocabulary(&o)?;
                let unknown = o.optional_text("unk_token")?.and_then(|t| vocabulary.get(t).copied());
                Ok(Model::WordLevel { vocabulary, unknown })
            }
            "BPE" => Bpe::read(&o).map(Model::Bpe),
            "Unigram" => Unigram::read(&o).map(Model::Unigram),
            other => unknown("model", other),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Model::WordPiece(_) => "WordPiece",
            Model::WordLevel { .. } => "WordLevel",
            Model::Bpe(_) => "BPE",
            Model::Unigram(_) => "Unigram",
        }
    }

    /// Appends the tokens of a word.
    ///
    /// # Errors
    /// If there is none for it, and none for what is unknown.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Model::WordPiece(model) => model.encode(word, ids),
            Model::WordLevel { vocabulary, unknown } => {
                ids.push(vocabulary.get(word).copied().or(*unknown).ok_or_else(|| no_token(word))?);
            }
            Model::Bpe(model) => model.encode(word, ids),
            Model::Unigram(model) => return model.encode(word, ids),
        }
        Ok(())
    }

    /// The number of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        match self {
            Model::WordPiece(WordPiece { vocabulary, .. }) | Model::WordLevel { vocabulary, .. } => {
                vocabulary.get(token).copied()
            }
            Model::Bpe(model) => model.id(token),
            Model::Unigram(model) => model.id(token),
        }
    }
}

impl WordPiece {
    fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let begun = ids.len();
        let mut start = 0;
        let mut piece = String::new();
        let mut is_known = word.chars().count() <= self.max_characters;
        while is_known && start < word.len() {
            let ends = word[start..].char_indices().map(|(i, c)| start + i + c.len_utf8()).rev();
            let mut longest = ends.filter_map(|end| {
                piece.clear();
                piece.push_str(if start > 0 { &self.prefix } else { "" });
                piece.push_str(&word[start..end]);
                self.vocabulary.get(&piece).map(|id| (end, *id))
            });
            match longest.next() {
                Some((end, id)) => {
                    ids.push(id);
                    start = end;
                }
                None => is_known = false,
            }
        }
        if !is_known {
            ids.truncate(begun);
            ids.push(self.unknown);
        }
    }
}

/// The table of tokens of a model.
pub(super) fn vocabulary(o: &Object<'_>) -> Result<Vocabulary, String> {
    let table = o.get("vocab").as_object().ok_or_else(|| o.wrong("vocab", "a table"))?;
    let entries = table.iter().map(|(token, n)| {
        id(n).map(|id| (token.clone(), id)).ok_or_else(|| format!("token `{token}` has no number"))
    });
    entries.collect()
}

/// The number of a token that must be in the vocabulary.
pub(super) fn known(vocabulary: &Vocabulary, token: &str) -> Result<u32, String> {
    vocabulary.get(token).copied().ok_or_else(|| format!("token `{token}` is not in the vocabulary"))
}

pub(super) fn no_token(word: &str) -> String {
    format!("the vocabulary has no token for `{word}`, and none for what is unknown")
}

/// The tokens of the bytes of a text, if there are any.
pub(super) fn bytes(vocabulary: &Vocabulary, text: &str) -> Option<Vec<u32>> {
    text.bytes().map(|b| vocabulary.get(&format!("<0x{b:02X}>")).copied()).collect()
}
