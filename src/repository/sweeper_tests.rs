//! Every order in which requests, the publication of versions and the sweeper can meet, tried out one by one, on the table and the
//! sweeper as they are.

use std::{collections::BTreeMap, sync::Weak};

use arc_swap::ArcSwap;

use super::*;
use crate::{
    repository::{
        fake,
        table::{Model, SharedTable, State},
    },
    types::every_path::EveryPath,
};

const MODEL: &str = "digits";

fn table(version: &Arc<Version>) -> Arc<Table> {
    let versions = BTreeMap::from([(version.number, State::Ready(version.clone()))]);
    let current = Some(version.clone());
    let model = Model { name: MODEL.into(), versions, current, ..Model::default() };
    let mut table = Table::default();
    table.models.insert(MODEL.into(), Arc::new(model));
    Arc::new(table)
}

/// What all share, and what was seen of it.
struct World {
    table: SharedTable,
    sweeper: Arc<Sweeper>,
    versions: Vec<Weak<Version>>,
    freed: Vec<u64>,
}

impl World {
    /// Also says who is told of what was freed.
    fn sweep(&mut self, requests: &[Request]) -> Went {
        let went = self.sweeper.pass();
        for freed in self.sweeper.freed() {
            let holds = |request: &Request| {
                request.version.as_ref().is_some_and(|version| version.number == freed.number)
            };
            assert!(!requests.iter().any(holds), "version {} was in use", freed.number);
            self.freed.push(freed.number);
        }
        went
    }
}

/// One request: takes the table, takes its version and lets go of the table, answers.
#[derive(Default)]
struct Request {
    table: Option<Arc<Table>>,
    version: Option<Arc<Version>>,
    answered: Option<u64>,
}

impl Request {
    fn step(&mut self, world: &World) {
        match (self.table.take(), self.version.take()) {
            (Some(table), _) => {
                let found = table.resolve(MODEL, "").expect("a version serves at every moment");
                self.version = Some(found);
            }
            (None, Some(version)) => self.answered = Some(version.number),
            (None, None) => self.table = Some(world.table.load_full()),
        }
    }
}

/// Brings the next versions out, as the keeper does: each line of its `publish` is a step.
struct Publisher {
    published: u64,
    swaps: u64,
    /// What was replaced: out of the table, not yet left to the sweeper.
    before: Option<Arc<Table>>,
    gone: Option<Arc<Version>>,
}

impl Publisher {
    fn can_step(&self) -> bool {
        self.published < self.swaps || self.before.is_some() || self.gone.is_some()
    }

    fn step(&mut self, world: &mut World) {
        if let Some(before) = self.before.take() {
            world.sweeper.retire(before);
        } else if let Some(gone) = self.gone.take() {
            world.sweeper.take(vec![gone]);
        } else {
            self.published += 1;
            let next = fake::version(MODEL, self.published + 1);
            world.versions.push(Arc::downgrade(&next));
            let before = world.table.swap(table(&next));
            self.gone = before.models[MODEL].current.clone();
            self.before = Some(before);
        }
    }
}

/// Walks one path; gives by which versions the requests were answered.
fn walk(path: &mut EveryPath, callers: usize, swaps: u64) -> Vec<u64> {
    let first = fake::version(MODEL, 1);
    let versions = vec![Arc::downgrade(&first)];
    let table = Arc::new(ArcSwap::new(table(&first)));
    drop(first);
    let sweeper = Sweeper::new().0;
    let mut world = World { table, sweeper, versions, freed: Vec::new() };
    let mut requests: Vec<Request> = (0..callers).map(|_| Request::default()).collect();
    let mut publisher = Publisher { published: 0, swaps, before: None, gone: None };
    let (publishes, sweeps) = (callers, callers + 1);
    // The sweeper may look at any time; more often than this before the end says nothing new.
    let mut looks = 2;
    loop {
        let mut able: Vec<usize> =
            (0..callers).filter(|n| requests[*n].answered.is_none()).collect();
        able.extend(publisher.can_step().then_some(publishes));
        if able.is_empty() {
            break;
        }
        able.extend((looks > 0).then_some(sweeps));
        let chosen = able[path.choose(able.len())];
        match requests.get_mut(chosen) {
            Some(request) => request.step(&world),
            None if chosen == publishes => publisher.step(&mut world),
            None => {
                looks -= 1;
                world.sweep(&requests);
            }
        }
    }
    while world.sweep(&requests) != Went::Nothing {}
    world.freed.sort_unstable();
    let gone: Vec<u64> = (1..=swaps).collect();
    assert_eq!(world.freed, gone, "each version that went is freed, once: {path:?}");
    let alive = world.versions.iter().filter(|version| version.strong_count() > 0);
    assert_eq!(alive.count(), 1, "{path:?}");
    requests.iter().filter_map(|request| request.answered).collect()
}

/// Walks every path. Gives how many there were, and how many requests each version answered.
fn explore(callers: usize, swaps: u64) -> (usize, BTreeMap<u64, usize>) {
    let (mut path, mut paths, mut answered) = (EveryPath::default(), 0, BTreeMap::new());
    loop {
        for version in walk(&mut path, callers, swaps) {
            *answered.entry(version).or_default() += 1;
        }
        paths += 1;
        if !path.advance() {
            return (paths, answered);
        }
    }
}

#[test]
fn a_version_serves_at_every_moment_and_each_that_goes_is_freed_once_after_its_last_answer() {
    for (callers, swaps, least) in [(2, 1, 10_000), (1, 2, 1000)] {
        let (paths, answered) = explore(callers, swaps);
        assert!(paths > least, "{paths} paths");
        assert_eq!(answered.len() as u64, swaps + 1, "each version answered: {answered:?}");
    }
}
