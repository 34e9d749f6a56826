//! `compute-in-float32`: narrower floating-point types become float32 where the target has no kernels for them.
//!
//! ```text
//! m (float16[N,3] x) => (float16[N,3] y)  { y = Relu (x) }
//!
//! m (float16[N,3] x) => (float16[N,3] y)  { a = Cast <to = 1> (x)   b = Relu (a)   y = Cast <to = 10> (b) }
//! ```
//!
//! ONNX Runtime's CPU provider puts such Casts around every single operator itself (`insert_cast_transformer.cc`), so
//! nothing is lost by writing them once, and the operators between can be fused and quantized. Constants keep their
//! values, results keep more bits. The signature of the model stays as it is. An operator that squint does not know
//! may know the narrow type only: it gets Casts of its own.
//!
//! Weights that are not quantized take twice the room.

use crate::infer_types::InferTypes;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use crate::plan::resolve_target;
use squint_ir::retype::Retype;
use squint_ir::{DType, Graph, GraphId, Model, OpId, OpSpec, Tensor, Type, ValueId};
use std::sync::Arc;

/// The pass.
pub(crate) struct ComputeInFloat32;

const WIDENED: Retype = Retype { from: &[DType::Float16, DType::Bfloat16], to: DType::Float };

impl Pass for ComputeInFloat32 {
    fn name(&self) -> &'static str {
        "compute-in-float32"
    }

    fn needs(&self) -> Phase {
        Phase::Canonical
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let target = resolve_target(&cx.config.target)?;
        if WIDENED.from.iter().any(|d| target.computes_in(*d)) {
            return Ok(Changed::No);
        }
        let changed = widen(model, cx)?;
        if changed == Changed::Yes {
            cx.notes.add(
                "",
                format!("16-bit floats are computed in float32, as `{}` does anyway", target.name()),
            );
        }
        Ok(changed)
    }
}

/// Does it for any target: for executors, which compute in float32.
///
/// # Errors
/// If the model is not well-formed.
pub(crate) fn widen(model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
    if !WIDENED.occurs(model) {
        return Ok(Changed::No);
    }
    InferTypes.run(model, cx)?;
    if !computes(model, cx) {
        return Ok(Changed::No);
    }
    let foreign = match foreign_ends(model, cx) {
        Ok(ends) => ends,
        Err(why) => {
            cx.notes.add("", format!("16-bit floats stay as they are, and are not quantized: {why}"));
            return Ok(Changed::No);
        }
    };
    let border = Border::of(model.main());
    for id in model.graph_ids().collect::<Vec<_>>() {
        WIDENED.graph(model.graph_mut(id), known);
    }
    foreign.into_iter().for_each(|end| end.fence(model));
    border.fence(model.main_mut());
    Ok(Changed::Yes)
}

fn known(op: &squint_ir::Op) -> bool {
    squint_ops::row(&op.domain, &op.op_type).is_some()
}

/// True if an operator that squint knows computes with narrow values, besides Casts that lead to float32 and from it.
fn computes(model: &Model, cx: &PassCx<'_>) -> bool {
    model.graph_ids().any(|graph| {
        let g = model.graph(graph);
        let border = |op: OpId| g.op(op).is("Cast") || !known(g.op(op));
        let reads = |v: ValueId| g.uses(v).iter().any(|u| u.capture || !border(u.op));
        let made = |v: ValueId| g.producer(v).is_some_and(|(op, _)| !border(op));
        let narrow = |v: &ValueId| dtype(model, cx, graph, *v).is_some_and(|d| WIDENED.has(d));
        g.values().filter(narrow).any(|v| reads(v) || made(v))
    })
}

/// The element type of a value, also where it is captured from around a body.
fn dtype(model: &Model, cx: &PassCx<'_>, graph: GraphId, v: ValueId) -> Option<DType> {
    if graph == model.main_id() {
        return cx.fact(model, v).dtype;
    }
    let (graph, v) = model.resolve(graph, v);
    model.graph(graph).ty(v).and_then(Type::dtype)
}

/// A place where an operator that squint does not know reads or makes a narrow value.
struct End {
    graph: GraphId,
    op: OpId,
    slot: u32,
    reads: bool,
    dtype: DType,
}

/// All such places; or why they cannot be told.
fn foreign_ends(model: &Model, cx: &PassCx<'_>) -> Result<Vec<End>, String> {
    let mut ends = Vec::new();
    for graph in model.graph_ids() {
        let g = model.graph(graph);
        for op in g.ops().filter(|op| !known(g.op(*op)) && g.op(*op).bodies().next().is_none()) {
            let operands = (0u32..).zip(g.operands(op)).map(|(slot, v)| (slot, v, true));
            let results = (0u32..).zip(g.results(op)).map(|(slot, v)| (slot, v, false));
            for (slot, v, reads) in operands.chain(results) {
                let Some(v) = v else { continue };
                match dtype(model, cx, graph, v) {
                    Some(dtype) if WIDENED.has(dtype) => ends.push(End { graph, op, slot, reads, dtype }),
                    Some(_) => {}
                    None => {
                        let (node, op_type) = (g.label(op), g.op(op).qualified_type());
                        return Err(format!(
                            "the type of `{}` at `{node}` ({op_type}) is unknown",
                            g.value(v).name()
                        ));
                    }
                }
            }
        }
    }
    Ok(ends)
}

impl End {
    /// Puts the operator between Casts.
    fn fence(self, model: &mut Model) {
        let g = model.graph_mut(self.graph);
        let shape = |g: &Graph, v| g.ty(v).and_then(|t| t.shape().cloned());
        if self.reads {
            let Some(v) = g.operand(self.op, self.slot) else { return };
            let ty = Some(Type::tensor(self.dtype, shape(g, v)));
            let name = format!("{}_{}", g.value(v).name(), self.dtype);
            let narrow = g.emit(cast(self.dtype, &name).near(self.op).operands([v]), &name, ty);
            g.set_operand(self.op, self.slot, Some(narrow));
        } else {
            let Some(v) = g.result(self.op, self.slot) else { return };
            let ty = Some(Type::tensor(self.dtype, shape(g, v)));
            let name = format!("{}_{}", g.value(v).name(), self.dtype);
            let narrow = g.add_value(&name, ty);
            g.set_result(self.op, self.slot, Some(narrow));
            g.add_op(cast(DType::Float, &name).near(self.op).operands([narrow]).results([v]));
        }
    }
}

fn cast(to: DType, name: &str) -> OpSpec {
    OpSpec::new("Cast").name(format!("{name}_Cast")).attr("to", i64::from(to.code()))
}

/// Inputs and outputs of narrow types, with their types and, for constant outputs, their contents.
struct Border {
    inputs: Vec<(ValueId, Type)>,
    outputs: Vec<(ValueId, Type, Option<Arc<Tensor>>)>,
}

impl Border {
    fn of(g: &Graph) -> Border {
        let narrow = |v: ValueId| g.ty(v).filter(|t| t.dtype().is_some_and(|d| WIDENED.has(d))).cloned();
        let mut outputs: Vec<(ValueId, Type, Option<Arc<Tensor>>)> = Vec::new();
        for v in &g.outputs {
            if let Some(ty) = narrow(*v)
                && !g.is_input(*v)
                && outputs.iter().all(|(o, ..)| o != v)
            {
                outputs.push((*v, ty, g.konst(*v).cloned()));
            }
        }
        Border { inputs: g.inputs.iter().filter_map(|v| Some((*v, narrow(*v)?))).collect(), outputs }
    }

    /// Gives inputs and outputs their types back, with Casts behind and before them.
    fn fence(self, g: &mut Graph) {
        for (x, ty) in self.inputs {
            let wide = widened(g, x, &ty);
            g.redirect_uses(x, wide, |_| true);
            let name = g.value(x).name().to_owned();
            g.set_type(x, Some(ty));
            g.add_op(cast(DType::Float, &name).operands([x]).results([wide]));
        }
        for (y, ty, konst) in self.outputs {
            let wide = widened(g, y, &ty);
            g.redirect_uses(y, wide, |_| true);
            let (name, dtype) = (g.value(y).name().to_owned(), ty.dtype());
            match (g.producer(y), konst, dtype) {
                (Some((op, slot)), _, Some(dtype)) => {
                    g.set_result(op, slot, Some(wide));
                    g.add_op(cast(dtype, &name).operands([wide]).results([y]));
                }
                (None, Some(konst), _) => {
                    let wider = g.konst(y).cloned();
                    g.set_const(wide, wider);
                    g.set_const(y, Some(konst));
                }
                _ => {}
            }
            g.set_type(y, Some(ty));
        }
    }
}

fn widened(g: &mut Graph, v: ValueId, ty: &Type) -> ValueId {
    let name = format!("{}_float32", g.value(v).name());
    g.add_value(&name, Some(Type::tensor(DType::Float, ty.shape().cloned())))
}
