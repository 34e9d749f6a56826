//! The files behind a `--data` argument.

use super::DataError;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What a file holds, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Arrays by name.
    Npz,
    /// One array.
    Npy,
    /// One picture.
    Image,
}

/// The files of one argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Files {
    /// Their common kind.
    pub(crate) kind: Kind,
    /// In order.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether the argument was a file, which may hold many samples.
    pub(crate) alone: bool,
}

const READABLE: &str = "`.npz`, `.npy`, `.png` and `.jpg` files, and folders of them, can be read";
/// Folders deeper than this are passed over, so that links in a circle end.
const MAX_DEPTH: usize = 16;

/// Lists the files of an argument.
///
/// # Errors
/// If there are none, or they are of several kinds.
pub(crate) fn list(path: &Path) -> Result<Files, DataError> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => DataError::new(format!("calibration data `{shown}` does not exist")),
        _ => DataError::new(format!("calibration data `{shown}`: {e}")),
    })?;
    if !meta.is_dir() {
        let kind = kind_of(path).ok_or_else(|| {
            DataError::new(format!("calibration data `{shown}` is of no known kind")).help(READABLE)
        })?;
        return Ok(Files { kind, paths: vec![path.to_owned()], alone: true });
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found).map_err(|e| DataError::new(format!("calibration data `{shown}`: {e}")))?;
    let Some((kind, first)) = found.first().cloned() else {
        return Err(DataError::new(format!("folder `{shown}` holds no calibration data")).help(READABLE));
    };
    if let Some((_, other)) = found.iter().find(|(k, _)| *k != kind) {
        let message = format!(
            "folder `{shown}` holds different kinds of data: `{}` and `{}`",
            first.display(),
            other.display()
        );
        return Err(
            DataError::new(message).help("name the files to use, or move them into a folder of their own")
        );
    }
    Ok(Files { kind, paths: found.into_iter().map(|(_, p)| p).collect(), alone: false })
}

fn walk(dir: &Path, depth: usize, out: &mut Vec<(Kind, PathBuf)>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, depth + 1, out)?;
            }
        } else if let Some(kind) = kind_of(&path) {
            out.push((kind, path));
        }
    }
    Ok(())
}

fn kind_of(path: &Path) -> Option<Kind> {
    let extension = path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase();
    match extension.as_str() {
        "npz" => Some(Kind::Npz),
        "npy" => Some(Kind::Npy),
        "png" | "jpg" | "jpeg" => Some(Kind::Image),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::write;

    #[test]
    fn folders_are_listed_in_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/2.PNG", "b/10.jpg", "a.png", ".hidden.png", "notes.txt"] {
            write(&dir, name, b"");
        }
        let files = list(dir.path()).unwrap();
        let names: Vec<_> =
            files.paths.iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            (names, files.kind, files.alone),
            (vec!["a.png", "b/10.jpg", "b/2.PNG"], Kind::Image, false)
        );
        write(&dir, "c.npy", b"");
        assert!(list(dir.path()).unwrap_err().message.contains("different kinds"));
        assert!(list(&dir.path().join("notes.txt")).unwrap_err().message.contains("no known kind"));
        assert!(list(&dir.path().join("none")).unwrap_err().message.contains("does not exist"));
    }
}
