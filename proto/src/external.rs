//! External tensor data when saving: one file beside the model. (The other layout, that of the model that was
//! loaded, is in [`crate::layout`].)
//!
//! Source: `onnx/docs/ExternalData.md`. Offsets are multiples of 4096, so that a runtime can map each
//! tensor by itself.

use crate::onnx::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation,
};
use bytes::Bytes;
use std::io::{self, Write};

/// Tensors with fewer bytes stay in the model: looking them up would cost more than it saves.
pub(crate) const MIN_BYTES: usize = 1024;

const ALIGNMENT: u64 = 4096;

/// Where in a graph a tensor is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// An initializer.
    Initializer,
    /// The value of a `Constant` node, which runtimes treat as an initializer.
    Constant,
    /// Part of a sparse tensor, or an attribute of another operator: runtimes read these only where they are.
    Other,
}

/// Turns the raw data of constants into references to the file `location`, and returns the data in the order of
/// the file.
pub(crate) fn detach(model: &mut ModelProto, location: &str) -> Vec<Bytes> {
    let mut moved = Vec::new();
    let mut offset = 0;
    if let Some(graph) = &mut model.graph {
        visit(graph, &mut |tensor, role| {
            let movable = role != Role::Other;
            let raw = tensor.raw_data.take_if(|raw| movable && raw.len() >= MIN_BYTES);
            let Some(raw) = raw else { return };
            refer(tensor, location, offset, raw.len());
            offset = (offset + raw.len() as u64).next_multiple_of(ALIGNMENT);
            moved.push(raw);
        });
    }
    moved
}

/// Writes the data that [`detach`] returned.
pub(crate) fn write(moved: &[Bytes], out: &mut impl Write) -> io::Result<()> {
    let mut at = 0u64;
    for raw in moved {
        let start = at.next_multiple_of(ALIGNMENT);
        io::copy(&mut io::Read::take(io::repeat(0), start - at), out)?;
        out.write_all(raw)?;
        at = start + raw.len() as u64;
    }
    Ok(())
}

/// Makes the data of a tensor external.
pub(crate) fn refer(tensor: &mut TensorProto, location: &str, offset: u64, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.raw_data = None;
    tensor.external_data = vec![
        entry("location", location.into()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    tensor.data_location = Some(DataLocation::External as i32);
}

/// Calls `f` on every tensor of a graph and of the bodies in it.
pub(crate) fn visit(graph: &mut GraphProto, f: &mut impl FnMut(&mut TensorProto, Role)) {
    for tensor in &mut graph.initializer {
        f(tensor, Role::Initializer);
    }
    for sparse in &mut graph.sparse_initializer {
        sparse.values.iter_mut().chain(&mut sparse.indices).for_each(|t| f(t, Role::Other));
    }
    for node in &mut graph.node {
        let role = if is_constant(node) { Role::Constant } else { Role::Other };
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().for_each(|t| f(t, role));
            attribute.tensors.iter_mut().for_each(|t| f(t, Role::Other));
            for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
                sparse.values.iter_mut().chain(&mut sparse.indices).for_each(|t| f(t, Role::Other));
            }
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                visit(body, f);
            }
        }
    }
}

fn is_constant(node: &NodeProto) -> bool {
    node.op_type() == "Constant" && matches!(node.domain(), "" | "ai.onnx")
}
