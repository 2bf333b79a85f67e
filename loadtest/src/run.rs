//! Carries a plan out: threads that send, one that puts together what they measured.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    drive::{
        socket::Peer,
        worker::{Report, Worker},
    },
    plan::Plan,
    record::{Code, EXAMPLES, Measured, Times},
};

/// How a run is ended from outside.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Set, the run ends within a tenth of a second, and gives what it measured.
    pub stop: Arc<AtomicBool>,
}

/// How a run goes: about four times a second.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Index into `Plan::phases`.
    pub phase: usize,
    /// Since the phase began.
    pub elapsed: Duration,
    /// Requests of this phase that were due, and how they ended.
    pub due: u64,
    pub ended: BTreeMap<Code, u64>,
    pub in_flight: usize,
    /// Due, and waiting for a connection.
    pub waiting: usize,
    /// Latencies of the good answers since the last progress, from the scheduled moment. Nanoseconds.
    pub latency: Times,
    /// How late the generator took requests up, since the last progress. Nanoseconds.
    pub lag: Times,
    /// The time that these two cover.
    pub span: Duration,
}

/// Between two progresses.
const EVERY: Duration = Duration::from_millis(250);
/// A phase begins so long after it was announced: every thread is there by then.
const LEAD: Duration = Duration::from_millis(5);
/// Reports that wait to be put together, of each thread.
const REPORTS: usize = 64;

/// Runs a plan. Blocks until it is over, or stopped.
///
/// # Errors
/// In words: a server that cannot be reached, before anything is sent; certificates that cannot be read.
pub fn run(
    plan: &Plan,
    control: &Control,
    mut progress: impl FnMut(&Progress),
) -> Result<Measured, String> {
    let peer = Peer::of(&plan.target)?;
    let base = Instant::now();
    let threads = plan.threads.max(1);
    let (report, reports) = sync_channel(REPORTS * threads);
    thread::scope(|scope| {
        let mut starts = Vec::new();
        let (made, connected) = sync_channel(threads);
        for at in 0..threads {
            let (start, begin) = sync_channel::<(usize, u64)>(1);
            starts.push(start);
            let share = plan.connections / threads + usize::from(at < plan.connections % threads);
            let (report, made, peer) = (report.clone(), made.clone(), &peer);
            let place = (at, share.max(1));
            let body = move || work(plan, peer, control, place, base, (&made, &begin, &report));
            let spawned =
                thread::Builder::new().name(format!("load-{at}")).spawn_scoped(scope, body);
            spawned.map_err(|e| format!("a thread cannot be started: {e}"))?;
        }
        drop((report, made));
        for _ in 0..threads {
            let result = connected.recv().unwrap_or(Err("a thread of the generator ended".into()));
            result.map_err(|why| unreachable_server(plan, &why))?;
        }
        conduct(plan, control, base, &starts, &reports, &mut progress)
    })
}

fn unreachable_server(plan: &Plan, why: &str) -> String {
    format!("the server at {} cannot be reached: {why}", plan.target.address)
}

type Made = SyncSender<Result<(), String>>;

/// A thread's life: connects, then runs phases until there are no more.
fn work(
    plan: &Plan,
    peer: &Peer,
    control: &Control,
    place: (usize, usize),
    base: Instant,
    (made, begin, report): (&Made, &Receiver<(usize, u64)>, &SyncSender<Report>),
) {
    // Why: a timer may be late by 50 µs otherwise. Where the system refuses, it is.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let worker = Worker::new(plan, peer, &control.stop, place, base);
    let mut worker = match worker.and_then(|mut worker| worker.connect().map(|()| worker)) {
        Ok(worker) => worker,
        Err(why) => {
            let _ = made.send(Err(why));
            return;
        }
    };
    if made.send(Ok(())).is_err() {
        return;
    }
    while let Ok((phase, origin)) = begin.recv() {
        worker.phase(phase, origin, &mut |news, wait| {
            if wait {
                // Nobody listens any more: the run has ended otherwise.
                let _ = report.send(news);
                return None;
            }
            match report.try_send(news) {
                // Kept for the next time: whoever sends does not wait for whoever counts.
                Err(TrySendError::Full(news)) => Some(news),
                _ => None,
            }
        });
    }
}

/// Leads through the phases.
fn conduct(
    plan: &Plan,
    control: &Control,
    base: Instant,
    starts: &[SyncSender<(usize, u64)>],
    reports: &Receiver<Report>,
    progress: &mut impl FnMut(&Progress),
) -> Result<Measured, String> {
    let mut measured = Measured::default();
    for phase in 0..plan.phases.len() {
        if control.stop.load(Ordering::Relaxed) {
            break;
        }
        let origin = (base.elapsed() + LEAD).as_nanos() as u64;
        for start in starts {
            start.send((phase, origin)).map_err(|_| "a thread of the generator ended")?;
        }
        let mut going = Going::new(plan, phase, starts.len());
        let mut told = Instant::now();
        while going.running > 0 {
            match reports.recv_timeout(EVERY.saturating_sub(told.elapsed())) {
                Ok(report) => going.take(report, &mut measured),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the threads of the generator ended".into());
                }
            }
            if told.elapsed() >= EVERY {
                progress(&going.tell(base, origin, told.elapsed()));
                told = Instant::now();
            }
        }
        progress(&going.tell(base, origin, told.elapsed()));
        measured.began.push(origin);
        measured.took.push(going.over.saturating_sub(origin));
    }
    measured.interrupted = control.stop.load(Ordering::Relaxed);
    measured.examples.truncate(EXAMPLES);
    Ok(measured)
}

/// A phase as its threads report it.
struct Going<'a> {
    plan: &'a Plan,
    progress: Progress,
    /// In flight and waiting, of each thread.
    threads: Vec<(usize, usize)>,
    running: usize,
    /// When the last thread was through.
    over: u64,
}

impl<'a> Going<'a> {
    fn new(plan: &'a Plan, phase: usize, threads: usize) -> Going<'a> {
        let progress = Progress { phase, ..Progress::default() };
        Going { plan, progress, threads: vec![(0, 0); threads], running: threads, over: 0 }
    }

    fn take(&mut self, report: Report, measured: &mut Measured) {
        let Report { phase, notes, examples, thread, in_flight, waiting, over } = report;
        self.threads[thread] = (in_flight, waiting);
        if let Some(over) = over {
            self.running -= 1;
            self.over = self.over.max(over);
        }
        measured.examples.extend(examples);
        let counts = !self.plan.phases[phase].warm_up;
        for ((tenth, variant), raw) in notes {
            let cell = raw.cell();
            let progress = &mut self.progress;
            progress.due += cell.due;
            for (code, n) in &cell.codes {
                *progress.ended.entry(code.clone()).or_default() += n;
            }
            progress.latency.merge(&cell.latency);
            progress.lag.merge(&cell.lag);
            if counts {
                let stretch = measured.stretches.entry((phase, tenth)).or_default();
                stretch.entry(variant).or_default().merge(&cell);
            }
        }
    }

    fn tell(&mut self, base: Instant, origin: u64, span: Duration) -> Progress {
        let (in_flight, waiting) =
            self.threads.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let elapsed = base.elapsed().saturating_sub(Duration::from_nanos(origin));
        let told = Progress { elapsed, in_flight, waiting, span, ..self.progress.clone() };
        (self.progress.latency, self.progress.lag) = (Times::default(), Times::default());
        told
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
