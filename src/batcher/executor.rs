//! The executor threads: each pulls the batch that is due next and runs it.

use std::{io, sync::Arc, thread};

use super::{
    assemble::Scratch,
    pool::{self, Pool, RESERVE_COST, Work},
    queue::Taken,
    run,
    schedule::Lane,
};

/// The running executors.
pub struct Executors {
    pool: Arc<Pool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Executors {
    /// Starts the pool's executors and its reserve.
    pub fn start(pool: &Arc<Pool>) -> io::Result<Executors> {
        let mut threads = start_main(pool, "onnxd-exec")?;
        let lane = Lane::Reserve { limit: RESERVE_COST };
        threads.push(spawn(pool, "onnxd-reserve".to_owned(), threads.len(), lane)?);
        Ok(Executors { pool: pool.clone(), threads })
    }

    /// Lets the executors finish what waits and joins them. A thread that is still in a run after the process's patience
    /// is left to the process's end: the caller bounds the wait.
    pub fn stop(self) {
        self.pool.close();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// Starts the executors of a pool's main lane, by this name and a number.
pub(super) fn start_main(pool: &Arc<Pool>, name: &str) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let started = (0..pool.threads.executors)
        .map(|index| spawn(pool, format!("{name}-{index}"), index, Lane::Main));
    started.collect()
}

fn spawn(
    pool: &Arc<Pool>,
    name: String,
    index: usize,
    lane: Lane,
) -> io::Result<thread::JoinHandle<()>> {
    let (pool, slot) = (pool.clone(), pool.threads.network + index);
    thread::Builder::new().name(name).spawn(move || work(&pool, slot, lane))
}

fn work(pool: &Pool, slot: usize, lane: Lane) {
    let mut scratch = Scratch::default();
    let mut taken = Taken::default();
    loop {
        let work = pool.take(lane, &mut taken);
        pool::answer_gone(&mut taken.gone);
        match work {
            Work::Closed => return,
            Work::Nothing => {}
            Work::Run(ticket) => {
                let count = i64::try_from(taken.members.len()).unwrap_or(i64::MAX);
                if let Some(first) = taken.members.first() {
                    first.item.served.stats.queued(-count);
                }
                let took = run::run(&mut scratch, slot, &mut taken.members, true);
                scratch.trim();
                pool.finished(ticket, took);
            }
        }
    }
}
