//! Quantities as people write them: durations (`20ms`), shares (`0.1%`), rates (`1500`, `2k`).

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Error as _},
};

/// A duration, written with its unit: `250us`, `20ms`, `1.5s`, `10m`, `1h`. Longer ones than a year are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Units, the longest names first where one ends like another.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// A year in nanoseconds.
const LONGEST: f64 = 365.0 * 24.0 * 3600e9;

impl Span {
    /// In nanoseconds; what is longer than `u64` holds counts as the longest.
    pub fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || {
            format!(
                "'{text}' is no duration; expected a number and its unit, as in 250us, 20ms, 1.5s, 10m or 1h"
            )
        };
        let text_trimmed = text.trim();
        let digits =
            text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = text_trimmed.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let nanos = (number * factor).round();
        if !(0.0..=LONGEST).contains(&nanos) {
            return Err(format!("'{text}' is out of range; expected at most a year"));
        }
        Ok(Span(Duration::from_nanos(nanos as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos();
        let exact = [("h", 3_600_000_000_000), ("m", 60_000_000_000)]
            .into_iter()
            .find(|(_, size)| nanos > 0 && nanos.is_multiple_of(*size));
        if let Some((unit, size)) = exact {
            return write!(f, "{}{unit}", nanos / size);
        }
        let (unit, size) = match nanos {
            1_000_000_000.. => ("s", 1e9),
            1_000_000.. => ("ms", 1e6),
            1_000.. => ("us", 1e3),
            _ => ("ns", 1.0),
        };
        write!(f, "{}{unit}", nanos as f64 / size)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A duration for a person: three digits, `12.3ms`.
pub fn short(Span(duration): Span) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        ..1e6 => (nanos / 1e3, "us"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        ..10.0 if unit != "ns" => 2,
        ..100.0 if unit != "ns" => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

/// How fast what was recorded is sent again: times the speed at which it came, or as fast as it is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    Times(f64),
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        let text = text.trim();
        if text == "max" {
            return Ok(Speed::Max);
        }
        let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>().ok();
        let number = number.filter(|number| (1e-6..=1e6).contains(number));
        number.map(Speed::Times).ok_or_else(|| {
            format!("'{text}' is no speed; expected how many times as fast it is sent, as in 1, 0.5 or 10, or max")
        })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speed::Times(times) => write!(f, "{times}"),
            Speed::Max => f.write_str("max"),
        }
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `recorded: 10` and `recorded: "10"` are the same.
impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Speed, D::Error> {
        struct Either;
        impl de::Visitor<'_> for Either {
            type Value = Speed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("how many times as fast it is sent, or max")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Speed, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Speed, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Speed, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Speed, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A share of a whole, 0 to 1: written as `0.1%` or as `0.001`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let wrong = || format!("'{text}' is no share; expected 0% to 100%, or 0 to 1");
        let (number, factor) = match text.trim().strip_suffix('%') {
            Some(number) => (number.trim_end(), 0.01),
            None => (text.trim(), 1.0),
        };
        let share = number.parse::<f64>().map_err(|_| wrong())? * factor;
        if (0.0..=1.0).contains(&share) { Ok(Share(share)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ten digits are more than anybody writes, and hide what 0.1 * 0.01 is in binary.
        write!(f, "{}%", (self.0 * 1e12).round() / 1e10)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        number_or_text(deserializer, "a share: 0% to 100%, or 0 to 1")
    }
}

/// Something a second: `1500`, `1.5k`, `2M`. Above 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// No machine sends more requests than this a second; beyond it, a slip of the finger.
const MAX_RATE: f64 = 1e9;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!(
                "'{text}' is no rate; expected a number above 0 and up to 1e9, as in 1500 or 1.5k (a second)"
            )
        };
        let trimmed = text.trim().trim_end_matches("/s").trim_end();
        let (number, factor) = match trimmed.strip_suffix(['k', 'K']) {
            Some(number) => (number, 1e3),
            None => match trimmed.strip_suffix('M') {
                Some(number) => (number, 1e6),
                None => (trimmed, 1.0),
            },
        };
        let rate = number.parse::<f64>().map_err(|_| wrong())? * factor;
        if rate > 0.0 && rate <= MAX_RATE { Ok(Rate(rate)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        number_or_text(deserializer, "a rate a second, as in 1500 or 1.5k")
    }
}

/// Reads a scalar, be it a number or a text, through `FromStr`.
pub fn number_or_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    struct Scalar<T>(&'static str, std::marker::PhantomData<T>);
    impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(Scalar(expected, std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, nanos) in [
            ("20ms", 20_000_000),
            ("1.5s", 1_500_000_000),
            ("250us", 250_000),
            ("250µs", 250_000),
            ("7 ns", 7),
            ("10m", 600_000_000_000),
            ("1h", 3_600_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().nanos(), nanos, "{text}");
        }
        for wrong in ["", "20", "ms", "-1s", "1e3s", "1.2.3s", "20 parsecs", "99999h", "infs"] {
            let error = wrong.parse::<Span>().unwrap_err();
            assert!(error.contains(&format!("'{wrong}'")), "{error}");
        }
    }

    #[test]
    fn people_read_three_digits() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1234, "1.23us"),
            (12_345_678, "12.3ms"),
            (123_456_789, "123ms"),
            (61_000_000_000, "61.0s"),
        ] {
            assert_eq!(short(Span(Duration::from_nanos(nanos))), text);
        }
    }

    #[test]
    fn shares_and_rates_are_read_in_both_forms() {
        for text in ["0.1%", "0.001", " 0.1 %"] {
            assert!((text.parse::<Share>().unwrap().0 - 0.001).abs() < 1e-12, "{text}");
        }
        assert_eq!("0.1%".parse::<Share>().unwrap().to_string(), "0.1%");
        for wrong in ["", "%", "101%", "1.5", "-1%", "nan", "NaN%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        assert_eq!("1.5k".parse::<Rate>().unwrap().0, 1500.0);
        assert_eq!("2M".parse::<Rate>().unwrap().0, 2e6);
        assert_eq!("900/s".parse::<Rate>().unwrap().0, 900.0);
        for wrong in ["", "0", "-1", "inf", "1e10", "nan", "k"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_texts_are_one_in_files() {
        assert_eq!(serde_json::from_str::<Rate>("100").unwrap(), Rate(100.0));
        assert_eq!(serde_json::from_str::<Rate>("\"0.1k\"").unwrap(), Rate(100.0));
        assert_eq!(serde_json::from_str::<Share>("0.5").unwrap(), Share(0.5));
        assert!(serde_json::from_str::<Share>("[]").unwrap_err().to_string().contains("a share"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0u64..10_000_000_000_000) {
            let span = Span(Duration::from_nanos(nanos));
            let again: Span = span.to_string().parse().unwrap();
            // Text has the digits of a float; nanoseconds of an hour have fewer than its 15.
            prop_assert_eq!(again, span, "{}", span);
        }
    }
}
