//! What a repository on a local path holds, and the verified bytes of its models.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The file of a version.
pub const MODEL_FILE: &str = "model.onnx";
/// The options of a model.
pub const OPTIONS_FILE: &str = "model.yaml";

/// Bytes that one file of a model may have: Protocol Buffers end at 2 GiB.
const MAX_MODEL_BYTES: u64 = 2 << 30;
/// Bytes that one file of external data may have; more than any machine this runs on would hold twice.
const MAX_EXTERNAL_BYTES: u64 = 256 << 30;
const MAX_OPTIONS_BYTES: u64 = 1 << 20;
const MAX_NAME: usize = 128;

/// What a repository holds at one moment.
#[derive(Debug)]
pub struct Repository {
    /// Without symbolic links: everything that is read lies below it.
    root: PathBuf,
    /// By name.
    pub models: BTreeMap<String, FoundModel>,
}

/// One model as it lies on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundModel {
    /// Its model.yaml, where it has one, relative to the repository.
    pub options: Option<String>,
    /// The model's file of each version, relative to the repository; it may be missing.
    pub versions: BTreeMap<u64, String>,
    /// Why none of it can serve, where that is so.
    pub problem: Option<String>,
}

impl FoundModel {
    pub fn numbers(&self) -> BTreeSet<u64> {
        self.versions.keys().copied().collect()
    }
}

/// A file of a model, read once: what was hashed is what is loaded.
#[derive(Debug)]
pub struct Content {
    pub bytes: Bytes,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Repository {
    /// Lists what is at `path`: a repository, one .onnx file, or a directory that holds one. The error says what is
    /// wrong with the place itself; what is wrong with one model stands in `FoundModel::problem`.
    pub fn scan(path: &Path) -> Result<Repository, String> {
        let shown = path.display();
        let root = fs::canonicalize(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("the model repository '{shown}' does not exist"),
            _ => format!("the model repository '{shown}' cannot be read: {e}"),
        })?;
        if root.is_file() {
            return Repository::of_file(path, &root).map_err(|e| format!("'{shown}': {e}"));
        }
        let entries = list(&root)
            .map_err(|e| format!("the model repository '{shown}' cannot be read: {e}"))?;
        let flat: Vec<&Entry> = entries.iter().filter(|e| e.file && is_onnx(&e.name)).collect();
        let folders: Vec<&Entry> = entries.iter().filter(|e| e.folder).collect();
        if !flat.is_empty() && !folders.iter().any(|e| holds_versions(&root.join(&e.name))) {
            return Repository::of_flat(root.clone(), &flat).map_err(|e| format!("'{shown}': {e}"));
        }
        for entry in entries.iter().filter(|e| !e.folder) {
            tracing::debug!(file = %entry.name, "not a model's folder, ignored");
        }
        let mut models = BTreeMap::new();
        for entry in folders {
            if check_name(&entry.name).is_err() && !holds_versions(&root.join(&entry.name)) {
                tracing::debug!(folder = %entry.name, "neither a model's name nor versions inside, ignored");
                continue;
            }
            models.insert(entry.name.clone(), scan_model(&root, &entry.name));
        }
        Ok(Repository { root, models })
    }

    /// `given` has the name, `file` (the same without symbolic links) the bytes.
    fn of_file(given: &Path, file: &Path) -> Result<Repository, String> {
        let text = |path: &Path| path.file_name().and_then(|n| n.to_str()).map(String::from);
        let name = text(given).filter(|n| is_onnx(n));
        let name = name.ok_or("expected a directory or a file that ends in .onnx")?;
        let name = name.strip_suffix(".onnx").unwrap_or(&name).to_string();
        check_name(&name)?;
        let versions = text(file).map(|file| BTreeMap::from([(1, file)])).unwrap_or_default();
        let model = FoundModel { versions, ..FoundModel::default() };
        let root = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Repository { root, models: BTreeMap::from([(name, model)]) })
    }

    fn of_flat(root: PathBuf, files: &[&Entry]) -> Result<Repository, String> {
        let [file] = files else {
            let names: Vec<&str> = files.iter().map(|e| e.name.as_str()).collect();
            return Err(format!(
                "a directory that is served as one model holds one .onnx file, this one holds {}; several models \
                 are laid out as <model>/<version>/{MODEL_FILE}",
                names.join(", ")
            ));
        };
        let name = root.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
        check_name(&name)?;
        let options = root.join(OPTIONS_FILE).exists().then(|| OPTIONS_FILE.to_string());
        let versions = BTreeMap::from([(1, file.name.clone())]);
        let model = FoundModel { options, versions, problem: None };
        Ok(Repository { root, models: BTreeMap::from([(name, model)]) })
    }

    /// The text of a model's options file.
    pub fn read_options(&self, file: &str) -> Result<String, String> {
        let bytes = self.read(file, MAX_OPTIONS_BYTES)?;
        String::from_utf8(bytes).map_err(|_| format!("{file}: it is no UTF-8 text"))
    }

    /// The bytes of a version's model. A symbolic link is followed as long as it stays inside the repository.
    pub fn read_model(&self, file: &str) -> Result<Content, String> {
        let bytes = self.read(file, MAX_MODEL_BYTES)?;
        if bytes.is_empty() {
            return Err(format!("{file}: the file is empty"));
        }
        Ok(Content::of(bytes))
    }

    /// The bytes of a file of external data that the model in `model_file` names. The model's author chooses that
    /// name, so it is held to a plain file with one link inside the version's directory.
    pub fn read_external(&self, model_file: &str, location: &str) -> Result<Content, String> {
        let fail =
            |why: String| format!("{model_file}: external data '{}': {why}", printable(location));
        let parts = location_parts(location).map_err(|e| fail(e.into()))?;
        let directory =
            self.inside(Path::new(model_file).parent().unwrap_or(Path::new("")), model_file)?;
        let file = open_beneath(&directory, &parts).map_err(&fail)?;
        let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
        if !meta.is_file() {
            return Err(fail("it is no plain file".into()));
        }
        if meta.nlink() != 1 {
            return Err(fail(format!(
                "the file has {} hard links, expected 1: a second name may lie anywhere on this disk",
                meta.nlink()
            )));
        }
        read_all(file, meta.len(), MAX_EXTERNAL_BYTES).map(Content::of).map_err(fail)
    }

    fn read(&self, file: &str, limit: u64) -> Result<Vec<u8>, String> {
        let fail = |e: io::Error| format!("{file}: {}", plain(&e));
        let path = self.inside(Path::new(file), file)?;
        // Nonblocking, so that a named pipe ends in an error and not in a wait.
        let open = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(fail)?;
        let meta = open.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(format!("{file}: it is no plain file"));
        }
        read_all(open, meta.len(), limit).map_err(|e| format!("{file}: {e}"))
    }

    /// The path without symbolic links of what lies inside the repository.
    fn inside(&self, relative: &Path, shown: &str) -> Result<PathBuf, String> {
        let path = fs::canonicalize(self.root.join(relative))
            .map_err(|e| format!("{shown}: {}", plain(&e)))?;
        if path.starts_with(&self.root) {
            Ok(path)
        } else {
            Err(format!("{shown}: it is a symbolic link that leads out of the repository"))
        }
    }
}

impl Content {
    fn of(bytes: Vec<u8>) -> Content {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Content { bytes: Bytes::from(bytes), sha256 }
    }
}

struct Entry {
    name: String,
    file: bool,
    folder: bool,
}

/// Visible entries by name, links followed to see what they are. Names that are no UTF-8 are shown with replacements
/// (and are no model's name for that).
fn list(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let meta = fs::metadata(entry.path());
        let (file, folder) = meta.map_or((false, false), |m| (m.is_file(), m.is_dir()));
        entries.push(Entry { name, file, folder });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn is_onnx(name: &str) -> bool {
    name.len() > 5 && name.ends_with(".onnx")
}

/// Whether this looks like a model's folder.
fn holds_versions(directory: &Path) -> bool {
    list(directory).is_ok_and(|l| l.iter().any(|e| e.folder && version_number(&e.name).is_some()))
}

/// A positive integer without leading zeros that every protocol's number can hold.
fn version_number(name: &str) -> Option<u64> {
    let plain = name.bytes().all(|b| b.is_ascii_digit()) && !name.starts_with('0');
    let number: i64 = if plain { name.parse().ok()? } else { return None };
    u64::try_from(number).ok().filter(|n| *n > 0)
}

/// Model names go into URLs, metrics and file names: `[A-Za-z0-9_.-]`, at most 128 of them, no dot in front.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if plain && !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "'{}' is no name for a model, expected 1 to {MAX_NAME} of A-Z a-z 0-9 _ . - without a dot in front",
        printable(name)
    ))
}

fn scan_model(root: &Path, name: &str) -> FoundModel {
    let mut model = FoundModel { problem: check_name(name).err(), ..FoundModel::default() };
    let directory = root.join(name);
    let entries = match list(&directory) {
        Ok(entries) => entries,
        Err(e) => {
            model
                .problem
                .get_or_insert(format!("{name}: the folder cannot be read: {}", plain(&e)));
            return model;
        }
    };
    for entry in &entries {
        match version_number(&entry.name) {
            Some(number) if entry.folder => {
                model.versions.insert(number, format!("{name}/{}/{MODEL_FILE}", entry.name));
            }
            _ if entry.name == OPTIONS_FILE => {
                model.options = Some(format!("{name}/{OPTIONS_FILE}"))
            }
            _ => {
                tracing::debug!(model = name, entry = %entry.name, "not a version's folder, ignored")
            }
        }
    }
    if model.versions.is_empty() {
        let problem = no_version(name, &entries);
        model.problem.get_or_insert(problem);
    }
    model
}

/// Says what is expected, and what was probably meant.
fn no_version(name: &str, entries: &[Entry]) -> String {
    let expected =
        format!("expected {name}/<version>/{MODEL_FILE}, where version is a number from 1 up");
    if entries.iter().any(|e| e.file && e.name == MODEL_FILE) {
        if version_number(name).is_some() {
            return format!(
                "{name}/{MODEL_FILE} looks like a version, not a model: the repository is the folder above the \
                 model's"
            );
        }
        return format!(
            "it has no version: {expected}; move {name}/{MODEL_FILE} to {name}/1/{MODEL_FILE}"
        );
    }
    format!("it has no version: {expected}")
}

/// The components of a location, or why it is refused.
fn location_parts(location: &str) -> Result<Vec<CString>, &'static str> {
    let path = Path::new(location);
    if path.is_absolute() {
        return Err("an absolute path, expected a file beside the model");
    }
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                let part = CString::new(part.as_encoded_bytes());
                parts.push(part.map_err(|_| "a NUL in its name")?);
            }
            Component::CurDir => {}
            _ => return Err("a path with '..', expected a file inside the version's directory"),
        }
    }
    if parts.is_empty() { Err("it has no name") } else { Ok(parts) }
}

/// Opens a file below `directory` step by step, through no symbolic link: what is checked is what is opened.
fn open_beneath(directory: &Path, parts: &[CString]) -> Result<File, String> {
    let mut at: OwnedFd = File::open(directory).map_err(|e| plain(&e))?.into();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        let kind = if last { libc::O_NONBLOCK } else { libc::O_DIRECTORY };
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | kind;
        // SAFETY: `at` is an open descriptor and `part` a NUL-terminated string; both outlive the call.
        let fd = unsafe { libc::openat(at.as_raw_fd(), part.as_ptr(), flags) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            // With O_DIRECTORY a symbolic link is told as "not a directory".
            return Err(match error.raw_os_error() {
                Some(libc::ELOOP) => "it is a symbolic link, expected a plain file".into(),
                Some(libc::ENOTDIR) if !last => {
                    "its path leads through what is no plain directory".into()
                }
                _ => plain(&error),
            });
        }
        // SAFETY: the call above just opened `fd`, and nobody else owns it.
        at = unsafe { OwnedFd::from_raw_fd(fd) };
    }
    Ok(File::from(at))
}

/// All of an open file; `length` is what it says about itself, a file that grows meanwhile is refused.
fn read_all(mut file: File, length: u64, limit: u64) -> Result<Vec<u8>, String> {
    if length > limit {
        return Err(format!("the file has {length} bytes, at most {limit} are read"));
    }
    let capacity = usize::try_from(length).map_err(|_| "the file is too large for this machine")?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(capacity.saturating_add(1))
        .map_err(|_| format!("no memory for its {length} bytes"))?;
    file.by_ref().take(length + 1).read_to_end(&mut bytes).map_err(|e| plain(&e))?;
    if bytes.len() != capacity {
        return Err("the file changed while it was read".into());
    }
    Ok(bytes)
}

/// The system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file does not exist".into(),
        io::ErrorKind::PermissionDenied => "no permission to read the file".into(),
        _ => error.to_string(),
    }
}

/// A name for a message: control characters escaped, length capped.
fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(MAX_NAME).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_NAME).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn write(root: &Path, file: &str, bytes: &[u8]) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn problem(repository: &Repository, model: &str) -> String {
        repository.models[model].problem.clone().unwrap_or_default()
    }

    #[test]
    fn a_repository_is_listed() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "iris/1/model.onnx", b"a");
        write(dir.path(), "iris/12/model.onnx", b"b");
        write(dir.path(), "iris/03/model.onnx", b"leading zero");
        write(dir.path(), "iris/0/model.onnx", b"zero");
        write(dir.path(), "iris/99999999999999999999/model.onnx", b"no number");
        write(dir.path(), "iris/.tmp/model.onnx", b"hidden");
        write(dir.path(), "iris/model.yaml", b"");
        write(dir.path(), ".git/1/model.onnx", b"hidden");
        write(dir.path(), "README.md", b"text");
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        let repository = Repository::scan(dir.path()).unwrap();
        assert_eq!(repository.models.keys().collect::<Vec<_>>(), ["iris"]);
        let iris = &repository.models["iris"];
        assert_eq!(iris.options.as_deref(), Some("iris/model.yaml"));
        assert_eq!(iris.numbers(), BTreeSet::from([1, 12]));
        assert_eq!(iris.problem, None);
        assert_eq!(repository.read_model(&iris.versions[&12]).unwrap().bytes, &b"b"[..]);
    }

    #[test]
    fn what_is_hashed_is_what_is_read() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "m/1/model.onnx", b"abc");
        let content = Repository::scan(dir.path()).unwrap().read_model("m/1/model.onnx").unwrap();
        assert_eq!(
            content.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(content.bytes, &b"abc"[..]);
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = Repository::scan(Path::new("/no/such/place")).unwrap_err();
        assert_eq!(error, "the model repository '/no/such/place' does not exist");
    }

    #[test]
    fn a_file_and_a_flat_directory_serve_as_version_one() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "kserve/model.onnx", b"m");
        write(dir.path(), "kserve/model.yaml", b"");
        write(dir.path(), "kserve/labels.txt", b"");
        let flat = Repository::scan(&dir.path().join("kserve")).unwrap();
        assert_eq!(flat.models["kserve"].versions[&1], "model.onnx");
        assert_eq!(flat.models["kserve"].options.as_deref(), Some("model.yaml"));
        assert!(flat.read_model("model.onnx").is_ok());

        write(dir.path(), "iris.onnx", b"m");
        let file = Repository::scan(&dir.path().join("iris.onnx")).unwrap();
        assert_eq!(file.models["iris"].versions[&1], "iris.onnx");
        assert!(file.read_model("iris.onnx").is_ok());

        write(dir.path(), "two/a.onnx", b"m");
        write(dir.path(), "two/b.onnx", b"m");
        let error = Repository::scan(&dir.path().join("two")).unwrap_err();
        assert!(error.contains("a.onnx, b.onnx") && error.contains("<model>/<version>"), "{error}");
        assert!(Repository::scan(&dir.path().join("kserve/labels.txt")).is_err());
        assert!(Repository::scan(&dir.path().join("kserve")).is_ok());
    }

    #[test]
    fn a_model_without_a_version_says_what_is_expected() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "iris/model.onnx", b"m");
        write(dir.path(), "empty/notes.txt", b"m");
        write(dir.path(), "good/1/model.onnx", b"m");
        write(dir.path(), "my model/1/model.onnx", b"m");
        let repository = Repository::scan(dir.path()).unwrap();
        assert!(problem(&repository, "iris").contains("move iris/model.onnx to iris/1/model.onnx"));
        assert!(problem(&repository, "empty").contains("expected empty/<version>/model.onnx"));
        assert!(problem(&repository, "my model").contains("no name for a model"));
        assert_eq!(problem(&repository, "good"), "");
        // The model's own folder given as the repository.
        let inner = Repository::scan(&dir.path().join("good")).unwrap();
        assert!(problem(&inner, "1").contains("the repository is the folder above"));
    }

    #[test]
    fn names_are_held_to_the_rule() {
        for good in ["a", "A-b_c.9", &"x".repeat(128)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "a/b", "ä", "a b", "a\n", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_models_link_stays_inside() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "repo/blobs/1/model.onnx", b"blob");
        write(dir.path(), "outside.onnx", b"secret");
        fs::create_dir_all(dir.path().join("repo/m/1")).unwrap();
        fs::create_dir_all(dir.path().join("repo/m/2")).unwrap();
        fs::create_dir_all(dir.path().join("repo/m/3/model.onnx")).unwrap();
        symlink("../../blobs/1/model.onnx", dir.path().join("repo/m/1/model.onnx")).unwrap();
        symlink("../../../outside.onnx", dir.path().join("repo/m/2/model.onnx")).unwrap();
        write(dir.path(), "repo/m/5/model.onnx", b"");
        let repository = Repository::scan(&dir.path().join("repo")).unwrap();
        let read = |v: u64| repository.read_model(&format!("m/{v}/model.onnx"));
        assert_eq!(read(1).unwrap().bytes, &b"blob"[..]);
        assert!(read(2).unwrap_err().contains("leads out of the repository"));
        assert!(read(3).unwrap_err().contains("no plain file"));
        assert_eq!(read(4).unwrap_err(), "m/4/model.onnx: the file does not exist");
        assert_eq!(read(5).unwrap_err(), "m/5/model.onnx: the file is empty");
    }

    #[test]
    fn external_data_is_a_plain_file_in_the_versions_directory() {
        let dir = TempDir::new().unwrap();
        let version = dir.path().join("m/1");
        write(dir.path(), "m/1/model.onnx", b"m");
        write(dir.path(), "m/1/data.bin", b"weights");
        write(dir.path(), "m/1/deep/er.bin", b"more");
        write(dir.path(), "m/outside.bin", b"secret");
        write(dir.path(), "m/1/two.bin", b"x");
        fs::hard_link(version.join("two.bin"), version.join("second.bin")).unwrap();
        symlink("data.bin", version.join("link.bin")).unwrap();
        symlink("..", version.join("up")).unwrap();
        symlink("deep", version.join("linked")).unwrap();
        let repository = Repository::scan(dir.path()).unwrap();
        let read = |location: &str| repository.read_external("m/1/model.onnx", location);
        assert_eq!(read("data.bin").unwrap().bytes, &b"weights"[..]);
        assert_eq!(read("./deep/er.bin").unwrap().bytes, &b"more"[..]);
        for (location, why) in [
            ("../outside.bin", "'..'"),
            ("deep/../data.bin", "'..'"),
            ("/etc/passwd", "absolute"),
            ("", "no name"),
            (".", "no name"),
            ("link.bin", "symbolic link"),
            ("up/outside.bin", "no plain directory"),
            ("linked/er.bin", "no plain directory"),
            ("two.bin", "2 hard links"),
            ("deep", "no plain file"),
            ("missing.bin", "does not exist"),
            ("nul\0.bin", "NUL"),
        ] {
            let error = read(location).unwrap_err();
            assert!(error.starts_with("m/1/model.onnx: external data '"), "{error}");
            assert!(error.contains(why), "{location}: {error}");
            assert!(!error.contains(&*dir.path().to_string_lossy()), "{error}");
        }
    }
}
