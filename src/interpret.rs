//! Running models here, quantized ones of any tool included, without the target's runtime.
//!
//! A quantized model computes with real numbers on grids; so it is run as the float network it stands for, in
//! which every quantizer of data rounds and clamps exactly as the runtime's does. What differs from the runtime's
//! integer kernels is the order in which products are added and, now and then, which side of a rounding tie a
//! value falls on.

use crate::Error;
use squint_ir::execute::{Execute, Samples, Session};
use squint_ir::{Model, Tensor, ValueId};
use squint_passes::config::Config;
use squint_passes::pass::PassError;
use squint_passes::{calibrate, in_order, pipeline, threads};

/// A model made ready: [`Interpreter::session`] runs it.
pub struct Interpreter {
    model: Model,
}

impl Interpreter {
    /// Brings a model, float or quantized, into the form that executors of float models run.
    ///
    /// # Errors
    /// If the model is not well-formed.
    pub fn new(model: &Model) -> Result<Interpreter, Error> {
        let mut model = model.clone();
        pipeline::lower_quantized(&mut model, &Config::new(""), &crate::Hooks::default())?;
        Ok(Interpreter { model })
    }

    /// The model as it is run. Values that the original has, too, have the same ids.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A session that shows `observe`, values of [`Interpreter::model`], while it runs.
    ///
    /// # Errors
    /// If the executor cannot run the model.
    pub fn session<'m>(
        &'m self,
        executor: &'m dyn Execute,
        observe: &[ValueId],
    ) -> Result<Box<dyn Session + 'm>, Error> {
        Ok(calibrate::prepare(&self.model, observe, executor)?)
    }

    /// The values inside that are floats when the model is run: not constants, and not outputs.
    pub fn values(&self) -> Vec<ValueId> {
        let g = self.model.main();
        g.values().filter(|v| g.konst(*v).is_none() && !g.is_output(*v) && !g.is_input(*v)).collect()
    }

    /// Outputs by name, and `observe` by name, of one sample after the other in their order, handed to `each`. As many samples
    /// are run at once as there are cores.
    ///
    /// # Errors
    /// If a sample cannot be read or run, or `each` fails.
    pub fn run(
        &self,
        executor: &dyn Execute,
        samples: &dyn Samples,
        observe: &[ValueId],
        each: impl FnMut(usize, Vec<(String, Tensor)>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let session = self.session(executor, observe)?;
        let g = self.model.main();
        let names: Vec<&str> = g.outputs.iter().map(|v| g.value(*v).name()).collect();
        let one = |i: usize| -> Result<Vec<(String, Tensor)>, Error> {
            let sample = samples.get(i).map_err(PassError::Data)?;
            let mut inside = Vec::new();
            let outputs = session.run(&sample, &mut |slot, dims, data| {
                let name = g.value(observe[slot]).name().to_owned();
                inside.push((name, Tensor::from_f32(dims, data)));
                None
            })?;
            let outputs = names.iter().map(|n| (*n).to_owned()).zip(outputs);
            Ok(outputs.chain(inside).collect())
        };
        let numbers: Vec<usize> = (0..samples.len()).collect();
        in_order(&numbers, threads(&Config::new("")), one, each)
    }
}
