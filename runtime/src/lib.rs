//! Execution of float models, for calibration and comparison.
//!
//! [`Tract`] runs models in this process and needs nothing installed; [`OnnxRuntime`] is a library that is
//! loaded when it is asked for, and runs what tract cannot. Both implement [`squint_ir::execute::Execute`],
//! which is all that the rest of squint knows about running models; they themselves are named in this crate
//! only.
//!
//! | file | holds |
//! |---|---|
//! | `tract.rs` | the default executor and its sessions: their plans, errors in the user's names |
//! | `plan.rs` | loading, observing and optimising for inputs of one signature, and running |
//! | `signature.rs` | for which inputs a plan is made: which dimensions are known in it, and which are open |
//! | `open.rs` | which models may have plans with open dimensions |
//! | `weights.rs` | weights, which are not encoded and decoded with the model |
//! | `pieces.rs` | optimising what lies between observed values by itself |
//! | `observe.rs` | the pass-through operator that exposes intermediate values |
//! | `registry.rs` | tract's operators, with corrections |
//! | `branch.rs` | `If` |
//! | `quantize.rs` | `QuantizeLinear` and `DequantizeLinear`, in the arithmetic of `squint_ir::affine` |
//! | `lower.rs` | bfloat16, which tract lacks, in float32 |
//! | `preflight.rs` | what tract cannot run or runs wrong |
//! | `convert.rs` | tensors and types |
//! | `guard.rs` | panics turned into errors |
//! | `inputs.rs` | what samples must give, for all executors |
//! | `onnxruntime.rs` | the executor that is loaded, and its sessions |
//! | `onnxruntime/` | the library's interface, values, and the operator that exposes intermediate values there |

mod branch;
mod convert;
mod guard;
mod inputs;
mod lower;
mod observe;
mod onnxruntime;
mod open;
mod pieces;
mod plan;
mod preflight;
mod quantize;
mod registry;
mod signature;
mod tract;
mod variants;
mod weights;

pub use onnxruntime::OnnxRuntime;
pub use tract::Tract;
