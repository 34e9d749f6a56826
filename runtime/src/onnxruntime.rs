//! The ONNX Runtime executor: a library that is loaded when it is asked for.
//!
//! Nothing of it is needed to build. The declarations are those of the crate `ort`, without its safe layer,
//! which lets one run at a time use a session. Values are observed as by tract: an operator of ours stands
//! behind each ([`splice`], [`observe`]), looks at it while it is alive, and may replace it.

mod api;
mod observe;
mod splice;
mod value;

use crate::inputs::{Input, arranged, inputs_of};
use crate::lower;
use api::{Api, Handle, Names};
use observe::{DOMAIN, ObserveOp, observing};
use ort_sys::{OrtCustomOpDomain, OrtEnv, OrtSession};
use splice::{Spliced, splice};
use squint_ir::execute::{Execute, ExecuteError, Observer, Sample, Session, Unsupported};
use squint_ir::{Model, Tensor, ValueId};
use std::path::Path;
use std::ptr;
use value::{from_value, to_value};

/// Name of the executor.
const NAME: &str = "onnxruntime";

/// Runs models with [ONNX Runtime](https://onnxruntime.ai), on the processor.
///
/// Several threads may run samples on one session; each run stays on the thread that asked for it.
pub struct OnnxRuntime {
    // Fields are dropped in this order: the operator is needed until its domain is gone.
    domain: Handle<OrtCustomOpDomain>,
    env: Handle<OrtEnv>,
    _op: Box<ObserveOp>,
    api: Api,
    version: String,
}

impl OnnxRuntime {
    /// Loads the library in a file (`libonnxruntime.so` and the like), version 1.18 or later. It stays loaded
    /// until the program ends.
    ///
    /// # Errors
    /// If the file cannot be loaded or is something else.
    pub fn load(library: &Path) -> Result<OnnxRuntime, ExecuteError> {
        let failed = |problem| ExecuteError::Library { library: library.display().to_string(), problem };
        let (api, version) = Api::load(library).map_err(failed)?;
        let env = api.environment().map_err(failed)?;
        let op = ObserveOp::new(api);
        // SAFETY: the operator lies in a box beside the domain, and sessions borrow both.
        let domain = unsafe { api.domain(DOMAIN, op.definition()) }.map_err(failed)?;
        Ok(OnnxRuntime { domain, env, _op: op, api, version })
    }

    /// The version of the library, for example `1.31.1`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl Execute for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Nothing: what the library refuses it refuses when the model is prepared, before any sample is run.
    fn preflight(&self, _: &Model) -> Vec<Unsupported> {
        Vec::new()
    }

    fn prepare<'e>(
        &'e self,
        model: &Model,
        observe: &[ValueId],
    ) -> Result<Box<dyn Session + 'e>, ExecuteError> {
        let load = |problem| ExecuteError::Load { executor: NAME, problem };
        // Most operators have no bfloat16 kernel for processors.
        let lowered = lower::model(model);
        let inputs = inputs_of(model).map_err(load)?;
        let graph = model.main();
        let names = |ids: &[ValueId]| Names::new(ids.iter().map(|v| graph.value(*v).name()));
        let Spliced { model, constants } = splice(&lowered, observe);
        let output_names =
            Names::new(model.main().outputs.iter().map(|v| model.main().value(*v).name())).map_err(load)?;
        let needed: Vec<ValueId> =
            graph.inputs.iter().copied().filter(|v| graph.konst(*v).is_none()).collect();
        let input_names = names(&needed).map_err(load)?;
        let encoded = squint_proto::encode_for_executor(&model).map_err(|e| load(e.to_string()))?;
        let dir = encoded.dir.as_deref().map(|dir| {
            dir.to_str().ok_or_else(|| load(format!("the folder `{}` is not UTF-8", dir.display())))
        });
        let session =
            self.api.session(&self.env, &self.domain, &encoded.bytes, dir.transpose()?).map_err(load)?;
        Ok(Box::new(OrtRun { api: self.api, session, inputs, input_names, output_names, constants }))
    }
}

/// A model loaded by the library.
struct OrtRun {
    api: Api,
    session: Handle<OrtSession>,
    inputs: Vec<Input>,
    input_names: Names,
    output_names: Names,
    constants: Vec<(usize, Vec<usize>, Vec<f32>)>,
}

impl Session for OrtRun {
    fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        let failed = |problem| ExecuteError::Run { executor: NAME, problem };
        let tensors = arranged(&self.inputs, sample)?;
        let give = |(input, tensor): (&Input, &&Tensor)| {
            to_value(self.api, &lower::tensor(tensor)).map_err(|problem| input.wrong(problem))
        };
        let values = self.inputs.iter().zip(&tensors).map(give).collect::<Result<Vec<_>, _>>()?;
        let given: Vec<_> = values.iter().map(|v| v.ptr().cast_const()).collect();
        let (input_names, output_names) = (self.input_names.pointers(), self.output_names.pointers());
        let mut made = vec![ptr::null_mut(); output_names.len()];
        let status = observing(observe, || {
            // SAFETY: all pointers live through the call and lead to as many objects as is said.
            unsafe {
                (self.api.Run)(
                    self.session.ptr(),
                    ptr::null(),
                    input_names.as_ptr(),
                    given.as_ptr(),
                    given.len(),
                    output_names.as_ptr(),
                    output_names.len(),
                    made.as_mut_ptr(),
                )
            }
        });
        self.api.check(status).map_err(failed)?;
        let outputs = made.into_iter().map(|v| Handle::new(v, self.api.ReleaseValue));
        let outputs = outputs.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        for (slot, dims, elements) in &self.constants {
            observe(*slot, dims, elements);
        }
        outputs.iter().map(|v| from_value(self.api, v.ptr()).map_err(failed)).collect()
    }
}
