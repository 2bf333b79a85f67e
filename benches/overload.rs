//! Overload, open loop: the real server with a model of about 20 ms is offered 0.5, 1, 2 and 4 times what it can serve, with
//! and without deadlines; prints what was answered in time, refused, late, and how soon it recovered.
//!
//!     cargo bench --bench overload [-- SECONDS]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use prost::Message;
use support::{
    files::Home,
    grpc::{self, Grpc},
    server::Server,
};
use tokio::{runtime::Runtime, task::JoinHandle};

/// What one run should take.
const SERVICE: Duration = Duration::from_millis(20);
/// An answer is good within this, whether or not the client says so.
const GOOD: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 4;

/// How one request ended.
struct Ended {
    sent: Instant,
    took: Duration,
    /// gRPC's code; `None` where the connection failed.
    code: Option<i32>,
}

impl Ended {
    fn good(&self) -> bool {
        self.code == Some(0) && self.took <= GOOD
    }
}

struct Load {
    runtime: Runtime,
    connections: Vec<Grpc>,
    message: Vec<u8>,
    random: u64,
}

impl Load {
    /// A number in (0, 1], by SplitMix64.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn send(&self, at: usize, timeout: &str) -> JoinHandle<Ended> {
        let sent = Instant::now();
        let call = self.connections[at % CONNECTIONS].start("ModelInfer", timeout, &self.message);
        self.runtime.spawn(async move {
            let code = call.await.ok().map(|called| called.code);
            Ended { sent, took: sent.elapsed(), code }
        })
    }

    /// Sends `rate` a second at random for so long, whatever comes back.
    fn open(&mut self, rate: f64, span: Duration, timeout: &str) -> Vec<JoinHandle<Ended>> {
        let (begin, mut next, mut calls) = (Instant::now(), Duration::ZERO, Vec::new());
        loop {
            next += Duration::from_secs_f64(-self.unit().ln() / rate);
            if next >= span {
                thread::sleep(span.saturating_sub(begin.elapsed()));
                return calls;
            }
            thread::sleep(next.saturating_sub(begin.elapsed()));
            calls.push(self.send(calls.len(), timeout));
        }
    }

    fn wait(&self, calls: Vec<JoinHandle<Ended>>) -> Vec<Ended> {
        let all = async {
            let mut ended = Vec::new();
            for call in calls {
                ended.extend(call.await.ok());
            }
            ended
        };
        self.runtime.block_on(all)
    }

    /// Answers a second to callers that each wait for theirs: what the server can serve.
    fn capacity(&self, callers: usize, span: Duration) -> f64 {
        let begin = Instant::now();
        let mut answered = 0;
        while begin.elapsed() < span {
            let calls = (0..callers).map(|at| self.send(at, "")).collect();
            answered += self.wait(calls).iter().filter(|e| e.code == Some(0)).count();
        }
        answered as f64 / begin.elapsed().as_secs_f64()
    }
}

/// Turns of the model's loop that take about `SERVICE`.
fn calibrate(server: &Server) -> i64 {
    let calls = Grpc::connect(&server.grpc);
    let mut iters = 100;
    for _ in 0..8 {
        let fastest = (0..5).map(|_| {
            let begin = Instant::now();
            assert_eq!(calls.infer("", &grpc::burn(1.0, iters)).floats(), [1.0]);
            begin.elapsed()
        });
        let took = fastest.min().expect("five runs").as_secs_f64();
        iters = ((iters as f64 * SERVICE.as_secs_f64() / took) as i64).max(1);
    }
    iters
}

fn percentile(sorted: &[Duration], part: f64) -> u128 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0, Duration::as_millis)
}

fn row(name: &str, rate: f64, span: Duration, capacity: f64, ended: &[Ended]) {
    let seconds = span.as_secs_f64();
    let count = |is: &dyn Fn(&Ended) -> bool| ended.iter().filter(|e| is(e)).count();
    let times = |code: i32| {
        let of = ended.iter().filter(|e| e.code == Some(code));
        let mut times: Vec<Duration> = of.map(|e| e.took).collect();
        times.sort();
        times
    };
    let (answered, refused) = (times(0), times(8));
    println!(
        "{name:>12} {rate:>8.0} {:>8.1} {:>7.2} {:>9} {:>6} {:>6} {:>6} {:>6} {:>11}",
        count(&|e| e.good()) as f64 / seconds,
        count(&|e| e.good()) as f64 / seconds / capacity,
        refused.len(),
        times(4).len(),
        count(&|e| !matches!(e.code, Some(0 | 4 | 8))),
        percentile(&answered, 0.5),
        percentile(&answered, 0.99),
        percentile(&refused, 0.99),
    );
}

/// Seconds after `fall` from which on every half second had nineteen of twenty answered in time.
fn recovery(fall: Instant, ended: &[Ended]) -> f64 {
    let half = |e: &Ended| (e.sent - fall).as_millis() / 500;
    let last = ended.iter().map(half).max().unwrap_or(0);
    let bad = (0..=last).rev().find(|n| {
        let of: Vec<&Ended> = ended.iter().filter(|e| half(e) == *n).collect();
        of.iter().filter(|e| e.good()).count() * 20 < of.len() * 19
    });
    bad.map_or(0.0, |n| (n + 1) as f64 / 2.0)
}

fn main() {
    let seconds = std::env::args().find_map(|text| text.parse().ok()).unwrap_or(10);
    let span = Duration::from_secs(seconds);
    let home = Home::of(&["burn"]);
    let server = Server::start(home.path(), &home.repository());
    let iters = calibrate(&server);
    let mut load = Load {
        runtime: Runtime::new().expect("an event loop"),
        connections: (0..CONNECTIONS).map(|_| Grpc::connect(&server.grpc)).collect(),
        message: grpc::burn(1.0, iters).encode_to_vec(),
        random: 1,
    };
    load.capacity(4, span / 4);
    let capacity = load.capacity(4, span / 2);
    println!(
        "capacity {capacity:.1} a second, {iters} turns a run; good: answered within {GOOD:?}"
    );
    let burst = load.wait((0..200).map(|at| load.send(at, "")).collect());
    let served = burst.iter().filter(|e| e.code == Some(0)).count();
    println!("a burst of 200 at the idle model: {served} answered");
    println!(
        "{:>12} {:>8} {:>8} {:>7} {:>9} {:>6} {:>6} {:>6} {:>6} {:>11}",
        "load",
        "offered",
        "good/s",
        "of cap",
        "refused",
        "late",
        "failed",
        "p50",
        "p99",
        "refused p99"
    );
    for (kind, timeout) in [("none", ""), ("500 ms", "500m")] {
        println!("deadline: {kind}; times in ms");
        for times in [0.5, 1.0, 2.0, 4.0] {
            let rate = capacity * times;
            let calls = load.open(rate, span, timeout);
            let fall = Instant::now();
            let after = load.open(capacity * 0.5, span, timeout);
            row(&format!("{times}"), rate, span, capacity, &load.wait(calls));
            println!(
                "{:>12} recovered after {:.1} s",
                "then 0.5",
                recovery(fall, &load.wait(after))
            );
        }
    }
    server.stop();
}
