//! Normalisations, and `Dropout`.
//!
//! Source: ONNX `Operators.md`; `SkipLayerNormalization` and its kin are ONNX Runtime's. All keep the shape of
//! the data; scale and bias stay in float, because they fold into a neighbour or are as small as the channels.

use crate::infer::{Inferred, axis, dtype, equal, expect_rank, same, shape};
use crate::kernel::{float::float_input, invalid};
use crate::{Class, EvalCx, EvalError, Fact, InferCx, Out, Port, Row};
use squint_ir::{DType, Dim, Shape, Tensor};

const SCALED: &[Port] = &[Port::Act, Port::Param];
const FIRST: &[Out] = &[Out::Act, Out::Plain];

const fn normalization(
    op_type: &'static str,
    since: &'static [i64],
    infer: fn(&InferCx<'_>) -> Inferred,
) -> Row {
    Row::new(op_type, since, Class::Normalization, infer).ports(SCALED).outs(FIRST)
}

pub(crate) const ROWS: &[Row] = &[
    normalization("BatchNormalization", &[1, 6, 7, 9, 14, 15], infer_batch).eval(eval_batch),
    normalization("InstanceNormalization", &[1, 6, 22], infer_channels),
    normalization("GroupNormalization", &[18, 21], infer_group),
    normalization("LayerNormalization", &[17], infer_layer),
    // ONNX Runtime registers its own operator in the default domain.
    normalization("SimplifiedLayerNormalization", &[1], infer_layer),
    normalization("RMSNormalization", &[23], infer_rms),
    normalization("LpNormalization", &[1, 22], infer_along).ports(&[Port::Act]),
    normalization("LRN", &[1, 13], same).ports(&[Port::Act]),
    normalization("MeanVarianceNormalization", &[9, 13], same).ports(&[Port::Act]),
    normalization("SkipLayerNormalization", &[1], infer_skip)
        .microsoft()
        .ports(&[Port::Act, Port::Act, Port::Param])
        .outs(&[Out::Act, Out::Plain, Out::Plain, Out::Act]),
    normalization("SkipSimplifiedLayerNormalization", &[1], infer_skip)
        .microsoft()
        .ports(&[Port::Act, Port::Act, Port::Param])
        .outs(&[Out::Act, Out::Plain, Out::Plain, Out::Act]),
    Row::new("Dropout", &[1, 6, 7, 10, 12, 13, 22], Class::Movement, infer_dropout)
        .ports(&[Port::Act, Port::Param, Port::Index])
        .outs(&[Out::Same(0), Out::Plain]),
];

/// Mean and variance follow the data when training. Before version 14 they come twice, running and saved.
fn infer_batch(cx: &InferCx<'_>) -> Inferred {
    let mut channels = Dim::Unknown;
    if let Some(x) = shape(cx, 0) {
        // Data of rank 1 is a batch of single channels.
        channels = x.get(1).cloned().unwrap_or(Dim::Known(1));
        if x.is_empty() {
            return cx.error("data of rank 0 has no channel axis");
        }
    }
    for (slot, name) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")] {
        if let Some(s) = shape(cx, slot).filter(|_| cx.opset >= 7 && cx.op.int("spatial") != Some(0)) {
            expect_rank(s, 1, name)?;
            channels = equal(&channels, &s[0], &format!("channels and {name}"))?;
        }
    }
    let mut out = same(cx)?;
    let statistics = Fact::new(dtype(cx, 3).or(dtype(cx, 0)), Some(vec![channels]));
    let count = if cx.opset >= 14 { 3 } else { 5 };
    out.resize(cx.n_results.clamp(1, count), statistics);
    Ok(out)
}

fn infer_channels(cx: &InferCx<'_>) -> Inferred {
    if let Some(x) = shape(cx, 0) {
        let Some(mut channels) = x.get(1).cloned() else {
            return cx.error(format!("data of rank {} has no channel axis", x.len()));
        };
        for (slot, name) in [(1, "scale"), (2, "bias")] {
            if let Some(s) = shape(cx, slot) {
                expect_rank(s, 1, name)?;
                channels = equal(&channels, &s[0], &format!("channels and {name}"))?;
            }
        }
    }
    same(cx)
}

/// Scale and bias have one element per group before version 21, and one per channel since.
fn infer_group(cx: &InferCx<'_>) -> Inferred {
    let groups = cx.op.int("num_groups").unwrap_or(1);
    if groups <= 0 {
        return cx.error(format!("`num_groups` is {groups}"));
    }
    if let Some(Dim::Known(c)) = shape(cx, 0).and_then(|x| x.get(1))
        && !c.is_multiple_of(groups.unsigned_abs())
    {
        return cx.error(format!("{c} channels do not divide into {groups} groups"));
    }
    if cx.opset >= 21 { infer_channels(cx) } else { same(cx) }
}

/// Mean and inverse deviation have length 1 on the normalised axes, and the type of `stash_type`.
fn infer_layer(cx: &InferCx<'_>) -> Inferred {
    let mut out = same(cx)?;
    let stash = cx.op.int("stash_type").and_then(|c| DType::from_code(i32::try_from(c).ok()?));
    let statistics = match &out[0].shape {
        None => None,
        Some(x) => {
            let first = axis(cx.op.int("axis").unwrap_or(-1), x.len())?;
            let ones = vec![Dim::Known(1); x.len() - first];
            Some(x[..first].iter().cloned().chain(ones).collect::<Shape>())
        }
    };
    let statistics = Fact::new(stash.or(Some(DType::Float)), statistics);
    out.resize(cx.n_results.clamp(1, 3), statistics);
    Ok(out)
}

/// The result is of the scale's type.
fn infer_rms(cx: &InferCx<'_>) -> Inferred {
    let out = infer_along(cx)?;
    Ok(out.into_iter().map(|f| Fact { dtype: dtype(cx, 1).or(f.dtype), ..f }).collect())
}

fn infer_along(cx: &InferCx<'_>) -> Inferred {
    if let Some(x) = shape(cx, 0) {
        axis(cx.op.int("axis").unwrap_or(-1), x.len())?;
    }
    same(cx)
}

/// Results: normalised data, mean, inverse deviation (neither used at inference), and the normalised sum.
fn infer_skip(cx: &InferCx<'_>) -> Inferred {
    let out = same(cx)?;
    let statistics = Fact::of(Some(DType::Float));
    let all = [out[0].clone(), statistics.clone(), statistics, out[0].clone()];
    Ok(all.into_iter().take(cx.n_results.max(1)).collect())
}

/// The mask is boolean since version 10, before that of the data's type.
fn infer_dropout(cx: &InferCx<'_>) -> Inferred {
    let mut out = same(cx)?;
    let mask = if cx.opset >= 10 { Some(DType::Bool) } else { out[0].dtype };
    out.push(Fact { dtype: mask, ..out[0].clone() });
    Ok(out)
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias`, with the statistics given.
fn eval_batch(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = float_input(cx, 0)?;
    if cx.n_results > 1 || cx.op.int("training_mode").unwrap_or(0) != 0 || cx.opset < 7 {
        return Err(EvalError::Unsupported("BatchNormalization that trains".into()));
    }
    let dims = x.dims();
    if x.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let Some(n) = dims.first() else { return invalid("BatchNormalization of a scalar") };
    let channels = dims.get(1).copied().unwrap_or(1);
    let inner: usize = dims.iter().skip(2).product();
    let mut parameters = Vec::with_capacity(4);
    for slot in 1..=4 {
        let p = float_input(cx, slot)?;
        if p.len() != channels {
            return invalid(format!("operand {slot} has {} elements for {channels} channels", p.len()));
        }
        parameters.push(p.to_f32s());
    }
    let epsilon = f64::from(cx.op.float("epsilon").unwrap_or(1e-5));
    let at = |p: usize, c: usize| f64::from(parameters[p][c]);
    let mut y = x.to_f32s();
    for i in 0..*n {
        for c in 0..channels {
            let gain = at(0, c) / (at(3, c) + epsilon).sqrt();
            for v in &mut y[(i * channels + c) * inner..][..inner] {
                *v = ((f64::from(*v) - at(2, c)) * gain + at(1, c)) as f32;
            }
        }
    }
    Ok(vec![Tensor::from_f32(dims, &y)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            BatchNormalization-15 (float[N,8,H,W]; float[8]; float[8]; float[8]; float[8]) -> float[N,8,H,W]
            BatchNormalization:3-15 <training_mode=1>
                (float16[N,8,4]; float16[8]; float16[8]; float[8]; float[8])
                -> float16[N,8,4]; float[8]; float[8]
            BatchNormalization:5-9
                (float[2,8,4]; float[8]; float[8]; float[8]; float[8])
                -> float[2,8,4]; float[8]; float[8]; float[8]; float[8]
            InstanceNormalization-6 (float[N,8,H,W]; float[8]; float[8]) -> float[N,8,H,W]
            GroupNormalization-21 <num_groups=4> (float[N,8,H,W]; float[8]; float[8]) -> float[N,8,H,W]
            GroupNormalization-18 <num_groups=4> (float[N,8,H,W]; float[4]; float[4]) -> float[N,8,H,W]
            LayerNormalization:3-17 <axis=-2>
                (float16[N,5,8]; float16[5,8]) -> float16[N,5,8]; float[N,1,1]; float[N,1,1]
            LayerNormalization-17 (float[N,5,8]; float[8]; float[8]) -> float[N,5,8]
            RMSNormalization-23 (float[N,5,8]; float[8]) -> float[N,5,8]
            LpNormalization-1 <axis=1> (float[N,5]) -> float[N,5]
            LRN-13 <size=3> (float[N,5,7,7]) -> float[N,5,7,7]
            MeanVarianceNormalization-13 (float[N,5,7,7]) -> float[N,5,7,7]
            Dropout-13 (float[N,5]) -> float[N,5]; bool[N,5]
            Dropout-7 (float[N,5]) -> float[N,5]; float[N,5]
            ",
        );
    }

    #[test]
    fn contradictions() {
        table(
            "
            BatchNormalization-15 (float[N,8,4]; float[7]) -> error: channels and scale: 8 is not 7
            GroupNormalization-21 <num_groups=0> (float[N,8,4]) -> error: `num_groups` is 0
            GroupNormalization-21 <num_groups=3>
                (float[N,8,4]) -> error: 8 channels do not divide into 3 groups
            LayerNormalization-17 <axis=3> (float[N,5,8]) -> error: axis 3 does not exist in rank 3
            InstanceNormalization-6 (float[8]) -> error: data of rank 1 has no channel axis
            ",
        );
    }

    #[test]
    fn batch_normalization_uses_the_given_statistics() {
        let x = Tensor::from_f32(&[1, 2, 2], &[1., 2., 3., 4.]);
        let p = |a, b| Tensor::from_f32(&[2], &[a, b]);
        let (scale, bias, mean, var) = (p(1., 2.), p(0., 1.), p(1., 3.), p(1., 4.));
        let inputs = [&x, &scale, &bias, &mean, &var].map(Some);
        let y = eval("BatchNormalization", 15, "epsilon=0.0", &inputs).expect("kernel");
        assert_eq!(y[0].to_f32s(), [0., 1., 1., 2.]);
    }
}
