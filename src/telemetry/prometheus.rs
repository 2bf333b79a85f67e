//! The metrics page, in Prometheus' text format: written from the numbers at each scrape, nothing kept in between.

use std::{
    fmt::{Display, Write},
    sync::atomic::Ordering,
};

use serde::{Deserialize, Serialize};

use super::{
    histogram::Buckets,
    names::{self, Metric},
    predictions,
    process::{self, Process},
    registry::{self, Cut, Listener, ModelRow, Registry, StoreRow},
    shadow::{Copied, ShadowReading},
    stats::{Lookup, Reading, Shed},
    triton,
};
use crate::types::error::Code;

/// The page's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `metrics:` of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsOptions {
    /// Whether the page also has the numbers under Triton's names (`nv_*`), for dashboards and autoscalers made for it.
    /// False by default: the page is twice as long with them.
    pub nv_names: bool,
}

/// The page of this process.
pub fn render(options: MetricsOptions) -> String {
    page(registry::registry(), &process::read(), options)
}

/// A version's name with something known about it.
pub type Named<T> = ((String, String), T);

fn page(registry: &Registry, process: &Process, options: MetricsOptions) -> String {
    let mut page = Page::default();
    let versions: Vec<Named<Reading>> =
        registry.living().into_iter().map(|(name, series)| (name, series.read())).collect();
    requests(&mut page, &versions);
    histograms(&mut page, &versions);
    padding(&mut page, &versions);
    cache(&mut page, registry, &versions);
    traffic(&mut page, registry);
    gauges(&mut page, &versions);
    let rows = registry.models();
    models(&mut page, &rows);
    store(&mut page, registry.store());
    predictions::write(&mut page, registry.predictions().as_ref());
    server(&mut page, registry);
    system(&mut page, process);
    if options.nv_names {
        triton::write(&mut page, &versions, &rows, process.machine);
    }
    page.0
}

fn requests(page: &mut Page, versions: &[Named<Reading>]) {
    page.family(&names::REQUESTS);
    for ((model, version), reading) in versions {
        let labels = |code| [("model", &**model), ("version", &**version), ("code", code)];
        page.sample(names::REQUESTS.name, &labels("ok"), reading.request.count());
        for code in Code::ALL {
            // Only what happened: fourteen series a version, nearly all of them zero, would be most of the page.
            let failed = reading.failed[code as usize];
            if failed > 0 {
                page.sample(names::REQUESTS.name, &labels(code.label()), failed);
            }
        }
    }
    page.family(&names::SHED);
    for ((model, version), reading) in versions {
        for reason in Shed::ALL {
            let labels = [("model", &**model), ("version", &**version), ("reason", reason.label())];
            let shed = reading.shed[reason as usize];
            if shed > 0 {
                page.sample(names::SHED.name, &labels, shed);
            }
        }
    }
    per_version(page, &names::ROWS, versions, |reading| reading.rows);
}

/// Only of versions that pad: nearly all do not.
fn padding(page: &mut Page, versions: &[Named<Reading>]) {
    let padded: Vec<Named<Reading>> =
        versions.iter().filter(|(_, reading)| reading.padded > 0).cloned().collect();
    per_version(page, &names::PADDED_ELEMENTS, &padded, |reading| reading.padded);
    per_version(page, &names::PADDING_ELEMENTS, &padded, |reading| reading.padding);
}

/// Only of what has a cache, and only the outcomes that happened.
fn cache(page: &mut Page, registry: &Registry, versions: &[Named<Reading>]) {
    page.family(&names::CACHE_REQUESTS);
    for ((model, version), reading) in versions {
        for lookup in Lookup::ALL {
            let count = reading.cache[lookup as usize];
            let outcome = ("outcome", lookup.label());
            if count > 0 {
                let labels = [("model", &**model), ("version", &**version), outcome];
                page.sample(names::CACHE_REQUESTS.name, &labels, count);
            }
        }
    }
    let caches = registry.caches();
    page.family(&names::CACHE_ANSWERS);
    for (model, kept) in &caches {
        page.sample(names::CACHE_ANSWERS.name, &[("model", &**model)], kept.answers);
    }
    page.family(&names::CACHE_BYTES);
    for (model, kept) in &caches {
        page.sample(names::CACHE_BYTES.name, &[("model", &**model)], kept.bytes);
    }
}

/// Only of models with traffic rules.
fn traffic(page: &mut Page, registry: &Registry) {
    page.family(&names::ROUTED);
    for ((model, route), count) in registry.routes() {
        page.sample(names::ROUTED.name, &[("model", &*model), ("route", &*route)], count.total());
    }
    let shadows: Vec<Named<ShadowReading>> =
        registry.shadows().into_iter().map(|(name, counts)| (name, counts.read())).collect();
    page.family(&names::SHADOW_REQUESTS);
    for ((model, version), read) in &shadows {
        for copied in Copied::ALL {
            let outcome = ("outcome", copied.label());
            let labels = [("model", &**model), ("version", &**version), outcome];
            page.sample(names::SHADOW_REQUESTS.name, &labels, read.outcomes[copied as usize]);
        }
    }
    type Value = fn(&ShadowReading) -> f64;
    let of: [(&Metric, Value); 4] = [
        (&names::SHADOW_ROWS, |read| read.rows as f64),
        (&names::SHADOW_FLIPS, |read| read.flips as f64),
        (&names::SHADOW_DIFFERENCE, |read| read.sum),
        (&names::SHADOW_DIFFERENCE_MAX, |read| read.max),
    ];
    for (metric, value) in of {
        page.family(metric);
        for ((model, version), read) in &shadows {
            page.sample(metric.name, &[("model", &**model), ("version", &**version)], value(read));
        }
    }
    page.family(&names::SHADOW_SECONDS);
    for ((model, version), read) in &shadows {
        for (side, took) in [("shadow", read.shadow), ("primary", read.primary)] {
            let labels = [("model", &**model), ("version", &**version), ("side", side)];
            page.sample(names::SHADOW_SECONDS.name, &labels, took.as_secs_f64());
        }
    }
}

fn gauges(page: &mut Page, versions: &[Named<Reading>]) {
    per_version(page, &names::IN_FLIGHT, versions, |reading| reading.in_flight);
    per_version(page, &names::QUEUED, versions, |reading| reading.queued);
}

fn per_version(
    page: &mut Page,
    metric: &Metric,
    versions: &[Named<Reading>],
    value: impl Fn(&Reading) -> u64,
) {
    page.family(metric);
    for ((model, version), reading) in versions {
        page.sample(metric.name, &[("model", model), ("version", version)], value(reading));
    }
}

/// Which histogram of a version, and how its values are written.
type Pick = fn(&Reading) -> &Buckets;
type AsText = fn(u64) -> String;

fn histograms(page: &mut Page, versions: &[Named<Reading>]) {
    let of: [(&Metric, Pick, AsText); 4] = [
        (&names::REQUEST_SECONDS, |reading| &reading.request, seconds),
        (&names::QUEUE_SECONDS, |reading| &reading.queue, seconds),
        (&names::COMPUTE_SECONDS, |reading| &reading.compute, seconds),
        (&names::BATCH_ROWS, |reading| &reading.batch_rows, |rows| rows.to_string()),
    ];
    for (metric, buckets, text) in of {
        page.family(metric);
        for (name, reading) in versions {
            page.histogram(metric.name, name, buckets(reading), text);
        }
    }
}

fn models(page: &mut Page, models: &[Named<ModelRow>]) {
    page.family(&names::MODEL_STATE);
    for ((model, version), row) in models.iter().filter(|(_, row)| !row.state.is_empty()) {
        let labels = [("model", &**model), ("version", &**version), ("state", row.state)];
        page.sample(names::MODEL_STATE.name, &labels, 1);
    }
    page.family(&names::LOAD_SECONDS);
    for ((model, version), row) in models {
        if let Some(took) = row.load_time {
            let labels = [("model", &**model), ("version", &**version)];
            page.sample(names::LOAD_SECONDS.name, &labels, took.as_secs_f64());
        }
    }
    page.family(&names::LOADS_REFUSED);
    for ((model, version), row) in models.iter().filter(|((_, v), _)| !v.is_empty()) {
        let labels = [("model", &**model), ("version", &**version)];
        page.sample(names::LOADS_REFUSED.name, &labels, row.refused);
    }
}

fn store(page: &mut Page, row: Option<StoreRow>) {
    let Some(row) = row else { return };
    page.single(&names::STORE_UP, Some(u8::from(row.up)));
    page.single(&names::STORE_LAST_SYNC, row.last_sync_seconds);
    page.single(&names::STORE_FAILURES, Some(row.failures));
    page.single(&names::STORE_FETCHED, Some(row.fetched_bytes));
    page.single(&names::STORE_REFUSED, Some(row.refused));
}

fn server(page: &mut Page, registry: &Registry) {
    page.family(&names::REFUSED);
    for code in Code::ALL {
        page.sample(names::REFUSED.name, &[("code", code.label())], registry.refused_total(code));
    }
    page.family(&names::CALLER_REQUESTS);
    for (caller, counts) in registry.callers() {
        for code in Code::ALL.map(Some).into_iter().chain([None]) {
            let label = code.map_or("ok", Code::label);
            // Only what happened, as for versions.
            let ended = counts.total(code);
            if ended > 0 {
                let labels = [("caller", &*caller), ("code", label)];
                page.sample(names::CALLER_REQUESTS.name, &labels, ended);
            }
        }
    }
    if let Some(memory) = registry.memory() {
        page.single(&names::MEMORY_BYTES, Some(memory.bytes));
        page.single(&names::MEMORY_LIMIT_BYTES, Some(memory.limit));
        page.single(&names::MEMORY_LEVEL, Some(memory.level));
    }
    page.family(&names::CONNECTIONS);
    for listener in Listener::ALL {
        let accepted = registry.connections(listener).accepted.load(Ordering::Relaxed);
        page.sample(names::CONNECTIONS.name, &[("listener", listener.label())], accepted);
    }
    page.family(&names::CONNECTIONS_OPEN);
    for listener in Listener::ALL {
        let open = registry.connections(listener).open.load(Ordering::Relaxed);
        page.sample(names::CONNECTIONS_OPEN.name, &[("listener", listener.label())], open);
    }
    page.family(&names::CONNECTIONS_CUT);
    for cause in Cut::ALL {
        let count = registry.cut_total(cause);
        page.sample(names::CONNECTIONS_CUT.name, &[("cause", cause.label())], count);
    }
    page.single(&names::CERTIFICATE_EXPIRY, registry.certificate_expiry());
    page.family(&names::LOG_DROPPED);
    page.sample(names::LOG_DROPPED.name, &[], registry.log_dropped_total());
    page.family(&names::SPANS);
    for (outcome, taken) in [("exported", true), ("failed", false)] {
        page.sample(names::SPANS.name, &[("outcome", outcome)], registry.spans_total(taken));
    }
    page.family(&names::BUILD_INFO);
    page.sample(names::BUILD_INFO.name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn system(page: &mut Page, process: &Process) {
    page.single(&names::CPU_SECONDS, process.cpu_seconds);
    page.single(&names::RESIDENT_BYTES, process.resident_bytes);
    page.single(&names::VIRTUAL_BYTES, process.virtual_bytes);
    page.single(&names::OPEN_FDS, process.open_fds);
    page.single(&names::MAX_FDS, process.max_fds);
    page.single(&names::THREADS, process.threads);
    page.single(&names::START_TIME, process.start_time);
}

/// The text as it grows. Writing to a `String` cannot fail, so its results are let go.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The two lines that open a metric; once each, before its samples.
    pub fn family(&mut self, metric: &Metric) {
        let _ = writeln!(self.0, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(self.0, "# TYPE {} {}", metric.name, metric.kind.name());
    }

    pub fn single(&mut self, metric: &Metric, value: Option<impl Display>) {
        if let Some(value) = value {
            self.family(metric);
            self.sample(metric.name, &[], value);
        }
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            escape(value, &mut self.0);
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(
        &mut self,
        name: &str,
        (model, version): &(String, String),
        buckets: &Buckets,
        text: AsText,
    ) {
        let bucket = format!("{name}_bucket");
        let bounds = buckets.bounds.iter().map(|bound| text(*bound));
        let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
        let mut cumulative = 0;
        for (le, count) in bounds.zip(&buckets.counts) {
            cumulative += count;
            self.sample(
                &bucket,
                &[("model", model), ("version", version), ("le", &le)],
                cumulative,
            );
        }
        let labels: [(&str, &str); 2] = [("model", model), ("version", version)];
        self.sample(&format!("{name}_sum"), &labels, text(buckets.sum));
        self.sample(&format!("{name}_count"), &labels, cumulative);
    }
}

/// Nanoseconds as seconds, without an exponent or rounding noise.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A label's value as the format wants it.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use super::*;
    use crate::telemetry::shadow::Difference;
    use crate::telemetry::{
        names::Kind,
        stats::{Spans, VersionStats},
    };

    type Labels = BTreeMap<String, String>;

    /// One sample line: name, labels, value. Fails on anything the format does not allow.
    fn parse(line: &str) -> (String, Labels, f64) {
        let end = line.find(['{', ' ']).expect("a name ends");
        let (name, mut rest) = line.split_at(end);
        let mut labels = Labels::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"").expect("a label has a value");
                let mut text = String::new();
                let mut chars = value.char_indices();
                let close = loop {
                    match chars.next().expect("a value is closed") {
                        (at, '"') => break at,
                        (_, '\\') => match chars.next().expect("an escape goes on").1 {
                            'n' => text.push('\n'),
                            c @ ('"' | '\\') => text.push(c),
                            c => panic!("no such escape: {c}"),
                        },
                        (_, c) => text.push(c),
                    }
                };
                assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
                rest = value[close + 1..].trim_start_matches(',');
            }
            rest = &rest[1..];
        }
        (name.to_owned(), labels, rest.trim().parse().expect("a number"))
    }

    /// The page's samples by family; checks HELP and TYPE (once, together, first) and that no series comes twice.
    fn families(page: &str) -> BTreeMap<String, Vec<(String, Labels, f64)>> {
        let mut families = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut current = (String::new(), String::new());
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                current.0 = help.split(' ').next().expect("a name").to_owned();
                assert!(families.insert(current.0.clone(), Vec::new()).is_none(), "twice: {line}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("name and kind");
                assert_eq!(name, current.0);
                current.1 = kind.to_owned();
                continue;
            }
            assert!(seen.insert(line.rsplit_once(' ').expect("a value").0.to_owned()), "{line}");
            let sample = parse(line);
            let suffixes: &[&str] =
                if current.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|s| format!("{}{s}", current.0) == sample.0), "{line}");
            families.get_mut(&current.0).expect("HELP came first").push(sample);
        }
        families
    }

    fn filled() -> &'static Registry {
        let registry: &'static Registry = Box::leak(Box::default());
        let series = registry.version("a \"b\"\\", "1");
        let stats = VersionStats::of(series.clone());
        for micros in [3, 40, 70_000_000] {
            let time = Duration::from_micros(micros);
            stats.started();
            stats.executed(2, Duration::ZERO, time, Duration::ZERO);
            stats.padded(10, 3);
            stats.answered(2, Spans { total: time, ..Spans::default() });
        }
        stats.started();
        stats.failed(Code::Overloaded, Duration::ZERO);
        stats.shed(Shed::Standing);
        stats.missed(Duration::ZERO);
        registry.show_cache("a", || Some(registry::Kept { answers: 2, bytes: 700 }));
        std::mem::drop(stats);
        Box::leak(Box::new(series));
        registry.set_model_state("a", "1", "ready");
        registry.set_load_time("a", "1", Duration::from_millis(1500));
        registry.refused(Code::NotFound);
        std::mem::drop(registry.connection(Listener::Grpc));
        registry.log_dropped(4);
        let model = predictions::ModelReading { model: "a".into(), ..Default::default() };
        let labels = predictions::LabelReading { model: "a".into(), ..Default::default() };
        let reading = predictions::Reading {
            models: vec![model],
            labels: vec![labels],
            label_files: predictions::LabelFiles { done: 1, failed: 0 },
            compaction: Some(Default::default()),
            upload: Some(Default::default()),
            ..Default::default()
        };
        registry.set_predictions(move || Some(reading.clone()));
        registry.set_memory(|| registry::Memory { bytes: 5, limit: 10, level: 0 });
        let counts = registry.caller("search");
        counts.ended(None);
        counts.ended(Some(Code::Overloaded));
        Box::leak(Box::new(counts));
        let (route, shadow) = (registry.route("a", "canary"), registry.shadow("a", "2"));
        route.taken();
        shadow.compared(Difference::default(), Duration::ZERO, Duration::ZERO);
        Box::leak(Box::new((route, shadow)));
        registry.set_certificate_expiry(2_000_000_000);
        registry.set_store(StoreRow { last_sync_seconds: Some(7), ..StoreRow::default() });
        registry
    }

    #[test]
    fn the_page_is_well_formed_and_complete() {
        let text = page(filled(), &process::read(), MetricsOptions::default());
        assert!(text.ends_with('\n'));
        let families = families(&text);
        let names: BTreeSet<&str> = families.keys().map(String::as_str).collect();
        if cfg!(target_os = "linux") {
            assert_eq!(names, names::ALL.iter().map(|m| m.name).collect());
        }
        for metric in names::ALL {
            let mut labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
            for (name, found, value) in &families[metric.name] {
                if name.ends_with("_bucket") && metric.kind == Kind::Histogram {
                    labels.insert("le");
                } else {
                    labels.remove("le");
                }
                assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels);
                assert!(*value >= 0.0 && value.is_finite(), "{name}");
            }
            assert!(!families[metric.name].is_empty(), "{} has no sample", metric.name);
        }
    }

    #[test]
    fn histograms_are_cumulative_and_end_at_infinity() {
        let families = families(&page(filled(), &Process::default(), MetricsOptions::default()));
        for (metric, count, sum) in [
            (&names::REQUEST_SECONDS, 3.0, 70.000_043),
            (&names::COMPUTE_SECONDS, 3.0, 70.000_043),
            (&names::BATCH_ROWS, 3.0, 6.0),
        ] {
            let samples = &families[metric.name];
            let buckets: Vec<(f64, f64)> = samples
                .iter()
                .filter(|(name, ..)| name.ends_with("_bucket"))
                .map(|(_, labels, value)| (labels["le"].parse().expect("a bound"), *value))
                .collect();
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
            let value = |suffix| {
                samples.iter().find(|(name, ..)| name.ends_with(suffix)).expect("one each").2
            };
            assert_eq!((value("_sum"), value("_count")), (sum, count));
            assert_eq!(samples[0].1["model"], "a \"b\"\\");
        }
    }

    #[test]
    fn requests_are_told_apart_by_code() {
        let families = families(&page(filled(), &Process::default(), MetricsOptions::default()));
        let by_code: Vec<(&str, f64)> = families[names::REQUESTS.name]
            .iter()
            .map(|(_, labels, value)| (labels["code"].as_str(), *value))
            .collect();
        assert_eq!(by_code, [("ok", 3.0), ("overloaded", 1.0)]);
    }

    #[test]
    fn tritons_names_are_there_when_asked_for() {
        let options = MetricsOptions { nv_names: true };
        let families = families(&page(filled(), &process::read(), options));
        for metric in names::nv::ALL.iter().filter(|_| cfg!(target_os = "linux")) {
            assert!(!families[metric.name].is_empty(), "{} has no sample", metric.name);
        }
        let reasons: Vec<(&str, f64)> = families["nv_inference_request_failure"]
            .iter()
            .map(|(_, labels, value)| (labels["reason"].as_str(), *value))
            .collect();
        assert_eq!(
            reasons,
            [("REJECTED", 1.0), ("CANCELED", 0.0), ("BACKEND", 0.0), ("OTHER", 0.0)]
        );
        assert_eq!(families["nv_inference_request_duration_us"][0].2, 70_000_043.0);
        assert_eq!(families["nv_inference_count"][0].2, 6.0);
    }

    #[test]
    fn seconds_are_plain_decimals() {
        assert_eq!(seconds(2_500), "0.0000025");
        assert_eq!(seconds(60_000_000_000), "60");
        assert_eq!(seconds(0), "0");
    }
}
