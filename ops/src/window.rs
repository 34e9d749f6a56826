//! Sliding windows: how many positions a kernel has along each spatial axis.
//!
//! Formulas: `Conv`, `ConvTranspose` and `MaxPool` in ONNX `Operators.md`. With `e = (k - 1) * dilation + 1`,
//!
//! ```text
//! slide     NOTSET  floor((in + pads - e) / stride) + 1, or ceil; the last window has to start in the input
//!                   or its leading padding
//!           VALID   the same with no padding
//!           SAME    ceil(in / stride)
//! spread    NOTSET  (in - 1) * stride + output_padding + e - pads
//!           SAME    in * stride
//! ```
//!
//! Attributes come from files, so the arithmetic saturates in 128 bits and what does not fit is an error.

use crate::InferError;
use crate::infer::expect_rank;
use squint_ir::{Dim, Op, Shape};

/// The window of an operator: one entry per spatial axis in every list.
pub(crate) struct Window {
    padding: Padding,
    kernel: Vec<Dim>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    ceil: bool,
}

enum Padding {
    /// `(begin, end)` of each axis.
    Explicit(Vec<(i64, i64)>),
    Same,
}

impl Window {
    /// Reads `auto_pad`, `pads`, `strides`, `dilations` and `ceil_mode`; `kernel` are the window's lengths.
    ///
    /// # Errors
    /// If a list has the wrong length, a stride or dilation is not positive, or a padding is negative.
    pub(crate) fn of(op: &Op, kernel: Vec<Dim>) -> Result<Window, InferError> {
        let n = kernel.len();
        let strides = list(op, "strides", n, 1)?;
        let dilations = list(op, "dilations", n, 1)?;
        for (name, values) in [("strides", &strides), ("dilations", &dilations)] {
            if let Some(bad) = values.iter().find(|x| **x <= 0) {
                return Err(InferError(format!("`{name}` has {bad}, which is not positive")));
            }
        }
        let padding = match op.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" | "SAME_LOWER" => Padding::Same,
            "VALID" => Padding::Explicit(vec![(0, 0); n]),
            "NOTSET" | "" => {
                let pads = list(op, "pads", n.saturating_mul(2), 0)?;
                if let Some(bad) = pads.iter().find(|x| **x < 0) {
                    return Err(InferError(format!("`pads` has {bad}, which is negative")));
                }
                Padding::Explicit(pads[..n].iter().copied().zip(pads[n..].iter().copied()).collect())
            }
            other => return Err(InferError(format!("`auto_pad` is `{other}`"))),
        };
        Ok(Window { padding, kernel, strides, dilations, ceil: op.int("ceil_mode").unwrap_or(0) != 0 })
    }

    /// Positions of the window along each spatial axis of lengths `input`.
    ///
    /// # Errors
    /// If the window is longer than the padded input.
    pub(crate) fn slide(&self, input: &[Dim]) -> Result<Shape, InferError> {
        self.each(input, |i, len, pads, k| {
            let stride = i128::from(self.strides[i]);
            let Some((begin, end)) = pads else { return Ok(Some((len + stride - 1) / stride)) };
            let Some(extent) = k else { return Ok(None) };
            let room = len.saturating_add(begin).saturating_add(end).saturating_sub(extent);
            if room < 0 {
                let padded = room.saturating_add(extent);
                let message =
                    format!("a window of {extent} does not fit padded length {padded} of spatial axis {i}");
                return Err(InferError(message));
            }
            let mut count =
                if self.ceil { room.saturating_add(stride - 1) / stride } else { room / stride } + 1;
            if self.ceil && (count - 1).saturating_mul(stride) >= len.saturating_add(begin) {
                count -= 1;
            }
            Ok(Some(count))
        })
    }

    /// Lengths of the result of a transposed convolution; `extra` is its `output_padding`.
    ///
    /// # Errors
    /// If the padding removes more than there is.
    pub(crate) fn spread(&self, input: &[Dim], extra: &[i64]) -> Result<Shape, InferError> {
        self.each(input, |i, len, pads, k| {
            let stride = i128::from(self.strides[i]);
            let Some((begin, end)) = pads else { return Ok(Some(len.saturating_mul(stride))) };
            let Some(extent) = k else { return Ok(None) };
            let full = (len - 1).saturating_mul(stride).saturating_add(extent);
            let extra = extra.get(i).copied().unwrap_or(0);
            Ok(Some(full.saturating_add(extra.into()).saturating_sub(begin).saturating_sub(end)))
        })
    }

    /// Applies `length(axis, input length, (begin, end) unless SAME, dilated kernel if known)` to each axis.
    fn each(
        &self,
        input: &[Dim],
        length: impl Fn(usize, i128, Option<(i128, i128)>, Option<i128>) -> Result<Option<i128>, InferError>,
    ) -> Result<Shape, InferError> {
        if input.len() != self.kernel.len() {
            let message = format!("kernel has {} spatial axes, input {}", self.kernel.len(), input.len());
            return Err(InferError(message));
        }
        let mut shape = Shape::with_capacity(input.len());
        for (i, dim) in input.iter().enumerate() {
            let pads = match &self.padding {
                Padding::Same => None,
                Padding::Explicit(pads) => Some((pads[i].0.into(), pads[i].1.into())),
            };
            let extent = match self.kernel[i] {
                Dim::Known(0) => return Err(InferError(format!("kernel has length 0 on spatial axis {i}"))),
                Dim::Known(k) => {
                    Some((i128::from(k) - 1).saturating_mul(self.dilations[i].into()).saturating_add(1))
                }
                _ => None,
            };
            let Dim::Known(len) = dim else {
                // A window that moves by one and is padded to fit keeps the length, whatever it is.
                let padding = pads.map(|(begin, end): (i128, i128)| begin.saturating_add(end));
                let fits = padding.is_none() || padding == extent.map(|e| e - 1);
                shape.push(if self.strides[i] == 1 && fits { dim.clone() } else { Dim::Unknown });
                continue;
            };
            shape.push(match length(i, i128::from(*len), pads, extent)? {
                None => Dim::Unknown,
                Some(n) => Dim::Known(
                    u64::try_from(n)
                        .ok()
                        .filter(|n| *n <= i64::MAX as u64)
                        .ok_or_else(|| InferError(format!("length of spatial axis {i} becomes {n}")))?,
                ),
            });
        }
        Ok(shape)
    }
}

/// The lengths of a kernel: the attribute `kernel_shape`, or the weight's spatial axes.
///
/// # Errors
/// If both are there and differ, or a length is not positive.
pub(crate) fn kernel_shape(op: &Op, weight: Option<&[Dim]>) -> Result<Option<Vec<Dim>>, InferError> {
    let Some(attr) = op.ints("kernel_shape") else { return Ok(weight.map(<[Dim]>::to_vec)) };
    let mut kernel = Shape::with_capacity(attr.len());
    for k in attr {
        match u64::try_from(*k) {
            Ok(k) if k > 0 => kernel.push(Dim::Known(k)),
            _ => return Err(InferError(format!("`kernel_shape` has {k}, which is not positive"))),
        }
    }
    if let Some(weight) = weight {
        expect_rank(&kernel, weight.len(), "`kernel_shape`")?;
        for (a, w) in kernel.iter().zip(weight) {
            crate::infer::equal(a, w, "`kernel_shape` and weight disagree")?;
        }
    }
    Ok(Some(kernel))
}

/// An optional list attribute of a fixed length.
fn list(op: &Op, name: &str, n: usize, default: i64) -> Result<Vec<i64>, InferError> {
    match op.ints(name) {
        None | Some([]) => Ok(vec![default; n]),
        Some(v) if v.len() == n => Ok(v.to_vec()),
        Some(v) => Err(InferError(format!("`{name}` has {} entries, not {n}", v.len()))),
    }
}
