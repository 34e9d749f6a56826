//! Reductions of reductions, and those that are pools.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{Graph, OpSpec, Tensor, ValueId};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// Reducing some axes and then others is reducing all of them. (Means are over equally many elements each.)
    "merge-reductions":
        "m = ReduceMean (x, a!?); y = ReduceMean (m, b!?)",
        "m = ReduceSum (x, a!?); y = ReduceSum (m, b!?)",
        "m = ReduceMax (x, a!?); y = ReduceMax (m, b!?)",
        "m = ReduceMin (x, a!?); y = ReduceMin (m, b!?)"
        => "y = ReduceMean|ReduceSum|ReduceMax|ReduceMin (x, c')", merge_reductions;

    /// The mean over all pixels of each channel is GlobalAveragePool, for which runtimes have integer kernels and which
    /// keeps the layout of convolutions. Means of normalisations stay what they are known by.
    "mean-to-pool":
        "y = ReduceMean (x, a!?)"
        => "p = GlobalAveragePool (x); y = Flatten (p)", mean_to_pool;
};

fn merge_reductions(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let rank = rw.fact("x").rank().ok_or("the rank is unknown")?;
    let keeps = |op: &str| rw.op(op).int("keepdims").unwrap_or(1) != 0;
    let keep = keeps("m");
    if keep != keeps("y") {
        return Err("only one of them keeps its axes".into());
    }
    let first = axes(rw, "m", "a", rank)?;
    let left: Vec<usize> = (0..rank).filter(|i| keep || !first.contains(i)).collect();
    let mut all = first;
    for i in axes(rw, "y", "b", left.len())? {
        all.push(left[i]);
    }
    all.sort_unstable();
    all.dedup();
    let all: Vec<i64> = all.into_iter().map(|i| i as i64).collect();
    let mut op = rw.op("y").clone();
    let mut operands = vec![rw.v("x")];
    // Axes became an operand, of ReduceSum earlier than of the others.
    if rw.has("b") {
        operands.push(rw.add_const("b", Tensor::from_i64(&[all.len()], &all)));
    } else {
        op.set_attr("axes", all);
    }
    rw.replace_root(OpSpec::from_op(op).operands(operands));
    Ok(())
}

fn mean_to_pool(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    rw.expect_float("x")?;
    let rank = rw.fact("x").rank().ok_or("the rank is unknown")?;
    let mut reduced = axes(rw, "y", "a", rank)?;
    reduced.sort_unstable();
    // The last of three axes may be features as well as a sequence.
    if rank < 4 || !reduced.into_iter().eq(2..rank) {
        return Err("it is not the mean over all pixels of each channel".into());
    }
    let (x, y) = (rw.v("x"), rw.v("y"));
    if is_square(rw.g(), x) || is_subtracted(rw.g(), x, y) {
        return Err("it is part of a normalisation".into());
    }
    let keeps = rw.op("y").int("keepdims").unwrap_or(1) != 0;
    let pool = OpSpec::new("GlobalAveragePool").operands([x]);
    let name = rw.op("y").name.clone();
    if keeps {
        rw.replace_root(pool.name(name));
    } else {
        let p = rw.emit(pool, "pool");
        rw.replace_root(OpSpec::new("Flatten").name(name).attr("axis", 1).operands([p]));
    }
    Ok(())
}

/// The axes, attributes or (of this variable) an operand, that a reduction takes of this many.
fn axes(rw: &Rewrite<'_, '_>, op: &str, k: &str, rank: usize) -> Result<Vec<usize>, Miss> {
    let axes = match rw.op(op).ints("axes") {
        Some(axes) => axes.to_vec(),
        None if rw.has(k) => rw.konst(k)?.to_i64s().ok_or("axes that are no integers")?,
        None => return Err("it reduces all axes".into()),
    };
    let axes: Option<Vec<usize>> = axes.iter().map(|a| resolve_axis(*a, rank)).collect();
    axes.filter(|a| !a.is_empty()).ok_or_else(|| "an axis does not exist".into())
}

/// True for what is multiplied by itself or raised to a power.
fn is_square(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|(op, _)| {
        g.op(op).is("Pow") || (g.op(op).is("Mul") && g.operand(op, 0) == g.operand(op, 1))
    })
}

/// True if a mean is subtracted from what it is the mean of.
fn is_subtracted(g: &Graph, x: ValueId, mean: ValueId) -> bool {
    g.uses(mean).iter().any(|u| g.op(u.op).is("Sub") && u.slot == 1 && g.operand(u.op, 0) == Some(x))
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3,4,5] x) => (float[] y) \
             <int64[1] last = {{-1}}, int64[1] one = {{1}}, int64[2] pixels = {{2, 3}}> {{ {body} }}"
        )
    }

    #[test]
    fn axes_are_reduced_together() {
        let rule = "merge-reductions";
        for body in [
            "m = ReduceMean <axes = [3]> (x) y = ReduceMean <axes = [2]> (m)",
            "m = ReduceMax <axes = [1], keepdims = 0> (x) y = ReduceMax <axes = [1], keepdims = 0> (m)",
            "m = ReduceSum (x, last) y = ReduceSum (m, one)",
        ] {
            let kind = if body.contains("Mean") {
                "ReduceMean"
            } else if body.contains("Max") {
                "ReduceMax"
            } else {
                "ReduceSum"
            };
            assert_eq!(fires(rule, &model(body)), kind, "{body}");
        }
        let body = "m = ReduceMean <axes = [3]> (x) y = ReduceMean <axes = [2], keepdims = 0> (m)";
        assert!(misses(rule, &model(body)).contains("keeps"));
    }

    #[test]
    fn means_over_pixels_are_pools() {
        let (rule, pixels) = ("mean-to-pool", "axes = [-1, 2]");
        let body = format!("y = ReduceMean <{pixels}> (x)");
        assert_eq!(fires(rule, &model(&body)), "GlobalAveragePool");
        let body = format!("y = ReduceMean <{pixels}, keepdims = 0> (x)");
        assert_eq!(fires(rule, &model(&body)), "GlobalAveragePool Flatten");
        let operand = model("y = ReduceMean (x, pixels)").replace(": 15", ": 18");
        assert_eq!(fires(rule, &operand), "GlobalAveragePool");
    }

    #[test]
    fn other_means_are_none() {
        let rule = "mean-to-pool";
        for axes in ["[3]", "[1, 2]", "[1, 2, 3]"] {
            let body = format!("y = ReduceMean <axes = {axes}> (x)");
            assert!(misses(rule, &model(&body)).contains("all pixels"));
        }
        let features = model("y = ReduceMean <axes = [2]> (x)").replace("[2,3,4,5]", "[2,3,4]");
        assert!(misses(rule, &features).contains("all pixels"));
        for body in [
            "m = ReduceMean <axes = [2, 3]> (x) y = Sub (x, m)",
            "s = Mul (x, x) y = ReduceMean <axes = [2, 3]> (s)",
        ] {
            assert!(misses(rule, &model(body)).contains("normalisation"), "{body}");
        }
    }
}
