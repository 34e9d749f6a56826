//! A walk over the protobuf framing before decoding.
//!
//! The decoder (prost) says little about broken input, and drops fields it does not know without a word.
//! This walk reads tags and lengths only, skipping payloads, so that it costs nothing beside the weights,
//! and finds out: whether the bytes are an ONNX model at all or one cut short, how deep messages nest, and
//! which fields are newer than our schema. Encoding: <https://protobuf.dev/programming-guides/encoding/>.

use crate::error::LoadProblem;
use crate::onnx::*;
use std::collections::BTreeMap;

/// Nesting that protobuf readers accept by default; the decoder and ONNX Runtime have the same limit.
pub(crate) const MAX_DEPTH: usize = 100;

/// Memory for decoded messages, apart from data and names. An empty attribute takes two bytes in a file and
/// several hundred decoded; a large model, with a million nodes, stays far below this.
const MAX_SIZE: usize = 2 << 30;

/// Walks an encoded `ModelProto` and returns how often each unknown field occurs, as `(message, tag)`.
pub(crate) fn scan(bytes: &[u8]) -> Result<BTreeMap<(&'static str, u64), usize>, LoadProblem> {
    let mut walk = Walk { unknown: BTreeMap::new(), size: 0 };
    match walk.message(bytes, &MODEL, 1) {
        Ok(()) => Ok(walk.unknown),
        Err(Fault::Deep) => Err(LoadProblem::TooDeep { limit: MAX_DEPTH }),
        Err(Fault::Large) => Err(LoadProblem::TooLarge { limit: MAX_SIZE >> 20 }),
        Err(_) if is_text(bytes) => Err(LoadProblem::Text { hint: text_hint(bytes) }),
        Err(fault) => {
            // A prefix of a model has only fields of a model, and ends inside one.
            let strange = walk.unknown.keys().any(|(message, _)| *message == MODEL.name);
            Err(match fault {
                Fault::Short { need, have } if !strange => LoadProblem::Truncated {
                    detail: format!("a field needs {need} more bytes, {have} are left"),
                },
                Fault::Short { .. } | Fault::Deep | Fault::Large => {
                    not_onnx("it has fields of another format")
                }
                Fault::Malformed(message) => not_onnx(&format!("malformed `{message}`")),
            })
        }
    }
}

/// True if the first bytes are readable text.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1024)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may be inside a character.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c'))
}

/// What to do about a text file.
pub(crate) fn text_hint(bytes: &[u8]) -> &'static str {
    let starts = |prefix: &str| bytes.starts_with(prefix.as_bytes());
    if starts("version https://git-lfs") {
        ": it is a Git LFS pointer, run `git lfs pull`"
    } else if starts("<") {
        ": it looks like a web page, download the model again"
    } else {
        ""
    }
}

pub(crate) fn not_onnx(detail: &str) -> LoadProblem {
    LoadProblem::NotOnnx { detail: detail.to_owned() }
}

/// A message type: the tags it knows, those of them that hold messages, and its size when decoded.
struct Message {
    name: &'static str,
    known: &'static [u64],
    children: &'static [(u64, &'static Message)],
    size: usize,
}

macro_rules! schema {
    ($($id:ident $name:literal ($ty:ty) [$($tag:literal),*] { $($child:literal: $to:ident),* })*) => {$(
        static $id: Message = Message {
            name: $name,
            known: &[$($tag),*],
            children: &[$(($child, &$to)),*],
            size: size_of::<$ty>(),
        };
    )*
    #[cfg(test)]
    static ALL: &[&Message] = &[$(&$id),*];
    };
}

schema! {
    MODEL "ModelProto" (ModelProto) [1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26] { 7: GRAPH, 8: OPSET, 14: ENTRY, 20: TRAINING, 25: FUNCTION, 26: DEVICE }
    OPSET "OperatorSetIdProto" (OperatorSetIdProto) [1, 2] {}
    ENTRY "StringStringEntryProto" (StringStringEntryProto) [1, 2] {}
    DEVICE "DeviceConfigurationProto" (DeviceConfigurationProto) [1, 2, 3] {}
    TRAINING "TrainingInfoProto" (TrainingInfoProto) [1, 2, 3, 4] { 1: GRAPH, 2: GRAPH, 3: ENTRY, 4: ENTRY }
    FUNCTION "FunctionProto" (FunctionProto) [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14] { 7: NODE, 9: OPSET, 11: ATTRIBUTE, 12: VALUE, 14: ENTRY }
    GRAPH "GraphProto" (GraphProto) [1, 2, 5, 10, 11, 12, 13, 14, 15, 16] { 1: NODE, 5: TENSOR, 11: VALUE, 12: VALUE, 13: VALUE, 14: ANNOTATION, 15: SPARSE, 16: ENTRY }
    ANNOTATION "TensorAnnotation" (TensorAnnotation) [1, 2] { 2: ENTRY }
    NODE "NodeProto" (NodeProto) [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] { 5: ATTRIBUTE, 9: ENTRY, 10: NODE_DEVICE }
    NODE_DEVICE "NodeDeviceConfigurationProto" (NodeDeviceConfigurationProto) [1, 2, 3] { 2: SHARDING }
    SHARDING "ShardingSpecProto" (ShardingSpecProto) [1, 2, 3, 4] { 3: INT_LIST, 4: SHARDED }
    INT_LIST "IntIntListEntryProto" (IntIntListEntryProto) [1, 2] {}
    SHARDED "ShardedDimProto" (ShardedDimProto) [1, 2] { 2: SIMPLE_SHARDED }
    SIMPLE_SHARDED "SimpleShardedDimProto" (SimpleShardedDimProto) [1, 2, 3] {}
    ATTRIBUTE "AttributeProto" (AttributeProto) [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23] { 5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 14: TYPE, 15: TYPE, 22: SPARSE, 23: SPARSE }
    SPARSE "SparseTensorProto" (SparseTensorProto) [1, 2, 3] { 1: TENSOR, 2: TENSOR }
    TENSOR "TensorProto" (TensorProto) [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16] { 3: SEGMENT, 13: ENTRY, 16: ENTRY }
    SEGMENT "Segment" (tensor_proto::Segment) [1, 2] {}
    VALUE "ValueInfoProto" (ValueInfoProto) [1, 2, 3, 4] { 2: TYPE, 4: ENTRY }
    TYPE "TypeProto" (TypeProto) [1, 4, 5, 6, 7, 8, 9] { 1: TENSOR_TYPE, 4: ELEMENT_TYPE, 5: MAP_TYPE, 7: OPAQUE_TYPE, 8: SPARSE_TYPE, 9: OPTIONAL_TYPE }
    TENSOR_TYPE "Tensor" (type_proto::Tensor) [1, 2] { 2: SHAPE }
    SPARSE_TYPE "SparseTensor" (type_proto::SparseTensor) [1, 2] { 2: SHAPE }
    ELEMENT_TYPE "Sequence" (type_proto::Sequence) [1] { 1: TYPE }
    OPTIONAL_TYPE "Optional" (type_proto::Optional) [1] { 1: TYPE }
    MAP_TYPE "Map" (type_proto::Map) [1, 2] { 2: TYPE }
    OPAQUE_TYPE "Opaque" (type_proto::Opaque) [1, 2] {}
    SHAPE "TensorShapeProto" (TensorShapeProto) [1] { 1: DIMENSION }
    DIMENSION "Dimension" (tensor_shape_proto::Dimension) [1, 2, 3] {}
}

enum Fault {
    /// The input ends inside a field of the outermost message.
    Short {
        need: u64,
        have: usize,
    },
    /// A message is inconsistent in itself.
    Malformed(&'static str),
    Deep,
    Large,
}

struct Walk {
    unknown: BTreeMap<(&'static str, u64), usize>,
    /// Memory for the messages so far.
    size: usize,
}

impl Walk {
    fn message(&mut self, mut rest: &[u8], schema: &'static Message, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Deep);
        }
        self.size += schema.size;
        if self.size > MAX_SIZE {
            return Err(Fault::Large);
        }
        // Inside a nested message, whose length was right, running out of bytes is no truncation.
        let short = |need: u64, have: usize| match depth {
            1 => Fault::Short { need, have },
            _ => Fault::Malformed(schema.name),
        };
        let varint = |rest: &mut &[u8]| -> Result<u64, Fault> {
            match read_varint(rest) {
                Some(x) => Ok(x),
                None if rest.len() < 10 => Err(short(1, rest.len())),
                None => Err(Fault::Malformed(schema.name)),
            }
        };
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            let (tag, wire_type) = (key >> 3, key & 7);
            if !schema.known.contains(&tag) {
                *self.unknown.entry((schema.name, tag)).or_default() += 1;
            }
            let length = match wire_type {
                0 => {
                    varint(&mut rest)?;
                    0
                }
                1 => 8,
                2 => varint(&mut rest)?,
                5 => 4,
                _ => return Err(Fault::Malformed(schema.name)),
            };
            let end = usize::try_from(length).ok().filter(|n| *n <= rest.len());
            let (payload, after) = rest.split_at(end.ok_or_else(|| short(length, rest.len()))?);
            rest = after;
            if let Some((_, child)) = schema.children.iter().find(|(t, _)| *t == tag) {
                if wire_type != 2 {
                    return Err(Fault::Malformed(schema.name));
                }
                self.message(payload, child, depth + 1)?;
            } else if wire_type == 2 {
                // A text or a list, which may be empty in the file and has a handle in memory all the same.
                self.size += size_of::<Vec<u8>>();
            }
        }
        Ok(())
    }
}

/// Reads a base-128 integer of at most ten bytes; leaves `rest` alone if there is none.
fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut x = 0u64;
    for (i, b) in rest.iter().take(10).enumerate() {
        x |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Some(x);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_those_of_the_schema() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let files = protox::compile([dir.join("onnx-ml.proto")], [&dir]).unwrap();
        let mut found = Vec::new();
        let mut queue: Vec<_> = files.file[0].message_type.clone();
        while let Some(m) = queue.pop() {
            let mut known: Vec<u64> = m.field.iter().map(|f| f.number() as u64).collect();
            known.sort_unstable();
            let mut children: Vec<(u64, String)> = m
                .field
                .iter()
                .filter(|f| {
                    f.type_name.as_deref().is_some_and(|t| !t.ends_with("Type") && !t.ends_with("Location"))
                })
                .map(|f| (f.number() as u64, f.type_name().rsplit('.').next().unwrap().to_owned()))
                .collect();
            children.sort_unstable();
            found.push((m.name().to_owned(), known, children));
            queue.extend(m.nested_type.iter().cloned());
        }
        let mut ours: Vec<_> = ALL
            .iter()
            .map(|m| {
                let children = m.children.iter().map(|(t, c)| (*t, c.name.to_owned())).collect::<Vec<_>>();
                (m.name.to_owned(), m.known.to_vec(), children)
            })
            .collect();
        found.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, found);
    }

    #[test]
    fn unknown_fields_are_counted_by_message() {
        // ir_version = 8; graph { field 99 = 1 }; field 100 = 2
        let bytes = [0x08, 8, 0x3a, 3, 0x98, 0x06, 1, 0xa0, 0x06, 2];
        let found = scan(&bytes).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [(("GraphProto", 99), 1), (("ModelProto", 100), 1)]
        );
    }

    #[test]
    fn unknown_fields_are_noticed_at_every_level() {
        // From a message to the fields that lead there from the model, by the shortest way.
        let mut ways: BTreeMap<&str, (&Message, Vec<u64>)> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([(&MODEL, Vec::new())]);
        while let Some((message, way)) = queue.pop_front() {
            if ways.contains_key(message.name) {
                continue;
            }
            for (tag, child) in message.children {
                queue.push_back((*child, [&way[..], &[*tag]].concat()));
            }
            ways.insert(message.name, (message, way));
        }
        // The model has all kinds of messages in it.
        assert_eq!(ways.len(), ALL.len());
        for (name, (message, way)) in ways {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(999 << 3, &mut bytes);
            bytes.push(1);
            for tag in way.iter().rev() {
                let mut outer = Vec::new();
                prost::encoding::encode_varint(tag << 3 | 2, &mut outer);
                prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
                outer.extend(bytes);
                bytes = outer;
            }
            assert!(!message.known.contains(&999));
            assert_eq!(scan(&bytes).unwrap().into_iter().collect::<Vec<_>>(), [((name, 999), 1)]);
        }
    }

    #[test]
    fn small_input_cannot_ask_for_much_memory() {
        // graph { node { attribute {} attribute {} ... } }
        let attributes = [0x2a, 0].repeat(4 << 20);
        let mut bytes = Vec::new();
        for (tag, len) in [(0x3au8, attributes.len() + 5), (0x0a, attributes.len())] {
            bytes.push(tag);
            prost::encoding::encode_varint(len as u64, &mut bytes);
        }
        bytes.extend(attributes);
        assert!(matches!(scan(&bytes), Err(LoadProblem::TooLarge { .. })));
    }

    #[test]
    fn broken_input_is_told_apart() {
        assert!(matches!(scan(&[0x08, 8, 0x3a, 40, 1]), Err(LoadProblem::Truncated { .. })));
        assert!(matches!(scan(&[0x08, 0x88]), Err(LoadProblem::Truncated { .. })));
        assert!(matches!(scan(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), Err(LoadProblem::NotOnnx { .. })));
        assert!(matches!(scan(b"PK\x03\x04\x14\0\0\0\x08\0"), Err(LoadProblem::NotOnnx { .. })));
        assert!(matches!(scan(b"ir_version: 8\n"), Err(LoadProblem::Text { hint: "" })));
        // A graph whose inner length is wrong is damaged, not short.
        assert!(matches!(scan(&[0x3a, 2, 0x0a, 9]), Err(LoadProblem::NotOnnx { .. })));
    }
}
