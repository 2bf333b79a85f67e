//! What goes on beside a load: the server's own figures and the commands of events, begun with a run and put beside what it measured.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    events::{
        Happened, Planned,
        timeline::Timeline,
        verdict::{self, Own},
        window::Windows,
    },
    record::Measured,
    scrape::{self, Look, Scraper, series::Server, series::Span},
    summary::Frame,
};

/// What to watch, and what to do, while a run goes on.
#[derive(Debug, Default)]
pub struct Options {
    pub server: scrape::Options,
    pub events: Vec<Planned>,
    /// Added to the environment of the events' commands.
    pub environment: Vec<(String, String)>,
    /// Set where somebody interrupts the run: commands under way are ended.
    pub stop: Arc<AtomicBool>,
}

/// A run that is watched.
#[derive(Debug)]
pub struct Watch {
    scraper: Option<Scraper>,
    timeline: Timeline,
    note: Option<String>,
}

/// What was seen beside a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// None where there were no figures to be had; `note` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub happened: Vec<Happened>,
    /// None without events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

impl Options {
    /// Begins. To be called just before the run: its seconds count from the end of this. What was asked for and cannot be had is
    /// an error.
    pub fn begin(self) -> Result<Watch, String> {
        let tls = self.server.tls.clone();
        let look = self.server.look()?;
        let origin = Instant::now();
        let (scraper, note) = match look {
            Look::Ready(ready) => (Some(ready.start(origin)?), None),
            Look::Absent(why) => (None, why.map(|why| format!("no figures of the server: {why}"))),
        };
        let timeline = Timeline::begin(&self.events, origin, self.environment, tls, self.stop)?;
        Ok(Watch { scraper, timeline, note })
    }
}

impl Watch {
    /// To be called as the run makes progress, with the phase it is in and how old that is. Gives what happened since, a line each.
    pub fn progress(&self, phase: usize, elapsed: Duration) -> Vec<String> {
        if let Some(began) = Instant::now().checked_sub(elapsed) {
            self.timeline.phase(phase, began);
        }
        self.timeline.news()
    }

    /// To be called when the run is over: waits for commands under way, and puts everything into the run's phases.
    pub fn end(self, measured: &Measured, frame: &Frame) -> Seen {
        let server = self.scraper.map(|scraper| scraper.end(&spans(measured, frame)));
        let happened = self.timeline.end(measured.interrupted);
        let windows = (!happened.is_empty()).then(|| Windows::of(measured, frame, &happened));
        Seen { server, note: self.note, happened, windows }
    }
}

/// When each phase went on.
fn spans(measured: &Measured, frame: &Frame) -> Vec<Span> {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let times = measured.began.iter().zip(&measured.took);
    let span = |(phase, (began, took)): (&crate::summary::PhaseFrame, (&u64, &u64))| Span {
        name: phase.name.clone(),
        warm_up: phase.warm_up,
        from_s: seconds(*began),
        to_s: seconds(began.saturating_add(*took)),
    };
    frame.phases.iter().zip(times).map(span).collect()
}

impl Seen {
    /// The windows that have objectives of their own.
    pub fn own(&self) -> Vec<Own<'_>> {
        verdict::own(&self.happened, self.windows.as_ref())
    }

    /// What of it fails the run, in words.
    pub fn failures(&self) -> Vec<String> {
        self.happened.iter().filter_map(Happened::failure).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::{
        events::{Ended, Event, plan},
        plan::{Arrivals, Phase, Until},
        summary::PhaseFrame,
    };

    fn phases() -> Vec<Phase> {
        let until = Until { duration: Some(Duration::from_secs(60)), requests: None };
        let arrivals = Arrivals::Constant { rate: 1.0 };
        vec![Phase { name: "only".to_owned(), arrivals, until, warm_up: false }]
    }

    #[test]
    fn everything_beside_a_run_is_put_into_its_phases() {
        let events: Vec<Event> = vec!["0s: echo $LOADTEST_URL; exit 4".parse().unwrap()];
        let options = Options {
            server: scrape::Options { pids: vec![std::process::id()], ..Default::default() },
            events: plan(&events, &phases()).unwrap(),
            environment: vec![("LOADTEST_URL".to_owned(), "http://h".to_owned())],
            stop: Arc::default(),
        };
        let watch = options.begin().unwrap();
        let mut news = watch.progress(0, Duration::from_millis(1));
        let end = Instant::now() + Duration::from_secs(120);
        while news.len() < 2 {
            assert!(Instant::now() < end, "{news:?}");
            std::thread::sleep(Duration::from_millis(5));
            news.extend(watch.progress(0, Duration::from_millis(1)));
        }
        let measured =
            Measured { began: vec![0], took: vec![600_000_000_000], ..Measured::default() };
        let phase = PhaseFrame { name: "only".to_owned(), ..PhaseFrame::default() };
        let seen = watch.end(&measured, &Frame { phases: vec![phase], variants: Vec::new() });
        let server = seen.server.as_ref().unwrap();
        assert_eq!(server.source, format!("/proc/{}", std::process::id()));
        assert!(server.total.as_ref().unwrap().resident_bytes.unwrap() > 0.0);
        assert_eq!(seen.happened[0].ended, Ended::Exit(4));
        assert_eq!(seen.happened[0].output, "http://h\n");
        assert!(seen.windows.as_ref().unwrap().events[0].tenths.contains_key(&0));
        assert_eq!(seen.failures().len(), 1);
    }

    #[test]
    fn what_there_is_nothing_of_is_absent_and_an_interrupted_run_starts_nothing() {
        let events: Vec<Event> = vec!["1s: true".parse().unwrap()];
        let events = plan(&events, &phases()).unwrap();
        let options = Options { events, ..Options::default() };
        options.stop.store(true, Ordering::SeqCst);
        let watch = options.begin().unwrap();
        let measured = Measured { interrupted: true, ..Measured::default() };
        let seen = watch.end(&measured, &Frame::default());
        assert_eq!((&seen.server, &seen.note), (&None, &None));
        assert_eq!(seen.happened[0].ended, Ended::Interrupted);
        assert!(seen.failures().is_empty());
    }
}
