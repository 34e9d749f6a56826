//! `lower-qoperator`: operators between DequantizeLinear and QuantizeLinear become operators on integers.
//!
//! ```text
//! x_f = DequantizeLinear (x, xs, xz)    w_f = DequantizeLinear <axis = 0> (w, ws, wz)
//! c = Conv (x_f, w_f, b_f)   r = Relu (c)   y = QuantizeLinear (r, ys, yz)                  yz the lowest level
//!
//! y = QLinearConv (x, xs, xz, w, ws, wz, ys, yz, b)
//! ```
//!
//! The reverse of [`raise_qoperator`](crate::raise_qoperator). What the runtime would find when it loads the first form
//! is written out, so the result does not depend on the runtime's level of optimization. Scales, zero points and
//! integers are those of the first form, with one exception: a bias on another grid than that of the accumulator is
//! quantized to that one.
//!
//! An operator is lowered where ONNX Runtime has a kernel for it (`qdq_selectors.cc` of release 1.31 lists them):
//! operands and result 8-bit of one type, parameters constant, and one scale for a whole tensor but for weights. The
//! rest stays as it is. A Relu or Clip before the QuantizeLinear goes where the grid ends at its limits.

mod contraction;
mod elementwise;
mod site;

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::OpPlan;
use site::Site;
use squint_ir::{Model, OpId};
use squint_ops::MICROSOFT;

/// The pass.
pub(crate) struct LowerQoperator;

/// Why an operator stays as it is.
struct Miss(&'static str);

impl From<&'static str> for Miss {
    fn from(why: &'static str) -> Miss {
        Miss(why)
    }
}

/// How one operator is lowered.
struct Lower {
    op_type: &'static str,
    /// Checks everything before it changes anything.
    rewrite: fn(&mut Site<'_>) -> Result<(), Miss>,
}

const fn lower(op_type: &'static str, rewrite: fn(&mut Site<'_>) -> Result<(), Miss>) -> Lower {
    Lower { op_type, rewrite }
}

const FAMILIES: &[&[Lower]] = &[contraction::TABLE, elementwise::TABLE];

impl Pass for LowerQoperator {
    fn name(&self) -> &'static str {
        "lower-qoperator"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let opset = model.onnx_opset();
        let g = model.main_mut();
        let (mut changed, mut microsoft) = (false, false);
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            if !g.has_op(op) || !g.op(op).is_onnx() {
                continue;
            }
            let row = FAMILIES.iter().flat_map(|f| f.iter()).find(|r| r.op_type == g.op(op).op_type);
            let Some(row) = row else { continue };
            match (row.rewrite)(&mut Site::new(g, op, opset)) {
                Ok(()) => {
                    changed = true;
                    microsoft |= g.op(op).domain == MICROSOFT;
                }
                // What reads no integers is not worth a word, nor what is planned to stay in float.
                Err(Miss(why)) if planned(cx, op) && Site::new(g, op, opset).levels(0).is_ok() => {
                    cx.notes.add(g.label(op), format!("stays in float: {why}"));
                }
                Err(_) => {}
            }
        }
        if microsoft && model.opset(MICROSOFT).is_none() {
            model.set_opset(MICROSOFT, 1);
        }
        Ok(changed.into())
    }
}

/// True if the plan wants the operator in integers, or there is no plan.
fn planned(cx: &PassCx<'_>, op: OpId) -> bool {
    match cx.plan.ops.get(op) {
        Some(decision) => matches!(decision, OpPlan::Integer(_)),
        None => cx.plan.report.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_operator() {
        let text = include_str!("../../docs/formats.md");
        for row in FAMILIES.iter().flat_map(|f| f.iter()) {
            assert!(text.contains(row.op_type), "{}", row.op_type);
        }
    }
}
