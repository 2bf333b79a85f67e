//! Triton's names for what is counted here, for dashboards made for it; written where `metrics.nv_names` asks for them.
//! Its times are counters of microseconds, and its names have no `_total`.

use super::{Metric, VERSION, counter, gauge};

pub const SUCCESS: Metric = counter(
    "nv_inference_request_success",
    "requests",
    VERSION,
    "Number of successful inference requests.",
);
pub const FAILURE: Metric = counter(
    "nv_inference_request_failure",
    "requests",
    &["model", "version", "reason"],
    "Number of failed inference requests, by reason: REJECTED, CANCELED, BACKEND or OTHER.",
);
pub const COUNT: Metric = counter(
    "nv_inference_count",
    "rows",
    VERSION,
    "Number of inferences performed: the rows of answered requests.",
);
pub const EXEC_COUNT: Metric =
    counter("nv_inference_exec_count", "runs", VERSION, "Number of runs of the model.");
pub const REQUEST_US: Metric = counter(
    "nv_inference_request_duration_us",
    "microseconds",
    VERSION,
    "Cumulative time of successful requests.",
);
pub const QUEUE_US: Metric = counter(
    "nv_inference_queue_duration_us",
    "microseconds",
    VERSION,
    "Cumulative time that successful requests waited.",
);
pub const INPUT_US: Metric = counter(
    "nv_inference_compute_input_duration_us",
    "microseconds",
    VERSION,
    "Cumulative time of stacking inputs, for successful requests.",
);
pub const INFER_US: Metric = counter(
    "nv_inference_compute_infer_duration_us",
    "microseconds",
    VERSION,
    "Cumulative time of running the model, for successful requests.",
);
pub const OUTPUT_US: Metric = counter(
    "nv_inference_compute_output_duration_us",
    "microseconds",
    VERSION,
    "Cumulative time of splitting outputs, for successful requests.",
);
pub const CACHE_HITS: Metric = counter(
    "nv_cache_num_hits_per_model",
    "requests",
    VERSION,
    "Number of requests answered from the cache.",
);
pub const CACHE_MISSES: Metric = counter(
    "nv_cache_num_misses_per_model",
    "requests",
    VERSION,
    "Number of requests for which the cache had no answer.",
);
pub const CACHE_HIT_US: Metric = counter(
    "nv_cache_hit_duration_per_model",
    "microseconds",
    VERSION,
    "Cumulative time of finding answers in the cache.",
);
pub const CACHE_MISS_US: Metric = counter(
    "nv_cache_miss_duration_per_model",
    "microseconds",
    VERSION,
    "Cumulative time of looking for answers that were not there, and of keeping them then.",
);
pub const PENDING: Metric = gauge(
    "nv_inference_pending_request_count",
    "requests",
    VERSION,
    "Number of requests that wait for a run.",
);
pub const LOAD_SECS: Metric =
    gauge("nv_model_load_duration_secs", "seconds", VERSION, "Time the version's last load took.");
pub const CPU_MEMORY_TOTAL: Metric =
    gauge("nv_cpu_memory_total_bytes", "bytes", &[], "Memory of the machine.");
pub const CPU_MEMORY_USED: Metric =
    gauge("nv_cpu_memory_used_bytes", "bytes", &[], "Memory of the machine that is in use.");

/// All of them, in the order of the page. Those of GPUs come with what they measure.
pub const ALL: [&Metric; 17] = [
    &SUCCESS,
    &FAILURE,
    &COUNT,
    &EXEC_COUNT,
    &REQUEST_US,
    &QUEUE_US,
    &INPUT_US,
    &INFER_US,
    &OUTPUT_US,
    &CACHE_HITS,
    &CACHE_MISSES,
    &CACHE_HIT_US,
    &CACHE_MISS_US,
    &PENDING,
    &LOAD_SECS,
    &CPU_MEMORY_TOTAL,
    &CPU_MEMORY_USED,
];
