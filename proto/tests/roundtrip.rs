//! Import and export lose nothing: `decode(encode(import(x)))` is `x` in the normal form that the crate's
//! documentation describes, computed here independently.
//!
//! With `SQUINT_ZOO` naming a folder, every `.onnx` file in it makes the round trip too.

mod build;
mod fields;
mod independent;
mod normal;

use build::*;
use bytes::Bytes;
use normal::normalise;
use prost::Message;
use squint_proto::onnx::attribute_proto::AttributeType as T;
use squint_proto::onnx::{self, *};
use squint_proto::{LoadOptions, LoadProblem};
use std::path::{Path, PathBuf};

pub(crate) fn import(model: &ModelProto) -> Result<squint_ir::Model, LoadProblem> {
    squint_proto::from_bytes(model.encode_to_vec().into(), None).map_err(|e| e.problem)
}

pub(crate) fn round_trip(x: &ModelProto) -> ModelProto {
    let bytes = squint_proto::encode(&import(x).expect("imports")).expect("exports");
    ModelProto::decode(&bytes[..]).expect("decodes")
}

#[track_caller]
pub(crate) fn assert_preserved(x: ModelProto) {
    let y = round_trip(&x);
    if let Err(problem) = independent::check(&x.encode_to_vec(), &y.encode_to_vec(), None) {
        panic!("{problem}");
    }
    if let Some(difference) = difference(&normalise(x, None), &normalise(y, None)) {
        panic!("{difference}");
    }
}

#[test]
fn every_attribute_kind() {
    let sparse = SparseTensorProto {
        values: Some(floats("v", &[1.0])),
        indices: Some(TensorProto {
            data_type: Some(7),
            dims: vec![1],
            int64_data: vec![3],
            ..Default::default()
        }),
        dims: vec![5],
    };
    let ty = value("x").r#type;
    let mut denoted = ty.clone();
    denoted.as_mut().unwrap().denotation = s("IMAGE");
    let list = vec![
        AttributeProto { f: Some(0.0), doc_string: s("why"), ..attribute("a", T::Float) },
        AttributeProto { i: Some(-7), ..attribute("b", T::Int) },
        AttributeProto { s: Some(Bytes::from_static(b"\xff")), ..attribute("c", T::String) },
        AttributeProto { t: Some(floats("inner", &[1.0, 2.0])), ..attribute("d", T::Tensor) },
        AttributeProto { g: Some(graph("body", &[], &[], vec![])), ..attribute("e", T::Graph) },
        AttributeProto { floats: vec![1.0], ..attribute("f", T::Floats) },
        AttributeProto { ints: vec![], ..attribute("g", T::Ints) },
        AttributeProto {
            strings: vec![Bytes::new(), Bytes::from_static(b"x")],
            ..attribute("h", T::Strings)
        },
        AttributeProto { tensors: vec![floats("", &[]), floats("", &[3.0])], ..attribute("i", T::Tensors) },
        AttributeProto { graphs: vec![graph("p", &[], &[], vec![]); 2], ..attribute("j", T::Graphs) },
        AttributeProto { sparse_tensor: Some(sparse.clone()), ..attribute("k", T::SparseTensor) },
        AttributeProto { sparse_tensors: vec![sparse], ..attribute("l", T::SparseTensors) },
        AttributeProto { tp: ty.clone(), ..attribute("m", T::TypeProto) },
        AttributeProto { tp: denoted, ..attribute("n", T::TypeProto) },
        AttributeProto { type_protos: vec![ty.unwrap(); 2], ..attribute("o", T::TypeProtos) },
        AttributeProto { ints: vec![1, 2], r#type: None, ..attribute("untyped", T::Ints) },
    ];
    assert_preserved(model(graph("g", &["x"], &["y"], vec![node("Odd", &["x"], &["y"], list)])));
}

#[test]
fn typed_data_of_every_width() {
    let typed = |name: &str, code, dims: &[i64]| TensorProto {
        name: s(name),
        data_type: Some(code),
        dims: dims.to_vec(),
        ..TensorProto::default()
    };
    let mut g = graph("g", &[], &[], vec![]);
    g.initializer = vec![
        TensorProto { float_data: vec![1.0, -2.5], ..typed("f", 1, &[2]) },
        TensorProto { int32_data: vec![255, 0], ..typed("u8", 2, &[2, 1]) },
        TensorProto { int32_data: vec![-1], ..typed("i8", 3, &[]) },
        TensorProto { int32_data: vec![-300], ..typed("i16", 5, &[1]) },
        TensorProto { int64_data: vec![i64::MIN], ..typed("i64", 7, &[1]) },
        TensorProto { string_data: vec![Bytes::from_static(b"ab")], ..typed("str", 8, &[1]) },
        TensorProto { int32_data: vec![0, 1], ..typed("bool", 9, &[2]) },
        TensorProto { int32_data: vec![0x3c00], ..typed("f16", 10, &[1]) },
        TensorProto { double_data: vec![0.5], ..typed("f64", 11, &[1]) },
        TensorProto { uint64_data: vec![u64::MAX >> 32], ..typed("u32", 12, &[1]) },
        TensorProto { double_data: vec![1.0, 2.0], ..typed("c128", 15, &[1]) },
        TensorProto { int32_data: vec![0x7f], ..typed("f8", 17, &[1]) },
        TensorProto { int32_data: vec![0x21, 0x03], doc_string: s("odd"), ..typed("i4", 22, &[3]) },
        TensorProto { metadata_props: vec![entry("k", "v")], ..typed("none", 1, &[0, 4]) },
    ];
    assert_preserved(model(g));
}

#[test]
fn bodies_capture_from_every_scope_around_them() {
    let inner = graph("inner", &[], &["z"], vec![node("Add", &["x", "local"], &["z"], vec![])]);
    let inner = AttributeProto { g: Some(inner), ..attribute("then_branch", T::Graph) };
    let mut body = graph(
        "body",
        &[],
        &["out"],
        vec![node("Neg", &["w"], &["local"], vec![]), node("If", &["c"], &["out"], vec![inner])],
    );
    body.initializer = vec![floats("own", &[1.0])];
    let body = AttributeProto { g: Some(body), ..attribute("then_branch", T::Graph) };
    let direct = AttributeProto {
        g: Some(graph("direct", &[], &["x"], vec![])),
        ..attribute("else_branch", T::Graph)
    };
    let mut g = graph("g", &["c", "x"], &["y"], vec![node("If", &["c"], &["y"], vec![body, direct])]);
    g.initializer = vec![floats("w", &[2.0])];
    let x = model(g);
    let m = import(&x).unwrap();
    let op = m.main().ops().next().unwrap();
    let captured: Vec<&str> =
        m.main().captures(op).into_iter().flatten().map(|v| m.main().value(v).name()).collect();
    assert_eq!(captured, ["w", "c", "x"]);
    assert_preserved(x);
}

#[test]
fn a_renamed_capture_is_not_hidden_by_a_local_name() {
    let body = graph("body", &[], &["t"], vec![node("Neg", &["x"], &["t"], vec![])]);
    let body = AttributeProto { g: Some(body), ..attribute("then_branch", T::Graph) };
    let x = model(graph("g", &["x"], &["y"], vec![node("If", &["x"], &["y"], vec![body])]));
    let mut m = import(&x).unwrap();
    let v = m.main().value_named("x").unwrap();
    m.main_mut().rename(v, "t");
    let y = ModelProto::decode(&squint_proto::encode(&m).unwrap()[..]).unwrap();
    let n = &y.graph.unwrap().node[0];
    let body = n.attribute[0].g.as_ref().unwrap();
    assert_eq!((&n.input[0][..], &body.node[0].input[0][..]), ("t", "t"));
    assert_eq!(body.node[0].output[0], "t_inner_1");
    assert_eq!(body.output[0].name(), "t_inner_1");
}

#[test]
fn functions_and_everything_the_ir_does_not_model() {
    let reference = AttributeProto { ref_attr_name: s("alpha"), ..attribute("alpha", T::Float) };
    let f = FunctionProto {
        name: s("Act"),
        domain: s("local"),
        overload: s("v2"),
        input: vec!["a".into(), "b".into()],
        output: vec!["r".into()],
        attribute: vec!["alpha".into()],
        attribute_proto: vec![AttributeProto { f: Some(0.5), ..attribute("beta", T::Float) }],
        node: vec![
            node("LeakyRelu", &["a"], &["m"], vec![reference]),
            node("Add", &["m", "b"], &["r"], vec![]),
        ],
        opset_import: vec![OperatorSetIdProto { domain: s(""), version: Some(18) }],
        value_info: vec![value("m")],
        doc_string: s("doc"),
        metadata_props: vec![entry("k", "v")],
    };
    let mut call = node("Act", &["x", "", "q", ""], &["y"], vec![]);
    call.name = s("call");
    call.domain = s("local");
    call.overload = s("v2");
    call.doc_string = s("note");
    call.metadata_props = vec![entry("a", "")];
    call.device_configurations =
        vec![NodeDeviceConfigurationProto { pipeline_stage: Some(2), ..Default::default() }];
    let mut g = graph("g", &["x", "w"], &["y"], vec![call]);
    g.doc_string = s("graph doc");
    g.metadata_props = vec![entry("g", "h")];
    g.initializer = vec![floats("w", &[1.0]), floats("const", &[2.0])];
    g.sparse_initializer =
        vec![SparseTensorProto { values: Some(floats("q", &[1.0])), indices: None, dims: vec![9] }];
    g.quantization_annotation = vec![
        TensorAnnotation {
            tensor_name: s("x"),
            quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "w")],
        },
        TensorAnnotation { tensor_name: s("elsewhere"), quant_parameter_tensor_names: vec![] },
    ];
    g.value_info = vec![value("const"), value("elsewhere")];
    g.input[0].doc_string = s("the image");
    g.input[0].metadata_props = vec![entry("layout", "NCHW")];
    if let Some(type_proto::Value::TensorType(t)) = &mut g.input[0].r#type.as_mut().unwrap().value {
        let dim =
            |value, denotation: &str| tensor_shape_proto::Dimension { value, denotation: s(denotation) };
        let n = tensor_shape_proto::dimension::Value::DimParam("N".into());
        let c = tensor_shape_proto::dimension::Value::DimValue(3);
        t.shape =
            Some(TensorShapeProto { dim: vec![dim(Some(n), "DATA_BATCH"), dim(Some(c), "DATA_CHANNEL")] });
    }
    let mut m = model(g);
    m.opset_import.push(OperatorSetIdProto { domain: s("local"), version: Some(1) });
    m.producer_name = s("p");
    m.producer_version = s("1");
    m.domain = s("d");
    m.model_version = Some(0);
    m.doc_string = s("doc");
    m.metadata_props = vec![entry("m", "n"), entry("m", "again")];
    m.functions = vec![f];
    m.training_info = vec![TrainingInfoProto {
        algorithm: Some(graph("train", &[], &["loss"], vec![])),
        update_binding: vec![entry("w", "w2")],
        ..Default::default()
    }];
    m.configuration = vec![DeviceConfigurationProto { name: s("gpu"), num_devices: Some(2), device: vec![] }];
    assert_preserved(m);
}

#[test]
fn nodes_out_of_order_are_sorted_and_otherwise_left_alone() {
    let relu = |x: &str, y: &str| node("Relu", &[x], &[y], vec![]);
    let order = |nodes: Vec<NodeProto>| -> Vec<String> {
        let y = round_trip(&model(graph("g", &["x"], &["d"], nodes)));
        y.graph.unwrap().node.into_iter().map(|n| n.output[0].clone()).collect()
    };
    assert_eq!(order(vec![relu("c", "d"), relu("x", "a"), relu("x", "c")]), ["a", "c", "d"]);
    assert_eq!(order(vec![relu("x", "c"), relu("x", "a"), relu("c", "d")]), ["c", "a", "d"]);
}

#[test]
fn wrong_names_are_listed() {
    let relu = |x: &str, y: &str| node("Relu", &[x], &[y], vec![]);
    let e =
        import(&model(graph("g", &["x", "x"], &["y"], vec![relu("x", "y"), relu("x", "y")]))).unwrap_err();
    let by = "`x` (an input), `y` (the Relu that makes `y`)";
    assert_eq!(e.to_string(), format!("graph `g` defines {by} more than once"));
    let e = import(&model(graph("g", &["x"], &["z"], vec![relu("nowhere", "y")]))).unwrap_err();
    let by = "`nowhere` (the Relu that makes `y`), `z` (as an output)";
    assert_eq!(e.to_string(), format!("graph `g` uses {by}, which nothing defines"));
    let cycle = model(graph("g", &[], &["a"], vec![relu("a", "b"), relu("b", "a")]));
    let e = squint_proto::encode(&import(&cycle).unwrap()).unwrap_err();
    assert!(e.to_string().contains("cycle"), "{e}");
}

/// `SQUINT_ZOO=/folder cargo test -p squint-proto --test roundtrip -- --nocapture zoo`
#[test]
fn zoo() {
    let Some(root) = std::env::var_os("SQUINT_ZOO") else { return };
    let mut files = Vec::new();
    collect(Path::new(&root), &mut files);
    files.sort();
    let (mut failed, mut identical) = (Vec::new(), 0);
    for file in &files {
        match check_file(file) {
            Ok(same) => identical += usize::from(same),
            Err(e) => failed.push(format!("{}: {e}", file.display())),
        }
    }
    let n = files.len();
    assert!(
        failed.is_empty(),
        "{} of {n} failed ({identical} identical in bytes):\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(n > 0, "no `.onnx` file in the folder");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(folder).expect("readable folder").flatten() {
        let path = e.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|x| x == "onnx") {
            files.push(path);
        }
    }
}

/// True if even the bytes are the same.
fn check_file(file: &Path) -> Result<bool, String> {
    let (m, notes) = match squint_proto::load_with_notes(file, &LoadOptions::default()) {
        Ok(loaded) => loaded,
        // Some tools store models without their weights, which is no model.
        Err(e) if matches!(e.problem, LoadProblem::NoData { .. }) => return Ok(false),
        Err(e) => return Err(e.problem.to_string()),
    };
    if !notes.is_empty() {
        return Err(notes.join("; "));
    }
    let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let out = squint_proto::encode(&m).map_err(|e| e.to_string())?;
    independent::check(&bytes, &out, file.parent())?;
    let x = onnx::ModelProto::decode(&bytes[..]).map_err(|e| e.to_string())?;
    let y = onnx::ModelProto::decode(&out[..]).map_err(|e| e.to_string())?;
    match difference(&normalise(x, file.parent()), &normalise(y, None)) {
        Some(difference) => Err(difference),
        None => Ok(bytes == out),
    }
}

/// The first lines where two models differ.
fn difference(x: &ModelProto, y: &ModelProto) -> Option<String> {
    if x == y {
        return None;
    }
    let (x, y) = (format!("{x:#?}"), format!("{y:#?}"));
    let at = x.lines().zip(y.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let show = |t: &str| t.lines().skip(at.saturating_sub(4)).take(6).collect::<Vec<_>>().join("\n");
    Some(format!("differs\n--- in\n{}\n--- out\n{}", show(&x), show(&y)))
}
