//! MatMul and Add become Gemm (`matmul_add_fusion.cc`).
//!
//! This is what keeps a quantized MatMul with a bias but without a quantized result in float: there is a kernel that
//! leaves the product of integer matrices in float, but none that adds a float bias in a Gemm.

use super::sim::{Gone, Sim};
use squint_ir::{DType, Dim, OpId, OpSpec, Shape, Tensor, ValueId};
use squint_ops::Fact;

/// Rewrites every MatMul that only an Add reads.
pub(super) fn join(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if sim.g.has_op(op) && sim.g.op(op).is("MatMul") {
            changed |= rewrite(sim, op).is_some();
        }
    }
    changed
}

fn rewrite(sim: &mut Sim, op: OpId) -> Option<()> {
    let add = sim.only_edge(op).filter(|u| sim.g.op(u.op).is("Add"))?;
    let (a, b) = (sim.g.operand(op, 0)?, sim.g.operand(op, 1)?);
    let bias = sim.g.operand(add.op, 1 - add.slot.min(1))?;
    if !sim.dtype(a)?.is_float() || sim.dtype(a) == Some(DType::Double) || sim.dtype(bias) != sim.dtype(a) {
        return None;
    }
    let (sa, sb, sc) = (sim.fact(a).shape?, sim.fact(b).shape?, sim.fact(bias).shape?);
    let [k, n] = sb.as_slice() else { return None };
    let stacked = sa.len() != 2;
    if stacked {
        let known = sa.iter().chain([k, n]).all(|d| d.known().is_some());
        if !known || behind_attention(sim, a) || is_attention(sim, a, add.op) {
            return None;
        }
    }
    if !bias_fits(&sa, n, &sc, stacked) {
        return None;
    }
    let out = sim.result(add.op)?;
    let label = sim.g.label(op);
    let dtype = sim.dtype(a);
    sim.remove(add.op, Gone::Into(op));
    sim.g.op_mut(op).op_type = "Gemm".into();
    sim.g.set_operand(op, 2, Some(bias));
    if !stacked {
        sim.g.set_result(op, 0, Some(out));
        return Some(());
    }
    let rows: u64 = sa[..sa.len() - 1].iter().filter_map(Dim::known).product();
    let flat = |last: &Dim| Fact::new(dtype, Some(vec![Dim::Known(rows), last.clone()]));
    let matrix = sim.add_value(&format!("{label}_matrix"), flat(k));
    let product = sim.add_value(&format!("{label}_product"), flat(n));
    let mut shape: Shape = sa.clone();
    *shape.last_mut()? = n.clone();
    let lengths = |dims: &[Dim]| {
        let lengths: Vec<i64> = dims.iter().filter_map(Dim::known).map(|d| d as i64).collect();
        Tensor::from_i64(&[lengths.len()], &lengths)
    };
    let to = sim.add_const("gemm_input_shape", lengths(&[Dim::Known(rows), k.clone()]));
    let back = sim.add_const("gemm_output_shape", lengths(&shape));
    sim.add_op(OpSpec::new("Reshape").near(op).operands([a, to]).results([matrix]), None);
    sim.g.set_operand(op, 0, Some(matrix));
    sim.g.set_result(op, 0, Some(product));
    sim.add_op(OpSpec::new("Reshape").near(op).operands([product, back]).results([out]), None);
    Some(())
}

/// Gemm broadcasts its bias in one direction only.
fn bias_fits(a: &Shape, n: &Dim, bias: &Shape, stacked: bool) -> bool {
    let one = |d: &Dim| *d == Dim::Known(1);
    match bias.as_slice() {
        [c] => same_length(c, n),
        [r, c] if !stacked => {
            (one(r) && same_length(c, n)) || (same_length(r, &a[0]) && (one(c) || same_length(c, n)))
        }
        _ => false,
    }
}

/// Lengths that are known to be the same.
fn same_length(a: &Dim, b: &Dim) -> bool {
    *a != Dim::Unknown && a == b
}

/// The projection behind an attention is left for another fusion.
fn behind_attention(sim: &Sim, a: ValueId) -> bool {
    let maker = |v: ValueId, op_type: &str| {
        sim.g.producer(v).map(|(p, _)| p).filter(|p| sim.g.op(*p).op_type == op_type)
    };
    let up = |op: OpId| sim.g.operand(op, 0);
    if maker(a, "Attention").or_else(|| maker(a, "MultiHeadAttention")).is_some() {
        return true;
    }
    let found = || {
        let reshape = maker(a, "Reshape")?;
        let transpose = maker(up(reshape)?, "Transpose")?;
        let product = maker(up(transpose)?, "MatMul")?;
        maker(up(product)?, "Softmax")
    };
    found().is_some()
}

/// The three projections of an attention behind a LayerNormalization, and the one before the residual, are left too.
fn is_attention(sim: &Sim, a: ValueId, add: OpId) -> bool {
    let normalised = |v: ValueId| {
        let (norm, _) = sim.g.producer(v)?;
        if sim.g.op(norm).op_type != "LayerNormalization" {
            return None;
        }
        let edges = sim.edges(norm);
        let count = |t: &str| edges.iter().filter(|u| sim.g.op(u.op).op_type == t).count();
        let fits = count("Add") == 1 && count("MatMul") == 3 && count("Shape") + 4 == edges.len();
        let residual = edges.iter().find(|u| sim.g.op(u.op).op_type == "Add").filter(|_| fits)?;
        let other = sim.g.operand(residual.op, 1 - residual.slot.min(1))?;
        let (p, _) = sim.g.producer(other)?;
        (sim.g.op(p).op_type == "Add").then_some(p)
    };
    if normalised(a).is_some() {
        return true;
    }
    // Is this the Add that a normalised value is added to?
    let Some(sum) = sim.result(add) else { return false };
    sim.g.uses(sum).iter().any(|u| {
        let operands = sim.g.operands(u.op).into_iter().flatten();
        sim.g.op(u.op).op_type == "Add" && operands.into_iter().any(|v| normalised(v) == Some(add))
    })
}
