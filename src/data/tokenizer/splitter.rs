//! From text to words, which the model encodes one by one.

use super::field::{Object, unknown};
use super::normalizer::{byte_level, is_punctuation};
use fancy_regex::Regex;
use serde_json::Value;

/// Splitting of words into smaller ones, in steps.
#[derive(Debug, Default)]
pub(super) struct Splitter(Vec<Step>);

/// A word, and whether the whole text begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) first: bool,
}

#[derive(Debug)]
enum Step {
    ByteLevel { prefix: bool, pattern: Option<Pattern> },
    Metaspace { mark: char, prepend: Prepend, split: bool },
    Split { pattern: Pattern, behavior: Behavior, invert: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepend {
    Always,
    First,
    Never,
}

/// What becomes of the text that a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// What is looked for.
#[derive(Debug)]
pub(super) enum Pattern {
    Text(String),
    Regex(Box<Regex>),
    Char(fn(char) -> bool),
}

/// How GPT-2 splits text (`encoder.py` of its publication).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const WORDS: &str = r"\w+|[^\w\s]+";

impl Splitter {
    /// # Errors
    /// If it is not known.
    pub(super) fn read(value: &Value) -> Result<Splitter, String> {
        let mut steps = Vec::new();
        if !value.is_null() {
            read(value, &mut steps)?;
        }
        Ok(Splitter(steps))
    }

    /// # Errors
    /// If a regular expression takes too long.
    pub(super) fn split(&self, text: Word) -> Result<Vec<Word>, String> {
        let mut words = vec![text];
        for step in &self.0 {
            let mut next = Vec::new();
            for word in words {
                step.split(word, &mut next)?;
            }
            words = next;
        }
        Ok(words)
    }
}

fn read(value: &Value, steps: &mut Vec<Step>) -> Result<(), String> {
    let o = Object::of(value, "the pre-tokenizer")?;
    let plain = |pattern, behavior| Step::Split { pattern, behavior, invert: false };
    match o.kind()? {
        "Sequence" => return o.list("pretokenizers")?.iter().try_for_each(|v| read(v, steps)),
        "BertPreTokenizer" => {
            steps.push(plain(Pattern::Char(char::is_whitespace), Behavior::Removed));
            steps.push(plain(Pattern::Char(is_punctuation), Behavior::Isolated));
        }
        "ByteLevel" => {
            let pattern = o.flag("use_regex", true)?.then(|| Pattern::regex(GPT2)).transpose()?;
            steps.push(Step::ByteLevel { prefix: o.flag("add_prefix_space", true)?, pattern });
        }
        "CharDelimiterSplit" => {
            let pattern = Pattern::Text(o.text("delimiter")?.to_owned());
            steps.push(plain(pattern, Behavior::Removed));
        }
        "Digits" => {
            let alone = o.flag("individual_digits", false)?;
            let behavior = if alone { Behavior::Isolated } else { Behavior::Contiguous };
            steps.push(plain(Pattern::Char(char::is_numeric), behavior));
        }
        "Metaspace" => steps.push(metaspace(o)?),
        "Punctuation" => {
            let behavior = o.optional_text("behavior")?.map_or(Ok(Behavior::Isolated), behavior)?;
            steps.push(plain(Pattern::Char(is_punctuation), behavior));
        }
        "Split" => steps.push(Step::Split {
            pattern: Pattern::read(o.get("pattern"))?,
            behavior: behavior(o.text("behavior")?)?,
            invert: o.flag("invert", false)?,
        }),
        "Whitespace" => {
            let pattern = Pattern::regex(WORDS)?;
            steps.push(Step::Split { pattern, behavior: Behavior::Removed, invert: true });
        }
        "WhitespaceSplit" => steps.push(plain(Pattern::Char(char::is_whitespace), Behavior::Removed)),
        other => return unknown("pre-tokenizer", other),
    }
    Ok(())
}

fn metaspace(o: Object<'_>) -> Result<Step, String> {
    let mut characters = o.text("replacement")?.chars();
    let (Some(mark), None) = (characters.next(), characters.next()) else {
        return Err(o.wrong("replacement", "one character"));
    };
    let prepend = match o.optional_text("prepend_scheme")? {
        // Of files that were written before there was a scheme.
        None if !o.flag("add_prefix_space", true)? => Prepend::Never,
        None | Some("always") => Prepend::Always,
        Some("first") => Prepend::First,
        Some("never") => Prepend::Never,
        Some(other) => return unknown("scheme of the pre-tokenizer", other),
    };
    Ok(Step::Metaspace { mark, prepend, split: o.flag("split", true)? })
}

fn behavior(name: &str) -> Result<Behavior, String> {
    Ok(match name {
        "Removed" | "removed" => Behavior::Removed,
        "Isolated" | "isolated" => Behavior::Isolated,
        "MergedWithPrevious" | "merged_with_previous" => Behavior::MergedWithPrevious,
        "MergedWithNext" | "merged_with_next" => Behavior::MergedWithNext,
        "Contiguous" | "contiguous" => Behavior::Contiguous,
        other => return unknown("behaviour of a pre-tokenizer", other),
    })
}

impl Step {
    fn split(&self, mut word: Word, out: &mut Vec<Word>) -> Result<(), String> {
        let first = word.first;
        match self {
            Step::ByteLevel { prefix, pattern } => {
                if *prefix && !word.text.starts_with(' ') {
                    word.text.insert(0, ' ');
                }
                let parts = match pattern {
                    Some(pattern) => pattern.parts(&word.text)?,
                    None => vec![(word.text.as_str(), false)],
                };
                push(parts.iter().map(|(text, _)| byte_level(text)), first, out);
            }
            Step::Metaspace { mark, prepend, split } => {
                let mut text = word.text.replace(' ', mark.encode_utf8(&mut [0; 4]));
                let wanted = *prepend == Prepend::Always || *prepend == Prepend::First && first;
                if wanted && !text.starts_with(*mark) {
                    text.insert(0, *mark);
                }
                let mut parts = vec![(text.as_str(), false)];
                if *split {
                    parts = Pattern::Text(mark.to_string()).parts(&text)?;
                }
                push(Behavior::MergedWithNext.apply(&text, &parts), first, out);
            }
            Step::Split { pattern, behavior, invert } => {
                let mut parts = pattern.parts(&word.text)?;
                parts.iter_mut().for_each(|(_, is_match)| *is_match ^= invert);
                push(behavior.apply(&word.text, &parts), first, out);
            }
        }
        Ok(())
    }
}

/// Appends words, of which the first may begin the text.
fn push<T: Into<String>>(words: impl IntoIterator<Item = T>, first: bool, out: &mut Vec<Word>) {
    let words = words.into_iter().map(Into::into).filter(|t: &String| !t.is_empty());
    out.extend(words.enumerate().map(|(i, text)| Word { text, first: first && i == 0 }));
}

impl Behavior {
    /// The words that parts of a text, of which some are matches, become.
    fn apply<'a>(self, text: &'a str, parts: &[(&'a str, bool)]) -> Vec<&'a str> {
        // Ends of words; a word begins where the one before it ends, and those that are removed are left out.
        let mut words: Vec<(usize, usize)> = Vec::new();
        let (mut at, mut before) = (0, None);
        for (part, is_match) in parts {
            let range = (at, at + part.len());
            at = range.1;
            let joins = match self {
                Behavior::Removed | Behavior::Isolated => false,
                Behavior::MergedWithPrevious => *is_match && before == Some(false),
                Behavior::MergedWithNext => !*is_match && before == Some(true),
                Behavior::Contiguous => before == Some(*is_match),
            };
            before = Some(*is_match);
            match words.last_mut() {
                Some(last) if joins => last.1 = range.1,
                _ if *is_match && self == Behavior::Removed => {}
                _ => words.push(range),
            }
        }
        words.into_iter().map(|(a, b)| &text[a..b]).collect()
    }
}

impl Pattern {
    /// # Errors
    /// If it is neither a text nor a regular expression that can be followed.
    pub(super) fn read(value: &Value) -> Result<Pattern, String> {
        let o = Object::of(value, "a pattern")?;
        match (o.optional_text("String")?, o.optional_text("Regex")?) {
            (Some(text), None) => Ok(Pattern::Text(text.to_owned())),
            (None, Some(regex)) => Pattern::regex(regex),
            _ => Err("a pattern is neither `String` nor `Regex`".into()),
        }
    }

    fn regex(text: &str) -> Result<Pattern, String> {
        let regex = Regex::new(text).map_err(|e| format!("its regular expression `{text}`: {e}"))?;
        Ok(Pattern::Regex(Box::new(regex)))
    }

    /// The whole text in parts, and whether each is a match.
    ///
    /// # Errors
    /// If a regular expression takes too long.
    pub(super) fn parts<'a>(&self, text: &'a str) -> Result<Vec<(&'a str, bool)>, String> {
        let mut matches: Vec<(usize, usize)> = Vec::new();
        match self {
            Pattern::Text(t) if t.is_empty() => {}
            Pattern::Text(t) => matches.extend(text.match_indices(t.as_str()).map(|(i, m)| (i, i + m.len()))),
            Pattern::Char(is) => matches.extend(text.match_indices(*is).map(|(i, m)| (i, i + m.len()))),
            Pattern::Regex(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|e| format!("the regular expression `{regex}`: {e}"))?;
                    matches.push((found.start(), found.end()));
                }
            }
        }
        let (mut parts, mut at) = (Vec::new(), 0);
        for (start, end) in matches.into_iter().filter(|(a, b)| a < b) {
            if at < start {
                parts.push((&text[at..start], false));
            }
            parts.push((&text[start..end], true));
            at = end;
        }
        if at < text.len() {
            parts.push((&text[at..], false));
        }
        Ok(parts)
    }
}
