//! Loading from and saving to files: what works, what is refused and what is left behind.

use prost::Message;
use squint_ir::{DType, Model, OpSpec, Tensor, Type};
use squint_proto::onnx::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use squint_proto::{External, LoadOptions, SaveOptions, encode, encode_for_executor, load, save};
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
