//! The intermediate representation of squint.
//!
//! A [`Model`] owns one [`Graph`] per scope (the main graph, the bodies of `If`, `Loop` and `Scan`, and
//! model functions). A graph is bipartite: operators and values are both nodes, so everything a compiler
//! wants to hang on a tensor (its type, its statistics, its quantization parameters) hangs on a [`Value`],
//! whose identity survives while the operator that produces it is rewritten.
//!
//! ```text
//!   x ──Operand(0)──► Conv ──Result(0)──► c ──Operand(0)──► Relu ──Result(0)──► y
//!   w ──Operand(1)──►
//! ```
//!
//! What this crate knows: structure, types, tensors, text, well-formedness and the arithmetic of affine
//! quantization. What it does not know: what any operator means (`squint-ops`), protobuf
//! (`squint-proto`), or how to run anything (it only names the interface, [`execute`]).
//!
//! Three habits keep compilation deterministic: ids are never reused, iteration follows insertion or
//! sorted order, and [`Graph::topo`] breaks ties by original position.

pub mod affine;
pub mod attribute;
pub mod diagnostic;
pub mod dtype;
pub mod execute;
pub mod fingerprint;
pub mod graph;
pub mod model;
pub mod narrow;
pub mod retype;
pub mod tables;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use attribute::{AttrValue, Attribute};
pub use bytes::Bytes;
pub use dtype::DType;
pub use graph::{Cycle, Graph, Op, OpId, OpSpec, Use, Value, ValueId};
pub use model::{Function, GraphId, Model};
pub use tables::{OpTable, ValueTable};
pub use tensor::{FileSlice, Tensor, TensorError};
pub use types::{Dim, Shape, Type};
