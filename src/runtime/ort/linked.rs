//! ONNX Runtime linked into this binary: nothing to find.

use std::{
    ffi::CStr,
    path::{Path, PathBuf},
};

use super::library::Library;

/// The library that is built in.
pub fn find(explicit: Option<&Path>) -> Result<Library, String> {
    if let Some(path) = explicit {
        let path = path.display();
        return Err(format!(
            "ONNX Runtime is built into this binary, and {path} cannot take its place"
        ));
    }
    // SAFETY: both have had these signatures since the first version, and the text is static.
    let version = unsafe { CStr::from_ptr(((*ort_sys::OrtGetApiBase()).GetVersionString)()) };
    let version = version.to_string_lossy().into_owned();
    Library::new(::ort::init(), Path::new("the ONNX Runtime in this binary"), version)
}

/// What `explicit` names: never the library that is built in.
pub fn other(explicit: Option<&Path>, _loaded: &Path) -> Option<PathBuf> {
    explicit.map(Path::to_owned)
}
