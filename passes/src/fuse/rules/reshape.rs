//! Operators that only rename axes, merged.

use super::super::{Miss, Rewrite, Rule};
use super::movement::permutation;
use crate::shapes::reshape_target;
use squint_ir::{Dim, OpSpec, Tensor};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// `Squeeze(Unsqueeze(x, a), a) = Unsqueeze(Squeeze(x, a), a) = x`.
    "merge-unsqueeze-squeeze":
        "u& = Unsqueeze (x, a!); y = Squeeze (u, b!)",
        "u& = Squeeze (x, a!); y = Unsqueeze (u, b!)"
        => "y = x", merge_unsqueeze_squeeze;

    /// Only the last of several shapes matters, if it does not refer to the one before (with a zero).
    "merge-reshapes":
        "r& = Reshape|Squeeze|Unsqueeze (x, s); y = Reshape|Squeeze|Unsqueeze (r, t!)",
        "r& = Reshape|Squeeze|Unsqueeze (x, s); y = Flatten (r)",
        "r& = Flatten|Squeeze (x); y = Reshape|Squeeze|Unsqueeze (r, t!)"
        => "y = Reshape (x, t')", merge_reshapes;

    /// `Unsqueeze(Unsqueeze(x, a), b) = Unsqueeze(x, c)` and `Squeeze(Squeeze(x, a), b) = Squeeze(x, c)`.
    "merge-squeezes":
        "u& = Unsqueeze (x, a!); y = Unsqueeze (u, b!)",
        "u& = Squeeze (x, a!); y = Squeeze (u, b!)"
        => "y = Squeeze|Unsqueeze (x, c')", merge_squeezes;

    /// A Transpose that only moves axes of length 1 is a Reshape.
    "transpose-to-reshape":
        "y = Transpose (x)"
        => "y = Reshape (x, t')", transpose_to_reshape;

    /// A Transpose before or behind a Reshape that only moves axes of length 1 is one Transpose.
    "merge-transpose-reshape":
        "t = Transpose (x); y = Reshape|Squeeze|Unsqueeze (t, s)",
        "r = Reshape|Squeeze|Unsqueeze (x, s); y = Transpose (r)"
        => "y = Transpose (x)", merge_transpose_reshape;
};

fn merge_unsqueeze_squeeze(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let wide = if rw.op("u").op_type == "Unsqueeze" { "u" } else { "x" };
    let rank = rw.fact(wide).rank();
    let axes = |k: &str| -> Result<Vec<i64>, Miss> {
        let axes = rw.konst(k)?.to_i64s().ok_or("axes that are no integers")?;
        let front = |a: i64| rank.and_then(|r| resolve_axis(a, r)).map_or(a, |a| a as i64);
        let mut axes: Vec<i64> = axes.into_iter().map(front).collect();
        axes.sort_unstable();
        Ok(axes)
    };
    if axes("a")? != axes("b")? {
        return Err("the axes differ".into());
    }
    rw.replace_root_by(rw.v("x"))
}

fn merge_reshapes(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let written = match rw.op("y").op_type.as_str() {
        "Reshape" => Some(rw.konst("t")?.to_i64s().ok_or("the shape is no list of integers")?),
        _ => None,
    };
    let x = rw.v("x");
    let shape = match written {
        // A length that is copied means another one here.
        Some(target) if !target.contains(&0) => rw.v("t"),
        _ => {
            let shape = rw.fact("y").shape.ok_or("the rank of the result is unknown")?;
            let target = reshape_target(rw.fact("x").shape.as_ref(), &shape);
            let target = target.ok_or("more than one length of the result is unknown")?;
            let name = format!("{}_shape", rw.g().value(rw.v("y")).name());
            rw.g_mut().add_const(&name, Tensor::from_i64(&[target.len()], &target))
        }
    };
    let name = rw.op("y").name.clone();
    rw.replace_root(OpSpec::new("Reshape").name(name).operands([x, shape]));
    Ok(())
}

fn merge_squeezes(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let widens = rw.op("y").op_type == "Unsqueeze";
    let mut op = rw.op("y").clone();
    let list = |k: &str| rw.konst(k)?.to_i64s().ok_or(Miss::from("axes that are no integers"));
    let (a, b) = (list("a")?, list("b")?);
    // Both lists of axes are of the shape that has them.
    let rank = rw.fact("x").rank().ok_or("the rank is unknown")?;
    let (wide_a, wide_b) = match widens {
        true => (rank + a.len(), rank + a.len() + b.len()),
        false => (rank, rank.checked_sub(a.len()).ok_or("an axis does not exist")?),
    };
    let resolve = |axes: &[i64], rank: usize| -> Result<Vec<usize>, Miss> {
        let axes: Option<Vec<usize>> = axes.iter().map(|i| resolve_axis(*i, rank)).collect();
        axes.ok_or_else(|| "an axis does not exist".into())
    };
    let (a, b) = (resolve(&a, wide_a)?, resolve(&b, wide_b)?);
    // Axes of the one in between, numbered as in the widest shape.
    let (inner, outer, widest) = if widens { (&a, &b, wide_b) } else { (&b, &a, wide_a) };
    let between: Vec<usize> = (0..widest).filter(|i| !outer.contains(i)).collect();
    let mut axes: Vec<usize> = outer.clone();
    for i in inner {
        axes.push(*between.get(*i).ok_or("an axis does not exist")?);
    }
    axes.sort_unstable();
    let axes: Vec<i64> = axes.into_iter().map(|i| i as i64).collect();
    let c = rw.add_const("b", Tensor::from_i64(&[axes.len()], &axes));
    let x = rw.v("x");
    op.attributes.clear();
    rw.replace_root(OpSpec::from_op(op).operands([x, c]));
    Ok(())
}

fn transpose_to_reshape(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let shape = rw.fact("x").shape.ok_or("the rank is unknown")?;
    let perm = permutation(rw.op("y"), Some(shape.len())).filter(|p| p.len() == shape.len());
    let perm = perm.ok_or("the permutation is not known")?;
    let long: Vec<usize> = perm.iter().copied().filter(|i| shape[*i] != Dim::Known(1)).collect();
    if !long.is_sorted() {
        return Err("it moves elements".into());
    }
    let moved: Vec<Dim> = perm.iter().map(|i| shape[*i].clone()).collect();
    let target = reshape_target(Some(&shape), &moved).ok_or("more than one length is unknown")?;
    let name = format!("{}_shape", rw.g().value(rw.v("y")).name());
    let t = rw.g_mut().add_const(&name, Tensor::from_i64(&[target.len()], &target));
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    rw.replace_root(OpSpec::new("Reshape").name(name).operands([x, t]));
    Ok(())
}

fn merge_transpose_reshape(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let shape = |name: &str| rw.fact(name).shape.ok_or("a shape is unknown");
    let (x, y) = (shape("x")?, shape("y")?);
    let perm: Vec<usize> = if rw.has("t") {
        let perm = permutation(rw.op("t"), Some(x.len())).filter(|p| p.len() == x.len());
        let perm = perm.ok_or("the permutation is not known")?;
        let moved: Vec<Dim> = perm.iter().map(|i| x[*i].clone()).collect();
        same_but_ones(&moved, &y)?.into_iter().map(|i| perm[i]).collect()
    } else {
        let r = shape("r")?;
        let perm = permutation(rw.op("y"), Some(r.len())).filter(|p| p.len() == r.len());
        let from = same_but_ones(&x, &r)?;
        perm.ok_or("the permutation is not known")?.into_iter().map(|i| from[i]).collect()
    };
    let (x, name) = (rw.v("x"), rw.op("y").name.clone());
    let perm: Vec<i64> = perm.into_iter().map(|i| i as i64).collect();
    rw.replace_root(OpSpec::new("Transpose").name(name).attr("perm", perm).operands([x]));
    Ok(())
}

/// For each axis of a shape `to` the axis of `from` that it is, where the two differ in the places of ones
/// only. One length may be unknown: the number of elements fixes it.
fn same_but_ones(from: &[Dim], to: &[Dim]) -> Result<Vec<usize>, Miss> {
    let split = |s: &[Dim]| (0..s.len()).partition::<Vec<usize>, _>(|i| s[*i] == Dim::Known(1));
    let ((ones, long), (to_ones, to_long)) = (split(from), split(to));
    let mut open = 0;
    for (a, b) in long.iter().zip(&to_long).map(|(a, b)| (&from[*a], &to[*b])) {
        match (a.known(), b.known()) {
            (Some(a), Some(b)) if a != b => return Err("the Reshape moves elements".into()),
            (Some(_), Some(_)) => {}
            _ => open += 1,
        }
    }
    if ones.len() != to_ones.len() || long.len() != to_long.len() || open > 1 {
        return Err("the Reshape may do more than move ones".into());
    }
    let mut map = vec![0; to.len()];
    to_ones.iter().zip(&ones).chain(to_long.iter().zip(&long)).for_each(|(t, f)| map[*t] = *f);
    Ok(map)
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{apply, fires, misses};

    fn model(input: &str, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x0) => (float[] y) \
             <int64[2] flat = {{-1, 6}}, int64[2] copy = {{0, -1}}, int64[3] deep = {{2, 3, 2}}, int64[1] a0 = {{0}}, \
             int64[1] a1 = {{1}}, int64[1] last = {{-1}}, int64[2] both = {{0, 2}}, int64[4] ones = {{-1, 5, 6, 1}}> {{ x = Exp (x0) {body} }}"
        )
    }

    #[test]
    fn the_last_shape_decides() {
        let rule = "merge-reshapes";
        let body = "r = Reshape (x, deep) y = Reshape (r, flat)";
        assert_eq!(fires(rule, &model("[2,6]", body)), "Exp Reshape");
        // A copied length is written out.
        let (m, ..) = apply(rule, &model("[2,6]", "r = Reshape (x, deep) y = Reshape (r, copy)"));
        assert_eq!(crate::fuse::testing::ops(&m), "Exp Reshape");
        assert_eq!(
            fires(rule, &model("[2,6]", "r = Unsqueeze (x, a0) y = Flatten <axis = 2> (r)")),
            "Exp Reshape"
        );
        assert_eq!(fires(rule, &model("[N,6]", "r = Flatten (x) y = Unsqueeze (r, a1)")), "Exp Reshape");
        assert_eq!(fires(rule, &model("[N,M]", "r = Flatten (x) y = Unsqueeze (r, a1)")), "Exp Reshape");
        misses(rule, &model("[N,M]", "r = Flatten (x) y = Unsqueeze (r, both)"));
    }

    #[test]
    fn axes_that_come_and_go() {
        let rule = "merge-unsqueeze-squeeze";
        let body = "u = Unsqueeze (x, last) s = Squeeze (u, last) y = Neg (s)";
        assert_eq!(fires(rule, &model("[2,3]", body)), "Exp Neg");
        let body = "u = Squeeze (x, a0) s = Unsqueeze (u, a0) y = Neg (s)";
        assert_eq!(fires(rule, &model("[1,3]", body)), "Exp Neg");
        misses(rule, &model("[1,3]", "u = Squeeze (x, a0) y = Unsqueeze (u, last)"));
    }

    #[test]
    fn axes_that_come_or_go_in_steps() {
        let rule = "merge-squeezes";
        for (input, body) in [
            ("[N,M]", "u = Unsqueeze (x, a1) y = Unsqueeze (u, last)"),
            ("[N,M]", "u = Unsqueeze (x, both) y = Unsqueeze (u, a0)"),
            ("[1,N,1,M]", "u = Squeeze (x, a0) y = Squeeze (u, a1)"),
        ] {
            let wanted = if body.contains("Unsqueeze") { "Exp Unsqueeze" } else { "Exp Squeeze" };
            assert_eq!(fires(rule, &model(input, body)), wanted, "{body}");
        }
    }

    #[test]
    fn axes_of_length_one_move_freely() {
        let rule = "transpose-to-reshape";
        assert_eq!(fires(rule, &model("[N,1,6]", "y = Transpose <perm = [0,2,1]> (x)")), "Exp Reshape");
        assert_eq!(
            fires(rule, &model("[N,1,M]", "y = Transpose <perm = [0,2,1]> (x)")),
            "Exp Reshape".trim()
        );
        assert!(misses(rule, &model("[2,3,1]", "y = Transpose <perm = [1,0,2]> (x)")).contains("moves"));
    }

    #[test]
    fn a_reshape_of_ones_goes_into_the_transpose() {
        let rule = "merge-transpose-reshape";
        let body = "t = Transpose <perm = [0,2,3,1]> (x) y = Reshape (t, ones)";
        assert_eq!(fires(rule, &model("[N,6,1,5]", body)), "Exp Transpose");
        let body = "r = Reshape (x, ones) y = Transpose <perm = [1,3,0,2]> (r)";
        assert_eq!(fires(rule, &model("[N,1,5,6]", body)), "Exp Transpose");
        assert!(misses(rule, &model("[N,6,5,1]", body)).contains("elements"));
    }
}
