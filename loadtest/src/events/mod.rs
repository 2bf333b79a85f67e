//! Commands and calls that are made while a load goes on (a swap, a rollout, a restart): what a scenario says of them, and what came of them.

pub mod command;
pub mod post;
pub mod timeline;
pub mod verdict;
pub mod window;

#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use self::{command::Ran, post::Post};
use crate::{
    plan::{Phase, Tls},
    slo::Slo,
    units::Span,
};

/// More events than this in one run are a mistake: each has a thread.
const MAX_EVENTS: usize = 100;
/// A window that is longer belongs to no event any more.
const LONGEST: Duration = Duration::from_secs(3600);

/// An event of a scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What the report calls it; by default `event 1`, and so on.
    pub name: Option<String>,
    /// How long after the phase began.
    pub at: Span,
    /// By default the first that is no warm-up.
    pub phase: Option<String>,
    pub run: Run,
    /// What is due until this long after the command's end is put down to the event.
    #[serde(default = "default_window")]
    pub window: Span,
    /// A command that takes longer is ended.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Whether a command that fails, or that the run was too short for, fails the run.
    #[serde(default = "default_required")]
    pub required: bool,
    /// What is asked of the server in the window; the phase's own objectives are judged outside of it then. Without it, the window
    /// counts in its phase as any other time. A window is judged as it was, without confidence intervals.
    pub slo: Option<Slo>,
}

fn default_window() -> Span {
    Span(Duration::from_secs(5))
}

fn default_timeout() -> Span {
    Span(Duration::from_secs(60))
}

fn default_required() -> bool {
    true
}

/// What to run: a line for `sh -c`, a program with its arguments, or a call over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    Shell(String),
    Program(Vec<String>),
    Post(Post),
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Run, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Run;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a line for the shell, a list of a program and its arguments, or a post",
                )
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Run, E> {
                Ok(Run::Shell(line.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Run, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Run::Program(words))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Run, A::Error> {
                Post::deserialize(de::value::MapAccessDeserializer::new(map)).map(Run::Post)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Run {
    /// To its end, to `timeout`, or until `stop` says so. `environment` is added to a command's, `tls` is how a called server's
    /// certificate is looked at.
    fn carry_out(
        &self,
        environment: &[(String, String)],
        tls: &Tls,
        timeout: Duration,
        stop: impl Fn() -> bool,
    ) -> Ran {
        let run = |argv: &[String], stop| command::run(argv, environment, timeout, stop);
        match self {
            Run::Shell(line) => run(&["/bin/sh".into(), "-c".into(), line.clone()], stop),
            Run::Program(words) => run(words, stop),
            Run::Post(post) => post.run(tls, timeout, stop),
        }
    }

    fn check(&self) -> Result<(), String> {
        let empty = match self {
            Run::Shell(line) => line.trim().is_empty(),
            Run::Program(words) => words.first().is_none_or(String::is_empty),
            Run::Post(post) => return post.check(),
        };
        if empty { Err("run is empty; expected a command".to_owned()) } else { Ok(()) }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Run::Shell(line) => f.write_str(line.trim()),
            Run::Program(words) => f.write_str(&words.join(" ")),
            Run::Post(post) => post.fmt(f),
        }
    }
}

/// As on the command line: `10s: kubectl rollout restart deployment/x`.
impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Event, String> {
        let expected = "expected a moment and a command, as in '10s: systemctl restart onnxd'";
        let (at, line) =
            text.split_once(':').ok_or_else(|| format!("'{text}' is no event; {expected}"))?;
        Ok(Event {
            name: None,
            at: at.parse().map_err(|e| format!("'{text}' is no event: {e}; {expected}"))?,
            phase: None,
            run: Run::Shell(line.trim().to_owned()),
            window: default_window(),
            timeout: default_timeout(),
            required: true,
            slo: None,
        })
    }
}

/// An event, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub name: String,
    /// The phase that its moment counts from.
    pub phase: usize,
    pub at: Duration,
    pub run: Run,
    pub window: Duration,
    pub timeout: Duration,
    pub required: bool,
    pub slo: Option<Slo>,
}

/// Holds events against the phases of a run.
pub fn plan(events: &[Event], phases: &[Phase]) -> Result<Vec<Planned>, String> {
    if events.len() > MAX_EVENTS {
        return Err(format!("{} events; expected at most {MAX_EVENTS}", events.len()));
    }
    let mut planned: Vec<Planned> = Vec::with_capacity(events.len());
    for (number, event) in events.iter().enumerate() {
        let one = resolve(number, event, phases)?;
        if planned.iter().any(|other| other.name == one.name) {
            return Err(format!(
                "event '{}' is there twice; expected names of their own",
                one.name
            ));
        }
        planned.push(one);
    }
    Ok(planned)
}

fn resolve(number: usize, event: &Event, phases: &[Phase]) -> Result<Planned, String> {
    let name = event.name.clone().unwrap_or_else(|| format!("event {}", number + 1));
    let wrong = |why: String| Err(format!("event '{name}': {why}"));
    if let Err(why) = event.run.check() {
        return wrong(why);
    }
    for (key, span) in [("window", event.window), ("timeout", event.timeout)] {
        if span.0 > LONGEST {
            return wrong(format!("{key} is {span}; expected at most {}", Span(LONGEST)));
        }
    }
    let phase = match &event.phase {
        None => phases.iter().position(|phase| !phase.warm_up).unwrap_or(0),
        Some(wanted) => match phases.iter().position(|phase| phase.name == *wanted) {
            Some(at) => at,
            None => {
                let names: Vec<_> = phases.iter().map(|p| p.name.as_str()).collect();
                return wrong(format!("no phase '{wanted}'; there are {}", names.join(", ")));
            }
        },
    };
    // Known only where every phase from there on states how long it is.
    let left: Option<Duration> = phases[phase..].iter().map(|p| p.until.duration).sum();
    if let Some(left) = left.filter(|left| event.at.0 >= *left) {
        return wrong(format!(
            "at {}, and the run is over {} after the start of phase '{}'",
            event.at,
            Span(left),
            phases[phase].name
        ));
    }
    Ok(Planned {
        phase,
        at: event.at.0,
        run: event.run.clone(),
        window: event.window.0,
        timeout: event.timeout.0,
        required: event.required,
        slo: event.slo,
        name,
    })
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Exit(i32),
    /// A call, with this HTTP status.
    Status(u16),
    /// A call got no answer, for this reason.
    NoAnswer(String),
    /// By a signal that did not come from here.
    Signal(i32),
    /// It was ended after its `timeout`.
    TimedOut,
    /// It could not be started, for this reason.
    NotStarted(String),
    /// The run was over before its moment came.
    NotReached,
    /// It was ended, or not started any more, with the run that somebody interrupted.
    Interrupted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exit(code) => write!(f, "exit code {code}"),
            Ended::Status(status) => write!(f, "status {status}"),
            Ended::NoAnswer(why) => write!(f, "no answer: {why}"),
            Ended::Signal(signal) => write!(f, "ended by signal {signal}"),
            Ended::TimedOut => f.write_str("took longer than its timeout, and was ended"),
            Ended::NotStarted(why) => write!(f, "could not be started: {why}"),
            Ended::NotReached => f.write_str("not reached: the run was over before"),
            Ended::Interrupted => f.write_str("the run was interrupted"),
        }
    }
}

/// What came of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Happened {
    pub name: String,
    pub command: String,
    pub required: bool,
    pub ended: Ended,
    /// When it was started and was over, in seconds since the run began; none where it was not started.
    pub from_s: Option<f64>,
    pub to_s: Option<f64>,
    /// How long the window goes on after that. Seconds.
    pub window_s: f64,
    /// The last of what a command wrote, standard output and error together, or of what a server answered.
    pub output: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
}

impl Happened {
    /// What of it fails the run, in words.
    pub fn failure(&self) -> Option<String> {
        let fine =
            matches!(self.ended, Ended::Exit(0) | Ended::Status(200..300) | Ended::Interrupted);
        if fine || !self.required {
            return None;
        }
        let last = self.output.lines().rev().find(|line| !line.trim().is_empty());
        let said = last.map(|line| format!("; its last line: {}", line.trim())).unwrap_or_default();
        Some(format!("event '{}' ({}): {}{said}", self.name, self.command, self.ended))
    }
}
