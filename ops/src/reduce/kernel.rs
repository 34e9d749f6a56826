//! Reductions of constants: `float` (accumulated in binary64), `int32` and `int64` (exact, then wrapped).

use super::reduced;
use crate::kernel::float::unsupported;
use crate::kernel::{View, checked_len, invalid};
use crate::{EvalCx, EvalError};
use squint_ir::{DType, Tensor};

pub(super) fn eval(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axes = match cx.optional(1) {
        Some(t) => t.to_i64s().ok_or_else(|| EvalError::Invalid("axes are not integers".into()))?,
        None => cx.op.ints("axes").unwrap_or(&[]).to_vec(),
    };
    let noop = cx.op.int("noop_with_empty_axes").unwrap_or(0) != 0;
    if axes.is_empty() && noop {
        // Whether the element-wise part of ReduceL1 and its kin still applies, releases disagree.
        return Err(EvalError::Unsupported("a reduction of no axes".into()));
    }
    let gone = reduced(&axes, x.rank(), false).map_err(EvalError::Invalid)?;
    let keep = cx.op.int("keepdims").unwrap_or(1) != 0;
    let groups = Groups::new(x.dims(), &gone, keep)?;
    let dims = groups.dims.clone();
    match x.dtype() {
        DType::Float => {
            let data = x.f32s();
            let f = float_reduction(cx)?;
            let y: Vec<f32> = groups.map(|at| f(&mut at.map(|i| f64::from(data[i]))) as f32);
            Ok(vec![Tensor::from_f32(&dims, &y)])
        }
        DType::Int32 | DType::Int64 => {
            let data = x.to_i64s().unwrap_or_default();
            let f = int_reduction(cx)?;
            let y: Vec<Option<i128>> = groups.map(|at| f(&mut at.map(|i| i128::from(data[i]))));
            let Some(y) = y.into_iter().collect::<Option<Vec<i128>>>() else {
                return invalid("a reduction of no elements");
            };
            Ok(vec![match x.dtype() {
                DType::Int32 => Tensor::from_i32(&dims, &y.into_iter().map(|v| v as i32).collect::<Vec<_>>()),
                _ => Tensor::from_i64(&dims, &y.into_iter().map(|v| v as i64).collect::<Vec<_>>()),
            }])
        }
        other => unsupported(cx, other),
    }
}

type FloatReduction = fn(&mut dyn Iterator<Item = f64>) -> f64;

fn float_reduction(cx: &EvalCx<'_>) -> Result<FloatReduction, EvalError> {
    fn worse(pick: fn(f64, f64) -> f64) -> impl Fn(f64, f64) -> f64 {
        move |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }
    }
    Ok(match cx.op.op_type.as_str() {
        "ReduceSum" => |x| x.sum(),
        "ReduceMean" => |x| {
            let (sum, n) = x.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
            sum / n
        },
        "ReduceMax" => |x| x.fold(f64::NEG_INFINITY, worse(f64::max)),
        "ReduceMin" => |x| x.fold(f64::INFINITY, worse(f64::min)),
        "ReduceProd" => |x| x.product(),
        "ReduceL1" => |x| x.map(f64::abs).sum(),
        "ReduceL2" => |x| x.map(|v| v * v).sum::<f64>().sqrt(),
        "ReduceSumSquare" => |x| x.map(|v| v * v).sum(),
        "ReduceLogSum" => |x| x.sum::<f64>().ln(),
        // Shifted by the largest element, so that no exponential overflows.
        "ReduceLogSumExp" => |x| {
            let all: Vec<f64> = x.collect();
            let max = all.iter().copied().fold(f64::NEG_INFINITY, worse(f64::max));
            let shift = if max.is_finite() { max } else { 0.0 };
            all.iter().map(|v| (v - shift).exp()).sum::<f64>().ln() + shift
        },
        other => return Err(EvalError::Unsupported(format!("`{other}` on float"))),
    })
}

type IntReduction = fn(&mut dyn Iterator<Item = i128>) -> Option<i128>;

fn int_reduction(cx: &EvalCx<'_>) -> Result<IntReduction, EvalError> {
    Ok(match cx.op.op_type.as_str() {
        "ReduceSum" => |x| Some(x.fold(0, i128::wrapping_add)),
        // C division, as ONNX Runtime does.
        "ReduceMean" => |x| {
            let (sum, n) = x.fold((0_i128, 0), |(s, n), v| (s.wrapping_add(v), n + 1));
            sum.checked_div(n)
        },
        "ReduceMax" => |x| x.max(),
        "ReduceMin" => |x| x.min(),
        "ReduceProd" => |x| Some(x.fold(1, i128::wrapping_mul)),
        "ReduceL1" => |x| Some(x.fold(0, |s, v| s.wrapping_add(v.wrapping_abs()))),
        "ReduceSumSquare" => |x| Some(x.fold(0, |s, v| s.wrapping_add(v.wrapping_mul(v)))),
        other => return Err(EvalError::Unsupported(format!("`{other}` on integers"))),
    })
}

/// `ArgMax` and `ArgMin`: the first of equals, or the last with `select_last_index`.
pub(super) fn eval_arg(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    if !matches!(x.dtype(), DType::Float | DType::Int32) {
        return unsupported(cx, x.dtype());
    }
    let gone = reduced(&[cx.op.int("axis").unwrap_or(0)], x.rank(), false).map_err(EvalError::Invalid)?;
    let groups = Groups::new(x.dims(), &gone, cx.op.int("keepdims").unwrap_or(1) != 0)?;
    let dims = groups.dims.clone();
    let last = cx.op.int("select_last_index").unwrap_or(0) != 0;
    let sign = if cx.op.op_type == "ArgMin" { -1.0 } else { 1.0 };
    let data = x.to_f64s();
    let y: Vec<Option<i64>> = groups.map(|at| {
        let mut best: Option<(i64, f64)> = None;
        for (n, i) in (0..).zip(at) {
            let v = data[i] * sign;
            if best.is_none_or(|(_, b)| v > b || last && v == b) {
                best = Some((n, v));
            }
        }
        best.map(|(n, _)| n)
    });
    match y.into_iter().collect::<Option<Vec<i64>>>() {
        Some(y) => Ok(vec![Tensor::from_i64(&dims, &y)]),
        None => invalid("a reduction of no elements"),
    }
}

/// The elements of a tensor, grouped by the element of the result that they are reduced to.
struct Groups {
    /// Dimensions of the result.
    dims: Vec<usize>,
    kept: View,
    inner: Vec<usize>,
}

impl Groups {
    fn new(dims: &[usize], gone: &[bool], keep: bool) -> Result<Groups, EvalError> {
        // One view walks the kept axes from the first element, the other the reduced ones.
        let walk = |reduced: bool| {
            let view = View::new(dims);
            (0..dims.len()).filter(|i| gone[*i] != reduced).fold(view, |v, i| match dims[i] {
                0 => v,
                _ => v.slice(i, 0, 1, 1).expect("invariant: the first element of a non-empty axis"),
            })
        };
        let result = dims.iter().zip(gone).filter(|(_, g)| keep || !**g);
        let result: Vec<usize> = result.map(|(d, g)| if *g { 1 } else { *d }).collect();
        // Reducing an empty tensor may make a large one.
        checked_len(&result)?;
        Ok(Groups { dims: result, kept: walk(false), inner: walk(true).offsets().collect() })
    }

    /// Calls `f` with the positions of each group, in the order of the result.
    fn map<R>(self, mut f: impl FnMut(&mut dyn Iterator<Item = usize>) -> R) -> Vec<R> {
        let len = self.dims.iter().product::<usize>();
        if self.kept.is_empty() {
            // Reduced axes without elements leave empty groups.
            return (0..len).map(|_| f(&mut std::iter::empty())).collect();
        }
        self.kept.offsets().map(|base| f(&mut self.inner.iter().map(|i| base + i))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;

    #[test]
    fn values() {
        let x = Tensor::from_f32(&[2, 3], &[1., 2., 3., -4., 5., 6.]);
        let run = |op, attrs| {
            let y = eval(op, 13, attrs, &[Some(&x)]).expect("kernel");
            (y[0].dims().to_vec(), y[0].to_f32s())
        };
        assert_eq!(run("ReduceSum", "axes=[0]"), (vec![1, 3], vec![-3., 7., 9.]));
        assert_eq!(run("ReduceMean", "axes=[-1] keepdims=0"), (vec![2], vec![2., 7. / 3.]));
        assert_eq!(run("ReduceMin", "keepdims=0"), (vec![], vec![-4.]));
        assert_eq!(run("ReduceL1", "axes=[1]"), (vec![2, 1], vec![6., 15.]));
        assert_eq!(run("ReduceProd", "axes=[1,0]"), (vec![1, 1], vec![-720.]));
        assert_eq!(run("ArgMax", "axis=1 keepdims=0"), (vec![2], vec![2., 2.]));
        assert_eq!(run("ArgMin", ""), (vec![1, 3], vec![1., 0., 0.]));
        let big = Tensor::from_f32(&[2], &[1000., 1000.]);
        let y = eval("ReduceLogSumExp", 13, "", &[Some(&big)]).expect("kernel");
        assert_eq!(y[0].to_f32s(), [1000. + 2f32.ln()]);
    }

    #[test]
    fn integers_are_exact() {
        let x = Tensor::from_i64(&[2], &[i64::MAX - 1, 1]);
        let axes = Tensor::from_i64(&[1], &[0]);
        let y = eval("ReduceSum", 13, "keepdims=0", &[Some(&x), Some(&axes)]).expect("kernel");
        assert_eq!(y[0].to_i64s(), Some(vec![i64::MAX]));
        let x = Tensor::from_i32(&[3], &[-1, 0, 0]);
        let y = eval("ReduceMean", 13, "", &[Some(&x)]).expect("kernel");
        assert_eq!((y[0].dtype(), y[0].to_i64s()), (DType::Int32, Some(vec![0])));
    }

    #[test]
    fn empty_axes() {
        let x = Tensor::from_f32(&[2, 0], &[]);
        let y = eval("ReduceSum", 13, "", &[Some(&x), Some(&Tensor::from_i64(&[1], &[1]))]).expect("kernel");
        assert_eq!((y[0].dims(), y[0].to_f32s()), (&[2, 1][..], vec![0., 0.]));
        let y = eval("ReduceSum", 13, "", &[Some(&x), Some(&Tensor::from_i64(&[1], &[0]))]).expect("kernel");
        assert_eq!(y[0].dims(), [1, 0]);
        assert!(matches!(eval("ArgMax", 13, "axis=1", &[Some(&x)]), Err(EvalError::Invalid(_))));
    }
}
