//! Clamps: `Relu`, `Clip` and what is written as `Max` and `Min`.
//!
//! A clamp is `x ↦ min(max(x, lo), hi)`; Relu is the one with `lo = 0` and no `hi`. One clamp behind a
//! contraction costs nothing, because its limits become those of the quantized range.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{Graph, Op, OpId, OpSpec, Tensor, ValueId};

pub(super) const RULES: &[Rule] = rules! {
    /// `max(x, 0) = Relu(x)`, `max(x, a) = Clip(x, a, ∞)`, `min(x, b) = Clip(x, −∞, b)`.
    "bound-to-clip":
        "y = Max (x, lo!)",
        "y = Min (x, hi!)"
        => "y = Relu|Clip (x, lo', hi')", bound_to_clip;

    /// `min(max(x, a), b) = max(min(x, b), a) = Clip(x, a, b)` if `a ≤ b`.
    "min-max-to-clip":
        "c = Max (x, lo!); y = Min (c, hi!)",
        "c = Min (x, hi!); y = Max (c, lo!)",
        "c = Relu (x); y = Min (c, hi!)"
        => "y = Relu|Clip (x, lo', hi')", min_max_to_clip;

    /// A clamp of something that lies within its limits already changes nothing.
    "drop-redundant-relu":
        "y = Relu (x)",
        "y = Clip (x, lo!?, hi!?)"
        => "y = x", drop_redundant_relu;

    /// `[a, b]` and then `[c, d]` is `[a', b']`, the images of `a` and `b` under the second.
    "merge-clamps":
        "c = Relu|Clip (x, lo!?, hi!?); y = Relu|Clip (c, lo2!?, hi2!?)"
        => "y = Relu|Clip (x, lo', hi')", merge_clamps;

    /// `Clip(x, 0, ∞) = Relu(x)`.
    "clip-to-relu":
        "y = Clip (x, lo!, hi!?)"
        => "y = Relu (x)", clip_to_relu;
};

fn bound_to_clip(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let bound = if rw.has("lo") { "lo" } else { "hi" };
    rw.expect_no_growth("x", bound)?;
    let limit = rw.float(bound)?;
    if limit.is_nan() {
        return Err("the limit is not a number".into());
    }
    let (lo, hi) = if rw.has("lo") { (limit, f64::INFINITY) } else { (f64::NEG_INFINITY, limit) };
    replace_by_clamp(rw, lo, hi)
}

fn min_max_to_clip(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    for k in ["lo", "hi"] {
        if rw.has(k) {
            rw.expect_no_growth("x", k)?;
        }
    }
    let lo = if rw.has("lo") { rw.float("lo")? } else { 0.0 };
    let hi = rw.float("hi")?;
    if lo > hi {
        return Err("the limits cross".into());
    }
    replace_by_clamp(rw, lo, hi)
}

fn merge_clamps(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.expect_float("x")?;
    let (lo, hi) = ordered(limits(rw.g(), rw.op_id("c"))?)?;
    let (lo2, hi2) = ordered(limits(rw.g(), rw.op_id("y"))?)?;
    replace_by_clamp(rw, lo.clamp(lo2, hi2), hi.clamp(lo2, hi2))
}

fn clip_to_relu(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.expect_float("x")?;
    match limits(rw.g(), rw.op_id("y"))? {
        (0.0, f64::INFINITY) => replace_by_clamp(rw, 0.0, f64::INFINITY),
        _ => Err("it does not keep exactly what is not negative".into()),
    }
}

fn drop_redundant_relu(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (lo, hi) = limits(rw.g(), rw.op_id("y"))?;
    let (from, to) = range(rw.g(), rw.v("x"), MAX_DEPTH).ok_or("the range of its operand is unknown")?;
    if from < lo || to > hi {
        return Err(format!("its operand lies in [{from}, {to}]").into());
    }
    rw.replace_root_by(rw.v("x"))
}

/// Operators walked upwards to find a range.
const MAX_DEPTH: usize = 8;

/// A range that holds the value, from its operator alone.
fn range(g: &Graph, v: ValueId, depth: usize) -> Option<(f64, f64)> {
    let (id, 0) = g.producer(v)? else { return None };
    let op = g.op(id);
    if !op.is_onnx() {
        return None;
    }
    match op.op_type.as_str() {
        "Relu" | "Clip" => limits(g, id).ok().filter(|(lo, hi)| lo <= hi),
        "Sigmoid" | "Softmax" | "HardSigmoid" => Some((0.0, 1.0)),
        "Tanh" | "Softsign" => Some((-1.0, 1.0)),
        "Abs" | "Exp" | "Sqrt" | "Softplus" => Some((0.0, f64::INFINITY)),
        "MaxPool" | "GlobalMaxPool" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose"
        | "Slice" | "DepthToSpace" | "SpaceToDepth" | "Identity"
            if depth > 0 =>
        {
            range(g, g.operand(id, 0)?, depth - 1)
        }
        // Means of what is not negative are not negative; other limits they may miss by rounding.
        "AveragePool" | "GlobalAveragePool" | "ReduceMean" if depth > 0 => {
            let (lo, _) = range(g, g.operand(id, 0)?, depth - 1)?;
            (lo >= 0.0).then_some((0.0, f64::INFINITY))
        }
        _ => None,
    }
}

/// The limits of a Relu or a Clip, of operands or (before operator set 11) of attributes. A miss if one
/// is not constant or not a number.
pub(crate) fn limits(g: &Graph, id: OpId) -> Result<(f64, f64), Miss> {
    let op = g.op(id);
    if op.op_type == "Relu" {
        return Ok((0.0, f64::INFINITY));
    }
    let (lo, hi) =
        (limit(g, op, id, 1, "min", f64::NEG_INFINITY)?, limit(g, op, id, 2, "max", f64::INFINITY)?);
    Ok((lo, hi))
}

fn limit(g: &Graph, op: &Op, id: OpId, slot: u32, attr: &str, none: f64) -> Result<f64, Miss> {
    let x = match (g.operand(id, slot), op.float(attr)) {
        (None, None) => none,
        (None, Some(x)) => f64::from(x),
        (Some(v), _) if g.is_input(v) => return Err("a limit is not constant".into()),
        (Some(v), _) => {
            g.konst(v).and_then(|t| t.scalar_value()).ok_or("a limit is not a constant number")?
        }
    };
    match x {
        x if x.is_nan() => Err("a limit is not a number".into()),
        // The largest float is how exporters say that there is no limit.
        x if x.abs() >= f64::from(f32::MAX) && x.signum() == none.signum() => Ok(none),
        x => Ok(x),
    }
}

fn ordered((lo, hi): (f64, f64)) -> Result<(f64, f64), Miss> {
    if lo <= hi { Ok((lo, hi)) } else { Err("the limits cross".into()) }
}

/// Replaces the root by a clamp of the float32 value `x`.
fn replace_by_clamp(rw: &mut Rewrite<'_, '_>, lo: f64, hi: f64) -> Result<(), Miss> {
    rw.expect_float("x")?;
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    if lo == 0.0 && hi == f64::INFINITY {
        rw.replace_root(OpSpec::new("Relu").name(name).operands([x]));
        return Ok(());
    }
    if rw.model.onnx_opset() < 11 {
        return Err("limits are attributes before operator set 11".into());
    }
    let result = rw.g().value(rw.v("y")).name().to_owned();
    let mut limit = |suffix: &str, x: f64| {
        x.is_finite()
            .then(|| rw.g_mut().add_const(&format!("{result}_{suffix}"), Tensor::scalar_f32(x as f32)))
    };
    let operands = match (limit("min", lo), limit("max", hi)) {
        (None, None) => return Err("it has no limits".into()),
        (lo, None) => vec![Some(x), lo],
        (lo, hi) => vec![Some(x), lo, hi],
    };
    rw.replace_root(OpSpec::new("Clip").name(name).operands(operands));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[1,2,4,4] x) => (float[] y) \
             <float zero = {{0.0}}, float a = {{0.25}}, float b = {{0.5}}, float neg = {{-0.5}}, \
             float max = {{3.4028235e38}}, float[1,1,1,1,1] deep = {{0.0}}> {{ {body} }}"
        )
    }

    #[test]
    fn clamps_merge_into_one() {
        assert_eq!(fires("merge-clamps", &model("c = Relu (x) y = Clip (c, neg, b)")), "Clip");
        assert_eq!(fires("merge-clamps", &model("c = Clip (x, neg, b) y = Relu (c)")), "Clip");
        assert_eq!(fires("merge-clamps", &model("c = Clip (x, neg, a) y = Clip (c, b, max)")), "Clip");
        assert_eq!(fires("merge-clamps", &model("c = Clip (x, neg) y = Clip (c, zero)")), "Relu");
        assert!(misses("merge-clamps", &model("c = Clip (x, b, a) y = Relu (c)")).contains("cross"));
    }

    #[test]
    fn other_spellings() {
        assert_eq!(fires("clip-to-relu", &model("y = Clip (x, zero)")), "Relu");
        assert_eq!(fires("clip-to-relu", &model("y = Clip (x, zero, max)")), "Relu");
        misses("clip-to-relu", &model("y = Clip (x, zero, b)"));
        assert_eq!(fires("bound-to-clip", &model("y = Max (zero, x)")), "Relu");
        assert_eq!(fires("bound-to-clip", &model("y = Max (neg, x)")), "Clip");
        assert_eq!(fires("bound-to-clip", &model("y = Min (x, b)")), "Clip");
        assert!(misses("bound-to-clip", &model("y = Max (x, deep)")).contains("more axes"));
        assert_eq!(fires("min-max-to-clip", &model("c = Max (x, neg) y = Min (b, c)")), "Clip");
        assert_eq!(fires("min-max-to-clip", &model("c = Min (x, b) y = Max (neg, c)")), "Clip");
        assert_eq!(fires("min-max-to-clip", &model("c = Relu (x) y = Min (c, b)")), "Clip");
        misses("min-max-to-clip", &model("c = Max (x, b) y = Min (c, neg)"));
    }

    #[test]
    fn a_clamp_of_what_lies_within_is_dropped() {
        let rule = "drop-redundant-relu";
        let through = "c = Sigmoid (x) m = MaxPool <kernel_shape = [2,2]> (c) y = Relu (m)";
        assert_eq!(fires(rule, &model(through)), "Sigmoid MaxPool");
        assert_eq!(fires(rule, &model("c = Relu (x) d = Relu (c) y = Add (c, d)")), "Relu Add");
        assert_eq!(fires(rule, &model("c = Clip (x, a, b) y = Clip (c, neg)")), "Clip");
        misses(rule, &model("c = Tanh (x) y = Relu (c)"));
        misses(rule, &model("c = Relu (x) y = Clip (c, zero, b)"));
    }
}
