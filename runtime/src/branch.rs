//! `If`, in place of tract's own.
//!
//! tract insists that both branches fit the shapes of the inputs. Exported models often have a branch that
//! cannot: `If(rank or size is ..) Squeeze else Identity`, or one network for each sampling rate. Here a
//! branch counts only if it can be taken: the condition, where shapes settle it, decides; where it depends
//! on data, a branch that does not fit the shapes is left out, and choosing it is an error when it happens.
//! (tract also gives every `If` the same node name, so that it accepts one in a graph, and takes a constant
//! result of the first branch for the result of both.)

use std::fmt;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::InferenceModelExt;
use tract_onnx::tract_hir::ops::konst::Const;

/// Builds the operator; the names returned are those that the bodies use from outside.
pub(crate) fn build(
    ctx: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let mut captured: Vec<String> = vec![];
    let mut parse = |attribute| {
        let parsed = ctx.parse_graph(node.get_attr::<&GraphProto>(attribute)?)?;
        let mut inputs = vec![];
        for name in parsed.unresolved_inputs {
            let known = captured.iter().position(|n| *n == name);
            inputs.push(1 + known.unwrap_or(captured.len()));
            if known.is_none() {
                captured.push(name);
            }
        }
        TractResult::Ok(Body { model: parsed.model, inputs })
    };
    let bodies = [Some(parse("then_branch")?), Some(parse("else_branch")?)];
    Ok((Box::new(Branches { bodies }), captured))
}

/// A branch before typing.
#[derive(Clone, Debug)]
struct Body {
    model: InferenceModel,
    /// For each input of the body, the operand of the operator that it is; operand 0 is the condition.
    inputs: Vec<usize>,
}

impl Body {
    /// Exchanges what is known about operands and results; true if something was learnt. If the other
    /// branch may be taken too, nothing is said about values.
    fn infer(
        &mut self,
        operands: &mut [InferenceFact],
        results: &mut [InferenceFact],
        alone: bool,
    ) -> TractResult<bool> {
        let mut learnt = false;
        for (i, operand) in self.inputs.iter().enumerate() {
            learnt |= self.model.input_fact_mut(i)?.unify_with_mut(&mut operands[*operand])?;
        }
        learnt |= self.model.analyse(false)?;
        for (i, result) in results.iter_mut().enumerate() {
            let inner = self.model.output_fact_mut(i)?;
            learnt |= if alone {
                inner.unify_with_mut(result)?
            } else {
                let shape = inner.shape.unify_with_mut(&mut result.shape)?;
                inner.datum_type.unify_with_mut(&mut result.datum_type)? | shape
            };
        }
        Ok(learnt)
    }

    fn into_plan(mut self) -> TractResult<Arc<TypedSimplePlan>> {
        // Captured constants, weights among them, are constants of the body.
        for outlet in self.model.inputs.clone() {
            if let Some(value) = self.model.outlet_fact(outlet)?.value.concretize() {
                self.model.node_mut(outlet.node).op = Box::new(Const::new(value)?);
            }
        }
        let is_const = |o: &OutletId| self.model.node(o.node).op_is::<Const>();
        self.model.inputs = self.model.inputs.iter().copied().filter(|o| !is_const(o)).collect();
        self.model.into_typed()?.into_optimized()?.into_runnable()
    }

    /// Operands that stay inputs of the plan.
    fn variable_inputs(&self) -> TractResult<Vec<usize>> {
        let mut variable = vec![];
        for (i, operand) in self.inputs.iter().enumerate() {
            if !self.model.input_fact(i)?.value.is_concrete() {
                variable.push(*operand);
            }
        }
        Ok(variable)
    }
}

/// The operator before typing: the branches, first `then_branch`, that may be taken.
#[derive(Clone, Debug)]
struct Branches {
    bodies: [Option<Body>; 2],
}

impl PartialEq for Branches {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Branches {}

impl Op for Branches {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for Branches {
    not_out_of_plan!();
}

impl InferenceOp for Branches {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let mut operands: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut results: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        operands[0].datum_type.unify_with(&bool::datum_type().into())?;
        if let Some(condition) = operands[0].value.concretize() {
            let taken = condition.cast_to_scalar::<bool>()?;
            self.bodies[usize::from(taken)] = None;
        } else {
            self.drop_misfit(&operands, &results)?;
        }
        let alone = self.bodies.iter().flatten().count() == 1;
        let mut learnt = true;
        while learnt {
            learnt = false;
            for body in self.bodies.iter_mut().flatten() {
                learnt |= body.infer(&mut operands, &mut results, alone)?;
            }
        }
        Ok((operands, results, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.bodies.iter().flatten().next().map_or(0, |body| body.model.outputs.len()))
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &tract_onnx::tract_hir::infer::InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let operands: TVec<OutletId> = node.inputs.iter().map(|o| mapping[o]).collect();
        let mut branches = [None, None];
        for (branch, body) in branches.iter_mut().zip(&self.bodies) {
            if let Some(body) = body {
                *branch = Some((body.variable_inputs()?, body.clone().into_plan()?));
            }
        }
        target.wire_node(&node.name, Branch { branches }, &operands)
    }

    as_op!();
}

impl Branches {
    /// If just one branch does not fit what is known, leaves it out.
    fn drop_misfit(&mut self, operands: &[InferenceFact], results: &[InferenceFact]) -> TractResult<()> {
        let [Some(then), Some(otherwise)] = &self.bodies else { return Ok(()) };
        let fits = |body: &Body| {
            let (mut operands, mut results) = (operands.to_vec(), results.to_vec());
            body.clone().infer(&mut operands, &mut results, true).map(|_| ())
        };
        match (fits(then), fits(otherwise)) {
            (Err(e), Err(_)) => return Err(e),
            (Err(_), Ok(())) => self.bodies[0] = None,
            (Ok(()), Err(_)) => self.bodies[1] = None,
            (Ok(()), Ok(())) => (),
        }
        Ok(())
    }
}

/// The operator after typing: for each branch that may be taken, the operands it reads and its plan.
#[derive(Clone)]
struct Branch {
    branches: [Option<(Vec<usize>, Arc<TypedSimplePlan>)>; 2],
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("If")
    }
}

impl PartialEq for Branch {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Branch {}

impl Op for Branch {
    fn name(&self) -> StaticName {
        "If".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Branch {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let condition = inputs[0].cast_to_scalar::<bool>()?;
        let Some((operands, plan)) = &self.branches[usize::from(!condition)] else {
            let name = if condition { "then_branch" } else { "else_branch" };
            bail!("`{name}` is taken, which does not fit the shapes of the inputs");
        };
        plan.run(operands.iter().map(|i| inputs[*i].clone()).collect())
    }
}

impl TypedOp for Branch {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut facts: Option<TVec<TypedFact>> = None;
        for (_, plan) in self.branches.iter().flatten() {
            let model = plan.model();
            let outputs = model.outputs.iter().map(|o| Ok(model.outlet_fact(*o)?.without_value()));
            let outputs: TVec<TypedFact> = outputs.collect::<TractResult<_>>()?;
            let same = |(a, b): (&TypedFact, &TypedFact)| a.datum_type == b.datum_type && a.shape == b.shape;
            if let Some(first) = &facts {
                ensure!(first.iter().zip(&outputs).all(same), "the branches have different types");
            }
            facts.get_or_insert(outputs);
        }
        facts.context("no branch fits the shapes of the inputs")
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::Tract;
    use squint_ir::execute::{Execute, ExecuteError, Sample};
    use squint_ir::{AttrValue, DType, Dim, Graph, GraphId, Model, OpId, OpSpec, Tensor, Type, ValueId};

    /// A body made by `build` from `x` of the graph around it.
    fn body(
        model: &mut Model,
        owner: OpId,
        x: ValueId,
        build: impl FnOnce(&mut Graph, ValueId) -> ValueId,
    ) -> GraphId {
        let main = model.main_id();
        let slot = model.main_mut().add_capture(owner, x);
        let mut g = Graph::new("body");
        g.owner = Some((main, owner));
        let inner = g.add_value("x", None);
        g.value_mut(inner).captured = Some(slot);
        let y = build(&mut g, inner);
        g.set_type(y, Some(Type::tensor(DType::Float, None)));
        g.outputs.push(y);
        model.add_graph(g)
    }

    /// `If(condition)` over `x`, after `condition` was made by the first function.
    fn choose(
        condition: impl FnOnce(&mut Graph, ValueId) -> ValueId,
        then: impl Fn(&mut Graph, ValueId) -> ValueId,
        otherwise: impl Fn(&mut Graph, ValueId) -> ValueId,
        copies: usize,
    ) -> Model {
        let mut model = Model::new("g", 13);
        let g = model.main_mut();
        let shape = vec![Dim::Symbol("N".into()), Dim::Known(2)];
        let x = g.add_value("x", Some(Type::tensor(DType::Float, Some(shape))));
        g.inputs.push(x);
        let c = condition(g, x);
        for i in 0..copies {
            let g = model.main_mut();
            let y = g.add_value(&format!("y{i}"), Some(Type::tensor(DType::Float, None)));
            let op = g.add_op(OpSpec::new("If").name(format!("choice{i}")).operands([c]).results([y]));
            g.outputs.push(y);
            let bodies = [body(&mut model, op, x, &then), body(&mut model, op, x, &otherwise)];
            let op = model.main_mut().op_mut(op);
            op.set_attr("then_branch", AttrValue::Graph(bodies[0]));
            op.set_attr("else_branch", AttrValue::Graph(bodies[1]));
        }
        model
    }

    fn run(model: &Model, n: usize, data: &[f32]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let sample: Sample = vec![("x".into(), Tensor::from_f32(&[n, 2], data))];
        let session = Tract.prepare(model, &[])?;
        Ok(session.run(&sample, &mut |_, _, _| None)?.iter().map(Tensor::to_f32s).collect())
    }

    fn positive(g: &mut Graph, x: ValueId) -> ValueId {
        let zero = g.add_const("zero", Tensor::scalar_f32(0.0));
        let sum = g.emit(OpSpec::new("ReduceSum").attr("keepdims", 0).operands([x]), "sum", None);
        g.emit(OpSpec::new("Greater").operands([sum, zero]), "c", None)
    }

    fn negated(g: &mut Graph, x: ValueId) -> ValueId {
        g.emit(OpSpec::new("Neg").operands([x]), "negated", None)
    }

    /// Only fits if the batch is 1.
    fn squeezed(g: &mut Graph, x: ValueId) -> ValueId {
        let axes = g.add_const("axes", Tensor::from_i64(&[1], &[0]));
        let s = g.emit(OpSpec::new("Squeeze").operands([x, axes]), "s", None);
        g.emit(OpSpec::new("Exp").operands([s]), "e", None)
    }

    #[test]
    fn data_decides_between_branches_that_fit() {
        let constant = |g: &mut Graph, _| g.add_const("k", Tensor::from_f32(&[1, 2], &[7.0, 8.0]));
        let through = |g: &mut Graph, x| {
            let k = constant(g, x);
            g.emit(OpSpec::new("Identity").operands([k]), "i", None)
        };
        let model = choose(positive, through, negated, 2);
        assert_eq!(run(&model, 1, &[1.0, 2.0]).unwrap(), [[7.0, 8.0], [7.0, 8.0]]);
        assert_eq!(run(&model, 1, &[-1.0, -2.0]).unwrap(), [[1.0, 2.0], [1.0, 2.0]]);
    }

    #[test]
    fn shapes_decide_where_they_can() {
        let single = |g: &mut Graph, x| {
            let one = g.add_const("one", Tensor::scalar_i64(1));
            let zero = g.add_const("zero", Tensor::scalar_i64(0));
            let shape = g.emit(OpSpec::new("Shape").operands([x]), "shape", None);
            let n = g.emit(OpSpec::new("Gather").operands([shape, zero]), "n", None);
            g.emit(OpSpec::new("Equal").operands([n, one]), "c", None)
        };
        let model = choose(single, squeezed, negated, 1);
        assert_eq!(run(&model, 1, &[0.0, 0.0]).unwrap(), [[1.0, 1.0]]);
        assert_eq!(run(&model, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap(), [[-1.0, -2.0, -3.0, -4.0]]);
    }

    #[test]
    fn a_branch_that_does_not_fit_must_not_be_taken() {
        let model = choose(positive, squeezed, negated, 1);
        assert_eq!(run(&model, 2, &[-1.0, 0.0, 0.0, 0.0]).unwrap(), [[1.0, 0.0, 0.0, 0.0]]);
        let error = run(&model, 2, &[1.0, 0.0, 0.0, 0.0]).unwrap_err().to_string();
        assert!(error.contains("node `choice0` (If): `then_branch` is taken"), "{error}");
    }
}
