//! Files that feed inputs: what is opened, which arrays are for which input, and how samples are cut out
//! of them.

use super::DataError;
use super::array::{Array, open_npy, open_npz};
use super::files::Kind;
use super::fit::{Fit, Input};
use super::picture::Picture;
use super::raw::open_raw;
use super::safetensors::open_safetensors;
use super::tensor_pb::{open_pb, open_set};
use super::text::TextFile;
use squint_ir::{Tensor, Type};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that follow each other, for the same inputs.
pub(crate) struct Track {
    /// Positions of the inputs it feeds.
    pub(crate) inputs: Vec<usize>,
    /// The files in order.
    pub(crate) pieces: Vec<Piece>,
    /// Samples in all its files.
    pub(crate) total: usize,
}

/// A file of a track, or a test data set.
pub(crate) struct Piece {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// How it is read.
    pub(crate) reader: Reader,
    /// Number of its first sample within the track.
    pub(crate) start: usize,
    /// Number of its samples.
    pub(crate) count: usize,
}

/// How a file is read.
#[derive(Clone)]
pub(crate) enum Reader {
    /// Arrays; `split` if they may hold many samples.
    Arrays {
        /// What the file is.
        kind: Kind,
        /// Whether it is cut along its first axis.
        split: bool,
    },
    /// A picture, one sample.
    Image(Arc<Picture>),
    /// Texts on lines.
    Text(Arc<TextFile>),
}

/// The arrays of a file that are used: which input each is for, and how it fits.
pub(crate) type Opened = Vec<(usize, Array, Fit)>;

impl Track {
    /// The position of the file that holds a sample.
    pub(crate) fn piece_of(&self, number: usize) -> usize {
        self.pieces.partition_point(|p| p.start + p.count <= number)
    }
}

impl Reader {
    /// What is done to the data before the model sees it.
    pub(crate) fn description(&self) -> &str {
        match self {
            Reader::Arrays { .. } => "arrays as they are",
            Reader::Image(picture) => picture.description(),
            Reader::Text(texts) => texts.description(),
        }
    }
}

impl Piece {
    /// Opens the file and finds the arrays for the inputs at the positions `wanted`. A picture has none, and text neither.
    ///
    /// # Errors
    /// If the file cannot be read, lacks an input, or does not fit it.
    pub(crate) fn open(&self, inputs: &[Input], wanted: &[usize]) -> Result<Opened, DataError> {
        let Reader::Arrays { kind, split } = self.reader else { return Ok(Vec::new()) };
        let broken = |e: String| broken(&self.path, &e);
        if kind.has_names() {
            let mut arrays = self.named_arrays(inputs)?;
            let keys: Vec<String> = arrays.iter().map(|(key, _)| format!("`{key}`")).collect();
            let mut out = Vec::with_capacity(wanted.len());
            for i in wanted {
                let at = arrays.iter().position(|(key, _)| *key == inputs[*i].name);
                let at = at.ok_or_else(|| self.lacks(&inputs[*i], &keys))?;
                let (_, array) = arrays.swap_remove(at);
                let fit = self.fit(&inputs[*i], &array, split)?;
                out.push((*i, array, fit));
            }
            return Ok(out);
        }
        let input = &inputs[wanted[0]];
        let array = match kind {
            Kind::Pb => open_pb(&self.path).map(|(_, array)| array),
            Kind::Raw => open_raw(&self.path, input, split),
            _ => open_npy(&self.path),
        };
        let array = array.map_err(broken)?;
        let fit = self.fit(input, &array, split)?;
        Ok(vec![(wanted[0], array, fit)])
    }

    /// All arrays of a file that has them by name; none for files of other kinds.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn named_arrays(&self, inputs: &[Input]) -> Result<Vec<(String, Array)>, DataError> {
        let Reader::Arrays { kind, .. } = self.reader else { return Ok(Vec::new()) };
        match kind {
            Kind::Npz => open_npz(&self.path),
            Kind::Safetensors => open_safetensors(&self.path),
            Kind::TestDataSet => {
                let names: Vec<&str> = inputs.iter().map(|x| x.name.as_str()).collect();
                open_set(&self.path, &names)
            }
            _ => return Ok(Vec::new()),
        }
        .map_err(|e| broken(&self.path, &e))
    }

    fn lacks(&self, input: &Input, keys: &[String]) -> DataError {
        let (path, name) = (self.path.display(), &input.name);
        let keys = if keys.is_empty() { "no array".into() } else { keys.join(", ") };
        let message = format!("`{path}` has no array for the model's input `{name}`; it has {keys}");
        let how = match &self.reader {
            Reader::Arrays { kind: Kind::Npz, .. } => {
                format!("by name: `numpy.savez(path, **{{\"{name}\": array}})`")
            }
            Reader::Arrays { kind: Kind::Safetensors, .. } => {
                format!("by name: `safetensors.numpy.save_file({{\"{name}\": array}}, path)`")
            }
            _ => "by the name in them, or by position: `input_0.pb` is for the first input".into(),
        };
        DataError::new(message).help(format!("arrays are found {how}"))
    }

    fn fit(&self, input: &Input, array: &Array, split: bool) -> Result<Fit, DataError> {
        let fit = input.check_type(array.dtype()).and_then(|()| input.fit(array.dims(), split));
        fit.map_err(|why| {
            let dims = array.dims().iter().map(|d| (*d).into()).collect();
            let have = Type::tensor(array.dtype(), Some(dims));
            let (path, name, want) = (self.path.display(), &input.name, input.describe());
            let e = DataError::new(format!(
                "`{path}`: data for input `{name}` is {have}, the model takes {want}: {why}"
            ));
            match input.fit(array.dims(), true) {
                Ok(Fit::Rows { .. }) if !split => e.help(
                    "in a folder or a list each file is one sample; name the file itself to cut it along its first \
                     axis",
                ),
                _ => e,
            }
        })
    }

    /// Takes the sample at position `row` of the file out of an array.
    ///
    /// # Errors
    /// If the data cannot be read, or is not finite.
    pub(crate) fn cut(
        &self,
        input: &Input,
        array: &Array,
        fit: Fit,
        row: usize,
    ) -> Result<Tensor, DataError> {
        let read = match fit {
            Fit::Whole { expand: false } => array.whole(),
            Fit::Whole { expand: true } => array.whole().and_then(|t| {
                let dims: Vec<usize> = std::iter::once(1).chain(t.dims().iter().copied()).collect();
                t.reshaped(&dims).map_err(|e| e.to_string())
            }),
            Fit::Rows { batch, count, squeeze } => {
                let row = if count == 1 { 0 } else { row };
                array.rows(row * batch, batch).and_then(|t| match squeeze {
                    true => t.reshaped(&t.dims()[1..]).map_err(|e| e.to_string()),
                    false => Ok(t),
                })
            }
        };
        let many = fit.count() > 1;
        read.and_then(|t| input.accept(t)).map_err(|e| {
            let sample = if many { format!(" (sample {row})") } else { String::new() };
            let (path, name) = (self.path.display(), &input.name);
            DataError::new(format!("`{path}`: data for input `{name}`{sample} {e}"))
        })
    }
}

/// A problem with a file.
pub(crate) fn broken(path: &Path, why: &str) -> DataError {
    DataError::new(format!("`{}` {why}", path.display()))
}
