//! One test for each corner of the schema that a round trip could lose.

use crate::build::*;
use crate::{assert_preserved, import, round_trip};
use bytes::Bytes;
use prost::Message;
use squint_ir::DType;
use squint_proto::onnx::attribute_proto::AttributeType as T;
use squint_proto::onnx::type_proto::Value as Kind;
use squint_proto::onnx::*;

fn tensor_type(code: i32, dims: &[Option<&str>]) -> TypeProto {
    let dim = |d: &Option<&str>| tensor_shape_proto::Dimension {
        value: d.map(|text| match text.parse() {
            Ok(n) => tensor_shape_proto::dimension::Value::DimValue(n),
            Err(_) => tensor_shape_proto::dimension::Value::DimParam(text.to_owned()),
        }),
        denotation: None,
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    of(Kind::TensorType(type_proto::Tensor { elem_type: Some(code), shape: Some(shape) }))
}

fn of(kind: Kind) -> TypeProto {
    TypeProto { value: Some(kind), denotation: None }
}

fn denoted(mut ty: TypeProto) -> TypeProto {
    ty.denotation = s("IMAGE");
    ty
}

fn typed(name: &str, ty: TypeProto) -> ValueInfoProto {
    ValueInfoProto { name: s(name), r#type: Some(ty), ..ValueInfoProto::default() }
}

#[test]
fn tensors_of_every_element_type() {
    let mut g = graph("g", &[], &[], vec![]);
    for dtype in DType::ALL {
        let n = 5usize;
        let mut t = TensorProto {
            name: s(dtype.name()),
            data_type: Some(dtype.code()),
            dims: vec![n as i64],
            ..TensorProto::default()
        };
        let bytes = (0..dtype.packed_len(n).unwrap_or(0)).map(|i| (37 * i + 1) as u8).collect::<Vec<_>>();
        match dtype {
            DType::String => t.string_data = (0..n).map(|i| Bytes::from(vec![0xf0 + i as u8; i])).collect(),
            _ => t.raw_data = Some(bytes.into()),
        }
        g.initializer.push(t);
        g.value_info.push(typed(&format!("unused {dtype}"), tensor_type(dtype.code(), &[None, Some("N")])));
    }
    assert_eq!(g.initializer.len(), 28);
    assert_preserved(model(g));
}

#[test]
fn six_bit_floats_in_the_typed_field() {
    for n in 0..9 {
        let mut g = graph("g", &[], &[], vec![]);
        g.initializer = vec![TensorProto {
            name: s("w"),
            data_type: Some(DType::Float6e2m3.code()),
            dims: vec![n],
            int32_data: (0..n as i32).map(|i| (11 * i + 5) & 0x3f).collect(),
            ..TensorProto::default()
        }];
        assert_preserved(model(g));
    }
}

#[test]
fn segments_names_and_notes_of_tensors() {
    let noted = |name: &str| TensorProto {
        segment: Some(tensor_proto::Segment { begin: Some(0), end: Some(2) }),
        doc_string: s("chunk 1"),
        metadata_props: vec![entry("k", "v"), entry("k", "again")],
        ..floats(name, &[1.0, 2.0])
    };
    let held = AttributeProto { t: Some(noted("inner")), ..attribute("value", T::Tensor) };
    let mut g = graph("g", &[], &["c"], vec![node("Constant", &[], &["c"], vec![held])]);
    g.initializer = vec![noted("w")];
    assert_preserved(model(g));
}

#[test]
fn types_of_every_kind_with_denotations_inside() {
    let inner = || denoted(tensor_type(1, &[Some("N"), Some("3"), None, Some("-1")]));
    let boxed = || Some(Box::new(inner()));
    let sparse = type_proto::SparseTensor { elem_type: Some(11), shape: None };
    let opaque = type_proto::Opaque { domain: s("test.rng"), name: s("RNG") };
    let sequence = || of(Kind::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed() })));
    let kinds = vec![
        tensor_type(27, &[]),
        of(Kind::TensorType(type_proto::Tensor { elem_type: Some(1), shape: None })),
        inner(),
        sequence(),
        denoted(of(Kind::OptionalType(Box::new(type_proto::Optional {
            elem_type: Some(Box::new(sequence())),
        })))),
        of(Kind::MapType(Box::new(type_proto::Map { key_type: Some(8), value_type: boxed() }))),
        of(Kind::SparseTensorType(sparse)),
        of(Kind::OpaqueType(opaque.clone())),
        denoted(of(Kind::OpaqueType(type_proto::Opaque { domain: None, ..opaque }))),
        of(Kind::OpaqueType(type_proto::Opaque::default())),
        tensor_type(99, &[None]),
    ];
    let names: Vec<String> = (0..kinds.len()).map(|i| format!("x{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut inner_nodes = node("Op", &names, &["y"], vec![]);
    inner_nodes.attribute = vec![
        AttributeProto { tp: Some(kinds[3].clone()), ..attribute("one", T::TypeProto) },
        AttributeProto { type_protos: kinds.clone(), ..attribute("all", T::TypeProtos) },
    ];
    let mut g = graph("g", &[], &["y"], vec![inner_nodes]);
    g.input = names.iter().zip(kinds).map(|(name, ty)| typed(name, ty)).collect();
    g.input[4].metadata_props = vec![entry("layout", "NCHW")];
    assert_preserved(model(g));
}

#[test]
fn functions_that_differ_by_overload_and_declare_their_ends() {
    let function = |overload: &str, attributes: Vec<AttributeProto>| FunctionProto {
        name: s("F"),
        domain: s("local"),
        overload: s(overload),
        input: vec!["a".into()],
        output: vec!["r".into()],
        attribute: vec!["alpha".into()],
        attribute_proto: attributes,
        node: vec![node("Neg", &["a"], &["m"], vec![]), node("Abs", &["m"], &["r"], vec![])],
        opset_import: vec![OperatorSetIdProto { domain: s(""), version: Some(18) }],
        value_info: vec![
            ValueInfoProto { doc_string: s("input"), ..typed("a", tensor_type(1, &[Some("N")])) },
            typed("m", tensor_type(1, &[Some("N")])),
            typed("r", denoted(tensor_type(1, &[Some("N")]))),
        ],
        ..FunctionProto::default()
    };
    let body = graph("default body", &[], &["k"], vec![node("Constant", &[], &["k"], vec![])]);
    let defaults = vec![
        AttributeProto { g: Some(body), ..attribute("body", T::Graph) },
        AttributeProto { t: Some(floats("t", &[1.0])), doc_string: s("why"), ..attribute("w", T::Tensor) },
    ];
    let mut call =
        node("F", &["x"], &["y"], vec![AttributeProto { i: Some(1), ..attribute("alpha", T::Int) }]);
    (call.domain, call.overload) = (s("local"), s("two"));
    let mut m = model(graph("g", &["x"], &["y"], vec![call]));
    m.opset_import.push(OperatorSetIdProto { domain: s("local"), version: Some(1) });
    m.functions = vec![function("", defaults), function("two", vec![])];
    assert_preserved(m);
}

#[test]
fn references_to_attributes_of_every_kind() {
    let reference = |kind: i32| AttributeProto {
        name: s(&format!("a{kind}")),
        ref_attr_name: s("alpha"),
        doc_string: s("passed on"),
        r#type: Some(kind),
        ..AttributeProto::default()
    };
    let f = FunctionProto {
        name: s("F"),
        domain: s("local"),
        output: vec!["r".into()],
        attribute: vec!["alpha".into()],
        node: vec![node("Op", &[], &["r"], (1..15).chain([99]).map(reference).collect())],
        opset_import: vec![OperatorSetIdProto { domain: s(""), version: Some(18) }],
        ..FunctionProto::default()
    };
    let mut m = model(graph("g", &[], &[], vec![]));
    m.functions = vec![f];
    assert_preserved(m);
}

#[test]
fn an_output_that_is_an_input_keeps_its_own_declaration() {
    let mut g = graph("g", &["x"], &["x", "x"], vec![]);
    g.input[0].r#type = Some(tensor_type(1, &[Some("N"), Some("3")]));
    g.output[0].r#type = Some(tensor_type(1, &[None, None]));
    g.output[1].r#type = Some(denoted(tensor_type(1, &[Some("M"), Some("3")])));
    g.output[1].doc_string = s("the same again");
    assert_preserved(model(g));
}

#[test]
fn sparse_initializers_of_the_graph_and_of_bodies() {
    let sparse = |name: &str| SparseTensorProto {
        values: Some(floats(name, &[1.0, 2.0])),
        indices: Some(TensorProto {
            data_type: Some(7),
            dims: vec![2, 2],
            int64_data: vec![0, 1, 2, 0],
            ..TensorProto::default()
        }),
        dims: vec![3, 4],
    };
    let mut body = graph("body", &[], &["p"], vec![node("Add", &["outer", "local"], &["p"], vec![])]);
    body.sparse_initializer = vec![sparse("local")];
    let branches = ["then_branch", "else_branch"]
        .map(|name| AttributeProto { g: Some(body.clone()), ..attribute(name, T::Graph) });
    let mut g = graph("g", &["c"], &["y"], vec![node("If", &["c"], &["y"], branches.to_vec())]);
    g.sparse_initializer = vec![sparse("outer")];
    assert_preserved(model(g.clone()));
    // They are constants without being in the graph, and the verifier knows.
    let found = squint_ir::verify::verify(&import(&model(g)).unwrap());
    assert!(squint_ir::verify::errors(&found).is_none(), "{found:?}");
}

#[test]
fn devices_and_training() {
    let sharding = ShardingSpecProto {
        tensor_name: s("x"),
        device: vec![0, -1],
        index_to_device_group_map: vec![IntIntListEntryProto { key: Some(-1), value: vec![0, 1] }],
        sharded_dim: vec![ShardedDimProto {
            axis: Some(0),
            simple_sharding: vec![SimpleShardedDimProto {
                num_shards: Some(2),
                dim: Some(simple_sharded_dim_proto::Dim::DimParam("N".into())),
            }],
        }],
    };
    let mut relu = node("Relu", &["x"], &["y"], vec![]);
    relu.device_configurations = vec![NodeDeviceConfigurationProto {
        configuration_id: s("two gpus"),
        sharding_spec: vec![sharding],
        pipeline_stage: Some(0),
    }];
    let mut m = model(graph("g", &["x"], &["y"], vec![relu]));
    m.configuration = vec![DeviceConfigurationProto {
        name: s("two gpus"),
        num_devices: Some(2),
        device: vec!["a".into()],
    }];
    let mut step = graph("step", &[], &["loss"], vec![node("Neg", &["x"], &["loss"], vec![])]);
    step.initializer = vec![floats("rate", &[0.1])];
    m.training_info = vec![TrainingInfoProto {
        initialization: Some(graph("start", &[], &[], vec![])),
        algorithm: Some(step),
        initialization_binding: vec![entry("w", "w0")],
        update_binding: vec![entry("w", "w1")],
    }];
    // Nothing of it is interpreted, so nothing of it is brought to another form either.
    let y = round_trip(&m);
    assert_eq!((y.configuration, y.training_info), (m.configuration.clone(), m.training_info.clone()));
    assert_preserved(m);
}

#[test]
fn an_attribute_of_an_unknown_kind_is_kept_and_values_beside_its_kind_are_named() {
    let newer =
        AttributeProto { i: Some(3), r#type: Some(99), name: s("newer"), ..AttributeProto::default() };
    let both = AttributeProto { i: Some(1), f: Some(2.0), ..attribute("both", T::Int) };
    let referring = AttributeProto { i: Some(1), ref_attr_name: s("alpha"), ..attribute("ref", T::Int) };
    let list = vec![newer.clone(), both, referring];
    let m = model(graph("g", &["x"], &["y"], vec![node("Odd", &["x"], &["y"], list)]));
    assert_eq!(round_trip(&m).graph.unwrap().node[0].attribute[0], newer);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, m.encode_to_vec()).unwrap();
    let (_, notes) = squint_proto::load_with_notes(&path, &Default::default()).unwrap();
    assert_eq!(
        notes,
        [
            "attribute `both` of the Odd that makes `y` also has values of kind FLOAT, which will not be saved",
            "attribute `ref` of the Odd that makes `y` also has values of kind INT, which will not be saved",
        ]
    );
}
