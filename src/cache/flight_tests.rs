//! Every order in which requests, a run and its landing can meet, tried out one by one, on the flights as they are.
//!
//! What one thread does between two locks is a step. A path is a list of choices of who takes the next one; every path is
//! walked from the start, until none is left. The steps of `land` are taken apart, as other threads may come between.

use std::collections::VecDeque;

use super::*;
use crate::{
    batcher::reply::Spent,
    cache::options::CacheOptions,
    runtime::session::Cancel,
    types::{
        datatype::Datatype,
        error::Error,
        every_path::EveryPath,
        tensor::{Dims, Tensor},
    },
};

const KEY: Key = 42;

fn outputs() -> Outputs {
    let tensor =
        Tensor { datatype: Datatype::Uint8, dims: Dims::from_slice(&[1]), data: vec![9].into() };
    [tensor].into_iter().collect()
}

struct World {
    store: Arc<Store>,
    stats: Arc<VersionStats>,
    queue: VecDeque<Arc<Flight>>,
    /// Runs that were begun.
    runs: usize,
    /// Requests that were told to ask for a run of their own.
    again: usize,
    /// Whether the next run to be submitted is refused.
    refuse: bool,
    /// Whether answers are kept.
    keeps: bool,
}

impl World {
    fn new() -> World {
        World {
            store: Arc::new(Store::new(CacheOptions { max_bytes: 1 << 20, ttl_ms: 0 })),
            stats: Arc::new(VersionStats::of(Arc::default())),
            queue: VecDeque::new(),
            runs: 0,
            again: 0,
            refuse: false,
            keeps: true,
        }
    }
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Failed(Code),
    Refused,
    Left,
}

/// One request, as `ask` has it.
struct Asker {
    glance: Option<u64>,
    looked: bool,
    seat: Option<Seat>,
    /// The run that it leads is being refused; nobody joins it any more, or still.
    refused: Option<(Seat, bool)>,
    leads: bool,
    leaves: bool,
    ticket: Ticket,
    end: Option<End>,
}

impl Asker {
    fn new(leaves: bool) -> Asker {
        let ticket = Ticket { deadline: None, priority: 1 };
        Asker {
            glance: None,
            looked: false,
            seat: None,
            refused: None,
            leads: false,
            leaves,
            ticket,
            end: None,
        }
    }

    fn can_step(&self) -> bool {
        let waits =
            self.seat.as_ref().is_some_and(|seat| seat.flight.state.lock().outcome.is_none());
        self.end.is_none() && (!waits || self.leaves)
    }

    fn step(&mut self, world: &mut World) {
        let flights = &world.store.flights;
        if let Some((seat, closed)) = &mut self.refused {
            if *closed {
                seat.flight.deliver(None, true);
                self.refused = None;
                self.end = Some(End::Refused);
            } else {
                flights.remove(&seat.flight);
                *closed = true;
            }
            return;
        }
        match (self.glance, self.looked, &mut self.seat) {
            (None, _, _) => self.glance = Some(flights.glance(KEY)),
            (Some(_), false, _) => {
                self.looked = true;
                if world.store.get(KEY).is_some() {
                    self.end = Some(End::Answered);
                }
            }
            (Some(glance), true, None) => {
                let stats = &world.stats;
                match flights.board(&world.store, stats, KEY, glance, self.ticket) {
                    Boarded::Kept(_) => self.end = Some(End::Answered),
                    Boarded::Joined(seat) => self.seat = Some(seat),
                    Boarded::Leads(seat) => {
                        self.leads = true;
                        match mem::take(&mut world.refuse) {
                            true => self.refused = Some((seat, false)),
                            false => {
                                world.queue.push_back(seat.flight.clone());
                                self.seat = Some(seat);
                            }
                        }
                    }
                }
            }
            (Some(_), true, Some(seat)) => {
                let mut context = Context::from_waker(Waker::noop());
                self.end = Some(match seat.poll(&mut context) {
                    Poll::Pending => End::Left,
                    Poll::Ready(Some(reply)) => match reply.outputs {
                        Ok(given) => {
                            assert_eq!(given[0].data, outputs()[0].data);
                            End::Answered
                        }
                        Err(error) => End::Failed(error.code),
                    },
                    Poll::Ready(None) => {
                        assert!(!self.leads, "who leads has nobody to ask again");
                        world.runs += 1;
                        world.again += 1;
                        End::Answered
                    }
                });
                self.seat = None;
            }
        }
    }
}

/// One executor.
#[derive(Default)]
struct Runner {
    flight: Option<Arc<Flight>>,
    watch: Option<Arc<RunWatch>>,
    outcome: Option<Outcome>,
    landing: Landing,
}

/// What of its landing is next.
#[derive(Clone, Copy, Default)]
enum Landing {
    #[default]
    Judge,
    Deliver {
        closed: bool,
    },
    Keep,
    Remove {
        kept: bool,
    },
}

impl Runner {
    fn can_step(&self, world: &World) -> bool {
        self.flight.is_some() || !world.queue.is_empty()
    }

    fn step(&mut self, world: &mut World) {
        let Some(flight) = self.flight.clone() else {
            let Some(flight) = world.queue.pop_front() else { return };
            if !flight.abandoned() {
                world.runs += 1;
                let watch = RunWatch::new(1);
                flight.begin(&watch);
                self.watch = Some(watch);
            }
            self.flight = Some(flight);
            return;
        };
        let keeps = world.keeps;
        self.landing = match self.landing {
            Landing::Judge => {
                let cancelled = self.watch.take().is_none_or(|watch| Cancel::fired(&watch.cancel));
                let outputs = match cancelled {
                    true => Err(Error::new(Code::Cancelled, "nobody waits")),
                    false => Ok(outputs()),
                };
                self.outcome = Some(Some(Reply { outputs, spent: Spent::default() }));
                match keeps && !cancelled {
                    true => Landing::Deliver { closed: false },
                    false => Landing::Remove { kept: false },
                }
            }
            Landing::Deliver { closed } => {
                flight.deliver(self.outcome.clone().flatten(), closed);
                match closed {
                    true => {
                        *self = Runner::default();
                        return;
                    }
                    false => Landing::Keep,
                }
            }
            Landing::Keep => {
                flight.keep(&outputs());
                Landing::Remove { kept: true }
            }
            Landing::Remove { kept } => {
                world.store.flights.remove(&flight);
                match kept {
                    true => {
                        *self = Runner::default();
                        return;
                    }
                    false => Landing::Deliver { closed: true },
                }
            }
        };
    }
}

/// Walks every path; `start` sets one up, `judge` says what must hold at its end. Returns how many there were.
fn explore(start: impl Fn() -> (World, Vec<Asker>), judge: impl Fn(&World, &[End])) -> usize {
    let (mut path, mut paths) = (EveryPath::default(), 0);
    loop {
        let (mut world, mut askers) = start();
        let mut runner = Runner::default();
        loop {
            let mut able: Vec<usize> =
                (0..askers.len()).filter(|asker| askers[*asker].can_step()).collect();
            if runner.can_step(&world) {
                able.push(askers.len());
            }
            if able.is_empty() {
                break;
            }
            let chosen = able[path.choose(able.len())];
            match askers.get_mut(chosen) {
                Some(asker) => asker.step(&mut world),
                None => runner.step(&mut world),
            }
        }
        let ends: Vec<End> =
            askers.iter().map(|asker| asker.end.expect("a request waits for ever")).collect();
        assert_eq!(world.store.flights.flying(), 0, "a flight is left: {path:?}");
        judge(&world, &ends);
        paths += 1;
        if !path.advance() {
            return paths;
        }
    }
}

/// A request for each of these: how many steps it has taken before the others begin, and whether it may leave.
fn start(world: World, requests: &[(usize, bool)]) -> (World, Vec<Asker>) {
    let mut world = world;
    let asker = |(steps, leaves): &(usize, bool)| {
        let mut asker = Asker::new(*leaves);
        (0..*steps).for_each(|_| asker.step(&mut world));
        asker
    };
    let askers = requests.iter().map(asker).collect();
    (world, askers)
}

/// Has asked the store, which had nothing.
const LOOKED: usize = 2;
/// Has started the run.
const LEADS: usize = 3;

#[test]
fn equal_requests_run_once_in_whatever_order_they_meet() {
    for requests in [&[(0, false), (0, false)][..], &[(LEADS, false), (1, false), (1, false)]] {
        let paths = explore(
            || start(World::new(), requests),
            |world, ends| {
                assert!(ends.iter().all(|end| *end == End::Answered), "{ends:?}");
                assert_eq!(world.runs, 1);
                assert!(world.store.get(KEY).is_some());
            },
        );
        assert!(paths > 100, "{paths} paths");
    }
}

#[test]
fn whoever_leaves_fails_nobody_else() {
    let two_join = [(LEADS, true), (LOOKED, false), (LOOKED, false)];
    for requests in [&two_join[..], &[(0, true), (0, false)]] {
        let paths = explore(
            || start(World::new(), requests),
            |world, ends| {
                assert!(matches!(ends[0], End::Left | End::Answered), "{ends:?}");
                assert!(ends[1..].iter().all(|end| *end == End::Answered), "{ends:?}");
                assert!(world.runs <= 2, "the one that all left, and the next");
            },
        );
        assert!(paths > 100, "{paths} paths");
    }
}

#[test]
fn what_is_not_kept_is_given_to_all_who_joined() {
    let (leads, joins) = ((LEADS, false), (LOOKED, false));
    for requests in [&[(0, false), (0, false)][..], &[leads, joins, joins], &[(0, true), joins]] {
        let paths = explore(
            || start(World { keeps: false, ..World::new() }, requests),
            |world, ends| {
                let answered = ends.iter().filter(|end| **end == End::Answered).count();
                let left = ends.iter().filter(|end| **end == End::Left).count();
                assert_eq!(answered + left, ends.len(), "{ends:?}");
                assert!(left <= requests.iter().filter(|(_, leaves)| *leaves).count());
                assert!((1..=ends.len()).contains(&world.runs) || left > 0, "{} runs", world.runs);
                assert_eq!(world.again, 0, "whoever joined is answered");
                assert!(world.store.get(KEY).is_none());
            },
        );
        assert!(paths > 30, "{paths} paths");
    }
}

#[test]
fn all_may_leave() {
    explore(
        || start(World::new(), &[(LOOKED, true), (LOOKED, true)]),
        |_, ends| assert!(ends.iter().all(|end| matches!(end, End::Left | End::Answered))),
    );
}

#[test]
fn a_run_that_is_refused_is_refused_to_its_first_request_alone() {
    explore(
        || {
            let world = World { refuse: true, ..World::new() };
            start(world, &[(LOOKED, false), (LOOKED, false), (LOOKED, false)])
        },
        |_, ends| {
            let refused = ends.iter().filter(|end| **end == End::Refused).count();
            let answered = ends.iter().filter(|end| **end == End::Answered).count();
            assert_eq!((refused, answered), (1, 2), "{ends:?}");
        },
    );
}

#[test]
fn deadlines_are_each_ones_own() {
    let world = World::new();
    let flights = &world.store.flights;
    let board = |deadline: Option<u64>, priority| {
        let ticket = Ticket { deadline: deadline.map(Tick), priority };
        flights.board(&world.store, &world.stats, KEY, flights.glance(KEY), ticket)
    };
    let Boarded::Leads(mut first) = board(Some(10), 1) else { panic!("nobody else is there") };
    assert_eq!(first.flight.latest(), Some(Tick(10)));
    let Boarded::Joined(mut second) = board(Some(20), 1) else { panic!("a run is under way") };
    assert_eq!(first.flight.latest(), Some(Tick(20)), "it runs for the second, too");
    // A more urgent one is not held up by the place that the first has in the queue.
    assert!(matches!(board(Some(10), 2), Boarded::Leads(_)));
    let late = Error::new(Code::DeadlineExceeded, "late");
    let flight = first.flight.clone();
    flight.land(Some(Reply { outputs: Err(late), spent: Spent::default() }));
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |seat: &mut Seat| seat.poll(&mut context);
    assert!(matches!(poll(&mut first), Poll::Ready(Some(_))));
    assert!(matches!(poll(&mut second), Poll::Ready(None)));
}
