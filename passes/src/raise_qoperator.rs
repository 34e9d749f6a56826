//! `raise-qoperator`: operators on integers become float operators between DequantizeLinear and QuantizeLinear.
//!
//! ```text
//! y = QLinearConv (x, xs, xz, w, ws, wz, ys, yz, b)
//!
//! x_f = DequantizeLinear (x, xs, xz)
//! w_f = DequantizeLinear <axis = 0> (w, ws, wz)
//! b_f = DequantizeLinear <axis = 0> (b, xs·ws)
//! y_f = Conv (x_f, w_f, b_f)
//! y = QuantizeLinear (y_f, ys, yz)
//! ```
//!
//! Other parts of the compiler, executors and runtimes that know only one of the two forms so see one. Scales and zero
//! points are kept to the bit; a runtime that fuses the raised form executes what the file said. Values of integers
//! keep their names and identities: graph outputs, too.
//!
//! Covered are `QLinear*` of ONNX and of ONNX Runtime (`com.microsoft`), `QGemm`, `MatMulInteger`, `ConvInteger` and
//! their ONNX Runtime forms with float results; and operators that only move integers (MaxPool, Reshape, Concat …)
//! whose grid is known. What is not covered (recurrent layers, attention, scales per row of a stack of matrices) stays
//! as it is, with a note that says why. [`families`](FAMILIES) says which file knows which operator.
//!
//! It assumes what the operators' specifications demand (ONNX `Operators.md`, ONNX Runtime `ContribOperators.md`) and
//! leaves to the verifier what is not a model. Model functions are not looked into: inlining comes first.

mod contraction;
mod elementwise;
mod integer;
mod movement;
mod site;

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::raise_opset;
use site::Site;
use squint_ir::{GraphId, Model, Op};
use squint_ops::MICROSOFT;

/// The pass.
pub(crate) struct RaiseQoperator;

/// Why an operator stays as it is.
struct Miss(String);

impl<T: Into<String>> From<T> for Miss {
    fn from(why: T) -> Miss {
        Miss(why.into())
    }
}

/// How one operator is raised.
struct Raise {
    domain: &'static str,
    op_type: &'static str,
    /// Checks everything before it changes anything.
    rewrite: fn(&mut Site<'_, '_>) -> Result<(), Miss>,
}

const ONNX: &str = "";
const fn raise(
    domain: &'static str,
    op_type: &'static str,
    rewrite: fn(&mut Site<'_, '_>) -> Result<(), Miss>,
) -> Raise {
    Raise { domain, op_type, rewrite }
}

const FAMILIES: &[&[Raise]] = &[contraction::TABLE, elementwise::TABLE, integer::TABLE];

/// The operator set in which DequantizeLinear has an axis.
const PER_AXIS: i64 = 13;

impl Pass for RaiseQoperator {
    fn name(&self) -> &'static str {
        "raise-qoperator"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if !occurs(model) && !holds(model, |op| op.op_type == "QuantizeLinear") {
            return Ok(Changed::No);
        }
        let mut changed = false;
        if occurs(model) && model.onnx_opset() < PER_AXIS {
            raise_opset::raise_to(model, cx, PER_AXIS, "DequantizeLinear along an axis")?;
            changed = true;
        }
        InferTypes.run(model, cx)?;
        let mut work = vec![model.main_id()];
        while let Some(graph) = work.pop() {
            changed |= raise_graph(model, cx, graph)?;
            let g = model.graph(graph);
            work.extend(g.ops().flat_map(|op| g.op(op).bodies().collect::<Vec<_>>()));
        }
        Ok(changed.into())
    }
}

/// True if a graph of the model holds an operator that this pass knows.
pub(crate) fn occurs(model: &Model) -> bool {
    holds(model, |op| row(op).is_some())
}

fn holds(model: &Model, which: impl Fn(&Op) -> bool) -> bool {
    model.graph_ids().any(|id| {
        let g = model.graph(id);
        g.ops().any(|op| which(g.op(op)))
    })
}

fn row(op: &Op) -> Option<&'static Raise> {
    let domain = if op.is_onnx() { ONNX } else { op.domain.as_str() };
    FAMILIES.iter().flat_map(|f| f.iter()).find(|r| r.op_type == op.op_type && r.domain == domain)
}

/// One walk in execution order, so that the grids of operands are known before those of results. Whether anything
/// changed.
fn raise_graph(model: &mut Model, cx: &mut PassCx<'_>, graph: GraphId) -> Result<bool, PassError> {
    let order = model.graph(graph).topo().map_err(|c| PassError::Model(c.to_string()))?;
    let mut known = site::Known::new(model.graph(graph), &order);
    let mut changed = false;
    for op in order {
        if !model.graph(graph).has_op(op) {
            continue;
        }
        if model.graph(graph).result(op, 0).is_none() {
            continue;
        }
        let rewrite = row(model.graph(graph).op(op)).map(|r| r.rewrite);
        let label = model.graph(graph).label(op);
        let mut site = Site::new(model, cx, graph, op, &mut known);
        match rewrite {
            None => changed |= movement::raise(&mut site),
            Some(rewrite) => match rewrite(&mut site) {
                Ok(()) => changed = true,
                Err(Miss(why)) => {
                    let op_type = &model.graph(graph).op(op).op_type;
                    cx.notes.add(label, format!("this {op_type} stays as it is: {why}"));
                }
            },
        }
        known.learn(model.graph(graph), op);
    }
    Ok(changed)
}
