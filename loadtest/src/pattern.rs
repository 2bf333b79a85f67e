//! Ways of arriving as people write them, in scenarios (`arrivals: {poisson: 500}`) and on the command line (`--arrivals ramp:100..900`).

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    plan::Arrivals,
    units::{Rate, Span, Speed},
};

/// How requests arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pattern {
    /// Independent arrivals of this rate.
    Poisson(Rate),
    /// Equal gaps.
    Constant(Rate),
    /// `size` at once, every `every`.
    Bursts { size: u64, every: Span },
    /// From one rate to another in a straight line, over the phase.
    Ramp {
        from: f64,
        to: f64,
        #[serde(default)]
        spacing: Spacing,
    },
    /// Each rate for `hold`, one after the other.
    Steps {
        rates: Vec<f64>,
        hold: Span,
        #[serde(default)]
        spacing: Spacing,
    },
    /// Recorded moments from a file, one a line: seconds, or with a unit; counted from the earliest.
    Trace(PathBuf),
    /// As the log has them from which the requests come, so many times as fast.
    Recorded(Speed),
    /// So many callers that each wait for their answer, think, and ask again.
    Closed {
        callers: usize,
        #[serde(default)]
        think: Span,
    },
}

/// Around a changing rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    #[default]
    Poisson,
    Constant,
}

/// Lines of a trace, at most: two gigabytes of memory.
const MAX_TRACE: usize = 100_000_000;

/// The highest rate of a ramp or step, as of every rate.
const MAX_RATE: f64 = 1e9;

impl Pattern {
    /// Checked, with its trace read. What a log has recorded is known later, with the requests (`Session::plan`).
    pub fn resolve(&self) -> Result<Arrivals, String> {
        let fine = |rate: &f64| (0.0..=MAX_RATE).contains(rate);
        Ok(match self {
            Pattern::Poisson(Rate(rate)) => Arrivals::Poisson { rate: *rate },
            Pattern::Constant(Rate(rate)) => Arrivals::Constant { rate: *rate },
            Pattern::Bursts { size, every } => {
                if *size == 0 || every.0.is_zero() {
                    return Err(format!(
                        "bursts: expected a size and a gap above 0, got {size} every {every}"
                    ));
                }
                Arrivals::Bursts { size: *size, every: every.0 }
            }
            Pattern::Ramp { from, to, spacing } => {
                if !fine(from) || !fine(to) || from + to == 0.0 {
                    return Err(format!(
                        "ramp: expected rates of 0 or more, one above 0, got {from} to {to}"
                    ));
                }
                let poisson = *spacing == Spacing::Poisson;
                Arrivals::Ramp { from: *from, to: *to, poisson }
            }
            Pattern::Steps { rates, hold, spacing } => {
                if !rates.iter().all(fine) || rates.iter().all(|r| *r == 0.0) || hold.0.is_zero() {
                    return Err(format!(
                        "steps: expected rates of 0 or more, one above 0, each held for more than 0, got {rates:?} for {hold}"
                    ));
                }
                let poisson = *spacing == Spacing::Poisson;
                Arrivals::Steps { rates: rates.clone(), hold: hold.0, poisson }
            }
            Pattern::Trace(path) => Arrivals::Trace { at: trace(path)?.into() },
            Pattern::Recorded(speed) => Arrivals::Recorded { asked: Arc::default(), speed: *speed },
            Pattern::Closed { callers, think } => {
                if !(1..=1_000_000).contains(callers) {
                    return Err(format!("closed: expected 1 to 1000000 callers, got {callers}"));
                }
                Arrivals::Closed { callers: *callers, think: think.0 }
            }
        })
    }

    /// How long it takes by itself, where it says so.
    pub fn own_duration(&self) -> Option<Duration> {
        match self {
            Pattern::Steps { rates, hold, .. } => {
                hold.0.checked_mul(u32::try_from(rates.len()).ok()?)
            }
            _ => None,
        }
    }

    /// Whether it ends by itself.
    pub fn ends(&self) -> bool {
        matches!(self, Pattern::Steps { .. } | Pattern::Trace(_) | Pattern::Recorded(_))
    }

    /// The same at another rate; none where it has more than one, or none.
    pub fn at_rate(&self, rate: f64) -> Option<Pattern> {
        match self {
            Pattern::Poisson(_) => Some(Pattern::Poisson(Rate(rate))),
            Pattern::Constant(_) => Some(Pattern::Constant(Rate(rate))),
            _ => None,
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    /// As flags state it. `poisson` and `constant` need their rate after a colon here; the command line adds that of `--rate`.
    fn from_str(text: &str) -> Result<Pattern, String> {
        let wrong = |why: &str| {
            format!(
                "'{text}': {why}; expected poisson:RATE, constant:RATE, bursts:SIZE/GAP, ramp:FROM..TO, steps:RATE,RATE,…/HOLD, trace:FILE, recorded[:SPEED] or closed:CALLERS[/THINK]"
            )
        };
        if text == "recorded" {
            return Ok(Pattern::Recorded(Speed::Times(1.0)));
        }
        let (name, rest) = text.split_once(':').ok_or_else(|| wrong("nothing after a colon"))?;
        let pair = || rest.split_once('/').ok_or_else(|| wrong("no / in it"));
        let number = |part: &str| match part.trim() {
            "0" => Ok(0.0),
            part => part.parse::<Rate>().map(|Rate(rate)| rate),
        };
        let (name, spacing) = match name.strip_prefix("even-") {
            Some(name) => (name, Spacing::Constant),
            None => (name, Spacing::Poisson),
        };
        Ok(match (name, spacing) {
            ("ramp", _) => {
                let (from, to) = rest.split_once("..").ok_or_else(|| wrong("no .. in it"))?;
                Pattern::Ramp { from: number(from)?, to: number(to)?, spacing }
            }
            ("steps", _) => {
                let (rates, hold) = pair()?;
                let rates = rates.split(',').map(number).collect::<Result<_, _>>()?;
                Pattern::Steps { rates, hold: hold.parse()?, spacing }
            }
            (_, Spacing::Constant) => return Err(wrong("only ramp and steps are even")),
            ("poisson", _) => Pattern::Poisson(rest.parse()?),
            ("constant", _) => Pattern::Constant(rest.parse()?),
            ("bursts", _) => {
                let (size, every) = pair()?;
                let size = size.trim().parse().map_err(|_| wrong("SIZE is no whole number"))?;
                Pattern::Bursts { size, every: every.parse()? }
            }
            ("trace", _) => Pattern::Trace(PathBuf::from(rest)),
            ("recorded", _) => Pattern::Recorded(rest.parse()?),
            ("closed", _) => {
                let (callers, think) = rest.split_once('/').unwrap_or((rest, "0s"));
                let callers =
                    callers.trim().parse().map_err(|_| wrong("CALLERS is no whole number"))?;
                Pattern::Closed { callers, think: think.parse()? }
            }
            _ => return Err(wrong(&format!("'{name}' is no way of arriving"))),
        })
    }
}

/// Reads the moments of a trace, in order, counted from the earliest.
fn trace(path: &Path) -> Result<Vec<Duration>, String> {
    let name = path.display();
    let file = fs::File::open(path).map_err(|e| format!("{name}: cannot be read: {e}"))?;
    let mut moments: Vec<u64> = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| format!("{name}: cannot be read: {e}"))?;
        let text = line.split('#').next().unwrap_or("").trim();
        if text.is_empty() {
            continue;
        }
        let moment = moment(text).ok_or_else(|| {
            format!(
                "{name}, line {}: expected a moment in seconds, as in 12.5 or 20ms, got '{}'",
                number + 1,
                text.chars().take(40).collect::<String>().escape_debug()
            )
        })?;
        if moments.len() == MAX_TRACE {
            return Err(format!("{name}: more than {MAX_TRACE} moments"));
        }
        moments.push(moment);
    }
    moments.sort_unstable();
    let Some(first) = moments.first().copied() else {
        return Err(format!("{name}: no moments in it"));
    };
    Ok(moments.into_iter().map(|at| Duration::from_nanos(at - first)).collect())
}

/// In nanoseconds. Seconds since 1970 need more digits than a float has, so whole seconds and their fraction are read apart.
fn moment(text: &str) -> Option<u64> {
    if let Ok(Span(span)) = text.parse::<Span>() {
        return u64::try_from(span.as_nanos()).ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn flags_say_every_pattern() {
        let ms = |n| Span(Duration::from_millis(n));
        for (text, expected) in [
            ("poisson:1.5k", Pattern::Poisson(Rate(1500.0))),
            ("constant:20", Pattern::Constant(Rate(20.0))),
            ("bursts:32/100ms", Pattern::Bursts { size: 32, every: ms(100) }),
            ("ramp:0..900", Pattern::Ramp { from: 0.0, to: 900.0, spacing: Spacing::Poisson }),
            (
                "even-steps:100,200/5s",
                Pattern::Steps {
                    rates: vec![100.0, 200.0],
                    hold: ms(5000),
                    spacing: Spacing::Constant,
                },
            ),
            ("trace:a/b.txt", Pattern::Trace("a/b.txt".into())),
            ("recorded", Pattern::Recorded(Speed::Times(1.0))),
            ("recorded:0.5", Pattern::Recorded(Speed::Times(0.5))),
            ("recorded:max", Pattern::Recorded(Speed::Max)),
            ("closed:8", Pattern::Closed { callers: 8, think: ms(0) }),
            ("closed:8/10ms", Pattern::Closed { callers: 8, think: ms(10) }),
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap(), expected, "{text}");
        }
        for wrong in [
            "",
            "poisson",
            "poisson:0",
            "bursts:3",
            "bursts:x/1s",
            "ramp:1",
            "steps:1/2",
            "even-poisson:3",
            "waves:3",
            "closed:x",
            "recorded:0",
            "recorded:NaN",
            "recorded:fast",
        ] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, why) in [
            ("ramp:0..0", "one above 0"),
            ("steps:0,0/1s", "one above 0"),
            ("steps:5/0s", "more than 0"),
            ("bursts:0/1s", "above 0"),
            ("bursts:5/0s", "above 0"),
            ("closed:0", "1 to 1000000"),
            ("trace:no/such/file", "no/such/file: cannot be read"),
        ] {
            let error = text.parse::<Pattern>().unwrap().resolve().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    fn read(text: &str) -> Result<Vec<u64>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        trace(file.path()).map(|at| at.iter().map(|d| d.as_nanos() as u64).collect())
    }

    #[test]
    fn traces_count_from_their_earliest_moment() {
        let text = "# recorded\n1764143205.000000250\n\n1764143204.5 # out of order\n1764143206\n";
        assert_eq!(read(text).unwrap(), [0, 500_000_250, 1_500_000_000]);
        assert_eq!(read("0s\n20ms\n1.5s").unwrap(), [0, 20_000_000, 1_500_000_000]);
        for (text, why) in [
            ("", "no moments"),
            ("1\ntwo\n", "line 2: expected a moment in seconds"),
            ("-1", "line 1"),
            ("1e3", "line 1"),
            ("99999999999999999999", "line 1"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{text}");
        }
    }
}
