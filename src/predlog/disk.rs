//! The files under the log: what is written, synced and renamed goes through here, so that tests can stand in for a disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Where files are written.
pub trait Disk: Send + Sync {
    /// A new file in place of what may be there; its directories are made as needed.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// In place of what may be there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Names that were made, changed or removed in a directory stay so through a power cut once this returns.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub trait DiskFile: Write + Send {
    /// What was written stays through a power cut once this returns.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts it to so many bytes, where the next write goes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The disk itself.
pub struct Real;

impl Disk for Real {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

impl DiskFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }
}

/// Writes a whole file so that it is there as a whole or not at all.
///
/// # Errors
/// What the disk says.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let temporary = path.with_file_name(format!(".{}.tmp", name.unwrap_or_default()));
    let mut file = disk.create(&temporary)?;
    file.write_all(bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}
