//! The statistics of calibration: what is remembered of the data, and how ranges follow from it.
//!
//! Observing and deciding are apart. While the model runs, a [`Sketch`] per observed value absorbs samples in
//! bounded memory; two sketches merge to the bits that one sketch of all the data would have, so threads,
//! shards and machines do not change the result. Afterwards [`solve`] turns a sketch into a [`Range`] by any
//! [`Method`] for any [`Grid`], without running the data again. Weights are there in full, so [`weights`]
//! works on the raw values.
//!
//! | file | holds |
//! |---|---|
//! | `sketch.rs` | [`Sketch`]: counts, extremes, histogram, merging |
//! | `channels.rs` | [`ChannelSketches`]: a coarse sketch for each channel, where asked for |
//! | `binning.rs` | the two passes over the data: extremes, then bins; and the window of bins that data occupies |
//! | `thinning.rs` | which part of a large sample is counted |
//! | `exact_sum.rs` | a sum of `f32` without rounding, so that addition is associative |
//! | `codec.rs` | the bytes of a sketch |
//! | `histogram.rs` | the view that the solvers work on: quantiles, folding onto magnitudes |
//! | `range.rs` | [`Method`], [`Range`], [`solve`] and the cases that need no method |
//! | `percentile.rs` `entropy.rs` `mse.rs` `auto.rs` | one method each |
//! | `constraints.rs` | scales that are powers of two, least ranges |
//! | `weights.rs` | ranges of weights, per channel |
//! | `blocks.rs` | scales and zero points of blocks of weights |

mod auto;
mod binning;
pub(crate) mod blocks;
mod channels;
mod codec;
mod constraints;
mod entropy;
mod exact_sum;
mod histogram;
mod mse;
mod percentile;
mod range;
pub mod saturation;
mod sketch;
mod thinning;
pub mod weights;

pub use channels::{CHANNEL_BINS, ChannelSketches, MAX_CHANNELS};
pub use codec::DecodeError;
pub use constraints::Constraints;
pub use mse::QuantError;
pub use range::{Method, ParseMethodError, Range, RangeNote, quantization_error, solve};
pub use sketch::{MAX_BINS, Sketch, SketchParts};
pub use squint_ir::affine::Grid;
pub use thinning::Counting;
