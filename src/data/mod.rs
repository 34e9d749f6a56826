//! Calibration data: files as samples, read one at a time.
//!
//! Each `--data` argument is a file, a folder, or `INPUT=` and one of these for a model with several
//! inputs. Folders are searched with their subfolders, in the order of the names' bytes; hidden files and
//! files of other kinds are passed over.
//!
//! | kind | what it holds |
//! |---|---|
//! | `.npz`, `.safetensors` | an array for each input, under the input's name; others are passed over |
//! | `.npy`, `.pb` | an array for the one input |
//! | `.bin` | elements for the one input, in the type and shape that the model declares |
//! | a folder with `input_0.pb`, ... | one sample: an encoded tensor for each input |
//! | `.png`, `.jpg`, `.bmp`, `.webp` | one sample for the one input, see [`Preprocessing`] |
//! | `.txt`, `.lst` | the paths of such files, one on each line, relative to the list |
//! | `.txt`, `.jsonl` with a tokenizer | a text on each line, see `text.rs` |
//!
//! **In a folder or a list, each file is one sample**, exactly as it is. **A file named by itself may hold
//! many**, along its first axis. With the input's shape `[B, ...]`, where a symbolic or unknown `B` counts
//! as 1, an array of such a file is cut as follows:
//!
//! | shape of the array | samples |
//! |---|---|
//! | `[n * B, ...]` | `n` of shape `[B, ...]` |
//! | `[n, B, ...]`, one axis more | `n` of shape `[B, ...]` |
//! | `[...]`, one axis less, if `B` is 1 | one of shape `[1, ...]`; also in a folder |
//! | any, if the input's rank is unknown | one |
//!
//! Arrays of one file, and the data of several inputs, must agree in their number of samples; what holds
//! one sample only goes with all of them. Element types must be those of the model, except that integers
//! may be narrower, half precision is widened, and binary64 is rounded to binary32. NaN and infinities
//! are refused.

mod array;
mod dataset;
mod files;
mod fit;
mod labels;
mod npy;
mod npz;
mod picture;
mod preprocessing;
mod preset;
mod raw;
mod safetensors;
mod tensor_pb;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;
mod track;

pub use dataset::Dataset;
pub use labels::labels;
pub use npz::npz;
pub use preprocessing::{Channels, Layout, Letterbox, Place, Preprocessing, Resize, Scale, Size};
pub use preset::{PRESETS, Preset};

use std::path::PathBuf;

/// Which data to read, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataOptions {
    /// Files and folders, each with `INPUT=` in front if it is for one input of several.
    pub paths: Vec<String>,
    /// Use no more than this many samples, evenly spread over all there are: sample `i` of `n` is number
    /// `floor(i * total / n)`.
    pub samples: Option<usize>,
    /// What is done to images.
    pub preprocessing: Preprocessing,
    /// A `tokenizer.json`; `.txt` files then hold a text on each line.
    pub tokenizer: Option<PathBuf>,
    /// Texts become no more tokens than this.
    pub max_length: Option<usize>,
}

impl DataOptions {
    /// All samples of some files and folders.
    pub fn new<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> DataOptions {
        DataOptions { paths: paths.into_iter().map(Into::into).collect(), ..DataOptions::default() }
    }
}

/// Why data cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DataError {
    /// The file or input, and what is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl DataError {
    fn new(message: impl Into<String>) -> DataError {
        DataError { message: message.into(), help: None }
    }

    fn help(self, help: impl Into<String>) -> DataError {
        DataError { help: Some(help.into()), ..self }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Files as other programs write them.

    use ::safetensors::Dtype;
    use ::safetensors::tensor::TensorView;
    use squint_ir::{DType, Tensor};
    use std::io::{Cursor, Write};
    use std::path::PathBuf;
    use zip::write::{SimpleFileOptions, ZipWriter};

    /// A `.npy` file with the bytes of `data` as they are.
    pub(crate) fn npy_bytes(descr: &str, fortran: bool, dims: &[usize], data: &Tensor) -> Vec<u8> {
        let axes: String = dims.iter().map(|d| format!("{d},")).collect();
        let fortran = if fortran { "True" } else { "False" };
        let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({axes}), }}\n");
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
        out.extend_from_slice(data.bytes());
        out
    }

    /// A `.npy` file of binary32.
    pub(crate) fn floats(dims: &[usize], data: &[f32]) -> Vec<u8> {
        npy_bytes("<f4", false, dims, &Tensor::from_f32(dims, data))
    }

    /// An `.npz` archive of `.npy` files.
    pub(crate) fn npz_bytes(arrays: &[(&str, Vec<u8>)], compress: bool) -> Vec<u8> {
        let method = if compress { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method))
                .unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    /// A `.safetensors` file; `tensors` are float, bfloat16 or int64.
    pub(crate) fn safetensors_bytes(tensors: &[(&str, &Tensor)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, t)| {
            let dtype = match t.dtype() {
                DType::Float => Dtype::F32,
                DType::Bfloat16 => Dtype::BF16,
                _ => Dtype::I64,
            };
            (*name, TensorView::new(dtype, t.dims().to_vec(), t.bytes()).unwrap())
        });
        ::safetensors::serialize(views, None).unwrap()
    }

    /// A `TensorProto` with raw data; lengths are below 128.
    pub(crate) fn pb_bytes(name: &str, tensor: &Tensor) -> Vec<u8> {
        let mut out = Vec::new();
        for d in tensor.dims() {
            out.extend([1 << 3, u8::try_from(*d).unwrap()]);
        }
        out.extend([2 << 3, tensor.dtype().code() as u8]);
        for (field, bytes) in [(8u8, name.as_bytes()), (9, &tensor.bytes()[..])] {
            out.extend([field << 3 | 2, u8::try_from(bytes.len()).unwrap()]);
            out.extend(bytes);
        }
        out
    }

    /// Writes a file into a folder.
    pub(crate) fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}
