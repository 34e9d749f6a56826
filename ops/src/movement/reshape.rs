//! `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`: other dimensions for the same data.

use super::{product, show};
use crate::fact::{Fact, InferCx, InferError};
use crate::infer;
use crate::kernel::result_dims;
use crate::row::{EvalCx, EvalError};
use squint_ir::{Dim, Shape, Tensor};

/// The kernel of all four: nothing is copied.
pub(super) fn kernel(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let infer = match cx.op.op_type.as_str() {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        _ => unsqueeze,
    };
    let dims = result_dims(cx, infer)?;
    Ok(vec![cx.input(0)?.reshaped(&dims)?])
}

/// One length may be missing (-1, or not known here): the number of elements gives it, also where symbols
/// stand on both sides.
pub(super) fn reshape(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let attr = cx.op.ints("shape").filter(|_| cx.opset < 5);
    let numbers = match attr {
        Some(attr) => Some(attr.to_vec()),
        None => cx.optional(1).and_then(|f| f.konst.as_ref()).and_then(|t| t.to_i64s()),
    };
    let lengths = match &numbers {
        Some(numbers) => {
            if let Some(bad) = numbers.iter().find(|n| **n < -1) {
                return cx.error(format!("target {numbers:?} has {bad}"));
            }
            if numbers.iter().filter(|n| **n == -1).count() > 1 {
                return cx.error(format!("target {numbers:?} has more than one -1"));
            }
            Some(numbers.iter().map(|n| u64::try_from(*n).map_or(Dim::Unknown, Dim::Known)).collect())
        }
        None => cx.optional(1).and_then(Fact::lengths),
    };
    let Some(mut target) = lengths else {
        let rank = cx.optional(1).and_then(|f| f.shape.as_ref()?.first()?.known()).filter(|r| *r <= 64);
        return Ok(vec![Fact::new(data.dtype, rank.map(|r| vec![Dim::Unknown; r as usize]))]);
    };
    if cx.op.int("allowzero").unwrap_or(0) == 0 {
        for (i, d) in target.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Known(0)) {
            *d = match &data.shape {
                None => Dim::Unknown,
                Some(s) => match s.get(i) {
                    Some(d) => d.clone(),
                    None => return cx.error(format!("target copies axis {i} of {}", show(s))),
                },
            };
        }
    }
    if let Some(shape) = &data.shape {
        conserve(shape, &mut target)?;
    }
    Ok(vec![moved(data, target)])
}

/// Fills in the one unknown length of `target` such that it has as many elements as `shape`.
fn conserve(shape: &[Dim], target: &mut Shape) -> Result<(), InferError> {
    // Lengths that stand on both sides cancel.
    let mut left: Vec<&Dim> = shape.iter().collect();
    let mut right: Vec<&Dim> = vec![];
    let mut cancelled = false;
    for d in target.iter().filter(|d| **d != Dim::Unknown) {
        let same = matches!(d, Dim::Symbol(_)).then(|| left.iter().position(|l| *l == d)).flatten();
        match same {
            Some(i) => {
                left.swap_remove(i);
                cancelled = true;
            }
            None => right.push(d),
        }
    }
    let missing: Vec<usize> = (0..target.len()).filter(|i| target[*i] == Dim::Unknown).collect();
    let known = |dims: &[&Dim]| {
        let numbers = dims.iter().filter_map(|d| d.known());
        numbers.into_iter().try_fold(1_u64, u64::checked_mul)
    };
    let symbols = |dims: &[&Dim]| dims.iter().filter(|d| d.known().is_none()).count();
    let (Some(have), Some(want)) = (known(&left), known(&right)) else { return Ok(()) };
    let fits = match missing.as_slice() {
        [] => have == want,
        _ => want == 0 || have % want == 0,
    };
    if !fits && !cancelled && symbols(&left) == 0 && symbols(&right) == 0 {
        return Err(InferError(format!("{} does not reshape to {}", show(shape), show(target))));
    }
    let [at] = missing[..] else { return Ok(()) };
    if !fits || want == 0 || symbols(&right) > 0 {
        return Ok(());
    }
    target[at] = match symbols(&left) {
        0 => Dim::Known(have / want),
        1 if have == want => left.into_iter().find(|d| d.known().is_none()).cloned().unwrap_or(Dim::Unknown),
        _ => return Ok(()),
    };
    Ok(())
}

pub(super) fn flatten(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else {
        return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown; 2]))]);
    };
    // Here the axis is a gap between axes: there is one more than there are axes.
    let axis = cx.op.int("axis").unwrap_or(1);
    let axis = if axis == shape.len() as i64 { shape.len() } else { infer::axis(axis, shape.len())? };
    let (head, tail) = shape.split_at(axis);
    Ok(vec![Fact::new(data.dtype, Some(vec![product(head), product(tail)]))])
}

pub(super) fn squeeze(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let mut drop = vec![false; shape.len()];
    match axes(cx) {
        Axes::Absent if shape.iter().all(|d| d.known().is_some()) => {
            drop = shape.iter().map(|d| *d == Dim::Known(1)).collect();
        }
        // Which axes go depends on lengths that are not known.
        Axes::Absent | Axes::Unknown(None) => return Ok(vec![Fact::of(data.dtype)]),
        Axes::Unknown(Some(n)) => {
            let Some(rank) = shape.len().checked_sub(n) else {
                return cx.error(format!("{n} axes to remove from rank {}", shape.len()));
            };
            return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown; rank]))]);
        }
        Axes::Known(axes) => {
            for a in axes {
                let axis = infer::axis(a, shape.len())?;
                if shape[axis].known().is_some_and(|n| n != 1) {
                    return cx.error(format!("axis {axis} of {} has not length 1", show(shape)));
                }
                drop[axis] = true;
            }
        }
    }
    let kept = shape.iter().zip(drop).filter(|(_, drop)| !drop).map(|(d, _)| d.clone()).collect();
    Ok(vec![moved(data, kept)])
}

pub(super) fn unsqueeze(cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let data = cx.input(0)?;
    let Some(shape) = &data.shape else { return Ok(vec![Fact::of(data.dtype)]) };
    let axes = match axes(cx) {
        Axes::Known(axes) => axes,
        Axes::Unknown(Some(n)) => {
            return Ok(vec![Fact::new(data.dtype, Some(vec![Dim::Unknown; shape.len() + n]))]);
        }
        Axes::Unknown(None) => return Ok(vec![Fact::of(data.dtype)]),
        Axes::Absent => return cx.error("`axes` is missing"),
    };
    let rank = shape.len() + axes.len();
    let mut added = vec![false; rank];
    for a in &axes {
        if std::mem::replace(&mut added[infer::axis(*a, rank)?], true) {
            return cx.error(format!("`axes` {axes:?} names axis {a} twice"));
        }
    }
    let mut old = shape.iter().cloned();
    let one = |added| if added { Some(Dim::Known(1)) } else { old.next() };
    Ok(vec![moved(data, added.into_iter().filter_map(one).collect())])
}

enum Axes {
    Absent,
    /// Not constant; their number, if known.
    Unknown(Option<usize>),
    Known(Vec<i64>),
}

/// Axes from the attribute (before version 13) or operand 1.
fn axes(cx: &InferCx<'_>) -> Axes {
    if let Some(axes) = cx.op.ints("axes") {
        return Axes::Known(axes.to_vec());
    }
    let Some(fact) = cx.optional(1) else { return Axes::Absent };
    match fact.ints() {
        Some(axes) => Axes::Known(axes),
        None => {
            let count = fact.shape.as_ref().and_then(|s| s.first()?.known()).filter(|n| *n <= 64);
            Axes::Unknown(count.map(|n| n as usize))
        }
    }
}

/// The fact of the same elements under another shape.
fn moved(data: &Fact, shape: Shape) -> Fact {
    let lengths = data.dims.clone().filter(|d| match shape.as_slice() {
        [] => d.len() == 1,
        [n] => n.known() == Some(d.len() as u64),
        _ => false,
    });
    Fact::new(data.dtype, Some(shape)).with_lengths(lengths)
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, eval};
    use squint_ir::{Bytes, Tensor};

    // Where every length is known, these are the results of `onnx.shape_inference`.
    #[test]
    fn shapes() {
        check(&[
            ("Reshape", 13, "", "float[2,3,4]; int64[3] = 0 -1 2", "float[2,6,2]"),
            ("Reshape", 13, "", "float[N,3,4]; int64[2] = -1 12", "float[N,12]"),
            ("Reshape", 13, "", "float[N,3,H,W]; int64[3] = 0 3 -1", "float[N,3,?]"),
            ("Reshape", 13, "", "float[N,3,H]; int64[3] = 0 -1 3", "float[N,H,3]"),
            ("Reshape", 14, "allowzero=1", "float[0,3]; int64[2] = 3 0", "float[3,0]"),
            ("Reshape", 14, "allowzero=1", "float[0,3]; int64[2] = -1 0", "float[?,0]"),
            ("Reshape", 13, "", "float; int64[2]", "float[?,?]"),
            ("Reshape", 13, "", "float; int64[2] = 0 5", "float[?,5]"),
            ("Reshape", 13, "", "float[4,?]; int64[2] = 2 -1", "float[2,?]"),
            ("Reshape", 1, "shape=[2,-1]", "float[4,3]", "float[2,6]"),
            ("Reshape", 13, "", "float[4]; int64[1] = 5", "error: [4] does not reshape to [5]"),
            ("Reshape", 13, "", "float[4]; int64[2] = 3 -1", "error: [4] does not reshape to [3,?]"),
            ("Reshape", 13, "", "float[4]; int64[2] = -1 -1", "error: target [-1, -1] has more than one -1"),
            ("Reshape", 13, "", "float[4]; int64[2] = 4 0", "error: target copies axis 1 of [4]"),
            ("Flatten", 13, "", "float[N,2,3,4]", "float[N,24]"),
            ("Flatten", 13, "axis=0", "float[2,3]", "float[1,6]"),
            ("Flatten", 13, "axis=2", "float[2,3]", "float[6,1]"),
            ("Flatten", 13, "axis=-1", "float[2,3,4]", "float[6,4]"),
            ("Flatten", 13, "axis=3", "float[2,3]", "error: axis 3 does not exist in rank 2"),
            ("Squeeze", 13, "", "float[1,3,1]; int64[1] = -1", "float[1,3]"),
            ("Squeeze", 11, "axes=[0]", "float[1,N]", "float[N]"),
            ("Squeeze", 13, "", "float[1,3,1]", "float[3]"),
            ("Squeeze", 13, "", "float[1,N]", "float"),
            ("Squeeze", 13, "", "float[1,3]; int64[1] = 1", "error: axis 1 of [1,3] has not length 1"),
            ("Unsqueeze", 13, "", "float[3,N]; int64[2] = 0 -1", "float[1,3,N,1]"),
            ("Unsqueeze", 11, "axes=[1]", "float[3]", "float[3,1]"),
            ("Unsqueeze", 13, "", "float[3]; int64[2]", "float[?,?,?]"),
            ("Unsqueeze", 13, "", "float[3]; int64[2] = 0 0", "error: `axes` [0, 0] names axis 0 twice"),
        ]);
    }

    #[test]
    fn hostile_numbers_are_errors() {
        let huge = "float[9223372036854775807,9223372036854775807]; int64[2] = 9223372036854775807 -1";
        check(&[
            ("Reshape", 13, "", huge, "float[9223372036854775807,?]"),
            (
                "Squeeze",
                11,
                "axes=[-9223372036854775808]",
                "float[1]",
                "error: axis -9223372036854775808 does not exist in rank 1",
            ),
        ]);
    }

    #[test]
    fn strings_reshape_too() {
        let t = Tensor::strings(&[2], vec![Bytes::from("a"), Bytes::from("b")]).unwrap();
        let target = Tensor::from_i64(&[2], &[1, -1]);
        let out = eval("Reshape", 13, "", &[Some(&t), Some(&target)]).unwrap();
        assert_eq!((out[0].dims(), out[0].as_strings().unwrap().len()), (&[1, 2][..], 2));
    }
}
