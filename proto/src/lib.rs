//! ONNX protobuf in and out of the squint IR.
//!
//! ```text
//!   .onnx ──Mapped──► bytes ──wire::scan──► ModelProto ──import──► ir::Model
//!                                                                     │
//!   .onnx ◄──rename── temporary ◄──stream── ModelProto ◄──export──────┘
//! ```
//!
//! * [`onnx`] is generated from `proto/onnx-ml.proto` (see `tests/generated.rs`); no `protoc` is needed.
//! * Weights are slices of the memory-mapped file from end to end. Loading copies none of them, saving
//!   writes them from where they are, and [`encode_for_executor`] refers to them.
//! * Input is not trusted: sizes are checked before memory is asked for, external data stays in the model's
//!   folder, and what is wrong is said in one line ([`LoadError`]), or all of it at once ([`examine`]).
//!
//! # What a round trip preserves
//! Every field of `ModelProto`. What the IR does not model (training information, sparse initializers,
//! quantization annotations, device configurations, denotations of types, notes on tensors) travels encoded
//! in `residue` fields and is merged back. Encoding is then a normal form of the input:
//! * tensor data in typed fields or external files becomes `raw_data`;
//! * texts that are present but empty become absent, and numbers of their kind of attribute that are absent
//!   become present;
//! * attributes of IR version 1 get their type;
//! * sparse tensors and training information get the data that they had in external files;
//! * quantization annotations come in the order of the values that they are about;
//! * omitted inputs and outputs at the end of a node's list are dropped;
//! * nodes come in a stable topological order: the order of the input wherever that is one;
//! * `value_info` comes in the order of the nodes, without a second declaration of inputs and outputs.
//!
//! Fields newer than the schema are dropped by the decoder, and so are values of an attribute that is of another
//! kind; [`load_with_notes`] names them. [`External::Keep`] leaves external data where they are.

mod attribute;
mod error;
mod executor;
mod export;
mod external;
mod files;
mod import;
mod layout;
mod load;
/// The messages of `proto/onnx-ml.proto` as prost types, generated; the schema is their documentation.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod onnx;
mod save;
mod stream;
mod tensor;
mod types;
mod wire;

pub use error::{LoadError, LoadProblem, Mention, SaveError};
pub use executor::{ExecutorModel, encode_for_executor};
pub use load::{
    Examination, LoadOptions, examine, examine_bytes, from_bytes, load, load_with_notes, tensor_from_bytes,
};
pub use save::{External, SaveOptions, encode, save};
