//! A model as bytes for an executor in the same process.
//!
//! Encoding a model with its weights, and decoding it again, would hold them three times. Weights that lie
//! unchanged in a file, the model's own or its external data, are instead passed as external data *into
//! that file*: a model of half a gigabyte becomes some kilobytes.

use crate::error::SaveError;
use crate::{export, external, tensor};
use prost::Message;
use squint_ir::{FileSlice, Model, Tensor, ValueId};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// An encoded model whose large constants may be elsewhere.
#[derive(Clone, Debug)]
pub struct ExecutorModel {
    /// An encoded `ModelProto`.
    pub bytes: Vec<u8>,
    /// The folder that its external data is relative to; `None` if there is none.
    pub dir: Option<PathBuf>,
}

/// Encodes a model for an executor; see the module documentation. Constants that a pass has changed or
/// made, that lie outside the one folder, or whose file has been replaced since, are inline.
///
/// # Errors
/// If a graph has a cycle.
pub fn encode_for_executor(model: &Model) -> Result<ExecutorModel, SaveError> {
    let mut proto = export::model(model, false)?;
    let files = Files::of(model);
    let Some(dir) = files.best_folder() else {
        return Ok(ExecutorModel { bytes: proto.encode_to_vec(), dir: None });
    };
    let main = model.main();
    if let Some(graph) = &mut proto.graph {
        // The export gives the initializers in the order of the constants.
        for (initializer, v) in graph.initializer.iter_mut().zip(constants(model)) {
            let Some(t) = main.konst(v) else { continue };
            let Some((path, slice)) = files.slice(t) else { continue };
            let Some(location) = path.strip_prefix(&dir).ok().and_then(Path::to_str) else { continue };
            external::refer(initializer, location, slice.offset, t.bytes().len());
        }
    }
    Ok(ExecutorModel { bytes: proto.encode_to_vec(), dir: Some(dir) })
}

fn constants(model: &Model) -> impl Iterator<Item = ValueId> + '_ {
    let main = model.main();
    main.values().filter(|v| main.konst(*v).is_some())
}

/// Files that constants of the main graph lie in: the path in the IR to the real one and the bytes used.
struct Files {
    by_path: BTreeMap<PathBuf, (PathBuf, u64)>,
}

impl Files {
    fn of(model: &Model) -> Files {
        let mut by_path: BTreeMap<PathBuf, Option<(PathBuf, u64)>> = BTreeMap::new();
        for v in constants(model) {
            let Some(t) = model.main().konst(v) else { continue };
            let Some(slice) = tensor::file_slice(t, external::MIN_BYTES) else { continue };
            let entry = by_path
                .entry(slice.path.to_path_buf())
                .or_insert_with(|| fs::canonicalize(&slice.path).ok().map(|real| (real, 0)));
            match entry {
                Some((_, bytes)) if unchanged(t, slice) => *bytes += t.bytes().len() as u64,
                // One difference is enough not to trust the file.
                _ => *entry = None,
            }
        }
        Files { by_path: by_path.into_iter().filter_map(|(path, file)| Some((path, file?))).collect() }
    }

    /// The real path and the place of a constant.
    fn slice<'a>(&'a self, t: &'a Tensor) -> Option<(&'a Path, &'a FileSlice)> {
        let slice = tensor::file_slice(t, external::MIN_BYTES)?;
        let (real, _) = self.by_path.get(&*slice.path)?;
        Some((real, slice))
    }

    /// The folder of a file that, with the folders in it, holds the most bytes.
    fn best_folder(&self) -> Option<PathBuf> {
        let folders = self.by_path.values().filter_map(|(real, _)| real.parent());
        let weight = |dir: &Path| {
            let inside = self.by_path.values().filter(|(real, _)| real.starts_with(dir));
            inside.map(|(_, bytes)| *bytes).sum::<u64>()
        };
        folders.max_by_key(|dir| weight(dir)).map(Path::to_owned)
    }
}

/// False if the file no longer has these bytes, as after it was overwritten by renaming. Looks at both ends
/// of the range only: reading everything would cost what this module saves.
fn unchanged(t: &Tensor, slice: &FileSlice) -> bool {
    const EDGE: usize = 64;
    let bytes = t.bytes();
    let Ok(mut file) = File::open(&slice.path) else { return false };
    let mut same = |at: usize| {
        let expected = &bytes[at..(at + EDGE).min(bytes.len())];
        let mut found = [0u8; EDGE];
        let found = &mut found[..expected.len()];
        let position = SeekFrom::Start(slice.offset + at as u64);
        file.seek(position).is_ok() && file.read_exact(found).is_ok() && found == expected
    };
    same(0) && same(bytes.len().saturating_sub(EDGE))
}
