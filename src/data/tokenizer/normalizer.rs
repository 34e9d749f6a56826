//! What is done to the characters of a text before it is split.

use super::charsmap::Charsmap;
use super::field::{Object, unknown};
use super::splitter::Pattern;
use serde_json::Value;
use std::fmt::Write as _;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Steps, one after the other.
#[derive(Debug, Default)]
pub(super) struct Normalizer(Vec<Step>);

#[derive(Debug)]
enum Step {
    Bert { clean: bool, chinese: bool, accents: bool, lowercase: bool },
    ByteLevel,
    Lowercase,
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Precompiled(Charsmap),
    Prepend(String),
    Replace(Pattern, String),
    Strip { left: bool, right: bool },
    StripAccents,
}

impl Normalizer {
    /// # Errors
    /// If it is not known.
    pub(super) fn read(value: &Value) -> Result<Normalizer, String> {
        let mut steps = Vec::new();
        if !value.is_null() {
            read(value, &mut steps)?;
        }
        Ok(Normalizer(steps))
    }

    /// # Errors
    /// If a regular expression takes too long.
    pub(super) fn apply(&self, text: &str) -> Result<String, String> {
        self.0.iter().try_fold(text.to_owned(), |text, step| step.apply(text))
    }
}

fn read(value: &Value, steps: &mut Vec<Step>) -> Result<(), String> {
    let o = Object::of(value, "the normalizer")?;
    steps.push(match o.kind()? {
        "Sequence" => return o.list("normalizers")?.iter().try_for_each(|v| read(v, steps)),
        "BertNormalizer" => {
            let lowercase = o.flag("lowercase", true)?;
            Step::Bert {
                clean: o.flag("clean_text", true)?,
                chinese: o.flag("handle_chinese_chars", true)?,
                accents: o.flag("strip_accents", lowercase)?,
                lowercase,
            }
        }
        "ByteLevel" => Step::ByteLevel,
        "Lowercase" => Step::Lowercase,
        "NFC" => Step::Nfc,
        "NFD" => Step::Nfd,
        "NFKC" => Step::Nfkc,
        "NFKD" => Step::Nfkd,
        "Precompiled" => Step::Precompiled(Charsmap::read(o.text("precompiled_charsmap")?)?),
        "Prepend" => Step::Prepend(o.text("prepend")?.to_owned()),
        "Replace" => Step::Replace(Pattern::read(o.get("pattern"))?, o.text("content")?.to_owned()),
        "Strip" => Step::Strip { left: o.flag("strip_left", false)?, right: o.flag("strip_right", false)? },
        "StripAccents" => Step::StripAccents,
        other => return unknown("normalizer", other),
    });
    Ok(())
}

impl Step {
    fn apply(&self, text: String) -> Result<String, String> {
        Ok(match self {
            Step::Bert { clean, chinese, accents, lowercase } => {
                let text = if *clean { cleaned(&text) } else { text };
                let text = if *chinese { spaced(&text) } else { text };
                let mark = |c: &char| c.general_category() == GeneralCategory::NonspacingMark;
                let text = if *accents { text.nfd().filter(|c| !mark(c)).collect() } else { text };
                if *lowercase { lowercased(&text) } else { text }
            }
            Step::ByteLevel => byte_level(&text),
            Step::Lowercase => lowercased(&text),
            Step::Nfc => text.nfc().collect(),
            Step::Nfd => text.nfd().collect(),
            Step::Nfkc => text.nfkc().collect(),
            Step::Nfkd => text.nfkd().collect(),
            Step::Precompiled(map) => map.apply(&text),
            Step::Prepend(start) if !text.is_empty() => format!("{start}{text}"),
            Step::Prepend(_) => text,
            Step::Replace(pattern, by) => {
                let mut out = String::with_capacity(text.len());
                for (part, is_match) in pattern.parts(&text)? {
                    out.push_str(if is_match { by } else { part });
                }
                out
            }
            Step::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { &text };
                if *right { text.trim_end() } else { text }.to_owned()
            }
            Step::StripAccents => text.chars().filter(|c| !is_combining_mark(*c)).collect(),
        })
    }
}

/// Without control characters, and with plain spaces.
fn cleaned(text: &str) -> String {
    let is_space = |c: char| c.is_whitespace();
    let is_control = |c: char| {
        use GeneralCategory::{Control, Format, PrivateUse};
        let listed = matches!(c.general_category(), Control | Format | PrivateUse);
        c == '\u{fffd}' || listed && !matches!(c, '\t' | '\n' | '\r')
    };
    text.chars().filter(|c| !is_control(*c)).map(|c| if is_space(c) { ' ' } else { c }).collect()
}

/// With spaces around Chinese characters.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let _ = match is_chinese(c) {
            true => write!(out, " {c} "),
            false => write!(out, "{c}"),
        };
    }
    out
}

/// The blocks that BERT takes for Chinese.
fn is_chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

/// Character by character: the sigma at the end of a word becomes no other one than elsewhere.
fn lowercased(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Whether a character is punctuation to the splitters.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The bytes of a text, each as one visible character: those of Latin-1 that are visible stand for themselves, the
/// others for those from U+0100 on, in their order.
pub(super) fn byte_level(text: &str) -> String {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let character = |b: u8| match visible(b) {
        true => char::from(b),
        false => {
            let before = (0..b).filter(|b| !visible(*b)).count() as u32;
            char::from_u32(0x100 + before).expect("invariant: there are fewer than 256 of them")
        }
    };
    text.bytes().map(character).collect()
}
