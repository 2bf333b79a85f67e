//! Which files of a log are current: the hive layout of docs/logging.md, without those whose rows a compaction has put into another.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use serde::Deserialize;

use super::{footer, rows};
use crate::{moment::Moment, prepare::entry::LogSource};

/// Below a log's root.
const LOG: &str = "log/v1";
/// Folders in one another; the layout has six.
const DEEPEST: usize = 10;
const HOUR_US: i64 = 3_600_000_000;

/// Whose rows are asked for, and received when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    pub model: Option<&'a str>,
    pub version: Option<&'a str>,
    pub from: Option<Moment>,
    pub until: Option<Moment>,
}

impl<'a> Wanted<'a> {
    /// Of an entry that asks `model`.
    pub fn of(source: &'a LogSource, model: &'a str) -> Wanted<'a> {
        Wanted {
            model: Some(source.model.as_deref().unwrap_or(model)),
            version: source.version.as_deref(),
            from: source.from,
            until: source.until,
        }
    }

    /// Whether a row received then is among them.
    pub fn covers(&self, ts: i64) -> bool {
        self.from.is_none_or(|from| ts >= from.0) && self.until.is_none_or(|until| ts < until.0)
    }

    /// Whether rows of this version are.
    pub fn names(&self, model: &str, version: &str) -> bool {
        self.model.is_none_or(|own| own == model) && self.version.is_none_or(|own| own == version)
    }

    /// Whether rows of a folder of this name can be among them. `day`: that of the folder above.
    fn admits(&self, name: &str, day: Option<NaiveDate>) -> bool {
        let Some((key, value)) = name.split_once('=') else { return true };
        let is = |own: Option<&str>| own.is_none_or(|own| decoded(value).is_none_or(|v| v == own));
        let within = |begins: i64, ends: i64| {
            self.from.is_none_or(|from| ends > from.0)
                && self.until.is_none_or(|until| begins < until.0)
        };
        match key {
            "model" => is(self.model),
            "version" => is(self.version),
            "date" => date(value).is_none_or(|day| within(begins(day), begins(day) + 24 * HOUR_US)),
            "hour" => match (day, value.parse::<i64>()) {
                (Some(day), Ok(hour)) if (0..24).contains(&hour) => {
                    let begins = begins(day) + hour * HOUR_US;
                    within(begins, begins + HOUR_US)
                }
                _ => true,
            },
            _ => true,
        }
    }
}

fn date(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

fn begins(day: NaiveDate) -> i64 {
    day.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc().timestamp_micros()
}

/// Names of folders are as URLs have them; `None` where one is not well formed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn shown(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// The files that can hold rows that are wanted, each once.
///
/// # Errors
/// In words, with the path: it is not there, or cannot be read.
pub fn find(paths: &[PathBuf], wanted: &Wanted<'_>) -> Result<Vec<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for path in paths {
        let about = fs::metadata(path).map_err(|e| shown(path, e))?;
        if about.is_file() {
            found.insert(path.clone());
            continue;
        }
        let below = path.join(LOG);
        let top = if below.is_dir() { &below } else { path };
        let day = path.file_name().and_then(|name| date(name.to_str()?.strip_prefix("date=")?));
        walk(top, wanted, (day, DEEPEST), &mut found)?;
    }
    Ok(found.into_iter().collect())
}

fn walk(
    folder: &Path,
    wanted: &Wanted<'_>,
    (day, deeper): (Option<NaiveDate>, usize),
    found: &mut BTreeSet<PathBuf>,
) -> Result<(), String> {
    let names = names(folder)?;
    let replaced = replaced(folder, &names)?;
    for name in &names {
        let path = folder.join(name);
        if name.starts_with(['.', '_']) || replaced.contains(name) {
            continue;
        }
        if path.is_dir() {
            let own = name.strip_prefix("date=").and_then(date).or(day);
            if deeper > 0 && wanted.admits(name, day) {
                walk(&path, wanted, (own, deeper - 1), found)?;
            }
        } else if name.ends_with(".parquet") && !name.ends_with(".profile.parquet") {
            found.insert(path);
        }
    }
    Ok(())
}

/// What is in a folder; nothing where it has gone meanwhile, as retention has them.
fn names(folder: &Path) -> Result<BTreeSet<String>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(shown(folder, error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(error) => Some(Err(shown(folder, error))),
    };
    entries.filter_map(name).collect()
}

/// What a compaction notes: these files become that one. From the moment when the output is there, it stands for them.
#[derive(Deserialize)]
struct Journal {
    inputs: Vec<String>,
    output: String,
}

/// Files of a folder whose rows are in another.
fn replaced(folder: &Path, names: &BTreeSet<String>) -> Result<BTreeSet<String>, String> {
    let mut replaced = BTreeSet::new();
    for name in names.iter().filter(|n| n.starts_with("_compact-") && n.ends_with(".json")) {
        let path = folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            // The compaction has ended since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(shown(&path, error)),
        };
        let journal: Journal = serde_json::from_slice(&text)
            .map_err(|e| shown(&path, format!("expected what a compaction notes: {e}")))?;
        if names.contains(&journal.output) {
            replaced.extend(journal.inputs);
        }
    }
    Ok(replaced)
}

/// Opens a file that was found, also where a compaction has put its rows into another since: it stays for a while by another name.
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path).or_else(|error| match (error.kind(), path.file_name()) {
        (io::ErrorKind::NotFound, Some(name)) => {
            let name = format!(".{}.replaced", name.to_string_lossy());
            File::open(path.with_file_name(name)).map_err(|_| error)
        }
        _ => Err(error),
    })
}

/// The models that have rows in these files and folders.
///
/// # Errors
/// In words, with the path: it cannot be read, or is no file of a log.
pub fn models(paths: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut models = BTreeSet::new();
    let mut looked_at = BTreeSet::new();
    for file in find(paths, &Wanted::default())? {
        let folder = file.ancestors().filter_map(|folder| folder.file_name()?.to_str());
        let named = folder.filter_map(|name| name.strip_prefix("model=")).find_map(decoded);
        match named {
            Some(model) => models.insert(model),
            // Files of one folder that is not of the layout may be of several models.
            None if looked_at.insert(file.clone()) => {
                let opened = rows::open(&file).map_err(|why| shown(&file, why))?;
                models.insert(footer::Footer::parse(&opened.1).map_err(|e| shown(&file, e))?.model)
            }
            None => false,
        };
    }
    Ok(models.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn shown(root: &Path, paths: &[&str], wanted: &Wanted<'_>) -> Vec<String> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
        let found = find(&paths, wanted).unwrap();
        let name = |path: PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        found.into_iter().map(name).collect()
    }

    #[test]
    fn current_files_are_those_that_no_compaction_has_replaced() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let hour = "log/v1/model=a%2Fb/version=1/date=2026-01-31/hour=9";
        for name in ["part-1.parquet", "part-2.parquet", "part-compact-1.parquet"] {
            put(root, &format!("{hour}/{name}"), "");
        }
        for name in [
            ".part-0.parquet.replaced",
            "_part-1.profile",
            "part-1.profile.parquet",
            ".part-compact-2.parquet.tmp",
        ] {
            put(root, &format!("{hour}/{name}"), "");
        }
        let journal = format!("{hour}/_compact-part-compact-1.parquet.json");
        put(
            root,
            &journal,
            r#"{"inputs":["part-1.parquet","part-2.parquet"],"output":"part-compact-1.parquet"}"#,
        );
        let later = "log/v1/model=c/version=2/date=2026-01-31/hour=23/part-3.parquet";
        put(root, later, "");
        put(root, "labels/v1/model=c/part-9.parquet", "");
        let all = Wanted::default();
        let compacted = format!("{hour}/part-compact-1.parquet");
        assert_eq!(shown(root, &["."], &all).len(), 2);
        assert_eq!(shown(root, &[""], &all), [&compacted, later]);
        // Until the output is there, the inputs are what counts.
        fs::remove_file(root.join(&compacted)).unwrap();
        assert_eq!(
            shown(root, &[hour], &all),
            [format!("{hour}/part-1.parquet"), format!("{hour}/part-2.parquet")]
        );
        let wanted = Wanted { model: Some("a/b"), ..all };
        assert_eq!(shown(root, &[""], &wanted).len(), 2);
        for (from, until, count) in [
            ("2026-01-31T10:00:00Z", "2026-02-01", 1),
            ("2026-01-31T09:59:59Z", "2026-02-01", 3),
            ("2026-01-31", "2026-01-31T09:00:00Z", 0),
            ("2026-02-01", "2026-03-01", 0),
        ] {
            let wanted = Wanted { from: from.parse().ok(), until: until.parse().ok(), ..all };
            assert_eq!(shown(root, &[""], &wanted).len(), count, "{from}");
            let day = "log/v1/model=c/version=2/date=2026-01-31";
            assert!(shown(root, &[day], &wanted).len() <= 1);
        }
        assert_eq!(models(&[root.to_owned()]).unwrap(), ["a/b", "c"]);
        put(root, &journal, "no JSON");
        assert!(find(&[root.to_owned()], &all).unwrap_err().contains("_compact-"));
        assert!(find(&[root.join("no")], &all).unwrap_err().contains("/no: "));
    }
}
