//! Where the library of ONNX Runtime is.

use crate::Error;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Finds the library of ONNX Runtime: the file, or a library in the folder, that is given; else that named by
/// the variable `ORT_DYLIB_PATH`; else that of the Python package `onnxruntime` in the active virtual or conda
/// environment, or where `python3` on the path finds it.
///
/// # Errors
/// If there is none; the error says where it was looked for.
pub fn find_onnxruntime(given: Option<&Path>) -> Result<PathBuf, Error> {
    find(given, &|name| env::var_os(name).filter(|v| !v.is_empty()), &package_of_python)
}

fn find(
    given: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    package: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<PathBuf, Error> {
    let mut looked = Vec::new();
    // What is named and not there is not replaced by something else.
    let named = given.map(Path::to_owned).or_else(|| variable("ORT_DYLIB_PATH").map(PathBuf::from));
    if let Some(named) = named {
        let found = if named.is_dir() { library_in(&named) } else { named.is_file().then(|| named.clone()) };
        let whence = if given.is_some() { "" } else { " (the variable ORT_DYLIB_PATH)" };
        return found
            .ok_or_else(|| Error::NoOnnxRuntime { looked: vec![format!("`{}`{whence}", named.display())] });
    }
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(root) = variable(name).map(PathBuf::from) else { continue };
        for site in site_packages(&root) {
            match library_in(&site.join("onnxruntime/capi")) {
                Some(found) => return Ok(found),
                None => looked.push(format!("`{}`", site.display())),
            }
        }
        // Conda has the library as a package of its own.
        match library_in(&root.join("lib")) {
            Some(found) => return Ok(found),
            None => looked.push(format!("`{}` ({name})", root.join("lib").display())),
        }
    }
    for python in ["python3", "python"] {
        match package(python) {
            Some(folder) => match library_in(&folder.join("capi")) {
                Some(found) => return Ok(found),
                None => looked.push(format!("`{}`", folder.join("capi").display())),
            },
            None => looked.push(format!("the packages of `{python}`")),
        }
    }
    Err(Error::NoOnnxRuntime { looked })
}

/// The library in a folder; of several versions the last by name. Libraries of execution providers are others.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let is_library = |name: &String| {
        name == "onnxruntime.dll"
            || name.starts_with("libonnxruntime.so")
            || name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    };
    names.filter(is_library).max().map(|name| folder.join(name))
}

/// The folders of installed packages in an environment: `lib/python3.12/site-packages`, or that of Windows.
fn site_packages(root: &Path) -> Vec<PathBuf> {
    let lib = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten().map(|e| e.path());
    let is_python = |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"python"));
    let mut folders: Vec<PathBuf> = lib.filter(is_python).map(|p| p.join("site-packages")).collect();
    folders.push(root.join("Lib").join("site-packages"));
    folders.retain(|f| f.is_dir());
    folders.sort();
    folders
}

/// The folder of the package `onnxruntime` that an interpreter finds, without importing it.
fn package_of_python(python: &str) -> Option<PathBuf> {
    const SCRIPT: &str =
        "import importlib.util as u; print(u.find_spec('onnxruntime').submodule_search_locations[0])";
    // `-I`: a folder of that name in the current one is not the package.
    let mut command = Command::new(python);
    let output =
        command.args(["-I", "-c", SCRIPT]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(folder.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn the_active_environment_is_searched_after_what_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let capi = root.join("venv/lib/python3.12/site-packages/onnxruntime/capi");
        for name in
            ["libonnxruntime.so.1.20.0", "libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"]
        {
            touch(&capi.join(name));
        }
        let own = root.join("own/libonnxruntime.so");
        touch(&own);
        let no_python = |_: &str| None;
        let venv = |name: &str| (name == "VIRTUAL_ENV").then(|| root.join("venv").into_os_string());
        let newest = capi.join("libonnxruntime.so.1.31.1");
        assert_eq!(find(None, &venv, &no_python).unwrap(), newest);
        assert_eq!(find(Some(&own), &venv, &no_python).unwrap(), own);
        assert_eq!(find(Some(&root.join("own")), &venv, &no_python).unwrap(), own);
        let variable = |name: &str| (name == "ORT_DYLIB_PATH").then(|| own.clone().into_os_string());
        assert_eq!(find(None, &variable, &no_python).unwrap(), own);
        let python = |_: &str| Some(capi.parent().unwrap().to_owned());
        assert_eq!(find(None, &|_| None, &python).unwrap(), newest);
    }

    #[test]
    fn what_is_not_found_says_where_it_was_looked_for() {
        let looked = |given: Option<&Path>| find(given, &|_| None, &|_| None).unwrap_err().to_string();
        assert_eq!(
            looked(None),
            "ONNX Runtime was not found; looked in the packages of `python3`, the packages of `python`"
        );
        assert_eq!(
            looked(Some(Path::new("none/lib.so"))),
            "ONNX Runtime was not found; looked in `none/lib.so`"
        );
    }
}
