//! ONNX Runtime's library, and what exists once per process: its environment and plug-ins.

use std::{
    collections::HashSet,
    ffi::{CStr, c_char},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
    sync::Arc,
};

use ::ort::{
    environment::{Environment, EnvironmentBuilder},
    logging::LogLevel,
};
use ort_sys::{OrtAllocatorType, OrtApi, OrtMemType, OrtMemoryInfo};
use parking_lot::Mutex;

use super::{find, value::check};

/// ONNX Runtime, loaded. Never unloaded: it cannot be.
pub struct Library {
    pub api: &'static OrtApi,
    pub environment: Environment,
    /// As in `1.32.0`.
    pub version: String,
    pub path: PathBuf,
    /// Describes ordinary memory, for tensors over our own bytes.
    memory: *const OrtMemoryInfo,
    /// Plug-in libraries of providers, registered.
    plugins: Mutex<HashSet<PathBuf>>,
}

// SAFETY: `memory` points to a value that nobody changes and that lives as long as the process; the rest is Send.
unsafe impl Send for Library {}
// SAFETY: as above; the API is a table of functions that may be called from any thread, the environment locks inside.
unsafe impl Sync for Library {}

static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

/// The library, loaded at the first call.
pub fn load(explicit: Option<&Path>) -> Result<Arc<Library>, String> {
    let mut loaded = LOADED.lock();
    if let Some(library) = &*loaded {
        return match find::other(explicit, &library.path) {
            Some(wanted) => Err(format!(
                "ONNX Runtime is loaded from {} already, and cannot be loaded from {} as well",
                library.path.display(),
                wanted.display()
            )),
            None => Ok(library.clone()),
        };
    }
    let library = Arc::new(find::find(explicit)?);
    tracing::info!(version = library.version, path = %library.path.display(), "loaded ONNX Runtime");
    *loaded = Some(library.clone());
    Ok(library)
}

impl Library {
    /// The library that `builder` leads to, with the process's one environment.
    pub fn new(
        builder: EnvironmentBuilder,
        path: &Path,
        version: String,
    ) -> Result<Library, String> {
        // What it has to say beside the errors that it returns: for debugging.
        let logger =
            Arc::new(|level: LogLevel, category: &str, _: &str, place: &str, text: &str| {
                tracing::debug!(target: "onnxruntime", ?level, category, place, "{text}");
            });
        let environment = builder
            .with_name("onnxd")
            .with_telemetry(false)
            .with_logger(logger)
            .build()
            .map_err(|e| format!("{}: {e}", path.display()))?;
        environment.set_log_level(LogLevel::Error);
        let api = ::ort::api();
        let mut memory = ptr::null_mut();
        // SAFETY: `memory` is a valid place for the pointer. What it points to is never released: it lives in a static.
        let status = unsafe {
            (api.CreateCpuMemoryInfo)(
                OrtAllocatorType::OrtDeviceAllocator,
                OrtMemType::OrtMemTypeDefault,
                &mut memory,
            )
        };
        check(api, status).map_err(|e| e.message)?;
        Ok(Library {
            api,
            environment,
            version,
            path: path.to_owned(),
            memory,
            plugins: Mutex::default(),
        })
    }

    pub fn memory(&self) -> *const OrtMemoryInfo {
        self.memory
    }

    /// Registers the plug-in library of a provider, once.
    pub fn register(&self, provider: &str, path: &Path) -> Result<(), String> {
        let path =
            path.canonicalize().map_err(|e| format!("its library {}: {e}", path.display()))?;
        let mut plugins = self.plugins.lock();
        if plugins.contains(&path) {
            return Ok(());
        }
        // The text becomes a C string in a place that asserts.
        if path.as_os_str().as_bytes().contains(&0) {
            return Err("its library's path holds a NUL".to_owned());
        }
        self.environment
            .register_ep_library(provider, &path)
            .map_err(|e| format!("its library {}: {e}", path.display()))?;
        plugins.insert(path);
        Ok(())
    }

    /// Whether the provider was built into this library. (It may lack what it needs to run all the same.)
    pub fn has(&self, provider: &CStr) -> bool {
        let (mut names, mut count): (*mut *mut c_char, _) = (ptr::null_mut(), 0);
        // SAFETY: both are valid places; the list is read before it is released, and released once.
        unsafe {
            let status = (self.api.GetAvailableProviders)(&mut names, &mut count);
            if check(self.api, status).is_err() || names.is_null() {
                return false;
            }
            let list = std::slice::from_raw_parts(names, usize::try_from(count).unwrap_or(0));
            let has = list.iter().any(|name| CStr::from_ptr(*name) == provider);
            let status = (self.api.ReleaseAvailableProviders)(names, count);
            check(self.api, status).is_ok() && has
        }
    }
}
