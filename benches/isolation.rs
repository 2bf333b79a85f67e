//! What one peer or model costs the others: how soon a run that nobody waits for makes room, and the latency of honest
//! callers and health checks beside slow peers and beside a saturated model.
//!
//!     cargo bench --bench isolation

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use support::{
    files::Home,
    http::{self, Http, infer_path, request},
    server::Server,
    watch,
};

const ENDLESS: u64 = 1_000_000_000;
/// Callers that saturate a model, with runs of some milliseconds.
const CALLERS: usize = 16;
const HEAVY: u64 = 20_000;
/// Slow peers of each of the four forms.
const PEERS: usize = 75;
const ASKED: usize = 2000;

/// Prints median, 99th percentile and the longest.
fn row(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<58} {:>6} {:>8.2} {:>8.2} {:>8.2}",
        took.len(),
        ms(at(0.5)),
        ms(at(0.99)),
        ms(took[took.len() - 1])
    );
}

fn timed(client: &mut Http, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    client.send(bytes);
    assert_eq!(client.read().status, 200);
    began.elapsed()
}

fn body(x: f64, iters: u64) -> Vec<u8> {
    let body = http::burn(x, iters).to_string();
    request("POST", &infer_path("burn"), "", body.as_bytes())
}

/// A run that would take hours holds the one place that its model has. Its client leaves; how soon is the next one answered?
fn cancelled() {
    let home = Home::of(&["burn"]).yaml("burn", "batching: {instances: 1}\n");
    let server = Server::start(home.path(), &home.repository());
    let mut next = Http::connect(&server.http);
    let alone = (0..100).map(|_| timed(&mut next, &body(1.0, 1))).collect();
    row("a small run alone", alone);
    let after = (0..100).map(|_| {
        let mut holder = Http::connect(&server.http);
        holder.send(&body(2.0, ENDLESS));
        watch::until_busy(&server, "burn", 1, 0);
        next.send(&body(3.0, 1));
        watch::until("the next one waits", || watch::in_flight(&server, "burn") == 2);
        let began = Instant::now();
        drop(holder);
        assert_eq!(next.read().output(0), [3.0]);
        began.elapsed()
    });
    row("the same behind an endless run whose client leaves now", after.collect());
    server.stop();
}

fn slow_peers() {
    let home = Home::of(&["versioned"]);
    let server = Server::start(home.path(), &home.repository());
    let infer =
        request("POST", &infer_path("versioned"), "", http::four(1.0).to_string().as_bytes());
    let mut honest = Http::connect(&server.http);
    let mut ask = |turn: &mut dyn FnMut(usize)| {
        let asked = (0..ASKED).map(|at| {
            turn(at);
            timed(&mut honest, &infer)
        });
        asked.collect::<Vec<_>>()
    };
    row("an honest caller alone", ask(&mut |_| {}));
    let peer = || Http::connect(&server.http);
    let mut heads: Vec<Http> = (0..PEERS).map(|_| peer()).collect();
    let mut held: Vec<Http> = (0..3 * PEERS).map(|_| peer()).collect();
    let page = http::get(&server.http, "/openapi.json");
    let pages = request("GET", "/openapi.json", "", b"").repeat((8 << 20) / page.body.len());
    for (at, client) in held.iter_mut().enumerate() {
        match at % 3 {
            0 => client.send(&infer[..infer.len() - 20]),
            1 => client.send(&pages),
            _ => {}
        }
    }
    // Until nothing more fits into the sockets of those that do not read: that much is honest work.
    let mut used = -1.0;
    watch::until("the slow readers are served as far as they read", || {
        let before =
            std::mem::replace(&mut used, watch::metric(&server, "process_cpu_seconds_total", &[]));
        thread::sleep(Duration::from_millis(200));
        used - before < 0.02
    });
    let beside = ask(&mut |at| {
        // A byte of a head now and then.
        let sent = heads[at % PEERS].socket.write(&infer[at / PEERS..=at / PEERS]);
        sent.expect("heads have ten seconds");
    });
    row("the same beside 300 slow peers", beside);
    server.stop();
}

fn saturated() {
    let home = Home::of(&["burn", "versioned"]).yaml("burn", "batching: {mode: single}\n");
    let home = home.model("queued", "versioned").yaml("queued", "batching: {mode: single}\n");
    let server = Server::start(home.path(), &home.repository());
    let infer = |model: &str| {
        request("POST", &infer_path(model), "", http::four(1.0).to_string().as_bytes())
    };
    let live = request("GET", "/v2/health/live", "", b"");
    let asked = [
        ("a model in the turn", infer("versioned")),
        ("a model on the executors", infer("queued")),
        ("GET /v2/health/live", live),
    ];
    let mut client = Http::connect(&server.http);
    let mut measure = |when: &str| {
        for (what, bytes) in &asked {
            let took = (0..500).map(|_| {
                thread::sleep(Duration::from_millis(2));
                timed(&mut client, bytes)
            });
            row(&format!("{what}, {when}"), took.collect());
        }
    };
    measure("alone");
    let address = server.http.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|x| {
            let (address, stop) = (address.clone(), stop.clone());
            thread::spawn(move || {
                let mut client = Http::connect(&address);
                let mut runs = 0u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.send(&body(x as f64, HEAVY));
                    // Refusals of a queue that stands are part of it.
                    runs += u64::from(client.read().status == 200);
                }
                runs
            })
        })
        .collect();
    watch::until("it is busy", || watch::in_flight(&server, "burn") >= CALLERS as u64 / 2);
    measure("beside a saturated one");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let runs: u64 = callers.into_iter().filter_map(|caller| caller.join().ok()).sum();
    println!("({runs} runs of the saturated model meanwhile, {CALLERS} callers)");
    server.stop();
}

fn main() {
    println!("{:<58} {:>6} {:>8} {:>8} {:>8}", "", "asked", "p50 ms", "p99 ms", "max ms");
    cancelled();
    slow_peers();
    saturated();
}
