//! `part-transposes`: a Transpose in front of a product leaves the exchange of the last two axes to the product.
//!
//! ```text
//! k = Transpose <perm = [0, 2, 3, 1]> (x)   s = MatMul (q, k)
//!
//! h = Transpose <perm = [0, 2, 1, 3]> (x)   k = Transpose <perm = [0, 1, 3, 2]> (h)   s = MatMul (q, k)
//! ```
//!
//! ONNX Runtime takes an exchange of the last two axes into the product (`matmul_transpose_fusion.cc`), which costs nothing
//! there; and what is left of the Transpose moves whole rows, for which it has a fast path. Heads of attention are written in
//! both forms by exporters, and `merge-transposes` makes the first of the second. (1.31, AVX-512, keys of 12 heads of 64 and
//! queries of as many rows: with 128 rows 3.6 ns for an element of the queries, in two parts 2.0; one row and 128 keys: 67 and 20.)

use super::{Tailoring, operators};
use crate::pass::{PassCx, PassError};
use squint_ir::{DType, Graph, Model, OpId, OpSpec, ValueTable};
use squint_ops::Fact;
use squint_targets::FloatKernels;

/// The pass.
pub(crate) const PASS: Tailoring = Tailoring { name: "part-transposes", rewrite: part };

fn part(model: &mut Model, cx: &mut PassCx<'_>, _: &FloatKernels) -> Result<bool, PassError> {
    let mut changed = false;
    for op in operators(model, &["Transpose"])? {
        let g = model.main_mut();
        if let Some(rows) = moving_rows(g, op).filter(|_| is_multiplied(g, op, &cx.facts)) {
            put_before(g, op, rows);
            changed = true;
        }
    }
    Ok(changed)
}

/// The permutation that is left when the last two axes are exchanged behind it, if it moves whole rows and does something.
fn moving_rows(g: &Graph, op: OpId) -> Option<Vec<i64>> {
    let mut perm = g.op(op).ints("perm")?.to_vec();
    let n = perm.len();
    if n < 3 || perm[n - 2] != n as i64 - 1 {
        return None;
    }
    perm.swap(n - 2, n - 1);
    let changes = perm.iter().zip(0..).any(|(p, i)| *p != i);
    changes.then_some(perm)
}

/// True if only products of floats read the result.
fn is_multiplied(g: &Graph, op: OpId, facts: &ValueTable<Fact>) -> bool {
    let Some(y) = g.result(op, 0).filter(|y| !g.is_output(*y)) else { return false };
    let uses = g.uses(y);
    let float = facts.get(y).and_then(|f| f.dtype) == Some(DType::Float);
    float && !uses.is_empty() && uses.iter().all(|u| g.op(u.op).is("MatMul") && !u.capture)
}

fn put_before(g: &mut Graph, op: OpId, rows: Vec<i64>) {
    let Some(x) = g.operand(op, 0) else { return };
    let n = rows.len() as i64;
    let origin = format!("part-transposes({})", g.label(op));
    let name = format!("{}_rows", g.value(x).name());
    let spec = OpSpec::new("Transpose").attr("perm", rows).operands([x]).near(op).origin(origin.clone());
    let moved = g.emit(spec, &name, None);
    let exchange: Vec<i64> = (0..n - 2).chain([n - 1, n - 2]).collect();
    let node = g.op_mut(op);
    node.set_attr("perm", exchange);
    node.origin.push(origin);
    g.set_operand(op, 0, Some(moved));
}

#[cfg(test)]
mod tests {
    use super::super::testing::tailored;
    use super::*;
    use crate::fuse::testing::{ops, outputs};

    fn run(target: &str, body: &str) -> String {
        let (before, after) = tailored(
            &PASS,
            target,
            &format!(
                "<ir_version: 8, opset_import: [\"\" : 17]> m (float[2,5,3,4] x, float[2,3,6,4] q) => (float[] y) {{ {body} }}"
            ),
        );
        let [(_, p), (_, q)] = [&outputs(&before)[0], &outputs(&after)[0]];
        assert_eq!((p.dims(), p.to_f64s()), (q.dims(), q.to_f64s()), "{body}");
        ops(&after)
    }

    #[test]
    fn keys_are_moved_in_rows() {
        let body = "k = Transpose <perm = [0, 2, 3, 1]> (x) y = MatMul (q, k)";
        assert_eq!(run("cpu-vnni", body), "Transpose Transpose MatMul");
    }

    #[test]
    fn others_stay() {
        for (target, body, expected) in [
            (
                "cpu-vnni",
                "k = Transpose <perm = [0, 2, 1, 3]> (x) e = Relu (k) y = Exp (e)",
                "Transpose Relu Exp",
            ),
            ("cpu-vnni", "k = Transpose <perm = [0, 1, 3, 2]> (q) y = MatMul (q, k)", "Transpose MatMul"),
            ("cpu-vnni", "k = Transpose <perm = [0, 2, 3, 1]> (x) y = Relu (k)", "Transpose Relu"),
            ("tensorrt", "k = Transpose <perm = [0, 2, 3, 1]> (x) y = MatMul (q, k)", "Transpose MatMul"),
        ] {
            assert_eq!(run(target, body), expected, "{body}");
        }
    }
}
