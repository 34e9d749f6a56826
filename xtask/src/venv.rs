//! The Python environment of the oracle: its own, under the target folder, so that nothing of the user's is touched.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment's interpreter; makes the environment in `folder` unless it already holds what `requirements` lists.
///
/// A copy of the requirements, written last, marks a complete environment: an interrupted installation or a
/// changed list starts anew.
pub(crate) fn python(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    let python = if cfg!(windows) { folder.join("Scripts/python.exe") } else { folder.join("bin/python") };
    let wanted =
        fs::read(requirements).with_context(|| format!("cannot read `{}`", requirements.display()))?;
    let stamp = folder.join("requirements.txt");
    if python.exists() && fs::read(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(python);
    }
    eprintln!("making a Python environment in {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    let system = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let made = run(&system, ["-m".as_ref(), "venv".as_ref(), folder.as_os_str()]);
    made.context("the oracle needs Python 3.10 or newer with the `venv` module")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    let arguments = pip.iter().map(OsStr::new).chain([requirements.as_os_str()]);
    run(python.as_os_str(), arguments).context("cannot install the oracle's packages")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write `{}`", stamp.display()))?;
    Ok(python)
}

/// Runs a program to its end; an error if it cannot start or fails.
fn run<'a>(program: &OsStr, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let status = command.status().with_context(|| format!("cannot start `{}`", program.display()))?;
    if !status.success() {
        bail!("`{}` ended with {status}", program.display());
    }
    Ok(())
}
