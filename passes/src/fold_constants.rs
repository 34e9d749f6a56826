//! `fold-constants`: computes operators whose operands are all constant, and shape arithmetic.
//!
//! Three rules, in one walk in execution order: an operator on constants becomes its results; a value
//! whose contents inference knows completely (a `Shape` of a static tensor, and what is computed from it)
//! becomes a constant; and the target shape of a `Reshape` becomes a constant where its symbolic lengths can be
//! written as −1 or as copies of lengths of the operand. Results above the configured size are left to the runtime: folding must
//! not blow a model up.

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::shapes::reshape_target;
use squint_ir::{DType, Dim, Model, OpId, Tensor, ValueId};
use squint_ops::{EvalCx, Fact};
use std::sync::Arc;

/// The pass.
pub(crate) struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        InferTypes.run(model, cx)?;
        let mut changed = false;
        for op in model.main().topo().map_err(|c| PassError::Model(c.to_string()))? {
            changed |= fold(model, cx, op) || fold_known(model, cx, op) || fold_reshape(model, cx, op);
        }
        Ok(changed.into())
    }
}

/// Replaces an operator on constants by its results.
fn fold(model: &mut Model, cx: &mut PassCx<'_>, id: OpId) -> bool {
    let g = model.main();
    let op = g.op(id);
    let Some(eval) = squint_ops::row(&op.domain, &op.op_type).and_then(|r| r.eval) else { return false };
    let operands = g.operands(id);
    let inputs: Option<Vec<Option<&Tensor>>> = operands
        .iter()
        .map(|v| {
            v.map_or(Some(None), |v| if g.is_input(v) { None } else { g.konst(v).map(|t| Some(t.as_ref())) })
        })
        .collect();
    let Some(inputs) = inputs else { return false };
    let results = g.results(id);
    let small = results
        .iter()
        .flatten()
        .all(|v| elements(&cx.fact(model, *v)).is_none_or(|n| n <= cx.config.fold_limit));
    if !small || results.iter().flatten().any(|v| g.is_output(*v)) {
        return false;
    }
    // A quantized weight stays quantized: its DequantizeLinear is what the runtime fuses.
    if matches!(op.op_type.as_str(), "DequantizeLinear" | "QuantizeLinear") {
        return false;
    }
    let opset = model.opset(&op.domain).unwrap_or(1);
    let site = EvalCx { op, opset, inputs: &inputs, n_results: results.len() };
    let Ok(tensors) = eval(&site) else { return false };
    if let Some(frozen) = &mut cx.frozen {
        frozen.fold(g, id, &site);
    }
    if tensors.len() < results.len() || tensors.iter().any(|t| t.len() > cx.config.fold_limit) {
        return false;
    }
    for (v, t) in results.into_iter().zip(tensors) {
        if let Some(v) = v {
            set(model, cx, v, t);
        }
    }
    model.main_mut().remove_op(id);
    true
}

/// Replaces an operator whose single result is known completely.
fn fold_known(model: &mut Model, cx: &mut PassCx<'_>, id: OpId) -> bool {
    let g = model.main();
    if !g.has_op(id) {
        return false;
    }
    let results: Vec<ValueId> = g.results(id).into_iter().flatten().collect();
    let &[v] = results.as_slice() else { return false };
    if g.is_output(v) || g.op(id).bodies().next().is_some() {
        return false;
    }
    let fact = cx.fact(model, v);
    let (Some(rank), Some(lengths), Some(dtype)) = (fact.rank(), &fact.dims, fact.dtype) else {
        return false;
    };
    let known: Option<Vec<i64>> =
        lengths.iter().map(|d| d.known().and_then(|n| i64::try_from(n).ok())).collect();
    let Some(known) = known else { return false };
    let Some(t) = integers(dtype, rank, &known) else { return false };
    set(model, cx, v, t);
    model.main_mut().remove_op(id);
    true
}

/// Makes the target shape of a Reshape constant where −1 and copies can say its symbolic lengths.
fn fold_reshape(model: &mut Model, cx: &mut PassCx<'_>, id: OpId) -> bool {
    let g = model.main();
    if !g.has_op(id) || !g.op(id).is("Reshape") || g.op(id).int("allowzero").unwrap_or(0) != 0 {
        return false;
    }
    let Some(shape) = g.operand(id, 1) else { return false };
    if g.konst(shape).is_some() {
        return false;
    }
    let result = g.result(id, 0).map(|v| cx.fact(model, v)).unwrap_or_default();
    // What is written (where −1 reads as unknown and 0 means "as the operand"), and what comes of it.
    let written = cx.fact(model, shape).dims;
    let wanted = match (result.shape, written) {
        (Some(r), Some(w)) if r.len() == w.len() => {
            let better = |(r, w): (Dim, Dim)| match r.known() {
                None if w.known().is_some() || r == Dim::Unknown => w,
                _ => r,
            };
            r.into_iter().zip(w).map(better).collect::<Vec<_>>()
        }
        (Some(r), _) => r,
        (None, Some(w)) => w,
        (None, None) => return false,
    };
    let operand = g.operand(id, 0).and_then(|x| cx.fact(model, x).shape);
    let Some(lengths) = reshape_target(operand.as_ref(), &wanted) else { return false };
    let name = format!("{}_folded", g.value(shape).name());
    let g = model.main_mut();
    let v = g.add_const(&name, Tensor::from_i64(&[lengths.len()], &lengths));
    g.set_operand(id, 1, Some(v));
    true
}

fn set(model: &mut Model, cx: &mut PassCx<'_>, v: ValueId, t: Tensor) {
    let t = Arc::new(t);
    cx.facts.insert(v, Fact::constant(t.clone()));
    let g = model.main_mut();
    g.set_type(v, Fact::constant(t.clone()).to_type());
    g.set_const(v, Some(t));
}

fn integers(dtype: DType, rank: usize, values: &[i64]) -> Option<Tensor> {
    let dims = [values.len()];
    let dims = match rank {
        0 if values.len() == 1 => &[][..],
        1 => &dims[..],
        _ => return None,
    };
    match dtype {
        DType::Int64 => Some(Tensor::from_i64(dims, values)),
        DType::Int32 => {
            let v: Option<Vec<i32>> = values.iter().map(|x| i32::try_from(*x).ok()).collect();
            Some(Tensor::from_i32(dims, &v?))
        }
        _ => None,
    }
}

fn elements(f: &Fact) -> Option<usize> {
    f.shape.as_ref()?.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(d.known()?).ok()?))
}
