//! A server's own figures while a run goes on: its metrics page and its processes, looked at once a second.

pub mod reading;
pub mod series;
pub mod source;
pub mod text;

#[cfg(test)]
mod tests;

use std::{
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use self::{
    reading::{Dialect, Process, Reading},
    series::{Server, Span, Stretch},
    source::Page,
};
use crate::{
    plan::{Address, Target, Tls},
    url::Url,
};

/// How often a server is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What takes longer than this is a scrape that failed; the next comes at its own time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a metrics page is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Metrics {
    /// Nowhere: none is read.
    #[default]
    Off,
    /// As somebody said: a run without it fails before any load.
    At(Page),
    /// Where such a server has it unless told otherwise: tried once, absent is fine.
    Guessed(Page),
}

impl Metrics {
    /// The page of a server that listens on the usual ports: 8002 of the same host, beside 8000 and 8001. On other ports it would be
    /// a guess at somebody else's server.
    pub fn guess(target: &Target) -> Metrics {
        match &target.address {
            Address::Tcp { host, port: 8000 | 8001 } => {
                let (host, path) = (host.clone(), "/metrics".to_owned());
                // A server with TLS has it on all of its ports, as far as is known; it is a guess.
                let secure = target.tls.is_some();
                Metrics::Guessed(Page::Web(Url { secure, host, port: 8002, path }))
            }
            _ => Metrics::Off,
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub metrics: Metrics,
    /// How the page's certificate is looked at, where it has one.
    pub tls: Tls,
    /// Processes of the server, where it runs on this machine: their CPU and memory instead of the page's.
    pub pids: Vec<u32>,
    /// Models under load: a guessed page that knows none of them is another server's.
    pub models: Vec<String>,
}

/// A thread that looks at a server until it is told to stop.
#[derive(Debug)]
pub struct Scraper {
    source: String,
    stop: SyncSender<()>,
    thread: JoinHandle<Scraped>,
}

/// What a scraper saw.
#[derive(Debug, Default)]
struct Scraped {
    stretches: Vec<Stretch>,
    dialect: Option<Dialect>,
    scrapes: u64,
    failed: u64,
    failure: Option<String>,
}

/// How it stands with a server's figures before a run.
#[derive(Debug)]
pub enum Look {
    /// They can be seen.
    Ready(Box<Ready>),
    /// There is nothing to look at, and why; no reason where none was asked for.
    Absent(Option<String>),
}

/// A server that was looked at once.
#[derive(Debug)]
pub struct Ready {
    options: Options,
    first: Reading,
    at: Instant,
}

impl Options {
    /// Looks for the first time, so that what was asked for and is not there fails before any load.
    pub fn look(mut self) -> Result<Look, String> {
        let page = match &self.metrics {
            Metrics::Off => None,
            Metrics::At(page) => Some(page.fetch(PATIENCE, &self.tls)?),
            Metrics::Guessed(page) => match self.guessed(page) {
                Ok(text) => Some(text),
                Err(why) if self.pids.is_empty() => return Ok(Look::Absent(Some(why))),
                Err(_) => {
                    self.metrics = Metrics::Off;
                    None
                }
            },
        };
        if page.is_none() && self.pids.is_empty() {
            return Ok(Look::Absent(None));
        }
        let mut first = Reading::of(page.as_deref().unwrap_or(""), 0.0);
        if let (Metrics::At(page), None) = (&self.metrics, first.dialect) {
            return Err(format!(
                "{page}: no metric that is known; expected names that begin with onnxd_ or nv_"
            ));
        }
        if !self.pids.is_empty() {
            first.process = source::processes(&self.pids)?;
        }
        Ok(Look::Ready(Box::new(Ready { options: self, first, at: Instant::now() })))
    }

    fn guessed(&self, page: &Page) -> Result<String, String> {
        let text = page.fetch(PATIENCE, &self.tls)?;
        let reading = Reading::of(&text, 0.0);
        if self.models.iter().any(|model| reading.knows(model)) {
            return Ok(text);
        }
        Err(format!("{page}: it knows nothing of {}", self.models.join(", ")))
    }

    fn page(&self) -> Option<&Page> {
        match &self.metrics {
            Metrics::Off => None,
            Metrics::At(page) | Metrics::Guessed(page) => Some(page),
        }
    }

    fn source(&self) -> String {
        let pids = self.pids.iter().map(|pid| format!("/proc/{pid}"));
        self.page().map(Page::to_string).into_iter().chain(pids).collect::<Vec<_>>().join(", ")
    }

    /// What can be seen now, and what of it cannot.
    fn read(&self, origin: Instant) -> (Option<Reading>, Option<String>) {
        let asked = since(origin);
        let text = match self.page().map(|page| page.fetch(PATIENCE, &self.tls)).transpose() {
            Ok(text) => text,
            Err(error) => return (None, Some(error)),
        };
        // The server wrote its page somewhere between the two.
        let mut reading = Reading::of(text.as_deref().unwrap_or(""), asked.midpoint(since(origin)));
        if self.pids.is_empty() {
            return (Some(reading), None);
        }
        let (process, trouble) = match source::processes(&self.pids) {
            Ok(process) => (process, None),
            Err(error) => (Process::default(), Some(error)),
        };
        reading.process = process;
        (Some(reading), trouble)
    }
}

impl Ready {
    /// Goes on looking, once a second on a thread of its own. Seconds count from `origin`, the moment the run begins.
    pub fn start(mut self, origin: Instant) -> Result<Scraper, String> {
        self.first.at_s = -origin.saturating_duration_since(self.at).as_secs_f64();
        let source = self.options.source();
        let (stop, stopped) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("scrape".to_owned())
            .spawn(move || watch(&self.options, self.first, origin, &stopped))
            .map_err(|e| format!("the thread that scrapes cannot be started: {e}"))?;
        Ok(Scraper { source, stop, thread })
    }
}

fn since(origin: Instant) -> f64 {
    origin.elapsed().as_secs_f64()
}

/// Looks once a second, and a last time when it is told to stop.
fn watch(options: &Options, first: Reading, origin: Instant, stop: &mpsc::Receiver<()>) -> Scraped {
    let mut seen = Scraped { scrapes: 1, dialect: first.dialect, ..Scraped::default() };
    let (mut before, mut due) = (first, Instant::now());
    loop {
        // What is overdue is left out: two looks at once say no more than one.
        while due <= Instant::now() {
            due += EVERY;
        }
        let told = stop.recv_timeout(due.saturating_duration_since(Instant::now()));
        let last = !matches!(told, Err(RecvTimeoutError::Timeout));
        let (reading, trouble) = options.read(origin);
        match trouble {
            None => seen.scrapes += 1,
            Some(trouble) => {
                seen.failed += 1;
                seen.failure.get_or_insert(trouble);
            }
        }
        if let Some(reading) = reading {
            seen.dialect = seen.dialect.or(reading.dialect);
            seen.stretches.push(reading.since(&before));
            before = reading;
        }
        if last {
            return seen;
        }
    }
}

impl Scraper {
    /// Looks a last time and puts what was seen into phases.
    pub fn end(self, phases: &[Span]) -> Server {
        // It is told by the channel's end as well.
        let _ = self.stop.try_send(());
        let seen = self.thread.join().unwrap_or_else(|_| Scraped {
            failed: 1,
            failure: Some("the thread that scrapes panicked".to_owned()),
            ..Scraped::default()
        });
        Server {
            source: self.source,
            dialect: seen.dialect,
            scrapes: seen.scrapes,
            failed: seen.failed,
            failure: seen.failure,
            ..Server::of(&seen.stretches, phases)
        }
    }
}
