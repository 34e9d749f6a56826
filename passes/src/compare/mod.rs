//! A quantized model beside its float model, value by value.
//!
//! Which value is which is found by structure ([`matching`]), in the graphs without quantizers ([`skeleton`]), both
//! brought into the same form by the float passes. Then each sample is run three times: in float; quantized, where
//! each value shows the error *accumulated* on the way to it; and quantized with every value replaced by its float
//! form as soon as it has been looked at, where each shows the *local* error: what its own operator's weights and
//! its own rounding add when everything before it is exact. One sample's values are held at a time, and only sums
//! are kept.

mod coverage;
mod matching;
mod run;
mod sensitivity;
mod skeleton;
mod units;

pub use coverage::coverage;
pub use run::{Comparison, OutputComparison, ValueComparison, WeightComparison, compare};
pub use sensitivity::{Effect, Sensitivity, sensitivity};
pub use skeleton::Rounding;
