//! The executor threads: each pulls the batch that is due next and runs it.

use std::{io, sync::Arc, thread};

use super::{
    assemble::Scratch,
    pool::{Pool, RESERVE_COST, Work},
    reply::{Reply, Spent},
    run,
    schedule::Lane,
    served::Job,
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
                _ => ("onnxd-reserve".to_owned(), Lane::Reserve(RESERVE_COST)),
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
    let mut expired: Vec<Job> = Vec::new();
    loop {
        let work = pool.take(lane, &mut expired);
        for job in expired.drain(..) {
            job.served.stats.queued(-1);
            job.replier.send(Reply { outputs: Err(run::expired()), spent: Spent::default() });
        }
        match work {
            Work::Closed => return,
            Work::Nothing => {}
            Work::Run(_, mut members) => {
                let Some(first) = members.first() else { continue };
                let served = first.item.served.clone();
                let rows = members.iter().map(|m| m.rows).sum();
                served.stats.queued(-i64::try_from(members.len()).unwrap_or(i64::MAX));
                let took = run::run(&mut scratch, slot, &mut members);
                pool.finished(&served, rows, took);
                pool.pass_on();
            }
        }
    }
}
