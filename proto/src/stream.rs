//! Encoding a model into a writer, a node and a tensor at a time.
//!
//! `Message::encode` wants the whole message in memory, weights and all. A protobuf message is the
//! concatenation of its fields, so a large one can be written in parts: here the fields before the graph,
//! the graph field's header, the graph's fields one by one, and the fields after it. The bytes are those
//! that encoding at once would give.

use crate::onnx::{GraphProto, ModelProto, NodeProto, TensorProto};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::io::{self, Write};

/// Writes the encoded model, and returns its length.
pub(crate) fn write(mut model: ModelProto, out: &mut impl Write) -> io::Result<u64> {
    let mut out = Sink { out, scratch: Vec::new(), written: 0 };
    let graph = model.graph.take();
    let after = ModelProto {
        opset_import: std::mem::take(&mut model.opset_import),
        metadata_props: std::mem::take(&mut model.metadata_props),
        training_info: std::mem::take(&mut model.training_info),
        functions: std::mem::take(&mut model.functions),
        configuration: std::mem::take(&mut model.configuration),
        ..ModelProto::default()
    };
    out.message(&model)?;
    if let Some(graph) = graph {
        out.header(7, graph.encoded_len())?;
        out.graph(graph)?;
    }
    out.message(&after)?;
    Ok(out.written)
}

struct Sink<'w, W> {
    out: &'w mut W,
    scratch: Vec<u8>,
    written: u64,
}

impl<W: Write> Sink<'_, W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn message(&mut self, message: &impl Message) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        message.encode_raw(&mut scratch);
        self.bytes(&scratch)?;
        self.scratch = scratch;
        Ok(())
    }

    /// The key and the length of a field that holds a message or bytes.
    fn header(&mut self, tag: u32, len: usize) -> io::Result<()> {
        let mut key = Vec::with_capacity(16);
        encode_key(tag, WireType::LengthDelimited, &mut key);
        encode_varint(len as u64, &mut key);
        self.bytes(&key)
    }

    fn graph(&mut self, mut graph: GraphProto) -> io::Result<()> {
        for node in std::mem::take(&mut graph.node) {
            self.node(&node)?;
        }
        self.message(&GraphProto { name: graph.name.take(), ..GraphProto::default() })?;
        for tensor in std::mem::take(&mut graph.initializer) {
            self.header(5, tensor.encoded_len())?;
            self.tensor(tensor)?;
        }
        self.message(&graph)
    }

    fn node(&mut self, node: &NodeProto) -> io::Result<()> {
        self.header(1, node.encoded_len())?;
        self.message(node)
    }

    /// Raw data goes from where it is to the writer.
    fn tensor(&mut self, mut tensor: TensorProto) -> io::Result<()> {
        let after = TensorProto {
            double_data: std::mem::take(&mut tensor.double_data),
            uint64_data: std::mem::take(&mut tensor.uint64_data),
            doc_string: tensor.doc_string.take(),
            external_data: std::mem::take(&mut tensor.external_data),
            data_location: tensor.data_location.take(),
            metadata_props: std::mem::take(&mut tensor.metadata_props),
            ..TensorProto::default()
        };
        let raw = tensor.raw_data.take();
        self.message(&tensor)?;
        if let Some(raw) = raw {
            self.header(9, raw.len())?;
            self.bytes(&raw)?;
        }
        self.message(&after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};

    #[test]
    fn parts_are_the_whole() {
        let entry = StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) };
        let tensor = TensorProto {
            dims: vec![2],
            data_type: Some(2),
            name: Some("w".into()),
            raw_data: Some(vec![1, 2].into()),
            doc_string: Some("d".into()),
            external_data: vec![entry.clone()],
            data_location: Some(0),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: vec![NodeProto { op_type: Some("Relu".into()), ..NodeProto::default() }; 2],
            name: Some("g".into()),
            initializer: vec![tensor],
            output: vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            producer_name: Some("p".into()),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
            graph: Some(graph),
            metadata_props: vec![entry],
            ..ModelProto::default()
        };
        let mut out = Vec::new();
        let n = write(model.clone(), &mut out).unwrap();
        assert_eq!(n, out.len() as u64);
        assert_eq!(out, model.encode_to_vec());
    }
}
