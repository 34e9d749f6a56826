//! Execution of float models, for calibration and comparison.
//!
//! [`Tract`] runs models in this process and needs nothing installed. It implements
//! [`squint_ir::execute::Execute`], which is all that the rest of squint knows about running models; tract
//! itself is named in this crate only.
//!
//! | file | holds |
//! |---|---|
//! | `tract.rs` | the executor and its sessions: inputs checked, a plan for each shape, errors in the user's names |
//! | `plan.rs` | loading, observing and optimising for one set of input shapes, and running |
//! | `observe.rs` | the pass-through operator that exposes intermediate values |
//! | `registry.rs` | tract's operators, with corrections |
//! | `branch.rs` | `If` |
//! | `lower.rs` | bfloat16, which tract lacks, in float32 |
//! | `preflight.rs` | what tract cannot run or runs wrong |
//! | `convert.rs` | tensors and types |
//! | `guard.rs` | panics turned into errors |

mod branch;
mod convert;
mod guard;
mod lower;
mod observe;
mod plan;
mod preflight;
mod registry;
mod tract;

pub use tract::Tract;
