//! The local copy of a repository on an object store: what it holds, and changes to it that show whole or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{
    print,
    remote_plan::{Mark, Mirrored, MirroredModel, Surplus},
    store::version_number,
};

/// Says whose copy a directory is; nothing is written to, or taken from, one without it.
const MARKER: &str = "mirror.json";
const LOCK: &str = "lock";
/// What is served; beside it, what is on its way in, or out.
const TREE: &str = "repository";
const STAGE: &str = "stage";
/// In every model's and every version's folder, where the repository does not look: what it was made of.
const NOTE: &str = ".mirrored";

/// A directory that this process alone writes.
#[derive(Debug)]
pub struct Mirror {
    root: PathBuf,
    staged: AtomicU64,
    /// Held for as long as this lives.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u64,
    source: String,
}

/// The note of a version.
#[derive(Serialize, Deserialize)]
struct VersionNote {
    print: String,
    bytes: u64,
}

/// The note of a model: the tag of each file beside the versions.
#[derive(Default, Serialize, Deserialize)]
struct ModelNote {
    files: BTreeMap<String, String>,
}

impl Mirror {
    /// The directory as the copy of `source`, made where there is none. Refused: one that holds anything else, or that
    /// another process writes.
    pub fn open(root: &Path, source: &str) -> Result<Mirror, String> {
        let shown = root.display();
        let fail = |error: io::Error| format!("the mirror '{shown}' cannot be used: {error}");
        make(root).map_err(fail)?;
        let marker = root.join(MARKER);
        match fs::read(&marker) {
            Ok(bytes) => check_marker(&bytes, source).map_err(|e| format!("'{shown}' {e}"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let foreign = |name: &std::ffi::OsStr| name != LOCK;
                if fs::read_dir(root).map_err(fail)?.flatten().any(|e| foreign(&e.file_name())) {
                    return Err(format!(
                        "'{shown}' is no mirror of an object store and not empty: name another directory (store.mirror)"
                    ));
                }
            }
            Err(error) => return Err(fail(error)),
        }
        let lock = lock(&root.join(LOCK)).map_err(|error| match error {
            TryLockError::WouldBlock => format!(
                "another process has the mirror '{shown}' in use: each server needs its own (store.mirror)"
            ),
            TryLockError::Error(error) => fail(error),
        })?;
        let marked = Marker { format: 1, source: source.to_owned() };
        write_json(&root.join(MARKER), &marked).map_err(fail)?;
        // What a process left behind that was killed.
        match fs::remove_dir_all(root.join(STAGE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        make(&root.join(STAGE)).and_then(|()| make(&root.join(TREE))).map_err(fail)?;
        Ok(Mirror { root: root.to_path_buf(), staged: AtomicU64::new(0), _lock: lock })
    }

    /// The repository in it.
    pub fn tree(&self) -> PathBuf {
        self.root.join(TREE)
    }

    /// What it holds. A version whose files are not those that were written has an empty print, so that it is read again.
    pub fn read(&self) -> Mirrored {
        let mut all = Mirrored::new();
        for (name, path) in folders(&self.tree()) {
            let note: ModelNote = read_json(&path.join(NOTE)).unwrap_or_default();
            let mut model = MirroredModel { files: note.files, ..MirroredModel::default() };
            for (version, path) in folders(&path) {
                let Some(number) = version_number(&version) else { continue };
                let (_, bytes) = print::of_folder(&path);
                let note: Option<VersionNote> = read_json(&path.join(NOTE));
                let mark = match note.filter(|note| note.bytes == bytes) {
                    Some(note) => Mark { print: note.print, bytes },
                    None => Mark { print: String::new(), bytes },
                };
                model.versions.insert(number, mark);
            }
            all.insert(name, model);
        }
        all
    }

    /// An empty folder for what comes in.
    pub fn stage(&self) -> io::Result<PathBuf> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(STAGE).join(number.to_string());
        make(&path)?;
        Ok(path)
    }

    /// Notes in a staged version what it was made of.
    pub fn note_version(&self, staged: &Path, mark: &Mark) -> io::Result<()> {
        let note = VersionNote { print: mark.print.clone(), bytes: mark.bytes };
        write_json(&staged.join(NOTE), &note)
    }

    /// Notes what a model has beside its versions.
    pub fn note_model(&self, folder: &Path, files: &BTreeMap<String, String>) -> io::Result<()> {
        let note = ModelNote { files: files.clone() };
        let staged = self.stage()?;
        let path = staged.join(NOTE);
        write_json(&path, &note)?;
        fs::rename(&path, folder.join(NOTE))?;
        fs::remove_dir(staged)
    }

    /// Where a model lies.
    pub fn model(&self, name: &str) -> PathBuf {
        self.tree().join(name)
    }

    /// Shows a staged folder or file at `place`, relative to the repository, at once; what was there goes.
    pub fn show(&self, staged: &Path, place: &str) -> io::Result<()> {
        let to = self.tree().join(place);
        let parent = to.parent().unwrap_or(&self.root);
        make(parent)?;
        if fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_dir()) {
            exchange(staged, &to)?;
            fs::remove_dir_all(staged)?;
        } else {
            fs::rename(staged, &to)?;
        }
        File::open(parent)?.sync_all()
    }

    /// Takes something away: out of sight at once, and then off the disk.
    pub fn remove(&self, surplus: &Surplus) -> io::Result<()> {
        let from = match surplus {
            Surplus::Model(model) => self.model(model),
            Surplus::Version(model, number) => self.model(model).join(number.to_string()),
            Surplus::File(model, path) => {
                return gone(fs::remove_file(self.model(model).join(path)));
            }
        };
        let stage = self.stage()?;
        gone(fs::rename(from, stage.join("gone")))?;
        fs::remove_dir_all(stage)
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

fn check_marker(bytes: &[u8], source: &str) -> Result<(), String> {
    let marker: Marker = serde_json::from_slice(bytes)
        .map_err(|error| format!("has a {MARKER} that cannot be read: {error}"))?;
    match marker.source == source && marker.format == 1 {
        true => Ok(()),
        false => Err(format!(
            "is the mirror of {}, not of {source}: name another directory (store.mirror), or remove it",
            marker.source.escape_debug()
        )),
    }
}

fn lock(path: &Path) -> Result<File, TryLockError> {
    let mut options = fs::OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

/// Makes a directory for this user alone, and those above it.
fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Every visible folder in a folder, by name; no link.
fn folders(path: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let folder = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let visible = !name.starts_with('.') && entry.file_type().is_ok_and(|t| t.is_dir());
        visible.then(|| (name, entry.path()))
    };
    entries.flatten().filter_map(folder).collect()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()
}

/// A new file inside a staged folder, with the folders on the way. `path` comes from a listing that was sorted.
pub fn create(folder: &Path, path: &str) -> io::Result<File> {
    let path = folder.join(path);
    if let Some(parent) = path.parent() {
        make(parent)?;
    }
    // New: no link is followed.
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

/// Two folders change places at once; where the file system cannot do that, one after the other.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use std::{ffi::CString, os::unix::ffi::OsStrExt};
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (from, to) = (text(a)?, text(b)?);
    // SAFETY: both are NUL-terminated strings that outlive the call, which takes no other pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            let aside = a.with_extension("aside");
            fs::rename(b, &aside)?;
            fs::rename(a, b)?;
            fs::rename(&aside, a)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const URL: &str = "s3://bucket/models";

    fn staged(mirror: &Mirror, text: &str, print: &str) -> PathBuf {
        let stage = mirror.stage().unwrap();
        create(&stage, "data/model.onnx").unwrap().write_all(text.as_bytes()).unwrap();
        let mark = Mark { print: print.into(), bytes: text.len() as u64 };
        mirror.note_version(&stage, &mark).unwrap();
        stage
    }

    #[test]
    fn what_is_shown_is_read_again_after_a_restart_and_what_is_staged_is_not() {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("deep/mirror");
        let mirror = Mirror::open(&root, URL).unwrap();
        mirror.show(&staged(&mirror, "one", "p1"), "wine/1").unwrap();
        mirror.show(&staged(&mirror, "two", "p2"), "wine/2").unwrap();
        mirror
            .note_model(&mirror.model("wine"), &BTreeMap::from([("a".into(), "t".into())]))
            .unwrap();
        let left = staged(&mirror, "half", "p3");
        drop(mirror);
        let mirror = Mirror::open(&root, URL).unwrap();
        let mark = |print: &str| Mark { print: print.into(), bytes: 3 };
        let expected = MirroredModel {
            versions: BTreeMap::from([(1, mark("p1")), (2, mark("p2"))]),
            files: BTreeMap::from([("a".into(), "t".into())]),
        };
        assert_eq!(mirror.read(), Mirrored::from([("wine".into(), expected)]));
        assert!(!left.exists());
        // Another content in its place, at once; and a file that somebody cut.
        mirror.show(&staged(&mirror, "new", "p4"), "wine/2").unwrap();
        let file = mirror.model("wine").join("2/data/model.onnx");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        fs::write(file, "n").unwrap();
        assert_eq!(mirror.read()["wine"].versions[&2].print, "");
        for surplus in [Surplus::Version("wine".into(), 2), Surplus::Version("wine".into(), 7)] {
            mirror.remove(&surplus).unwrap();
        }
        assert_eq!(mirror.read()["wine"].versions.len(), 1);
        mirror.remove(&Surplus::Model("wine".into())).unwrap();
        assert_eq!(mirror.read(), Mirrored::new());
        assert_eq!(fs::read_dir(root.join(STAGE)).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let mirror = Mirror::open(dir.path(), URL).unwrap();
        let second = Mirror::open(dir.path(), URL).unwrap_err();
        assert!(second.contains("another process"), "{second}");
        drop(mirror);
        let other = Mirror::open(dir.path(), "gs://other").unwrap_err();
        assert!(
            other.contains("is the mirror of s3://bucket/models, not of gs://other"),
            "{other}"
        );
        let mine = TempDir::new().unwrap();
        fs::write(mine.path().join("thesis.tex"), "x").unwrap();
        let foreign = Mirror::open(mine.path(), URL).unwrap_err();
        assert!(foreign.contains("not empty"), "{foreign}");
        fs::write(dir.path().join(MARKER), "{").unwrap();
        assert!(Mirror::open(dir.path(), URL).unwrap_err().contains("cannot be read"));
    }
}
