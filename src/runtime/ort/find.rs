//! Finds ONNX Runtime's library on this machine, and loads it.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    ffi::{CStr, CString, OsString, c_void},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use ort_sys::OrtApiBase;

use super::library::Library;

/// Where to look, in order.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    /// Named by somebody, and by whom: the only place.
    named: Option<(PathBuf, &'static str)>,
    files: Vec<PathBuf>,
}

/// Loads the library: `explicit`, or the first of the places where one may be.
pub fn find(explicit: Option<&Path>) -> Result<Library, String> {
    search(&places(
        explicit,
        std::env::var_os("ORT_DYLIB_PATH"),
        std::env::current_exe().ok(),
        data_home(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")),
    ))
}

/// What `explicit` names, where that is not the library that is loaded.
pub fn other(explicit: Option<&Path>, loaded: &Path) -> Option<PathBuf> {
    explicit.map(file_in).filter(|wanted| !same_file(wanted, loaded))
}

fn search(places: &Places) -> Result<Library, String> {
    if let Some((path, by)) = &places.named {
        let message = |e| format!("ONNX Runtime named by {by}: {e}");
        if !path.is_file() {
            return Err(message(format!("there is no file {}", path.display())));
        }
        return open(path).map_err(message);
    }
    let mut looked = Vec::new();
    for path in &places.files {
        // A bare name is the loader's to find.
        if path.components().count() > 1 && !path.is_file() {
            looked.push(path.display().to_string());
            continue;
        }
        match open(path) {
            Ok(library) => return Ok(library),
            Err(e) => looked.push(e),
        }
    }
    Err(format!(
        "no ONNX Runtime library found; looked at {} (scripts/fetch-onnxruntime.sh fetches one, --onnxruntime-lib or \
         ORT_DYLIB_PATH names one)",
        looked.join(", ")
    ))
}

fn file_name() -> String {
    format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}")
}

/// The library itself where a directory is named; absolute, since the loader takes a relative path from elsewhere.
fn file_in(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_dir() { path.join(file_name()) } else { path }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn data_home(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let set = |v: OsString| if v.is_empty() { None } else { Some(PathBuf::from(v)) };
    xdg.and_then(set).or_else(|| home.and_then(set).map(|h| h.join(".local/share")))
}

fn places(
    explicit: Option<&Path>,
    variable: Option<OsString>,
    executable: Option<PathBuf>,
    data: Option<PathBuf>,
) -> Places {
    let named = match (explicit, variable.filter(|v| !v.is_empty())) {
        (Some(path), _) => Some((file_in(path), "configuration")),
        (None, Some(path)) => Some((file_in(Path::new(&path)), "ORT_DYLIB_PATH")),
        _ => None,
    };
    let mut files = Vec::new();
    if let Some(folder) = executable.as_deref().and_then(Path::parent) {
        files.push(folder.join(file_name()));
        if let Some(above) = folder.parent() {
            files.push(above.join("lib").join(file_name()));
            files.push(above.join("onnxruntime/lib").join(file_name()));
        }
    }
    if let Some(data) = data {
        files.push(data.join("onnxd/lib").join(file_name()));
    }
    files.push(file_name().into());
    // What distributions install without their development package.
    files.push(format!("{}.1", file_name()).into());
    Places { named, files }
}

/// Loads the library at this path.
fn open(path: &Path) -> Result<Library, String> {
    let builder = ::ort::init_from(path).map_err(|e| e.to_string())?;
    let version = version(path).unwrap_or_else(|| "of unknown version".to_owned());
    Library::new(builder, path, version)
}

/// The version that a loaded library gives itself; the binding knows it, and does not tell.
fn version(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the library is loaded (RTLD_NOLOAD gives a handle only then) and stays so; `OrtGetApiBase` and
    // `GetVersionString` have had these signatures since the first version, and the text is static.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return None;
        }
        let symbol = libc::dlsym(handle, c"OrtGetApiBase".as_ptr());
        libc::dlclose(handle);
        if symbol.is_null() {
            return None;
        }
        let base: unsafe extern "C" fn() -> *const OrtApiBase =
            std::mem::transmute::<*mut c_void, _>(symbol);
        let text = ((*base()).GetVersionString)();
        CStr::from_ptr(text).to_str().ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_the_documented_order() {
        let found = places(
            None,
            None,
            Some("/opt/onnxd/bin/onnxd".into()),
            data_home(None, Some("/home/a".into())),
        );
        assert_eq!(found.named, None);
        let files: Vec<_> = found.files.iter().map(|f| f.display().to_string()).collect();
        assert_eq!(
            files,
            [
                "/opt/onnxd/bin/libonnxruntime.so",
                "/opt/onnxd/lib/libonnxruntime.so",
                "/opt/onnxd/onnxruntime/lib/libonnxruntime.so",
                "/home/a/.local/share/onnxd/lib/libonnxruntime.so",
                "libonnxruntime.so",
                "libonnxruntime.so.1",
            ]
        );
        assert_eq!(data_home(Some("/data".into()), Some("/home/a".into())), Some("/data".into()));
        assert_eq!(data_home(Some("".into()), None), None);
    }

    #[test]
    fn one_that_is_named_is_the_only_one() {
        let named = |explicit, variable: Option<&str>| {
            places(explicit, variable.map(OsString::from), None, None).named
        };
        let file = Path::new("/a/x.so");
        assert_eq!(named(Some(file), Some("/b")), Some((file.into(), "configuration")));
        assert_eq!(named(None, Some("/b/y.so")), Some(("/b/y.so".into(), "ORT_DYLIB_PATH")));
        assert_eq!(named(None, Some("")), None);
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("libonnxruntime.so");
        assert_eq!(named(Some(folder.path()), None), Some((inside, "configuration")));
    }

    #[test]
    fn failures_say_where() {
        let missing = Places {
            named: Some(("/nowhere/x.so".into(), "configuration")),
            files: vec!["libonnxruntime.so".into()],
        };
        let error = search(&missing).err().unwrap();
        assert!(error.contains("configuration") && error.contains("/nowhere/x.so"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("libonnxruntime.so");
        std::fs::write(&wrong, "no library").unwrap();
        let absent = folder.path().join("absent.so");
        let places = Places { named: None, files: vec![absent.clone(), wrong.clone()] };
        let error = search(&places).err().unwrap();
        assert!(error.contains(absent.to_str().unwrap()), "{error}");
        assert!(error.contains(wrong.to_str().unwrap()), "{error}");
        assert!(error.contains("fetch-onnxruntime.sh"), "{error}");
    }
}
