//! What rows somebody asks for, as text: `status!=200`, `--from 2h`. Pure: it is told the time.

use std::{cmp::Ordering, fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::value::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Two letters before one, so that `<=` is not read as `<`.
const OPS: [(&str, Op); 6] = [
    ("!=", Op::Unequal),
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("=", Op::Equal),
    ("<", Op::Less),
    (">", Op::More),
];

/// A column compared with a value. Null compares with nothing, but `column=` holds for it and `column!=` does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub column: String,
    op: Op,
    text: String,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let found = OPS
            .iter()
            .filter_map(|(sign, op)| text.find(sign).map(|at| (at, *sign, *op)))
            .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        match found {
            Some((at, sign, op)) if at > 0 => Ok(Condition {
                column: text[..at].trim().to_owned(),
                op,
                text: text[at + sign.len()..].trim().to_owned(),
            }),
            _ => Err(format!(
                "expected a column, one of = != < <= > >= and a value, as in status!=200; got {text:?}"
            )),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPS.iter().find(|(_, op)| *op == self.op).map_or("", |(sign, _)| sign);
        write!(f, "{}{sign}{}", self.column, self.text)
    }
}

impl Condition {
    pub fn holds(&self, value: &Value) -> bool {
        if *value == Value::Null {
            return self.op == Op::Equal && self.text.is_empty();
        }
        let order = value.compare(&self.text);
        match self.op {
            Op::Equal => order == Some(Ordering::Equal),
            Op::Unequal => order != Some(Ordering::Equal),
            Op::Less => order == Some(Ordering::Less),
            Op::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Op::More => order == Some(Ordering::Greater),
            Op::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// A moment as written: RFC 3339, or a date, or a date and time without a zone (UTC). In microseconds since 1970.
pub fn time(text: &str) -> Result<i64, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.timestamp_micros());
    }
    for format in
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
    {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(at.and_utc().timestamp_micros());
        }
    }
    match NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0))
    {
        Some(midnight) => Ok(midnight.and_utc().timestamp_micros()),
        None => Err(format!(
            "expected a time, as 2026-01-31, 2026-01-31T12:00:00Z or 2h (ago); got {text:?}"
        )),
    }
}

/// A length of time as written, `90s`, `15m`, `2h`, `30d`, in microseconds.
pub fn span(text: &str) -> Result<i64, String> {
    let wrong = || format!("expected a length of time, as 90s, 15m, 2h or 30d; got {text:?}");
    let unit = match text.chars().last() {
        Some('s') => 1_000_000,
        Some('m') => 60_000_000,
        Some('h') => 3_600_000_000,
        Some('d') => 86_400_000_000,
        _ => return Err(wrong()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number < 0 {
        return Err(wrong());
    }
    number.checked_mul(unit).ok_or_else(wrong)
}

/// A moment, or how long before `now` it is.
pub fn moment(text: &str, now: i64) -> Result<i64, String> {
    match span(text) {
        Ok(ago) => Ok(now.saturating_sub(ago)),
        Err(_) => time(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_hold() {
        let holds = |text: &str, value: Value| {
            text.parse::<Condition>().expect("well formed").holds(&value)
        };
        assert!(holds("status!=200", Value::Int(429)));
        assert!(!holds("status!=200", Value::Int(200)));
        assert!(holds("total_us>=1000", Value::Int(1000)));
        assert!(holds("in_x<0.5", Value::Float(0.4)));
        assert!(!holds("in_x<0.5", Value::Float(f32::NAN)));
        assert!(holds("in_x!=0.5", Value::Float(f32::NAN)));
        assert!(holds("route = canary", Value::Text("canary".into())));
        assert!(holds("error_code=", Value::Null));
        assert!(!holds("error_code!=", Value::Null));
        assert!(holds("request_id=a=b<c", Value::Text("a=b<c".into())));
        assert_eq!("a<=b".parse::<Condition>().expect("well formed").to_string(), "a<=b");
        assert!("status".parse::<Condition>().is_err());
        assert!("=3".parse::<Condition>().is_err());
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time("1970-01-02"), Ok(86_400_000_000));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(time("1970-01-01 00:00:00.5"), Ok(500_000));
        assert_eq!(moment("1h", 3_600_000_005), Ok(5));
        assert!(moment("yesterday", 0).expect_err("no time").contains("\"yesterday\""));
        assert!(span("9223372036854775807d").is_err());
        assert!(span("-1d").is_err());
        assert!(span("é").is_err());
    }
}
