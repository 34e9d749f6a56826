//! What is said on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// How much is said.
pub(crate) struct Talk {
    /// Nothing but errors.
    pub(crate) quiet: bool,
    /// Everything.
    pub(crate) verbose: bool,
}

/// Notes beyond this number are only counted, unless everything is wanted.
const MAX_NOTES: usize = 10;

impl Talk {
    /// Talk as the flags say.
    pub(crate) fn new(quiet: bool, verbose: bool) -> Talk {
        Talk { quiet, verbose }
    }

    /// Whether bars may be drawn.
    pub(crate) fn bars(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Says something, unless silence is wanted. That nobody listens is no reason to fail.
    pub(crate) fn say(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Says something only if everything is wanted.
    pub(crate) fn detail(&self, text: impl Display) {
        if self.verbose {
            self.say(text);
        }
    }

    /// Passes notes on.
    pub(crate) fn notes<N: Display>(&self, notes: impl IntoIterator<Item = N>) {
        let mut left_out = 0;
        for (i, note) in notes.into_iter().enumerate() {
            if i < MAX_NOTES || self.verbose {
                self.say(format_args!("note: {note}"));
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 {
            self.say(format_args!("note: {left_out} more; `--verbose` shows them"));
        }
    }
}
