//! How an array fits a model input: which part of it is one sample, and in which element type.

use squint_ir::{DType, Dim, Model, Shape, Tensor, Type};
use std::fmt::Write as _;

/// A graph input that data must be given for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    /// Its name.
    pub(crate) name: String,
    /// Element type.
    pub(crate) dtype: DType,
    /// Shape, if the rank is known.
    pub(crate) shape: Option<Shape>,
}

/// The samples in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The array is one sample; with `expand`, after an axis of length 1 is put in front.
    Whole {
        /// Whether the batch axis is missing.
        expand: bool,
    },
    /// Each run of `batch` entries of the first axis is a sample; with `squeeze`, after the first axis is
    /// taken away.
    Rows {
        /// Entries of the first axis in a sample.
        batch: usize,
        /// Number of samples.
        count: usize,
        /// Whether the first axis is not one of the input's.
        squeeze: bool,
    },
}

impl Fit {
    /// The number of samples.
    pub(crate) fn count(self) -> usize {
        match self {
            Fit::Whole { .. } => 1,
            Fit::Rows { count, .. } => count,
        }
    }
}

/// The inputs of a model that have no default, in order.
///
/// # Errors
/// If one is not a tensor of numbers or booleans.
pub(crate) fn inputs_of(model: &Model) -> Result<Vec<Input>, String> {
    let g = model.main();
    let needed = g.inputs.iter().filter(|v| g.konst(**v).is_none());
    needed
        .map(|v| {
            let name = g.value(*v).name().to_owned();
            match g.ty(*v) {
                Some(Type::Tensor { dtype, .. }) if dtype.bits() < 8 || is_complex(*dtype) => Err(format!(
                    "the model's input `{name}` is of type {dtype}, which data files cannot hold"
                )),
                Some(Type::Tensor { dtype, shape }) => {
                    Ok(Input { name, dtype: *dtype, shape: shape.clone() })
                }
                Some(other) => Err(format!(
                    "the model's input `{name}` is `{other}`; only tensors can be fed from files"
                )),
                None => Err(format!("the model's input `{name}` has no type")),
            }
        })
        .collect()
}

impl Input {
    /// Its type in ONNX syntax.
    pub(crate) fn describe(&self) -> String {
        Type::tensor(self.dtype, self.shape.clone()).to_string()
    }

    /// Decides what of an array of shape `dims` is a sample; with `split`, the array may hold many.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn fit(&self, dims: &[usize], split: bool) -> Result<Fit, String> {
        let Some(shape) = &self.shape else { return Ok(Fit::Whole { expand: false }) };
        let batch = shape.first().and_then(Dim::known);
        if dims.len() + 1 == shape.len() && batch.is_none_or(|b| b == 1) {
            same(&shape[1..], dims, 1)?;
            return Ok(Fit::Whole { expand: true });
        }
        if split && dims.len() == shape.len() + 1 {
            same(shape, &dims[1..], 0)?;
            return Ok(Fit::Rows { batch: 1, count: samples(dims[0])?, squeeze: true });
        }
        if dims.len() != shape.len() {
            return Err(format!("it has {} axes, not {}", dims.len(), shape.len()));
        }
        if !split || shape.is_empty() || batch == Some(0) {
            same(shape, dims, 0)?;
            return Ok(Fit::Whole { expand: false });
        }
        same(&shape[1..], &dims[1..], 1)?;
        let batch = batch.map_or(Some(1), |b| usize::try_from(b).ok()).ok_or("its batch is out of range")?;
        if !dims[0].is_multiple_of(batch) {
            return Err(format!("its first axis, {}, is no multiple of the batch, {batch}", dims[0]));
        }
        Ok(Fit::Rows { batch, count: samples(dims[0] / batch)?, squeeze: false })
    }

    /// Brings a sample into the element type of the input, where that loses nothing (except that binary64
    /// is rounded to binary32), and checks that it is finite.
    ///
    /// # Errors
    /// If the type does not fit, or an element is NaN or infinite.
    pub(crate) fn accept(&self, t: Tensor) -> Result<Tensor, String> {
        check_finite(&t)?;
        if t.dtype() == self.dtype {
            return Ok(t);
        }
        self.check_type(t.dtype())?;
        let out = match self.dtype {
            DType::Float => Tensor::from_f32(t.dims(), &t.f32s()),
            DType::Double => Tensor::from_f64(t.dims(), &t.to_f64s()),
            to => {
                let (range, values) = (to.int_range(), t.to_i64s());
                let (Some(_), Some(values)) = (range, values) else { return Err(self.wrong_type(t.dtype())) };
                // Little-endian: the low bytes are the narrower integer, and the range was checked by type.
                let bytes = to.bits() / 8;
                let raw: Vec<u8> =
                    values.iter().flat_map(|v| v.to_le_bytes().into_iter().take(bytes)).collect();
                Tensor::raw(to, t.dims(), raw.into()).map_err(|e| e.to_string())?
            }
        };
        check_finite(&out).map_err(|_| "holds a value too large for binary32".to_owned())?;
        Ok(out)
    }

    /// Whether arrays of an element type are accepted.
    ///
    /// # Errors
    /// What to do about it, if not.
    pub(crate) fn check_type(&self, from: DType) -> Result<(), String> {
        use DType::{Bfloat16, Bool, Double, Float, Float16};
        let wider = || match (from.int_range(), self.dtype.int_range()) {
            (Some((lo, hi)), Some((to_lo, to_hi))) => {
                to_lo <= lo && hi <= to_hi && from != Bool && from != DType::Uint64
            }
            _ => false,
        };
        let fits = match (from, self.dtype) {
            (a, b) if a == b => true,
            (Double | Float16 | Bfloat16, Float) | (Float | Float16 | Bfloat16, Double) => true,
            _ => wider(),
        };
        if fits { Ok(()) } else { Err(self.wrong_type(from)) }
    }

    fn wrong_type(&self, from: DType) -> String {
        format!("its elements are {from}, not {}; preprocess and convert it before it is saved", self.dtype)
    }
}

fn is_complex(d: DType) -> bool {
    matches!(d, DType::Complex64 | DType::Complex128)
}

fn samples(n: usize) -> Result<usize, String> {
    if n == 0 { Err("its first axis is empty, so it holds no sample".into()) } else { Ok(n) }
}

/// Compares known dimensions; `first` is the number of the first axis in the model's input.
fn same(shape: &[Dim], dims: &[usize], first: usize) -> Result<(), String> {
    for (axis, (want, have)) in shape.iter().zip(dims).enumerate() {
        if want.known().is_some_and(|w| w != *have as u64) {
            return Err(format!("axis {} of the input is {want}, not {have}", axis + first));
        }
    }
    Ok(())
}

fn check_finite(t: &Tensor) -> Result<(), String> {
    if !t.dtype().is_float() {
        return Ok(());
    }
    let bad = match t.dtype() {
        DType::Float => t.f32s().iter().position(|x| !x.is_finite()),
        _ => t.to_f64s().iter().position(|x| !x.is_finite()),
    };
    let Some(at) = bad else { return Ok(()) };
    let what = if t.to_f64s()[at].is_nan() { "NaN" } else { "an infinity" };
    let mut rest = at;
    let mut index: Vec<usize> = Vec::new();
    for d in t.dims().iter().rev() {
        index.push(rest % d);
        rest /= d;
    }
    let mut place = String::new();
    for (i, x) in index.iter().rev().enumerate() {
        let _ = write!(place, "{}{x}", if i > 0 { ", " } else { "" });
    }
    Err(format!("holds {what} at [{place}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(dtype: DType, dims: &[i64]) -> Input {
        let dim = |d: &i64| if *d < 0 { Dim::Symbol("N".into()) } else { Dim::Known(*d as u64) };
        Input { name: "x".into(), dtype, shape: Some(dims.iter().map(dim).collect()) }
    }

    #[test]
    fn a_file_by_itself_is_split_along_its_first_axis() {
        let free = input(DType::Float, &[-1, 3, 8]);
        assert_eq!(free.fit(&[64, 3, 8], true), Ok(Fit::Rows { batch: 1, count: 64, squeeze: false }));
        assert_eq!(free.fit(&[64, 3, 8], false), Ok(Fit::Whole { expand: false }));
        assert_eq!(free.fit(&[3, 8], true), Ok(Fit::Whole { expand: true }));
        assert_eq!(free.fit(&[9, 1, 3, 8], true), Ok(Fit::Rows { batch: 1, count: 9, squeeze: true }));
        let two = input(DType::Float, &[2, 3]);
        assert_eq!(two.fit(&[8, 3], true), Ok(Fit::Rows { batch: 2, count: 4, squeeze: false }));
        assert!(two.fit(&[7, 3], true).unwrap_err().contains("no multiple"));
        assert!(two.fit(&[3], true).unwrap_err().contains("1 axes, not 2"));
        assert_eq!(
            input(DType::Int64, &[]).fit(&[5], true),
            Ok(Fit::Rows { batch: 1, count: 5, squeeze: true })
        );
        assert_eq!(input(DType::Int64, &[]).fit(&[], true), Ok(Fit::Whole { expand: false }));
    }

    #[test]
    fn a_wrong_shape_names_the_axis() {
        let x = input(DType::Float, &[-1, 3, 8]);
        assert_eq!(x.fit(&[1, 4, 8], true).unwrap_err(), "axis 1 of the input is 3, not 4");
        assert_eq!(
            input(DType::Float, &[1, 3]).fit(&[2, 3], false).unwrap_err(),
            "axis 0 of the input is 1, not 2"
        );
        assert!(x.fit(&[0, 3, 8], true).unwrap_err().contains("no sample"));
    }

    #[test]
    fn element_types_convert_where_nothing_is_lost() {
        let longs = input(DType::Int64, &[2]);
        let t = longs.accept(Tensor::from_i32(&[2], &[-3, 7])).unwrap();
        assert_eq!((t.dtype(), t.to_i64s().unwrap()), (DType::Int64, vec![-3, 7]));
        let floats = input(DType::Float, &[2]);
        assert_eq!(floats.accept(Tensor::from_f64(&[2], &[0.1, 2.0])).unwrap().to_f32s(), [0.1, 2.0]);
        assert!(floats.accept(Tensor::from_f64(&[1], &[1e300])).unwrap_err().contains("too large"));
        assert!(floats.accept(Tensor::from_u8(&[2], &[1, 2])).unwrap_err().contains("uint8, not float"));
        assert!(input(DType::Int32, &[1]).accept(Tensor::from_i64(&[1], &[1])).is_err());
    }

    #[test]
    fn values_that_are_not_finite_are_found() {
        let x = input(DType::Float, &[2, 2]);
        let nan = Tensor::from_f32(&[2, 2], &[0.0, 1.0, f32::NAN, 2.0]);
        assert_eq!(x.accept(nan).unwrap_err(), "holds NaN at [1, 0]");
        let inf = Tensor::from_f32(&[2, 2], &[0.0, f32::INFINITY, 0.0, 2.0]);
        assert_eq!(x.accept(inf).unwrap_err(), "holds an infinity at [0, 1]");
    }
}
