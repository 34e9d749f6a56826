//! A second decoder and encoder, those of the crate `onnx-protobuf`, which share no code with prost.
//!
//! It knows an older schema, in which a field that is absent cannot be told from one that has its default, and
//! keeps the fields that are newer as they are. So models are compared as what it writes for them.

use onnx_protobuf::ModelProto;
use protobuf::Message;
use std::path::Path;

/// A model file that went through the other decoder and encoder.
fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let model = ModelProto::parse_from_bytes(bytes).map_err(|e| e.to_string())?;
    model.write_to_bytes().map_err(|e| e.to_string())
}

/// A model file that went through squint; `folder` has its external data.
fn through_squint(bytes: Vec<u8>, folder: Option<&Path>) -> Result<Vec<u8>, String> {
    let model = squint_proto::from_bytes(bytes.into(), folder).map_err(|e| e.to_string())?;
    squint_proto::encode(&model).map_err(|e| e.to_string())
}

/// Checks a model file and what squint wrote for it: the other decoder sees all that squint wrote, and squint reads
/// all that the other encoder writes.
pub(crate) fn check(original: &[u8], written: &[u8], folder: Option<&Path>) -> Result<(), String> {
    let seen = rewritten(written)?;
    if rewritten(&through_squint(seen.clone(), None)?)? != seen {
        return Err("another decoder does not see all that was written".into());
    }
    if rewritten(&through_squint(rewritten(original)?, folder)?)? != seen {
        return Err("written by another encoder, the model is read as something else".into());
    }
    Ok(())
}
