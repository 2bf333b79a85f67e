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

use super::{
    manifest::{self, Manifest},
    print::{self, Print},
    samples,
};

/// The file of a version.
pub const MODEL_FILE: &str = "model.onnx";
/// Triton's, read where there are no options of ours.
pub const TRITON_FILE: &str = "config.pbtxt";

/// The options of a model.
pub const OPTIONS_FILE: &str = "model.yaml";

/// Bytes that one file of a model may have: Protocol Buffers end at 2 GiB.
const MAX_MODEL_BYTES: u64 = 2 << 30;
/// Bytes that one file of external data may have; more than any machine this runs on would hold twice.
const MAX_EXTERNAL_BYTES: u64 = 256 << 30;
/// A profile of the prediction log, in a version's folder; and how large it may be.
const REFERENCE: &str = "reference.profile";
const MAX_REFERENCE_BYTES: u64 = 64 << 20;
const MAX_OPTIONS_BYTES: u64 = 1 << 20;
const MAX_NAME: usize = 128;

/// What a repository holds at one moment.
#[derive(Debug)]
pub struct Repository {
    /// As it was named. Links on the way are followed anew for every look, since a mounted volume swaps them.
    given: PathBuf,
    /// Without symbolic links: everything that is read lies below it.
    root: PathBuf,
    layout: Layout,
    /// By name.
    pub models: BTreeMap<String, FoundModel>,
}

/// How the place is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One .onnx file.
    File,
    /// One model's folder that holds one .onnx file.
    Flat,
    /// A folder for each model.
    Folders,
}

/// One model as it lies on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundModel {
    /// Its model.yaml, where it has one, relative to the repository.
    pub options: Option<String>,
    /// The model's file of each version, relative to the repository; it may be missing.
    pub versions: BTreeMap<u64, String>,
    /// How the files of each version, and the options, look from outside: another print means that they changed.
    pub prints: BTreeMap<u64, Print>,
    pub options_print: Option<Print>,
    /// Bytes of all files of each version.
    pub bytes: BTreeMap<u64, u64>,
    /// Versions with a manifest.
    pub manifests: BTreeSet<u64>,
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
        let root = real(path)?;
        if root.is_file() {
            return Repository::of_file(path, &root).map_err(|e| format!("'{shown}': {e}"));
        }
        let entries = list(&root)
            .map_err(|e| format!("the model repository '{shown}' cannot be read: {e}"))?;
        let flat: Vec<&Entry> = entries.iter().filter(|e| e.file && is_onnx(&e.name)).collect();
        let folders: Vec<&Entry> = entries.iter().filter(|e| e.folder).collect();
        if !flat.is_empty() && !folders.iter().any(|e| holds_versions(&root.join(&e.name))) {
            return Repository::of_flat(path, root, &flat).map_err(|e| format!("'{shown}': {e}"));
        }
        for entry in entries.iter().filter(|e| !e.folder) {
            tracing::debug!(file = %entry.name, "not a model's folder, ignored");
        }
        let mut repository = Repository::empty(path, root, Layout::Folders);
        for entry in folders {
            if check_name(&entry.name).is_err()
                && !holds_versions(&repository.root.join(&entry.name))
            {
                tracing::debug!(folder = %entry.name, "neither a model's name nor versions inside, ignored");
                continue;
            }
            let found = scan_model(&repository.root, &entry.name);
            repository.models.insert(entry.name.clone(), found);
        }
        Ok(repository)
    }

    /// The place as it is now, without its models.
    fn empty(given: &Path, root: PathBuf, layout: Layout) -> Repository {
        Repository { given: given.to_path_buf(), root, layout, models: BTreeMap::new() }
    }

    /// Lists the whole place anew.
    pub fn again(&self) -> Result<Repository, String> {
        Repository::scan(&self.given)
    }

    /// Looks at these models alone, as they are now. Those that are not there are not in the answer.
    pub fn look<'a>(&self, models: impl Iterator<Item = &'a str>) -> Result<Repository, String> {
        if self.layout != Layout::Folders {
            return self.again();
        }
        let mut seen = Repository::empty(&self.given, real(&self.given)?, self.layout);
        for name in models {
            let plain = check_name(name).is_ok();
            if plain && fs::metadata(seen.root.join(name)).is_ok_and(|m| m.is_dir()) {
                let found = scan_model(&seen.root, name);
                seen.models.insert(name.to_owned(), found);
            }
        }
        Ok(seen)
    }

    /// `given` has the name, `file` (the same without symbolic links) the bytes.
    fn of_file(given: &Path, file: &Path) -> Result<Repository, String> {
        let text = |path: &Path| path.file_name().and_then(|n| n.to_str()).map(String::from);
        let name = text(given).filter(|n| is_onnx(n));
        let name = name.ok_or("expected a directory or a file that ends in .onnx")?;
        let name = name.strip_suffix(".onnx").unwrap_or(&name).to_string();
        check_name(&name)?;
        let versions = text(file).map(|file| BTreeMap::from([(1, file)])).unwrap_or_default();
        let prints = BTreeMap::from([(1, print::of_file(file))]);
        let bytes = fs::metadata(file).map_or(0, |meta| meta.len());
        let bytes = BTreeMap::from([(1, bytes)]);
        let model = FoundModel { versions, prints, bytes, ..FoundModel::default() };
        let root = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut repository = Repository::empty(given, root, Layout::File);
        repository.models.insert(name, model);
        Ok(repository)
    }

    fn of_flat(given: &Path, root: PathBuf, files: &[&Entry]) -> Result<Repository, String> {
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
        let yaml = root.join(OPTIONS_FILE);
        let options = yaml.exists().then(|| OPTIONS_FILE.to_string());
        let (print, bytes) = print::of_folder(&root);
        let model = FoundModel {
            options_print: options.is_some().then(|| print::of_file(&yaml)),
            options,
            versions: BTreeMap::from([(1, file.name.clone())]),
            prints: BTreeMap::from([(1, print)]),
            bytes: BTreeMap::from([(1, bytes)]),
            manifests: root.join(manifest::FILE).is_file().then_some(1).into_iter().collect(),
            problem: None,
        };
        let mut repository = Repository::empty(given, root, Layout::Flat);
        repository.models.insert(name, model);
        Ok(repository)
    }

    /// The place as it was named.
    pub fn given(&self) -> &Path {
        &self.given
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

    /// The recorded samples of the version in `model_file`, relative to the repository: those in its own folder, and those
    /// beside the versions.
    pub fn samples(&self, model_file: &str) -> Result<Vec<String>, String> {
        let own = Path::new(model_file).parent().unwrap_or(Path::new(""));
        let folders = match self.layout {
            Layout::File => return Ok(Vec::new()),
            Layout::Flat => vec![own],
            Layout::Folders => own.parent().into_iter().chain([own]).collect(),
        };
        let mut found = Vec::new();
        for folder in folders.into_iter().map(|folder| folder.join(samples::FOLDER)) {
            let Ok(entries) = list(&self.root.join(&folder)) else { continue };
            let files = entries.into_iter().filter(|e| e.file && e.name.ends_with(".json"));
            found.extend(files.map(|e| folder.join(e.name).to_string_lossy().into_owned()));
        }
        match found.len() <= samples::MOST_SAMPLES {
            true => Ok(found),
            false => Err(format!(
                "{model_file}: it has {} samples, at most {} are read",
                found.len(),
                samples::MOST_SAMPLES
            )),
        }
    }

    /// The manifest of the version in `model_file`, where it has one.
    pub fn manifest(&self, model_file: &str) -> Result<Option<Manifest>, String> {
        let own = Path::new(model_file).parent().unwrap_or(Path::new(""));
        let file = own.join(manifest::FILE);
        // One .onnx file may lie among anything.
        if self.layout == Layout::File || !self.root.join(&file).is_file() {
            return Ok(None);
        }
        let file = file.to_string_lossy();
        let bytes = self.read(&file, manifest::MOST_BYTES)?;
        let read = Manifest::read(&bytes).map_err(|why| format!("{file}: {why}"));
        read.map(Some)
    }

    /// The profile of the rows that the version in `model_file` was made of, where it has one.
    pub fn reference(&self, model_file: &str) -> Result<Option<Vec<u8>>, String> {
        let own = Path::new(model_file).parent().unwrap_or(Path::new(""));
        let file = own.join(REFERENCE);
        match self.layout == Layout::File || !self.root.join(&file).is_file() {
            true => Ok(None),
            false => self.read(&file.to_string_lossy(), MAX_REFERENCE_BYTES).map(Some),
        }
    }

    /// The bytes of one sample.
    pub fn read_sample(&self, file: &str) -> Result<Vec<u8>, String> {
        self.read(file, samples::MOST_BYTES)
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

/// The place without symbolic links.
fn real(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    fs::canonicalize(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("the model repository '{shown}' does not exist"),
        _ => format!("the model repository '{shown}' cannot be read: {e}"),
    })
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
pub(super) fn version_number(name: &str) -> Option<u64> {
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
                let folder = directory.join(&entry.name);
                let (print, bytes) = print::of_folder(&folder);
                model.prints.insert(number, print);
                model.bytes.insert(number, bytes);
                model.manifests.extend(folder.join(manifest::FILE).is_file().then_some(number));
            }
            _ if entry.name == TRITON_FILE && model.options.is_none() => {
                model.options = Some(format!("{name}/{TRITON_FILE}"));
                model.options_print = Some(print::of_file(&directory.join(TRITON_FILE)));
            }
            _ if entry.name == OPTIONS_FILE => {
                model.options = Some(format!("{name}/{OPTIONS_FILE}"));
                model.options_print = Some(print::of_file(&directory.join(OPTIONS_FILE)));
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
#[path = "store_tests.rs"]
mod tests;
