//! Every metric there is: its name, kind, unit, labels and help. A metric that is not in this file is not exported.

pub mod nv;

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts at zero with the process, or with the version it counts.
    Counter,
    Gauge,
    /// Exported as `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric. `docs/metrics.md` has a row for each, compared with this file by a test.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// A base unit (`seconds`, `bytes`), or what is counted.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const VERSION: &[&str] = &["model", "version"];
const LISTENER: &[&str] = &["listener"];

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, labels, help }
}

const fn histogram(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit, labels: VERSION, help }
}

pub const REQUESTS: Metric = counter(
    "onnxd_requests_total",
    "requests",
    &["model", "version", "code"],
    "Requests that reached a version and ended, by code; code=\"ok\" was answered.",
);
pub const SHED: Metric = counter(
    "onnxd_requests_shed_total",
    "requests",
    &["model", "version", "reason"],
    "Requests refused or let go without a run because of the load: queue_full, standing, late, expired.",
);
pub const ROWS: Metric = counter(
    "onnxd_inference_rows_total",
    "rows",
    VERSION,
    "Rows of answered requests: 1 for a request of a model without a batch axis.",
);
pub const REQUEST_SECONDS: Metric = histogram(
    "onnxd_request_seconds",
    "seconds",
    "Time of an answered request, from decoded until its answer was ready to encode.",
);
pub const QUEUE_SECONDS: Metric = histogram(
    "onnxd_queue_seconds",
    "seconds",
    "Time an answered request waited before its batch began.",
);
pub const COMPUTE_SECONDS: Metric = histogram(
    "onnxd_compute_seconds",
    "seconds",
    "Time of one run of the model over one batch: stacking, the session's run, splitting.",
);
pub const BATCH_ROWS: Metric =
    histogram("onnxd_batch_rows", "rows", "Rows of one run of the model.");
pub const PADDED_ELEMENTS: Metric = counter(
    "onnxd_padded_input_elements_total",
    "elements",
    VERSION,
    "Elements that runs were given in inputs with `padding`, what was filled in among them.",
);
pub const PADDING_ELEMENTS: Metric = counter(
    "onnxd_padding_elements_total",
    "elements",
    VERSION,
    "Elements that were filled in so that requests of several lengths share a run: the waste of `padding`.",
);
pub const CACHE_REQUESTS: Metric = counter(
    "onnxd_cache_requests_total",
    "requests",
    &["model", "version", "outcome"],
    "Requests to versions with a cache, by outcome: hit, miss, coalesced (it waited for another's run), bypass.",
);
pub const CACHE_ANSWERS: Metric =
    gauge("onnxd_cache_answers", "answers", &["model"], "Answers that the model's cache keeps.");
pub const CACHE_BYTES: Metric = gauge(
    "onnxd_cache_bytes",
    "bytes",
    &["model"],
    "Bytes that the model's cache holds, of the cache.max_bytes that it may.",
);
pub const ROUTED: Metric = counter(
    "onnxd_routed_requests_total",
    "requests",
    &["model", "route"],
    "Requests of models with traffic rules that named no version, by route: primary, the name of an arm, fallback.",
);
pub const SHADOW_REQUESTS: Metric = counter(
    "onnxd_shadow_requests_total",
    "requests",
    &["model", "version", "outcome"],
    "Copies of requests for a shadow, by outcome: compared, dropped (no room in their queue), failed.",
);
pub const SHADOW_ROWS: Metric = counter(
    "onnxd_shadow_rows_total",
    "rows",
    VERSION,
    "Rows of which the shadow's answer was compared with the primary's.",
);
pub const SHADOW_FLIPS: Metric = counter(
    "onnxd_shadow_disagreements_total",
    "rows",
    VERSION,
    "Rows of which the shadow's best class, or text, was another than the primary's.",
);
pub const SHADOW_DIFFERENCE: Metric = counter(
    "onnxd_shadow_difference_total",
    "difference",
    VERSION,
    "Sum over compared answers of the mean absolute difference of their numbers.",
);
pub const SHADOW_DIFFERENCE_MAX: Metric = gauge(
    "onnxd_shadow_difference_max",
    "difference",
    VERSION,
    "The largest absolute difference of a shadow's number from the primary's so far.",
);
pub const SHADOW_SECONDS: Metric = counter(
    "onnxd_shadow_seconds_total",
    "seconds",
    &["model", "version", "side"],
    "Time that runs of compared requests took, by side: shadow, or primary.",
);
pub const IN_FLIGHT: Metric = gauge(
    "onnxd_requests_in_flight",
    "requests",
    VERSION,
    "Requests that came in and are neither answered nor failed.",
);
pub const QUEUED: Metric =
    gauge("onnxd_requests_queued", "requests", VERSION, "Requests that wait for a run.");
pub const MODEL_STATE: Metric = gauge(
    "onnxd_model_state",
    "state",
    &["model", "version", "state"],
    "1 for the state that the version is in; the other states have no series.",
);
pub const LOAD_SECONDS: Metric = gauge(
    "onnxd_model_load_seconds",
    "seconds",
    VERSION,
    "Time the version's last load took, from reading its files until it could serve.",
);
pub const LOADS_REFUSED: Metric = counter(
    "onnxd_model_loads_refused_total",
    "loads",
    VERSION,
    "Loads of the version that were refused: it could not be opened, or did not pass its checks.",
);
pub const STORE_UP: Metric = gauge(
    "onnxd_repository_store_up",
    "state",
    &[],
    "1 while the object store of the models could be listed the last time, else 0; absent on a local path.",
);
pub const STORE_LAST_SYNC: Metric = gauge(
    "onnxd_repository_store_last_sync_timestamp_seconds",
    "seconds",
    &[],
    "When the mirror was last as the object store is, in seconds since the Unix epoch; absent until it was.",
);
pub const STORE_FAILURES: Metric = counter(
    "onnxd_repository_store_failures_total",
    "comparisons",
    &[],
    "Comparisons with the object store that failed, as a whole or in part.",
);
pub const STORE_FETCHED: Metric = counter(
    "onnxd_repository_store_fetched_bytes_total",
    "bytes",
    &[],
    "Bytes that were read from the object store into the mirror.",
);
pub const STORE_REFUSED: Metric = gauge(
    "onnxd_repository_store_versions_refused",
    "versions",
    &[],
    "Versions of the object store that are kept out of the mirror: too large, or other than their digests.",
);
pub const PREDICTIONS_RECEIVED: Metric = counter(
    "onnxd_predlog_rows_received_total",
    "rows",
    &["model"],
    "Rows that the prediction log was given, after sampling: written + dropped + in flight, at every moment.",
);
pub const PREDICTIONS_WRITTEN: Metric = counter(
    "onnxd_predlog_rows_written_total",
    "rows",
    &["model"],
    "Rows in the prediction log's write-ahead log, or in its files already.",
);
pub const PREDICTIONS_DROPPED: Metric = counter(
    "onnxd_predlog_rows_dropped_total",
    "rows",
    &["model", "reason"],
    "Rows that were not written: ring_full, memory, disk, wal_full, closed, encoding.",
);
pub const PREDICTIONS_IN_FLIGHT: Metric = gauge(
    "onnxd_predlog_rows_in_flight",
    "rows",
    &["model"],
    "Rows that are neither written nor dropped yet.",
);
pub const PREDICTIONS_QUEUE_BYTES: Metric = gauge(
    "onnxd_predlog_queue_bytes",
    "bytes",
    &["model"],
    "Bytes of rows in memory, of the log.ring_bytes that the model has.",
);
pub const PREDICTIONS_WAL_BYTES: Metric = gauge(
    "onnxd_predlog_wal_bytes",
    "bytes",
    &[],
    "Bytes of the write-ahead log that are not Parquet yet, of the prediction_log.wal_max_bytes that there may be.",
);
pub const PREDICTIONS_WRITABLE: Metric = gauge(
    "onnxd_predlog_writable",
    "state",
    &[],
    "1 while the prediction log can be written, 0 while the disk refuses it and rows are dropped.",
);
pub const PREDICTIONS_FILES: Metric = counter(
    "onnxd_predlog_files_total",
    "files",
    &[],
    "Parquet files that the prediction log has written.",
);
pub const PREDICTIONS_FILE_ROWS: Metric = counter(
    "onnxd_predlog_file_rows_total",
    "rows",
    &[],
    "Rows in those files, recovered ones among them.",
);
pub const PREDICTIONS_RECOVERED: Metric = counter(
    "onnxd_predlog_rows_recovered_total",
    "rows",
    &[],
    "Rows found in write-ahead logs of servers that did not end well.",
);
pub const PREDICTIONS_TORN: Metric = counter(
    "onnxd_predlog_torn_bytes_total",
    "bytes",
    &[],
    "Bytes at the end of write-ahead logs that were no whole frame, and were cut off.",
);
pub const PREDICTIONS_BLOBS: Metric = counter(
    "onnxd_predlog_blobs_total",
    "blobs",
    &[],
    "Large tensors that the prediction log has written as files of their own (log.large: blob).",
);
pub const PREDICTIONS_BLOB_BYTES: Metric =
    counter("onnxd_predlog_blob_bytes_total", "bytes", &[], "Bytes of those files.");
pub const PREDICTIONS_EXPIRED: Metric = counter(
    "onnxd_predlog_files_expired_total",
    "files",
    &["reason"],
    "Files of the prediction log that retention removed: age, size, not_uploaded (before they were in the object store, for want of room).",
);
pub const COMPACTIONS: Metric = counter(
    "onnxd_predlog_compactions_total",
    "compactions",
    &["outcome"],
    "Groups of small files of the prediction log that were put together by prediction_log.compact: done, failed.",
);
pub const COMPACTED_FILES: Metric = counter(
    "onnxd_predlog_compacted_files_total",
    "files",
    &[],
    "Small files that went into others.",
);
pub const UPLOAD_LAG: Metric = gauge(
    "onnxd_predlog_upload_lag_seconds",
    "seconds",
    &[],
    "How long the oldest closed file of the prediction log has waited to be in the object store; 0 where none waits.",
);
pub const UPLOAD_WAITING: Metric = gauge(
    "onnxd_predlog_upload_waiting_files",
    "files",
    &[],
    "Files that are not in the object store yet, or are to be replaced or removed there.",
);
pub const UPLOAD_FILES: Metric = counter(
    "onnxd_predlog_upload_files_total",
    "files",
    &[],
    "Files that were put into the object store.",
);
pub const UPLOAD_BYTES: Metric =
    counter("onnxd_predlog_upload_bytes_total", "bytes", &[], "Bytes of those files.");
pub const UPLOAD_REMOVED: Metric = counter(
    "onnxd_predlog_upload_objects_removed_total",
    "objects",
    &[],
    "Objects that were removed from the store, as a compaction or an erasure asks for.",
);
pub const UPLOAD_FAILURES: Metric = counter(
    "onnxd_predlog_upload_failures_total",
    "failures",
    &["reason"],
    "What could not be put into the object store or removed there: unreachable, refused, conflict, local.",
);
pub const PREDICTIONS_ERASED: Metric = counter(
    "onnxd_predlog_rows_erased_total",
    "rows",
    &[],
    "Rows that were written ahead and left out of files, since their subject is erased.",
);
pub const PREDICTIONS_LABELS: Metric = counter(
    "onnxd_predlog_labels_total",
    "labels",
    &["model", "outcome"],
    "Labels that this server took in, by outcome: new, or same (they were known).",
);
pub const PREDICTIONS_LABEL_FILES: Metric = counter(
    "onnxd_predlog_label_files_total",
    "files",
    &["outcome"],
    "Files of labels from prediction_log.labels_folder, by outcome: done, or failed (a mistake in them).",
);
pub const REFUSED: Metric = counter(
    "onnxd_requests_refused_total",
    "requests",
    &["code"],
    "Requests that failed before they reached a version (malformed, too large, unknown model), by code.",
);
pub const CALLER_REQUESTS: Metric = counter(
    "onnxd_caller_requests_total",
    "requests",
    &["caller", "code"],
    "Requests by caller, and how they ended; caller=\"unknown\" had no valid key or certificate. Probes and scrapes are not counted.",
);
pub const MEMORY_BYTES: Metric = gauge(
    "onnxd_request_memory_bytes",
    "bytes",
    &[],
    "Bytes that requests under way hold: bodies, what was made of them, and answers until they are written.",
);
pub const MEMORY_LIMIT_BYTES: Metric = gauge(
    "onnxd_request_memory_limit_bytes",
    "bytes",
    &[],
    "Bytes that requests under way may hold (request_memory_bytes).",
);
pub const MEMORY_LEVEL: Metric = gauge(
    "onnxd_request_memory_level",
    "level",
    &[],
    "How short that memory is: 0 it is not, 1 connections end after their answer, 2 large bodies are refused, 3 all new ones.",
);
pub const CONNECTIONS: Metric = counter(
    "onnxd_connections_total",
    "connections",
    LISTENER,
    "Connections accepted since the start.",
);
pub const CONNECTIONS_OPEN: Metric =
    gauge("onnxd_connections_open", "connections", LISTENER, "Connections open now.");
pub const CONNECTIONS_CUT: Metric = counter(
    "onnxd_connections_cut_total",
    "connections",
    &["cause"],
    "Connections that the server ended: the TLS handshake failed, a head came too slowly, nothing was asked, or answers were not read.",
);
pub const CERTIFICATE_EXPIRY: Metric = gauge(
    "onnxd_tls_certificate_expiry_timestamp_seconds",
    "seconds",
    &[],
    "When the TLS certificate that serves expires, in seconds since the Unix epoch; absent without TLS.",
);
pub const LOG_DROPPED: Metric = counter(
    "onnxd_log_lines_dropped_total",
    "lines",
    &[],
    "Log lines dropped because standard error did not take them fast enough.",
);
pub const SPANS: Metric = counter(
    "onnxd_trace_spans_total",
    "spans",
    &["outcome"],
    "Spans sent to the collector, by outcome: `exported`, or `failed` where it did not take them.",
);
pub const BUILD_INFO: Metric =
    gauge("onnxd_build_info", "info", &["version"], "1, labelled with the version of onnxd.");
pub const CPU_SECONDS: Metric = counter(
    "process_cpu_seconds_total",
    "seconds",
    &[],
    "Processor time of the process, user and system.",
);
pub const RESIDENT_BYTES: Metric =
    gauge("process_resident_memory_bytes", "bytes", &[], "Resident memory of the process.");
pub const VIRTUAL_BYTES: Metric =
    gauge("process_virtual_memory_bytes", "bytes", &[], "Virtual memory of the process.");
pub const OPEN_FDS: Metric =
    gauge("process_open_fds", "descriptors", &[], "Open file descriptors of the process.");
pub const MAX_FDS: Metric =
    gauge("process_max_fds", "descriptors", &[], "File descriptors the process may open.");
pub const THREADS: Metric =
    gauge("process_threads", "threads", &[], "Operating system threads of the process.");
pub const START_TIME: Metric = gauge(
    "process_start_time_seconds",
    "seconds",
    &[],
    "When the process started, in seconds since the Unix epoch.",
);

/// All of them, in the order of the page.
pub const ALL: [&Metric; 73] = [
    &REQUESTS,
    &SHED,
    &ROWS,
    &REQUEST_SECONDS,
    &QUEUE_SECONDS,
    &COMPUTE_SECONDS,
    &BATCH_ROWS,
    &PADDED_ELEMENTS,
    &PADDING_ELEMENTS,
    &CACHE_REQUESTS,
    &CACHE_ANSWERS,
    &CACHE_BYTES,
    &ROUTED,
    &SHADOW_REQUESTS,
    &SHADOW_ROWS,
    &SHADOW_FLIPS,
    &SHADOW_DIFFERENCE,
    &SHADOW_DIFFERENCE_MAX,
    &SHADOW_SECONDS,
    &IN_FLIGHT,
    &QUEUED,
    &MODEL_STATE,
    &LOAD_SECONDS,
    &LOADS_REFUSED,
    &STORE_UP,
    &STORE_LAST_SYNC,
    &STORE_FAILURES,
    &STORE_FETCHED,
    &STORE_REFUSED,
    &PREDICTIONS_RECEIVED,
    &PREDICTIONS_WRITTEN,
    &PREDICTIONS_DROPPED,
    &PREDICTIONS_IN_FLIGHT,
    &PREDICTIONS_QUEUE_BYTES,
    &PREDICTIONS_WAL_BYTES,
    &PREDICTIONS_WRITABLE,
    &PREDICTIONS_FILES,
    &PREDICTIONS_FILE_ROWS,
    &PREDICTIONS_RECOVERED,
    &PREDICTIONS_TORN,
    &PREDICTIONS_BLOBS,
    &PREDICTIONS_BLOB_BYTES,
    &PREDICTIONS_EXPIRED,
    &PREDICTIONS_ERASED,
    &PREDICTIONS_LABELS,
    &PREDICTIONS_LABEL_FILES,
    &COMPACTIONS,
    &COMPACTED_FILES,
    &UPLOAD_LAG,
    &UPLOAD_WAITING,
    &UPLOAD_FILES,
    &UPLOAD_BYTES,
    &UPLOAD_REMOVED,
    &UPLOAD_FAILURES,
    &REFUSED,
    &CALLER_REQUESTS,
    &MEMORY_BYTES,
    &MEMORY_LIMIT_BYTES,
    &MEMORY_LEVEL,
    &CONNECTIONS,
    &CONNECTIONS_OPEN,
    &CONNECTIONS_CUT,
    &CERTIFICATE_EXPIRY,
    &LOG_DROPPED,
    &SPANS,
    &BUILD_INFO,
    &CPU_SECONDS,
    &RESIDENT_BYTES,
    &VIRTUAL_BYTES,
    &OPEN_FDS,
    &MAX_FDS,
    &THREADS,
    &START_TIME,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("onnxd_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
            if matches!(metric.unit, "seconds" | "bytes") {
                assert!(name.trim_end_matches("_total").ends_with(metric.unit), "{name}");
            }
        }
        let mut names: Vec<&str> = ALL.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    /// `docs/metrics.md` has one row a metric: `| name | kind | unit | labels | help |`.
    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../../docs/metrics.md");
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = ALL
            .iter()
            .chain(&nv::ALL)
            .map(|m| {
                let labels: Vec<String> = m.labels.iter().map(|l| format!("`{l}`")).collect();
                let labels = if labels.is_empty() { "-".into() } else { labels.join(", ") };
                format!("| `{}` | {} | {} | {labels} | {} |", m.name, m.kind.name(), m.unit, m.help)
            })
            .collect();
        assert!(
            rows == expected,
            "the rows of docs/metrics.md should be:\n{}",
            expected.join("\n")
        );
    }
}
