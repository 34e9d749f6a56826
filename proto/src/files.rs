//! Files that tensors lie in: memory maps of the model and of its external data.
//!
//! A decoded model holds slices of the map ([`Bytes::from_owner`]), never copies. External data follows
//! the ONNX specification, "External Tensor Data" (`docs/ExternalData.md`): a location relative to the
//! model's folder, byte offset and length. A location may come from a stranger, so it must stay inside
//! that folder: no absolute path, no `..`, no symbolic link out of it.

use crate::error::LoadProblem;
use crate::load::LoadOptions;
use crate::onnx::TensorProto;
use crate::types;
use bytes::Bytes;
use sha1::{Digest, Sha1};
use squint_ir::FileSlice;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A file, whole, in memory or mapped.
#[derive(Clone)]
pub(crate) struct Mapped {
    pub(crate) path: Arc<Path>,
    pub(crate) bytes: Bytes,
}

impl Mapped {
    /// Opens a regular, non-empty file.
    pub(crate) fn open(path: &Path, mmap: bool) -> Result<Mapped, LoadProblem> {
        let meta = fs::metadata(path)?;
        if meta.is_dir() {
            return Err(LoadProblem::Directory);
        }
        if !meta.is_file() {
            return Err(LoadProblem::NotRegular);
        }
        if meta.len() == 0 {
            return Err(LoadProblem::Empty);
        }
        let bytes = if mmap {
            let file = File::open(path)?;
            // SAFETY: the map is read-only. Someone who changes or truncates the file in place while it is
            // open breaks this process as they would break any reader of a map; squint itself writes files
            // by renaming, which leaves the old content to its readers. `LoadOptions::mmap` turns it off.
            let map = unsafe { memmap2::Mmap::map(&file)? };
            Bytes::from_owner(map)
        } else {
            fs::read(path)?.into()
        };
        Ok(Mapped { path: path.into(), bytes })
    }

    /// Where a slice of this file lies in it, or `None` if it is not one.
    pub(crate) fn locate(&self, slice: &Bytes) -> Option<FileSlice> {
        let offset = (slice.as_ptr() as usize).checked_sub(self.bytes.as_ptr() as usize)?;
        let inside = offset.checked_add(slice.len()).is_some_and(|end| end <= self.bytes.len());
        (inside && !slice.is_empty()).then(|| FileSlice {
            path: self.path.clone(),
            offset: offset as u64,
            external: None,
        })
    }
}

/// The files of one model.
pub(crate) struct Files {
    /// The model itself, unless it came from memory.
    pub(crate) model: Option<Mapped>,
    /// Folder that external locations are relative to.
    pub(crate) folder: Option<PathBuf>,
    options: LoadOptions,
    /// External files by location.
    opened: HashMap<String, Mapped>,
    /// Locations with the checksums that have been looked at.
    compared: HashSet<(String, String)>,
}

impl Files {
    pub(crate) fn new(model: Option<Mapped>, folder: Option<PathBuf>, options: &LoadOptions) -> Files {
        let options = options.clone();
        Files { model, folder, options, opened: HashMap::new(), compared: HashSet::new() }
    }

    /// The bytes of a tensor with external data, and where they lie. `expected` is the length that the
    /// dimensions ask for.
    pub(crate) fn external(
        &mut self,
        tensor: &TensorProto,
        expected: usize,
        place: &str,
    ) -> Result<(Bytes, FileSlice), LoadProblem> {
        let key = |name: &str| {
            let entry = tensor.external_data.iter().find(|e| e.key() == name);
            entry.map(|e| e.value()).filter(|v| !v.is_empty())
        };
        let location = key("location").unwrap_or_default().to_owned();
        let fail = |detail: String| LoadProblem::External {
            place: place.to_owned(),
            location: location.clone(),
            detail,
        };
        let number = |name: &str| match key(name) {
            Some(text) => text
                .parse::<usize>()
                .map(Some)
                .map_err(|_| fail(format!("has {name} `{text}`, not a number"))),
            None => Ok(None),
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected);
        if !self.opened.contains_key(&location) {
            let path = self.contained(&location).map_err(&fail)?;
            let file = Mapped::open(&path, self.options.mmap).map_err(|e| fail(e.to_string()))?;
            self.opened.insert(location.clone(), file);
        }
        let file = &self.opened[&location];
        let end = offset.checked_add(length).filter(|end| *end <= file.bytes.len());
        let Some(end) = end else {
            let have = file.bytes.len();
            return Err(fail(format!(
                "is too short: {length} bytes at offset {offset}, the file has {have}"
            )));
        };
        if let Some(given) = key("checksum").filter(|_| self.options.verify_checksums)
            && self.compared.insert((location.clone(), given.to_owned()))
        {
            let found = hexadecimal(&Sha1::digest(&file.bytes));
            if !found.eq_ignore_ascii_case(given) {
                return Err(fail(format!("has the SHA-1 checksum {found}, the model says {given}")));
            }
        }
        let entries = types::import_entries(tensor.external_data.clone());
        let source =
            FileSlice { path: file.path.clone(), offset: offset as u64, external: Some(entries.into()) };
        Ok((file.bytes.slice(offset..end), source))
    }

    /// The path of a location, checked to stay inside the model's folder.
    fn contained(&self, location: &str) -> Result<PathBuf, String> {
        let folder =
            self.folder.as_ref().ok_or("is given, but the model was read from memory without a folder")?;
        let relative = Path::new(location);
        if relative.as_os_str().is_empty() {
            return Err("is named nowhere: the key `location` is missing".into());
        }
        let path = folder.join(relative);
        if self.options.allow_external_anywhere {
            return Ok(path);
        }
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(
                "leaves the model's folder; if you trust it, load with `allow-external-anywhere`".into()
            );
        }
        let real = |p: &Path| fs::canonicalize(p).map_err(|e| LoadProblem::from(e).to_string());
        let (root, target) = (real(folder)?, real(&path)?);
        if !target.starts_with(&root) {
            return Err(
                "is a link out of the model's folder; if you trust it, load with `allow-external-anywhere`"
                    .into(),
            );
        }
        Ok(target)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The folder of a file; the current one for a bare name.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}
