//! Texts to token numbers, as a `tokenizer.json` of the Hugging Face `tokenizers` library says.
//!
//! The crate of that library is not used: it switches on features of crates that the embedded executor is built from,
//! and most of it is for training. What is here reads the file and encodes single texts: added tokens are found, the
//! rest is normalized, split into words, and each word is encoded by the model; special tokens are put around,
//! and the result is cut and padded. Every part that is not known is refused by its name: other numbers than the
//! application's would calibrate another model.
//!
//! | file | holds |
//! |---|---|
//! | `field.rs` | reading of JSON objects |
//! | `added.rs` | tokens that are found in the text before all else |
//! | `normalizer.rs` `charsmap.rs` | what is done to the characters |
//! | `splitter.rs` | from text to words |
//! | `model.rs` `bpe.rs` `unigram.rs` | from words to numbers |
//! | `frame.rs` | special tokens, truncation, padding |

mod added;
mod bpe;
mod charsmap;
mod field;
mod frame;
mod model;
mod normalizer;
mod splitter;
#[cfg(test)]
mod tests;
mod unigram;

use added::{Added, Found};
use field::Object;
use frame::{Frame, Padding, Truncation};
use model::Model;
use normalizer::Normalizer;
use serde_json::Value;
use splitter::{Splitter, Word};
use std::path::Path;

/// Longest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// A tokenizer.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    added: Added,
    normalizer: Normalizer,
    splitter: Splitter,
    model: Model,
    frame: Frame,
    truncation: Option<Truncation>,
    padding: Option<Padding>,
}

/// A text as numbers; the three lists are equally long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoding {
    /// Numbers of the tokens.
    pub(crate) ids: Vec<u32>,
    /// Which of several texts each token belongs to.
    pub(crate) types: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub(crate) mask: Vec<u32>,
}

/// What the model that takes the tokens asks for, beyond what the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// At most so many tokens.
    pub(crate) max: Option<usize>,
    /// Exactly so many tokens.
    pub(crate) exact: Option<usize>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with the file, without its name.
    pub(crate) fn open(path: &Path) -> Result<Tokenizer, String> {
        let length = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
        if length > MAX_FILE {
            return Err(format!("has {length} bytes; at most {MAX_FILE} are read"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
        Tokenizer::read(&text)
    }

    fn read(text: &str) -> Result<Tokenizer, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("is no JSON ({e})"))?;
        let file = Object::of(&json, "the file").map_err(|_| "is no tokenizer: it is no JSON object")?;
        let unsupported = |what: String| format!("cannot be followed: {what}");
        let read = || {
            let normalizer = Normalizer::read(file.get("normalizer"))?;
            Ok(Tokenizer {
                added: Added::read(file.get("added_tokens"), &normalizer)?,
                splitter: Splitter::read(file.get("pre_tokenizer"))?,
                model: Model::read(file.get("model"))?,
                frame: Frame::read(file.get("post_processor"))?,
                truncation: Truncation::read(file.get("truncation"))?,
                padding: Padding::read(file.get("padding"))?,
                normalizer,
            })
        };
        read().map_err(unsupported)
    }

    /// The kind of its model, for people.
    pub(crate) fn kind(&self) -> &'static str {
        self.model.kind()
    }

    /// The most tokens that a text becomes, if there is a bound.
    pub(crate) fn max_length(&self, bounds: Bounds) -> Option<usize> {
        let own = self.truncation.as_ref().map(|t| t.max_length);
        [bounds.max.or(own), bounds.exact].into_iter().flatten().min()
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// If the vocabulary has no token for a part of it, or it does not fit the bounds.
    pub(crate) fn encode(&self, text: &str, bounds: Bounds) -> Result<Encoding, String> {
        let mut ids = Vec::new();
        for found in self.added.split(text, &self.normalizer)? {
            match found {
                Found::Token(id) => ids.push(id),
                Found::Text(text, first) => {
                    for word in self.splitter.split(Word { text, first })? {
                        self.model.encode(&word.text, &mut ids)?;
                    }
                }
            }
        }
        if let Some(max) = self.max_length(bounds) {
            let n = self.frame.len();
            let room = max.checked_sub(n).ok_or_else(|| {
                format!("a length of {max} leaves no room for the {n} special tokens around each text")
            })?;
            frame::truncate(&mut ids, room, self.truncation.as_ref().is_some_and(|t| t.left));
        }
        let mut encoding = self.frame.put(&ids);
        self.pad(&mut encoding, bounds)?;
        Ok(encoding)
    }

    fn pad(&self, encoding: &mut Encoding, bounds: Bounds) -> Result<(), String> {
        let n = encoding.ids.len();
        let wanted = match (bounds.exact, &self.padding) {
            (Some(exact), _) => exact,
            // What is cut to a length is not padded beyond it.
            (None, Some(p)) => bounds.max.map_or(p.length(n), |max| p.length(n).min(max.max(n))),
            (None, None) => n,
        };
        if wanted == n {
            return Ok(());
        }
        let guessed = || {
            let id = ["[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"].iter().find_map(|t| self.id(t))?;
            Some(Padding::of(id))
        };
        let padding = self.padding.clone().or_else(guessed);
        let padding = padding.ok_or_else(|| {
            format!(
                "the model takes {wanted} tokens, a text has {n}, and the tokenizer has no token to pad with"
            )
        })?;
        padding.put(encoding, wanted);
        Ok(())
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.added.id(token).or_else(|| self.model.id(token))
    }
}
