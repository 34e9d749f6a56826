//! Files of bare numbers, in the shape and type that the model declares for the input.

use super::array::{Array, open};
use super::fit::Input;
use squint_ir::Dim;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Opens a `.bin` file: little-endian elements of the input's type, in C order, without a header. The
/// first axis counts as 1 if it is not known. With `split`, the file may hold many samples, one after the
/// other; they become the first axis.
///
/// # Errors
/// What is wrong with the file, without its name.
pub(crate) fn open_raw(path: &Path, input: &Input, split: bool) -> Result<Array, String> {
    let cannot = |why: &str| {
        let (name, ty) = (&input.name, input.describe());
        format!(
            "cannot be read: raw data says nothing of its shape, and input `{name}` is {ty}, {why}; use `.npy` files"
        )
    };
    let shape = input.shape.as_ref().ok_or_else(|| cannot("whose rank is not known"))?;
    let mut dims = Vec::with_capacity(shape.len());
    for (axis, d) in shape.iter().enumerate() {
        let known = match d {
            Dim::Known(n) => usize::try_from(*n).ok(),
            _ if axis == 0 => Some(1),
            _ => return Err(cannot(&format!("whose axis {axis} is not known"))),
        };
        dims.push(known.ok_or_else(|| cannot("which is too large"))?);
    }
    let sample = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let sample = sample.and_then(|n| input.dtype.packed_len(n)).filter(|n| *n > 0);
    let sample = sample.ok_or_else(|| cannot("which has no elements, or too many"))? as u64;
    let file = open(path)?;
    let have = file.metadata().map_err(|e| e.to_string())?.len();
    let count = have / sample;
    let fits = if split { count > 0 && have.is_multiple_of(sample) } else { have == sample };
    if !fits {
        let (name, ty) = (&input.name, input.describe());
        let times = if split { ", or a multiple" } else { "" };
        return Err(format!("is {have} bytes, but a sample of input `{name}`, {ty}, takes {sample}{times}"));
    }
    match (dims.first_mut(), usize::try_from(count)) {
        (Some(batch), Ok(count)) => *batch *= count,
        (None, Ok(count)) if split => dims.push(count),
        _ => {}
    }
    Array::stored(&Arc::new(Mutex::new(file)), 0, input.dtype, &dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::write;
    use squint_ir::{DType, Tensor};

    fn input(dims: &[i64]) -> Input {
        let dim = |d: &i64| if *d < 0 { Dim::Symbol("N".into()) } else { Dim::Known(*d as u64) };
        Input { name: "x".into(), dtype: DType::Float, shape: Some(dims.iter().map(dim).collect()) }
    }

    #[test]
    fn the_model_says_shape_and_type() {
        let dir = tempfile::tempdir().unwrap();
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let path = write(&dir, "x.bin", Tensor::from_f32(&[6], &values).bytes());
        let dims = |want: &[i64], split| open_raw(&path, &input(want), split).map(|a| a.dims().to_vec());
        assert_eq!(dims(&[-1, 2], true), Ok(vec![3, 2]));
        assert_eq!(dims(&[1, 2, 3], true), Ok(vec![1, 2, 3]));
        assert_eq!(dims(&[-1, 6], false), Ok(vec![1, 6]));
        assert_eq!(dims(&[], true), Ok(vec![6]));
        assert_eq!(open_raw(&path, &input(&[2, 3]), false).unwrap().whole().unwrap().to_f32s(), values);
        assert_eq!(
            dims(&[-1, 2], false).unwrap_err(),
            "is 24 bytes, but a sample of input `x`, float[N,2], takes 8"
        );
        assert_eq!(
            dims(&[1, 5], true).unwrap_err(),
            "is 24 bytes, but a sample of input `x`, float[1,5], takes 20, or a multiple"
        );
        assert!(dims(&[1, -1], true).unwrap_err().contains("whose axis 1 is not known"));
        assert!(dims(&[0, 2], true).unwrap_err().contains("no elements"));
        assert!(dims(&[i64::MAX, i64::MAX], true).unwrap_err().contains("too many"));
    }
}
