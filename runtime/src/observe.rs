//! The observing operator and how it is spliced into a tract model.
//!
//! tract's optimiser fuses, repacks and renames, so of a hundred tensors that calibration wants five
//! survive it. [`Observe`] passes its input through and claims nothing about its axes or its value:
//! constants are not folded through it and layout changes stop at it, so every observed tensor keeps its
//! ONNX layout, while everything between two observed tensors is still optimised. It does nothing when
//! evaluated; the driver recognises it while it steps through the plan and looks at its input there.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

/// Passes its only input through. `slots` are the positions, in the caller's list of observed values, of
/// the values this tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observe {
    pub(crate) slots: TVec<usize>,
}

impl Op for Observe {
    fn name(&self) -> StaticName {
        "Observe".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Observe {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(inputs)
    }
}

impl TypedOp for Observe {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// A value that is known before anything is run.
pub(crate) struct Constant {
    /// Position in the caller's list of observed values.
    pub(crate) slot: usize,
    pub(crate) value: Arc<Tensor>,
}

/// Puts an [`Observe`] behind each of `wanted` (position in the caller's list, tensor), between it and
/// all its readers, graph outputs included. Tensors that are not floating-point are left alone; those
/// that are constant are returned instead.
pub(crate) fn splice(model: &mut TypedModel, wanted: &[(usize, OutletId)]) -> TractResult<Vec<Constant>> {
    let mut constants = vec![];
    // Several ONNX values may be one tensor here (`Identity`): keep one operator for each tensor.
    let mut sorted = wanted.to_vec();
    sorted.sort_by_key(|(slot, outlet)| (outlet.node, outlet.slot, *slot));
    for same in sorted.chunk_by(|a, b| a.1 == b.1) {
        let outlet = same[0].1;
        let fact = model.outlet_fact(outlet)?.clone();
        if !fact.datum_type.is_float() {
            continue;
        }
        if let Some(value) = &fact.konst {
            constants.extend(same.iter().map(|(slot, _)| Constant { slot: *slot, value: value.clone() }));
            continue;
        }
        let readers = model.outlet_successors(outlet).to_vec();
        let slots: TVec<usize> = same.iter().map(|(slot, _)| *slot).collect();
        let name = format!("{}#observe{}", model.node(outlet.node).name, outlet.slot);
        let observed =
            OutletId::new(model.add_node(name, Observe { slots }, tvec!(fact.without_value()))?, 0);
        model.add_edge(outlet, InletId::new(observed.node, 0))?;
        for reader in readers {
            model.add_edge(observed, reader)?;
        }
        for output in &mut model.outputs {
            if *output == outlet {
                *output = observed;
            }
        }
    }
    Ok(constants)
}

/// The elements of a floating-point tensor as binary32, in row-major order; borrowed if they are that.
pub(crate) fn elements(tensor: &Tensor) -> TractResult<Cow<'_, [f32]>> {
    if tensor.datum_type() == DatumType::F32 {
        return Ok(Cow::Borrowed(tensor.try_as_plain_ram()?.as_slice()?));
    }
    Ok(Cow::Owned(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice()?.to_vec()))
}

/// A tensor of the type and shape of another, with these elements.
pub(crate) fn replacement(like: &Tensor, elements: &[f32]) -> TractResult<Tensor> {
    let tensor = Tensor::from_shape(like.shape(), elements)?;
    if tensor.datum_type() == like.datum_type() {
        return Ok(tensor);
    }
    Ok(tensor.cast_to_dt(like.datum_type())?.into_owned())
}
