//! Byte pair encoding: neighbours are joined, the pair that stands first in the list of merges before all others.

use super::field::Object;
use super::model::{Vocabulary, bytes, known, vocabulary};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The model.
#[derive(Debug)]
pub(super) struct Bpe {
    vocabulary: Vocabulary,
    /// Of two tokens: the place of their merge in the list, and what it makes.
    merges: HashMap<(u32, u32), (usize, u32)>,
    unknown: Option<u32>,
    /// Stands in front of tokens that begin no word.
    prefix: String,
    /// Stands behind tokens that end a word.
    suffix: String,
    fuse_unknown: bool,
    byte_fallback: bool,
    ignore_merges: bool,
}

/// A token of a word that is being encoded; neighbours by position.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    before: Option<usize>,
    after: Option<usize>,
    is_alive: bool,
}

impl Bpe {
    /// # Errors
    /// If it is contradictory, or leaves something to chance.
    pub(super) fn read(o: &Object<'_>) -> Result<Bpe, String> {
        if o.get("dropout").as_f64().is_some_and(|p| p != 0.0) {
            return Err("its model drops merges at random (`dropout`)".into());
        }
        let vocabulary = vocabulary(o)?;
        let prefix = o.optional_text("continuing_subword_prefix")?.unwrap_or_default().to_owned();
        let mut merges = HashMap::new();
        for (rank, merge) in o.list("merges")?.iter().enumerate() {
            let (a, b) = pair(merge).ok_or_else(|| format!("merge {rank} is no pair of tokens"))?;
            let rest = b.strip_prefix(prefix.as_str()).unwrap_or(b);
            let ids = (known(&vocabulary, a)?, known(&vocabulary, b)?);
            merges.insert(ids, (rank, known(&vocabulary, &format!("{a}{rest}"))?));
        }
        let unknown = o.optional_text("unk_token")?;
        Ok(Bpe {
            merges,
            unknown: unknown.map(|t| known(&vocabulary, t)).transpose()?,
            prefix,
            suffix: o.optional_text("end_of_word_suffix")?.unwrap_or_default().to_owned(),
            fuse_unknown: o.flag("fuse_unk", false)?,
            byte_fallback: o.flag("byte_fallback", false)?,
            ignore_merges: o.flag("ignore_merges", false)?,
            vocabulary,
        })
    }

    /// Appends the tokens of a word. What is unknown has none if there is no token for it.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        match self.vocabulary.get(word) {
            Some(id) if self.ignore_merges => ids.push(*id),
            _ => ids.extend(self.merged(self.characters(word))),
        }
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token).copied()
    }

    /// The tokens of single characters.
    fn characters(&self, word: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        // The unknown token of a run of characters, put behind it.
        let mut pending = None;
        let mut characters = word.char_indices().peekable();
        while let Some((i, c)) = characters.next() {
            let before = if i > 0 { self.prefix.as_str() } else { "" };
            let behind = if characters.peek().is_none() { self.suffix.as_str() } else { "" };
            let text = format!("{before}{c}{behind}");
            if let Some(id) = self.vocabulary.get(&text) {
                ids.extend(pending.take());
                ids.push(*id);
            } else if let Some(known) = self.byte_fallback.then(|| bytes(&self.vocabulary, &text)).flatten() {
                ids.extend(known);
            } else if let Some(unknown) = self.unknown {
                if !self.fuse_unknown {
                    ids.extend(pending.take());
                }
                pending = Some(unknown);
            }
        }
        ids.extend(pending);
        ids
    }

    /// Joins pairs until there is none to join: the first in the list of merges first, of equals the leftmost.
    fn merged(&self, ids: Vec<u32>) -> Vec<u32> {
        let n = ids.len();
        let mut symbols: Vec<Symbol> = ids
            .into_iter()
            .enumerate()
            .map(|(i, id)| Symbol {
                id,
                before: i.checked_sub(1),
                after: (i + 1 < n).then_some(i + 1),
                is_alive: true,
            })
            .collect();
        let mut queue = BinaryHeap::new();
        let candidate = |symbols: &[Symbol], at: usize| {
            let next = symbols[at].after?;
            let (rank, made) = self.merges.get(&(symbols[at].id, symbols[next].id))?;
            Some(Reverse((*rank, at, *made)))
        };
        queue.extend((0..n).filter_map(|at| candidate(&symbols, at)));
        while let Some(Reverse((_, at, made))) = queue.pop() {
            let Some(next) = symbols[at].after.filter(|_| symbols[at].is_alive) else { continue };
            // The pair may have changed since it was queued.
            let now = self.merges.get(&(symbols[at].id, symbols[next].id));
            if now.is_none_or(|(_, id)| *id != made) {
                continue;
            }
            let after = symbols[next].after;
            symbols[next].is_alive = false;
            symbols[at] = Symbol { id: made, after, ..symbols[at] };
            if let Some(after) = after {
                symbols[after].before = Some(at);
            }
            queue.extend(symbols[at].before.and_then(|before| candidate(&symbols, before)));
            queue.extend(candidate(&symbols, at));
        }
        symbols.into_iter().filter(|s| s.is_alive).map(|s| s.id).collect()
    }
}

/// `"a b"` or `["a", "b"]`.
fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(list) => match &list[..] {
            [a, b] => a.as_str().zip(b.as_str()),
            _ => None,
        },
        _ => None,
    }
}
