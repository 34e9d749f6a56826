//! Labels: the class of each sample.
//!
//! | file | labels |
//! |---|---|
//! | `.txt`, `.csv` | the last number of each line; empty lines and lines that begin with `#` are passed over |
//! | `.npy` | the integers of the array |
//! | `.npz` | those of array `labels`, or of the one named behind a colon: `test.npz:y` |

use super::DataError;
use super::array::{Array, open_npy, open_npz};
use std::path::Path;

/// Longest text that is read.
const MAX_TEXT: u64 = 64 << 20;

/// Reads the classes of all samples, in their order.
///
/// # Errors
/// If the file cannot be read, or holds no integers.
pub fn labels(argument: &str) -> Result<Vec<i64>, DataError> {
    let (file, key) = match argument.rsplit_once(':') {
        Some((file, key)) if !Path::new(argument).exists() => (file, Some(key)),
        _ => (argument, None),
    };
    let path = Path::new(file);
    let failed = |why: String| DataError::new(format!("labels `{argument}`: {why}"));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let found = match extension.as_str() {
        "txt" | "csv" => lines(path),
        "npy" => open_npy(path).and_then(|array| integers(&array)),
        "npz" => archive(path, key.unwrap_or("labels")),
        _ => Err("labels are read from `.txt`, `.csv`, `.npy` and `.npz` files".into()),
    };
    found.map_err(failed)
}

fn lines(path: &Path) -> Result<Vec<i64>, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > MAX_TEXT {
        return Err(format!("the text has {length} bytes; at most {MAX_TEXT} are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let last = line.rsplit([',', ';', '\t', ' ']).next().unwrap_or_default();
        found.push(last.parse().map_err(|_| format!("line {number} ends in `{last}`, which is no class"))?);
    }
    Ok(found)
}

fn archive(path: &Path, key: &str) -> Result<Vec<i64>, String> {
    let arrays = open_npz(path)?;
    match arrays.iter().find(|(name, _)| name == key) {
        Some((_, array)) => integers(array),
        None => {
            let names: Vec<String> = arrays.iter().map(|(name, _)| format!("`{name}`")).collect();
            Err(format!("there is no array `{key}`; there are {}. Name one behind a colon", names.join(", ")))
        }
    }
}

fn integers(array: &Array) -> Result<Vec<i64>, String> {
    let tensor = array.whole()?;
    tensor.to_i64s().ok_or_else(|| format!("it holds {}, and classes are integers", tensor.dtype()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{floats, npy_bytes, npz_bytes, write};
    use super::*;
    use squint_ir::Tensor;

    #[test]
    fn labels_come_from_texts_and_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| labels(dir.path().join(name).to_str().unwrap());
        write(&dir, "a.txt", b"# file, class\nx.png,3\n\ny.png, 1\n2\n");
        assert_eq!(read("a.txt").unwrap(), [3, 1, 2]);
        let array = || npy_bytes("<i8", false, &[2], &Tensor::from_i64(&[2], &[7, 8]));
        write(&dir, "b.npy", &array());
        assert_eq!(read("b.npy").unwrap(), [7, 8]);
        write(&dir, "c.npz", &npz_bytes(&[("y", array()), ("labels", array())], true));
        assert_eq!(read("c.npz").unwrap(), [7, 8]);
        assert_eq!(read("c.npz:y").unwrap(), [7, 8]);
        let said = |name: &str| read(name).unwrap_err().message;
        assert!(said("c.npz:z").contains("there is no array `z`; there are `y`, `labels`"));
        write(&dir, "d.txt", b"1\ncat\n");
        assert!(said("d.txt").contains("line 2 ends in `cat`"));
        write(&dir, "e.npy", &floats(&[1], &[0.5]));
        assert!(said("e.npy").contains("classes are integers"));
        assert!(said("f.json").contains("labels are read from"));
    }
}
