//! Servers in virtual time, for tests: what a run against them would measure, without a clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    arrivals::Schedule,
    plan::{Arrivals, Until},
    record::{self, Cell, Code, Measured, Times},
    summary::{Frame, PhaseFrame, VariantFrame},
};

/// How long a server works on one request, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    Fixed(f64),
    Exponential(f64),
}

/// `servers` that take work from one queue in turn.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub servers: usize,
    pub work: Work,
    /// More than so many in the system are shed.
    pub room: usize,
    /// Every so often (seconds), everything stands still for a while (seconds); 0 for never.
    pub stall_every: f64,
    pub stall: f64,
}

/// One queue, one server, exponential service of this mean: the p-th percentile of the time in system is
/// -ln(1 - p) / (1/mean - rate).
pub fn mm1(mean: f64) -> Server {
    Server {
        servers: 1,
        work: Work::Exponential(mean),
        room: usize::MAX,
        stall_every: 0.0,
        stall: 0.0,
    }
}

/// One queue, `servers` servers, service of always the same length.
pub fn mdc(servers: usize, length: f64) -> Server {
    Server { servers, work: Work::Fixed(length), ..mm1(length) }
}

/// A number from 0 to 1, 1 excluded.
pub fn uniform(rng: &mut Pcg64Mcg) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

impl Server {
    /// What a run of `seconds` at `rate` measures; one phase, one variant.
    pub fn run(&self, rate: f64, seconds: f64, seed: u64) -> Measured {
        let until = Until { duration: Some(Duration::from_secs_f64(seconds)), requests: None };
        self.serve(Schedule::new(&Arrivals::Poisson { rate }, &until, seed), seed)
    }

    /// What the server makes of requests that are due at these moments.
    pub fn serve(&self, due: impl Iterator<Item = u64>, seed: u64) -> Measured {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x5eed);
        let mut free: BinaryHeap<Reverse<u64>> = (0..self.servers).map(|_| Reverse(0)).collect();
        let mut leaving: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        let mut stretches: BTreeMap<u64, (Vec<u64>, u64, u64)> = BTreeMap::new();
        let mut end = 0;
        for due in due {
            while leaving.peek().is_some_and(|Reverse(at)| *at <= due) {
                leaving.pop();
            }
            let stretch = stretches.entry(due / 100_000_000).or_default();
            stretch.2 += 1;
            if leaving.len() >= self.room {
                stretch.1 += 1;
                continue;
            }
            let Reverse(idle) = free.pop().expect("there is a server");
            let work = match self.work {
                Work::Fixed(length) => length,
                Work::Exponential(mean) => -mean * (1.0 - uniform(&mut rng)).ln(),
            };
            let done = self.past_stalls(idle.max(due)) + work as u64;
            free.push(Reverse(done));
            leaving.push(Reverse(done));
            stretch.0.push(done - due);
            end = end.max(done);
        }
        let histogram = record::histogram();
        let bucket = |at: u64| (histogram.lowest_equivalent(at), 1);
        let cells = |(tenth, (latencies, shed, due)): (u64, (Vec<u64>, u64, u64))| {
            let latency: Times = latencies.into_iter().map(bucket).collect();
            ((0, tenth), BTreeMap::from([(0, cell(latency, shed, due))]))
        };
        Measured {
            took: vec![end],
            stretches: stretches.into_iter().map(cells).collect(),
            ..Measured::default()
        }
    }

    /// When work can begin that would begin at `at`.
    fn past_stalls(&self, at: u64) -> u64 {
        let every = (self.stall_every * 1e9) as u64;
        match at.checked_rem(every) {
            // A stall is at the end of each stretch, so that a short run has one too.
            Some(into) if every - into < (self.stall * 1e9) as u64 => at - into + every,
            _ => at,
        }
    }
}

fn cell(latency: Times, shed: u64, due: u64) -> Cell {
    let mut codes = BTreeMap::from([(Code::Ok, latency.count())]);
    if shed > 0 {
        codes.insert(Code::Grpc(8), shed);
    }
    Cell { service: latency.clone(), latency, codes, due, ..Cell::default() }
}

/// The frame of such a run.
pub fn frame(seconds: f64) -> Frame {
    Frame {
        phases: vec![PhaseFrame {
            name: "steady".into(),
            planned_s: Some(seconds),
            ..PhaseFrame::default()
        }],
        variants: vec![VariantFrame { name: "m".into(), model: "m".into(), rows: 1 }],
    }
}
