//! Where things are, and building the binary under test with the cargo that runs this program.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("invariant: xtask lies in a folder of the repository")
}

/// Cargo's target folder, wherever the user's settings put it.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_slice(&output).context("cannot read cargo's metadata")?;
    let folder = metadata["target_directory"].as_str().context("cargo's metadata names no target folder")?;
    Ok(folder.into())
}

/// Builds `squint` (`options` choose the profile) and returns the binary that cargo reports.
pub(crate) fn squint(options: &[&str]) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--package", "squint", "--bin", "squint"];
    arguments.extend(["--message-format", "json-render-diagnostics"]);
    arguments.extend(options);
    let output = cargo(&arguments)?;
    executable(&output, "squint").context("cargo built `squint` but reported no executable")
}

/// Builds the benchmark `observing` and returns its binary.
pub(crate) fn observing() -> Result<PathBuf> {
    let arguments = ["bench", "--package", "squint", "--bench", "observing", "--no-run"];
    let output = cargo(&[&arguments[..], &["--message-format", "json-render-diagnostics"]].concat())?;
    executable(&output, "observing").context("cargo built `observing` but reported no executable")
}

/// The executable of a target in cargo's stream of JSON messages: building a benchmark builds the package's binaries,
/// too, in any order.
fn executable(messages: &[u8], target: &str) -> Option<PathBuf> {
    let lines = messages.split(|&byte| byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let of_target = messages.filter(|message| message["target"]["name"] == target);
    of_target.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

/// Runs cargo in the repository and returns its standard output; its messages go to the terminal.
fn cargo(arguments: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(repository()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_other_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"squint"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"observing"},"executable":"/t/release/deps/observing-1"}
{"reason":"compiler-artifact","target":{"name":"squint"},"executable":"/t/release/squint"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages, "squint"), Some(PathBuf::from("/t/release/squint")));
        assert_eq!(executable(messages, "observing"), Some(PathBuf::from("/t/release/deps/observing-1")));
        assert_eq!(executable(b"", "squint"), None);
    }
}
