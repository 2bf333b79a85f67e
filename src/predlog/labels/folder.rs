//! The drop folder: files that somebody puts at `FOLDER/MODEL/` are brought in once they are settled, and moved out of the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirEntry, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Names,
    import::Refused,
    intake::Intake,
    parse::{Form, Input},
};
use crate::{predlog::store::Shared, telemetry::predictions::LabelFiles};

/// Between two looks. A file is settled that is the same in two of them.
const LOOK: Duration = Duration::from_secs(1);

/// Files that are brought in go here, below the model's folder, and those that are not.
pub const DONE: &str = "_done";
pub const FAILED: &str = "_failed";

/// Files that were brought in, and those with a mistake.
#[derive(Debug, Default)]
pub struct Files {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Files {
    pub fn read(&self) -> LabelFiles {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        LabelFiles { done: count(&self.done), failed: count(&self.failed) }
    }
}

/// How a file stands: its size, and when it was changed.
type Standing = (u64, Option<SystemTime>);

/// Looks into the folder until the log is closed.
pub struct Folder {
    shared: Arc<Shared>,
    intake: Intake,
    /// What was there the last time.
    seen: BTreeMap<PathBuf, Standing>,
    /// What was brought in or not, and could not be moved away: not again until it changes.
    stuck: BTreeMap<PathBuf, Standing>,
    /// What was complained about, once.
    told: BTreeSet<String>,
    /// The store refuses.
    refused: bool,
}

impl Folder {
    pub fn new(shared: Arc<Shared>) -> Folder {
        let intake = Intake::new(shared.clone());
        let (seen, stuck, told) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Folder { shared, intake, seen, stuck, told, refused: false }
    }

    pub fn run(mut self) {
        while !self.shared.is_closing() {
            self.look();
            thread::park_timeout(LOOK);
        }
    }

    fn look(&mut self) {
        let mut seen = BTreeMap::new();
        let root = self.shared.options.labels_folder.clone();
        for dir in self.list(&root) {
            let Some(model) = folder_of(&dir) else { continue };
            let waiting = self.waiting(&dir.path());
            if waiting.is_empty() {
                continue;
            }
            if !self.intake.takes(&model) {
                // It may not be loaded yet.
                self.tell(model.clone(), || {
                    tracing::warn!(
                        model,
                        files = waiting.len(),
                        "labels wait in their folder for a model whose predictions are logged"
                    );
                });
                continue;
            }
            for (path, form, standing) in waiting {
                if self.shared.is_closing() {
                    return;
                }
                let same = |of: &BTreeMap<PathBuf, Standing>| of.get(&path) == Some(&standing);
                if same(&self.stuck) || !same(&self.seen) {
                    seen.insert(path, standing);
                } else if !self.bring(&model, &path, form) {
                    self.stuck.insert(path, standing);
                }
            }
        }
        self.stuck.retain(|path, _| seen.contains_key(path));
        self.seen = seen;
    }

    /// The files of a model that may be labels: complete ones, by their names.
    fn waiting(&mut self, dir: &Path) -> Vec<(PathBuf, Form, Standing)> {
        let mut files = Vec::new();
        for entry in self.list(dir) {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Neither links, which lead elsewhere, nor what others write under such names.
            let plain = entry.metadata().ok().filter(|about| about.is_file() && !is_hidden(&name));
            if let (Some(about), Some(form)) = (plain, Form::of_name(&name)) {
                files.push((entry.path(), form, (about.len(), about.modified().ok())));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files
    }

    /// Brings a file in and moves it away; false where it stays.
    fn bring(&mut self, model: &str, path: &Path, form: Form) -> bool {
        let shown = path.display();
        let names = (&Names::default(), None);
        let read = File::open(path).map_err(|error| Refused::Wrong(error.to_string()));
        let read = read.and_then(|file| self.intake.import(model, names, Input::File(file), form));
        let files = &self.shared.numbers.label_files;
        let (dir, reason) = match read {
            Ok(imported) => {
                tracing::info!(
                    model, labels = imported.labels, new = imported.put.written, file = %shown, "labels brought in"
                );
                files.done.fetch_add(1, Ordering::Relaxed);
                (DONE, None)
            }
            Err(Refused::Wrong(why)) => {
                // Not in the log: it may quote the file.
                tracing::warn!(model, file = %shown, "labels refused, none of the file is kept: the reason is beside it");
                files.failed.fetch_add(1, Ordering::Relaxed);
                (FAILED, Some(why))
            }
            Err(Refused::Store(error)) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::error!(model, %error, file = %shown, "labels cannot be kept: they are tried again");
                }
                // Seen anew: tried again at the look after the next.
                return true;
            }
        };
        self.refused = false;
        match move_away(path, dir, reason.as_deref()) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(model, %error, file = %shown, "a file of labels cannot be moved away");
                false
            }
        }
    }

    fn list(&mut self, dir: &Path) -> Vec<DirEntry> {
        match fs::read_dir(dir) {
            Ok(entries) => entries.flatten().collect(),
            Err(error) => {
                let shown = dir.display();
                self.tell(shown.to_string(), || {
                    tracing::warn!(%error, folder = %shown, "the folder for labels cannot be read");
                });
                Vec::new()
            }
        }
    }

    /// Says something, unless it was said.
    fn tell(&mut self, what: String, say: impl FnOnce()) {
        if self.told.insert(what) {
            say();
        }
    }
}

/// The model that a folder is for.
fn folder_of(entry: &DirEntry) -> Option<String> {
    let name = entry.file_name().to_str()?.to_owned();
    let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
    (folder && !is_hidden(&name)).then_some(name)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// Moves a file into a folder beside it, with the reason where there is one; what is there already keeps its name.
fn move_away(path: &Path, dir: &str, reason: Option<&str>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new(".")).join(dir);
    fs::create_dir_all(&dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut to = dir.join(&name);
    if to.exists() {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        to = dir.join(format!("{millis}-{name}"));
    }
    if let Some(reason) = reason {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::write(dir.join(format!("{name}.reason")), format!("{reason}\n"))?;
    }
    fs::rename(path, to)
}
