//! The C interface of a loaded library, with handles that release what they hold.

use libloading::Library;
use ort_sys::{GraphOptimizationLevel, ORT_API_VERSION, OrtApi, OrtApiBase, OrtErrorCode, OrtLoggingLevel};
use ort_sys::{OrtCustomOp, OrtCustomOpDomain, OrtEnv, OrtSession, OrtSessionOptions, OrtStatusPtr};
use std::ffi::{CStr, CString, c_char};
use std::mem;
use std::ops::Deref;
use std::path::Path;
use std::ptr::{self, NonNull};

/// The functions of a library. It stays loaded until the program ends: threads and static objects of its own
/// would not survive unloading.
#[derive(Clone, Copy)]
pub(super) struct Api(&'static OrtApi);

impl Deref for Api {
    type Target = OrtApi;

    fn deref(&self) -> &OrtApi {
        self.0
    }
}

impl Api {
    /// Loads a library; its functions and its version.
    ///
    /// # Errors
    /// If it cannot be loaded, is something else, or is too old.
    pub(super) fn load(path: &Path) -> Result<(Api, String), String> {
        // SAFETY: loading runs the library's initializers. It is the one that the user named or installed.
        let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
        // SAFETY: the signature is that of `onnxruntime_c_api.h`, unchanged since the first release.
        let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") };
        let base =
            base.map_err(|_| "it does not export `OrtGetApiBase`: it is no ONNX Runtime".to_owned())?;
        // SAFETY: the function returns null or a static table.
        let base = unsafe { base().as_ref() }.ok_or("`OrtGetApiBase` returned nothing")?;
        // SAFETY: a static string.
        let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
        // SAFETY: null for a version that the library does not have, else a static table of that version.
        let api = unsafe { (base.GetApi)(ORT_API_VERSION).as_ref() };
        let api = api.ok_or_else(|| {
            format!("it is ONNX Runtime {version}; version 1.{ORT_API_VERSION} or later is needed")
        })?;
        mem::forget(library);
        Ok((Api(api), version))
    }

    /// What a status says, if it is an error. Releases it.
    pub(super) fn check(self, status: OrtStatusPtr) -> Result<(), String> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: the status is valid until it is released, and so is its message.
        unsafe {
            let message = CStr::from_ptr((self.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            (self.ReleaseStatus)(status.0);
            Err(message)
        }
    }

    /// An error that the library passes on to whoever called it.
    pub(super) fn failure(self, message: &str) -> OrtStatusPtr {
        let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the message is copied.
        unsafe { (self.CreateStatus)(OrtErrorCode::ORT_FAIL, message.as_ptr()) }
    }

    /// An environment that logs nothing: what goes wrong comes back as a status.
    pub(super) fn environment(self) -> Result<Handle<OrtEnv>, String> {
        let mut out = ptr::null_mut();
        let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL;
        // SAFETY: the arguments live through the call.
        self.check(unsafe { (self.CreateEnv)(level, c"squint".as_ptr(), &mut out) })?;
        // Not every release knows the function as more than a stub, and none needs it to succeed.
        // SAFETY: the environment is valid.
        let _ = self.check(unsafe { (self.DisableTelemetryEvents)(out) });
        Handle::new(out, self.ReleaseEnv)
    }

    /// A domain of one operator.
    ///
    /// # Safety
    /// The operator must live as long as any session that is made with the domain.
    pub(super) unsafe fn domain(
        self,
        name: &CStr,
        op: *const OrtCustomOp,
    ) -> Result<Handle<OrtCustomOpDomain>, String> {
        let mut out = ptr::null_mut();
        // SAFETY: the name is copied.
        self.check(unsafe { (self.CreateCustomOpDomain)(name.as_ptr(), &mut out) })?;
        let domain = Handle::new(out, self.ReleaseCustomOpDomain)?;
        // SAFETY: the caller sees to it that the operator lives long enough.
        self.check(unsafe { (self.CustomOpDomain_Add)(domain.ptr(), op) })?;
        Ok(domain)
    }

    /// A session on an encoded model whose external data is relative to `dir`. It runs on the threads that
    /// call it, and starts none.
    pub(super) fn session(
        self,
        env: &Handle<OrtEnv>,
        domain: &Handle<OrtCustomOpDomain>,
        bytes: &[u8],
        dir: Option<&str>,
    ) -> Result<Handle<OrtSession>, String> {
        let mut out = ptr::null_mut();
        // SAFETY: handles are valid, strings are copied.
        let options: Handle<OrtSessionOptions> = unsafe {
            self.check((self.CreateSessionOptions)(&mut out))?;
            let options = Handle::new(out, self.ReleaseSessionOptions)?;
            let o = options.ptr();
            self.check((self.SetIntraOpNumThreads)(o, 1))?;
            let all = GraphOptimizationLevel::ORT_ENABLE_ALL;
            self.check((self.SetSessionGraphOptimizationLevel)(o, all))?;
            // Folding would run the observing operator before there is anybody to observe.
            self.config(o, c"optimization.disable_specified_optimizers", "ConstantFolding")?;
            // Operators between conversions are computed as the model says: the runtime would quantize float weights
            // there by itself, with one scale for all channels.
            self.config(o, c"session.disable_quant_qdq", "1")?;
            if let Some(dir) = dir {
                self.config(o, c"session.model_external_initializers_file_folder_path", dir)?;
            }
            self.check((self.AddCustomOpDomain)(o, domain.ptr()))?;
            options
        };
        let mut out = ptr::null_mut();
        // SAFETY: the model is read during the call and copied.
        self.check(unsafe {
            (self.CreateSessionFromArray)(
                env.ptr(),
                bytes.as_ptr().cast(),
                bytes.len(),
                options.ptr(),
                &mut out,
            )
        })?;
        Handle::new(out, self.ReleaseSession)
    }

    fn config(self, options: *mut OrtSessionOptions, key: &CStr, value: &str) -> Result<(), String> {
        let value = CString::new(value).map_err(|e| e.to_string())?;
        // SAFETY: strings are copied.
        self.check(unsafe { (self.AddSessionConfigEntry)(options, key.as_ptr(), value.as_ptr()) })
    }
}

/// An object of the library, released when it is dropped.
pub(super) struct Handle<T> {
    object: NonNull<T>,
    release: unsafe extern "system" fn(*mut T),
}

impl<T> Handle<T> {
    pub(super) fn new(object: *mut T, release: unsafe extern "system" fn(*mut T)) -> Result<Self, String> {
        let object = NonNull::new(object).ok_or("the library returned nothing")?;
        Ok(Handle { object, release })
    }

    pub(super) fn ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the object is ours, and this is the only time.
        unsafe { (self.release)(self.ptr()) }
    }
}

// SAFETY: environments, sessions and domains may be used from any thread, and sessions run from several at
// once, as `onnxruntime_c_api.h` says. Values stay on the thread that made them.
unsafe impl Send for Handle<OrtEnv> {}
unsafe impl Sync for Handle<OrtEnv> {}
unsafe impl Send for Handle<OrtSession> {}
unsafe impl Sync for Handle<OrtSession> {}
unsafe impl Send for Handle<OrtCustomOpDomain> {}
unsafe impl Sync for Handle<OrtCustomOpDomain> {}

/// Names as the library takes them.
pub(super) struct Names {
    owned: Vec<CString>,
}

impl Names {
    /// # Errors
    /// If a name has a zero byte in it.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Names, String> {
        let owned = names.into_iter().map(CString::new).collect::<Result<_, _>>();
        Ok(Names { owned: owned.map_err(|e| format!("a name has a zero byte in it: {e}"))? })
    }

    pub(super) fn pointers(&self) -> Vec<*const c_char> {
        self.owned.iter().map(|n| n.as_ptr()).collect()
    }
}
