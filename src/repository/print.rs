//! How files look from outside, in one number: whether they changed is found out without reading them.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Of names, sizes, times and inodes. Whoever may write the files could forge the same number, and would gain a version
/// that is not loaded.
pub type Print = u64;

/// Folders within folders that are looked at, and files of one version.
const DEEPEST: usize = 8;
const MOST_FILES: usize = 4096;

/// Of one file, with the links on the way followed.
pub fn of_file(path: &Path) -> Print {
    let mut walk = Walk { hasher: DefaultHasher::new(), left: 0, bytes: 0 };
    walk.file(path);
    walk.hasher.finish()
}

/// Of everything visible in a folder, and in those inside it; and how many bytes that is.
pub fn of_folder(path: &Path) -> (Print, u64) {
    let mut walk = Walk { hasher: DefaultHasher::new(), left: MOST_FILES, bytes: 0 };
    walk.folder(path, DEEPEST);
    (walk.hasher.finish(), walk.bytes)
}

struct Walk {
    hasher: DefaultHasher,
    left: usize,
    bytes: u64,
}

impl Walk {
    fn folder(&mut self, path: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(path) else { return };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort_unstable();
        for name in names {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            name.hash(&mut self.hasher);
            let path = path.join(name);
            if self.file(&path) && depth > 0 {
                self.folder(&path, depth - 1);
            }
        }
    }

    /// Whether it is a folder, whose own times say nothing about what is inside.
    fn file(&mut self, path: &Path) -> bool {
        let Ok(meta) = fs::metadata(path) else {
            self.hasher.write_u8(0);
            return false;
        };
        if meta.is_dir() {
            self.hasher.write_u8(1);
            return true;
        }
        self.hasher.write_u8(2);
        self.bytes = self.bytes.saturating_add(meta.len());
        // The time of the last change of the inode too: a copy may set the other back.
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        (meta.dev(), meta.ino(), meta.len(), times).hash(&mut self.hasher);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_changes_shows_and_what_does_not_stays() {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("model.onnx"), b"one").unwrap();
        let mut seen = vec![of_folder(dir.path())];
        assert_eq!(of_folder(dir.path()), seen[0]);
        fs::write(path(".hidden"), b"").unwrap();
        assert_eq!(of_folder(dir.path()), seen[0]);
        fs::write(path("model.onnx"), b"longer").unwrap();
        seen.push(of_folder(dir.path()));
        // As many bytes, under the old time: a copy that keeps times, renamed into place.
        let before = fs::metadata(path("model.onnx")).unwrap().modified().unwrap();
        fs::write(path(".copy"), b"LONGER").unwrap();
        File::options().write(true).open(path(".copy")).unwrap().set_modified(before).unwrap();
        fs::rename(path(".copy"), path("model.onnx")).unwrap();
        seen.push(of_folder(dir.path()));
        fs::create_dir(path("data")).unwrap();
        fs::write(path("data/weights"), b"w").unwrap();
        seen.push(of_folder(dir.path()));
        symlink("data/weights", path("link")).unwrap();
        seen.push(of_folder(dir.path()));
        // What the link leads to has changed.
        fs::remove_file(path("data/weights")).unwrap();
        seen.push(of_folder(dir.path()));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn what_is_not_there_has_a_print_too() {
        let dir = TempDir::new().unwrap();
        let missing = dir.path().join("model.onnx");
        let print = of_file(&missing);
        fs::write(&missing, b"").unwrap();
        assert_ne!(of_file(&missing), print);
    }
}
