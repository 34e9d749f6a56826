//! Encoding a message into a writer.
//!
//! `Message::encode` wants a buffer that holds the whole message, weights and all. [`Sink`] is a buffer of
//! fixed size that passes on what it is given: fields and names collect in it, and the data of a tensor, wherever
//! in the message the tensor is, goes from where it lies straight to the writer.

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};
use prost::Message;
use std::io::{self, Write};

/// Bytes that are collected before they are written.
const BUFFER: usize = 64 << 10;

/// Writes an encoded message, and returns its length in bytes.
///
/// # Errors
/// The first error of the writer.
pub(crate) fn write(message: &impl Message, out: &mut impl Write) -> io::Result<u64> {
    let mut sink = Sink { out, buffer: Vec::with_capacity(BUFFER), written: 0, error: None };
    message.encode_raw(&mut sink);
    sink.flush();
    match sink.error {
        Some(error) => Err(error),
        None => Ok(sink.written),
    }
}

struct Sink<'w, W> {
    out: &'w mut W,
    buffer: Vec<u8>,
    written: u64,
    /// Encoding cannot fail, so an error waits until its end; nothing more is written.
    error: Option<io::Error>,
}

impl<W: Write> Sink<'_, W> {
    fn flush(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pass_on(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.out.write_all(bytes).err();
            self.written += bytes.len() as u64;
        }
    }
}

// SAFETY: `chunk_mut` gives the unused part of a vector, which is never empty since a full vector is flushed
// first, and `advance_mut` extends the vector over what was written to that part.
unsafe impl<W: Write> BufMut for Sink<'_, W> {
    fn remaining_mut(&self) -> usize {
        isize::MAX as usize
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        let length = self.buffer.len() + count;
        assert!(length <= self.buffer.capacity(), "invariant: only what there is room for was written");
        // SAFETY: there is room, and the caller has initialised these bytes, as the contract of the trait says.
        unsafe { self.buffer.set_len(length) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.buffer.len() == self.buffer.capacity() {
            self.flush();
        }
        self.buffer.spare_capacity_mut().into()
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if bytes.len() > self.buffer.capacity() - self.buffer.len() {
            self.flush();
        }
        if bytes.len() < self.buffer.capacity() {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.pass_on(bytes);
        }
    }

    fn put<T: Buf>(&mut self, mut from: T) {
        while from.has_remaining() {
            let length = from.chunk().len();
            self.put_slice(from.chunk());
            from.advance(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

    fn tensor(bytes: usize) -> TensorProto {
        TensorProto {
            dims: vec![bytes as i64],
            data_type: Some(2),
            name: Some("w".into()),
            raw_data: Some((0..bytes).map(|i| i as u8).collect::<Vec<_>>().into()),
            doc_string: Some("d".into()),
            ..TensorProto::default()
        }
    }

    /// A model with tensors of some lengths, as initializers and as attributes.
    fn model(lengths: &[usize]) -> ModelProto {
        let node = |n: &usize| NodeProto {
            op_type: Some("Constant".into()),
            attribute: vec![AttributeProto { t: Some(tensor(*n)), ..AttributeProto::default() }],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            node: lengths.iter().map(node).collect(),
            initializer: lengths.iter().map(|n| tensor(*n)).collect(),
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(8),
            graph: Some(graph),
            producer_name: Some("p".repeat(100)),
            ..ModelProto::default()
        }
    }

    /// Notes the length of each write.
    struct Writes(Vec<usize>, Vec<u8>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_bytes_are_those_of_encoding_at_once() {
        let around = [0, 1, BUFFER - 200, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 7];
        let model = model(&around);
        let mut out = Writes(Vec::new(), Vec::new());
        let n = write(&model, &mut out).unwrap();
        assert_eq!(n, out.1.len() as u64);
        assert_eq!(out.1, model.encode_to_vec());
        // Large data is not copied on the way.
        assert_eq!(out.0.iter().filter(|n| **n == 3 * BUFFER + 7).count(), 2);
    }

    #[test]
    fn the_first_error_ends_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = write(&model(&[3 * BUFFER; 3]), &mut Full(4 * BUFFER)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
