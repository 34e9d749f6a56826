//! Calibration statistics as files: measured once, merged from parts, used many times.
//!
//! A `.stats` file is a [`Recording`] in the safetensors format; `file.rs` says what is in it. Python reads it with
//! `safetensors.numpy.load_file`. [`cache`] writes and reads the calibration caches of other
//! tools.

mod arrays;
pub mod cache;
mod file;
mod record;
mod shard;

pub use file::{StatsError, read, to_bytes, write};
pub use record::{CalibrateOptions, calibrate};
pub use shard::Shard;
pub use squint_passes::recording::{DataRecord, Recording};
