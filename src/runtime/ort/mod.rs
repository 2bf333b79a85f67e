//! ONNX Runtime: loaded at run time (or linked in, with `ort-download`), its C API behind a thin wrapper whose `run` takes `&self`.

#[cfg(feature = "ort")]
mod find;
#[cfg(not(feature = "ort"))]
#[path = "linked.rs"]
mod find;
mod library;
mod providers;
mod session;
#[cfg(test)]
mod tests;
mod value;

use std::{path::Path, sync::Arc};

use self::library::Library;
use super::{
    options::SessionOptions,
    session::{Backend, ModelSource, Session},
};

struct OrtBackend(Arc<Library>);

/// Loads ONNX Runtime, once per process; a later call gives the same library. Looked up in this order: `explicit` (a file, or
/// a directory that holds it), `ORT_DYLIB_PATH`, beside the executable and in `../lib`, `../onnxruntime/lib` (where the
/// fetch script puts it in a target directory), `$XDG_DATA_HOME/onnxd/lib`, the loader's path. The failure of one that was
/// named, by `explicit` or the variable, is final.
///
/// # Errors
/// Why the named one does not load, or where a library was looked for and what was wrong with those that were there.
pub fn open_library(explicit: Option<&Path>) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(OrtBackend(library::load(explicit)?)))
}

/// Turns ONNX Runtime's telemetry off (official builds since 1.29 have it, and the environment's own switch does not stop
/// the first event).
///
/// # Safety
/// To be called at the top of `main`, before any other thread is there: it sets an environment variable.
pub unsafe fn disable_telemetry() {
    // SAFETY: the caller promises that no other thread reads or writes the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

impl Backend for OrtBackend {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn describe(&self) -> String {
        format!("ONNX Runtime {}", self.0.version)
    }

    fn open(
        &self,
        source: &ModelSource,
        options: &SessionOptions,
    ) -> Result<Arc<dyn Session>, String> {
        let open = || session::OrtSession::open(&self.0, source, options);
        // The binding asserts here and there on what the library reports of a model.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        let session = opened.unwrap_or_else(|_| {
            Err("ONNX Runtime's binding panicked while it opened the model".to_owned())
        })?;
        Ok(Arc::new(session))
    }

    fn spreads_runs(&self) -> bool {
        true
    }
}
