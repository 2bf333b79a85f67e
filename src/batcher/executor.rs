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
        let count = pool.threads.executors;
        let mut threads = Vec::with_capacity(count + 1);
        for index in 0..=count {
            let (name, lane) = match index {
                i if i < count => (format!("onnxd-exec-{index}"), Lane::Main),
                _ => ("onnxd-reserve".to_owned(), Lane::Reserve { limit: RESERVE_COST }),
            };
            let (pool, slot) = (pool.clone(), pool.threads.network + index);
            let thread = thread::Builder::new().name(name);
            threads.push(thread.spawn(move || work(&pool, slot, lane))?);
        }
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
