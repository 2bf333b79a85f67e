//! One scrape, understood: which counters of onnxd or of Triton say what, and how far two scrapes are apart. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    series::{Cpu, ModelStretch, Stretch},
    text::{self, Sample},
};

/// Whose names a page is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `onnxd_*`: histograms; compute is counted once a run.
    Onnxd,
    /// `nv_*`, as Triton has them: sums of time, no histograms; compute is counted once a request.
    Triton,
}

/// How often something happened, what it adds up to and, where the server has a histogram, how it is spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Seconds, or rows.
    pub sum: f64,
    pub count: f64,
    /// Upper bounds and how many lie between each and the one before, in order; the last has no bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(Option<f64>, f64)>,
}

impl Spread {
    /// None where nothing happened.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// Estimated as Prometheus does: in a straight line within its bucket. None without a histogram.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count: f64 = self.buckets.iter().map(|(_, n)| n).sum();
        let (mut below, mut lower) = (0.0, 0.0);
        for (upper, n) in &self.buckets {
            if *n > 0.0 && below + n >= quantile * count {
                let Some(upper) = upper else { return Some(lower) };
                let part = ((quantile * count - below) / n).clamp(0.0, 1.0);
                return Some(lower + (upper - lower) * part);
            }
            below += n;
            lower = upper.unwrap_or(lower);
        }
        None
    }

    /// Adds what came later, or elsewhere. Histograms of other bounds are given up: the sums still hold.
    pub fn add(&mut self, other: &Spread) {
        if self.count == 0.0 && self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else if other.count > 0.0 || !other.buckets.is_empty() {
            let same = self.buckets.len() == other.buckets.len()
                && self.buckets.iter().zip(&other.buckets).all(|(a, b)| a.0 == b.0);
            if same {
                self.buckets.iter_mut().zip(&other.buckets).for_each(|(a, b)| a.1 += b.1);
            } else {
                self.buckets.clear();
            }
        }
        self.sum += other.sum;
        self.count += other.count;
    }

    fn since(&self, before: &Spread) -> Spread {
        let bounds = |spread: &Spread| spread.buckets.iter().map(|(b, _)| *b).collect::<Vec<_>>();
        let buckets = if bounds(self) == bounds(before) {
            let pairs = self.buckets.iter().zip(&before.buckets);
            pairs.map(|((bound, now), (_, then))| (*bound, (now - then).max(0.0))).collect()
        } else {
            Vec::new()
        };
        Spread { sum: self.sum - before.sum, count: self.count - before.count, buckets }
    }

    fn went_back(&self, before: &Spread) -> bool {
        self.sum < before.sum || self.count < before.count
    }
}

/// Counters by a label.
pub type Counts = BTreeMap<String, f64>;

/// What a version of a model counted since it was loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Version {
    /// By code; `ok` was answered.
    requests: Counts,
    shed: Counts,
    rows: f64,
    request: Spread,
    queue: Spread,
    compute: Spread,
    batch: Spread,
    in_flight: Option<f64>,
    queued: Option<f64>,
}

/// What a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Since it started. Seconds.
    pub cpu_s: Option<f64>,
    pub resident_bytes: Option<f64>,
    /// When it started: seconds since something that stays.
    pub started_s: Option<f64>,
}

/// A page at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Seconds since the run began.
    pub at_s: f64,
    pub dialect: Option<Dialect>,
    versions: BTreeMap<(String, String), Version>,
    refused: Counts,
    pub process: Process,
    /// Lines of the page that could not be read.
    pub skipped: usize,
}

impl Reading {
    /// What a page says. With names of both dialects, those of onnxd count: they say more.
    pub fn of(page: &str, at_s: f64) -> Reading {
        let wanted = |name: &str| ["onnxd_", "nv_", "process_"].iter().any(|p| name.starts_with(p));
        let page = text::parse(page, wanted);
        let has = |prefix: &str| page.samples.iter().any(|s| s.name.starts_with(prefix));
        let dialect = match (has("onnxd_"), has("nv_")) {
            (true, _) => Some(Dialect::Onnxd),
            (_, true) => Some(Dialect::Triton),
            _ => None,
        };
        let mut reading = Reading { at_s, dialect, skipped: page.skipped, ..Reading::default() };
        // A counter that is no number, or below zero, says nothing; sums would carry it on.
        for sample in page.samples.iter().filter(|s| s.value.is_finite() && s.value >= 0.0) {
            match dialect {
                Some(Dialect::Onnxd) => reading.onnxd(sample),
                Some(Dialect::Triton) => reading.triton(sample),
                None => {}
            }
            reading.process(sample);
        }
        for version in reading.versions.values_mut() {
            for spread in
                [&mut version.request, &mut version.queue, &mut version.compute, &mut version.batch]
            {
                apart(&mut spread.buckets);
            }
        }
        reading
    }

    /// Whether a model is on the page.
    pub fn knows(&self, model: &str) -> bool {
        self.versions.keys().any(|(known, _)| known == model)
    }

    fn version(&mut self, sample: &Sample) -> Option<&mut Version> {
        let name = sample.label("model")?;
        let version = sample.label("version").unwrap_or("");
        Some(self.versions.entry((name.to_owned(), version.to_owned())).or_default())
    }

    fn onnxd(&mut self, sample: &Sample) {
        let value = sample.value;
        let label = |name: &str| sample.label(name).unwrap_or("unknown").to_owned();
        if sample.name == "onnxd_requests_refused_total" {
            *self.refused.entry(label("code")).or_default() += value;
            return;
        }
        let known =
            ["requests", "inference_rows", "request_s", "queue_s", "compute_s", "batch_rows"];
        let name = sample.name.trim_start_matches("onnxd_");
        if !known.iter().any(|prefix| name.starts_with(prefix)) {
            return;
        }
        let Some(version) = self.version(sample) else { return };
        match name {
            "requests_total" => *version.requests.entry(label("code")).or_default() += value,
            "requests_shed_total" => *version.shed.entry(label("reason")).or_default() += value,
            "inference_rows_total" => version.rows += value,
            "requests_in_flight" => version.in_flight = Some(value),
            "requests_queued" => version.queued = Some(value),
            _ => {
                let Some((histogram, part)) = name.rsplit_once('_') else { return };
                let spread = match histogram {
                    "request_seconds" => &mut version.request,
                    "queue_seconds" => &mut version.queue,
                    "compute_seconds" => &mut version.compute,
                    "batch_rows" => &mut version.batch,
                    _ => return,
                };
                match (part, sample.label("le").and_then(|le| le.parse::<f64>().ok())) {
                    ("sum", _) => spread.sum += value,
                    ("count", _) => spread.count += value,
                    ("bucket", Some(le)) => {
                        spread.buckets.push((le.is_finite().then_some(le), value));
                    }
                    _ => {}
                }
            }
        }
    }

    fn triton(&mut self, sample: &Sample) {
        let value = sample.value;
        let Some(version) = self.version(sample) else { return };
        match sample.name {
            "nv_inference_request_success" => {
                *version.requests.entry("ok".to_owned()).or_default() += value;
                for spread in [&mut version.request, &mut version.queue, &mut version.compute] {
                    spread.count += value;
                }
            }
            "nv_inference_request_failure" => {
                let reason = sample.label("reason").unwrap_or("failed").to_ascii_lowercase();
                *version.requests.entry(reason).or_default() += value;
            }
            "nv_inference_count" => {
                version.rows += value;
                version.batch.sum += value;
            }
            "nv_inference_exec_count" => version.batch.count += value,
            "nv_inference_request_duration_us" => version.request.sum += value / 1e6,
            "nv_inference_queue_duration_us" => version.queue.sum += value / 1e6,
            "nv_inference_compute_infer_duration_us" => version.compute.sum += value / 1e6,
            "nv_inference_pending_request_count" => version.queued = Some(value),
            _ => {}
        }
    }

    fn process(&mut self, sample: &Sample) {
        let process = &mut self.process;
        match sample.name {
            "process_cpu_seconds_total" => process.cpu_s = Some(sample.value),
            "process_resident_memory_bytes" => process.resident_bytes = Some(sample.value),
            "process_start_time_seconds" => process.started_s = Some(sample.value),
            _ => {}
        }
    }

    /// Whether the process is another one than before.
    pub fn restarted_since(&self, before: &Reading) -> bool {
        match (self.process.started_s, before.process.started_s) {
            // A clock that is set, or one that is read to a tick, moves this a little.
            (Some(now), Some(then)) => now - then > 0.5,
            _ => match (self.process.cpu_s, before.process.cpu_s) {
                (Some(now), Some(then)) => now < then,
                _ => false,
            },
        }
    }

    /// What happened between an earlier reading and this one. Versions that did nothing, and had nothing to do, are left out.
    pub fn since(&self, before: &Reading) -> Stretch {
        let restarted = self.restarted_since(before);
        let none = Reading::default();
        let base = if restarted { &none } else { before };
        let model = |(name, now): (&(String, String), &Version)| {
            let unknown = Version::default();
            let then = base.versions.get(name).unwrap_or(&unknown);
            // A version that counts from zero again was loaded anew.
            let then = if now.went_back(then) { &unknown } else { then };
            now.since(then).named(name)
        };
        let seconds = self.at_s - before.at_s;
        let used_s = match (self.process.cpu_s, base.process.cpu_s) {
            (Some(now), Some(then)) => Some((now - then).max(0.0)),
            (now, _) if restarted => now,
            _ => None,
        };
        Stretch {
            from_s: before.at_s,
            to_s: self.at_s,
            seconds,
            models: self.versions.iter().map(model).filter(ModelStretch::is_active).collect(),
            refused: counts_since(&self.refused, &base.refused),
            cpu: used_s.map(|used_s| Cpu { used_s, of_s: seconds }),
            resident_bytes: self.process.resident_bytes,
            restarted,
        }
    }
}

impl Version {
    fn went_back(&self, before: &Version) -> bool {
        let counters = |requests: &Counts, then: &Counts| {
            requests.iter().any(|(code, n)| then.get(code).is_some_and(|then| n < then))
        };
        counters(&self.requests, &before.requests)
            || counters(&self.shed, &before.shed)
            || self.rows < before.rows
            || self.request.went_back(&before.request)
            || self.queue.went_back(&before.queue)
            || self.compute.went_back(&before.compute)
            || self.batch.went_back(&before.batch)
    }

    fn since(&self, before: &Version) -> ModelStretch {
        ModelStretch {
            model: String::new(),
            version: String::new(),
            requests: counts_since(&self.requests, &before.requests),
            shed: counts_since(&self.shed, &before.shed),
            rows: self.rows - before.rows,
            request: self.request.since(&before.request),
            queue: self.queue.since(&before.queue),
            compute: self.compute.since(&before.compute),
            batch: self.batch.since(&before.batch),
            in_flight: self.in_flight,
            queued: self.queued,
        }
    }
}

/// Only what changed.
fn counts_since(now: &Counts, before: &Counts) -> Counts {
    now.iter()
        .map(|(key, n)| (key.clone(), n - before.get(key).copied().unwrap_or(0.0)))
        .filter(|(_, n)| *n > 0.0)
        .collect()
}

/// Cumulative buckets, in whatever order they came, as counts between bounds.
fn apart(buckets: &mut Vec<(Option<f64>, f64)>) {
    buckets.sort_by(|(a, _), (b, _)| {
        a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
    });
    buckets.dedup_by(|a, b| a.0 == b.0);
    let mut below = 0.0;
    for (_, n) in buckets {
        let cumulative = *n;
        *n = (cumulative - below).max(0.0);
        below = cumulative.max(below);
    }
}
