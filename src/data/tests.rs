//! Data sets as a whole: files of every kind, for models with one input and several.

use super::testing::{floats, npz_bytes, pb_bytes, safetensors_bytes, write};
use super::{DataError, DataOptions, Dataset, Preprocessing};
use squint_ir::execute::Samples;
use squint_ir::{DType, Dim, Model, Tensor, Type};
use tempfile::TempDir;

/// A model with float inputs of these names and shapes; a negative length is symbolic.
fn model(inputs: &[(&str, &[i64])]) -> Model {
    let mut m = Model::new("g", 17);
    for (name, dims) in inputs {
        let dim = |d: &i64| if *d < 0 { Dim::Symbol("N".into()) } else { Dim::Known(*d as u64) };
        let v = m
            .main_mut()
            .add_value(name, Some(Type::tensor(DType::Float, Some(dims.iter().map(dim).collect()))));
        m.main_mut().inputs.push(v);
    }
    m
}

fn open(m: &Model, paths: &[String]) -> Result<Dataset, DataError> {
    Dataset::open(m, &DataOptions::new(paths.iter().map(String::as_str)))
}

fn put(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
    write(dir, name, bytes).to_str().unwrap().to_owned()
}

fn values(set: &Dataset) -> Vec<f32> {
    (0..set.len()).flat_map(|i| set.get(i).unwrap()[0].1.to_f32s()).collect()
}

#[test]
fn an_archive_by_itself_is_cut_and_one_in_a_folder_is_not() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 2])]);
    let numbers: Vec<f32> = (0..12).map(|x| x as f32).collect();
    for compress in [false, true] {
        let file = put(&dir, "d/x.npz", &npz_bytes(&[("x", floats(&[6, 2], &numbers))], compress));
        let set = open(&m, std::slice::from_ref(&file)).unwrap();
        assert_eq!((set.len(), values(&set)), (6, numbers.clone()));
        assert_eq!(set.get(4).unwrap()[0].1.dims(), [1, 2]);
        let set = open(&m, &[file.clone(), file]).unwrap();
        assert_eq!(set.get(7).unwrap()[0].1.to_f32s(), [2.0, 3.0]);
        let set = open(&m, &[dir.path().to_str().unwrap().into()]).unwrap();
        assert_eq!((set.len(), set.get(0).unwrap()[0].1.dims()), (1, &[6, 2][..]));
    }
}

#[test]
fn samples_are_picked_evenly() {
    let dir = TempDir::new().unwrap();
    let file = put(&dir, "x.npy", &floats(&[10, 1], &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]));
    let options = DataOptions { samples: Some(4), ..DataOptions::new([file]) };
    let set = Dataset::open(&model(&[("x", &[-1, 1])]), &options).unwrap();
    assert_eq!((values(&set), set.total()), (vec![0.0, 2.0, 5.0, 7.0], 10));
}

#[test]
fn several_inputs_by_name() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 1]), ("state", &[2])]);
    let x = put(&dir, "x.npy", &floats(&[3, 1], &[1., 2., 3.]));
    let state = put(&dir, "state.npy", &floats(&[2], &[8., 9.]));
    let set = open(&m, &[format!("state={state}"), format!("x={x}")]).unwrap();
    let last = set.get(2).unwrap();
    assert_eq!((last[0].0.as_str(), last[0].1.to_f32s()), ("x", vec![3.0]));
    assert_eq!((last[1].0.as_str(), last[1].1.to_f32s()), ("state", vec![8.0, 9.0]));
    // What is not named is for the one input that is left.
    assert_eq!(open(&m, &[format!("state={state}"), x.clone()]).unwrap().len(), 3);
    let message = |paths: &[String]| open(&m, paths).err().unwrap().message;
    assert!(message(&[format!("x={x}")]).contains("no data for the model's input `state`"));
    assert!(message(&[format!("y={x}")]).contains("the model has no input `y`"));
    assert!(message(std::slice::from_ref(&x)).contains("is for one input, but the model has several"));
    let more = put(&dir, "more.npy", &floats(&[2, 2], &[8., 9., 8., 9.]));
    assert!(message(&[format!("x={x}"), format!("state={more}")]).contains("3 samples for input `x` and 2"));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 2])]);
    let error = |name: &str, bytes: &[u8]| open(&m, &[put(&dir, name, bytes)]).err().unwrap();
    let e = error("shape.npz", &npz_bytes(&[("x", floats(&[1, 3], &[0.; 3]))], false));
    assert!(
        e.message.ends_with(
            "data for input `x` is float[1,3], the model takes float[N,2]: axis 1 of the input is 2, not 3"
        ),
        "{e}"
    );
    let e = error("name.npz", &npz_bytes(&[("y", floats(&[1, 2], &[0.; 2]))], false));
    assert!(e.message.ends_with("has no array for the model's input `x`; it has `y`"), "{e}");
    let e = error("nan.npy", &floats(&[3, 2], &[f32::NAN, 0., 0., 0., 0., 0.]));
    assert!(e.message.ends_with("data for input `x` (sample 0) holds NaN at [0, 0]"), "{e}");
    assert!(error("cut.npz", b"PK\x03\x04").message.contains("is not an `.npz` archive"));
    put(&dir, "batch/x.npy", &floats(&[3, 2], &[0.; 6]));
    let folder = dir.path().join("batch").to_str().unwrap().to_owned();
    let e = open(&model(&[("x", &[1, 2])]), &[folder]).err().unwrap();
    assert!(e.help.unwrap().contains("name the file itself"));
    assert_eq!(open(&m, &[]).err().unwrap().message, "there is no data for the model's input `x`");
}

#[test]
fn arrays_that_are_no_inputs_are_noted() {
    let dir = TempDir::new().unwrap();
    let both = npz_bytes(&[("labels", floats(&[1], &[0.])), ("x", floats(&[1, 2], &[0.; 2]))], false);
    let set = open(&model(&[("x", &[-1, 2])]), &[put(&dir, "b.npz", &both)]).unwrap();
    assert!(set.notes()[0].starts_with("array `labels` of") && set.notes().len() == 1);
}

#[test]
fn tensors_by_name_in_safetensors_are_cut_as_archives_are() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 2]), ("n", &[1])]);
    let (x, n) = (Tensor::from_f32(&[2, 2], &[1., 2., 3., 4.]), Tensor::from_f32(&[1], &[9.]));
    let file = put(&dir, "d/x.safetensors", &safetensors_bytes(&[("x", &x), ("n", &n), ("labels", &n)]));
    let set = open(&m, &[file]).unwrap();
    assert_eq!((set.len(), set.get(1).unwrap()[0].1.to_f32s()), (2, vec![3.0, 4.0]));
    assert!(set.notes()[0].starts_with("array `labels` of"), "{:?}", set.notes());
    let set = open(&m, &[dir.path().to_str().unwrap().into()]).unwrap();
    assert_eq!((set.len(), set.get(0).unwrap()[0].1.dims()), (1, &[2, 2][..]));
    let e = open(&model(&[("z", &[1])]), &[dir.path().to_str().unwrap().into()]).err().unwrap();
    assert!(e.message.ends_with("has no array for the model's input `z`; it has `labels`, `n`, `x`"), "{e}");
    assert!(e.help.unwrap().contains("save_file({\"z\": array}"));
    let bf16 = Tensor::raw(DType::Bfloat16, &[1], vec![0x80, 0x3f].into()).unwrap();
    let file = put(&dir, "b.safetensors", &safetensors_bytes(&[("x", &bf16)]));
    assert_eq!(values(&open(&model(&[("x", &[1])]), &[file]).unwrap()), [1.0]);
}

#[test]
fn test_data_sets_feed_inputs_by_name_or_position() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 2]), ("n", &[1])]);
    for set in [0, 1] {
        let (x, n) = (Tensor::from_f32(&[1, 2], &[set as f32, 2.]), Tensor::from_f32(&[1], &[9.]));
        put(&dir, &format!("test_data_set_{set}/input_0.pb"), &pb_bytes("", &x));
        put(&dir, &format!("test_data_set_{set}/input_1.pb"), &pb_bytes("n", &n));
        put(&dir, &format!("test_data_set_{set}/output_0.pb"), b"");
    }
    let folder = dir.path().to_str().unwrap().to_owned();
    let set = open(&m, std::slice::from_ref(&folder)).unwrap();
    let last = set.get(1).unwrap();
    assert_eq!((set.len(), last[0].1.to_f32s(), last[1].1.to_f32s()), (2, vec![1., 2.], vec![9.]));
    // One input of them, from a file of its own.
    let n = put(&dir, "other/n.pb", &pb_bytes("whatever", &Tensor::from_f32(&[1], &[5.])));
    let sets = ["test_data_set_0", "test_data_set_1"].map(|s| format!("{folder}/{s}"));
    let set = open(&m, &[sets[0].clone(), sets[1].clone(), format!("n={n}")]).unwrap();
    assert_eq!((set.len(), set.get(1).unwrap()[1].1.to_f32s()), (2, vec![5.]));
    let e = open(&model(&[("x", &[-1, 3]), ("n", &[1])]), &sets).err().unwrap();
    assert!(e.message.ends_with("axis 1 of the input is 3, not 2"), "{e}");
    let e = open(&model(&[("x", &[-1, 2]), ("n", &[1]), ("k", &[1])]), &sets).err().unwrap();
    assert!(e.message.ends_with("has no array for the model's input `k`; it has `x`, `n`"), "{e}");
    assert!(e.help.unwrap().contains("by position"));
    put(&dir, "test_data_set_1/input_1.pb", b"\xff");
    let e = open(&m, &sets).unwrap().get(1).unwrap_err();
    assert!(e.contains("test_data_set_1` has a file `input_1.pb` that is no encoded ONNX tensor"), "{e}");
}

#[test]
fn encoded_tensors_and_bare_numbers_are_cut_if_named_by_themselves() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 2])]);
    let x = Tensor::from_f32(&[2, 2], &[1., 2., 3., 4.]);
    for (name, bytes) in [("d/x.bin", x.bytes().to_vec()), ("e/x.pb", pb_bytes("", &x))] {
        let file = put(&dir, name, &bytes);
        let set = open(&m, &[file]).unwrap();
        assert_eq!((set.len(), values(&set)), (2, x.to_f32s()), "{name}");
    }
    let folder = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(open(&m, &[folder("e")]).unwrap().get(0).unwrap()[0].1, x);
    let e = open(&m, &[folder("d")]).err().unwrap();
    assert!(e.message.ends_with("is 16 bytes, but a sample of input `x`, float[N,2], takes 8"), "{e}");
}

#[test]
fn images_of_every_kind_are_the_same_pixels() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("x", &[-1, 3, 2, 2])]);
    let pixels: Vec<u8> = (0..12).map(|i| i * 20).collect();
    let image = image::RgbImage::from_raw(2, 2, pixels).unwrap();
    for name in ["x.png", "x.bmp", "x.webp"] {
        image.save(dir.path().join(name)).unwrap();
    }
    let set = open(&m, &[dir.path().to_str().unwrap().into()]).unwrap();
    assert_eq!((set.len(), values(&set)[3]), (3, 180.0 / 255.0));
    assert_eq!(set.get(0), set.get(1));
    assert_eq!(set.get(0), set.get(2));
    assert_eq!(set.preprocessing(), "x: --channels rgb --layout nchw --scale 1/255");
    let list = put(&dir, "two.lst", b"x.webp\nx.bmp\n");
    assert_eq!(open(&m, &[list]).unwrap().len(), 2);
    let bad = put(&dir, "bad.webp", b"RIFF\x04\0\0\0WEBP");
    let e = open(&m, &[bad]).err().unwrap();
    assert!(e.message.contains("bad.webp` cannot be decoded: "), "{e}");
}

#[test]
fn preprocessing_is_described_for_each_input() {
    let dir = TempDir::new().unwrap();
    let m = model(&[("image", &[-1, 1, 2, 2]), ("a", &[1]), ("b", &[1])]);
    image::GrayImage::new(4, 4).save(dir.path().join("x.png")).unwrap();
    let arrays = npz_bytes(&[("a", floats(&[1], &[0.])), ("b", floats(&[1], &[0.]))], false);
    let paths = [put(&dir, "ab.npz", &arrays), format!("image={}", dir.path().join("x.png").display())];
    let preprocessing = Preprocessing {
        crop: "2x2".parse().ok(),
        mean: vec![0.5],
        std: vec![0.25],
        ..Preprocessing::default()
    };
    let set = Dataset::open(&m, &DataOptions { preprocessing, ..DataOptions::new(paths) }).unwrap();
    assert_eq!(
        set.preprocessing(),
        "image: --crop 2x2 --channels gray --layout nchw --scale 1/255 --mean 0.5 --std 0.25; \
         a, b: arrays as they are"
    );
}
