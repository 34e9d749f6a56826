//! Weights kept apart from the model that tract loads.
//!
//! Encoding a model with its weights and decoding it again would hold them three times. tract gets a model whose
//! large constants are inputs instead; when a plan is made, each becomes a constant again, copied from where it is,
//! be that a file that is mapped or the memory of this process.

use crate::convert;
use crate::pieces::Constants;
use squint_ir::{DType, Dim, Model, Type};
use std::collections::HashSet;
use std::sync::Arc;
use tract_onnx::model::ParseResult;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::ops::konst::Const;

/// Fewest bytes of a constant that is kept apart: smaller ones may be parameters, which tract wants to see when it loads
/// an operator.
const MIN_BYTES: usize = 4096;

/// Large constants of the main graph, by name.
pub(crate) struct Weights(Vec<(String, Arc<squint_ir::Tensor>)>);

impl Weights {
    /// Takes the weights out of a model: what is left has inputs in their place.
    pub(crate) fn take(model: &Model) -> (Model, Weights) {
        let mut rest = model.clone();
        let g = rest.main_mut();
        let apart = |t: &squint_ir::Tensor| t.dtype() == DType::Float && t.bytes().len() >= MIN_BYTES;
        let mut weights = vec![];
        for v in g.values().collect::<Vec<_>>() {
            let Some(t) = g.konst(v).filter(|t| apart(t)).cloned() else { continue };
            weights.push((g.value(v).name().to_owned(), t.clone()));
            let shape = t.dims().iter().map(|d| Dim::Known(*d as u64)).collect();
            g.set_type(v, Some(Type::tensor(t.dtype(), Some(shape))));
            g.set_const(v, None);
            if !g.inputs.contains(&v) {
                g.inputs.push(v);
            }
        }
        (rest, Weights(weights))
    }

    /// Puts them back into a model that tract has parsed.
    ///
    /// # Errors
    /// If there is no input of that name.
    pub(crate) fn put(&self, parsed: &mut ParseResult, shared: &Constants) -> TractResult<()> {
        let mut done = HashSet::new();
        for (name, t) in &self.0 {
            let outlet = *parsed.outlets_by_name.get(name).with_context(|| format!("no input `{name}`"))?;
            let array = convert::to_array(t)?.into_arc_tensor();
            let array = shared.one_copy(name, &array, t.bytes().len());
            let fact = TypedFact::try_from(array.clone())?;
            parsed.model.node_mut(outlet.node).op = Box::new(Const::new(array)?);
            parsed.model.set_outlet_fact(outlet, fact.into())?;
            done.insert(outlet);
        }
        parsed.model.inputs.retain(|o| !done.contains(o));
        Ok(())
    }
}
