//! The files behind a `--data` argument.

use super::DataError;
use super::tensor_pb::is_set;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What a file holds, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// NumPy arrays by name.
    Npz,
    /// Tensors by name.
    Safetensors,
    /// A folder with an encoded ONNX tensor for each input.
    TestDataSet,
    /// One array.
    Npy,
    /// One encoded ONNX tensor.
    Pb,
    /// Bare numbers.
    Raw,
    /// One picture.
    Image,
    /// Texts on lines.
    Text,
}

impl Kind {
    /// Whether it may hold data for several inputs.
    pub(crate) fn has_names(self) -> bool {
        matches!(self, Kind::Npz | Kind::Safetensors | Kind::TestDataSet | Kind::Text)
    }
}

/// The files of one argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Files {
    /// Their common kind.
    pub(crate) kind: Kind,
    /// In order.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether the argument was a file of data, which may hold many samples.
    pub(crate) alone: bool,
}

const READABLE: &str = "`.npz`, `.npy`, `.safetensors`, `.pb`, `.bin`, `.png`, `.jpg`, `.bmp` and `.webp` files can be \
                        read, folders of them, and `.txt` and `.lst` files that list them";
/// Folders deeper than this are passed over, so that links in a circle end.
const MAX_DEPTH: usize = 16;

/// Lists the files of an argument. With `texts`, a `.txt` file holds texts, and is no list.
///
/// # Errors
/// If there are none, or they are of several kinds.
pub(crate) fn list(path: &Path, texts: bool) -> Result<Files, DataError> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => DataError::new(format!("calibration data `{shown}` does not exist")),
        _ => DataError::new(format!("calibration data `{shown}`: {e}")),
    })?;
    if meta.is_dir() {
        let mut found = Vec::new();
        walk(path, 0, &mut found).map_err(|e| DataError::new(format!("calibration data `{shown}`: {e}")))?;
        return gather(found, &format!("folder `{shown}`"));
    }
    if holds_texts(path, texts)? {
        return Ok(Files { kind: Kind::Text, paths: vec![path.to_owned()], alone: true });
    }
    if is_list(path) {
        return gather(read_list(path)?, &format!("list `{shown}`"));
    }
    let kind = kind_of(path).ok_or_else(|| {
        DataError::new(format!("calibration data `{shown}` is of no known kind")).help(READABLE)
    })?;
    Ok(Files { kind, paths: vec![path.to_owned()], alone: true })
}

/// Files that are one sample each.
fn gather(found: Vec<(Kind, PathBuf)>, place: &str) -> Result<Files, DataError> {
    let Some((kind, first)) = found.first().cloned() else {
        return Err(DataError::new(format!("{place} holds no calibration data")).help(READABLE));
    };
    if let Some((_, other)) = found.iter().find(|(k, _)| *k != kind) {
        let message =
            format!("{place} holds different kinds of data: `{}` and `{}`", first.display(), other.display());
        return Err(
            DataError::new(message).help("name the files to use, or move them into a folder of their own")
        );
    }
    Ok(Files { kind, paths: found.into_iter().map(|(_, p)| p).collect(), alone: false })
}

/// Finds the samples in a folder. One that is a test data set is a sample by itself.
fn walk(dir: &Path, depth: usize, out: &mut Vec<(Kind, PathBuf)>) -> std::io::Result<()> {
    if is_set(dir) {
        out.push((Kind::TestDataSet, dir.to_owned()));
        return Ok(());
    }
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

/// Reads a list: a path on each line, relative to the list's own folder; empty lines and those that begin
/// with `#` are passed over.
fn read_list(list: &Path) -> Result<Vec<(Kind, PathBuf)>, DataError> {
    let shown = list.display();
    let text = std::fs::read_to_string(list)
        .map_err(|e| DataError::new(format!("list `{shown}` cannot be read: {e}")))?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let path = folder.join(line);
        let wrong = |what: &str| {
            DataError::new(format!("list `{shown}`, line {}: `{line}` {what}", i + 1))
                .help("each line is the path of a file, relative to the list")
        };
        let kind = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(wrong("does not exist")),
            Err(e) => return Err(wrong(&format!("cannot be read: {e}"))),
            Ok(meta) if !meta.is_dir() => kind_of(&path),
            Ok(_) if is_set(&path) => Some(Kind::TestDataSet),
            Ok(_) => return Err(wrong("is a folder")),
        };
        out.push((kind.ok_or_else(|| wrong("is of no known kind"))?, path));
    }
    Ok(out)
}

fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

/// Whether a file has a text on each line.
fn holds_texts(path: &Path, texts: bool) -> Result<bool, DataError> {
    let extension = extension(path);
    match extension.as_deref() {
        Some("jsonl") if !texts => Err(DataError::new(format!(
            "calibration data `{}` is text, of which a tokenizer has to make numbers",
            path.display()
        ))
        .help("name the application's with `--tokenizer tokenizer.json`")),
        Some("txt" | "jsonl") => Ok(texts),
        _ => Ok(false),
    }
}

fn is_list(path: &Path) -> bool {
    matches!(extension(path).as_deref(), Some("txt" | "lst"))
}

fn kind_of(path: &Path) -> Option<Kind> {
    match extension(path)?.as_str() {
        "npz" => Some(Kind::Npz),
        "safetensors" => Some(Kind::Safetensors),
        "npy" => Some(Kind::Npy),
        "pb" => Some(Kind::Pb),
        "bin" => Some(Kind::Raw),
        "png" | "jpg" | "jpeg" | "bmp" | "webp" => Some(Kind::Image),
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
        let files = list(dir.path(), false).unwrap();
        let names: Vec<_> =
            files.paths.iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            (names, files.kind, files.alone),
            (vec!["a.png", "b/10.jpg", "b/2.PNG"], Kind::Image, false)
        );
        write(&dir, "c.npy", b"");
        assert!(list(dir.path(), false).unwrap_err().message.contains("different kinds"));
        write(&dir, "notes.md", b"");
        assert!(list(&dir.path().join("notes.md"), false).unwrap_err().message.contains("no known kind"));
        assert!(list(&dir.path().join("none"), false).unwrap_err().message.contains("does not exist"));
    }

    #[test]
    fn test_data_sets_are_samples() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["test_data_set_1/input_0.pb", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"]
        {
            write(&dir, name, b"");
        }
        write(&dir, "model.onnx", b"");
        let files = list(dir.path(), false).unwrap();
        let sets = ["test_data_set_0", "test_data_set_1"].map(|n| dir.path().join(n));
        assert_eq!((files.kind, files.paths), (Kind::TestDataSet, sets.to_vec()));
        assert_eq!(list(&sets[0], false).unwrap().paths, sets[..1]);
    }

    #[test]
    fn lists_name_files_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "a b.webp", b"");
        write(&dir, "d/c.bmp", b"");
        let put = |text: &str| list(&write(&dir, "lists/l.txt", text.as_bytes()), false);
        let files = put("# these\r\n../d/c.bmp\r\n\n ../a b.webp\n../d/c.bmp").unwrap();
        let names: Vec<_> = files.paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!((names, files.alone), (vec!["c.bmp", "a b.webp", "c.bmp"], false));
        let message = |text: &str| put(text).unwrap_err().message;
        assert!(message("../d/c.bmp\nnone.png").ends_with("l.txt`, line 2: `none.png` does not exist"));
        assert!(message("../d").ends_with("line 1: `../d` is a folder"));
        assert!(message("l.txt").ends_with("`l.txt` is of no known kind"));
        assert!(message("\n").ends_with("holds no calibration data"));
        write(&dir, "lists/x.npy", b"");
        assert!(message("../d/c.bmp\nx.npy").contains("l.txt` holds different kinds of data"));
    }

    #[test]
    fn with_a_tokenizer_a_list_is_a_file_of_texts() {
        let dir = tempfile::tempdir().unwrap();
        let (txt, jsonl) = (write(&dir, "t.txt", b"a.png"), write(&dir, "t.jsonl", b"{}"));
        for path in [&txt, &jsonl] {
            assert_eq!(
                list(path, true).unwrap(),
                Files { kind: Kind::Text, paths: vec![path.clone()], alone: true }
            );
        }
        assert!(list(&txt, false).unwrap_err().message.contains("`a.png` does not exist"));
        assert!(list(&jsonl, false).unwrap_err().help.unwrap().contains("--tokenizer"));
    }
}
