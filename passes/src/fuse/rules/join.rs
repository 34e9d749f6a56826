//! Concats in each other, and Expands in front of operators that broadcast.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{Dim, OpSpec, Shape, ValueId};

pub(super) const RULES: &[Rule] = rules! {
    /// `[[u, v], w] = [u, v, w]` along one axis.
    "merge-concats":
        "y = Concat (u, ..)"
        => "y = Concat (u, ..)", merge_concats;

    /// `Expand(x) ∘ z = x ∘ z`, where broadcasting `x` and the other operands gives the same shape.
    "drop-expand-before-broadcast":
        "e& = Expand (x, s); y = Add|Mul|Max|Min|And|Or|Equal (e, z)",
        "e& = Expand (x, s); y = Sub|Div|Pow|Less|Greater|LessOrEqual|GreaterOrEqual (e, z)",
        "e& = Expand (x, s); y = Sub|Div|Pow|Less|Greater|LessOrEqual|GreaterOrEqual (z, e)",
        "e& = Expand (x, s); y = Where (e, z, v)",
        "e& = Expand (x, s); y = Where (z, e, v)",
        "e& = Expand (x, s); y = Where (z, v, e)"
        => "y = Add|Mul|Max|Min|And|Or|Equal|Sub|Div|Pow|Less|Greater|LessOrEqual|GreaterOrEqual|Where (x, z)", drop_expand;
};

fn merge_concats(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let g = rw.g();
    let id = rw.op_id("y");
    let axis = g.op(id).int("axis");
    let mut operands = Vec::new();
    let mut inner = Vec::new();
    for v in g.operands(id) {
        let made = v.filter(|v| g.only_use(*v).is_some()).and_then(|v| g.producer(v));
        match made {
            Some((p, 0)) if g.op(p).is("Concat") && g.op(p).int("axis") == axis => {
                operands.extend(g.operands(p));
                inner.push(p);
            }
            _ => operands.push(v),
        }
    }
    if inner.is_empty() {
        return Err(Miss::nothing_to_do());
    }
    let op = g.op(id).clone();
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    inner.into_iter().for_each(|p| rw.g_mut().remove_op_and_results(p));
    Ok(())
}

fn drop_expand(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let (id, e, x) = (rw.op_id("y"), rw.v("e"), rw.v("x"));
    let swap = |v: Option<ValueId>| if v == Some(e) { Some(x) } else { v };
    let operands: Vec<Option<ValueId>> = rw.g().operands(id).into_iter().map(swap).collect();
    let shape = |v: ValueId| rw.cx.fact(rw.model, v).shape.ok_or("a shape is unknown");
    let mut broadcast = Shape::default();
    for v in operands.iter().flatten() {
        broadcast = joint(broadcast, shape(*v)?).ok_or("it is not known how lengths broadcast")?;
    }
    let wanted = shape(rw.v("y"))?;
    if broadcast != wanted || wanted.contains(&Dim::Unknown) {
        return Err("without it the result may be smaller".into());
    }
    let op = rw.op("y").clone();
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

/// The shape that two shapes broadcast to, if that is sure.
fn joint(a: Shape, b: Shape) -> Option<Shape> {
    let (mut long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let behind = long.len() - short.len();
    for (l, s) in long[behind..].iter_mut().zip(short) {
        if *l == Dim::Known(1) {
            *l = s;
        } else if s != Dim::Known(1) && (*l != s || s == Dim::Unknown) {
            return None;
        }
    }
    Some(long)
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3] x, float[N,3] z, float[1,3] w) => (float[] y) \
             <int64[2] s = {{2, 3}}> {{ {body} }}"
        )
    }

    #[test]
    fn concats_of_one_axis_merge() {
        let rule = "merge-concats";
        let body = "c = Concat <axis = 0> (x, w) y = Concat <axis = 0> (z, c, x)";
        assert_eq!(fires(rule, &model(body)), "Concat");
        misses(rule, &model("c = Concat <axis = 1> (x, x) y = Concat <axis = 0> (c, c)"));
        misses(rule, &model("c = Concat <axis = 0> (x, x) n = Neg (c) y = Concat <axis = 0> (c, n)"));
    }

    #[test]
    fn what_broadcasts_needs_no_expand() {
        let rule = "drop-expand-before-broadcast";
        for op in ["Add (x, e)", "Sub (e, x)", "Div (x, e)", "Max (e, x)"] {
            let kind = op.split(' ').next().unwrap();
            assert_eq!(fires(rule, &model(&format!("e = Expand (w, s) y = {op}"))), kind);
        }
        assert!(misses(rule, &model("e = Expand (w, s) y = Add (e, w)")).contains("smaller"));
        assert!(misses(rule, &model("e = Expand (w, s) y = Add (e, z)")).contains("smaller"));
    }
}
