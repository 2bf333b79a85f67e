//! What the cache costs where it never has the answer, and what it saves where it has: throughput of closed-loop clients on a model
//! without one, on its double (what noise alone makes of a ratio) and on the same model with one, in turn.
//!
//!     cargo bench --bench cache

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use support::{
    files::Home,
    http::{Http, infer_path, request},
    server::Server,
};

const CLIENTS: usize = 8;
const ROUNDS: usize = 61;
const WINDOW: Duration = Duration::from_millis(200);

/// A request whose last four bytes are a float that no other request has, or that all have.
struct Asked {
    bytes: Vec<u8>,
    fresh: bool,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Asked {
    fn send(&mut self, client: &mut Http) {
        if self.fresh {
            // Every pattern of 23 bits is a float between 1 and 2: eight million of them, one after the other.
            let n = NEXT.fetch_add(1, Ordering::Relaxed) as u32 & 0x7f_ffff | 0x3f80_0000;
            let at = self.bytes.len() - 4;
            self.bytes[at..].copy_from_slice(&n.to_le_bytes());
        }
        client.send(&self.bytes);
        assert_eq!(client.read().status, 200);
    }
}

/// A request of one tensor of so many floats behind a head, all binary.
fn binary(model: &str, head: &str, floats: usize) -> Vec<u8> {
    let headers = format!("inference-header-content-length: {}\r\n", head.len());
    let raw: Vec<u8> = (0..floats).flat_map(|i| (i as f32 * 0.25).to_le_bytes()).collect();
    request("POST", &infer_path(model), &headers, &[head.as_bytes(), &raw].concat())
}

fn wine(model: &str) -> Vec<u8> {
    let head = r#"{"inputs":[{"name":"features","shape":[1,13],"datatype":"FP32","parameters":{"binary_data_size":52}}],"parameters":{"binary_data_output":true}}"#;
    binary(model, head, 13)
}

/// A run of about a third of a millisecond.
fn burn(model: &str) -> Vec<u8> {
    let head = r#"{"inputs":[{"name":"ITERS","shape":[1],"datatype":"INT64","data":[8]},{"name":"X","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}],"parameters":{"binary_data_output":true}}"#;
    binary(model, head, 1)
}

/// Answers a second in one window.
fn throughput(server: &Server, bytes: &[u8], fresh: bool) -> f64 {
    let ask = || {
        let mut client = Http::connect(&server.http);
        let mut asked = Asked { bytes: bytes.to_vec(), fresh };
        let (began, mut answers) = (Instant::now(), 0u64);
        while began.elapsed() < WINDOW {
            asked.send(&mut client);
            answers += 1;
        }
        answers as f64 / began.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().expect("answered")).sum()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the rounds' ratios to the first, with the least and the largest but two of them.
fn row(what: &str, base: &[f64], own: &[f64]) {
    let mut ratios: Vec<f64> = own.iter().zip(base).map(|(own, base)| own / base).collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high) = (ratios[2], ratios[ratios.len() - 3]);
    println!(
        "{what:<44} {:>9.0} {:>7.3} [{low:.3}, {high:.3}]",
        median(own.to_vec()),
        median(ratios)
    );
}

fn compare(source: &str, yaml: &str, ask: fn(&str) -> Vec<u8>) {
    let cache = "cache: {max_bytes: 4000000}\n";
    let home = Home::new()
        .model("plain", source)
        .yaml("plain", yaml)
        .model("again", source)
        .yaml("again", yaml)
        .model("cached", source)
        .yaml("cached", &format!("{yaml}{cache}"));
    let server = Server::start(home.path(), &home.repository());
    let ways = [("plain", true), ("again", true), ("cached", true), ("cached", false)];
    let mut measured = ways.map(|_| Vec::new());
    for round in 0..ROUNDS + 1 {
        for at in 0..ways.len() {
            // Each round begins with another one, and the first only warms.
            let at = (at + round) % ways.len();
            let (model, fresh) = ways[at];
            let rate = throughput(&server, &ask(model), fresh);
            if round > 0 {
                measured[at].push(rate);
            }
        }
    }
    let [plain, again, misses, hits] = &measured;
    row(&format!("{source}, no cache"), plain, plain);
    row(&format!("{source}, no cache, the same again (A/A)"), plain, again);
    row(&format!("{source}, a cache that never has it"), plain, misses);
    row(&format!("{source}, a cache that always has it"), plain, hits);
    server.stop();
}

fn main() {
    println!("{:<44} {:>9} {:>7}", "", "infer/s", "ratio");
    compare("wine", "", wine);
    compare("burn", "batching: {mode: single}\n", burn);
}
