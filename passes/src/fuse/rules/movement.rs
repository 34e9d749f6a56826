//! Operators that move elements or rename axes, merged.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Dim, Op, OpSpec, Tensor};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = &[
    Rule::new("merge-transposes", &["t& = Transpose (x); y = Transpose (t)"], merge_transposes),
    Rule::new("drop-identity-transpose", &["y = Transpose (x)"], drop_identity_transpose),
    Rule::new(
        "merge-unsqueeze-squeeze",
        &["u& = Unsqueeze (x, a!); y = Squeeze (u, b!)", "u& = Squeeze (x, a!); y = Unsqueeze (u, b!)"],
        merge_unsqueeze_squeeze,
    ),
    Rule::new(
        "merge-reshapes",
        &[
            "r& = Reshape|Squeeze|Unsqueeze (x, s); y = Reshape|Squeeze|Unsqueeze (r, t!)",
            "r& = Reshape|Squeeze|Unsqueeze (x, s); y = Flatten (r)",
            "r& = Flatten|Squeeze (x); y = Reshape|Squeeze|Unsqueeze (r, t!)",
        ],
        merge_reshapes,
    ),
];

/// `Transpose(Transpose(x, p), q) = Transpose(x, p∘q)`: axis `i` of the result is axis `p[q[i]]` of `x`.
fn merge_transposes(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let rank = rw.fact("x").rank().or(rw.fact("y").rank());
    let (p, q) = (permutation(rw.op("t"), rank), permutation(rw.op("y"), rank));
    let perm = match (p, q) {
        (Some(p), Some(q)) if p.len() == q.len() => q.iter().map(|i| p[*i]).collect::<Vec<_>>(),
        // Reversing twice is the identity whatever the rank is.
        (None, None) if [rw.op("t"), rw.op("y")].iter().all(|o| o.attr("perm").is_none()) => vec![],
        _ => return Err("the permutations are not known".into()),
    };
    if is_identity(&perm) && rw.replace_root_by(rw.v("x")).is_ok() {
        return Ok(());
    }
    if perm.is_empty() {
        return Err("the rank is unknown".into());
    }
    let (x, mut op) = (rw.v("x"), rw.op("y").clone());
    op.set_attr("perm", perm.into_iter().map(|i| i as i64).collect::<Vec<_>>());
    rw.replace_root(OpSpec::from_op(op).operands([x]));
    Ok(())
}

/// A Transpose that moves nothing.
fn drop_identity_transpose(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    match permutation(rw.op("y"), rw.fact("x").rank()) {
        Some(p) if is_identity(&p) => rw.replace_root_by(rw.v("x")),
        _ => Err("it moves axes".into()),
    }
}

fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, p)| i == *p)
}

/// The permutation of a Transpose: reversal by default. `None` if it is unknown or not a permutation.
fn permutation(op: &Op, rank: Option<usize>) -> Option<Vec<usize>> {
    let Some(perm) = op.ints("perm") else { return rank.map(|r| (0..r).rev().collect()) };
    let mut seen = vec![false; perm.len()];
    perm.iter()
        .map(|p| {
            let p = resolve_axis(*p, perm.len())?;
            (!std::mem::replace(&mut seen[p], true)).then_some(p)
        })
        .collect()
}

/// `Squeeze(Unsqueeze(x, a), a) = Unsqueeze(Squeeze(x, a), a) = x`.
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

/// Only the last of several shapes matters, if it does not refer to the one before (with a zero).
fn merge_reshapes(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let target = match rw.op("y").op_type.as_str() {
        "Reshape" => rw.konst("t")?.to_i64s().ok_or("the shape is no list of integers")?,
        _ => {
            let shape = rw.fact("y").shape.ok_or("the rank of the result is unknown")?;
            let length = |d: &Dim| d.known().map_or(Some(-1), |n| i64::try_from(n).ok());
            shape.iter().map(length).collect::<Option<_>>().ok_or("a length is too large")?
        }
    };
    if target.contains(&0) {
        return Err("the shape copies a length".into());
    }
    if target.iter().filter(|n| **n == -1).count() > 1 {
        return Err("more than one length of the result is unknown".into());
    }
    let x = rw.v("x");
    let slot = rw.g().operand(rw.op_id("y"), 1).filter(|_| rw.op("y").op_type == "Reshape");
    let shape = match slot {
        Some(shape) => shape,
        None => {
            let name = format!("{}_shape", rw.g().value(rw.v("y")).name());
            rw.g_mut().add_const(&name, Tensor::from_i64(&[target.len()], &target))
        }
    };
    debug_assert!(rw.g().konst(shape).is_some_and(|t| t.dtype() == DType::Int64));
    let name = rw.op("y").name.clone();
    rw.replace_root(OpSpec::new("Reshape").name(name).operands([x, shape]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{apply, fires, misses};

    fn model(input: &str, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x0) => (float[] y) \
             <int64[2] flat = {{-1, 6}}, int64[2] copy = {{0, -1}}, int64[3] deep = {{2, 3, 2}}, int64[1] a0 = {{0}}, \
             int64[1] a1 = {{1}}, int64[1] last = {{-1}}> {{ x = Exp (x0) {body} }}"
        )
    }

    #[test]
    fn transposes_compose() {
        let rule = "merge-transposes";
        let body = "t = Transpose <perm = [0,2,1]> (x) y = Transpose <perm = [2,0,1]> (t)";
        let (m, ..) = apply(rule, &model("[2,3,4]", body));
        let g = m.main();
        assert!(g.ops().any(|o| g.op(o).ints("perm") == Some(&[1, 0, 2])));
        let body = "t = Transpose <perm = [2,0,1]> (x) s = Transpose <perm = [1,2,0]> (t) y = Neg (s)";
        assert_eq!(fires(rule, &model("[2,3,4]", body)), "Exp Neg");
        let shared = "t = Transpose (x) s = Transpose (t) u = Transpose (s) y = Add (u, t)";
        assert_eq!(fires(rule, &model("[3,3]", shared)), "Exp Transpose Transpose Add");
        let body = "t = Transpose <perm = [0,1,2]> (x) y = Neg (t)";
        assert_eq!(fires("drop-identity-transpose", &model("[2,3,4]", body)), "Exp Neg");
        misses("drop-identity-transpose", &model("[2,3]", "y = Transpose (x)"));
    }

    #[test]
    fn the_last_shape_decides() {
        let rule = "merge-reshapes";
        let body = "r = Reshape (x, deep) y = Reshape (r, flat)";
        assert_eq!(fires(rule, &model("[2,6]", body)), "Exp Reshape");
        assert!(
            misses(rule, &model("[2,6]", "r = Reshape (x, deep) y = Reshape (r, copy)")).contains("copies")
        );
        assert_eq!(
            fires(rule, &model("[2,6]", "r = Unsqueeze (x, a0) y = Flatten <axis = 2> (r)")),
            "Exp Reshape"
        );
        assert_eq!(fires(rule, &model("[N,6]", "r = Flatten (x) y = Unsqueeze (r, a1)")), "Exp Reshape");
        misses(rule, &model("[N,M]", "r = Flatten (x) y = Unsqueeze (r, a1)"));
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
}
