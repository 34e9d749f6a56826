//! squint compiles a float ONNX model to a quantized one that the deployment runtime really executes in
//! integers.
//!
//! This crate is all that a program needs: it reads and writes models, reads calibration data, runs the
//! float model to see its ranges, and rewrites it for a target.
//!
//! ```no_run
//! use squint::{Config, DataOptions, Dataset};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), squint::Error> {
//! let mut model = squint::load(Path::new("digits.onnx"))?;
//! let data = Dataset::open(&model, &DataOptions::new(["calibration.npz"]))?;
//! let report = squint::quantize(&mut model, &data, &Config::new("cpu-vnni"))?;
//! let (integer, all) = report.integer_contractions();
//! assert!(integer > 0, "of {all} contractions none runs in integers: {:?}", report.float_reasons());
//! squint::save(&model, Path::new("digits.int8.onnx"))?;
//! # Ok(())
//! # }
//! ```
//!
//! Data that does not come from files implements [`Samples`]. Passes, targets and the intermediate
//! representation itself are in [`passes`], [`targets`] and [`ir`]; a transformation of one's own works on
//! [`Model`] with their help.

mod compile;
pub mod data;
pub mod encodings;
mod error;
mod evaluate;
mod files;
pub mod fixture;
pub mod interpret;
mod library;
mod sensitivity;
pub mod stats;
pub mod tune;

pub use compile::{
    compare, convert, optimize, optimize_traced, plan, predict, quantize, quantize_with, retarget,
    retarget_with,
};
pub use data::{DataError, DataOptions, Dataset};
pub use error::Error;
pub use evaluate::{EvaluateOptions, Score, evaluate, score_by_command};
pub use files::{examine, is_text, load, load_with, save, save_with, write_whole};
pub use library::find_onnxruntime;
pub use sensitivity::sensitivity;
pub use squint_ir as ir;
pub use squint_ir::Model;
pub use squint_ir::execute::{Sample, Samples};
pub use squint_ops as ops;
pub use squint_passes as passes;
pub use squint_passes::calibration::Method;
pub use squint_passes::config::{Config, OperatorFormat, Scheme};
pub use squint_passes::evidence::{Evidence, GivenRanges, Known};
pub use squint_passes::report::{Fate, NodeReport, Note, Report};
pub use squint_passes::runner::{Hooks, Progress};
pub use squint_proto::{Examination, External, LoadOptions, LoadProblem, SaveOptions};
pub use squint_runtime::{OnnxRuntime, Tract};
pub use squint_targets as targets;
