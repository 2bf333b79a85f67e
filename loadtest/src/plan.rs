//! What a run will do, resolved and checked: values only, so that what draws it up and what carries it out meet here.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use crate::units::Speed;

/// Which form of the protocol carries the tensors.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// `ModelInfer` over HTTP/2.
    Grpc,
    /// HTTP/1.1, tensors as JSON.
    Json,
    /// HTTP/1.1, tensors as raw bytes behind a JSON head (`Inference-Header-Content-Length`).
    Binary,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What to check of a server's certificate, where TLS is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM of the authorities to trust; the system's where there is none.
    pub authority: Option<PathBuf>,
    /// PEM of our own certificate and its key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Nothing is checked: for a server with a certificate that nobody signed, on a network of one's own.
    pub insecure: bool,
}

/// One server, spoken to in one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub protocol: Protocol,
    pub address: Address,
    pub tls: Option<Tls>,
    /// The `Host` header, `:authority` over HTTP/2.
    pub authority: String,
}

/// One request, ready for the wire; the same bytes each time it is sent.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Index into `Plan::variants`: what it is counted under.
    pub variant: usize,
    pub wire: Wire,
    /// What a right answer is, where it is known.
    pub expected: Option<Arc<dyn Check>>,
}

/// The bytes of a request.
#[derive(Clone, Debug)]
pub enum Wire {
    /// Head and body of an HTTP/1.1 request.
    Http(Arc<[u8]>),
    /// An HTTP/2 header block without references to the dynamic table, and the gRPC message with its five bytes of prefix.
    Grpc { headers: Arc<[u8]>, message: Arc<[u8]> },
}

/// Holds an answer against what was expected. Called on the generator's thread, off the clock: after the answer's moment was taken.
pub trait Check: Send + Sync + std::fmt::Debug {
    /// `body`: for HTTP the answer's body, with `header_length` of its `Inference-Header-Content-Length` where it has one; for gRPC the
    /// message without its prefix. The error says in a line which output differs, what was expected and what came.
    fn check(&self, body: &[u8], header_length: Option<usize>) -> Result<(), String>;
}

/// What requests are counted under: a model, a version, a shape, an entry of the mix.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub name: String,
    pub model: String,
    pub version: Option<String>,
    /// Its share of the mix, relative to the others'.
    pub weight: f64,
    /// Instances (rows of the first axis) in each of its requests; of a log's, which differ, their mean.
    pub rows: u64,
    /// Indices into `Plan::requests`, taken in turn.
    pub requests: Vec<usize>,
}

/// When requests are due.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent arrivals: exponential gaps. Requests a second.
    Poisson { rate: f64 },
    /// Equal gaps. Requests a second.
    Constant { rate: f64 },
    /// `size` requests at once, every `every`.
    Bursts { size: u64, every: Duration },
    /// The rate moves in a straight line over the phase; Poisson around it, or equal spacing.
    Ramp { from: f64, to: f64, poisson: bool },
    /// The rate holds for `hold`, then moves to the next; Poisson around it, or equal spacing.
    Steps { rates: Vec<f64>, hold: Duration, poisson: bool },
    /// Recorded moments, from the phase's start.
    Trace { at: Arc<[Duration]> },
    /// As a log has them: each moment with the request that came then. They are known once the requests are made ready.
    Recorded { asked: Arc<[Recorded]>, speed: Speed },
    /// So many callers, each of which waits for its answer, thinks, and asks again.
    Closed { callers: usize, think: Duration },
}

/// A request of a log, and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Nanoseconds since the first one did.
    pub at: u64,
    /// Index into `Plan::requests`.
    pub request: usize,
}

/// When a phase is over (what is in flight is waited for, up to `Plan::timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    pub duration: Option<Duration>,
    pub requests: Option<u64>,
}

/// A stretch of the run with one way of arriving.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub name: String,
    pub arrivals: Arrivals,
    pub until: Until,
    /// Answers are waited for but count for nothing.
    pub warm_up: bool,
}

/// A run, whole.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub phases: Vec<Phase>,
    pub variants: Vec<Variant>,
    pub requests: Vec<Prepared>,
    /// Decides arrivals and the mix: the same seed, the same load.
    pub seed: u64,
    /// Connections, dealt out among the threads.
    pub connections: usize,
    /// Requests in flight on one connection at most (1 over HTTP/1.1).
    pub streams: usize,
    pub threads: usize,
    /// Which part of the load is ours, where several machines share it.
    pub shard: Shard,
    /// After this, counted from its schedule, a request counts as failed and is given up.
    pub timeout: Duration,
}

/// One of several generators that put one load on a server together: of the same arrivals each takes every `of`-th, so that together
/// they are the load that one alone would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    pub of: usize,
}

impl Shard {
    /// All of the load.
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// Which arrivals (or callers, of a closed loop) are those of one of our `threads`: the first, and every how many-th from there.
    pub fn share(self, thread: usize, threads: usize) -> (usize, usize) {
        (self.index * threads + thread, self.of * threads)
    }
}

/// More machines than this are a slip of the finger.
const MAX_SHARDS: usize = 10_000;

/// As in `2/8`: the third of eight.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let pair = text.split_once('/');
        let pair = pair.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match pair {
            Some((index, of)) if index < of && of <= MAX_SHARDS => Ok(Shard { index, of }),
            _ => Err(format!(
                "'{text}' is no shard; expected INDEX/COUNT, the index from 0 and below the count, as in 2/8"
            )),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shards_are_read_as_they_are_written() {
        let shard: Shard = "2/8".parse().unwrap();
        assert_eq!(shard, Shard { index: 2, of: 8 });
        assert_eq!(shard.to_string(), "2/8");
        for wrong in ["", "2", "8/8", "-1/8", "0/0", "0/10001", "a/b", "1/2/3"] {
            let error = wrong.parse::<Shard>().unwrap_err();
            assert!(error.starts_with(&format!("'{wrong}' is no shard")), "{error}");
        }
    }

    proptest! {
        /// Whatever the numbers, each arrival has one thread of one machine.
        #[test]
        fn shards_share_a_load_out(of in 1usize..6, threads in 1usize..5, arrivals in 0usize..200) {
            let mut taken = vec![0; arrivals];
            for index in 0..of {
                for thread in 0..threads {
                    let (first, every) = Shard { index, of }.share(thread, threads);
                    (first..arrivals).step_by(every).for_each(|at| taken[at] += 1);
                }
            }
            prop_assert!(taken.iter().all(|n| *n == 1));
        }
    }
}
