//! The file of a recording: safetensors, so that any language reads it.
//!
//! For each observed value `V`:
//!
//! | tensor | type and shape | holds |
//! |---|---|---|
//! | `V.counts` | U64 \[bins\] | values other than zero, by bin |
//! | `V.bins` | F64 \[2\] | lower edge of the first bin, width of a bin |
//! | `V.range` | F32 \[2\] | least and greatest finite value |
//! | `V.tallies` | U64 \[6\] | samples, samples with finite values, zeros, NaN, +inf, -inf |
//! | `V.sums` | U64 \[2, 6\] | exact sums of the samples' least and greatest values, limbs in units of 2^-149 |
//!
//! where the extremes of each sample are kept (`squint calibrate --keep-extremes`)
//!
//! | tensor | type and shape | holds |
//! |---|---|---|
//! | `V.numbers` | U64 \[n\] | numbers of the samples with finite values, in order |
//! | `V.extremes` | F32 \[n, 2\] | their least and greatest finite value |
//!
//! of values whose channels were told apart (`squint calibrate --per-channel`)
//!
//! | tensor | type and shape | holds, for each channel, the same in at most 64 bins |
//! |---|---|---|
//! | `V.channels.counts` | U64 \[channels, 64\] | values other than zero, by bin, and zeros behind the last one |
//! | `V.channels.bins` | F64 \[channels, 2\] | |
//! | `V.channels.range` | F32 \[channels, 2\] | |
//! | `V.channels.tallies` | U64 \[channels, 6\] | |
//! | `V.channels.sums` | U64 \[channels, 2, 6\] | |
//!
//! and `samples`, I64, the numbers of the samples that are included. The metadata has one entry, `squint`, a JSON
//! object: format, version, counted, data, graph, inputs, values. (One entry, because writers of the format do not keep
//! several in order; and the same statistics are to be the same bytes.)

use super::arrays::{Arrays, array, channels, sketch};
use crate::Error;
use crate::files::write_whole;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use squint_ir::fingerprint::{Fingerprint, OpPrint};
use squint_passes::calibrate::{DataHash, First, Seen, Tally};
use squint_passes::calibration::Counting;
use squint_passes::recording::{DataRecord, Recording};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Version of the layout.
const FORMAT: u64 = 1;
/// The one entry of the metadata.
const KEY: &str = "squint";

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
#[error("cannot read statistics `{}`: {problem}", path.display())]
pub struct StatsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// Reads a recording.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn read(path: &Path) -> Result<Recording, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    from_bytes(&bytes).map_err(|problem| StatsError { path: path.to_owned(), problem }.into())
}

/// Writes a recording. The file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write(recording: &Recording, path: &Path) -> Result<(), Error> {
    write_whole(path, &to_bytes(recording))
}

/// The bytes of a recording: the same for the same statistics.
pub fn to_bytes(recording: &Recording) -> Vec<u8> {
    let mut arrays = Arrays::default();
    let samples: Vec<u8> = recording.tally.done().iter().flat_map(|i| (*i as i64).to_le_bytes()).collect();
    arrays.add("samples".into(), Dtype::I64, &[samples.len() / 8], samples);
    for (name, seen) in recording.names.iter().zip(recording.tally.values()) {
        arrays.sketch(name, &seen.sketch);
        if let Some(channels) = &seen.channels {
            arrays.channels(name, channels);
        }
    }
    let views = arrays.0.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("invariant: the bytes fill the shape"))
    });
    let metadata = HashMap::from([(KEY.to_owned(), metadata(recording).to_string())]);
    serialize(views, Some(metadata)).expect("invariant: the header is small, and its tensors are well-formed")
}

fn metadata(r: &Recording) -> Value {
    let first = |f: &First| json!({"sample": f.sample, "dims": f.dims});
    let operator = |o: &OpPrint| {
        json!([o.label, o.op_type, format!("{:016x}", o.structure), format!("{:016x}", o.constants)])
    };
    let inputs: Vec<Value> =
        r.tally.inputs().iter().map(|(name, f)| json!({"name": name, "first": first(f)})).collect();
    let values = r.names.iter().zip(r.tally.values());
    let values: Vec<Value> = values
        .map(|(name, seen)| {
            let mut value = json!({"name": name, "first": seen.first.as_ref().map(first)});
            if let Some(axis) = seen.axis() {
                value["axis"] = json!(axis);
            }
            value
        })
        .collect();
    let hash: String = r.tally.hash().0.iter().map(|b| format!("{b:02x}")).collect();
    json!({
        "format": FORMAT,
        "version": r.version,
        "counted": r.tally.counted().name(),
        "data": {
            "source": r.data.source,
            "preprocessing": r.data.preprocessing,
            "samples": r.tally.done().len(),
            "total": r.data.total,
            "hash": hash,
        },
        "graph": {"hash": r.graph.hash, "operators": r.graph.ops.iter().map(operator).collect::<Vec<_>>()},
        "inputs": inputs,
        "values": values,
    })
}

fn from_bytes(bytes: &[u8]) -> Result<Recording, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("it is no safetensors file ({e})"))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let entry = header.metadata().as_ref().and_then(|m| m.get(KEY));
    let entry = entry.ok_or("it is a safetensors file, but not one that `squint calibrate` wrote")?;
    let m: Value = serde_json::from_str(entry).map_err(|e| format!("its metadata is damaged: {e}"))?;
    match m["format"].as_u64() {
        Some(FORMAT) => (),
        Some(n) => return Err(format!("it has format version {n}, this program reads version {FORMAT}")),
        None => return Err(damaged("format")),
    }
    let ops = list(&m["graph"]["operators"], "graph")?.iter().map(operator).collect::<Option<Vec<_>>>();
    let graph =
        Fingerprint { hash: text(&m["graph"]["hash"], "graph")?, ops: ops.ok_or_else(|| damaged("graph"))? };
    let data = DataRecord {
        source: text(&m["data"]["source"], "data")?,
        preprocessing: text(&m["data"]["preprocessing"], "data")?,
        total: index(&m["data"]["total"]).ok_or_else(|| damaged("data"))?,
    };
    let mut inputs = BTreeMap::new();
    for input in list(&m["inputs"], "inputs")? {
        let first = first(&input["first"]).ok_or_else(|| damaged("inputs"))?;
        inputs.insert(text(&input["name"], "inputs")?, first);
    }
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for value in list(&m["values"], "values")? {
        let name = text(&value["name"], "values")?;
        let first = match &value["first"] {
            Value::Null => None,
            f => Some(first(f).ok_or_else(|| damaged("values"))?),
        };
        let axis = match &value["axis"] {
            Value::Null => None,
            axis => Some(index(axis).ok_or_else(|| damaged("values"))?),
        };
        let channels = axis.map(|axis| channels(&file, &name, axis)).transpose()?;
        values.push(Seen { sketch: sketch(&file, &name)?, first, channels });
        names.push(name);
    }
    let done: BTreeSet<usize> = array::<8>(&file, "samples", Dtype::I64)?
        .into_iter()
        .map(|b| usize::try_from(i64::from_le_bytes(b)).ok().filter(|i| *i < data.total))
        .collect::<Option<_>>()
        .ok_or("its samples are out of range")?;
    let hash = text(&m["data"]["hash"], "data")?;
    let tally = Tally::from_parts(values, inputs, done, data_hash(&hash).ok_or_else(|| damaged("data"))?);
    let tally = tally.counting(counting(&m["counted"]).ok_or_else(|| damaged("counted"))?);
    Ok(Recording { graph, data, names, tally, version: text(&m["version"], "version")? })
}

fn counting(v: &Value) -> Option<Counting> {
    match v {
        // Files that do not say it are older than thinning.
        Value::Null => Some(Counting::Every),
        v => Counting::ALL.into_iter().find(|c| v.as_str() == Some(c.name())),
    }
}

fn operator(v: &Value) -> Option<OpPrint> {
    let at = |i: usize| v.get(i).and_then(Value::as_str);
    let digest = |i: usize| u64::from_str_radix(at(i)?, 16).ok();
    let (label, op_type) = (at(0)?.to_owned(), at(1)?.to_owned());
    Some(OpPrint { label, op_type, structure: digest(2)?, constants: digest(3)? })
}

fn first(v: &Value) -> Option<First> {
    let dims = v["dims"].as_array()?.iter().map(index).collect::<Option<Vec<_>>>()?;
    Some(First { sample: index(&v["sample"])?, dims })
}

fn data_hash(text: &str) -> Option<DataHash> {
    let mut hash = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(DataHash(hash))
}

fn index(v: &Value) -> Option<usize> {
    v.as_u64().and_then(|x| usize::try_from(x).ok())
}

fn text(v: &Value, part: &str) -> Result<String, String> {
    v.as_str().map(str::to_owned).ok_or_else(|| damaged(part))
}

fn list<'a>(v: &'a Value, part: &str) -> Result<&'a Vec<Value>, String> {
    v.as_array().ok_or_else(|| damaged(part))
}

fn damaged(part: &str) -> String {
    format!("its metadata is damaged: `{part}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_passes::calibration::{ChannelSketches, Counting, Sketch};

    fn example() -> Recording {
        let mut sketch = Sketch::keeping_each();
        sketch.observe_nth(3, &[-1.0, 0.0, 2.5, f32::NAN], Counting::Every);
        let first = First { sample: 3, dims: vec![1, 4] };
        let mut channels = ChannelSketches::new(1);
        channels.observe(&[1, 4], &[-1.0, 0.0, 2.5, f32::NAN]);
        let values =
            vec![Seen { sketch, first: Some(first.clone()), channels: Some(channels) }, Seen::default()];
        let op = OpPrint { label: "fc".into(), op_type: "Gemm".into(), structure: 7, constants: u64::MAX };
        Recording {
            graph: Fingerprint { hash: "ab".into(), ops: vec![op] },
            data: DataRecord { source: "photos".into(), preprocessing: "none".into(), total: 5 },
            names: vec!["x".into(), "y".into()],
            tally: Tally::from_parts(
                values,
                [("x".to_owned(), first)].into(),
                [3].into(),
                DataHash(std::array::from_fn(|i| 250_u8.wrapping_add(i as u8))),
            ),
            version: "0".into(),
        }
    }

    #[test]
    fn a_recording_survives_its_file() {
        let bytes = to_bytes(&example());
        assert_eq!(from_bytes(&bytes).unwrap(), example());
        assert_eq!(to_bytes(&from_bytes(&bytes).unwrap()), bytes);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = to_bytes(&example());
        assert!(from_bytes(b"").unwrap_err().starts_with("it is no safetensors file"));
        for at in 0..bytes.len() {
            assert!(from_bytes(&bytes[..at]).is_err(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x15;
            let _ = from_bytes(&damaged);
        }
    }
}
