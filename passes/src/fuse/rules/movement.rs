//! Transposes, merged: with each other, and through what stands between them.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{Graph, Op, OpId, OpSpec, Tensor, ValueId};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// `Transpose(Transpose(x, p), q) = Transpose(x, p∘q)`: axis `i` of the result is axis `p[q[i]]` of `x`.
    "merge-transposes":
        "t& = Transpose (x); y = Transpose (t)"
        => "y = Transpose (x)", merge_transposes;

    /// A Transpose that moves nothing.
    "drop-identity-transpose":
        "y = Transpose (x)"
        => "y = x", drop_identity_transpose;

    /// `[Tu, Tv, …] = T[u, v, …]`: Transposes of one permutation in front of a Concat become one behind it.
    "transpose-behind-concat":
        "y = Concat (u, ..)"
        => "c = Concat (u, ..); y = Transpose (c)", transpose_behind_concat;

    /// `Tu ∘ Tv = T(u ∘ v)` for operators that work element by element.
    "transpose-behind-binary":
        "a = Transpose (u); b = Transpose (v); y = Add|Sub|Mul|Div|Max|Min|Pow (a, b)"
        => "c = Add|Sub|Mul|Div|Max|Min|Pow (u, v); y = Transpose (c)", transpose_behind_binary;

    /// `T₂ f(T₁ x) = (T₂T₁) f'(x)`, where `f` works element by element, cuts or pads; axes and constants of `f'` are
    /// permuted. What frameworks with channels last leave between two of their layers.
    "merge-transposes-through":
        "y = Transpose (c)"
        => "y = Transpose (c)", merge_transposes_through;
};

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
pub(super) fn permutation(op: &Op, rank: Option<usize>) -> Option<Vec<usize>> {
    let Some(perm) = op.ints("perm") else { return rank.map(|r| (0..r).rev().collect()) };
    let mut seen = vec![false; perm.len()];
    perm.iter()
        .map(|p| {
            let p = resolve_axis(*p, perm.len())?;
            (!std::mem::replace(&mut seen[p], true)).then_some(p)
        })
        .collect()
}

fn transpose_behind_concat(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let g = rw.g();
    let id = rw.op_id("y");
    let (mut data, mut transposes, mut perm) = (Vec::new(), Vec::new(), None);
    for v in g.operands(id).into_iter().flatten() {
        let own = g.only_use(v).and_then(|_| g.producer(v)).filter(|(p, _)| g.op(*p).is("Transpose"));
        let (p, _) =
            own.ok_or_else(|| Miss(format!("`{}` is no Transpose of its own", g.value(v).name())))?;
        let other = permutation(g.op(p), None).ok_or("a permutation is not known")?;
        if perm.as_ref().is_some_and(|perm| *perm != other) {
            return Err("the permutations differ".into());
        }
        perm = Some(other);
        data.push(g.operand(p, 0));
        transposes.push(p);
    }
    let perm = perm.filter(|_| data.len() > 1).ok_or("it joins less than two")?;
    let mut op = g.op(id).clone();
    let axis = op.int("axis").and_then(|a| resolve_axis(a, perm.len())).ok_or("the axis does not exist")?;
    op.set_attr("axis", perm[axis] as i64);
    let c = rw.emit(OpSpec::from_op(op).operands(data), "joined");
    replace_by_transpose(rw, c, &perm);
    transposes.into_iter().for_each(|p| rw.g_mut().remove_op_and_results(p));
    Ok(())
}

fn transpose_behind_binary(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let perms = [permutation(rw.op("a"), None), permutation(rw.op("b"), None)];
    let [Some(perm), Some(other)] = perms else { return Err("a permutation is not known".into()) };
    if perm != other {
        return Err("the permutations differ".into());
    }
    let (op, u, v) = (rw.op("y").clone(), rw.v("u"), rw.v("v"));
    // The pattern commutes, but the operator may not.
    let turned = rw.g().operand(rw.op_id("y"), 0) != Some(rw.v("a"));
    let operands = if turned { [v, u] } else { [u, v] };
    let c = rw.emit(OpSpec::from_op(op).operands(operands), "joined");
    replace_by_transpose(rw, c, &perm);
    Ok(())
}

/// Replaces the root by a Transpose of a value.
fn replace_by_transpose(rw: &mut Rewrite<'_, '_>, c: ValueId, perm: &[usize]) {
    let name = format!("{}_transposed", rw.op("y").name);
    let perm: Vec<i64> = perm.iter().map(|i| *i as i64).collect();
    rw.replace_root(OpSpec::new("Transpose").name(name).attr("perm", perm).operands([c]));
}

/// Operators between two Transposes at most.
const MAX_BETWEEN: usize = 8;

fn merge_transposes_through(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let g = rw.g();
    let below = permutation(rw.op("y"), None).ok_or("the permutation is not known")?;
    let (mut v, mut between) = (rw.v("c"), Vec::new());
    let (top, x) = loop {
        let name = || g.value(v).name();
        g.only_use(v).ok_or_else(|| Miss(format!("`{}` is used elsewhere, too", name())))?;
        let (id, _) =
            g.producer(v).ok_or_else(|| Miss(format!("`{}` is made by no operator here", name())))?;
        let operand = g.operand(id, 0).ok_or("an operand is missing")?;
        if g.op(id).is("Transpose") {
            break (id, operand);
        }
        if between.len() == MAX_BETWEEN {
            return Err("the next Transpose is too far away".into());
        }
        let data = passage(g, id)?;
        between.push((id, data, v));
        v = g.operand(id, data).ok_or("an operand is missing")?;
    };
    if between.is_empty() {
        return Err(Miss::nothing_to_do());
    }
    let above = permutation(g.op(top), None).filter(|p| p.len() == below.len());
    let above = above.ok_or("the permutations are not known")?;
    let mut constants = Vec::new();
    for (id, data, _) in &between {
        constants.extend(
            permuted_constants(g, *id, *data, &above, g.op(top))?.into_iter().map(|(slot, t)| (*id, slot, t)),
        );
    }
    let perm: Vec<usize> = below.iter().map(|i| above[*i]).collect();
    let straight = is_identity(&perm);
    if straight && rw.g().is_output(rw.v("y")) && rw.g().is_output(rw.v("c")) {
        return Err("the result is a graph output and needs an operator of its own".into());
    }
    let c = rw.v("c");
    if straight {
        rw.replace_root_by(c)?;
    } else {
        replace_by_transpose(rw, c, &perm);
    }
    for (id, slot, tensor) in constants {
        let g = rw.g_mut();
        let name = g.operand(id, slot).map_or(String::new(), |v| g.value(v).name().to_owned());
        let k = g.add_const(&name, tensor);
        g.set_operand(id, slot, Some(k));
    }
    for (i, (id, data, result)) in between.iter().enumerate() {
        if i + 1 == between.len() {
            rw.g_mut().set_operand(*id, *data, Some(x));
        }
        rw.forget_shape(*result);
        rw.touch(*id);
    }
    rw.g_mut().remove_op_and_results(top);
    Ok(())
}

/// The slot of the data of an operator that a Transpose can pass.
fn passage(g: &Graph, id: OpId) -> Result<u32, Miss> {
    let op = g.op(id);
    let konst = |slot| g.operand(id, slot).is_some_and(|v| g.konst(v).is_some() && !g.is_input(v));
    let passes = op.is_onnx() && g.results(id).len() == 1;
    match op.op_type.as_str() {
        "Relu" | "LeakyRelu" | "Sigmoid" | "Tanh" | "HardSigmoid" | "HardSwish" | "Elu" | "Selu"
        | "Softplus" | "Softsign" | "Gelu" | "Erf" | "Exp" | "Log" | "Sqrt" | "Neg" | "Abs"
        | "Reciprocal" | "Floor" | "Ceil" | "Round" | "Clip" | "Cast" | "Identity" | "Not" | "Sign"
            if passes =>
        {
            Ok(0)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" if passes && konst(1) => Ok(0),
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" if passes && konst(0) && !konst(1) => Ok(1),
        "Slice" if passes && konst(3) => Ok(0),
        "Pad" if passes && konst(1) && g.operand(id, 3).is_none() => Ok(0),
        _ => Err(format!("{} `{}` stands between", op.op_type, g.label(id)).into()),
    }
}

/// Constant operands of an operator of data `T x`, as they are for the data `x`.
fn permuted_constants(
    g: &Graph,
    id: OpId,
    data: u32,
    perm: &[usize],
    like: &Op,
) -> Result<Vec<(u32, Tensor)>, Miss> {
    let op = g.op(id);
    let konst = |slot: u32| {
        let t = g.operand(id, slot).and_then(|v| g.konst(v));
        t.ok_or_else(|| Miss::from("an operand is not constant"))
    };
    match op.op_type.as_str() {
        "Slice" => {
            let axes = konst(3)?.to_i64s().ok_or("axes that are no integers")?;
            let moved = axes.iter().map(|a| Some(perm[resolve_axis(*a, perm.len())?] as i64));
            let moved: Option<Vec<i64>> = moved.collect();
            let moved = moved.ok_or("an axis does not exist")?;
            Ok(vec![(3, Tensor::from_i64(&[moved.len()], &moved))])
        }
        "Pad" => {
            let (pads, n) = (konst(1)?.to_i64s().ok_or("`pads` are no integers")?, perm.len());
            if pads.len() != 2 * n {
                return Err("`pads` do not fit the rank".into());
            }
            let mut moved = vec![0; 2 * n];
            for (i, p) in perm.iter().enumerate() {
                (moved[*p], moved[n + p]) = (pads[i], pads[n + i]);
            }
            Ok(vec![(1, Tensor::from_i64(&[2 * n], &moved))])
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" => {
            let slot = 1 - data;
            let t = konst(slot)?;
            let lead = perm.len().checked_sub(t.rank()).ok_or("a constant has more axes than the data")?;
            if t.len() == 1 {
                return Ok(Vec::new());
            }
            let dims: Vec<usize> = std::iter::repeat_n(1, lead).chain(t.dims().iter().copied()).collect();
            let mut back = vec![0i64; perm.len()];
            for (i, p) in perm.iter().enumerate() {
                back[*p] = i as i64;
            }
            let full = t.reshaped(&dims).map_err(|e| Miss(e.to_string()))?;
            Ok(vec![(slot, transposed(&full, like, back)?)])
        }
        _ => Ok(Vec::new()),
    }
}

/// A constant transposed as by the Transpose `like`, but with another permutation.
fn transposed(t: &Tensor, like: &Op, perm: Vec<i64>) -> Result<Tensor, Miss> {
    let mut op = like.clone();
    op.set_attr("perm", perm);
    let eval = squint_ops::row("", "Transpose").and_then(|r| r.eval).ok_or("Transpose has no kernel")?;
    let cx = squint_ops::EvalCx { op: &op, opset: 13, inputs: &[Some(t)], n_results: 1 };
    let results = eval(&cx).map_err(|e| Miss(e.to_string()))?;
    results.into_iter().next().ok_or_else(|| "Transpose has no result".into())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{apply, fires, misses};

    fn model(input: &str, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float{input} x0) => (float[] y) \
             <int64[2] flat = {{-1, 6}}, int64[2] copy = {{0, -1}}, int64[3] deep = {{2, 3, 2}}, int64[1] a0 = {{0}}, \
             int64[1] a1 = {{1}}, int64[1] last = {{-1}}, int64[1] big = {{99}}, float[2] k = {{2, 3}}, \
             int64[8] pads = {{0, 1, 0, 0, 0, 0, 2, 0}}> {{ x = Exp (x0) {body} }}"
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
    fn one_transpose_behind_what_joins() {
        let t = "t = Transpose <perm = [0,2,1]> (x) s0 = Neg (x) s = Transpose <perm = [0,2,1]> (s0)";
        let body = format!("{t} y = Concat <axis = -1> (s, t)");
        let rule = "transpose-behind-concat";
        assert_eq!(fires(rule, &model("[2,3,4]", &body)), "Exp Neg Concat Transpose");
        let body = format!("{t} y = Sub (s, t)");
        assert_eq!(fires("transpose-behind-binary", &model("[2,3,4]", &body)), "Exp Neg Sub Transpose");
        let body =
            body.replace("[0,2,1]> (s0)", "[1,2,0]> (s0)").replace("Sub (s, t)", "Concat <axis = 0> (s, t)");
        assert!(misses(rule, &model("[2,2,2]", &body)).contains("differ"));
    }

    #[test]
    fn transposes_meet_through_other_operators() {
        let rule = "merge-transposes-through";
        let body = "t = Transpose <perm = [0,2,3,1]> (x) a = Add (t, k) b = Mul (k, a) c = Pad (b, pads) \
                    d = Slice (c, a1, big, last) e = Sigmoid (d) f = Transpose <perm = [0,3,1,2]> (e) y = Neg (f)";
        assert_eq!(fires(rule, &model("[1,2,3,4]", body)), "Exp Add Mul Pad Slice Sigmoid Neg");
        let other = body.replace("[0,3,1,2]", "[0,2,1,3]");
        assert_eq!(fires(rule, &model("[1,2,3,4]", &other)), "Exp Add Mul Pad Slice Sigmoid Transpose Neg");
        let shared = body.replace("Neg (f)", "Softmax (f)").replace("e = Sigmoid (d)", "e = Softmax (d)");
        assert!(misses(rule, &model("[1,2,3,4]", &shared)).contains("stands between"));
    }
}
