//! Moments as people write them: `2026-01-31T12:00:00Z`, a day, or how long ago.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::units::Span;

/// Microseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

/// Without a zone: UTC.
const FORMS: [&str; 4] =
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];

/// `now`: microseconds since 1970.
fn read(text: &str, now: i64) -> Result<Moment, String> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Moment(at.timestamp_micros()));
    }
    for form in FORMS {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, form) {
            return Ok(Moment(at.and_utc().timestamp_micros()));
        }
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d")
        && let Some(midnight) = day.and_hms_opt(0, 0, 0)
    {
        return Ok(Moment(midnight.and_utc().timestamp_micros()));
    }
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let ago = match (days, text.parse::<Span>()) {
        (Some(days), _) => Some(i64::from(days) * 86_400_000_000),
        (None, Ok(Span(ago))) => i64::try_from(ago.as_micros()).ok(),
        _ => None,
    };
    ago.map(|ago| Moment(now.saturating_sub(ago))).ok_or_else(|| {
        format!(
            "'{}' is no moment; expected one as 2026-01-31, 2026-01-31T12:00:00Z or 2h (ago)",
            text.chars().take(40).collect::<String>().escape_debug()
        )
    })
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        read(text, i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
    }
}

/// RFC 3339, to the microsecond.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_micros(self.0) {
            Some(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{} us", self.0),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        let now = 1_000_000_000_000;
        for (text, expected) in [
            ("1970-01-02", 86_400_000_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01 00:00:00.5", 500_000),
            ("1970-01-01T00:01", 60_000_000),
            ("2h", now - 7_200_000_000),
            ("1d", now - 86_400_000_000),
        ] {
            assert_eq!(read(text, now), Ok(Moment(expected)), "{text}");
            assert_eq!(Moment(expected).to_string().parse(), Ok(Moment(expected)));
        }
        for wrong in ["", "yesterday", "2026-13-01", "-1d", "99999999999d"] {
            assert!(read(wrong, now).unwrap_err().contains("is no moment"), "{wrong}");
        }
    }
}
