//! ONNX textual syntax: how squint reads fixtures, and prints models in snapshots, dumps and diagnostics.
//!
//! The grammar is `onnx/docs/Syntax.md` (onnx 1.23) as `onnx/defs/parser.cc` reads it. What is printed here
//! is accepted there; in the other direction everything that `onnx.printer` writes is accepted here, but for
//! the `...` in place of sub-byte constants.
//!
//! ```text
//! <ir_version: 10, opset_import: ["" : 21]>
//! conv_relu (float[1,3,8,8] x) => (float[1,4,8,8] y)
//! <
//!   float[4,3,3,3] w = ["location": "weights.bin", "offset": "0", "length": "432"]
//! >
//! {
//!   c = Conv <pads = [1, 1, 1, 1]> (x, w)
//!   y = Relu (c)
//! }
//! ```
//!
//! Where the grammar leaves room:
//! - `float` is a scalar, `float[]` a tensor of unknown rank.
//! - The elements of 16-bit floats and of smaller floats are written as the integers with their bits, as
//!   upstream does; with a decimal point they are read as values. Packed integers are one number an element.
//! - Bytes of a string that are not UTF-8 become the characters U+F0080 to U+F00FF (and so do the bytes of
//!   those characters themselves), so that every byte string survives.
//! - Names that are not identifiers are quoted, also where upstream has no quotes (operator types, domains,
//!   attributes, and graphs as attributes): such texts are for this parser only.
//!
//! The syntax has no place for the documentation and metadata of graphs, nodes and values, nor for sparse
//! constants: these are not printed. NaNs keep their sign and lose their payload.

mod ast;
mod attribute;
mod error;
mod generate;
mod lexer;
mod literal;
mod lower;
mod parse;
mod print;
mod print_value;

pub use error::TextError;
pub use generate::generate;
pub use literal::ExternalRef;
pub use print::NodeLine;
pub(crate) use print_value::{is_qualified, write_name};

use crate::{GraphId, Model, OpId, Tensor, ValueId};

/// What a printer says about a value in a comment.
pub type Facts<'a> = dyn Fn(GraphId, ValueId) -> Option<String> + 'a;

/// Where the printer says that an elided constant is.
pub type Locate<'a> = dyn Fn(&Tensor) -> Option<String> + 'a;

/// How a model is printed. The default prints everything the syntax can say, and no comments.
#[derive(Clone, Copy, Default)]
pub struct PrintOptions<'a> {
    /// Constants with more elements are printed by hash: `["location": "sha256:..", "length": ".."]`.
    pub elide: Option<usize>,
    /// The location to print for an elided constant instead of its hash, for those that have a better one.
    pub location: Option<&'a Locate<'a>>,
    /// A comment for a value, at the end of the line that defines it.
    pub facts: Option<&'a Facts<'a>>,
    /// Whether the ids of operators and values are printed as comments.
    pub ids: bool,
    /// Whether the types of values that are neither inputs, outputs nor constants are left out.
    pub hide_types: bool,
}

/// Reads a model whose constants are all written out.
///
/// # Errors
/// If the text is not a model, or leaves a constant in another file.
pub fn parse(text: &str) -> Result<Model, TextError> {
    parse_with(text, &mut |_| Err("constants outside the text cannot be loaded here".into()))
}

/// Reads a model; `load` provides the constants that are in external-data form.
///
/// # Errors
/// If the text is not a model, or `load` fails or returns a tensor of another type or shape.
pub fn parse_with(
    text: &str,
    load: &mut dyn FnMut(&ExternalRef) -> Result<Tensor, String>,
) -> Result<Model, TextError> {
    lower::lower(parse::Parser::new(text, load)?.model()?, text)
}

/// Prints a model, operators in stable topological order: the same model gives the same bytes.
pub fn print(model: &Model, options: &PrintOptions<'_>) -> String {
    print::Printer::new(model, *options).model()
}

/// Prints one graph of a model, with the bodies inside it.
pub fn print_graph(model: &Model, graph: GraphId, options: &PrintOptions<'_>) -> String {
    print::Printer::new(model, *options).one_graph(graph)
}

/// Prints one operator without its bodies, for messages.
pub fn print_node(model: &Model, graph: GraphId, op: OpId) -> NodeLine {
    print::Printer::new(model, PrintOptions { elide: Some(8), ..PrintOptions::default() }).one_node(graph, op)
}

/// True if two models print alike: equal but for ids, and for what the syntax cannot say.
pub fn equal(a: &Model, b: &Model) -> bool {
    let options = PrintOptions { elide: Some(64), ..PrintOptions::default() };
    print(a, &options) == print(b, &options)
}

#[cfg(test)]
mod tests;
