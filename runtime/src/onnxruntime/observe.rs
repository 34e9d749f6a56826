//! The observing operator as ONNX Runtime runs it: `squint.Observe`, a tensor in, the same out. Floating-point
//! elements are shown to the observer in single precision.
//!
//! The library calls [`compute`] on the thread that called `Run` (sessions here have no threads of their
//! own), so the observer of a run is found in a variable of the thread. The output takes the memory of the
//! input where nothing else needs that, and then nothing is copied.

use super::api::Api;
use super::value::{data, describe};
use ort_sys::{ONNXTensorElementDataType as Element, ORT_API_VERSION, OrtApi, OrtCustomOp};
use ort_sys::{OrtCustomOpInputOutputCharacteristic as Characteristic, OrtMemType, OrtStatusPtr};
use ort_sys::{OrtKernelContext, OrtKernelInfo};
use squint_ir::execute::Observer;
use squint_ir::{DType, Tensor};
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::{mem, ptr, slice};
use tract_data::prelude::f16;
use tract_onnx::prelude::tract_data;

/// Domain and type of the operator.
pub(super) const DOMAIN: &CStr = c"squint";
pub(super) const OP_TYPE: &CStr = c"Observe";
/// Its attribute: the position in the list of observed values.
pub(super) const SLOT: &CStr = c"slot";

/// The operator's definition, which must live as long as the sessions that use it.
#[repr(C)]
pub(super) struct ObserveOp {
    /// First, so that a pointer to this is one to the whole.
    definition: OrtCustomOp,
    api: Api,
}

// SAFETY: functions and constants only.
unsafe impl Send for ObserveOp {}
unsafe impl Sync for ObserveOp {}

/// One occurrence of the operator in a session.
struct Kernel {
    api: Api,
    slot: usize,
}

/// The observer of the run that this thread is in.
struct Current {
    observer: *mut Observer<'static>,
    /// What the observer panicked with: a panic must not pass through the library.
    panic: Option<Box<dyn Any + Send>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Runs `run`, during which observed values are handed to `observer`. A panic of the observer goes on when
/// `run` has returned.
pub(super) fn observing<T>(observer: &mut Observer<'_>, run: impl FnOnce() -> T) -> T {
    // SAFETY: only the lifetime changes; the pointer is gone before the reference is.
    let observer: *mut Observer<'static> = unsafe { mem::transmute(ptr::from_mut(observer)) };
    // An observer may itself run another session: what was there comes back.
    let outer = CURRENT.replace(Some(Current { observer, panic: None }));
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let current = CURRENT.replace(outer);
    match (current.and_then(|c| c.panic), result) {
        (Some(panicked), _) | (None, Err(panicked)) => panic::resume_unwind(panicked),
        (None, Ok(result)) => result,
    }
}

impl ObserveOp {
    /// In a box, because its address matters.
    pub(super) fn new(api: Api) -> Box<ObserveOp> {
        let definition = OrtCustomOp {
            version: ORT_API_VERSION,
            CreateKernel: None,
            GetName: Some(name),
            GetExecutionProviderType: Some(provider),
            GetInputType: Some(element_type),
            GetInputTypeCount: Some(one),
            GetOutputType: Some(element_type),
            GetOutputTypeCount: Some(one),
            KernelCompute: None,
            KernelDestroy: Some(destroy),
            GetInputCharacteristic: Some(required),
            GetOutputCharacteristic: Some(required),
            GetInputMemoryType: Some(memory),
            GetVariadicInputMinArity: Some(arity),
            GetVariadicInputHomogeneity: Some(arity),
            GetVariadicOutputMinArity: Some(arity),
            GetVariadicOutputHomogeneity: Some(arity),
            CreateKernelV2: Some(create),
            KernelComputeV2: Some(compute),
            // The declared types of the values around it say their shapes.
            InferOutputShapeFn: None,
            GetStartVersion: Some(arity),
            GetEndVersion: Some(arity),
            GetMayInplace: Some(may_inplace),
            ReleaseMayInplace: Some(release_inplace),
            GetAliasMap: None,
            ReleaseAliasMap: None,
        };
        Box::new(ObserveOp { definition, api })
    }

    pub(super) fn definition(&self) -> *const OrtCustomOp {
        ptr::from_ref(self).cast()
    }
}

unsafe extern "system" fn name(_: *const OrtCustomOp) -> *const c_char {
    OP_TYPE.as_ptr()
}

unsafe extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    ptr::null()
}

/// Any; the output has that of the input.
unsafe extern "system" fn element_type(_: *const OrtCustomOp, _: usize) -> Element {
    Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
}

unsafe extern "system" fn one(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn required(_: *const OrtCustomOp, _: usize) -> Characteristic {
    Characteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

/// Also the only version there is.
unsafe extern "system" fn arity(_: *const OrtCustomOp) -> c_int {
    1
}

/// The one pair of positions, which the library reads and gives back.
static FIRST: c_int = 0;

unsafe extern "system" fn may_inplace(input: *mut *mut c_int, output: *mut *mut c_int) -> usize {
    // SAFETY: the library passes places for two pointers; it does not write to what they point to.
    unsafe {
        *input = (&raw const FIRST).cast_mut();
        *output = (&raw const FIRST).cast_mut();
    }
    1
}

unsafe extern "system" fn release_inplace(_: *mut c_int, _: *mut c_int) {}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: the definition is the first field of an `ObserveOp`.
    let api = unsafe { &*op.cast::<ObserveOp>() }.api;
    let mut slot = 0_i64;
    // SAFETY: the info is valid during the call.
    match api.check(unsafe { (api.KernelInfoGetAttribute_int64)(info, SLOT.as_ptr(), &mut slot) }) {
        Err(e) => api.failure(&e),
        Ok(()) => {
            let made = Box::new(Kernel { api, slot: slot as usize });
            // SAFETY: a place for the kernel, which `destroy` gets back.
            unsafe { *kernel = Box::into_raw(made).cast() };
            OrtStatusPtr::default()
        }
    }
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: made by `create`.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: made by `create`, and never changed.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    // SAFETY: the context is valid during the call.
    match unsafe { kernel.compute(context) } {
        Ok(()) => OrtStatusPtr::default(),
        Err(e) => kernel.api.failure(&e),
    }
}

impl Kernel {
    /// # Safety
    /// The context must be that of a call with one input and one output.
    unsafe fn compute(&self, context: *mut OrtKernelContext) -> Result<(), String> {
        let api = self.api;
        let mut input = ptr::null();
        // SAFETY: as promised.
        api.check(unsafe { (api.KernelContext_GetInput)(context, 0, &mut input) })?;
        let (dtype, dims) = describe(api, input)?;
        let count: usize = dims.iter().product();
        let len = dtype.packed_len(count).ok_or_else(|| format!("{dtype} tensors are not observed"))?;
        // SAFETY: a tensor of numbers of this length; an empty one may lie nowhere.
        let (from, bytes) = unsafe {
            let from = data(api, input.cast_mut())?.cast::<u8>();
            (from, if len == 0 { &[][..] } else { slice::from_raw_parts(from, len) })
        };
        let replaced = match dtype {
            // SAFETY: the library aligns tensors for its own kernels.
            DType::Float => self.observe(&dims, unsafe { bytes.align_to::<f32>() }.1)?,
            d if d.is_float() => {
                let tensor = Tensor::raw(d, &dims, bytes.to_vec().into()).map_err(|e| e.to_string())?;
                self.observe(&dims, &tensor.f32s())?
            }
            _ => None,
        };
        if replaced.as_ref().is_some_and(|r| r.len() != count) {
            return Err("an observed value was replaced by one of another length".into());
        }
        let replaced = replaced.map(|r| encoded(dtype, &r)).transpose()?;
        let shape: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        let mut output = ptr::null_mut();
        // SAFETY: as promised; the output has the type and, after this call, the shape of the input. `bytes` is
        // not used any more: the output may lie where they lay.
        unsafe {
            api.check((api.KernelContext_GetOutput)(context, 0, shape.as_ptr(), shape.len(), &mut output))?;
            let to = data(api, output)?.cast::<u8>();
            match replaced {
                _ if len == 0 => (),
                Some(r) => ptr::copy_nonoverlapping(r.as_ptr(), to, len),
                None if to == from => (),
                None => ptr::copy_nonoverlapping(from, to, len),
            }
        }
        Ok(())
    }

    fn observe(&self, dims: &[usize], elements: &[f32]) -> Result<Option<Vec<f32>>, String> {
        let observer = CURRENT.with_borrow(|c| c.as_ref().map(|c| c.observer));
        let observer = observer.ok_or("observed outside of a run")?;
        // SAFETY: the observer outlives the run that this is part of, and is called by no other thread.
        let call = || unsafe { (*observer)(self.slot, dims, elements) };
        panic::catch_unwind(AssertUnwindSafe(call)).map_err(|panicked| {
            CURRENT.with_borrow_mut(|c| {
                if let Some(c) = c {
                    c.panic = Some(panicked);
                }
            });
            "the observer panicked".to_owned()
        })
    }
}

/// The bytes of elements in an element type.
fn encoded(dtype: DType, elements: &[f32]) -> Result<Vec<u8>, String> {
    Ok(match dtype {
        DType::Float => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::Double => elements.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
        DType::Float16 => elements.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        d => return Err(format!("a {d} value cannot be replaced")),
    })
}
