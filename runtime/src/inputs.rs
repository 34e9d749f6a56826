//! What samples must give: the graph inputs that have no default, and whether a sample fits them.

use crate::lower;
use squint_ir::execute::{ExecuteError, Sample};
use squint_ir::{DType, Dim, Model, Shape, Tensor, Type};

/// A graph input that a sample must give.
pub(crate) struct Input {
    pub(crate) name: String,
    dtype: DType,
    shape: Option<Shape>,
}

/// The inputs of a model that have no default, in order.
///
/// # Errors
/// If one is not a tensor.
pub(crate) fn inputs_of(model: &Model) -> Result<Vec<Input>, String> {
    let graph = model.main();
    let needed = graph.inputs.iter().filter(|id| graph.konst(**id).is_none());
    needed
        .map(|id| {
            let name = graph.value(*id).name().to_owned();
            match graph.ty(*id) {
                Some(Type::Tensor { dtype, shape }) => {
                    Ok(Input { name, dtype: *dtype, shape: shape.clone() })
                }
                _ => Err(format!("input `{name}` is not declared to be a tensor")),
            }
        })
        .collect()
}

/// The tensors of a sample in the order of the inputs.
///
/// # Errors
/// If one is missing, does not fit, or is for no input.
pub(crate) fn arranged<'s>(inputs: &[Input], sample: &'s Sample) -> Result<Vec<&'s Tensor>, ExecuteError> {
    if let Some((name, _)) = sample.iter().find(|(n, _)| inputs.iter().all(|i| i.name != *n)) {
        let known: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
        let problem = format!("the model has no such input; it has `{}`", known.join("`, `"));
        return Err(ExecuteError::Input { input: name.clone(), problem });
    }
    let find = |input: &Input| {
        let given = sample.iter().find(|(name, _)| *name == input.name).map(|(_, tensor)| tensor);
        let tensor = given.ok_or_else(|| input.wrong("the sample does not have it"))?;
        input.check(tensor).map_err(|problem| input.wrong(problem))?;
        Ok(tensor)
    };
    inputs.iter().map(find).collect()
}

impl Input {
    /// An error about this input.
    pub(crate) fn wrong(&self, problem: impl ToString) -> ExecuteError {
        ExecuteError::Input { input: self.name.clone(), problem: problem.to_string() }
    }

    /// Whether the declaration does not say how long an axis is.
    pub(crate) fn leaves_open(&self, axis: usize) -> bool {
        let shape = self.shape.as_ref();
        shape.is_none_or(|s| s.get(axis).is_none_or(|dim| dim.known().is_none()))
    }

    /// Compares a tensor with the declaration.
    fn check(&self, tensor: &Tensor) -> Result<(), String> {
        if ![self.dtype, lower::dtype(self.dtype)].contains(&tensor.dtype()) {
            return Err(format!("the sample has {}, the model wants {}", tensor.dtype(), self.dtype));
        }
        let Some(shape) = &self.shape else { return Ok(()) };
        let fits = |(dim, n): (&Dim, &usize)| dim.known().is_none_or(|d| d == *n as u64);
        if shape.len() == tensor.rank() && shape.iter().zip(tensor.dims()).all(fits) {
            return Ok(());
        }
        let wanted = Type::tensor(self.dtype, Some(shape.clone()));
        Err(format!("the sample has shape {:?}, the model wants {wanted}", tensor.dims()))
    }
}
