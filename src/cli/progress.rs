//! Progress on a terminal: a spinner for passes, a bar for calibration.

use super::talk::Talk;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use squint::Progress;
use std::time::Duration;

/// Draws on standard error if that is a terminal, and does nothing otherwise.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that has not begun.
    pub(crate) fn new(talk: &Talk) -> Bar {
        let target = if talk.bars() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if talk.bars() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Bar { bar }
    }

    /// Removes it from the terminal.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn pass(&self, name: &str) {
        self.bar.set_style(ProgressStyle::default_spinner());
        self.bar.set_message(name.to_owned());
    }

    fn samples(&self, done: usize, total: usize) {
        if self.bar.length() != Some(total as u64) {
            let style = ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len} samples, {eta} left");
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            self.bar.set_length(total as u64);
        }
        self.bar.set_position(done as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
