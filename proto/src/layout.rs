//! External tensor data when saving: the files that the model was loaded with, kept as they are.
//!
//! Every file is copied whole, under the location that the model gives for it, into the folder of the output:
//! then locations, offsets, lengths and checksums stay true without being touched. A file is never replaced: a
//! model that is already there may use it. So a file in the way is an error, unless it has the same content.

use crate::error::SaveError;
use crate::files::Mapped;
use crate::save::Target;
use squint_ir::{AttrValue, Attribute, Model, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Copies the files that constants of the model lie in to temporary files beside their places; those that are
/// there already have none. Nothing has its name yet afterwards.
///
/// # Errors
/// If a file lies outside of the folder of the model that was loaded, if a place is taken, or on any failure to
/// read or write.
pub(crate) fn copy(
    model: &Model,
    beside: &Target,
) -> Result<Vec<(Target, Option<NamedTempFile>)>, SaveError> {
    let (mut out, mut taken) = (Vec::new(), BTreeSet::new());
    for (location, from) in files(model) {
        let refuse = |why: &str| {
            beside.refuse(format!("the layout of external data `{location}` cannot be kept: {why}"))
        };
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(refuse("it is outside of the model's folder"));
        }
        let to = beside.folder.join(relative);
        // `w` and `./w` are one file.
        if !taken.insert(to.clone()) {
            continue;
        }
        let folder = to.parent().unwrap_or(&beside.folder);
        let known = folder.ancestors().find(|f| f.exists()).unwrap_or(&beside.folder);
        match (fs::canonicalize(known), fs::canonicalize(&beside.folder)) {
            (Ok(known), Ok(root)) if known.starts_with(&root) => {}
            _ => return Err(refuse("its folder is a link out of the output's folder")),
        }
        let file = if fs::symlink_metadata(&to).is_err() {
            let made = fs::create_dir_all(folder);
            made.map_err(|e| refuse(&format!("cannot make its folder: {e}")))?;
            let target = Target::new(&to)?;
            let copied = target.write(|out| {
                // From file to file, which the system does without passing the bytes through this process.
                let mut to: &File = out.get_ref();
                io::copy(&mut File::open(from)?, &mut to).map(drop)
            })?;
            Some(copied)
        } else if same(from, &to) {
            None
        } else {
            return Err(refuse(&format!("there is another file `{}`", to.display())));
        };
        out.push((Target::new(&to)?, file));
    }
    Ok(out)
}

/// External files by their location.
fn files(model: &Model) -> BTreeMap<&str, &Path> {
    let mut out = BTreeMap::new();
    for tensor in tensors(model) {
        if let Some(source) = &tensor.source
            && let Some(location) = source.location()
        {
            out.insert(location, &*source.path);
        }
    }
    out
}

/// Every tensor of a model.
fn tensors(model: &Model) -> impl Iterator<Item = &Tensor> {
    let graphs = || model.graph_ids().map(|id| model.graph(id));
    let constants = graphs().flat_map(|g| g.values().filter_map(|v| g.konst(v)));
    let nodes = graphs().flat_map(|g| g.ops().flat_map(|op| &g.op(op).attributes));
    let defaults = model.functions.iter().flat_map(|f| &f.defaults);
    constants.chain(nodes.chain(defaults).flat_map(of_attribute)).map(|t| &**t)
}

fn of_attribute(a: &Attribute) -> &[Arc<Tensor>] {
    match &a.value {
        AttrValue::Tensor(t) => std::slice::from_ref(t),
        AttrValue::Tensors(all) => all,
        _ => &[],
    }
}

/// True if two files are one, or have the same content.
fn same(a: &Path, b: &Path) -> bool {
    if let (Ok(a), Ok(b)) = (fs::canonicalize(a), fs::canonicalize(b))
        && a == b
    {
        return true;
    }
    match (Mapped::open(a, true), Mapped::open(b, true)) {
        (Ok(a), Ok(b)) => a.bytes == b.bytes,
        _ => false,
    }
}
