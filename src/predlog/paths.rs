//! Where the files of the log lie: names from values and back, purely.

use std::path::{Path, PathBuf};

/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// Where the rows of one version and one hour lie: `log/v1/model=…/version=…/date=…/hour=…`.
pub fn partition(root: &Path, model: &str, version: &str, hour: i64) -> PathBuf {
    let (year, month, day) = civil(hour.div_euclid(24));
    versions(root, model)
        .join(format!("version={}", encode(version)))
        .join(format!("date={year:04}-{month:02}-{day:02}"))
        // Not padded: readers take it for a number.
        .join(format!("hour={}", hour.rem_euclid(24)))
}

/// Where everything of one model lies.
pub fn versions(root: &Path, model: &str) -> PathBuf {
    log(root).join(format!("model={}", encode(model)))
}

/// Where the rows of all models lie.
pub fn log(root: &Path) -> PathBuf {
    root.join("log/v1")
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

/// The hour that a partition's path says, in hours since 1970; `None` where it is none.
pub fn hour_of(date: &str, hour: &str) -> Option<i64> {
    let mut parts = date.strip_prefix("date=")?.split('-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let hour: i64 = hour.strip_prefix("hour=")?.parse().ok()?;
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && (0..24).contains(&hour);
    fits.then(|| days(year, month, day) * 24 + hour)
}

/// The date of a day since 1970 in the Gregorian calendar: years of 400 have 146,097 days, counted from March.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The day since 1970 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_is_named_as_readers_expect() {
        let hour = 20_783 * 24 + 9;
        let path = partition(Path::new("/p"), "a/b ä", "7", hour);
        let expected = "/p/log/v1/model=a%2Fb%20%C3%A4/version=7/date=2026-11-26/hour=9";
        assert_eq!(path, Path::new(expected));
        assert_eq!(hour_of("date=2026-11-26", "hour=9"), Some(hour));
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(hour_of("date=2026-11-26", "hour=24"), None);
    }

    proptest! {
        #[test]
        fn dates_come_back(day in -800_000i64..800_000) {
            let (year, month, date) = civil(day);
            prop_assert_eq!(days(year, month, date), day);
        }
    }
}
