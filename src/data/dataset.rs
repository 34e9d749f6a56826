//! Samples put together from files.

use super::files::{Files, Kind, list};
use super::fit::{Input, inputs_of};
use super::picture::Picture;
use super::text::{Feed, TextFile};
use super::track::{Opened, Piece, Reader, Track, broken};
use super::{DataError, DataOptions};
use squint_ir::execute::{Sample, Samples};
use squint_ir::{Model, Tensor};
use std::path::Path;
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

/// Track and piece.
type Place = (usize, usize);

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
        let texts = options.tokenizer.is_some();
        let mut rest: Vec<Files> = Vec::new();
        let mut named: Vec<(usize, Vec<Files>)> = Vec::new();
        for argument in &options.paths {
            match set.named(argument)? {
                (None, path) => rest.push(list(path, texts)?),
                (Some(i), path) => match named.iter_mut().find(|(n, _)| *n == i) {
                    Some((_, files)) => files.push(list(path, texts)?),
                    None => named.push((i, vec![list(path, texts)?])),
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
        let has_texts =
            set.tracks.iter().flat_map(|t| &t.pieces).any(|p| matches!(p.reader, Reader::Text(_)));
        if texts && !has_texts {
            set.notes.push("there is a tokenizer, but no data that is text".into());
        }
        Ok(set)
    }

    /// Number of samples in the files, of which [`Samples::len`] are used.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Which of them are used, in order.
    pub fn numbers(&self) -> &[usize] {
        &self.picks
    }

    /// What is done to the data before the model sees it, for each input: `arrays as they are`, or the flags
    /// that say what is done to images, with all defaults worked out. One line; the same data read in the
    /// same way gives the same text.
    pub fn preprocessing(&self) -> String {
        let mut tracks: Vec<&Track> = self.tracks.iter().collect();
        tracks.sort_by_key(|t| t.inputs[0]);
        let mut parts: Vec<String> = Vec::new();
        for track in tracks {
            let names: Vec<&str> = track.inputs.iter().map(|i| self.inputs[*i].name.as_str()).collect();
            let mut how: Vec<&str> = track.pieces.iter().map(|p| p.reader.description()).collect();
            how.dedup();
            parts.push(format!("{}: {}", names.join(", "), how.join(", ")));
        }
        parts.join("; ")
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
            if !files.kind.has_names() && inputs.len() > 1 {
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
                Kind::Text => Reader::Text(Arc::new(self.texts(&files.paths[0], &inputs, options)?)),
                kind => Reader::Arrays { kind, split: files.alone },
            };
            for path in files.paths {
                let start = self.tracks[track].total;
                self.tracks[track].pieces.push(Piece { path, reader: reader.clone(), start, count: 1 });
                let piece = self.tracks[track].pieces.len() - 1;
                let count = match &reader {
                    Reader::Text(texts) => texts.len(),
                    Reader::Arrays { split: true, .. } => self.count((track, piece))?,
                    _ => 1,
                };
                self.tracks[track].pieces[piece].count = count;
                self.tracks[track].total += self.tracks[track].pieces[piece].count;
            }
        }
        Ok(())
    }

    /// The lines of a file of texts, and what becomes of them.
    fn texts(&self, path: &Path, inputs: &[usize], options: &DataOptions) -> Result<TextFile, DataError> {
        let tokenizer = options.tokenizer.as_ref().expect("invariant: without one, no file holds texts");
        let feed = Feed::open(tokenizer, options.max_length, &self.inputs, inputs).map_err(DataError::new)?;
        TextFile::open(path, Arc::new(feed)).map_err(|e| broken(path, &e))
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
            let arrays = piece.named_arrays(&self.inputs)?;
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
            let p = track.piece_of(number);
            let (piece, place) = (&track.pieces[p], (t, p));
            match &piece.reader {
                Reader::Image(picture) => {
                    sample[track.inputs[0]] =
                        Some(picture.read(&piece.path).map_err(|e| broken(&piece.path, &e))?);
                }
                Reader::Text(texts) => {
                    let read = texts.read(&piece.path, number - piece.start);
                    for (i, tensor) in read.map_err(|e| broken(&piece.path, &e))? {
                        sample[i] = Some(tensor);
                    }
                }
                Reader::Arrays { .. } => {
                    for (i, array, fit) in self.opened(place)?.iter() {
                        sample[*i] = Some(piece.cut(&self.inputs[*i], array, *fit, number - piece.start)?);
                    }
                }
            }
        }
        let names = self.inputs.iter().map(|x| x.name.clone());
        let filled = sample.into_iter().map(|t| t.expect("invariant: every input has a track"));
        Ok(names.zip(filled).collect())
    }

    fn open_piece(&self, place: Place) -> Result<Opened, DataError> {
        self.piece(place).open(&self.inputs, &self.tracks[place.0].inputs)
    }

    /// A file, opened, with the arrays that are used.
    fn opened(&self, place: Place) -> Result<Arc<Opened>, DataError> {
        let Reader::Arrays { split: true, .. } = self.piece(place).reader else {
            return Ok(Arc::new(self.open_piece(place)?));
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = open.iter().find(|(p, _)| *p == place) {
            return Ok(found.clone());
        }
        let opened = Arc::new(self.open_piece(place)?);
        if open.len() == KEPT_OPEN {
            open.remove(0);
        }
        open.push((place, opened.clone()));
        Ok(opened)
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
