//! Models to files and bytes.
//!
//! A file appears whole or not at all: it is written beside its place under a temporary name, flushed to
//! disk, and renamed. With external data there are two files, both complete on disk before either is
//! renamed, the data first. The data gets a name that no file has, so that a model which is to be replaced
//! keeps its own data until the new model is in its place: whenever the process ends, there is one whole pair.

use crate::error::SaveError;
use crate::files::folder_of;
use crate::load::{LoadOptions, load};
use crate::onnx::ModelProto;
use crate::{export, external, stream};
use prost::Message;
use squint_ir::Model;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// When tensor data goes into a file of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum External {
    /// When the model would not fit a protobuf message (2 GiB, less a margin).
    #[default]
    Auto,
    /// For every tensor of 1 KiB or more.
    Always,
    /// Never; a model that is too large is an error.
    Never,
}

/// How to save a model.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// Where tensor data goes.
    pub external: External,
}

/// Encoded size from which on [`External::Auto`] uses a second file: 1.8 GiB, since readers of protobuf
/// refuse 2 GiB.
const INLINE_LIMIT: usize = 1_932_735_283;

/// Names that are tried for the file of data.
const MAX_NAMES: usize = 100;

/// Encoded size that no other reader accepts.
const PROTOBUF_LIMIT: usize = 1 << 31;

/// Saves a model. External data, if any, goes to the file `NAME.data` beside it; if there is such a file
/// already, to `NAME.1.data` and so on, and the data of the model that is replaced is removed.
///
/// # Errors
/// If the graph has a cycle, or the output cannot be written; nothing is left behind then.
pub fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<(), SaveError> {
    let mut proto = export::model(model)?;
    let target = Target::new(path)?;
    let bytes = proto.encoded_len();
    let split = match options.external {
        External::Always => true,
        External::Auto => bytes > INLINE_LIMIT,
        External::Never => false,
    };
    let data = if split { write_data(&mut proto, &target)? } else { None };
    let bytes = if data.is_some() { proto.encoded_len() } else { bytes };
    if bytes >= PROTOBUF_LIMIT {
        return Err(SaveError::TooLarge { bytes });
    }
    let file = target.write(|out| stream::write(proto, out).map(|_| ()))?;
    let replaced = replaced_data(&target);
    if let Some((data, data_target)) = data {
        data_target.publish(data)?;
    }
    target.publish(file)?;
    for path in replaced {
        // What cannot be removed is only in the way of nobody.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// The encoded model, in memory, with all data inline.
///
/// # Errors
/// If a graph has a cycle.
pub fn encode(model: &Model) -> Result<Vec<u8>, SaveError> {
    Ok(export::model(model)?.encode_to_vec())
}

/// Moves the data of large tensors out of the message into a temporary file; `None` if there is none.
fn write_data(proto: &mut ModelProto, target: &Target) -> Result<Option<(NamedTempFile, Target)>, SaveError> {
    let free = (0..MAX_NAMES).map(|i| target.data_path(i)).find(|path| fs::symlink_metadata(path).is_err());
    let path = free.unwrap_or_else(|| target.data_path(0));
    let location = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let moved = external::detach(proto, &location);
    if moved.is_empty() {
        return Ok(None);
    }
    let data_target = Target::new(&path)?;
    let file = data_target.write(|out| external::write(&moved, out))?;
    Ok(Some((file, data_target)))
}

/// The data files of the model that is to be replaced, as far as [`save`] has named them.
fn replaced_data(target: &Target) -> BTreeSet<PathBuf> {
    let Ok(old) = load(&target.path, &LoadOptions::default()) else { return BTreeSet::new() };
    let graphs = old.graph_ids().map(|id| old.graph(id));
    let constants = graphs.flat_map(|g| g.values().filter_map(|v| g.konst(v)));
    let names: BTreeSet<_> = constants
        .filter_map(|t| t.source.as_ref()?.path.file_name())
        .map(|name| target.path.with_file_name(name))
        .collect();
    // Any other name was not given here.
    let ours = (0..MAX_NAMES).map(|i| target.data_path(i));
    ours.filter(|path| names.contains(path)).collect()
}

/// A file that is to be written.
struct Target {
    path: PathBuf,
    folder: PathBuf,
}

impl Target {
    /// Checks what can be checked before anything is written.
    fn new(path: &Path) -> Result<Target, SaveError> {
        let fail = |detail: &str| SaveError::Output { path: path.to_owned(), detail: detail.to_owned() };
        // Renaming would replace a link, not what it points to.
        let path = if path.is_symlink() {
            fs::canonicalize(path).unwrap_or(path.to_owned())
        } else {
            path.to_owned()
        };
        let folder = folder_of(&path);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => return Err(fail("is a directory")),
            Ok(meta) if !meta.is_file() => return Err(fail("is not a regular file")),
            _ => {}
        }
        if path.file_name().is_none() {
            return Err(fail("is not a file name"));
        }
        match fs::metadata(&folder) {
            Ok(meta) if meta.is_dir() => Ok(Target { path, folder }),
            _ => Err(fail(&format!("the folder `{}` does not exist", folder.display()))),
        }
    }

    /// `NAME.data`, or `NAME.i.data` from the second on.
    fn data_path(&self, i: usize) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(if i == 0 { ".data".to_owned() } else { format!(".{i}.data") });
        self.path.with_file_name(name)
    }

    /// Writes a temporary file in the target's folder and flushes it to disk. It is deleted when dropped.
    fn write(
        &self,
        content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<NamedTempFile, SaveError> {
        let write = || {
            let file = temporary(&self.folder)?;
            let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
            content(&mut out)?;
            out.flush()?;
            drop(out);
            file.as_file().sync_all()?;
            Ok(file)
        };
        write().map_err(|e: io::Error| self.fail(&e))
    }

    /// Renames a written file to the target.
    fn publish(&self, file: NamedTempFile) -> Result<(), SaveError> {
        file.persist(&self.path).map_err(|e| self.fail(&e.error))?;
        // The rename itself reaches the disk with the folder. Not every system can flush one.
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn fail(&self, e: &io::Error) -> SaveError {
        SaveError::Output { path: self.path.clone(), detail: e.to_string() }
    }
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".squint-").suffix(".tmp");
    // Temporary files are private by default; this one is to have the permissions of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
