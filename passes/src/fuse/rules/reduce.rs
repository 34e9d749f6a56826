//! Reductions of reductions.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{OpSpec, Tensor};
use squint_ops::kernel::resolve_axis;

pub(super) const RULES: &[Rule] = rules! {
    /// Reducing some axes and then others is reducing all of them. (Means are over equally many elements each.)
    "merge-reductions":
        "m = ReduceMean (x, a!?); y = ReduceMean (m, b!?)",
        "m = ReduceSum (x, a!?); y = ReduceSum (m, b!?)",
        "m = ReduceMax (x, a!?); y = ReduceMax (m, b!?)",
        "m = ReduceMin (x, a!?); y = ReduceMin (m, b!?)"
        => "y = ReduceMean|ReduceSum|ReduceMax|ReduceMin (x, c')", merge_reductions;
};

fn merge_reductions(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    let rank = rw.fact("x").rank().ok_or("the rank is unknown")?;
    let keeps = |op: &str| rw.op(op).int("keepdims").unwrap_or(1) != 0;
    let keep = keeps("m");
    if keep != keeps("y") {
        return Err("only one of them keeps its axes".into());
    }
    let axes = |op: &str, k: &str, rank: usize| -> Result<Vec<usize>, Miss> {
        let axes = match rw.op(op).ints("axes") {
            Some(axes) => axes.to_vec(),
            None if rw.has(k) => rw.konst(k)?.to_i64s().ok_or("axes that are no integers")?,
            None => return Err("it reduces all axes".into()),
        };
        let axes: Option<Vec<usize>> = axes.iter().map(|a| resolve_axis(*a, rank)).collect();
        axes.filter(|a| !a.is_empty()).ok_or_else(|| "an axis does not exist".into())
    };
    let first = axes("m", "a", rank)?;
    let left: Vec<usize> = (0..rank).filter(|i| keep || !first.contains(i)).collect();
    let mut all = first;
    for i in axes("y", "b", left.len())? {
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

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,3,4,5] x) => (float[] y) \
             <int64[1] last = {{-1}}, int64[1] one = {{1}}> {{ {body} }}"
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
}
