//! Unary functions of activations: rectifiers, sigmoids, exponentials, trigonometry, rounding, tests.
//!
//! Source: ONNX `Operators.md`; the contrib operators are those of ONNX Runtime's `ContribOperators.md`. All
//! keep the shape. What is bounded says so in its `Out`, because the range of a sigmoid need not be measured.

mod softmax;

use crate::infer::{Inferred, same, shape};
use crate::kernel::float::{self, map, map_numbers};
use crate::{Class, EvalCx, EvalError, Fact, InferCx, Out, Port, Row};
use squint_ir::{DType, Tensor};

const UNIT: &[Out] = &[Out::Fixed { lo: 0.0, hi: 1.0 }];
const SIGNED_UNIT: &[Out] = &[Out::Fixed { lo: -1.0, hi: 1.0 }];

const fn unary(op_type: &'static str, since: &'static [i64]) -> Row {
    Row::new(op_type, since, Class::Unary, same)
}

const fn bounded(op_type: &'static str, since: &'static [i64], outs: &'static [Out]) -> Row {
    Row::new(op_type, since, Class::Bounded, same).outs(outs)
}

pub(crate) const ROWS: &[Row] = &[
    // Piecewise linear.
    Row::new("Relu", &[1, 6, 13, 14], Class::Clamp, same)
        .eval(|cx| map_numbers(cx, |x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0))),
    Row::new("Clip", &[1, 6, 11, 12, 13], Class::Clamp, same)
        .ports(&[Port::Act, Port::Param, Port::Param])
        .eval(eval_clip),
    unary("LeakyRelu", &[1, 6, 16]).eval(|cx| {
        let alpha = parameter(cx, "alpha", 0.01);
        map(cx, |x| if x < 0.0 { alpha * x } else { x })
    }),
    unary("PRelu", &[1, 6, 7, 9, 16]).ports(&[Port::Act, Port::Param]),
    unary("ThresholdedRelu", &[10, 22]).eval(|cx| {
        let alpha = parameter(cx, "alpha", 1.0);
        map(cx, |x| if x > alpha { x } else { 0.0 })
    }),
    unary("Shrink", &[9]).eval(|cx| {
        let (lambd, bias) = (parameter(cx, "lambd", 0.5), parameter(cx, "bias", 0.0));
        map(cx, |x| {
            if x < -lambd {
                x + bias
            } else if x > lambd {
                x - bias
            } else {
                0.0
            }
        })
    }),
    // Exponential units.
    unary("Elu", &[1, 6, 22]).eval(|cx| {
        let alpha = parameter(cx, "alpha", 1.0);
        map(cx, |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
    }),
    unary("Selu", &[1, 6, 22]).eval(|cx| {
        // The defaults of the standard are these binary32 numbers.
        let alpha = parameter(cx, "alpha", 1.673_263_2);
        let gamma = parameter(cx, "gamma", 1.050_701);
        map(cx, |x| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x })
    }),
    unary("Celu", &[12, 28]).eval(|cx| {
        let alpha = parameter(cx, "alpha", 1.0);
        map(cx, |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0))
    }),
    unary("Softplus", &[1, 22]).eval(|cx| map(cx, float::softplus)),
    unary("Mish", &[18, 22]).eval(|cx| map(cx, |x| x * float::softplus(x).tanh())),
    unary("Swish", &[24]).eval(|cx| {
        let alpha = parameter(cx, "alpha", 1.0);
        map(cx, |x| x * float::sigmoid(alpha * x))
    }),
    unary("HardSwish", &[14, 22]).eval(|cx| map(cx, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    unary("Gelu", &[20]).eval(|cx| match cx.op.string("approximate") {
        Some("tanh") => map(cx, float::gelu_tanh),
        _ => map(cx, float::gelu),
    }),
    unary("Gelu", &[1]).microsoft().eval(|cx| map(cx, float::gelu)),
    unary("QuickGelu", &[1]).microsoft().eval(|cx| {
        let alpha = parameter(cx, "alpha", 1.702);
        map(cx, |x| x * float::sigmoid(alpha * x))
    }),
    unary("FastGelu", &[1]).microsoft().ports(&[Port::Act, Port::Param]).eval(|cx| match cx.inputs {
        [_] | [_, None] => map(cx, float::gelu_tanh),
        _ => crate::kernel::unsupported("a bias"),
    }),
    unary("BiasGelu", &[1]).microsoft().ports(&[Port::Act, Port::Param]),
    // Bounded functions.
    bounded("Sigmoid", &[1, 6, 13], UNIT).eval(|cx| map(cx, float::sigmoid)),
    bounded("HardSigmoid", &[1, 6, 22], UNIT).eval(|cx| {
        let (alpha, beta) = (parameter(cx, "alpha", 0.2), parameter(cx, "beta", 0.5));
        map(cx, |x| (alpha * x + beta).clamp(0.0, 1.0))
    }),
    bounded("Tanh", &[1, 6, 13], SIGNED_UNIT).eval(|cx| map(cx, f64::tanh)),
    bounded("Softsign", &[1, 22], SIGNED_UNIT).eval(|cx| map(cx, |x| x / (1.0 + x.abs()))),
    Row::new("Softmax", &[1, 11, 13], Class::Bounded, softmax::infer).outs(UNIT).eval(softmax::eval),
    Row::new("LogSoftmax", &[1, 11, 13], Class::Unary, softmax::infer).eval(softmax::eval),
    Row::new("Hardmax", &[1, 11, 13], Class::Bounded, softmax::infer).outs(UNIT),
    unary("Erf", &[9, 13]).outs(SIGNED_UNIT).eval(|cx| map(cx, float::erf)),
    unary("Sin", &[7, 22]).outs(SIGNED_UNIT).eval(|cx| map(cx, f64::sin)),
    unary("Cos", &[7, 22]).outs(SIGNED_UNIT).eval(|cx| map(cx, f64::cos)),
    // Other functions.
    unary("Exp", &[1, 6, 13]).eval(|cx| map(cx, f64::exp)),
    unary("Log", &[1, 6, 13]).eval(|cx| map(cx, f64::ln)),
    unary("Sqrt", &[1, 6, 13]).eval(|cx| map(cx, f64::sqrt)),
    unary("Reciprocal", &[1, 6, 13]).eval(|cx| map(cx, f64::recip)),
    unary("Tan", &[7, 22]).eval(|cx| map(cx, f64::tan)),
    unary("Asin", &[7, 22]).eval(|cx| map(cx, f64::asin)),
    unary("Acos", &[7, 22]).eval(|cx| map(cx, f64::acos)),
    unary("Atan", &[7, 22]).eval(|cx| map(cx, f64::atan)),
    unary("Sinh", &[9, 22]).eval(|cx| map(cx, f64::sinh)),
    unary("Cosh", &[9, 22]).eval(|cx| map(cx, f64::cosh)),
    unary("Asinh", &[9, 22]).eval(|cx| map(cx, f64::asinh)),
    unary("Acosh", &[9, 22]).eval(|cx| map(cx, f64::acosh)),
    unary("Atanh", &[9, 22]).eval(|cx| map(cx, f64::atanh)),
    // Sign and rounding.
    unary("Abs", &[1, 6, 13]).eval(|cx| map_numbers(cx, f64::abs, i64::wrapping_abs)),
    unary("Neg", &[1, 6, 13]).eval(|cx| map_numbers(cx, |x| -x, i64::wrapping_neg)),
    unary("Sign", &[9, 13])
        .outs(SIGNED_UNIT)
        .eval(|cx| map_numbers(cx, |x| if x == 0.0 { x } else { x.signum() }, i64::signum)),
    unary("Floor", &[1, 6, 13]).eval(|cx| map(cx, f64::floor)),
    unary("Ceil", &[1, 6, 13]).eval(|cx| map(cx, f64::ceil)),
    unary("Round", &[11, 22]).eval(|cx| map(cx, f64::round_ties_even)),
    Row::new("IsNaN", &[9, 13, 20], Class::Index, infer_test)
        .outs(&[Out::Plain])
        .eval(|cx| test(cx, f64::is_nan)),
    Row::new("IsInf", &[10, 20], Class::Index, infer_test).outs(&[Out::Plain]).eval(|cx| {
        let side = |name| cx.op.int(name).unwrap_or(1) != 0;
        let (negative, positive) = (side("detect_negative"), side("detect_positive"));
        test(cx, |x| x.is_infinite() && if x > 0.0 { positive } else { negative })
    }),
];

/// A float attribute or its default, which is a binary32 number.
fn parameter(cx: &EvalCx<'_>, name: &str, default: f32) -> f64 {
    f64::from(cx.op.float(name).unwrap_or(default))
}

fn infer_test(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(Some(DType::Bool), shape(cx, 0).cloned())])
}

fn test(cx: &EvalCx<'_>, f: impl Fn(f64) -> bool) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    if !x.dtype().is_float() {
        return float::unsupported(cx, x.dtype());
    }
    let y: Vec<bool> = x.to_f64s().into_iter().map(f).collect();
    Ok(vec![Tensor::from_bool(x.dims(), &y)])
}

/// Limits are attributes before version 11 and operands since; where they cross, the upper one wins.
fn eval_clip(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let limit = |slot: usize, name: &str| -> Result<Option<f64>, EvalError> {
        match cx.optional(slot) {
            Some(t) => match t.scalar_value() {
                Some(v) => Ok(Some(v)),
                None => Err(EvalError::Invalid(format!("`{name}` of Clip has {} elements, not 1", t.len()))),
            },
            None => Ok(cx.op.float(name).map(f64::from)),
        }
    };
    let (lo, hi) = (limit(1, "min")?, limit(2, "max")?);
    // A limit is of the type of the data; integers read exactly, without a detour through binary64.
    let whole = |slot: usize| cx.optional(slot).and_then(Tensor::to_i64s).and_then(|v| v.first().copied());
    let (ilo, ihi) = (whole(1).unwrap_or(i64::MIN), whole(2).unwrap_or(i64::MAX));
    map_numbers(
        cx,
        |x| {
            let x = lo.map_or(x, |lo| if x < lo { lo } else { x });
            hi.map_or(x, |hi| if x > hi { hi } else { x })
        },
        |x| x.max(ilo).min(ihi),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, table};

    #[test]
    fn shapes() {
        table(
            "
            Relu-14 (float[N,3,?]) -> float[N,3,?]
            PRelu-16 (float[2,3,4]; float[3,1]) -> float[2,3,4]
            Clip-6 <min=0.0> (float[2]) -> float[2]
            IsNaN-13 (float16[2,N]) -> bool[2,N]
            Sigmoid-13 (float) -> float
            Tanh-13 (?) -> ?
            ",
        );
    }

    #[test]
    fn values() {
        let x = Tensor::from_f32(&[5], &[-2.5, -0.5, 0.0, 1.5, f32::NAN]);
        let run = |op, attrs| eval(op, 20, attrs, &[Some(&x)]).expect("kernel")[0].to_f32s()[..4].to_vec();
        assert_eq!(run("Relu", ""), [0.0, 0.0, 0.0, 1.5]);
        assert_eq!(run("LeakyRelu", "alpha=0.5"), [-1.25, -0.25, 0.0, 1.5]);
        assert_eq!(run("Round", ""), [-2.0, 0.0, 0.0, 2.0]);
        assert_eq!(run("Sign", ""), [-1.0, -1.0, 0.0, 1.0]);
        assert_eq!(run("HardSigmoid", ""), [0.0, 0.4, 0.5, 0.8]);
        assert_eq!(run("Clip", "min=-1.0 max=1.0"), [-1.0, -0.5, 0.0, 1.0]);
        assert_eq!(run("Shrink", "bias=0.5 lambd=1.0"), [-2.0, 0.0, 0.0, 1.0]);
        let relu = eval("Relu", 20, "", &[Some(&x)]).expect("kernel");
        assert!(relu[0].to_f32s()[4].is_nan(), "NaN goes through Relu");
        assert_eq!(eval("IsNaN", 20, "", &[Some(&x)]).expect("kernel")[0].bytes()[..], [0, 0, 0, 0, 1]);
    }

    #[test]
    fn clip_takes_limits_as_operands_and_keeps_large_integers() {
        let x = Tensor::from_i64(&[3], &[i64::MAX - 1, 5, i64::MIN]);
        let lo = Tensor::scalar_i64(-7);
        let y = eval("Clip", 13, "", &[Some(&x), Some(&lo), None]).expect("kernel");
        assert_eq!(y[0].to_i64s(), Some(vec![i64::MAX - 1, 5, -7]));
        let (x, bad) = (Tensor::scalar_f32(0.0), Tensor::from_f32(&[2], &[0.0, 1.0]));
        assert!(matches!(eval("Clip", 13, "", &[Some(&x), Some(&bad)]), Err(EvalError::Invalid(_))));
    }
}
