//! Models to files and bytes.
//!
//! A file appears whole or not at all: it is written beside its place under a temporary name, flushed to
//! disk, and renamed. With external data there are several files, all complete on disk before any is
//! renamed, the data first. The data get names that no file has, so that a model which is to be replaced
//! keeps its own data until the new model is in its place: whenever the process ends, there is one whole pair.

use crate::error::SaveError;
use crate::files::folder_of;
use crate::load::{LoadOptions, load};
use crate::onnx::ModelProto;
use crate::{export, external, layout, stream};
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
    /// For every constant of 1 KiB or more: initializers, also those of bodies, and values of `Constant` nodes.
    Always,
    /// Never; a model that is too large is an error.
    Never,
    /// As in the files that the model was loaded from: data from external files stay in files of the same names,
    /// at the same offsets, with their checksums, and everything else as for [`External::Auto`]. The files are
    /// copied whole, beside the output.
    Keep,
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
    let keep = options.external == External::Keep;
    let mut proto = export::model(model, keep)?;
    let target = Target::new(path)?;
    let mut data = if keep { layout::copy(model, &target)? } else { Vec::new() };
    let bytes = proto.encoded_len();
    let split = match options.external {
        External::Always => true,
        External::Auto | External::Keep => bytes > INLINE_LIMIT,
        External::Never => false,
    };
    if split {
        data.extend(write_data(&mut proto, &target, &data)?);
    }
    let bytes = if split { proto.encoded_len() } else { bytes };
    if bytes >= PROTOBUF_LIMIT {
        return Err(SaveError::TooLarge { bytes });
    }
    let file = target.write(|out| stream::write(&proto, out).map(drop))?;
    let mut replaced = replaced_data(&target);
    for (used, _) in &data {
        replaced.remove(&used.path);
    }
    publish(data, file, &target)?;
    for path in replaced {
        // What cannot be removed is only in the way of nobody.
        let _ = fs::remove_file(path);
        interruption();
    }
    Ok(())
}

/// Gives the files their names, the model last. Should one fail, those of the data are removed again: nothing
/// uses them.
fn publish(
    data: Vec<(Target, Option<NamedTempFile>)>,
    model: NamedTempFile,
    target: &Target,
) -> Result<(), SaveError> {
    let mut named = Vec::new();
    let all = || {
        for (target, file) in data {
            let Some(file) = file else { continue };
            target.publish(|path| file.persist_noclobber(path))?;
            named.push(target.path);
            interruption();
        }
        target.publish(|path| model.persist(path))?;
        interruption();
        Ok(())
    };
    let done = all();
    if done.is_err() {
        for path in named {
            let _ = fs::remove_file(path);
        }
    }
    done
}

/// The encoded model, in memory, with all data inline.
///
/// # Errors
/// If a graph has a cycle.
pub fn encode(model: &Model) -> Result<Vec<u8>, SaveError> {
    Ok(export::model(model, false)?.encode_to_vec())
}

/// Moves the data of large tensors out of the message into a temporary file; `None` if there is none. Its name
/// will be one that neither a file has nor any of `others`.
fn write_data(
    proto: &mut ModelProto,
    target: &Target,
    others: &[(Target, Option<NamedTempFile>)],
) -> Result<Option<(Target, Option<NamedTempFile>)>, SaveError> {
    let free = |path: &PathBuf| {
        fs::symlink_metadata(path).is_err() && others.iter().all(|(other, _)| other.path != *path)
    };
    let path = (0..MAX_NAMES).map(|i| target.data_path(i)).find(free);
    let path = path.ok_or_else(|| target.refuse(format!("all {MAX_NAMES} names for its data are taken")))?;
    let location = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let moved = external::detach(proto, &location);
    if moved.is_empty() {
        return Ok(None);
    }
    let data_target = Target::new(&path)?;
    let file = data_target.write(|out| external::write(&moved, out))?;
    Ok(Some((data_target, Some(file))))
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
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Target {
    /// Checks what can be checked before anything is written.
    pub(crate) fn new(path: &Path) -> Result<Target, SaveError> {
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
    pub(crate) fn write(
        &self,
        content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<NamedTempFile, SaveError> {
        let write = || {
            let file = temporary(&self.folder)?;
            interruption();
            let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
            content(&mut out)?;
            out.flush()?;
            drop(out);
            interruption();
            file.as_file().sync_all()?;
            interruption();
            Ok(file)
        };
        write().map_err(|e: io::Error| self.fail(&e))
    }

    /// Renames a written file to the target.
    fn publish(
        &self,
        rename: impl FnOnce(&Path) -> Result<File, tempfile::PersistError>,
    ) -> Result<(), SaveError> {
        rename(&self.path).map_err(|e| self.fail(&e.error))?;
        interruption();
        // The rename itself reaches the disk with the folder. Not every system can flush one.
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn fail(&self, e: &io::Error) -> SaveError {
        self.refuse(e.to_string())
    }

    /// The error that the target cannot be written.
    pub(crate) fn refuse(&self, detail: String) -> SaveError {
        SaveError::Output { path: self.path.clone(), detail }
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

/// A place where a process may be killed, which tests do.
#[cfg(not(test))]
fn interruption() {}

#[cfg(test)]
use tests::interruption;

#[cfg(test)]
mod tests {
    //! Killed at any point, a save leaves the old model with its data or the new one with its data.
    //!
    //! Each test saves in a process of its own (this test binary, told by the environment to run [`writer`]),
    //! which dies at one [`interruption`] after the other until a save gets through.

    use super::*;
    use squint_ir::{OpSpec, Tensor};
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const FOLDER: &str = "SQUINT_TEST_SAVE_FOLDER";
    const KILL_AT: &str = "SQUINT_TEST_KILL_AT";

    /// Dies if this is the interruption to die at.
    pub(super) fn interruption() {
        static PASSED: AtomicUsize = AtomicUsize::new(0);
        let number = std::env::var(KILL_AT).ok().and_then(|n| n.parse::<usize>().ok());
        if number.is_some_and(|n| n == PASSED.fetch_add(1, Ordering::Relaxed)) {
            // As by a signal: no destructor runs.
            std::process::abort();
        }
    }

    /// A model whose constants are all `x`.
    fn filled(x: f32) -> Model {
        let mut m = Model::new("g", 17);
        let g = m.main_mut();
        let constants = ["a", "b"].map(|name| g.add_const(name, Tensor::from_f32(&[4000], &[x; 4000])));
        let sum = g.emit(OpSpec::new("Add").operands(constants), "sum", None);
        g.outputs.push(sum);
        m
    }

    /// What the constants of a model are, all of them.
    fn filling(path: &Path) -> f32 {
        let m = load(path, &LoadOptions::default()).expect("a whole model");
        let g = m.main();
        let all: Vec<f32> = g.values().filter_map(|v| g.konst(v)).flat_map(|t| t.to_f32s()).collect();
        assert!(all.len() == 8000 && all.iter().all(|x| *x == all[0]), "data of one model");
        all[0]
    }

    /// Runs in the process that is killed; otherwise does nothing.
    #[test]
    fn writer() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        let (model, external) = match folder.join("from/m.onnx") {
            from if from.exists() => (load(&from, &LoadOptions::default()).unwrap(), External::Keep),
            _ => (filled(2.0), External::Always),
        };
        save(&model, &folder.join("m.onnx"), &SaveOptions { external }).unwrap();
    }

    /// Saves in a process that dies at the interruption; whether it got through.
    fn save_and_die(folder: &Path, at: usize) -> bool {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "save::tests::writer"]).env(FOLDER, folder).env(KILL_AT, at.to_string());
        child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// What is there after each interruption: 1 for the old model, 2 for the new one, the last after a save that
    /// got through. `prepare` fills the folder.
    fn after_each_interruption(prepare: impl Fn(&Path)) -> Vec<f32> {
        let mut found = Vec::new();
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            let through = save_and_die(folder.path(), at);
            found.push(filling(&folder.path().join("m.onnx")));
            if through {
                break;
            }
            // Nothing that is left behind is in the way of another try.
            assert!(save_and_die(folder.path(), usize::MAX));
            assert_eq!(filling(&folder.path().join("m.onnx")), 2.0);
        }
        found
    }

    fn always(x: f32, path: &Path) {
        save(&filled(x), path, &SaveOptions { external: External::Always }).unwrap();
    }

    #[test]
    fn a_model_with_data_is_replaced_at_once() {
        let found = after_each_interruption(|folder| always(1.0, &folder.join("m.onnx")));
        assert!(found.len() > 8 && found.is_sorted(), "{found:?}");
        assert!(found.first() == Some(&1.0) && found.last() == Some(&2.0), "{found:?}");
    }

    #[test]
    fn a_model_that_keeps_its_layout_too() {
        let found = after_each_interruption(|folder| {
            always(1.0, &folder.join("m.onnx"));
            fs::create_dir(folder.join("from")).unwrap();
            fs::rename(folder.join("m.onnx.data"), folder.join("old.data")).unwrap();
            rename_data(&folder.join("m.onnx"), "m.onnx.data", "old.data");
            always(2.0, &folder.join("from/m.onnx"));
        });
        assert!(found.len() > 8 && found.is_sorted(), "{found:?}");
        assert!(found.first() == Some(&1.0) && found.last() == Some(&2.0), "{found:?}");
    }

    /// Makes a model name its data otherwise.
    fn rename_data(path: &Path, from: &str, to: &str) {
        let mut proto = ModelProto::decode(&fs::read(path).unwrap()[..]).unwrap();
        external::visit(proto.graph.as_mut().unwrap(), &mut |tensor, _| {
            for entry in tensor.external_data.iter_mut().filter(|e| e.value() == from) {
                entry.value = Some(to.to_owned());
            }
        });
        fs::write(path, proto.encode_to_vec()).unwrap();
    }
}
