//! Texts as samples: a line of a `.txt` file each, or of a `.jsonl` file, whose lines are JSON objects with a field
//! `text`. Empty lines are passed over.
//!
//! A tokenizer makes numbers of them ([`super::tokenizer`]), which inputs take by their names:
//!
//! | input | takes |
//! |---|---|
//! | `input_ids`, or the only input | numbers of the tokens |
//! | `attention_mask` | 1 for a token, 0 for padding |
//! | `token_type_ids` | 0, or what the tokenizer's template says |
//! | `position_ids` | 0, 1, 2, ... |
//!
//! Only the places of the lines are kept in memory.

use super::fit::Input;
use super::tokenizer::{Bounds, Encoding, Tokenizer};
use squint_ir::{DType, Dim, Tensor};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Longest line, in bytes.
const MAX_LINE: u64 = 4 << 20;

/// What becomes of a text, for some inputs of a model.
#[derive(Debug)]
pub(crate) struct Feed {
    tokenizer: Tokenizer,
    bounds: Bounds,
    places: Vec<Place>,
    description: String,
}

/// How an input is fed.
#[derive(Debug)]
struct Place {
    /// Position of the input.
    input: usize,
    role: Role,
    dtype: DType,
    batched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
}

/// A file of texts, and where its lines are.
#[derive(Debug)]
pub(crate) struct TextFile {
    feed: Arc<Feed>,
    json: bool,
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    offset: u64,
    number: usize,
}

impl Feed {
    /// Reads a tokenizer for the inputs at the positions `wanted`. Texts become at most `max` tokens.
    ///
    /// # Errors
    /// If the tokenizer cannot be followed, or texts cannot be fed to one of the inputs.
    pub(crate) fn open(
        path: &Path,
        max: Option<usize>,
        inputs: &[Input],
        wanted: &[usize],
    ) -> Result<Feed, String> {
        let shown = path.display();
        let tokenizer = Tokenizer::open(path).map_err(|e| format!("tokenizer `{shown}` {e}"))?;
        let mut exact = None;
        let mut places = Vec::new();
        for i in wanted {
            let input = &inputs[*i];
            let (place, length) = Place::of(*i, input, wanted.len() == 1)?;
            if length.is_some() && exact.is_some() && exact != length {
                let (name, ty) = (&input.name, input.describe());
                return Err(format!("input `{name}` is {ty}, of another length than those before it"));
            }
            exact = length.or(exact);
            places.push(place);
        }
        let bounds = Bounds { max, exact };
        let mut description = format!("--tokenizer {}", path.file_name().unwrap_or_default().display());
        if let Some(max) = tokenizer.max_length(bounds) {
            description.push_str(&format!(" --max-length {max}"));
        }
        description.push_str(&format!(" ({})", tokenizer.kind()));
        Ok(Feed { tokenizer, bounds, places, description })
    }

    /// What is done to texts.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }
}

impl Place {
    /// How an input is fed, and how many tokens it takes if it says so.
    fn of(position: usize, input: &Input, is_only: bool) -> Result<(Place, Option<usize>), String> {
        let cannot = |why: &str| {
            let (name, ty) = (&input.name, input.describe());
            format!("texts do not fit the model's input `{name}`, which is {ty}: {why}")
        };
        let role = match input.name.as_str() {
            "input_ids" => Role::Ids,
            "attention_mask" => Role::Mask,
            "token_type_ids" => Role::Types,
            "position_ids" => Role::Positions,
            _ if is_only => Role::Ids,
            _ => {
                return Err(cannot(
                    "texts are for inputs named `input_ids`, `attention_mask`, `token_type_ids` and `position_ids`; \
                     give data for this one with `--data INPUT=PATH`",
                ));
            }
        };
        if !matches!(input.dtype, DType::Int64 | DType::Int32) {
            return Err(cannot("it takes no int64 or int32"));
        }
        let shape = input.shape.as_deref().unwrap_or(&[Dim::Unknown, Dim::Unknown]);
        let (batched, length) = match shape {
            [length] => (false, length),
            [batch, length] if batch.known().is_none_or(|b| b == 1) => (true, length),
            [_, _] => return Err(cannot("its batch is fixed, and each text is one sample")),
            _ => return Err(cannot("one or two axes are needed")),
        };
        let length = length.known().map(|n| usize::try_from(n).map_err(|_| cannot("it is too long")));
        Ok((Place { input: position, role, dtype: input.dtype, batched }, length.transpose()?))
    }

    fn tensor(&self, encoding: &Encoding) -> Result<Tensor, String> {
        let n = encoding.ids.len();
        let numbers: Vec<i64> = match self.role {
            Role::Ids => encoding.ids.iter().map(|x| i64::from(*x)).collect(),
            Role::Mask => encoding.mask.iter().map(|x| i64::from(*x)).collect(),
            Role::Types => encoding.types.iter().map(|x| i64::from(*x)).collect(),
            Role::Positions => (0..n as i64).collect(),
        };
        let dims = if self.batched { vec![1, n] } else { vec![n] };
        if self.dtype == DType::Int64 {
            return Ok(Tensor::from_i64(&dims, &numbers));
        }
        let narrow: Result<Vec<i32>, _> = numbers.iter().map(|x| i32::try_from(*x)).collect();
        let narrow = narrow.map_err(|_| "has a token whose number does not fit int32".to_owned())?;
        let bytes: Vec<u8> = narrow.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor::raw(self.dtype, &dims, bytes.into()).map_err(|e| e.to_string())
    }
}

impl TextFile {
    /// Finds the lines of a file.
    ///
    /// # Errors
    /// If it cannot be read, or holds no text.
    pub(crate) fn open(path: &Path, feed: Arc<Feed>) -> Result<TextFile, String> {
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        let mut reader = BufReader::new(File::open(path).map_err(|e| format!("cannot be read: {e}"))?);
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        let mut offset = 0;
        for number in 1.. {
            let length = read_line(&mut reader, &mut line).map_err(|e| format!("line {number} {e}"))?;
            if length == 0 {
                break;
            }
            if !line.trim_ascii().is_empty() {
                lines.push(Line { offset, number });
            }
            offset += length;
        }
        if lines.is_empty() {
            return Err("holds no text".into());
        }
        Ok(TextFile { feed, json, lines })
    }

    /// Number of texts.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// What is done to texts.
    pub(crate) fn description(&self) -> &str {
        self.feed.description()
    }

    /// Reads a text: an array for each input, by its position.
    ///
    /// # Errors
    /// If it cannot be read, or not be encoded.
    pub(crate) fn read(&self, path: &Path, text: usize) -> Result<Vec<(usize, Tensor)>, String> {
        let Line { offset, number } = self.lines[text];
        let at = |e: String| format!("line {number} {e}");
        let text = self.text(path, offset).map_err(at)?;
        let encoding = self.feed.tokenizer.encode(&text, self.feed.bounds);
        let encoding = encoding.map_err(|e| at(format!("cannot be encoded: {e}")))?;
        let places = &self.feed.places;
        places.iter().map(|p| Ok((p.input, p.tensor(&encoding).map_err(at)?))).collect()
    }

    fn text(&self, path: &Path, offset: u64) -> Result<String, String> {
        let cannot = |e: std::io::Error| format!("cannot be read: {e}");
        let mut file = File::open(path).map_err(cannot)?;
        file.seek(SeekFrom::Start(offset)).map_err(cannot)?;
        let mut line = Vec::new();
        read_line(&mut BufReader::new(file), &mut line)?;
        let line = String::from_utf8(line).map_err(|_| "is not UTF-8")?;
        let line = line.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
        if !self.json {
            return Ok(line.to_owned());
        }
        let object: serde_json::Value =
            serde_json::from_str(line).map_err(|e| format!("is no JSON object ({e})"))?;
        let text = object.get("text").and_then(serde_json::Value::as_str);
        text.map(str::to_owned).ok_or_else(|| "has no field `text` with a text".into())
    }
}

/// Reads a line with its end; how many bytes that were.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<u64, String> {
    line.clear();
    let read = reader.take(MAX_LINE + 1).read_until(b'\n', line);
    match read.map_err(|e| format!("cannot be read: {e}"))? as u64 {
        n if n > MAX_LINE => Err(format!("is longer than {MAX_LINE} bytes")),
        n => Ok(n),
    }
}
