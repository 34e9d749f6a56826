//! Loading from and saving to files: what works, what is refused and what is left behind.

use prost::Message;
use squint_ir::{DType, Model, OpSpec, Tensor, Type};
use squint_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto,
};
use squint_proto::{External, LoadOptions, SaveOptions, encode, encode_for_executor, examine, load, save};
use std::fs;
use std::path::Path;

/// `y = x + w` with `n` floats in `w`.
fn sample(n: usize) -> Model {
    let mut m = Model::new("g", 17);
    let g = m.main_mut();
    let x = g.add_value("x", Some(Type::tensor(DType::Float, None)));
    g.inputs.push(x);
    let data: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let w = g.add_const("w", Tensor::from_f32(&[n], &data));
    let bias = g.add_const("b", Tensor::from_f32(&[n], &data));
    let s = g.emit(OpSpec::new("Add").operands([x, w]), "s", None);
    let y = g.emit(OpSpec::new("Add").operands([s, bias]), "y", Some(Type::tensor(DType::Float, None)));
    g.outputs.push(y);
    m
}

fn always() -> SaveOptions {
    SaveOptions { external: External::Always }
}

fn error(path: &Path) -> String {
    let e = load(path, &LoadOptions::default()).expect_err("an error").to_string();
    assert!(!e.contains('\n'), "one line: {e}");
    e.replace(&path.parent().unwrap().display().to_string(), "DIR")
}

#[test]
fn what_is_not_a_model_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let put = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).unwrap();
        error(&at(name))
    };
    assert_eq!(error(&at("a.onnx")), "cannot load `DIR/a.onnx`: no such file");
    assert!(error(&at("")).contains("is a directory"));
    assert!(put("e.onnx", b"").ends_with("is empty"));
    assert!(put("t.onnx", b"ir_version: 8\ngraph {\n}\n").contains("is a text file"));
    assert!(put("l.onnx", b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(put("p.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").contains("is not an ONNX model"));
    let good = encode(&sample(100)).unwrap();
    for cut in 1..good.len() {
        let e = put("c.onnx", &good[..cut]);
        assert!(e.contains("truncated"), "cut at {cut}: {e}");
    }
    let mut bad = good.clone();
    let name = bad.windows(3).position(|w| w == b"Add").unwrap();
    bad[name] = 0xff;
    assert!(put("u.onnx", &bad).contains("is not UTF-8"), "{}", error(&at("u.onnx")));
}

#[test]
fn damaged_bytes_never_panic() {
    let good = encode(&sample(8)).unwrap();
    for i in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[i] ^= flip;
            let _ = squint_proto::from_bytes(bad.into(), None).map(|m| encode(&m));
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = Vec::new();
    for _ in 0..200 {
        // graph { node { attribute { g { ... } } } }
        let mut wrapped = bytes;
        for tag in [0x32u8, 0x2a, 0x0a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(wrapped.len() as u64, &mut outer);
            outer.extend(wrapped);
            wrapped = outer;
        }
        bytes = wrapped;
    }
    let mut model = vec![0x08, 8, 0x3a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut model);
    model.extend(bytes);
    let e = squint_proto::from_bytes(model.into(), None).unwrap_err().to_string();
    assert!(e.contains("nested more than"), "{e}");
}

#[test]
fn weights_are_slices_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    save(&sample(2000), &path, &SaveOptions::default()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), encode(&sample(2000)).unwrap());
    let file = fs::read(&path).unwrap();
    for mmap in [true, false] {
        let m = load(&path, &LoadOptions { mmap, ..LoadOptions::default() }).unwrap();
        let w = m.main().konst(m.main().value_named("w").unwrap()).unwrap();
        let source = w.source.as_ref().unwrap();
        assert_eq!(&*source.path, path);
        let at = source.offset as usize;
        assert_eq!(&file[at..at + 8000], &w.bytes()[..]);
        let small = encode_for_executor(&m).unwrap();
        assert!(small.bytes.len() < 1000);
        assert_eq!(small.dir, Some(fs::canonicalize(dir.path()).unwrap()));
    }
}

#[test]
fn executor_bytes_refer_to_the_file_and_inline_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    save(&sample(2000), &path, &always()).unwrap();
    let mut m = load(&path, &LoadOptions::default()).unwrap();
    let b = m.main().value_named("b").unwrap();
    m.main_mut().set_const(b, Some(std::sync::Arc::new(Tensor::from_f32(&[2000], &[1.0; 2000]))));
    let out = encode_for_executor(&m).unwrap();
    assert!(out.bytes.len() > 8000 && out.bytes.len() < 9000);
    // What an executor makes of it.
    let again = squint_proto::from_bytes(out.bytes.into(), out.dir.as_deref()).unwrap();
    assert_eq!(encode(&again).unwrap(), encode(&m).unwrap());
    // A file that was replaced is not trusted.
    fs::write(dir.path().join("new"), vec![7; 20000]).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("m.onnx.data")).unwrap();
    let dir = encode_for_executor(&m).unwrap().dir;
    assert_eq!(dir, None);
}

#[test]
fn external_data_is_aligned_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let m = sample(1500);
    save(&m, &path, &always()).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(fs::metadata(dir.path().join("m.onnx.data")).unwrap().len(), 8192 + 6000);
    let again = load(&path, &LoadOptions::default()).unwrap();
    let b = again.main().konst(again.main().value_named("b").unwrap()).unwrap();
    assert_eq!(b.source.as_ref().unwrap().offset, 8192);
    assert_eq!(encode(&again).unwrap(), encode(&m).unwrap());
    // Over the very files that are mapped.
    save(&again, &path, &always()).unwrap();
    assert_eq!(encode(&load(&path, &LoadOptions::default()).unwrap()).unwrap(), encode(&m).unwrap());
}

#[test]
fn external_data_stays_in_the_folder() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("model");
    fs::create_dir(&dir).unwrap();
    fs::write(outer.path().join("secret"), [0; 16]).unwrap();
    fs::write(dir.join("short"), [0; 4]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outer.path().join("secret"), dir.join("link")).unwrap();
    let path = dir.join("m.onnx");
    let write = |entries: &[(&str, &str)]| {
        let pair = |(k, v): &(&str, &str)| StringStringEntryProto {
            key: Some(k.to_string()),
            value: Some(v.to_string()),
        };
        let t = TensorProto {
            name: Some("w".into()),
            dims: vec![4],
            data_type: Some(1),
            data_location: Some(1),
            external_data: entries.iter().map(pair).collect(),
            ..TensorProto::default()
        };
        let m = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(GraphProto { initializer: vec![t], ..GraphProto::default() }),
            ..ModelProto::default()
        };
        fs::write(&path, m.encode_to_vec()).unwrap();
    };
    let refused = |entries: &[(&str, &str)]| {
        write(entries);
        error(&path)
    };
    let absolute = outer.path().join("secret").display().to_string();
    assert!(refused(&[("location", "../secret")]).contains("leaves the model's folder"));
    assert!(refused(&[("location", &absolute)]).contains("leaves the model's folder"));
    #[cfg(unix)]
    assert!(refused(&[("location", "link")]).contains("is a link out of the model's folder"));
    let missing = "initializer `w`: external data `gone` no such file";
    assert_eq!(refused(&[("location", "gone")]), format!("cannot load `DIR/m.onnx`: {missing}"));
    assert!(refused(&[("location", "short")]).contains("is too short"));
    assert!(refused(&[("location", "short"), ("offset", "18446744073709551615")]).contains("is too short"));
    assert!(refused(&[("location", "short"), ("length", "4")]).contains("needs 16 bytes, has 4"));
    assert!(refused(&[("location", "short"), ("offset", "-1")]).contains("not a number"));
    assert!(refused(&[]).contains("`location` is missing"));
    write(&[("location", "../secret")]);
    let anywhere = LoadOptions { allow_external_anywhere: true, ..LoadOptions::default() };
    assert!(load(&path, &anywhere).is_ok());
}

#[test]
fn a_failed_save_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let failed = |path: &Path| save(&sample(400), path, &always()).expect_err("an error").to_string();
    assert!(failed(dir.path()).contains("is a directory"));
    assert!(failed(&dir.path().join("no/m.onnx")).contains("does not exist"));
    assert!(failed(Path::new("/dev/null")).contains("is not a regular file"));
    assert_eq!(files(dir.path()), [""; 0]);
}

/// Names in a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_replaced_model_keeps_its_data_until_the_new_one_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    save(&sample(400), &path, &always()).unwrap();
    fs::write(dir.path().join("m.onnx.1.data"), b"of somebody else").unwrap();
    save(&sample(500), &path, &always()).unwrap();
    // Never over the old data, nor over other files; afterwards only what the old model used is gone.
    assert_eq!(files(dir.path()), ["m.onnx", "m.onnx.1.data", "m.onnx.2.data"]);
    assert_eq!(
        load(&path, &LoadOptions::default()).unwrap().main().op_count(),
        sample(500).main().op_count()
    );
    save(&sample(400), &path, &always()).unwrap();
    assert_eq!(files(dir.path()), ["m.onnx", "m.onnx.1.data", "m.onnx.data"]);
    save(&sample(2), &path, &SaveOptions::default()).unwrap();
    assert_eq!(files(dir.path()), ["m.onnx", "m.onnx.1.data"]);
}

/// Writes a model that names its data as it likes: `w` in `parts/w.bin`, `b` and the value of a `Constant` in
/// `rest`, with a checksum.
fn write_by_hand(folder: &Path, checksum: &str) -> std::path::PathBuf {
    let floats = |n: usize, x: f32| (0..n).flat_map(|_| x.to_le_bytes()).collect::<Vec<u8>>();
    fs::create_dir_all(folder.join("parts")).unwrap();
    fs::write(folder.join("parts/w.bin"), floats(8, 1.0)).unwrap();
    fs::write(folder.join("rest"), [vec![9; 12], floats(4, 2.0), floats(4, 3.0)].concat()).unwrap();
    let tensor = |name: &str, entries: &[(&str, &str)]| TensorProto {
        name: (!name.is_empty()).then(|| name.to_owned()),
        dims: vec![4],
        data_type: Some(1),
        data_location: Some(1),
        external_data: entries.iter().map(pair).collect(),
        ..TensorProto::default()
    };
    let rest = |name: &str, location: &str, offset: &str| {
        tensor(name, &[("location", location), ("length", "16"), ("offset", offset), ("checksum", checksum)])
    };
    let value = AttributeProto {
        name: Some("value".into()),
        r#type: Some(4),
        t: Some(rest("", "rest", "28")),
        ..AttributeProto::default()
    };
    let constant = NodeProto {
        op_type: Some("Constant".into()),
        output: vec!["c".into()],
        attribute: vec![value],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![constant],
        initializer: vec![
            tensor("w", &[("location", "parts/w.bin"), ("offset", "16"), ("of", "us")]),
            rest("b", "./rest", "12"),
        ],
        ..GraphProto::default()
    };
    let path = folder.join("m.onnx");
    fs::write(&path, with_graph(graph).encode_to_vec()).unwrap();
    path
}

fn pair((k, v): &(&str, &str)) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(k.to_string()), value: Some(v.to_string()) }
}

fn with_graph(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn keep() -> SaveOptions {
    SaveOptions { external: External::Keep }
}

#[test]
fn the_layout_of_external_data_is_kept_when_asked() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = write_by_hand(from.path(), "0123");
    let m = load(&path, &LoadOptions::default()).unwrap();
    let out = to.path().join("out.onnx");
    save(&m, &out, &keep()).unwrap();
    // Locations, order of keys, checksum and a key of nobody's are as they were; so are the files.
    assert_eq!(
        ModelProto::decode(&fs::read(&out).unwrap()[..]),
        ModelProto::decode(&fs::read(&path).unwrap()[..])
    );
    for name in ["parts/w.bin", "rest"] {
        assert_eq!(fs::read(to.path().join(name)).unwrap(), fs::read(from.path().join(name)).unwrap());
    }
    let again = load(&out, &LoadOptions::default()).unwrap();
    assert_eq!(encode(&again).unwrap(), encode(&m).unwrap());
    // Again over it: the files are there already. Beside itself: they are the very same.
    save(&m, &out, &keep()).unwrap();
    save(&m, &from.path().join("beside.onnx"), &keep()).unwrap();
    assert_eq!(files(to.path()), ["out.onnx", "parts", "rest"]);
    assert_eq!(files(from.path()), ["beside.onnx", "m.onnx", "parts", "rest"]);
    // Constants that a pass has made have no place of old, and go into the model.
    let mut changed = m.clone();
    let b = changed.main().value_named("b").unwrap();
    changed.main_mut().set_const(b, Some(std::sync::Arc::new(Tensor::from_f32(&[4], &[5.0; 4]))));
    save(&changed, &out, &keep()).unwrap();
    let again = load(&out, &LoadOptions::default()).unwrap();
    assert_eq!(encode(&again).unwrap(), encode(&changed).unwrap());
    assert!(again.main().konst(b).unwrap().source.as_ref().unwrap().external.is_none());
}

#[test]
fn a_layout_that_cannot_be_kept_is_an_error() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let m = load(&write_by_hand(from.path(), "0123"), &LoadOptions::default()).unwrap();
    let out = to.path().join("out.onnx");
    fs::write(to.path().join("rest"), b"of somebody else").unwrap();
    let refused = |m: &Model| save(m, &out, &keep()).expect_err("an error").to_string();
    assert!(refused(&m).contains("`./rest` cannot be kept: there is another file"), "{}", refused(&m));
    assert_eq!(fs::read(to.path().join("rest")).unwrap(), b"of somebody else");
    assert!(!out.exists());
    fs::remove_file(to.path().join("rest")).unwrap();
    #[cfg(unix)]
    {
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), to.path().join("parts")).unwrap();
        assert!(refused(&m).contains("its folder is a link out of the output's folder"), "{}", refused(&m));
        assert_eq!(files(elsewhere.path()), [""; 0]);
    }
    // Data that were let in from outside have no place in the output's folder.
    let inner = from.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let bytes = fs::read(from.path().join("m.onnx")).unwrap();
    let mut proto = ModelProto::decode(&bytes[..]).unwrap();
    proto.graph.as_mut().unwrap().node.clear();
    for t in &mut proto.graph.as_mut().unwrap().initializer {
        let location = &mut t.external_data[0].value;
        *location = Some(format!("../{}", location.as_deref().unwrap()));
    }
    fs::write(inner.join("m.onnx"), proto.encode_to_vec()).unwrap();
    let anywhere = LoadOptions { allow_external_anywhere: true, ..LoadOptions::default() };
    let m = load(&inner.join("m.onnx"), &anywhere).unwrap();
    assert!(refused(&m).contains("it is outside of the model's folder"), "{}", refused(&m));
    save(&m, &out, &SaveOptions::default()).unwrap();
}

#[test]
fn checksums_are_compared_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let verify = LoadOptions { verify_checksums: true, ..LoadOptions::default() };
    // `sha1sum` of the file, in the other case.
    let right = "FDC007583897A3EF6E24FF96F05186078EF0F1EA";
    load(&write_by_hand(dir.path(), right), &verify).unwrap();
    let path = write_by_hand(dir.path(), "0123");
    let found = examine(&path, &verify).unwrap().problems;
    let said = [
        "initializer `b`: external data `./rest`",
        "attribute `value` of the Constant that makes `c`: external data `rest`",
    ]
    .map(|place| format!("{place} has the SHA-1 checksum {}, the model says 0123", right.to_lowercase()));
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), said);
    assert!(load(&path, &LoadOptions::default()).is_ok());
}

#[test]
fn values_of_constant_nodes_are_external_data_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let mut m = sample(8);
    let g = m.main_mut();
    let big = Tensor::from_f32(&[1000], &[0.5; 1000]);
    let op = OpSpec::new("Constant").attr("value", big.clone());
    let c = g.emit(op, "c", None);
    // What other operators hold is theirs: no runtime looks for it elsewhere.
    let d = g.emit(OpSpec::new("Odd").domain("d").attr("value", big).operands([c]), "d", None);
    g.outputs.push(d);
    save(&m, &path, &always()).unwrap();
    assert_eq!(fs::metadata(dir.path().join("m.onnx.data")).unwrap().len(), 4000);
    assert!((4000..5000).contains(&fs::metadata(&path).unwrap().len()));
    assert_eq!(encode(&load(&path, &LoadOptions::default()).unwrap()).unwrap(), encode(&m).unwrap());
}

#[test]
fn everything_wrong_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let tensor = |name: &str, dims: &[i64], floats: usize| TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: vec![0.0; floats],
        ..TensorProto::default()
    };
    let node = |name: &str, inputs: &[&str], output: &str, held: Option<TensorProto>| NodeProto {
        name: Some(name.into()),
        op_type: Some("Op".into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute: held
            .map(|t| AttributeProto { name: Some("t".into()), t: Some(t), ..AttributeProto::default() })
            .into_iter()
            .collect(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: Some("g".into()),
        initializer: vec![
            tensor("short", &[2, 3], 5),
            tensor("none", &[2], 0),
            tensor("negative", &[-2], 2),
            TensorProto { data_type: Some(99), ..tensor("strange", &[1], 1) },
            tensor("fine", &[1], 1),
            tensor("fine", &[1], 1),
        ],
        node: vec![
            node("a", &["short", "missing", "loop"], "y", Some(tensor("", &[4], 1))),
            node("b", &["none", "negative", "strange"], "y", None),
            node("c", &["y"], "loop", None),
        ],
        ..GraphProto::default()
    };
    fs::write(&path, with_graph(graph).encode_to_vec()).unwrap();
    let found = examine(&path, &LoadOptions::default()).unwrap();
    let said: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "initializer `short`: float tensor of shape [2, 3] needs 24 bytes, has 20",
            "initializer `none` has no data: its weights were stripped, or stored elsewhere without saying where",
            "initializer `negative`: dimension -2 of [-2] is negative",
            "initializer `strange` has the unsupported data type code 99",
            "graph `g` defines `fine` (an initializer), `y` (node `b`) more than once",
            "attribute `t` of node `a`: float tensor of shape [4] needs 16 bytes, has 4",
            "graph `g` uses `missing` (node `a`), which nothing defines",
        ]
    );
    let violations: Vec<String> =
        squint_ir::verify::verify(&found.model).iter().map(ToString::to_string).collect();
    assert_eq!(
        violations,
        [
            "error: graph `g`, `a` (Op): operand 1, `missing`, is not defined",
            "error: graph `g`: the graph has a cycle through `c`, `a`",
        ]
    );
    let e = load(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(e.ends_with("needs 24 bytes, has 20 (and 6 more problems)"), "{e}");
}

#[test]
fn sparse_tensors_take_their_external_data_along() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("v.bin"), [0; 8]).unwrap();
    let values = TensorProto {
        name: Some("w".into()),
        dims: vec![2],
        data_type: Some(1),
        data_location: Some(1),
        external_data: [("location", "v.bin")].iter().map(pair).collect(),
        ..TensorProto::default()
    };
    let sparse = SparseTensorProto { values: Some(values), indices: None, dims: vec![7] };
    let graph = GraphProto { sparse_initializer: vec![sparse], ..GraphProto::default() };
    let path = from.path().join("m.onnx");
    fs::write(&path, with_graph(graph).encode_to_vec()).unwrap();
    let m = load(&path, &LoadOptions::default()).unwrap();
    let out = to.path().join("m.onnx");
    save(&m, &out, &keep()).unwrap();
    let again = ModelProto::decode(&fs::read(&out).unwrap()[..]).unwrap();
    let values = again.graph.unwrap().sparse_initializer.remove(0).values.unwrap();
    assert_eq!((values.raw_data.as_deref(), values.external_data.len()), (Some(&[0; 8][..]), 0));
    assert_eq!(files(to.path()), ["m.onnx"]);
}
