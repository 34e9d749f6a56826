//! Errors in text, with the place drawn.

use std::fmt;

/// Why a text is not a model, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong: lower case, no final period.
    pub message: String,
    excerpt: String,
    caret: usize,
}

/// Characters shown on either side of the place.
const WINDOW: usize = 60;

impl TextError {
    /// An error at a byte offset.
    pub(super) fn new(text: &str, at: usize, message: impl Into<String>) -> TextError {
        let at = text.floor_char_boundary(at.min(text.len()));
        let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let before = text[start..at].chars().count();
        let skipped = before.saturating_sub(WINDOW);
        let excerpt = line.chars().skip(skipped).take(2 * WINDOW);
        TextError {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            message: message.into(),
            // A tab would put the caret elsewhere.
            excerpt: excerpt.map(|c| if c.is_control() { ' ' } else { c }).collect(),
            caret: before - skipped,
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{}", self.message)?;
        writeln!(f, "{margin}--> line {}, column {}", self.line, self.column)?;
        writeln!(f, "{number} | {}", self.excerpt)?;
        write!(f, "{margin} | {}^", " ".repeat(self.caret))
    }
}

impl std::error::Error for TextError {}
