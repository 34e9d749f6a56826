//! Samples put together from files.

use super::array::{Array, open_npy, open_npz};
use super::files::{Files, Kind, list};
use super::fit::{Fit, Input, inputs_of};
use super::picture::Picture;
use super::{DataError, DataOptions};
use squint_ir::execute::{Sample, Samples};
use squint_ir::{Model, Tensor, Type};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Samples for a model, from files. Each is read when it is asked for and kept no longer than it is used.
pub struct Dataset {
    inputs: Vec<Input>,
    tracks: Vec<Track>,
    picks: Vec<usize>,
    total: usize,
    notes: Vec<String>,
    open: Mutex<Vec<(Place, Arc<Opened>)>>,
}

/// Files that follow each other, for the same inputs.
struct Track {
    /// Positions of the inputs it feeds.
    inputs: Vec<usize>,
    pieces: Vec<Piece>,
    /// Samples in all its files.
    total: usize,
}

struct Piece {
    path: PathBuf,
    reader: Reader,
    /// Number of its first sample within the track.
    start: usize,
    count: usize,
}

#[derive(Clone)]
enum Reader {
    /// Arrays; `split` if they may hold many samples.
    Arrays {
        kind: Kind,
        split: bool,
    },
    Image(Arc<Picture>),
}

/// Track and piece.
type Place = (usize, usize);
/// The arrays of a file that are used: which input each is for, and how it fits.
type Opened = Vec<(usize, Array, Fit)>;

/// Files with many samples that are kept open. Threads ask for neighbouring samples, so that around the
/// end of a file two are in use.
const KEPT_OPEN: usize = 2;

impl Dataset {
    /// Finds the samples for a model, and reads the first to see whether it fits.
    ///
    /// # Errors
    /// If there is no data, an input has none, or what was looked at does not fit the model.
    pub fn open(model: &Model, options: &DataOptions) -> Result<Dataset, DataError> {
        let inputs = inputs_of(model).map_err(DataError::new)?;
        let mut set = Dataset {
            inputs,
            tracks: Vec::new(),
            picks: Vec::new(),
            total: 0,
            notes: Vec::new(),
            open: Mutex::new(Vec::new()),
        };
        let mut rest: Vec<Files> = Vec::new();
        let mut named: Vec<(usize, Vec<Files>)> = Vec::new();
        for argument in &options.paths {
            match set.named(argument)? {
                (None, path) => rest.push(list(path)?),
                (Some(i), path) => match named.iter_mut().find(|(n, _)| *n == i) {
                    Some((_, files)) => files.push(list(path)?),
                    None => named.push((i, vec![list(path)?])),
                },
            }
        }
        let unnamed: Vec<usize> =
            (0..set.inputs.len()).filter(|i| named.iter().all(|(n, _)| n != i)).collect();
        for (input, files) in named {
            set.add_track(vec![input], files, options)?;
        }
        if !rest.is_empty() {
            set.add_track(unnamed, rest, options)?;
        } else if let Some(i) = unnamed.first() {
            let name = &set.inputs[*i].name;
            return Err(DataError::new(format!("there is no data for the model's input `{name}`"))
                .help(format!("give it with `--data {name}=PATH`, or all inputs in one `.npz` file")));
        }
        set.pick(options.samples)?;
        set.read(0)?;
        set.note_unused()?;
        Ok(set)
    }

    /// Number of samples in the files, of which [`Samples::len`] are used.
    pub fn total(&self) -> usize {
        self.total
    }

    /// What was passed over.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Splits `INPUT=PATH`; an argument that is a path itself is not split.
    fn named<'a>(&self, argument: &'a str) -> Result<(Option<usize>, &'a Path), DataError> {
        for (at, _) in argument.match_indices('=') {
            if let Some(i) = self.inputs.iter().position(|x| x.name == argument[..at]) {
                return Ok((Some(i), Path::new(&argument[at + 1..])));
            }
        }
        let path = Path::new(argument);
        match argument.split_once('=') {
            Some((name, _)) if !path.exists() => {
                let message = format!("calibration data `{argument}`: the model has no input `{name}`");
                Err(DataError::new(message).help(format!("its inputs are {}", self.list_inputs())))
            }
            _ => Ok((None, path)),
        }
    }

    fn list_inputs(&self) -> String {
        let inputs: Vec<String> =
            self.inputs.iter().map(|x| format!("`{}` {}", x.name, x.describe())).collect();
        if inputs.is_empty() { "none".into() } else { inputs.join(", ") }
    }

    fn add_track(
        &mut self,
        inputs: Vec<usize>,
        groups: Vec<Files>,
        options: &DataOptions,
    ) -> Result<(), DataError> {
        if inputs.is_empty() {
            let shown = groups[0].paths[0].display();
            return Err(DataError::new(format!(
                "calibration data `{shown}` is for no input: all have theirs by name"
            )));
        }
        let track = self.tracks.len();
        self.tracks.push(Track { inputs: inputs.clone(), pieces: Vec::new(), total: 0 });
        for files in groups {
            if files.kind != Kind::Npz && inputs.len() > 1 {
                let message =
                    format!("`{}` is for one input, but the model has several", files.paths[0].display());
                return Err(DataError::new(message)
                    .help(format!("write `--data INPUT=PATH`; the inputs are {}", self.list_inputs())));
            }
            let reader = match files.kind {
                Kind::Image => {
                    let picture = Picture::new(&self.inputs[inputs[0]], &options.preprocessing)
                        .map_err(DataError::new)?;
                    Reader::Image(Arc::new(picture))
                }
                kind => Reader::Arrays { kind, split: files.alone },
            };
            for path in files.paths {
                let start = self.tracks[track].total;
                self.tracks[track].pieces.push(Piece { path, reader: reader.clone(), start, count: 1 });
                let piece = self.tracks[track].pieces.len() - 1;
                if files.alone && files.kind != Kind::Image {
                    let count = self.count((track, piece))?;
                    self.tracks[track].pieces[piece].count = count;
                }
                self.tracks[track].total += self.tracks[track].pieces[piece].count;
            }
        }
        Ok(())
    }

    /// The number of samples in a file: that of its arrays, those with one sample set aside.
    fn count(&self, place: Place) -> Result<usize, DataError> {
        let opened = self.opened(place)?;
        let many: Vec<(&str, usize)> = opened
            .iter()
            .map(|(i, _, fit)| (self.inputs[*i].name.as_str(), fit.count()))
            .filter(|(_, n)| *n != 1)
            .collect();
        let Some((first, n)) = many.first() else { return Ok(1) };
        match many.iter().find(|(_, m)| m != n) {
            None => Ok(*n),
            Some((other, m)) => {
                let path = self.piece(place).path.display();
                let message =
                    format!("`{path}` holds {n} samples for input `{first}` and {m} for input `{other}`");
                Err(DataError::new(message)
                    .help("if the file is one sample, put it into a folder and name the folder"))
            }
        }
    }

    fn pick(&mut self, limit: Option<usize>) -> Result<(), DataError> {
        let name = |t: &Track| self.inputs[t.inputs[0]].name.as_str();
        let many: Vec<&Track> = self.tracks.iter().filter(|t| t.total != 1).collect();
        if let Some(other) = many.iter().find(|t| t.total != many[0].total) {
            let (a, b) = (many[0], other);
            let message = format!(
                "there are {} samples for input `{}` and {} for input `{}`",
                a.total,
                name(a),
                b.total,
                name(b)
            );
            return Err(DataError::new(message)
                .help("each sample needs all inputs, or one sample that goes with all"));
        }
        let total = many.first().map_or(1, |t| t.total);
        let n = limit.map_or(total, |n| n.min(total));
        self.picks = (0..n).map(|i| (i as u128 * total as u128 / n as u128) as usize).collect();
        self.total = total;
        if n == 0 {
            return Err(DataError::new("no sample is left to calibrate with")
                .help("give `--samples` a number above 0"));
        }
        Ok(())
    }

    /// Notes arrays that no input wants, for the first file of each track: others are most likely alike.
    fn note_unused(&mut self) -> Result<(), DataError> {
        for piece in self.tracks.iter().filter_map(|t| t.pieces.first()) {
            let Reader::Arrays { kind: Kind::Npz, .. } = piece.reader else { continue };
            let arrays = open_npz(&piece.path).map_err(|e| broken(&piece.path, &e))?;
            for (key, _) in arrays.iter().filter(|(k, _)| self.inputs.iter().all(|x| x.name != *k)) {
                let path = piece.path.display();
                self.notes
                    .push(format!("array `{key}` of `{path}` is no input of the model and is passed over"));
            }
        }
        Ok(())
    }

    fn piece(&self, (track, piece): Place) -> &Piece {
        &self.tracks[track].pieces[piece]
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let mut sample: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        for (t, track) in self.tracks.iter().enumerate() {
            let number = if track.total == 1 { 0 } else { self.picks[index] };
            let p = track.pieces.partition_point(|p| p.start + p.count <= number);
            let (piece, place) = (&track.pieces[p], (t, p));
            match &piece.reader {
                Reader::Image(picture) => {
                    sample[track.inputs[0]] =
                        Some(picture.read(&piece.path).map_err(|e| broken(&piece.path, &e))?);
                }
                Reader::Arrays { .. } => {
                    for (i, array, fit) in self.opened(place)?.iter() {
                        sample[*i] =
                            Some(self.cut(place, &self.inputs[*i], array, *fit, number - piece.start)?);
                    }
                }
            }
        }
        let names = self.inputs.iter().map(|x| x.name.clone());
        let filled = sample.into_iter().map(|t| t.expect("invariant: every input has a track"));
        Ok(names.zip(filled).collect())
    }

    /// Takes a sample out of an array.
    fn cut(
        &self,
        place: Place,
        input: &Input,
        array: &Array,
        fit: Fit,
        row: usize,
    ) -> Result<Tensor, DataError> {
        let path = &self.piece(place).path;
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
            DataError::new(format!("`{}`: data for input `{}`{sample} {e}", path.display(), input.name))
        })
    }

    /// A file, opened, with the arrays that are used.
    fn opened(&self, place: Place) -> Result<Arc<Opened>, DataError> {
        let Reader::Arrays { split: true, .. } = self.piece(place).reader else {
            return Ok(Arc::new(self.open_arrays(place)?));
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = open.iter().find(|(p, _)| *p == place) {
            return Ok(found.clone());
        }
        let opened = Arc::new(self.open_arrays(place)?);
        if open.len() == KEPT_OPEN {
            open.remove(0);
        }
        open.push((place, opened.clone()));
        Ok(opened)
    }

    fn open_arrays(&self, place: Place) -> Result<Opened, DataError> {
        let piece = self.piece(place);
        let wanted = &self.tracks[place.0].inputs;
        let Reader::Arrays { kind, split } = piece.reader else { return Ok(Vec::new()) };
        if kind == Kind::Npy {
            let array = open_npy(&piece.path).map_err(|e| broken(&piece.path, &e))?;
            let fit = self.check(&piece.path, wanted[0], &array, split)?;
            return Ok(vec![(wanted[0], array, fit)]);
        }
        let mut arrays = open_npz(&piece.path).map_err(|e| broken(&piece.path, &e))?;
        let mut out = Vec::with_capacity(wanted.len());
        for i in wanted {
            let name = &self.inputs[*i].name;
            let Some(at) = arrays.iter().position(|(k, _)| k == name) else {
                let keys: Vec<String> = arrays.iter().map(|(k, _)| format!("`{k}`")).collect();
                let keys = if keys.is_empty() { "no array".into() } else { keys.join(", ") };
                let message = format!(
                    "`{}` has no array for the model's input `{name}`; it has {keys}",
                    piece.path.display()
                );
                return Err(DataError::new(message).help(format!(
                    "arrays are found by name: `numpy.savez(path, **{{\"{name}\": array}})`"
                )));
            };
            let (_, array) = arrays.swap_remove(at);
            let fit = self.check(&piece.path, *i, &array, split)?;
            out.push((*i, array, fit));
        }
        Ok(out)
    }

    fn check(&self, path: &Path, input: usize, array: &Array, split: bool) -> Result<Fit, DataError> {
        let input = &self.inputs[input];
        let fit = input.check_type(array.dtype()).and_then(|()| input.fit(array.dims(), split));
        fit.map_err(|why| {
            let dims = array.dims().iter().map(|d| (*d).into()).collect();
            let have = Type::tensor(array.dtype(), Some(dims));
            let (name, want) = (&input.name, input.describe());
            let e = DataError::new(format!("`{}`: data for input `{name}` is {have}, the model takes {want}: {why}", path.display()));
            match input.fit(array.dims(), true) {
                Ok(Fit::Rows { .. }) if !split => {
                    e.help("in a folder each file is one sample; name the file itself to cut it along its first axis")
                }
                _ => e,
            }
        })
    }
}

impl Fit {
    fn count(self) -> usize {
        match self {
            Fit::Whole { .. } => 1,
            Fit::Rows { count, .. } => count,
        }
    }
}

impl Samples for Dataset {
    fn len(&self) -> usize {
        self.picks.len()
    }

    fn get(&self, index: usize) -> Result<Sample, String> {
        self.read(index).map_err(|e| match e.help {
            Some(help) => format!("{}; {help}", e.message),
            None => e.message,
        })
    }
}

fn broken(path: &Path, why: &str) -> DataError {
    DataError::new(format!("`{}` {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{floats, npz_bytes, write};
    use squint_ir::{DType, Dim};
    use tempfile::TempDir;

    /// A model with float inputs of these names and shapes; a negative length is symbolic.
    fn model(inputs: &[(&str, &[i64])]) -> Model {
        let mut m = Model::new("g", 17);
        for (name, dims) in inputs {
            let dim = |d: &i64| if *d < 0 { Dim::Symbol("N".into()) } else { Dim::Known(*d as u64) };
            let v = m
                .main_mut()
                .add_value(name, Some(Type::tensor(DType::Float, Some(dims.iter().map(dim).collect()))));
            m.main_mut().inputs.push(v);
        }
        m
    }

    fn open(m: &Model, paths: &[String]) -> Result<Dataset, DataError> {
        Dataset::open(m, &DataOptions::new(paths.iter().map(String::as_str)))
    }

    fn put(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
        write(dir, name, bytes).to_str().unwrap().to_owned()
    }

    fn values(set: &Dataset) -> Vec<f32> {
        (0..set.len()).flat_map(|i| set.get(i).unwrap()[0].1.to_f32s()).collect()
    }

    #[test]
    fn an_archive_by_itself_is_cut_and_one_in_a_folder_is_not() {
        let dir = TempDir::new().unwrap();
        let m = model(&[("x", &[-1, 2])]);
        let numbers: Vec<f32> = (0..12).map(|x| x as f32).collect();
        for compress in [false, true] {
            let file = put(&dir, "d/x.npz", &npz_bytes(&[("x", floats(&[6, 2], &numbers))], compress));
            let set = open(&m, std::slice::from_ref(&file)).unwrap();
            assert_eq!((set.len(), values(&set)), (6, numbers.clone()));
            assert_eq!(set.get(4).unwrap()[0].1.dims(), [1, 2]);
            let set = open(&m, &[file.clone(), file]).unwrap();
            assert_eq!(set.get(7).unwrap()[0].1.to_f32s(), [2.0, 3.0]);
            let set = open(&m, &[dir.path().to_str().unwrap().into()]).unwrap();
            assert_eq!((set.len(), set.get(0).unwrap()[0].1.dims()), (1, &[6, 2][..]));
        }
    }

    #[test]
    fn samples_are_picked_evenly() {
        let dir = TempDir::new().unwrap();
        let file = put(&dir, "x.npy", &floats(&[10, 1], &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]));
        let options = DataOptions { samples: Some(4), ..DataOptions::new([file]) };
        let set = Dataset::open(&model(&[("x", &[-1, 1])]), &options).unwrap();
        assert_eq!((values(&set), set.total()), (vec![0.0, 2.0, 5.0, 7.0], 10));
    }

    #[test]
    fn several_inputs_by_name() {
        let dir = TempDir::new().unwrap();
        let m = model(&[("x", &[-1, 1]), ("state", &[2])]);
        let x = put(&dir, "x.npy", &floats(&[3, 1], &[1., 2., 3.]));
        let state = put(&dir, "state.npy", &floats(&[2], &[8., 9.]));
        let set = open(&m, &[format!("state={state}"), format!("x={x}")]).unwrap();
        let last = set.get(2).unwrap();
        assert_eq!((last[0].0.as_str(), last[0].1.to_f32s()), ("x", vec![3.0]));
        assert_eq!((last[1].0.as_str(), last[1].1.to_f32s()), ("state", vec![8.0, 9.0]));
        // What is not named is for the one input that is left.
        assert_eq!(open(&m, &[format!("state={state}"), x.clone()]).unwrap().len(), 3);
        let message = |paths: &[String]| open(&m, paths).err().unwrap().message;
        assert!(message(&[format!("x={x}")]).contains("no data for the model's input `state`"));
        assert!(message(&[format!("y={x}")]).contains("the model has no input `y`"));
        assert!(message(std::slice::from_ref(&x)).contains("is for one input, but the model has several"));
        let more = put(&dir, "more.npy", &floats(&[2, 2], &[8., 9., 8., 9.]));
        assert!(
            message(&[format!("x={x}"), format!("state={more}")]).contains("3 samples for input `x` and 2")
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let dir = TempDir::new().unwrap();
        let m = model(&[("x", &[-1, 2])]);
        let error = |name: &str, bytes: &[u8]| open(&m, &[put(&dir, name, bytes)]).err().unwrap();
        let e = error("shape.npz", &npz_bytes(&[("x", floats(&[1, 3], &[0.; 3]))], false));
        assert!(e.message.ends_with("data for input `x` is float[1,3], the model takes float[N,2]: axis 1 of the input is 2, not 3"), "{e}");
        let e = error("name.npz", &npz_bytes(&[("y", floats(&[1, 2], &[0.; 2]))], false));
        assert!(e.message.ends_with("has no array for the model's input `x`; it has `y`"), "{e}");
        let e = error("nan.npy", &floats(&[3, 2], &[f32::NAN, 0., 0., 0., 0., 0.]));
        assert!(e.message.ends_with("data for input `x` (sample 0) holds NaN at [0, 0]"), "{e}");
        assert!(error("cut.npz", b"PK\x03\x04").message.contains("is not an `.npz` archive"));
        put(&dir, "batch/x.npy", &floats(&[3, 2], &[0.; 6]));
        let folder = dir.path().join("batch").to_str().unwrap().to_owned();
        let e = open(&model(&[("x", &[1, 2])]), &[folder]).err().unwrap();
        assert!(e.help.unwrap().contains("name the file itself"));
        assert_eq!(open(&m, &[]).err().unwrap().message, "there is no data for the model's input `x`");
    }

    #[test]
    fn arrays_that_are_no_inputs_are_noted() {
        let dir = TempDir::new().unwrap();
        let both = npz_bytes(&[("labels", floats(&[1], &[0.])), ("x", floats(&[1, 2], &[0.; 2]))], false);
        let set = open(&model(&[("x", &[-1, 2])]), &[put(&dir, "b.npz", &both)]).unwrap();
        assert!(set.notes()[0].starts_with("array `labels` of") && set.notes().len() == 1);
    }
}
