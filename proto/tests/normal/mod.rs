//! The normal form of a model that a round trip must preserve (see the crate's documentation).

use squint_proto::onnx::attribute_proto::AttributeType as T;
use squint_proto::onnx::*;
use std::collections::HashSet;
use std::path::Path;

/// Brings a decoded model to normal form; external data is read from `folder`.
pub(crate) fn normalise(mut m: ModelProto, folder: Option<&Path>) -> ModelProto {
    for s in [&mut m.producer_name, &mut m.producer_version, &mut m.domain, &mut m.doc_string] {
        text(s);
    }
    entries(&mut m.metadata_props);
    opsets(&mut m.opset_import);
    if let Some(g) = &mut m.graph {
        graph(g, folder);
    }
    for f in &mut m.functions {
        text(&mut f.doc_string);
        text(&mut f.overload);
        opsets(&mut f.opset_import);
        f.node.iter_mut().for_each(|n| node(n, folder));
        f.attribute_proto.iter_mut().for_each(|a| attribute(a, folder));
        f.value_info.sort_by(|a, b| a.name.cmp(&b.name));
    }
    m
}

fn graph(g: &mut GraphProto, folder: Option<&Path>) {
    text(&mut g.name);
    text(&mut g.doc_string);
    g.node.iter_mut().for_each(|n| node(n, folder));
    g.initializer.iter_mut().for_each(|t| tensor(t, folder));
    g.input.iter_mut().chain(&mut g.output).chain(&mut g.value_info).for_each(|v| text(&mut v.doc_string));
    let ends: HashSet<String> = g.input.iter().chain(&g.output).map(|v| v.name().to_owned()).collect();
    g.value_info.retain(|v| !ends.contains(v.name()));
    g.value_info.sort_by(|a, b| a.name.cmp(&b.name));
    g.value_info.dedup_by(|a, b| a.name == b.name);
    g.quantization_annotation.sort_by(|a, b| a.tensor_name.cmp(&b.tensor_name));
}

fn node(n: &mut NodeProto, folder: Option<&Path>) {
    for s in [&mut n.name, &mut n.domain, &mut n.overload, &mut n.doc_string] {
        text(s);
    }
    for list in [&mut n.input, &mut n.output] {
        while list.last().is_some_and(String::is_empty) {
            list.pop();
        }
    }
    n.attribute.iter_mut().for_each(|a| attribute(a, folder));
}

fn attribute(a: &mut AttributeProto, folder: Option<&Path>) {
    text(&mut a.doc_string);
    if a.ref_attr_name.is_some() {
        return;
    }
    match a.r#type() {
        T::Float => {
            a.f.get_or_insert(0.0);
        }
        T::Int => {
            a.i.get_or_insert(0);
        }
        T::String => {
            a.s.get_or_insert_default();
        }
        T::Undefined if !a.ints.is_empty() => a.r#type = Some(T::Ints as i32),
        _ => {}
    }
    // Sparse tensors stay as they are.
    a.t.iter_mut().chain(&mut a.tensors).for_each(|t| tensor(t, folder));
    a.g.iter_mut().chain(&mut a.graphs).for_each(|g| graph(g, folder));
}

fn tensor(t: &mut TensorProto, folder: Option<&Path>) {
    text(&mut t.doc_string);
    if t.data_location() == tensor_proto::DataLocation::External {
        let get = |key: &str| t.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_owned());
        let file = std::fs::read(folder.expect("a folder").join(get("location").expect("a location")))
            .expect("data");
        let offset = get("offset").map_or(0, |x| x.parse().expect("a number"));
        let length = get("length").map_or(file.len() - offset, |x| x.parse().expect("a number"));
        t.raw_data = Some(file[offset..offset + length].to_vec().into());
        t.external_data.clear();
    }
    t.data_location = None;
    if t.data_type() == 8 {
        return;
    }
    let mut raw = t.raw_data.take().unwrap_or_default().to_vec();
    let code = t.data_type();
    t.float_data.drain(..).for_each(|x| raw.extend(x.to_le_bytes()));
    t.double_data.drain(..).for_each(|x| raw.extend(x.to_le_bytes()));
    t.int64_data.drain(..).for_each(|x| raw.extend(x.to_le_bytes()));
    let bytes = if code == 12 { 4 } else { 8 };
    t.uint64_data.drain(..).for_each(|x| raw.extend(&x.to_le_bytes()[..bytes]));
    let bytes = match code {
        6 => 4,
        4 | 5 | 10 | 16 => 2,
        _ => 1,
    };
    match code {
        27 | 28 => six_bits(&std::mem::take(&mut t.int32_data), &mut raw),
        _ => t.int32_data.drain(..).for_each(|x| raw.extend(&x.to_le_bytes()[..bytes])),
    }
    t.raw_data = Some(raw.into());
}

/// Four elements to three bytes, by the formula beside `TensorProto.raw_data`.
fn six_bits(elements: &[i32], raw: &mut Vec<u8>) {
    for group in elements.chunks(4) {
        let x = |i: usize| group.get(i).map_or(0, |x| *x as u8);
        let bytes = [x(0) | (x(1) & 0x3) << 6, x(1) >> 2 | (x(2) & 0xf) << 4, x(2) >> 4 | x(3) << 2];
        raw.extend(&bytes[..(6 * group.len()).div_ceil(8)]);
    }
}

fn opsets(list: &mut [OperatorSetIdProto]) {
    for o in list {
        o.domain.get_or_insert_default();
    }
}

fn entries(list: &mut [StringStringEntryProto]) {
    for e in list {
        e.key.get_or_insert_default();
        e.value.get_or_insert_default();
    }
}

fn text(s: &mut Option<String>) {
    s.take_if(|s| s.is_empty());
}
