//! The few command-line options that tasks take.

use anyhow::{Result, bail};
use std::path::PathBuf;

/// Options still to be claimed by a task.
pub(crate) struct Args(Vec<String>);

impl Args {
    /// Wraps what follows the task's name.
    pub(crate) fn new(arguments: Vec<String>) -> Self {
        Self(arguments)
    }

    /// Whether the switch `name` is present; claims it.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|a| a == name);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// The value after `name`, if present; claims both. An error if the value is missing.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.0.iter().position(|a| a == name) else { return Ok(None) };
        if at + 1 == self.0.len() {
            bail!("`{name}` needs a value");
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    /// The path after `name`, made absolute against the current directory.
    pub(crate) fn path(&mut self, name: &str) -> Result<Option<PathBuf>> {
        self.value(name)?.map(|p| Ok(std::path::absolute(p)?)).transpose()
    }

    /// An error if anything was left unclaimed.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.first() {
            Some(argument) => bail!("unknown argument `{argument}`; see `cargo xtask help`"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(|w| w.to_string()).collect())
    }

    #[test]
    fn options_are_claimed_in_any_order() {
        let mut a = args(&["--zoo", "z", "--quick"]);
        assert!(a.flag("--quick"));
        assert!(!a.flag("--quick"));
        assert_eq!(a.value("--zoo").unwrap().as_deref(), Some("z"));
        a.finish().unwrap();
    }

    #[test]
    fn a_missing_value_and_a_stray_word_are_errors() {
        assert!(args(&["--zoo"]).value("--zoo").is_err());
        assert!(args(&["--qick"]).finish().unwrap_err().to_string().contains("`--qick`"));
    }
}
