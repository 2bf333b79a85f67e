//! Where the files of the log lie: the hive layout, as text and back. Pure.

use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, NaiveDate, Timelike};

/// Below the log's root.
pub const LOG_DIR: &str = "log/v1";

/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// Where the rows of all models lie.
pub fn log(root: &Path) -> PathBuf {
    root.join(LOG_DIR)
}

/// Where everything of one model lies.
pub fn versions(root: &Path, model: &str) -> PathBuf {
    log(root).join(format!("model={}", encode(model)))
}

/// Where write-ahead logs lie, a directory for each start of a server. Readers skip what begins with `_`.
pub fn wal(root: &Path) -> PathBuf {
    root.join("_wal")
}

/// Where each start of a server accounts for its rows.
pub fn manifests(root: &Path) -> PathBuf {
    root.join("_manifest")
}

/// A file of rows. The name tells who wrote it, so that what is written again after a crash has the same one.
pub fn part(node: &str, boot: &str, segment: u64) -> String {
    format!("part-{node}-{boot}-{segment}.parquet")
}

/// Which partition a row is in: its model, version and the UTC hour in which it was received.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    pub model: String,
    pub version: String,
    pub date: NaiveDate,
    /// 0 to 23.
    pub hour: u32,
}

impl Partition {
    /// The partition of a row received at `ts`, in microseconds since 1970. `None` beyond the calendar.
    pub fn of(model: &str, version: &str, ts: i64) -> Option<Partition> {
        let at = DateTime::from_timestamp_micros(ts)?;
        Some(Partition {
            model: model.to_owned(),
            version: version.to_owned(),
            date: at.date_naive(),
            hour: at.time().hour(),
        })
    }

    /// The directory, below `log/v1`. The hour is not padded: readers take `hour=9` for a number, `hour=09` for text.
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(format!(
            "model={}/version={}/date={}/hour={}",
            encode(&self.model),
            encode(&self.version),
            self.date.format("%Y-%m-%d"),
            self.hour
        ))
    }

    /// The partition of a directory, below `log/v1`; `None` where it is none.
    pub fn parse(dir: &Path) -> Option<Partition> {
        let mut parts = dir.components().map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        let mut next = |key: &str| {
            parts
                .next()
                .flatten()
                .and_then(|p| p.strip_prefix(key))
                .and_then(|v| v.strip_prefix('='))
        };
        let partition = Partition {
            model: decode(next("model")?)?,
            version: decode(next("version")?)?,
            date: NaiveDate::parse_from_str(next("date")?, "%Y-%m-%d").ok()?,
            hour: next("hour")?.parse().ok().filter(|hour| *hour < 24)?,
        };
        parts.next().is_none().then_some(partition)
    }

    /// When the hour begins, in microseconds since 1970.
    pub fn begins(&self) -> i64 {
        let midnight = self.date.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc();
        midnight.timestamp_micros() + i64::from(self.hour) * HOUR_US
    }

    /// When it ends; a row received then is in the next.
    pub fn ends(&self) -> i64 {
        self.begins() + HOUR_US
    }
}

/// What was known about the rows that a version was made of, by the digest of its files.
pub fn reference(root: &Path, model_digest: &str) -> PathBuf {
    root.join("_reference").join(format!("{}.profile", encode(model_digest)))
}

/// What is known about the rows of a file, beside it. Readers of a directory skip what begins with `_`, and readers of
/// `*.parquet` what ends otherwise.
pub fn profile(part: &Path) -> PathBuf {
    let name = part.file_stem().unwrap_or_default().to_string_lossy();
    part.with_file_name(format!("_{name}.profile"))
}

/// Whether readers of the layout take this file for rows of the log: others skip names that begin with `.` or `_`, and a
/// profile is a file about rows.
pub fn is_part(name: &str) -> bool {
    name.ends_with(".parquet")
        && !name.ends_with(".profile.parquet")
        && !name.starts_with(['.', '_'])
}

/// As URLs have it, so that any name is a name of a directory.
pub fn encode(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// What `encode` made; `None` where the text is not well formed.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_has_the_directory_that_the_documents_name() {
        let partition =
            Partition::of("a/b c", "7", 1_757_149_200_000_000).expect("in the calendar");
        assert_eq!(partition.dir(), Path::new("model=a%2Fb%20c/version=7/date=2025-09-06/hour=9"));
    }

    #[test]
    fn what_is_no_partition_is_none() {
        for dir in [
            "model=a/version=1/date=2026-01-01",
            "model=a/version=1/date=2026-01-01/hour=24",
            "model=a/version=1/date=2026-13-01/hour=1",
            "model=a/version=1/date=2026-01-01/hour=1/more",
            "model=%zz/version=1/date=2026-01-01/hour=1",
            "version=1/model=a/date=2026-01-01/hour=1",
            "../version=1/date=2026-01-01/hour=1",
        ] {
            assert_eq!(Partition::parse(Path::new(dir)), None, "{dir}");
        }
    }

    #[test]
    fn files_that_are_not_finished_or_not_rows_are_skipped() {
        assert!(is_part("part-n-b-1.parquet"));
        for name in [".part.parquet", "_part.parquet", "part-1.profile.parquet", "part.wal"] {
            assert!(!is_part(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_time_comes_back(model in "\\PC{1,20}", version in "\\PC{1,8}", ts in 0i64..4_000_000_000_000_000) {
            let partition = Partition::of(&model, &version, ts).expect("in the calendar");
            prop_assert_eq!(Partition::parse(&partition.dir()), Some(partition.clone()));
            prop_assert!(partition.begins() <= ts && ts < partition.ends());
        }
    }
}
