//! Where the numbers are: every version's, and those of the server as a whole.
//!
//! Why process-wide: a version's statistics and a connection's count are bound deep inside rooms that know nothing of
//! each other, and a process has one metrics page. Nothing but that page reads it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    lanes::{Lanes, Number},
    predictions,
    shadow::ShadowCounts,
    stats::Series,
};
use crate::types::error::Code;

/// The registry of this process.
pub fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::default);
    &REGISTRY
}

/// Which port a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    Http,
    Grpc,
    Operator,
}

impl Listener {
    pub const ALL: [Listener; 3] = [Listener::Http, Listener::Grpc, Listener::Operator];

    /// The value of the `listener` label.
    pub const fn label(self) -> &'static str {
        match self {
            Listener::Http => "http",
            Listener::Grpc => "grpc",
            Listener::Operator => "operator",
        }
    }
}

/// Why the server ended a connection whose peer did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The TLS handshake failed, or took too long.
    Handshake,
    /// A request's head did not come, or not whole.
    SlowHead,
    /// Nothing was asked for long.
    Idle,
    /// Answers were not taken.
    SlowRead,
}

impl Cut {
    pub const ALL: [Cut; 4] = [Cut::Handshake, Cut::SlowHead, Cut::Idle, Cut::SlowRead];

    /// The value of the `cause` label.
    pub const fn label(self) -> &'static str {
        match self {
            Cut::Handshake => "handshake",
            Cut::SlowHead => "slow_head",
            Cut::Idle => "idle",
            Cut::SlowRead => "slow_read",
        }
    }
}

/// All numbers but those of the process itself. One a process; tests make their own.
#[derive(Default)]
pub struct Registry {
    /// By model and version. A version that is gone leaves its entry, which the next scrape sweeps.
    versions: Mutex<BTreeMap<(String, String), Weak<Series>>>,
    models: Mutex<BTreeMap<(String, String), ModelRow>>,
    /// By the name that metrics show; as `versions`.
    callers: Mutex<BTreeMap<String, Weak<CallerCounts>>>,
    connections: [Connections; Listener::ALL.len()],
    /// By `Cut as usize`.
    cut: [AtomicU64; Cut::ALL.len()],
    /// Seconds since the Unix epoch; 0: no certificate.
    certificate_expiry: AtomicI64,
    /// By `Code as usize`.
    refused: [AtomicU64; Code::ALL.len()],
    log_dropped: AtomicU64,
    memory: Mutex<Option<ReadMemory>>,
    /// By model; what answers `None` is gone.
    caches: Mutex<BTreeMap<String, ReadCache>>,
    /// By model and route, and by model and version; as `versions`.
    routes: Living<RouteCount>,
    shadows: Living<ShadowCounts>,
    predictions: Mutex<Option<ReadPredictions>>,
    /// Spans that the collector took, and those that it did not.
    spans: [AtomicU64; 2],
    /// `None`: models lie on a local path.
    store: Mutex<Option<StoreRow>>,
}

/// How it goes with the object store that models come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreRow {
    /// It could be listed the last time.
    pub up: bool,
    /// When all of it was mirrored last, in seconds since the Unix epoch.
    pub last_sync_seconds: Option<u64>,
    /// Attempts that failed, as a whole or in part.
    pub failures: u64,
    /// Bytes that came from it.
    pub fetched_bytes: u64,
    /// Versions that are not mirrored, for what they are.
    pub refused: u64,
}

/// By two names, as long as somebody counts.
type Living<T> = Mutex<BTreeMap<(String, String), Weak<T>>>;

fn living_or_new<T: Default>(all: &Living<T>, model: &str, name: &str) -> Arc<T> {
    let mut all = all.lock();
    let slot = all.entry((model.to_owned(), name.to_owned())).or_default();
    slot.upgrade().unwrap_or_else(|| {
        let counts = Arc::default();
        *slot = Arc::downgrade(&counts);
        counts
    })
}

fn living_of<T>(all: &Living<T>) -> Vec<((String, String), Arc<T>)> {
    let mut living = Vec::new();
    all.lock().retain(|name, counts| match counts.upgrade() {
        Some(counts) => {
            living.push((name.clone(), counts));
            true
        }
        None => false,
    });
    living
}

/// Requests that took one way.
#[derive(Debug, Default)]
pub struct RouteCount(Lanes<Number>);

impl RouteCount {
    pub fn taken(&self) {
        let (lane, writer) = self.0.mine();
        lane.add(1, writer);
    }

    pub fn total(&self) -> u64 {
        self.0.sum(|lane| lane)
    }
}

/// What requests hold of their memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub bytes: usize,
    pub limit: usize,
    pub level: u8,
}

type ReadMemory = Box<dyn Fn() -> Memory + Send + Sync>;

/// What a model's cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub answers: u64,
    pub bytes: u64,
}

type ReadCache = Box<dyn Fn() -> Option<Kept> + Send + Sync>;

type ReadPredictions = Box<dyn Fn() -> Option<predictions::Reading> + Send + Sync>;

/// What is known of a version whether or not it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelRow {
    pub state: &'static str,
    pub load_time: Option<Duration>,
    /// Loads that were refused.
    pub refused: u64,
}

/// How the requests of one caller ended.
#[derive(Debug, Default)]
pub struct CallerCounts(Lanes<Ends>);

#[derive(Debug, Default)]
struct Ends {
    well: Number,
    /// By `Code as usize`.
    failed: [Number; Code::ALL.len()],
}

impl CallerCounts {
    /// A request ended; `None`: well.
    pub fn ended(&self, code: Option<Code>) {
        let (lane, writer) = self.0.mine();
        code.map_or(&lane.well, |code| &lane.failed[code as usize]).add(1, writer);
    }

    /// So many ended like this.
    pub fn total(&self, code: Option<Code>) -> u64 {
        self.0.sum(|lane| code.map_or(&lane.well, |code| &lane.failed[code as usize]))
    }
}

#[derive(Debug, Default)]
pub struct Connections {
    pub accepted: AtomicU64,
    pub open: AtomicU64,
}

/// Counts a connection as open while it lives.
pub struct OpenConnection(&'static Connections);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    /// The series of a version: the living one of that name, else a new one.
    pub fn version(&self, model: &str, version: &str) -> Arc<Series> {
        living_or_new(&self.versions, model, version)
    }

    /// The count of a model's route, as `version`.
    pub fn route(&self, model: &str, route: &str) -> Arc<RouteCount> {
        living_or_new(&self.routes, model, route)
    }

    /// The counts of a version that is a shadow, as `version`.
    pub fn shadow(&self, model: &str, version: &str) -> Arc<ShadowCounts> {
        living_or_new(&self.shadows, model, version)
    }

    pub fn routes(&self) -> Vec<((String, String), Arc<RouteCount>)> {
        living_of(&self.routes)
    }

    pub fn shadows(&self) -> Vec<((String, String), Arc<ShadowCounts>)> {
        living_of(&self.shadows)
    }

    /// The version is in this state from now on (`loading`, `warming`, `ready`, `draining`, `kept`, `unloaded`,
    /// `failed`).
    pub fn set_model_state(&self, model: &str, version: &str, state: &'static str) {
        self.models.lock().entry((model.to_owned(), version.to_owned())).or_default().state = state;
    }

    /// The version's load took so long, whether or not it succeeded.
    pub fn set_load_time(&self, model: &str, version: &str, took: Duration) {
        let mut models = self.models.lock();
        models.entry((model.to_owned(), version.to_owned())).or_default().load_time = Some(took);
    }

    /// The version was refused: it could not be opened, or did not pass its checks.
    pub fn load_refused(&self, model: &str, version: &str) {
        let mut models = self.models.lock();
        models.entry((model.to_owned(), version.to_owned())).or_default().refused += 1;
    }

    /// The version is no longer in the repository: its state and load time leave the page. (Its counters leave by
    /// themselves, with the last `VersionStats`.)
    pub fn forget(&self, model: &str, version: &str) {
        self.models.lock().remove(&(model.to_owned(), version.to_owned()));
    }

    /// The counts of a caller: the living ones of that name, else new ones.
    pub fn caller(&self, shown: &str) -> Arc<CallerCounts> {
        let mut callers = self.callers.lock();
        let slot = callers.entry(shown.to_owned()).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let counts = Arc::default();
            *slot = Arc::downgrade(&counts);
            counts
        })
    }

    /// Callers that are configured now; forgets those that are gone.
    pub fn callers(&self) -> Vec<(String, Arc<CallerCounts>)> {
        let mut living = Vec::new();
        self.callers.lock().retain(|name, counts| match counts.upgrade() {
            Some(counts) => {
                living.push((name.clone(), counts));
                true
            }
            None => false,
        });
        living
    }

    /// A connection was accepted; it counts as open until the result is dropped.
    pub fn connection(&'static self, listener: Listener) -> OpenConnection {
        let connections = &self.connections[listener as usize];
        connections.accepted.fetch_add(1, Ordering::Relaxed);
        connections.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(connections)
    }

    /// The server ended a connection.
    pub fn cut(&self, cause: Cut) {
        self.cut[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that the server ended so far for this cause.
    pub fn cut_total(&self, cause: Cut) -> u64 {
        self.cut[cause as usize].load(Ordering::Relaxed)
    }

    /// The certificate that serves ends then, in seconds since the Unix epoch.
    pub fn set_certificate_expiry(&self, seconds: i64) {
        self.certificate_expiry.store(seconds, Ordering::Relaxed);
    }

    /// `None` where no certificate serves.
    pub fn certificate_expiry(&self) -> Option<i64> {
        Some(self.certificate_expiry.load(Ordering::Relaxed)).filter(|&seconds| seconds != 0)
    }

    /// A request failed before it reached a version.
    pub fn refused(&self, code: Code) {
        self.refused[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Where the numbers of the requests' memory come from; of several servers in a process, the last one's.
    pub fn set_memory(&self, read: impl Fn() -> Memory + Send + Sync + 'static) {
        *self.memory.lock() = Some(Box::new(read));
    }

    /// Where the numbers of a model's cache come from; `None` once it is gone.
    pub fn show_cache(&self, model: &str, read: impl Fn() -> Option<Kept> + Send + Sync + 'static) {
        self.caches.lock().insert(model.to_owned(), Box::new(read));
    }

    /// What the models' caches hold; forgets those that are gone.
    pub fn caches(&self) -> Vec<(String, Kept)> {
        let mut living = Vec::new();
        self.caches.lock().retain(|model, read| match read() {
            Some(kept) => {
                living.push((model.clone(), kept));
                true
            }
            None => false,
        });
        living
    }

    /// Where the numbers of the prediction log come from; of several servers in a process, the last one's.
    pub fn set_predictions(
        &self,
        read: impl Fn() -> Option<predictions::Reading> + Send + Sync + 'static,
    ) {
        *self.predictions.lock() = Some(Box::new(read));
    }

    /// The numbers of the prediction log, where there is one.
    pub fn predictions(&self) -> Option<predictions::Reading> {
        self.predictions.lock().as_ref().and_then(|read| read())
    }

    pub fn memory(&self) -> Option<Memory> {
        self.memory.lock().as_ref().map(|read| read())
    }

    /// How it goes with the object store now.
    pub fn set_store(&self, row: StoreRow) {
        *self.store.lock() = Some(row);
    }

    /// `None` where models lie on a local path.
    pub fn store(&self) -> Option<StoreRow> {
        *self.store.lock()
    }

    pub fn log_dropped(&self, lines: u64) {
        self.log_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Log lines dropped so far.
    pub fn log_dropped_total(&self) -> u64 {
        self.log_dropped.load(Ordering::Relaxed)
    }

    /// Requests refused so far with this code.
    pub fn refused_total(&self, code: Code) -> u64 {
        self.refused[code as usize].load(Ordering::Relaxed)
    }

    pub fn connections(&self, listener: Listener) -> &Connections {
        &self.connections[listener as usize]
    }

    /// So many spans were sent, or could not be.
    pub fn spans(&self, count: u64, taken: bool) {
        self.spans[usize::from(!taken)].fetch_add(count, Ordering::Relaxed);
    }

    /// Spans that the collector took, or did not, since the start.
    pub fn spans_total(&self, taken: bool) -> u64 {
        self.spans[usize::from(!taken)].load(Ordering::Relaxed)
    }

    /// The living versions by model and version; forgets those that are gone.
    pub fn living(&self) -> Vec<((String, String), Arc<Series>)> {
        living_of(&self.versions)
    }

    pub fn models(&self) -> Vec<((String, String), ModelRow)> {
        self.models.lock().iter().map(|(name, row)| (name.clone(), *row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_goes_on_counting_and_an_unload_forgets() {
        let registry = Registry::default();
        let first = registry.version("m", "1");
        let again = registry.version("m", "1");
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(registry.living().len(), 1);
        drop((first, again));
        assert!(registry.living().is_empty());
        assert!(registry.versions.lock().is_empty());
    }

    #[test]
    fn a_callers_counts_live_as_long_as_the_caller() {
        let registry = Registry::default();
        let counts = registry.caller("search");
        registry.caller("search").ended(None);
        counts.ended(Some(Code::NotFound));
        assert_eq!((counts.total(None), counts.total(Some(Code::NotFound))), (1, 1));
        assert_eq!(registry.callers().len(), 1);
        drop(counts);
        assert!(registry.callers().is_empty());
    }

    #[test]
    fn models_have_one_row_each() {
        let registry = Registry::default();
        registry.set_model_state("m", "1", "loading");
        registry.set_load_time("m", "1", Duration::from_secs(2));
        registry.set_model_state("m", "1", "ready");
        registry.load_refused("m", "1");
        let row = ModelRow { state: "ready", load_time: Some(Duration::from_secs(2)), refused: 1 };
        assert_eq!(registry.models(), [(("m".into(), "1".into()), row)]);
        registry.forget("m", "1");
        assert!(registry.models().is_empty());
    }
}
