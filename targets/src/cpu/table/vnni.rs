//! Processors with VNNI: what pays on both kinds that were measured, one with tiles (AMX-INT8), one without.
//!
//! A file is compiled once and runs on whatever there is. The two differ most in what lies around the kernels: beside a
//! float convolution, quantizing costs 2.7 times as much on the one with tiles, changes of layout 1.7 to 1.9 times.

mod amx;
mod avx512;

use super::Table;

pub(in crate::cpu) const TABLE: Table = avx512::TABLE.cautious(&amx::TABLE);
