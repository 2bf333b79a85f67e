//! The writer's side of blobs: each is written once, before the row that refers to it, and is on the disk before that row is.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
};

use crate::predlog::{
    disk::{Disk, DiskFile},
    large::Larges,
    rotate::Place,
};

/// Blobs that are known to be there; beyond, they are written again.
const KNOWN: usize = 16 << 10;

/// Files that wait to be synced, at most.
const OPEN: usize = 64;

/// From the log's own directory down to a blob's: those that may have new names in them.
const LEVELS: usize = 8;

/// Keeps blobs, of one writer.
#[derive(Default)]
pub struct Keeper {
    /// References to what this process has written.
    known: HashSet<String>,
    unsynced: Vec<(Box<dyn DiskFile>, PathBuf)>,
}

impl Keeper {
    /// Writes what is not there yet, and says how many blobs and bytes that were.
    ///
    /// # Errors
    /// What the disk says.
    pub fn keep(&mut self, place: &Place, larges: &Larges<'_>) -> io::Result<(u64, u64)> {
        let mut written = (0, 0);
        for (reference, bytes) in larges.kept() {
            let path = place.root.join(reference);
            // An erasure may have removed it.
            if self.known.contains(reference) && path.exists() {
                continue;
            }
            self.write(place, &path, bytes)?;
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert(reference.to_owned());
            written = (written.0 + 1, written.1 + bytes.len() as u64);
            if self.unsynced.len() >= OPEN {
                self.sync(&*place.disk)?;
            }
        }
        Ok(written)
    }

    /// One that is there from an earlier start is written again: nobody knows whether that one was ever on the disk.
    fn write(&mut self, place: &Place, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}-{}-{}.tmp", place.node, place.boot));
        let mut file = place.disk.create(&hidden)?;
        let done = file.write_all(bytes).and_then(|()| place.disk.rename(&hidden, path));
        match done {
            Ok(()) => self.unsynced.push((file, path.to_owned())),
            // There may be no room for more; nothing is lost where it stays.
            Err(_) => drop(place.disk.remove(&hidden)),
        }
        done
    }

    /// What was written stays through a power cut once this returns.
    ///
    /// # Errors
    /// What the disk says: then all are written again.
    pub fn sync(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        let above = unsynced.iter().flat_map(|(_, path)| path.ancestors().skip(1).take(LEVELS));
        let folders: BTreeSet<PathBuf> = above.map(Path::to_owned).collect();
        let files = unsynced.iter_mut().try_for_each(|(file, _)| file.sync());
        // The deepest first, so that nothing has a name above what has none.
        let done = files.and_then(|()| folders.iter().rev().try_for_each(|dir| disk.sync_dir(dir)));
        if done.is_err() {
            self.known.clear();
        }
        done
    }
}
