//! Operators that change nothing.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Dim};

pub(super) const RULES: &[Rule] = rules! {
    /// A Reshape to the shape it has already. One length may be unknown: the number of elements fixes it.
    "drop-no-op-reshape":
        "y = Reshape|Squeeze|Unsqueeze (x, s)",
        "y = Flatten|Squeeze (x)"
        => "y = x", drop_no_op_reshape;

    /// An Expand to the shape it has already.
    "drop-no-op-expand":
        "y = Expand (x, s)"
        => "y = x", drop_no_op_expand;

    /// A Slice with steps of 1 from the first to the last element.
    "drop-no-op-slice":
        "y = Slice (x, starts!, ends!, axes?, steps!?)"
        => "y = x", drop_no_op_slice;

    /// A Concat of one operand.
    "drop-no-op-concat":
        "y = Concat (x)"
        => "y = x", drop;

    /// A Split into one part.
    "drop-no-op-split":
        "y = Split (x, s?)"
        => "y = x", drop_no_op_split;

    /// A Cast to the type it has already.
    "drop-no-op-cast":
        "y = Cast (x)"
        => "y = x", drop_no_op_cast;

    /// A Pad by nothing.
    "drop-no-op-pad":
        "y = Pad (x, pads!, value?, axes?)"
        => "y = x", drop_no_op_pad;

    /// A Resize by factors of 1.
    "drop-no-op-resize":
        "y = Resize (x, roi?, scales!, sizes?)"
        => "y = x", drop_no_op_resize;

    /// Dropout at inference.
    "drop-dropout":
        "y = Dropout (x, ratio?, training!?)"
        => "y = x", drop_dropout;

    /// A convolution of each channel by one: what `hold-quantizers` and `enter-layout` put into models of ONNX Runtime.
    "drop-convolution-by-one":
        "y = Conv (x, w!)"
        => "y = x", drop_convolution_by_one;

    /// Identity.
    "drop-identity":
        "y = Identity (x)"
        => "y = x", drop;
};

fn drop(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.replace_root_by(rw.v("x"))
}

fn drop_no_op_reshape(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if !same_shape(rw, 1)? {
        return Err("the shapes differ".into());
    }
    drop(rw)
}

fn drop_no_op_expand(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if !same_shape(rw, 0)? {
        return Err("the shapes differ".into());
    }
    drop(rw)
}

fn drop_no_op_slice(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let ints = |k: &str| rw.konst(k)?.to_i64s().ok_or(Miss::from("bounds that are no integers"));
    if rw.has("steps") && ints("steps")?.iter().any(|s| *s != 1) {
        return Err("its steps are not 1".into());
    }
    let all =
        ints("starts")?.iter().all(|s| *s == 0) && ints("ends")?.iter().all(|e| *e >= i64::from(i32::MAX));
    if !all && !same_shape(rw, 0)? {
        return Err("it may cut something off".into());
    }
    drop(rw)
}

fn drop_no_op_split(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.g().results(rw.op_id("y")).len() != 1 {
        return Err("there are more parts".into());
    }
    drop(rw)
}

fn drop_no_op_cast(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let to = rw.op("y").int("to").and_then(|c| i32::try_from(c).ok()).and_then(DType::from_code);
    if to.is_none() || rw.fact("x").dtype != to {
        return Err("the types differ".into());
    }
    drop(rw)
}

fn drop_no_op_pad(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let pads = rw.konst("pads")?.to_i64s().ok_or("`pads` are no integers")?;
    if pads.iter().any(|p| *p != 0) {
        return Err("it pads".into());
    }
    drop(rw)
}

fn drop_no_op_resize(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let crops = rw.op("y").string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    let scales = rw.konst("scales")?;
    if crops || rw.has("sizes") || scales.is_empty() || scales.to_f64s().iter().any(|s| *s != 1.0) {
        return Err("it resizes".into());
    }
    drop(rw)
}

fn drop_dropout(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.has("training") && rw.scalar("training")? != 0.0 {
        return Err("it is in training".into());
    }
    drop(rw)
}

fn drop_convolution_by_one(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (weight, op) = (rw.konst("w")?, rw.op("y"));
    let each = weight.dims().first().copied() == op.int("group").and_then(|n| usize::try_from(n).ok());
    if weight.dims().get(1..).is_none_or(|rest| rest.iter().any(|n| *n != 1)) || !each {
        return Err("its kernel is larger than one tap of each channel".into());
    }
    let moves = |name: &str, still: i64| op.ints(name).is_some_and(|list| list.iter().any(|n| *n != still));
    if moves("strides", 1) || moves("pads", 0) {
        return Err("it is strided or padded".into());
    }
    if weight.to_f64s().iter().any(|w| *w != 1.0) {
        return Err("its weight is not one everywhere".into());
    }
    drop(rw)
}

/// True if operand and result are known to have the same shape, up to `open` lengths of which nothing is
/// known.
fn same_shape(rw: &Rewrite<'_, '_>, open: usize) -> Result<bool, Miss> {
    let unknown = || Miss::from("a shape is unknown");
    let (x, y) = (rw.fact("x").shape.ok_or_else(unknown)?, rw.fact("y").shape.ok_or_else(unknown)?);
    if x.len() != y.len() || (open > 0 && x.contains(&Dim::Known(0))) {
        return Ok(false);
    }
    // Two lengths of which different things are known may still be equal, so they count as open.
    let differ = || x.iter().zip(&y).filter(|(a, b)| a != b || **a == Dim::Unknown);
    let contradict = differ().any(|(a, b)| a.known().is_some() && b.known().is_some());
    Ok(!contradict && differ().count() <= open)
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(input: &str, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x0) => (float[] y) \
             <int64[2] shape = {{2, 3}}, int64[2] open = {{-1, 3}}, int64[2] turned = {{3, 2}}, int64[1] zero = {{0}}, \
             int64[1] big = {{9223372036854775807}}, int64[1] two = {{2}}, int64[4] none = {{0, 0, 0, 0}}, int64[1] minus = {{-1}}, \
             float[2] ones = {{1, 1}}, int64[2] unit = {{1, 1}}> {{ x = Exp (x0) n = {body} y = Neg (n) }}"
        )
    }

    #[test]
    fn convolutions_by_one_go() {
        let model = |weight: &str, attributes: &str| {
            format!(
                "<ir_version: 8, opset_import: [\"\" : 15]> m (float[1,2,3,3] x0) => (float[] y) \
                 <float[2,1,1,1] w = {weight}> {{ x = Exp (x0) n = Conv <{attributes}> (x, w) y = Neg (n) }}"
            )
        };
        let rule = "drop-convolution-by-one";
        assert_eq!(fires(rule, &model("{1, 1}", "group = 2, strides = [1, 1]")), "Exp Neg");
        assert!(misses(rule, &model("{1, 0.5}", "group = 2")).contains("not one"));
        assert!(misses(rule, &model("{1, 1}", "group = 2, strides = [2, 2]")).contains("strided"));
    }

    #[test]
    fn what_changes_nothing_goes() {
        for (rule, input, body) in [
            ("drop-no-op-reshape", "[2,3]", "Reshape (x, shape)"),
            ("drop-no-op-reshape", "[N,3]", "Reshape (x, open)"),
            ("drop-no-op-reshape", "[N,3]", "Flatten (x)"),
            ("drop-no-op-expand", "[N,3]", "Expand (x, unit)"),
            ("drop-no-op-slice", "[N,3]", "Slice (x, zero, big, zero)"),
            ("drop-no-op-slice", "[2,3]", "Slice (x, zero, two, zero)"),
            ("drop-no-op-concat", "[2,3]", "Concat <axis = 0> (x)"),
            ("drop-no-op-cast", "[2,3]", "Cast <to = 1> (x)"),
            ("drop-no-op-split", "[2,3]", "Split <axis = 1> (x)"),
            ("drop-no-op-pad", "[2,3]", "Pad <mode = \"reflect\"> (x, none)"),
            ("drop-identity", "[2,3]", "Identity (x)"),
            ("drop-dropout", "[2,3]", "Dropout (x)"),
        ] {
            assert_eq!(fires(rule, &model(input, body)), "Exp Neg", "{body}");
        }
    }

    #[test]
    fn what_changes_something_stays() {
        for (rule, input, body) in [
            ("drop-no-op-reshape", "[2,3]", "Reshape (x, turned)"),
            ("drop-no-op-expand", "[1,3]", "Expand (x, shape)"),
            ("drop-no-op-slice", "[2,3]", "Slice (x, minus, big, zero)"),
            ("drop-no-op-slice", "[2,3]", "Slice (x, zero, minus, zero)"),
            ("drop-no-op-cast", "[2,3]", "Cast <to = 11> (x)"),
        ] {
            misses(rule, &model(input, body));
        }
    }
}
