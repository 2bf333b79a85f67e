//! A server's own figures, from pages as servers write them to what a person reads.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Look, Metrics, Options, Ready,
    reading::{Dialect, Reading, Spread},
    series::{Server, Span, Stretch},
};
use crate::plan::{Address, Protocol, Target, Tls};

/// The page of an onnxd whose version of `wine` answered `n` requests in runs of two rows, and started at `started`.
fn onnxd(n: u64, started: u64) -> String {
    let v = "model=\"wine\",version=\"2\"";
    let (half, shed) = (n / 2, n / 10);
    format!(
        "# TYPE onnxd_requests_total counter\n\
         onnxd_requests_total{{{v},code=\"ok\"}} {n}\n\
         onnxd_requests_total{{{v},code=\"overloaded\"}} {shed}\n\
         onnxd_requests_shed_total{{{v},reason=\"queue_full\"}} {shed}\n\
         onnxd_inference_rows_total{{{v}}} {n}\n\
         onnxd_queue_seconds_bucket{{{v},le=\"0.001\"}} {half}\n\
         onnxd_queue_seconds_bucket{{{v},le=\"0.002\"}} {n}\n\
         onnxd_queue_seconds_bucket{{{v},le=\"+Inf\"}} {n}\n\
         onnxd_queue_seconds_sum{{{v}}} {}\n\
         onnxd_queue_seconds_count{{{v}}} {n}\n\
         onnxd_batch_rows_bucket{{{v},le=\"1\"}} 0\n\
         onnxd_batch_rows_bucket{{{v},le=\"2\"}} {half}\n\
         onnxd_batch_rows_bucket{{{v},le=\"+Inf\"}} {half}\n\
         onnxd_batch_rows_sum{{{v}}} {n}\n\
         onnxd_batch_rows_count{{{v}}} {half}\n\
         onnxd_compute_seconds_sum{{{v}}} {}\n\
         onnxd_compute_seconds_count{{{v}}} {half}\n\
         onnxd_requests_in_flight{{{v}}} 3\n\
         onnxd_requests_queued{{{v}}} 1\n\
         onnxd_requests_total{{model=\"idle\",version=\"1\",code=\"ok\"}} 9\n\
         onnxd_requests_refused_total{{code=\"not_found\"}} {shed}\n\
         nv_inference_request_success{{model=\"wine\",version=\"2\"}} 99999\n\
         process_cpu_seconds_total {}\n\
         process_resident_memory_bytes 1048576\n\
         process_start_time_seconds {started}\n",
        n as f64 * 0.001,
        half as f64 * 0.004,
        n as f64 * 0.0001,
    )
}

fn between(before: &str, now: &str) -> Stretch {
    Reading::of(now, 3.0).since(&Reading::of(before, 1.0))
}

#[test]
fn what_onnxd_counted_between_two_scrapes() {
    let stretch = between(&onnxd(100, 50), &onnxd(300, 50));
    assert_eq!((stretch.from_s, stretch.to_s, stretch.seconds), (1.0, 3.0, 2.0));
    // The idle version did nothing, and Triton's names are left aside where onnxd's are.
    let [wine] = &stretch.models[..] else { panic!("{:?}", stretch.models) };
    assert_eq!((&*wine.model, &*wine.version, wine.answered()), ("wine", "2", 200.0));
    assert_eq!(wine.requests["overloaded"], 20.0);
    assert_eq!(wine.shed["queue_full"], 20.0);
    assert_eq!(wine.rows, 200.0);
    assert_eq!(wine.queue.buckets, [(Some(0.001), 100.0), (Some(0.002), 100.0), (None, 0.0)]);
    assert!((wine.queue.mean().unwrap() - 0.001).abs() < 1e-12);
    assert!((wine.queue.quantile(0.75).unwrap() - 0.0015).abs() < 1e-12);
    assert!((wine.compute.mean().unwrap() - 0.004).abs() < 1e-12);
    assert_eq!(wine.batch.mean(), Some(2.0));
    assert_eq!((wine.in_flight, wine.queued), (Some(3.0), Some(1.0)));
    assert_eq!(stretch.refused["not_found"], 20.0);
    let cpu = stretch.cpu.unwrap();
    assert!((cpu.used_s - 0.02).abs() < 1e-12 && cpu.of_s == 2.0);
    assert_eq!(stretch.resident_bytes, Some(1048576.0));
    assert!(!stretch.restarted);
}

#[test]
fn a_restarted_server_counts_from_zero() {
    let stretch = between(&onnxd(1000, 50), &onnxd(40, 99));
    assert!(stretch.restarted);
    assert_eq!(stretch.models.iter().map(|m| m.answered()).sum::<f64>(), 40.0 + 9.0);
    assert!((stretch.cpu.unwrap().used_s - 0.004).abs() < 1e-12);
}

#[test]
fn a_version_that_is_loaded_anew_counts_from_zero() {
    let stretch = between(&onnxd(1000, 50), &onnxd(40, 50));
    assert!(!stretch.restarted);
    assert_eq!(stretch.models[0].answered(), 40.0);
    assert_eq!(stretch.models[0].queue.count, 40.0);
}

#[test]
fn what_triton_counted_between_two_scrapes() {
    let page = |n: u64| {
        let v = "{model=\"m\",version=\"1\"}";
        format!(
            "nv_inference_request_success{v} {n}\n\
             nv_inference_request_failure{{model=\"m\",reason=\"REJECTED\",version=\"1\"}} {n}\n\
             nv_inference_count{v} {}\n\
             nv_inference_exec_count{v} {n}\n\
             nv_inference_queue_duration_us{v} {}\n\
             nv_inference_compute_infer_duration_us{v} {}\n\
             nv_inference_pending_request_count{v} 2\n\
             nv_cpu_memory_used_bytes 1\n",
            4 * n,
            1000 * n,
            2000 * n,
        )
    };
    let reading = Reading::of(&page(1), 0.0);
    assert_eq!(reading.dialect, Some(Dialect::Triton));
    assert!(reading.knows("m") && !reading.knows("wine"));
    let stretch = between(&page(5), &page(25));
    let [model] = &stretch.models[..] else { panic!("{:?}", stretch.models) };
    assert_eq!(model.answered(), 20.0);
    assert_eq!(model.requests["rejected"], 20.0);
    assert!((model.queue.mean().unwrap() - 0.001).abs() < 1e-12);
    assert!((model.compute.mean().unwrap() - 0.002).abs() < 1e-12);
    assert_eq!(model.batch.mean(), Some(4.0));
    assert_eq!(model.queue.quantile(0.5), None);
    assert_eq!(model.queued, Some(2.0));
    // The machine's memory is not the server's.
    assert_eq!((stretch.resident_bytes, stretch.cpu), (None, None));
}

#[test]
fn values_that_are_no_counts_are_left_out() {
    let page = "onnxd_requests_total{model=\"m\",version=\"1\",code=\"ok\"} NaN\n\
                onnxd_requests_total{model=\"m\",version=\"1\",code=\"ok\"} -5\n\
                onnxd_requests_total{code=\"ok\"} 5\n\
                onnxd_inference_rows_total{model=\"m\"} +Inf\n";
    let stretch = between("", page);
    assert!(stretch.models.is_empty(), "{stretch:?}");
    assert_eq!(Reading::of("go_goroutines 5\n", 0.0).dialect, None);
}

fn stretch(from: u32, n: f64) -> Stretch {
    let page =
        |n: f64| format!("onnxd_requests_total{{model=\"m\",version=\"1\",code=\"ok\"}} {n}\n");
    let (before, now) = (Reading::of(&page(1.0), from.into()), page(1.0 + n));
    Reading::of(&now, f64::from(from) + 1.0).since(&before)
}

#[test]
fn stretches_are_put_into_phases_and_warming_up_is_left_out() {
    let span =
        |name: &str, from_s, to_s, warm_up| Span { name: name.to_owned(), from_s, to_s, warm_up };
    let stretches: Vec<Stretch> = (0..6).map(|at| stretch(at, 10f64.powi(at as i32))).collect();
    let phases =
        [span("warm", 0.2, 2.0, true), span("a", 2.0, 4.6, false), span("b", 4.6, 5.0, false)];
    let server = Server::of(&stretches, &phases);
    let answered = |s: &Option<Stretch>| s.as_ref().map(Stretch::answered);
    assert_eq!(answered(&server.phases[0].sum), Some(11.0));
    // From 2 s to 5 s; the one from 4 s to 5 s has more of this phase than of the next.
    assert_eq!(answered(&server.phases[1].sum), Some(11100.0));
    assert_eq!(answered(&server.phases[2].sum), Some(100000.0), "the last look, after the end");
    assert_eq!(answered(&server.total), Some(111100.0));
    assert_eq!(server.seconds.len(), 6);
}

#[test]
fn hours_are_kept_coarsely_and_whole() {
    let stretches: Vec<Stretch> = (0..3601).map(|at| stretch(at, 2.0)).collect();
    let server = Server::of(&stretches, &[]);
    assert!(server.seconds.len() <= 600);
    assert_eq!(server.seconds.iter().map(Stretch::answered).sum::<f64>(), 7202.0);
    assert_eq!(server.seconds.last().unwrap().to_s, 3601.0);
    assert!(server.total.is_none());
}

#[test]
fn a_person_reads_it_in_lines() {
    let phase = Span { name: "p".to_owned(), warm_up: false, from_s: 0.0, to_s: 9.0 };
    let stretches = [between(&onnxd(100, 50), &onnxd(300, 50))];
    let mut server = Server::of(&stretches, std::slice::from_ref(&phase));
    server.dialect = Some(Dialect::Onnxd);
    assert_eq!(
        server.lines(),
        [
            "wine/2: 200 ok, 20 overloaded; queue 1.00 ms, p99 1.98 ms; compute a run 4.00 ms; \
             batch 2.00 rows; shed 20 queue_full; queued at most 1",
            "CPU 0.02 s (0.01 cores), 100.0 us a request; resident at most 1.0 MiB, 1.0 at first",
            "refused before a version: 20 not_found",
        ]
    );
    let restarted = [between(&onnxd(1000, 50), &onnxd(40, 99))];
    let mut server = Server::of(&restarted, &[]);
    (server.failed, server.scrapes, server.failure) = (1, 4, Some("x: refused".to_owned()));
    assert_eq!(
        server.lines(),
        [
            "the server restarted between 1.0 s and 3.0 s of the run",
            "1 of 5 scrapes failed, the first: x: refused",
        ]
    );
}

#[test]
fn series_are_read_back_from_json() {
    let phase = Span { name: "p".to_owned(), warm_up: false, from_s: 0.0, to_s: 9.0 };
    let server = Server::of(&[between(&onnxd(100, 50), &onnxd(300, 50))], &[phase]);
    let again = |server: &Server| {
        serde_json::from_str::<Server>(&serde_json::to_string(server).unwrap()).unwrap()
    };
    // The last digit of a float may change on its way through JSON, once.
    let read = again(&server);
    assert_eq!(read.lines(), server.lines());
    assert_eq!(again(&read), read);
}

#[test]
fn pages_are_guessed_on_the_usual_ports_only() {
    let target = |port, tls| Target {
        protocol: Protocol::Grpc,
        address: Address::Tcp { host: "h".to_owned(), port },
        tls,
        authority: String::new(),
    };
    let page = Metrics::Guessed("http://h:8002/metrics".parse().unwrap());
    assert_eq!(Metrics::guess(&target(8000, None)), page);
    assert_eq!(Metrics::guess(&target(8001, None)), page);
    assert_eq!(Metrics::guess(&target(9000, None)), Metrics::Off);
    let secure = Metrics::Guessed("https://h:8002/metrics".parse().unwrap());
    assert_eq!(Metrics::guess(&target(8001, Some(Tls::default()))), secure);
    let unix = Target { address: Address::Unix("/s".into()), ..target(1, None) };
    assert_eq!(Metrics::guess(&unix), Metrics::Off);
}

/// A server whose page counts 10 requests more each time it is read, and that fails in between where told to.
struct Exporter {
    port: u16,
    scrapes: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Exporter {
    fn start() -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [broken, stop] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let scrapes = Arc::new(AtomicU64::new(0));
        let (n, bad, end) = (Arc::clone(&scrapes), Arc::clone(&broken), Arc::clone(&stop));
        let serve = move || {
            for peer in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (mut peer, mut request) = (peer.unwrap(), Vec::new());
                let mut part = [0; 512];
                while !request.ends_with(b"\r\n\r\n") {
                    let n = peer.read(&mut part).unwrap();
                    request.extend_from_slice(&part[..n]);
                }
                let n = n.fetch_add(1, Ordering::SeqCst) + 1;
                let status = if bad.load(Ordering::SeqCst) { "500 Oh No" } else { "200 OK" };
                let page = onnxd(10 * n, 50);
                write!(peer, "HTTP/1.0 {status}\r\n\r\n{page}").unwrap();
            }
        };
        let thread = Some(thread::spawn(serve));
        Exporter { port, scrapes, broken, stop, thread }
    }

    fn options(&self) -> Options {
        let page = format!("http://127.0.0.1:{}", self.port).parse().unwrap();
        Options { metrics: Metrics::At(page), ..Options::default() }
    }

    fn wait_for(&self, scrapes: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.scrapes.load(Ordering::SeqCst) < scrapes {
            assert!(Instant::now() < end, "not scraped");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn ready(look: Result<Look, String>) -> Box<Ready> {
    match look.expect("it can be looked at") {
        Look::Ready(ready) => ready,
        Look::Absent(why) => panic!("{why:?}"),
    }
}

#[test]
fn a_server_is_looked_at_until_the_end() {
    let exporter = Exporter::start();
    let mut options = exporter.options();
    options.pids = vec![std::process::id()];
    let scraper = ready(options.look()).start(Instant::now()).unwrap();
    exporter.wait_for(2);
    exporter.broken.store(true, Ordering::SeqCst);
    exporter.wait_for(3);
    exporter.broken.store(false, Ordering::SeqCst);
    let phase = Span { name: "p".to_owned(), warm_up: false, from_s: 0.0, to_s: 600.0 };
    let server = scraper.end(&[phase]);
    let port = exporter.port;
    let pid = std::process::id();
    assert_eq!(server.source, format!("http://127.0.0.1:{port}/metrics, /proc/{pid}"));
    assert_eq!(server.dialect, Some(Dialect::Onnxd));
    let answered = exporter.scrapes.load(Ordering::SeqCst);
    assert_eq!(server.scrapes + server.failed, answered);
    // The last look came after the page was well again, and counts what was missed in between.
    assert_eq!(server.total.as_ref().unwrap().answered() as u64, 10 * (answered - 1));
    assert!(server.total.unwrap().cpu.unwrap().used_s < 600.0, "ours, not the page's");
}

#[test]
fn what_was_asked_for_and_is_not_there_fails_at_once() {
    let exporter = Exporter::start();
    exporter.broken.store(true, Ordering::SeqCst);
    let error = exporter.options().look().unwrap_err();
    assert!(error.contains("expected status 200, got 'HTTP/1.0 500 Oh No'"), "{error}");
    let options = Options { pids: vec![u32::MAX], ..Options::default() };
    assert!(options.look().unwrap_err().starts_with("/proc/4294967295/stat"));
}

#[test]
fn a_guess_that_is_wrong_is_no_failure() {
    let exporter = Exporter::start();
    let guess = |models: &[&str]| {
        let Metrics::At(page) = exporter.options().metrics else { panic!("a page") };
        let models = models.iter().map(|m| (*m).to_owned()).collect();
        Options { metrics: Metrics::Guessed(page), models, ..Options::default() }
    };
    let absent = guess(&["resnet"]).look();
    let Ok(Look::Absent(Some(why))) = absent else { panic!("{absent:?}") };
    assert!(why.ends_with("it knows nothing of resnet"), "{why}");
    ready(guess(&["resnet", "wine"]).look());
    assert!(matches!(Options::default().look(), Ok(Look::Absent(None))));
}

proptest! {
    /// However a counter moves, stretches never count below zero, and their sum is what was counted, restarts included.
    #[test]
    fn sums_of_stretches_are_what_was_counted(
        steps in proptest::collection::vec((0u64..1000, proptest::bool::weighted(0.2)), 1..20),
    ) {
        let (mut n, mut started, mut counted) = (7, 50, 0);
        let mut before = Reading::of(&onnxd(n, started), 0.0);
        let mut stretches = Vec::new();
        for (at, (more, restart)) in steps.iter().enumerate() {
            if *restart {
                (n, started) = (0, started + 10);
                // The other version of the page counts again too.
                counted += 9;
            }
            n += more;
            counted += more;
            let now = Reading::of(&onnxd(n, started), at as f64 + 1.0);
            stretches.push(now.since(&before));
            before = now;
        }
        let sum = Stretch::sum(&stretches).unwrap();
        prop_assert_eq!(sum.answered(), counted as f64);
        prop_assert!(stretches.iter().all(|s| s.models.iter().all(|m| m.rows >= 0.0 && m.queue.sum >= 0.0)));
        prop_assert_eq!(sum.seconds, steps.len() as f64);
    }

    #[test]
    fn quantiles_lie_where_the_values_are(values in proptest::collection::vec(0.0..12.0f64, 1..50), q in 0.0..1.0f64) {
        let bounds = [1.0, 2.0, 5.0, 10.0];
        let bucket = |at: usize| values.iter().filter(|v| {
            **v <= bounds.get(at).copied().unwrap_or(f64::INFINITY) && (at == 0 || **v > bounds[at - 1])
        }).count() as f64;
        let buckets = (0..5).map(|at| (bounds.get(at).copied(), bucket(at))).collect();
        let spread = Spread { sum: values.iter().sum(), count: values.len() as f64, buckets };
        let estimate = spread.quantile(q).unwrap();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let exact = sorted[((q * values.len() as f64).ceil() as usize).max(1) - 1];
        let (lower, upper) = bounds.iter().fold((0.0, f64::INFINITY), |(l, u), b| {
            if *b < exact { (*b, u) } else { (l, f64::min(u, *b)) }
        });
        prop_assert!(estimate >= lower && estimate <= upper, "{estimate} for {exact}");
    }
}
