//! The split of a word into tokens whose scores have the greatest sum (T. Kudo, "Subword regularization", 2018).

use super::field::Object;
use super::model::{Vocabulary, bytes, no_token};

/// What an unknown character scores below the worst token, as in SentencePiece.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The model.
#[derive(Debug)]
pub(super) struct Unigram {
    vocabulary: Vocabulary,
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
    /// Bytes of the longest token.
    longest: usize,
    byte_fallback: bool,
}

/// The best split of the text up to a place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last token starts; `None` if no split ends here.
    start: Option<usize>,
    is_unknown: bool,
}

impl Unigram {
    /// # Errors
    /// If it contradicts itself.
    pub(super) fn read(o: &Object<'_>) -> Result<Unigram, String> {
        let (mut vocabulary, mut scores) = (Vocabulary::new(), Vec::new());
        for (id, entry) in (0_u32..).zip(o.list("vocab")?) {
            let parts = entry.as_array().map(Vec::as_slice);
            let found = match parts {
                Some([token, score]) => token.as_str().zip(score.as_f64()),
                _ => None,
            };
            let (token, score) = found.ok_or_else(|| format!("token {id} has no text and score"))?;
            vocabulary.insert(token.to_owned(), id);
            scores.push(score);
        }
        let unknown = if o.get("unk_id").is_null() { None } else { Some(o.id("unk_id")?) };
        if unknown.is_some_and(|id| id as usize >= scores.len()) {
            return Err(o.wrong("unk_id", "the number of a token"));
        }
        let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Unigram {
            longest: vocabulary.keys().map(String::len).max().unwrap_or(0),
            vocabulary,
            scores,
            unknown,
            unknown_score: worst - UNKNOWN_PENALTY,
            byte_fallback: o.flag("byte_fallback", false)?,
        })
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token).copied()
    }

    /// Appends the tokens of a word. Neighbours that are unknown are one.
    ///
    /// # Errors
    /// If there is no token for a part of it, and none for what is unknown.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let best = self.best(word);
        let mut parts: Vec<(usize, usize, bool)> = Vec::new();
        let mut end = word.len();
        while end > 0 {
            let Best { start, is_unknown, .. } = best[end];
            let start = start.expect("invariant: each character is a token or unknown");
            match parts.last_mut() {
                Some((s, _, true)) if is_unknown => *s = start,
                _ => parts.push((start, end, is_unknown)),
            }
            end = start;
        }
        for (start, end, _) in parts.into_iter().rev() {
            let text = &word[start..end];
            match self.vocabulary.get(text) {
                Some(id) => ids.push(*id),
                None => match self.byte_fallback.then(|| bytes(&self.vocabulary, text)).flatten() {
                    Some(known) => ids.extend(known),
                    None => ids.push(self.unknown.ok_or_else(|| no_token(text))?),
                },
            }
        }
        Ok(())
    }

    /// For each place of a text, the best split of what is before it.
    fn best(&self, text: &str) -> Vec<Best> {
        let mut best = vec![Best { score: 0.0, start: None, is_unknown: false }; text.len() + 1];
        for (start, first) in text.char_indices() {
            let before = best[start].score;
            let mut offer = |end: usize, score: f64, is_unknown: bool| {
                let score = before + score;
                if best[end].start.is_none() || score > best[end].score {
                    best[end] = Best { score, start: Some(start), is_unknown };
                }
            };
            let mut is_single = false;
            for (i, c) in text[start..].char_indices() {
                let end = start + i + c.len_utf8();
                if end - start > self.longest {
                    break;
                }
                if let Some(id) = self.vocabulary.get(&text[start..end]) {
                    offer(end, self.scores[*id as usize], Some(*id) == self.unknown);
                    is_single |= i == 0;
                }
            }
            if !is_single {
                offer(start + first.len_utf8(), self.unknown_score, true);
            }
        }
        best
    }
}
