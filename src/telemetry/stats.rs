//! What is counted of one version: Triton's statistics and our metrics from the same events.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    histogram::{Buckets, ROW_BOUNDS, TIME_BOUNDS, Times, nanos},
    lanes::{Lanes, Number},
    registry,
};
use crate::types::error::Code;

/// Counters and histograms of one version, bound once. A call is a few plain additions in the calling thread's own
/// lane: no lock, no allocation (but a thread's very first call for a version), no line shared with another thread.
pub struct VersionStats(Arc<Series>);

/// Where an answered request's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
    /// From the moment the request was decoded until its answer was ready to encode.
    pub total: Duration,
    pub queue: Duration,
    /// Stacking the batch.
    pub input: Duration,
    /// The session's run.
    pub infer: Duration,
    /// Splitting the outputs.
    pub output: Duration,
}

impl VersionStats {
    /// Binds the metrics of this model and version. The numbers go on where a version of that name is still alive (a
    /// reload while requests drain), and leave the metrics page when the last of them is dropped.
    pub fn new(model: &str, version: &str) -> VersionStats {
        VersionStats(registry::registry().version(model, version))
    }

    /// Writes to the numbers of another registry than the process's.
    #[cfg(test)]
    pub fn of(series: Arc<Series>) -> VersionStats {
        VersionStats(series)
    }

    /// A request came in: in flight until `answered` or `failed`.
    pub fn started(&self) {
        let (lane, writer) = self.0.lanes.mine();
        lane.in_flight.add(1, writer);
    }

    /// A request of `rows` rows was answered.
    pub fn answered(&self, rows: usize, spans: Spans) {
        let (lane, writer) = self.0.lanes.mine();
        lane.in_flight.subtract(1, writer);
        lane.rows.add(rows as u64, writer);
        lane.request.record(spans.total, writer);
        lane.queue.record(spans.queue, writer);
        lane.input.add(nanos(spans.input), writer);
        lane.infer.add(nanos(spans.infer), writer);
        lane.output.add(nanos(spans.output), writer);
    }

    /// A request of `rows` rows was answered from the cache, which took `lookup` to find the answer.
    pub fn answered_from_cache(&self, rows: usize, total: Duration, lookup: Duration) {
        let (lane, writer) = self.0.lanes.mine();
        lane.in_flight.subtract(1, writer);
        lane.rows.add(rows as u64, writer);
        lane.request.record(total, writer);
        lane.kept_rows.add(rows as u64, writer);
        lane.cache[Lookup::Hit as usize].add(1, writer);
        lane.hit_time.add(nanos(lookup), writer);
    }

    /// The cache had no answer, as a lookup of `lookup` found: the model runs.
    pub fn missed(&self, lookup: Duration) {
        self.looked_up(Lookup::Miss, lookup);
    }

    /// As `missed`, but a run that answers the request is under way already.
    pub fn coalesced(&self, lookup: Duration) {
        self.looked_up(Lookup::Coalesced, lookup);
    }

    /// The request would not have its answer from the cache.
    pub fn bypassed(&self) {
        self.looked_up(Lookup::Bypass, Duration::ZERO);
    }

    /// Keeping an answer took so long.
    pub fn kept(&self, took: Duration) {
        let (lane, writer) = self.0.lanes.mine();
        lane.miss_time.add(nanos(took), writer);
    }

    fn looked_up(&self, lookup: Lookup, took: Duration) {
        let (lane, writer) = self.0.lanes.mine();
        lane.cache[lookup as usize].add(1, writer);
        lane.miss_time.add(nanos(took), writer);
    }

    /// A request failed, `total` after it was decoded.
    pub fn failed(&self, code: Code, total: Duration) {
        let (lane, writer) = self.0.lanes.mine();
        lane.in_flight.subtract(1, writer);
        lane.failed[code as usize].add(1, writer);
        lane.failed_time.add(nanos(total), writer);
    }

    /// One run of the session over `rows` rows (which one run answered).
    pub fn executed(&self, rows: usize, input: Duration, infer: Duration, output: Duration) {
        let (lane, writer) = self.0.lanes.mine();
        lane.compute.record(input.saturating_add(infer).saturating_add(output), writer);
        let size = lane.sizes.of(rows);
        size.runs.add(1, writer);
        size.rows.add(rows as u64, writer);
        size.input.add(nanos(input), writer);
        size.infer.add(nanos(infer), writer);
        size.output.add(nanos(output), writer);
        // Why here and not for every request: a run is rarer, and no request is answered without one.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        lane.last_run.raise(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }

    /// A request was refused or let go without a run, for the load's sake.
    pub fn shed(&self, reason: Shed) {
        let (lane, writer) = self.0.lanes.mine();
        lane.shed[reason as usize].add(1, writer);
    }

    /// A run's padded inputs had so many elements, of which so many are padding.
    pub fn padded(&self, elements: u64, padding: u64) {
        let (lane, writer) = self.0.lanes.mine();
        lane.padded.add(elements, writer);
        lane.padding.add(padding, writer);
    }

    /// The queue's depth changed by so many requests.
    pub fn queued(&self, change: i64) {
        let (lane, writer) = self.0.lanes.mine();
        lane.queued.add(change as u64, writer);
    }

    /// When the last run ended, in milliseconds since the Unix epoch; 0 for never.
    pub fn last_run(&self) -> u64 {
        self.0.lanes.iter().map(|lane| lane.last_run.get()).max().unwrap_or(0)
    }

    /// Everything counted so far, for the statistics extension.
    pub fn snapshot(&self) -> Statistics {
        self.0.read().statistics
    }
}

/// What came of asking the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit,
    Miss,
    /// A miss that waited for another's run.
    Coalesced,
    /// The request would not have its answer from there.
    Bypass,
}

impl Lookup {
    pub const ALL: [Lookup; 4] = [Lookup::Hit, Lookup::Miss, Lookup::Coalesced, Lookup::Bypass];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Lookup::Hit => "hit",
            Lookup::Miss => "miss",
            Lookup::Coalesced => "coalesced",
            Lookup::Bypass => "bypass",
        }
    }
}

/// Why work was shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// As many requests or bytes wait as the queue takes.
    QueueFull,
    /// More comes than is served, and has for a while.
    Standing,
    /// It could not have been answered before its deadline.
    Late,
    /// Its deadline passed while it waited.
    Expired,
}

impl Shed {
    pub const ALL: [Shed; 4] = [Shed::QueueFull, Shed::Standing, Shed::Late, Shed::Expired];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Shed::QueueFull => "queue_full",
            Shed::Standing => "standing",
            Shed::Late => "late",
            Shed::Expired => "expired",
        }
    }
}

/// How often, and for how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    pub nanos: u64,
}

/// Triton's statistics of one version. As there, what the cache answered is a success, and in no other count but its own; what
/// waited for another's run is a miss, and shares that run's times as the members of a batch do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Rows of answered requests, those from the cache aside.
    pub inference_count: u64,
    /// Runs of the session.
    pub execution_count: u64,
    /// When the last run ended, in milliseconds since the Unix epoch; 0 for never.
    pub last_inference: u64,
    pub success: Tally,
    pub fail: Tally,
    /// The next four count answered requests, each with its whole batch's time.
    pub queue: Tally,
    pub compute_input: Tally,
    pub compute_infer: Tally,
    pub compute_output: Tally,
    /// Requests that the cache answered, and what it took to find their answers.
    pub cache_hit: Tally,
    /// Those for which it had none, and what it took to look, and to keep what the model gave.
    pub cache_miss: Tally,
    /// By rows of a run, smallest first. Runs of 1024 rows and more are in `execution_count` alone.
    pub batches: Vec<BatchStatistics>,
}

/// The runs of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    pub batch_size: u64,
    pub compute_input: Tally,
    pub compute_infer: Tally,
    pub compute_output: Tally,
}

/// The numbers behind a `VersionStats`; the registry reads them for the metrics page.
#[derive(Default)]
pub struct Series {
    lanes: Lanes<Lane>,
}

/// One thread's share. Times are nanoseconds.
#[derive(Default)]
struct Lane {
    in_flight: Number,
    queued: Number,
    rows: Number,
    request: Times,
    queue: Times,
    compute: Times,
    input: Number,
    infer: Number,
    output: Number,
    /// By `Code as usize`.
    failed: [Number; Code::ALL.len()],
    failed_time: Number,
    /// By `Shed as usize`.
    shed: [Number; Shed::ALL.len()],
    /// By `Lookup as usize`.
    cache: [Number; Lookup::ALL.len()],
    kept_rows: Number,
    hit_time: Number,
    miss_time: Number,
    last_run: Number,
    padded: Number,
    padding: Number,
    sizes: Sizes,
}

/// Runs by their exact size, up to 1023 rows: a block for each power of two, made when a run first needs it.
#[derive(Default)]
struct Sizes {
    blocks: [OnceLock<Box<[Size]>>; BLOCKS],
    /// Every larger run.
    larger: Size,
}

/// Sizes 1, 2 to 3, 4 to 7, … 512 to 1023.
const BLOCKS: usize = 10;

#[derive(Default)]
struct Size {
    runs: Number,
    rows: Number,
    input: Number,
    infer: Number,
    output: Number,
}

impl Sizes {
    fn of(&self, rows: usize) -> &Size {
        let rows = rows.max(1);
        let block = rows.ilog2() as usize;
        let Some(slot) = self.blocks.get(block) else { return &self.larger };
        let sizes = slot.get_or_init(|| (0..1 << block).map(|_| Size::default()).collect());
        &sizes[rows - (1 << block)]
    }

    /// Every size with a run, smallest first; the larger ones last, as size 0.
    fn iter(&self) -> impl Iterator<Item = (usize, &Size)> {
        let exact = self.blocks.iter().enumerate().flat_map(|(block, slot)| {
            let sizes = slot.get().map_or(&[][..], |sizes| sizes);
            sizes.iter().enumerate().map(move |(at, size)| ((1 << block) + at, size))
        });
        exact.chain(std::iter::once((0, &self.larger))).filter(|(_, size)| size.runs.get() > 0)
    }
}

/// One version's numbers added up over all threads.
#[derive(Clone, Debug)]
pub struct Reading {
    pub in_flight: u64,
    pub queued: u64,
    pub rows: u64,
    /// Elements of inputs that padding is set for, and those of them that are padding.
    pub padded: u64,
    pub padding: u64,
    pub request: Buckets,
    pub queue: Buckets,
    pub compute: Buckets,
    pub batch_rows: Buckets,
    /// By `Code as usize`.
    pub failed: [u64; Code::ALL.len()],
    /// By `Shed as usize`.
    pub shed: [u64; Shed::ALL.len()],
    /// By `Lookup as usize`.
    pub cache: [u64; Lookup::ALL.len()],
    pub statistics: Statistics,
}

impl Series {
    pub fn read(&self) -> Reading {
        let mut reading = Reading {
            in_flight: level(self.lanes.sum(|lane| &lane.in_flight)),
            queued: level(self.lanes.sum(|lane| &lane.queued)),
            rows: self.lanes.sum(|lane| &lane.rows),
            padded: self.lanes.sum(|lane| &lane.padded),
            padding: self.lanes.sum(|lane| &lane.padding),
            request: Buckets::new(&TIME_BOUNDS),
            queue: Buckets::new(&TIME_BOUNDS),
            compute: Buckets::new(&TIME_BOUNDS),
            batch_rows: Buckets::new(&ROW_BOUNDS),
            failed: std::array::from_fn(|code| self.lanes.sum(|lane| &lane.failed[code])),
            shed: std::array::from_fn(|reason| self.lanes.sum(|lane| &lane.shed[reason])),
            cache: std::array::from_fn(|lookup| self.lanes.sum(|lane| &lane.cache[lookup])),
            statistics: Statistics::default(),
        };
        for lane in self.lanes.iter() {
            lane.request.add_to(&mut reading.request);
            lane.queue.add_to(&mut reading.queue);
            lane.compute.add_to(&mut reading.compute);
        }
        reading.statistics = self.statistics(&reading);
        self.read_sizes(&mut reading);
        reading
    }

    fn statistics(&self, reading: &Reading) -> Statistics {
        let answered = reading.request.count();
        let [hits, misses, coalesced, _] = reading.cache;
        let ran = answered.saturating_sub(hits);
        let nanos = |number: fn(&Lane) -> &Number| self.lanes.sum(number);
        let sum = |number| Tally { count: ran, nanos: nanos(number) };
        Statistics {
            inference_count: reading.rows.saturating_sub(nanos(|lane| &lane.kept_rows)),
            execution_count: reading.compute.count(),
            last_inference: self.lanes.iter().map(|lane| lane.last_run.get()).max().unwrap_or(0),
            success: Tally { count: answered, nanos: reading.request.sum },
            fail: Tally {
                count: reading.failed.iter().sum(),
                nanos: self.lanes.sum(|lane| &lane.failed_time),
            },
            queue: Tally { count: answered, nanos: reading.queue.sum },
            compute_input: sum(|lane| &lane.input),
            compute_infer: sum(|lane| &lane.infer),
            compute_output: sum(|lane| &lane.output),
            cache_hit: Tally { count: hits, nanos: nanos(|lane| &lane.hit_time) },
            cache_miss: Tally { count: misses + coalesced, nanos: nanos(|lane| &lane.miss_time) },
            batches: Vec::new(),
        }
    }

    /// Fills the batch sizes of `reading` in: the histogram, and the statistics by exact size.
    fn read_sizes(&self, reading: &mut Reading) {
        let mut exact: std::collections::BTreeMap<usize, BatchStatistics> = Default::default();
        for (rows, size) in self.lanes.iter().flat_map(|lane| lane.sizes.iter()) {
            let runs = size.runs.get();
            if rows == 0 {
                // The larger ones: above every bound, by their own sum.
                let last = reading.batch_rows.counts.len() - 1;
                reading.batch_rows.counts[last] += runs;
                reading.batch_rows.sum += size.rows.get();
                continue;
            }
            reading.batch_rows.add(rows as u64, runs);
            let entry = exact.entry(rows).or_default();
            entry.batch_size = rows as u64;
            for (tally, time) in [
                (&mut entry.compute_input, &size.input),
                (&mut entry.compute_infer, &size.infer),
                (&mut entry.compute_output, &size.output),
            ] {
                tally.count += runs;
                tally.nanos += time.get();
            }
        }
        reading.statistics.batches = exact.into_values().collect();
    }
}

/// A gauge read while its lanes change may come out below zero for a moment.
fn level(sum: u64) -> u64 {
    u64::try_from(sum as i64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> VersionStats {
        VersionStats::of(Arc::default())
    }

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn tritons_statistics() {
        let stats = stats();
        let spans = Spans { total: 9 * US, queue: 2 * US, input: US, infer: 5 * US, output: US };
        for _ in 0..3 {
            stats.started();
        }
        stats.queued(2);
        stats.queued(-1);
        stats.executed(2, US, 5 * US, US);
        stats.answered(1, spans);
        stats.answered(1, spans);
        let read = stats.0.read();
        assert_eq!((read.in_flight, read.queued), (1, 1));
        stats.failed(Code::DeadlineExceeded, 7 * US);

        let snapshot = stats.snapshot();
        assert_eq!((snapshot.inference_count, snapshot.execution_count), (2, 1));
        assert_eq!(snapshot.success, Tally { count: 2, nanos: 18_000 });
        assert_eq!(snapshot.fail, Tally { count: 1, nanos: 7_000 });
        assert_eq!(snapshot.queue, Tally { count: 2, nanos: 4_000 });
        assert_eq!(snapshot.compute_infer, Tally { count: 2, nanos: 10_000 });
        assert!(snapshot.last_inference > 1_700_000_000_000);
        let [batch] = snapshot.batches[..] else { panic!("{:?}", snapshot.batches) };
        assert_eq!(batch.batch_size, 2);
        assert_eq!(batch.compute_infer, Tally { count: 1, nanos: 5_000 });
        let read = stats.0.read();
        assert_eq!(read.in_flight, 0);
        assert_eq!(read.failed[Code::DeadlineExceeded as usize], 1);
    }

    #[test]
    fn what_the_cache_answered_is_a_success_and_no_inference() {
        let stats = stats();
        (0..4).for_each(|_| stats.started());
        stats.missed(2 * US);
        stats.coalesced(US);
        stats.bypassed();
        stats.kept(3 * US);
        for _ in 0..3 {
            stats.answered(2, Spans { total: 9 * US, infer: 5 * US, ..Spans::default() });
        }
        stats.answered_from_cache(2, 4 * US, US);
        let read = stats.0.read();
        assert_eq!((read.rows, read.in_flight, read.cache), (8, 0, [1, 1, 1, 1]));
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.inference_count, 6);
        assert_eq!(snapshot.success, Tally { count: 4, nanos: 31_000 });
        assert_eq!(snapshot.compute_infer, Tally { count: 3, nanos: 15_000 });
        assert_eq!(snapshot.cache_hit, Tally { count: 1, nanos: 1_000 });
        assert_eq!(snapshot.cache_miss, Tally { count: 2, nanos: 6_000 });
    }

    #[test]
    fn every_batch_size_is_kept_apart() {
        let stats = stats();
        for rows in [1, 2, 3, 4, 64, 1023, 1024, 5000, 0] {
            stats.executed(rows, US, US, US);
        }
        let sizes: Vec<(u64, u64)> = stats
            .snapshot()
            .batches
            .iter()
            .map(|b| (b.batch_size, b.compute_infer.count))
            .collect();
        assert_eq!(sizes, [(1, 2), (2, 1), (3, 1), (4, 1), (64, 1), (1023, 1)]);
        let read = stats.0.read();
        assert_eq!(read.batch_rows.count(), 9);
        assert_eq!(read.batch_rows.sum, 2 + 2 + 3 + 4 + 64 + 1023 + 1024 + 5000);
    }

    #[test]
    fn threads_add_up() {
        let stats = stats();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        stats.started();
                        stats.executed(4, US, US, US);
                        stats.answered(4, Spans { total: 3 * US, ..Spans::default() });
                    }
                });
            }
        });
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.success, Tally { count: 2000, nanos: 6_000_000 });
        assert_eq!(snapshot.inference_count, 8000);
        assert_eq!(snapshot.batches[0].compute_input, Tally { count: 2000, nanos: 2_000_000 });
    }
}
