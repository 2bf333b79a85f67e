//! What a server said of itself over a run: stretches between scrapes, put into phases, summed and worded. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reading::{Counts, Dialect, Spread};

/// More stretches than this are put together, two by two, so that a report of hours stays small.
const STRETCHES: usize = 600;

/// What one version did in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStretch {
    pub model: String,
    pub version: String,
    /// Requests that ended, by code; `ok` was answered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: Counts,
    /// Requests refused or let go because of the load, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shed: Counts,
    pub rows: f64,
    /// Seconds of answered requests, from decoded to answered.
    pub request: Spread,
    /// Seconds that answered requests waited for their batch.
    pub queue: Spread,
    /// Seconds of running the model: once a run in onnxd's dialect, once a request in Triton's.
    pub compute: Spread,
    /// Rows a run.
    pub batch: Spread,
    /// Requests under way: at the end of a stretch, the most of any end in a sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<f64>,
    /// Requests that wait for a run, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<f64>,
}

impl ModelStretch {
    pub fn named(mut self, (model, version): &(String, String)) -> ModelStretch {
        (self.model, self.version) = (model.clone(), version.clone());
        self
    }

    pub fn is_active(&self) -> bool {
        let gauge = |value: Option<f64>| value.is_some_and(|n| n > 0.0);
        !self.requests.is_empty()
            || !self.shed.is_empty()
            || self.compute.count > 0.0
            || gauge(self.in_flight)
            || gauge(self.queued)
    }

    pub fn answered(&self) -> f64 {
        self.requests.get("ok").copied().unwrap_or(0.0)
    }

    fn add(&mut self, other: &ModelStretch) {
        add(&mut self.requests, &other.requests);
        add(&mut self.shed, &other.shed);
        self.rows += other.rows;
        self.request.add(&other.request);
        self.queue.add(&other.queue);
        self.compute.add(&other.compute);
        self.batch.add(&other.batch);
        self.in_flight = most(self.in_flight, other.in_flight);
        self.queued = most(self.queued, other.queued);
    }
}

fn add(counts: &mut Counts, others: &Counts) {
    for (key, n) in others {
        *counts.entry(key.clone()).or_default() += n;
    }
}

fn most(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// Processor time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// User and system, of all threads.
    pub used_s: f64,
    /// Time that went by while it was used: less than the stretch where it was unknown for a part of it.
    pub of_s: f64,
}

/// What a server did between two scrapes, or over several of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Seconds since the run began.
    pub from_s: f64,
    pub to_s: f64,
    /// How much of that was looked at: a sum may have gaps.
    pub seconds: f64,
    /// Versions that did something, or had something to do.
    pub models: Vec<ModelStretch>,
    /// Requests that failed before they reached a version, by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: Counts,
    /// None where the server does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Its resident memory: at the end of a stretch, the most of any end in a sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<f64>,
    /// The process at its end is not the one at its beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
}

impl Stretch {
    /// Requests answered, of all versions.
    pub fn answered(&self) -> f64 {
        self.models.iter().map(ModelStretch::answered).sum()
    }

    /// Adds a later stretch.
    pub fn add(&mut self, other: &Stretch) {
        for theirs in &other.models {
            let ours =
                |m: &&mut ModelStretch| (&m.model, &m.version) == (&theirs.model, &theirs.version);
            match self.models.iter_mut().find(ours) {
                Some(model) => model.add(theirs),
                None => self.models.push(theirs.clone()),
            }
        }
        add(&mut self.refused, &other.refused);
        self.cpu = match (self.cpu, other.cpu) {
            (Some(a), Some(b)) => Some(Cpu { used_s: a.used_s + b.used_s, of_s: a.of_s + b.of_s }),
            (a, b) => a.or(b),
        };
        self.resident_bytes = most(self.resident_bytes, other.resident_bytes);
        self.restarted |= other.restarted;
        self.seconds += other.seconds;
        self.to_s = other.to_s;
    }

    /// Which phase it counts in.
    fn place(&self, phases: &[Span]) -> Option<usize> {
        // Below zero where the two do not meet: how far they are apart.
        let shared = |span: &Span| self.to_s.min(span.to_s) - self.from_s.max(span.from_s);
        let of = |(at, span): (usize, &Span)| (at, shared(span));
        phases.iter().enumerate().map(of).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }

    /// The sum of stretches in order; none where there are none.
    pub fn sum<'a>(stretches: impl IntoIterator<Item = &'a Stretch>) -> Option<Stretch> {
        let mut stretches = stretches.into_iter();
        let mut sum = stretches.next()?.clone();
        stretches.for_each(|next| sum.add(next));
        Some(sum)
    }

    fn without_buckets(mut self) -> Stretch {
        for model in &mut self.models {
            for spread in
                [&mut model.request, &mut model.queue, &mut model.compute, &mut model.batch]
            {
                spread.buckets.clear();
            }
        }
        self
    }
}

/// When a phase went on, in seconds since the run began.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub name: String,
    pub warm_up: bool,
    pub from_s: f64,
    pub to_s: f64,
}

/// A phase as the server saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseServer {
    pub name: String,
    pub warm_up: bool,
    /// None where no scrape fell into it.
    pub sum: Option<Stretch>,
}

/// A server's own figures of a run. They count everybody's requests, not ours alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Where they were read: URLs, `/proc/PID`.
    pub source: String,
    pub dialect: Option<Dialect>,
    /// Scrapes that went well.
    pub scrapes: u64,
    pub failed: u64,
    /// The first failure, in words.
    pub failure: Option<String>,
    /// All phases that are no warm-up, together.
    pub total: Option<Stretch>,
    pub phases: Vec<PhaseServer>,
    /// One after the other, a second each unless the run was long; without histograms.
    pub seconds: Vec<Stretch>,
}

impl Server {
    /// Puts stretches into phases: each counts in the one that it shares the most time with, or lies next to. The last look comes
    /// after the last answer, and what it adds to the one before was counted for requests of the run.
    pub fn of(stretches: &[Stretch], phases: &[Span]) -> Server {
        let places: Vec<Option<usize>> = stretches.iter().map(|s| s.place(phases)).collect();
        let phase = |(at, span): (usize, &Span)| {
            let inside = stretches.iter().zip(&places).filter(|(_, place)| **place == Some(at));
            PhaseServer {
                name: span.name.clone(),
                warm_up: span.warm_up,
                sum: Stretch::sum(inside.map(|(stretch, _)| stretch)),
            }
        };
        let phases: Vec<PhaseServer> = phases.iter().enumerate().map(phase).collect();
        let counted = phases.iter().filter(|p| !p.warm_up).filter_map(|p| p.sum.as_ref());
        Server {
            total: Stretch::sum(counted),
            seconds: coarse(stretches),
            phases,
            ..Server::default()
        }
    }

    /// What a person reads beside the client's figures. Empty where nothing was seen.
    pub fn lines(&self) -> Vec<String> {
        let Some(total) = &self.total else { return self.troubles() };
        let mut lines: Vec<String> =
            total.models.iter().map(|model| model_line(model, self.dialect)).collect();
        lines.extend(process_line(total, &self.seconds));
        if !total.refused.is_empty() {
            lines.push(format!("refused before a version: {}", worded(&total.refused)));
        }
        lines.extend(self.troubles());
        lines
    }

    fn troubles(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for stretch in self.seconds.iter().filter(|s| s.restarted) {
            lines.push(format!(
                "the server restarted between {:.1} s and {:.1} s of the run",
                stretch.from_s, stretch.to_s
            ));
        }
        if let Some(failure) = &self.failure {
            let all = self.failed + self.scrapes;
            lines.push(format!("{} of {all} scrapes failed, the first: {failure}", self.failed));
        }
        lines
    }
}

/// At most `STRETCHES`, neighbours put together.
fn coarse(stretches: &[Stretch]) -> Vec<Stretch> {
    let together = stretches.len().div_ceil(STRETCHES).max(1);
    let parts = stretches.chunks(together).filter_map(Stretch::sum);
    parts.map(Stretch::without_buckets).collect()
}

fn model_line(model: &ModelStretch, dialect: Option<Dialect>) -> String {
    let mut parts = vec![worded(&model.requests)];
    let mut time = |what: &str, spread: &Spread| {
        if let Some(mean) = spread.mean() {
            let p99 = spread.quantile(0.99).map(|p| format!(", p99 {}", seconds(p)));
            parts.push(format!("{what} {}{}", seconds(mean), p99.unwrap_or_default()));
        }
    };
    time("queue", &model.queue);
    let each = if dialect == Some(Dialect::Triton) { "compute" } else { "compute a run" };
    time(each, &model.compute);
    if let Some(mean) = model.batch.mean() {
        parts.push(format!("batch {mean:.2} rows"));
    }
    if !model.shed.is_empty() {
        parts.push(format!("shed {}", worded(&model.shed)));
    }
    if let Some(queued) = model.queued {
        parts.push(format!("queued at most {queued}"));
    }
    parts.retain(|part| !part.is_empty());
    let version = Some(&model.version).filter(|v| !v.is_empty()).map(|v| format!("/{v}"));
    format!("{}{}: {}", model.model, version.unwrap_or_default(), parts.join("; "))
}

fn process_line(total: &Stretch, seconds: &[Stretch]) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(Cpu { used_s, of_s }) = total.cpu {
        let cores = used_s / of_s.max(f64::MIN_POSITIVE);
        let mut text = format!("CPU {used_s:.2} s ({cores:.2} cores)");
        if total.answered() > 0.0 && of_s >= total.seconds {
            text += &format!(", {} a request", self::seconds(used_s / total.answered()));
        }
        parts.push(text);
    }
    let first = seconds.first().and_then(|s| s.resident_bytes);
    if let (Some(most), Some(first)) = (total.resident_bytes, first) {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        parts.push(format!("resident at most {:.1} MiB, {:.1} at first", mib(most), mib(first)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn worded(counts: &Counts) -> String {
    let words: Vec<String> = counts.iter().map(|(key, n)| format!("{n} {key}")).collect();
    words.join(", ")
}

/// With a unit that keeps three digits.
fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{v:.2} s"),
        v if v >= 1e-3 => format!("{:.2} ms", v * 1e3),
        v => format!("{:.1} us", v * 1e6),
    }
}
