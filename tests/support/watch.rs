//! What a test waits for: conditions, read from the server's own metrics and statistics.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{http, server::Server};

/// Only so that a test that hangs ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`; fails with `what` after `PATIENCE`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The sum of a metric's series that have all of these labels (each as in `model="burn"`).
pub fn metric(server: &Server, name: &str, labels: &[&str]) -> f64 {
    let page = http::get(&server.operator, "/metrics");
    let page = String::from_utf8(page.body).expect("the page is text");
    let series = page.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or("");
        rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
    });
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

fn of_model(server: &Server, name: &str, model: &str) -> u64 {
    metric(server, name, &[&format!("model=\"{model}\"")]) as u64
}

/// Waits until so many requests of the model run, and so many wait for a run.
pub fn until_busy(server: &Server, model: &str, running: u64, queued: u64) {
    until(&format!("{running} requests of {model} run and {queued} wait"), || {
        let waiting = of_model(server, "onnxd_requests_queued", model);
        let open = of_model(server, "onnxd_requests_in_flight", model);
        waiting == queued && open == running + queued
    });
}

/// Requests of the model that are neither answered nor failed.
pub fn in_flight(server: &Server, model: &str) -> u64 {
    of_model(server, "onnxd_requests_in_flight", model)
}

/// Requests of the model that ended with this code of the metrics.
pub fn ended_with(server: &Server, model: &str, code: &str) -> u64 {
    let labels = [format!("model=\"{model}\""), format!("code=\"{code}\"")];
    metric(server, "onnxd_requests_total", &[&labels[0], &labels[1]]) as u64
}

/// Triton's statistics: how often the model ran.
pub fn executions(server: &Server, model: &str) -> u64 {
    let stats = http::get(&server.http, &format!("/v2/models/{model}/stats")).json();
    stats["model_stats"][0]["execution_count"].as_u64().expect("a count")
}

/// Requests of the model that were shed for this reason.
pub fn shed(server: &Server, model: &str, reason: &str) -> u64 {
    let labels = [format!("model=\"{model}\""), format!("reason=\"{reason}\"")];
    metric(server, "onnxd_requests_shed_total", &[&labels[0], &labels[1]]) as u64
}

/// Files of the prediction log that went to its object store.
pub fn uploaded(server: &Server) -> f64 {
    metric(server, "onnxd_predlog_upload_files_total", &[])
}

/// And those that something is to be done about.
pub fn to_upload(server: &Server) -> f64 {
    metric(server, "onnxd_predlog_upload_waiting_files", &[])
}
