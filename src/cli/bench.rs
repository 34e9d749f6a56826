//! `squint bench`.

use super::failure::Failure;
use super::model_file::Trust;
use super::options::{DataFlags, Format};
use super::talk::Talk;
use clap::Args;
use serde_json::{Map, Value, json};
use squint::ir::{DType, Tensor};
use squint::{Error, Model, Samples};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compare how fast two models run in ONNX Runtime.
///
/// Both are run in turns on the same inputs, and the ratio is the median over pairs of runs, so that a busy machine
/// disturbs both alike. ONNX Runtime is that of the Python environment that is active, or of `--python`.
#[derive(Args)]
pub(crate) struct Bench {
    /// The model to compare with, usually the float one.
    #[arg(value_name = "FLOAT")]
    float: PathBuf,
    /// The model that should be faster.
    #[arg(value_name = "QUANT")]
    quant: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// The Python interpreter whose ONNX Runtime is used. [default: python3 or python of the search path]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Threads of the runtime.
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroUsize,
    /// Pairs of runs.
    #[arg(long, value_name = "N", default_value = "9")]
    runs: NonZeroUsize,
    /// Length for a symbol of the inputs' shapes, where no data is given. May be given again. [default: 1]
    #[arg(long, value_name = "NAME=N", value_parser = dimension)]
    dim: Vec<(String, usize)>,
    /// Fail with status 1 if the second model is not this many times as fast as the first.
    #[arg(long, value_name = "RATIO")]
    min_ratio: Option<f64>,
    /// How the result is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    data: DataFlags,
}

/// What measures, in the runtime's own interface.
const SCRIPT: &str = include_str!("bench/measure.py");

/// Least duration of one run of one model, in seconds.
const RUN_SECONDS: f64 = 0.05;

impl Bench {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let model = self.trust.load(&self.float, talk)?;
        let inputs = self.inputs(&model, talk)?;
        let folder = tempfile::tempdir().map_err(|e| Failure::new(format!("cannot make a folder: {e}")))?;
        let mut files = Map::new();
        for (i, (name, tensor)) in inputs.iter().enumerate() {
            let path = folder.path().join(format!("{i}.npy"));
            write(&path, &npy(tensor)?)?;
            files.insert(name.clone(), json!(path));
        }
        let job = folder.path().join("job.json");
        let models =
            [self.file(&self.float, folder.path(), talk)?, self.file(&self.quant, folder.path(), talk)?];
        let (threads, runs) = (self.threads.get(), self.runs.get());
        let what = json!({
            "models": models, "inputs": files, "threads": threads, "runs": runs, "seconds": RUN_SECONDS,
        });
        write(&job, what.to_string().as_bytes())?;
        let script = folder.path().join("measure.py");
        write(&script, SCRIPT.as_bytes())?;
        let measured = self.measure(&script, &job)?;
        self.report(&Timing::of(&measured)?)
    }

    /// The model as a file that the runtime reads: a text is written out.
    fn file(&self, path: &Path, folder: &Path, talk: &Talk) -> Result<PathBuf, Failure> {
        if !squint::is_text(path) {
            return absolute(path);
        }
        let binary = folder.join(path.with_extension("onnx").file_name().unwrap_or_default());
        squint::save(&self.trust.load(path, talk)?, &binary)?;
        Ok(binary)
    }

    /// An input for each name: the first sample of the data, or numbers made up.
    fn inputs(&self, model: &Model, talk: &Talk) -> Result<Vec<(String, Tensor)>, Failure> {
        let g = model.main();
        let required: Vec<_> = g.inputs.iter().filter(|v| g.konst(**v).is_none()).collect();
        let name = |v| g.value(v).name().to_owned();
        if !self.data.data.is_empty() {
            let data = self.data.open(model, talk)?;
            return data.get(0).map_err(Failure::new);
        }
        required
            .into_iter()
            .map(|v| {
                let ty = g.ty(*v).and_then(|ty| Some((ty.dtype()?, ty.shape()?.clone())));
                let Some((dtype, shape)) = ty else {
                    return Err(Failure::with_help(
                        format!("input `{}` has no type and rank to make numbers up for", name(*v)),
                        "give an input with `--data PATH`",
                    ));
                };
                let length = |d: &squint::ir::Dim| match d {
                    squint::ir::Dim::Known(n) => *n as usize,
                    squint::ir::Dim::Symbol(s) => {
                        self.dim.iter().find(|(name, _)| name == s).map_or(1, |(_, n)| *n)
                    }
                    squint::ir::Dim::Unknown => 1,
                };
                let dims: Vec<usize> = shape.iter().map(length).collect();
                Ok((name(*v), made_up(&name(*v), dtype, &dims)?))
            })
            .collect()
    }

    fn measure(&self, script: &Path, job: &Path) -> Result<Value, Failure> {
        let candidates = match &self.python {
            Some(python) => vec![python.clone()],
            None => vec![PathBuf::from("python3"), PathBuf::from("python")],
        };
        let advice = "activate a Python environment that has the packages `onnxruntime` and `numpy`, or name its \
                      interpreter with `--python PATH`";
        for python in &candidates {
            let started = Command::new(python).arg(script).arg(job).stdin(Stdio::null()).output();
            let done = match started {
                Ok(done) => done,
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.python.is_none() => continue,
                Err(e) => {
                    return Err(Failure::with_help(
                        format!("cannot start `{}`: {e}", python.display()),
                        advice,
                    ));
                }
            };
            if done.status.success() {
                let text = String::from_utf8_lossy(&done.stdout);
                return serde_json::from_str(text.trim()).map_err(|_| {
                    Failure::new(format!("`{}` answered something else than measurements", python.display()))
                });
            }
            let said = String::from_utf8_lossy(&done.stderr);
            let last = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("nothing").to_owned();
            return Err(match (last.strip_prefix("no-runtime "), last.strip_prefix("refused ")) {
                (Some(why), _) => {
                    Failure::with_help(format!("`{}` has no ONNX Runtime: {why}", python.display()), advice)
                }
                (_, Some(why)) => Failure::new(format!("ONNX Runtime cannot run {why}")),
                _ => Failure::new(format!("`{}` failed: {last}", python.display())),
            });
        }
        Err(Failure::with_help("there is no Python interpreter on the search path", advice))
    }

    fn report(&self, t: &Timing) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => {
                let value = json!({
                    "float": self.float.display().to_string(),
                    "quant": self.quant.display().to_string(),
                    "runtime": t.version,
                    "threads": self.threads,
                    "ratio": t.ratio,
                    "quartiles": [t.quartiles.0, t.quartiles.1],
                    "milliseconds": {"float": t.float, "quant": t.quant},
                    "pairs": t.pairs,
                });
                writeln!(out, "{value:#}")?;
            }
            Format::Text => writeln!(
                out,
                "{:.2} times as fast (half of {} pairs between {:.2} and {:.2}): {:.3} ms instead of {:.3} ms, \
                 ONNX Runtime {}, {}",
                t.ratio,
                t.pairs,
                t.quartiles.0,
                t.quartiles.1,
                t.quant,
                t.float,
                t.version,
                if self.threads.get() == 1 { "1 thread".into() } else { format!("{} threads", self.threads) }
            )?,
        }
        match self.min_ratio {
            Some(least) if t.ratio < least => {
                let slower =
                    format!("`{}` is {:.2} times as fast, not {least}", self.quant.display(), t.ratio);
                Err(Failure::Found(slower))
            }
            _ => Ok(()),
        }
    }
}

/// What was measured.
#[derive(Debug, PartialEq)]
struct Timing {
    /// Version of the runtime.
    version: String,
    /// Median over pairs of the first model's time by the second's.
    ratio: f64,
    /// The quartiles of that.
    quartiles: (f64, f64),
    /// Median milliseconds of the first model.
    float: f64,
    /// Median milliseconds of the second model.
    quant: f64,
    /// Number of pairs.
    pairs: usize,
}

impl Timing {
    fn of(measured: &Value) -> Result<Timing, Failure> {
        let pairs: Option<Vec<(f64, f64)>> = measured["seconds"]
            .as_array()
            .and_then(|all| all.iter().map(|p| Some((p.get(0)?.as_f64()?, p.get(1)?.as_f64()?))).collect());
        let pairs = pairs.filter(|p| !p.is_empty());
        let pairs = pairs.ok_or_else(|| Failure::new("the measuring script answered without times"))?;
        let sorted = |f: fn(&(f64, f64)) -> f64| {
            let mut v: Vec<f64> = pairs.iter().map(f).collect();
            v.sort_by(f64::total_cmp);
            v
        };
        let at = |v: &[f64], part: f64| v[((v.len() - 1) as f64 * part).round() as usize];
        let ratios = sorted(|(f, q)| f / q);
        Ok(Timing {
            version: measured["version"].as_str().unwrap_or("of unknown version").to_owned(),
            ratio: at(&ratios, 0.5),
            quartiles: (at(&ratios, 0.25), at(&ratios, 0.75)),
            float: 1e3 * at(&sorted(|p| p.0), 0.5),
            quant: 1e3 * at(&sorted(|p| p.1), 0.5),
            pairs: pairs.len(),
        })
    }
}

/// Numbers between 0 and 1 for floats, zeros for everything else: they are valid as indices, lengths and masks.
fn made_up(input: &str, dtype: DType, dims: &[usize]) -> Result<Tensor, Failure> {
    let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_MADE_UP);
    let Some(n) = elements else {
        return Err(Failure::new(format!("input `{input}` of shape {dims:?} is too large to make up")));
    };
    if dtype == DType::Float {
        // Steps of the golden ratio spread evenly, and are the same each time.
        let numbers: Vec<f32> = (0..n).map(|i| (i as f64 * 0.618_033_988_749_895).fract() as f32).collect();
        return Ok(Tensor::from_f32(dims, &numbers));
    }
    let bytes = dtype.packed_len(n).filter(|_| descr(dtype).is_some());
    let tensor = bytes.and_then(|b| Tensor::raw(dtype, dims, vec![0; b].into()).ok());
    tensor.ok_or_else(|| {
        Failure::with_help(
            format!("no numbers can be made up for input `{input}` of type {dtype}"),
            "give `--data`",
        )
    })
}

/// Most elements of an input that is made up.
const MAX_MADE_UP: usize = 1 << 28;

/// The element type in NumPy's spelling.
fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Float => "<f4",
        DType::Float16 => "<f2",
        DType::Double => "<f8",
        DType::Int8 => "|i1",
        DType::Uint8 => "|u1",
        DType::Int16 => "<i2",
        DType::Uint16 => "<u2",
        DType::Int32 => "<i4",
        DType::Uint32 => "<u4",
        DType::Int64 => "<i8",
        DType::Uint64 => "<u8",
        DType::Bool => "|b1",
        _ => return None,
    })
}

/// A tensor as a file of NumPy's format 1.0.
fn npy(tensor: &Tensor) -> Result<Vec<u8>, Failure> {
    let Some(descr) = descr(tensor.dtype()) else {
        return Err(Failure::new(format!("an input of type {} cannot be passed on", tensor.dtype())));
    };
    let dims: String = tensor.dims().iter().map(|d| format!("{d},")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // Magic, version, length and header together end on a multiple of 64.
    let end = (10 + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(end - 10 - header.len() - 1));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(tensor.bytes().iter());
    Ok(out)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|source| Error::File { action: "write", path: path.to_owned(), source }.into())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|source| Error::File { action: "find", path: path.to_owned(), source }.into())
}

fn dimension(text: &str) -> Result<(String, usize), String> {
    let wrong = || format!("`{text}` is not of the form NAME=N");
    let (name, n) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.to_owned(), n.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_medians_over_pairs() {
        let measured = json!({"version": "1", "seconds": [[2.0, 1.0], [3.0, 1.0], [9.0, 1.0]]});
        let Ok(t) = Timing::of(&measured) else { panic!("has times") };
        assert_eq!((t.ratio, t.quartiles, t.float, t.quant), (3.0, (3.0, 9.0), 3000.0, 1000.0));
        assert!(Timing::of(&json!({"seconds": []})).is_err());
    }

    #[test]
    fn arrays_are_written_as_numpy_reads_them() {
        let Ok(bytes) = npy(&Tensor::from_f32(&[2, 1], &[1.0, 2.0])) else {
            panic!("floats have a spelling")
        };
        assert_eq!(bytes.len(), 128 + 8);
        assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,1,), }"));
        assert_eq!(bytes[127], b'\n');
    }
}
