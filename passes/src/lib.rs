//! The quantization compiler.
//!
//! [`pipeline`] is the place to start: it lists the passes in their order, with the reason for each. One
//! pass is one file. Passes share a [`pass::PassCx`]: analyses write their results there (types, statistics,
//! the plan), rewriting passes change the model. Nothing here reads files, prints, or knows protobuf or an
//! executor: data comes through `Samples`, execution through `Execute`.

pub mod calibrate;
pub mod calibration;
mod canonicalize;
pub mod compare;
mod compute_in_float32;
mod compute_in_half;
pub mod config;
mod dequantize_constants;
mod dequantize_recurrent;
mod elementwise;
mod eliminate_dead_code;
mod emit_dynamic;
mod emit_fake_quant;
mod emit_qdq;
mod emit_weight_blocks;
mod equalize;
pub mod evidence;
mod feedback;
mod finish;
mod float_graph;
mod flush_denormals;
mod fold_constants;
mod fold_lookups;
mod freeze_quantizers;
pub mod frozen;
mod fuse;
mod in_order;
mod infer_types;
mod inline_branches;
mod inline_functions;
mod insert_observers;
mod lower_qoperator;
mod merge_common_subexpressions;
mod names;
mod numbers;
mod optimize_bodies;
pub mod outputs;
pub mod overrides;
pub mod pass;
pub mod pipeline;
pub mod plan;
mod plan_weight_blocks;
pub mod predict;
mod raise_fake_quant;
mod raise_hard_sigmoid;
mod raise_opset;
mod raise_qoperator;
mod reach;
mod recipe;
pub mod recording;
mod refine;
mod repair;
pub mod report;
pub mod retarget;
mod rule_out_branches;
pub mod runner;
mod shapes;
mod simulate;
mod spread_grids;
pub mod statistics;
mod subpixel_convolutions;
mod tailor;
mod trials;
mod weight_blocks;
mod weights;
mod widen_float8;
mod windows;

pub use calibrate::threads;
pub use fuse::reference as rewrites_reference;
pub use in_order::in_order;
