//! Executors of devices other than the CPU: a lane for each, from the first version that runs there until the last.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Arc, Weak},
    thread,
};

use parking_lot::Mutex;

use super::{executor, pool::Pool};

/// Executors of one device: while one waits for the device, the other stacks the next batch.
const EXECUTORS: usize = 2;

/// The devices in use.
#[derive(Default)]
pub struct Devices(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    lanes: HashMap<String, Weak<DeviceLane>>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Queues and executors of one device. When the last version that holds it goes, its executors end.
pub struct DeviceLane {
    pub(super) pool: Arc<Pool>,
}

impl Drop for DeviceLane {
    fn drop(&mut self) {
        // Not joined: this may be one of its own executors, which let go of a version's last request.
        self.pool.close();
    }
}

impl Devices {
    /// The lane of this device, started where there is none.
    pub fn lane(&self, device: &str) -> io::Result<Arc<DeviceLane>> {
        let mut inner = self.0.lock();
        if let Some(lane) = inner.lanes.get(device).and_then(Weak::upgrade) {
            return Ok(lane);
        }
        inner.lanes.retain(|_, lane| lane.strong_count() > 0);
        inner.threads.retain(|thread| !thread.is_finished());
        let lane = Arc::new(DeviceLane { pool: Pool::of_device(EXECUTORS) });
        let threads = executor::start_main(&lane.pool, &format!("onnxd-{device}"))?;
        inner.threads.extend(threads);
        inner.lanes.insert(device.to_owned(), Arc::downgrade(&lane));
        Ok(lane)
    }

    /// Lets every device's executors finish what waits, and joins them.
    pub fn stop(&self) {
        let Inner { lanes, threads } = mem::take(&mut *self.0.lock());
        for lane in lanes.values().filter_map(Weak::upgrade) {
            lane.pool.close();
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Devices that a version runs on.
    pub fn living(&self) -> usize {
        self.0.lock().lanes.values().filter(|lane| lane.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;

    use super::*;
    use crate::{
        batcher::{
            cost::CostModel,
            executor::Executors,
            mode::{Choice, Execution},
            options::BatchOptions,
            pool::Threads,
            reply::Awaited,
            served::{Request, Served, ServedParts, Sessions},
        },
        runtime::{
            echo::{Echo, EchoSession, rows_of},
            session::Session,
        },
        telemetry::{clock::now, stats::VersionStats},
        types::{
            datatype::Datatype,
            tensor::{Dims, Tensor},
        },
    };

    /// The run hangs until its client leaves.
    const HANGS: f32 = 16.0;

    struct Version {
        session: Arc<EchoSession>,
        served: Arc<Served>,
    }

    fn version(pool: &Arc<Pool>, device: Option<Arc<DeviceLane>>) -> Version {
        let echo = Echo { hang_on: Some(HANGS), ..Echo::default() };
        let session = Arc::new(EchoSession::new(rows_of(Datatype::Fp32, 1), echo));
        let served = Served::new(ServedParts {
            model: "echo".into(),
            version: "1".into(),
            signature: session.signature().clone(),
            sessions: Sessions::new(session.clone(), 0),
            choice: Choice {
                execution: Execution::Single,
                gather: false,
                turn_rows: 0,
                reserve: false,
                reason: String::new(),
            },
            options: BatchOptions::default(),
            device,
            threads: 1,
            padding: None,
            cost: Arc::new(CostModel::new()),
            stats: Arc::new(VersionStats::new("device-tests", "1")),
            pool: pool.clone(),
            on_panic: None,
            on_wanted: None,
        });
        Version { session, served }
    }

    fn submit(version: &Version, value: f32) -> Awaited {
        let data = Bytes::copy_from_slice(&value.to_le_bytes());
        let tensor = Tensor { datatype: Datatype::Fp32, dims: Dims::from_slice(&[1, 1]), data };
        let request = Request {
            inputs: [Some(tensor)].into_iter().collect(),
            rows: 1,
            bytes: 4,
            bucket: 0,
            deadline: None,
            priority: 0,
            favoured: false,
        };
        version.served.submit(request, now()).expect("taken")
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_busy_device_holds_no_executor_of_the_cpu_and_its_lane_ends_with_its_last_version() {
        let pool = Pool::new(Threads { network: 0, executors: 1 });
        let executors = Executors::start(&pool).unwrap();
        let devices = Devices::default();
        let on = |device: &str| version(&pool, Some(devices.lane(device).unwrap()));
        let (first, second, other) = (on("npu:0"), on("npu:0"), on("npu:1"));
        assert_eq!(devices.living(), 2, "two versions share their device's lane");

        let hung: Vec<Awaited> = (0..6).map(|_| submit(&first, HANGS)).collect();
        until("both executors of the device are held", || {
            first.session.most_at_once() == EXECUTORS
        });
        let waits = submit(&second, 1.0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for elsewhere in [&version(&pool, None), &other] {
            let reply = runtime.block_on(submit(elsewhere, 2.0));
            assert!(reply.outputs.is_ok(), "neither the CPU nor another device waits for it");
        }
        assert!(second.session.runs().is_empty(), "who shares the device does");
        drop(hung);
        assert!(runtime.block_on(waits).outputs.is_ok());
        assert_eq!(first.session.most_at_once(), EXECUTORS, "and never more of them");

        drop((first, second));
        until("the lane has ended", || devices.living() == 1);
        drop(other);
        // Joins: would hang if an executor went on without a lane.
        devices.stop();
        assert_eq!(devices.living(), 0);
        executors.stop();
    }
}
