//! Holds the log against its own accounts: each file against the list of files, each start of a server against the sum that it wrote
//! down (promise P7).
//!
//! Invariant: whoever checks a log that is being written reads in the direction in which rows go: the accounts, the write-ahead log,
//! the files, the list. A row that moves meanwhile is then seen twice at worst, and never missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    ahead,
    inventory::{Listed, There},
    layout::{self, LOG_DIR, Partition},
    reader::{Filter, ReadError, failed},
};

/// The account of one start of a server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Account {
    #[serde(default)]
    pub format: u32,
    #[serde(default)]
    pub node: String,
    #[serde(default)]
    pub boot: String,
    #[serde(default)]
    pub closed: bool,
    #[serde(default)]
    pub models: BTreeMap<String, Sums>,
}

/// What has become of a model's rows since that start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Sums {
    pub received: u64,
    pub written: u64,
    pub dropped: BTreeMap<String, u64>,
    pub in_flight: u64,
}

/// What was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// As `NODE-BOOT`.
    pub start: String,
    pub model: String,
    pub closed: bool,
    pub received: u64,
    pub written: u64,
    pub dropped: u64,
    pub in_flight: u64,
    /// Rows of it in files, whatever has become of those since, in the write-ahead log, and erased out of that.
    pub found: u64,
    pub problems: Vec<String>,
}

/// Reads the accounts of all starts, by their files' names. One that is not readable is a problem.
///
/// # Errors
/// The directory cannot be read.
pub fn read(root: &Path) -> Result<(Vec<Account>, Vec<String>), ReadError> {
    let folder = layout::manifests(root);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(failed(&folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(&folder, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.ends_with(".json") && !name.starts_with('.')) {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut accounts, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        let text = fs::read(&path).map_err(|error| failed(&path, error))?;
        match serde_json::from_slice(&text) {
            Ok(account) => accounts.push(account),
            Err(why) => {
                let shown = path.strip_prefix(root).unwrap_or(&path).display();
                problems.push(format!("{shown}: {why}"));
            }
        }
    }
    Ok((accounts, problems))
}

/// Rows by start and model.
pub type Rows = BTreeMap<(String, String), u64>;

/// Adds to `rows` what rotations put into files, and what went out of the write-ahead log since its subject is erased.
pub fn rotated(listed: &Listed, rows: &mut Rows) {
    for (file, count) in &listed.rotated {
        let name = file.rsplit('/').next().unwrap_or_default();
        if let (Some((start, _)), Some(partition)) = (ahead::origin(name), partition(file)) {
            *rows.entry((start.to_owned(), partition.model)).or_default() += count;
        }
    }
    for ((segment, _), left_out) in &listed.left_out {
        if let Some(start) = Path::new(segment).parent().and_then(Path::file_name) {
            let start = start.to_string_lossy().into_owned();
            *rows.entry((start, left_out.model.clone())).or_default() += left_out.rows;
        }
    }
}

fn partition(file: &str) -> Option<Partition> {
    let folder = Path::new(file).parent()?;
    Partition::parse(folder.strip_prefix(LOG_DIR).ok()?)
}

/// Holds the accounts against the rows that are there: those of `model`, or all.
pub fn settle(accounts: &[Account], rows: &Rows, model: Option<&str>) -> Vec<Settled> {
    let mut all = Vec::new();
    for account in accounts {
        let start = format!("{}-{}", account.node, account.boot);
        let own =
            account.models.iter().filter(|(name, _)| model.is_none_or(|model| model == **name));
        for (name, sums) in own {
            let key = (start.clone(), name.clone());
            let found = rows.get(&key).copied().unwrap_or(0);
            let dropped = sums.dropped.values().fold(0u64, |sum, rows| sum.saturating_add(*rows));
            let mut settled = Settled {
                start: start.clone(),
                model: name.clone(),
                closed: account.closed,
                received: sums.received,
                written: sums.written,
                dropped,
                in_flight: sums.in_flight,
                found,
                problems: Vec::new(),
            };
            settled.judge(account.format);
            all.push(settled);
        }
    }
    all
}

impl Settled {
    fn judge(&mut self, format: u32) {
        let Settled { received, written, dropped, in_flight, found, closed, .. } = *self;
        let sum = u128::from(written) + u128::from(dropped) + u128::from(in_flight);
        if sum != u128::from(received) {
            self.problems.push(format!(
                "{received} rows were received, and {written} written + {dropped} dropped + {in_flight} in flight are {sum}"
            ));
        }
        // Accounts of format 1 are from before files were listed; one that is not closed was written before the last rows were.
        let holds = format < 2 || found == written || !closed && found > written;
        if !holds {
            let what = if found < written { "are missing" } else { "are too many" };
            self.problems.push(format!(
                "{written} rows were written, and {found} are in its files and write-ahead log: {} {what}",
                found.abs_diff(written)
            ));
        }
    }
}

/// A file as it was read.
pub struct Seen<'a> {
    /// Below the log's directory.
    pub file: &'a str,
    pub there: There,
}

/// What is wrong with files by the list: those that are not what they were, and those that are not there. `from`: when the files began to be
/// read; what was listed later is not known here.
///
/// # Errors
/// Whether a file is there cannot be found out.
pub fn compare(
    root: &Path,
    listed: &Listed,
    (filter, from_us): (&Filter, i64),
    seen: &[Seen<'_>],
) -> Result<Vec<(String, String)>, ReadError> {
    let mut problems = Vec::new();
    let read: BTreeMap<&str, &There> = seen.iter().map(|seen| (seen.file, &seen.there)).collect();
    let admitted = |file: &str| partition(file).is_some_and(|partition| filter.admits(&partition));
    let lines = listed.files.values().filter(|line| line.at_us < from_us && admitted(&line.file));
    for line in lines {
        let Some(there) = &line.there else { continue };
        match read.get(line.file.as_str()) {
            Some(own) if *own == there => {}
            Some(own) => problems.push((line.file.clone(), difference(there, own))),
            None => {
                let path = root.join(&line.file);
                if !path.try_exists().map_err(|error| failed(&path, error))? {
                    let rows = there.rows;
                    problems.push((
                        line.file.clone(),
                        format!("it is listed with {rows} rows, and is not there"),
                    ));
                }
            }
        }
    }
    Ok(problems)
}

fn difference(listed: &There, own: &There) -> String {
    if listed.rows != own.rows || listed.bytes != own.bytes {
        return format!(
            "{} rows in {} bytes, and it is listed with {} rows in {} bytes",
            own.rows, own.bytes, listed.rows, listed.bytes
        );
    }
    format!("its SHA-256 is {}, and it is listed with {}", own.sha256, listed.sha256)
}

/// The files that are there, and in no list: from before there were lists, or of a crash at the wrong moment.
pub fn unlisted(listed: &Listed, seen: &[Seen<'_>]) -> usize {
    let known: BTreeSet<&str> = listed.files.keys().map(String::as_str).collect();
    seen.iter().filter(|seen| !known.contains(seen.file)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(closed: bool, sums: Sums) -> Vec<Account> {
        let models = [("m".to_owned(), sums)].into();
        vec![Account { format: 2, node: "n".into(), boot: "1".into(), closed, models }]
    }

    fn sums(received: u64, written: u64, dropped: u64, in_flight: u64) -> Sums {
        Sums { received, written, dropped: [("disk".to_owned(), dropped)].into(), in_flight }
    }

    #[test]
    fn a_start_adds_up_or_says_what_does_not() {
        let rows = |found| Rows::from([(("n-1".to_owned(), "m".to_owned()), found)]);
        for (closed, sums, found, problems) in [
            (true, sums(10, 7, 3, 0), 7, 0),
            (true, sums(10, 7, 3, 0), 6, 1),
            (true, sums(10, 7, 3, 0), 8, 1),
            (true, sums(10, 7, 2, 0), 7, 1),
            (false, sums(10, 7, 2, 1), 7, 0),
            (false, sums(10, 7, 2, 1), 9, 0),
            (false, sums(10, 7, 2, 1), 6, 1),
            (true, sums(u64::MAX, u64::MAX, u64::MAX, 0), 0, 2),
        ] {
            let settled = settle(&account(closed, sums), &rows(found), None);
            assert_eq!(settled[0].problems.len(), problems, "{settled:?}");
        }
        assert!(settle(&account(true, sums(1, 1, 0, 0)), &rows(1), Some("other")).is_empty());
        let old = vec![Account { format: 1, ..account(true, sums(5, 5, 0, 0)).remove(0) }];
        assert!(settle(&old, &Rows::new(), None)[0].problems.is_empty());
    }
}
