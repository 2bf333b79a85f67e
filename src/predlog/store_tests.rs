//! The whole pipe in one process: from the end of a request to Parquet files, over disks that refuse, hang and lose power.

use std::{collections::BTreeSet, fs, io::Write as _, path::PathBuf};

use arrow_array::{RecordBatch, cast::AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::*;
use crate::{
    predlog::{
        blobs,
        capture::{Ending, Offered},
        footer::{self, LogSchema},
        log_files::{self, Rows},
        options::{Large, Mode},
        reader::{Filter, Log},
        testing::{self, Frail, Trap, classifier, floats, tensor},
    },
    telemetry::{clock::now, predictions::Reason},
    types::{
        datatype::Datatype,
        request::{InferRequest, OutputTensor},
    },
};

struct Pipe {
    home: TempDir,
    options: StoreOptions,
    disk: Frail,
}

const LIMIT: Duration = Duration::from_secs(60);

impl Pipe {
    fn new() -> Pipe {
        let home = tempfile::tempdir().expect("a temporary directory");
        let options = testing::store(home.path());
        Pipe { home, options, disk: Frail::default() }
    }

    fn start(&self) -> Logs {
        Logs::start_on(&self.options, Arc::new(self.disk.clone())).expect("started")
    }

    /// Every row of every file.
    fn rows(&self) -> Vec<RecordBatch> {
        let read = |path: PathBuf| {
            let file = fs::File::open(&path).expect("a file");
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
            let metadata = builder.metadata().file_metadata().key_value_metadata();
            let footer = metadata.expect("metadata").iter().find(|pair| pair.key == footer::KEY);
            let footer = footer.and_then(|pair| pair.value.as_deref()).expect("a footer");
            let footer = LogSchema::parse(footer).expect("readable");
            assert_eq!((&*footer.model, &*footer.version), ("m", "1"));
            builder.build().expect("a reader").map(|batch| batch.expect("rows")).collect()
        };
        let files: Vec<Vec<RecordBatch>> = self.files().into_iter().map(read).collect();
        files.concat()
    }

    fn files(&self) -> Vec<PathBuf> {
        let log = Log { root: self.options.dir.clone() };
        let files = log.files(&Filter::default()).expect("listed");
        files.into_iter().map(|file| file.path).collect()
    }

    fn request_ids(&self) -> Vec<String> {
        let of = |batch: &RecordBatch| -> Vec<String> {
            let column = batch.column_by_name("request_id").expect("a column");
            column.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
        };
        self.rows().iter().flat_map(of).collect()
    }
}

use crate::predlog::layout;

fn attach(logs: &Logs, options: LogOptions) -> Arc<VersionLog> {
    let options = LogOptions { enabled: true, ..options };
    let subjected = Subjected {
        model: &"m".into(),
        version: &"1".into(),
        digest: "d",
        signature: &classifier(),
        metadata: &BTreeMap::new(),
        device: "cpu".into(),
        reference: None,
    };
    logs.attach(subjected, &options).expect("attached").expect("on")
}

/// A request that was answered.
fn offer(log: &Arc<VersionLog>, id: &str) -> Offered {
    offer_of(log, id, 1.0)
}

/// The same, of another first feature.
fn offer_of(log: &Arc<VersionLog>, id: &str, feature: f32) -> Offered {
    let request = InferRequest { id: id.into(), ..InferRequest::default() };
    let mut entry = log.begin(&request, now(), None).expect("a row");
    let x = tensor(Datatype::Fp32, &[1, 3], floats(&[feature, 2.0, 3.0]));
    entry.bound(&[Some(x)], 1);
    let label = tensor(Datatype::Int64, &[1], 1i64.to_le_bytes().into());
    let scores = tensor(Datatype::Fp32, &[1, 2], floats(&[0.25, 0.75]));
    let outputs = [label, scores].into_iter().enumerate();
    let outputs: Vec<OutputTensor> =
        outputs.map(|(index, tensor)| OutputTensor { index, binary: false, tensor }).collect();
    entry.answered(&outputs);
    entry.end(Ending { batch: Some((1, 1)), ..Ending::default() })
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "it did not come to that");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn rows_become_files_that_say_what_they_hold() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let log = attach(&logs, LogOptions::default());
    for n in 0..1000 {
        offer(&log, &format!("r{n}"));
    }
    assert!(logs.close(LIMIT));
    let account = log.model.ring.account();
    assert_eq!((account.received, account.written, account.in_flight), (1000, 1000, 0));
    let ids: BTreeSet<String> = pipe.request_ids().into_iter().collect();
    assert_eq!(ids.len(), 1000);
    for batch in pipe.rows() {
        let times = batch.column_by_name("ts").expect("times");
        let times = times.as_primitive::<arrow_array::types::TimestampMicrosecondType>();
        assert!(times.values().is_sorted());
    }
    let file = &pipe.files()[0];
    assert!(pipe.disk.holds(&pipe.options.dir, file), "its name may go with the power");
    let text = file.display().to_string();
    assert!(
        text.contains("/log/v1/model=m/version=1/date=20") && text.contains("/hour="),
        "{text}"
    );
    assert!(
        !layout::wal(&pipe.options.dir)
            .join("x")
            .parent()
            .is_some_and(|wal| { fs::read_dir(wal).is_ok_and(|mut left| left.next().is_some()) })
    );
    // Beside it lies the list of the files.
    let mut manifests = fs::read_dir(layout::manifests(&pipe.options.dir)).expect("manifests");
    let manifest = manifests.find_map(|entry| {
        let path = entry.expect("readable").path();
        path.extension().is_some_and(|ending| ending == "json").then_some(path)
    });
    let manifest = fs::read(manifest.expect("one")).expect("read");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["models"]["m"]["received"], 1000);
    assert_eq!(
        (&manifest["models"]["m"]["in_files"], &manifest["closed"]),
        (&1000.into(), &true.into())
    );
    drop(pipe.home);
}

#[test]
fn a_disk_that_refuses_costs_rows_that_are_counted_and_then_it_goes_on() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let log = attach(&logs, LogOptions::default());
    let account = || log.model.ring.account();
    offer(&log, "before");
    wait_for(|| account().written == 1);
    pipe.disk.refuse(true);
    offer(&log, "lost");
    wait_for(|| account().dropped[Reason::Disk as usize] == 1);
    assert!(logs.shared.numbers.unwritable.load(Ordering::Relaxed));
    pipe.disk.refuse(false);
    offer(&log, "after");
    wait_for(|| account().written == 2);
    assert!(!logs.shared.numbers.unwritable.load(Ordering::Relaxed));
    assert!(logs.close(LIMIT) && account().holds());
    let ids: BTreeSet<String> = pipe.request_ids().into_iter().collect();
    assert_eq!(ids, ["after".to_owned(), "before".to_owned()].into());
}

#[test]
fn a_disk_that_hangs_fills_the_ring_and_no_more() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let ring_bytes = 200_000;
    let log = attach(&logs, LogOptions { ring_bytes, ..LogOptions::default() });
    let account = || log.model.ring.account();
    pipe.disk.hang(true);
    for n in 0..5000 {
        assert!(matches!(offer(&log, &n.to_string()), Offered::Done), "nobody waits");
        assert!(log.model.ring.bytes() <= ring_bytes);
    }
    let full = account().dropped[Reason::Full as usize];
    assert!(full > 1000 && account().holds(), "{:?}", account());
    pipe.disk.hang(false);
    wait_for(|| account().in_flight == 0);
    assert_eq!(account().written, 5000 - full);
    assert!(logs.close(LIMIT));
    assert_eq!(pipe.request_ids().len() as u64, 5000 - full);
}

/// What was answered in `durable` mode is there after a power cut, and nothing that nobody asked is.
#[test]
fn a_power_cut_loses_no_row_whose_answer_went_out() {
    let pipe = Pipe::new();
    let mut acknowledged = BTreeSet::new();
    for round in 0..5 {
        let logs = pipe.start();
        let durable = LogOptions { mode: Mode::Durable, ..LogOptions::default() };
        let log = attach(&logs, durable);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        for n in 0..20 {
            let id = format!("{round}-{n}");
            let Offered::Waits(waiting) = offer(&log, &id) else { panic!("nobody waits") };
            runtime.block_on(waiting.wait(None)).expect("on the disk");
            acknowledged.insert(id);
        }
        // As if the process were gone: it writes nothing more, and its lock is free.
        pipe.disk.refuse(true);
        assert!(logs.close(LIMIT));
        pipe.disk.cut();
        pipe.disk.refuse(false);
    }
    let logs = pipe.start();
    wait_for(|| {
        logs.shared.numbers.recovered_rows.load(Ordering::Relaxed) > 0
            || pipe.request_ids().len() >= 100
    });
    assert!(logs.close(LIMIT));
    let ids = pipe.request_ids();
    let unique: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!((ids.len(), &unique), (acknowledged.len(), &acknowledged));
}

/// Of what was answered in `durable` mode, large tensors are there as well, whole; of what was not, a row refers to nothing that is not.
#[test]
fn a_power_cut_loses_no_blob_whose_answer_went_out() {
    let pipe = Pipe::new();
    let options = || LogOptions {
        mode: Mode::Durable,
        max_inline_bytes: 8,
        large: Large::Blob,
        ..LogOptions::default()
    };
    for round in 0..4 {
        let logs = pipe.start();
        let log = attach(&logs, options());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        for n in 0..10 {
            // Some of them are those of the round before: nobody knows whether their files were ever on the disk.
            let feature = (round * 5 + n) as f32;
            let Offered::Waits(waiting) = offer_of(&log, &format!("{round}-{n}"), feature) else {
                panic!("nobody waits")
            };
            runtime.block_on(waiting.wait(None)).expect("on the disk");
            let log = Log { root: pipe.options.dir.clone() };
            for (hour, _) in log.hours(&Filter::default()).expect("listed") {
                for (name, _) in blobs::of_hour(&hour).expect("listed") {
                    let file = hour.join(blobs::DIR).join(name);
                    assert!(pipe.disk.holds(&log.root, &file), "its name may go with the power");
                }
            }
        }
        assert_eq!(logs.shared.numbers.blobs.load(Ordering::Relaxed), 10);
        pipe.disk.refuse(true);
        offer_of(&log, "lost", -1.0);
        assert!(logs.close(LIMIT));
        pipe.disk.cut();
        pipe.disk.refuse(false);
    }
    let logs = pipe.start();
    wait_for(|| pipe.request_ids().len() >= 40);
    assert!(logs.close(LIMIT));
    let columns = ["in_x_ref".to_owned()];
    let mut found = BTreeSet::new();
    for batch in pipe.rows() {
        for reference in blobs::references(&batch, &columns) {
            let bytes = blobs::read(&pipe.options.dir, reference).expect("whole").expect("there");
            found.insert(bytes);
        }
    }
    let sent: BTreeSet<Vec<u8>> = (0..25).map(|n| floats(&[n as f32, 2.0, 3.0])).collect();
    assert_eq!(found, sent);
}

#[test]
fn a_disk_that_refuses_blobs_costs_their_rows_and_then_it_goes_on() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let options = LogOptions { max_inline_bytes: 8, large: Large::Blob, ..LogOptions::default() };
    let log = attach(&logs, options);
    let account = || log.model.ring.account();
    offer(&log, "before");
    wait_for(|| account().written == 1);
    pipe.disk.refuse(true);
    // Its blob is there, so that its row alone is refused; that of the next one is not.
    offer(&log, "lost");
    offer_of(&log, "lost too", 9.0);
    wait_for(|| account().dropped[Reason::Disk as usize] == 2);
    pipe.disk.refuse(false);
    offer_of(&log, "after", 9.0);
    wait_for(|| account().written == 2);
    assert!(logs.close(LIMIT) && account().holds());
    let ids: BTreeSet<String> = pipe.request_ids().into_iter().collect();
    assert_eq!(ids, ["after".to_owned(), "before".to_owned()].into());
    assert_eq!(logs.shared.numbers.blobs.load(Ordering::Relaxed), 2);
    assert_eq!(logs.shared.numbers.blob_bytes.load(Ordering::Relaxed), 24);
}

#[test]
fn torn_and_zeroed_tails_are_cut_and_counted() {
    for tail in [vec![0; 4096], vec![200, 0, 0, 0, 1, 2, 3, 4, 5, 6], vec![7; 3]] {
        let pipe = Pipe::new();
        let logs = pipe.start();
        let log = attach(&logs, LogOptions::default());
        for n in 0..10 {
            offer(&log, &n.to_string());
        }
        wait_for(|| log.model.ring.account().written == 10);
        pipe.disk.refuse(true);
        assert!(logs.close(LIMIT));
        pipe.disk.refuse(false);
        let wal = logs.shared.place.segment(0);
        let mut file = fs::OpenOptions::new().append(true).open(&wal).expect("the segment");
        file.write_all(&tail).expect("torn");
        let again = pipe.start();
        let numbers = &again.shared.numbers;
        wait_for(|| numbers.recovered_rows.load(Ordering::Relaxed) == 10);
        assert_eq!(numbers.torn_bytes.load(Ordering::Relaxed), tail.len() as u64);
        assert!(again.close(LIMIT));
        assert_eq!(pipe.request_ids().len(), 10);
        assert!(!wal.exists());
    }
}

#[test]
fn a_full_ring_is_told_to_those_who_asked_to_be_told() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let tiny = |mode, on_full| LogOptions {
        mode,
        on_full,
        max_wait_ms: 1,
        ring_bytes: 1,
        ..LogOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let outcome = |offered| match offered {
        Offered::Done => Ok(()),
        Offered::Waits(waiting) => runtime.block_on(waiting.wait(None)).map_err(|e| e.code),
    };
    use crate::{predlog::options::OnFull, types::error::Code};
    let cases = [
        (Mode::BestEffort, OnFull::Drop, Ok(())),
        (Mode::Backpressure, OnFull::Drop, Ok(())),
        (Mode::Backpressure, OnFull::Reject, Err(Code::Unavailable)),
        (Mode::Durable, OnFull::Drop, Err(Code::Unavailable)),
    ];
    for (at, (mode, on_full, expected)) in cases.into_iter().enumerate() {
        let log = attach(&logs, tiny(mode, on_full));
        assert_eq!(outcome(offer(&log, "x")), expected, "{mode:?} {on_full:?}");
        let account = log.model.ring.account();
        assert_eq!(account.dropped[Reason::Full as usize], at as u64 + 1);
        assert!(account.holds());
    }
    assert!(logs.close(LIMIT));
}

#[test]
fn a_sample_is_the_same_whoever_takes_it() {
    let pipe = Pipe::new();
    let logs = pipe.start();
    let sampling =
        crate::predlog::options::Sampling { rate: 0.2, errors: false, ..Default::default() };
    let log = attach(&logs, LogOptions { sampling, ..LogOptions::default() });
    let logged: Vec<bool> = (0..500)
        .map(|n| {
            let request =
                InferRequest { id: format!("r{n}").as_str().into(), ..InferRequest::default() };
            log.begin(&request, now(), None).is_some()
        })
        .collect();
    let expected: Vec<bool> = (0..500).map(|n| sampling::place(&format!("r{n}")) < 0.2).collect();
    assert_eq!(logged, expected);
    assert!(logs.close(LIMIT));
}

/// Whose own thread gets nothing of the processors, or ends.
#[test]
fn segments_that_nobody_makes_files_of_aside_wait_until_they_are_too_many() {
    for trap in [Trap::Hang, Trap::Panic] {
        let mut pipe = Pipe::new();
        (pipe.options.rotate_bytes, pipe.options.wal_max_bytes) = (1, 1 << 20);
        let logs = pipe.start();
        let log = attach(&logs, LogOptions::default());
        let (mut rows, mut most) = (0, 0);
        pipe.disk.trap(Some(("onnxd-aside", trap)));
        wait_for(|| {
            offer(&log, &format!("r{rows}"));
            rows += 1;
            let waits = logs.shared.numbers.wal_bytes.load(Ordering::Relaxed);
            let none = pipe.files().is_empty();
            most = most.max(if none { waits } else { 0 });
            !none
        });
        assert_eq!(most > 1 << 17, trap == Trap::Hang, "{most} bytes waited");
        pipe.disk.trap(None);
        assert_eq!(logs.close(LIMIT), trap == Trap::Hang);
        let account = log.model.ring.account();
        assert_eq!((account.received, account.written), (rows, rows), "{account:?}");
        if trap == Trap::Panic {
            assert!((pipe.request_ids().len() as u64) < rows, "one segment is left");
            assert!(pipe.start().close(LIMIT));
        }
        let ids = pipe.request_ids();
        let unique: BTreeSet<&String> = ids.iter().collect();
        assert_eq!((ids.len() as u64, unique.len() as u64), (rows, rows));
    }
}

#[test]
fn small_files_of_hours_that_are_over_are_put_together() {
    let mut pipe = Pipe::new();
    pipe.options.compact.enabled = true;
    for n in 0..3 {
        let name = format!("part-n-b-{n}.parquet");
        log_files::write(&pipe.options.dir, &name, Rows::numbered(n * 50, 50));
    }
    let logs = pipe.start();
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    wait_for(|| count(&logs.shared.numbers.compactions) == 1);
    assert_eq!(count(&logs.shared.numbers.compacted_files), 3);
    assert!(logs.close(LIMIT));
    assert_eq!(pipe.files().len(), 1);
}
