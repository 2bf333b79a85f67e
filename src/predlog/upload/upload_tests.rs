//! Tests of the way into a store that lies in memory.

use std::path::PathBuf;

use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use tempfile::TempDir;

use super::*;
use crate::predlog::{
    compact,
    layout::{self, Partition},
    log_files::{self, Rows},
    options::StoreOptions,
    reader::{Filter, Log},
    store::Logs,
    testing,
    upload::book::note,
};

struct Place {
    _home: TempDir,
    root: PathBuf,
    options: StoreOptions,
    shared: Arc<Shared>,
    store: Arc<InMemory>,
}

impl Place {
    fn new() -> Place {
        let home = tempfile::tempdir().expect("a directory");
        let mut options = testing::store(home.path());
        options.upload.uri = "s3://bucket/a/b".into();
        let shared = Logs::idle_for_tests(&options);
        Place { root: options.dir.clone(), _home: home, options, shared, store: Arc::default() }
    }

    fn uploader(&self) -> Uploader {
        let remote = Remote::at(self.store.clone(), "a/b", Duration::from_secs(60));
        Uploader::to(self.shared.clone(), &self.options.upload, remote).expect("an uploader")
    }

    fn write(&self, name: &str, first: usize) -> PathBuf {
        let rows = Rows::numbered(first, 10);
        log_files::write(&self.root, name, rows);
        let partition = Partition::of(rows.model, rows.version, rows.since).expect("an hour");
        self.root.join("log/v1").join(partition.dir()).join(name)
    }

    fn key(&self, file: &std::path::Path) -> Path {
        let below = file.strip_prefix(&self.root).expect("below the root").to_str();
        Path::parse(format!("a/b/{}", below.expect("text"))).expect("a key")
    }

    fn wait<T>(&self, ask: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(ask)
    }

    fn object(&self, file: &std::path::Path) -> Option<Vec<u8>> {
        let key = self.key(file);
        let read = async { self.store.get(&key).await.ok()?.bytes().await.ok() };
        self.wait(read).map(|bytes| bytes.to_vec())
    }

    fn objects(&self) -> usize {
        use futures_util::StreamExt;
        self.wait(self.store.list(None).count())
    }

    fn failures(&self, kind: Kind) -> u64 {
        self.shared.numbers.upload.failures_of(kind)
    }
}

/// Until nothing is left to do.
fn settle(uploader: &mut Uploader) {
    let mut passes = 0;
    while uploader.pass(None) == Pass::More {
        passes += 1;
        assert!(passes < 10, "it does not end");
    }
}

/// Whichever of them is older.
#[test]
fn blobs_go_up_before_the_rows_that_refer_to_them() {
    let place = Place::new();
    let file = place.write("part-n-b-1.parquet", 0);
    let dir = file.parent().expect("an hour").join(blobs::DIR);
    fs::create_dir_all(&dir).expect("made");
    let at = |path: &std::path::Path, age: u64| {
        let file = File::options().write(true).open(path).expect("there");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
    };
    at(&file, 60);
    for (name, age) in [("older", 120), ("younger", 10), (".half.tmp", 300)] {
        fs::write(dir.join(name), name).expect("written");
        at(&dir.join(name), age);
    }
    let mut uploader = place.uploader();
    let todo = uploader.plan().expect("a plan");
    let names: Vec<&str> = todo.iter().map(|todo| todo.action.file()).collect();
    assert_eq!(names, ["older", "younger", "part-n-b-1.parquet"]);
    settle(&mut uploader);
    assert_eq!(place.object(&dir.join("younger")).as_deref(), Some(&b"younger"[..]));
    // What is here no more stays there, but for what was erased.
    note(&place.root, &dir.join("older"), |file| Line::Erasing { file, sha256: "s".into() })
        .expect("noted");
    fs::remove_dir_all(&dir).expect("removed");
    settle(&mut uploader);
    assert_eq!(place.object(&dir.join("older")), None);
    assert!(place.object(&dir.join("younger")).is_some());
}

#[test]
fn files_go_up_once_whoever_starts() {
    let place = Place::new();
    let file = place.write("part-n-b-1.parquet", 0);
    fs::write(layout::profile(&file), b"known").expect("written");
    settle(&mut place.uploader());
    assert_eq!(place.object(&file), fs::read(&file).ok());
    assert_eq!(place.object(&layout::profile(&file)).as_deref(), Some(&b"known"[..]));
    let second = place.write("part-n-b-2.parquet", 100);
    // Another start; and a crash before the mark of the second was written.
    let bytes = fs::read(&second).expect("readable");
    place.wait(place.store.put(&place.key(&second), bytes.into())).expect("put");
    settle(&mut place.uploader());
    assert_eq!(place.objects(), 3);
    let numbers = &place.shared.numbers.upload;
    assert_eq!(numbers.files.load(Ordering::Relaxed), 3, "the first is not sent again");
    assert_eq!(numbers.waiting.load(Ordering::Relaxed), 0);
    assert_eq!(Kind::ALL.map(|kind| place.failures(kind)), [0; 4]);
}

#[test]
fn one_process_of_those_that_share_a_directory_uploads() {
    let place = Place::new();
    place.write("part-n-b-1.parquet", 0);
    let mut first = place.uploader();
    settle(&mut first);
    place.write("part-n-b-2.parquet", 100);
    settle(&mut place.uploader());
    assert_eq!(place.objects(), 1);
    settle(&mut first);
    assert_eq!(place.objects(), 2);
}

#[test]
fn what_somebody_else_put_there_is_left_and_told() {
    let place = Place::new();
    let file = place.write("part-n-b-1.parquet", 0);
    place.wait(place.store.put(&place.key(&file), "of somebody else".into())).expect("put");
    let other = place.write("part-n-b-2.parquet", 100);
    let mut uploader = place.uploader();
    settle(&mut uploader);
    settle(&mut uploader);
    assert_eq!(place.object(&file).as_deref(), Some(&b"of somebody else"[..]));
    assert_eq!(place.failures(Kind::Conflict), 1, "counted once");
    assert!(place.object(&other).is_some(), "others are not held up");
    let waiting = place.shared.numbers.upload.waiting.load(Ordering::Relaxed);
    assert_eq!(waiting, 1, "it is not forgotten");
}

#[test]
fn what_a_compaction_replaced_goes_once_its_rows_are_there() {
    let place = Place::new();
    let inputs = [place.write("part-n-b-1.parquet", 0), place.write("part-n-b-2.parquet", 100)];
    let mut uploader = place.uploader();
    settle(&mut uploader);
    let log = Log::open(&place.root).expect("a log");
    let options = compact::Options::default();
    let merges = compact::plan(&log, &Filter::default(), &options, i64::MAX).expect("a plan");
    compact::run(&merges[0]).expect("compacted");
    settle(&mut uploader);
    assert_eq!(place.object(&merges[0].output), fs::read(&merges[0].output).ok());
    assert!(inputs.iter().all(|input| place.object(input).is_none()));
    assert_eq!(place.objects(), 1);
}

#[test]
fn an_erasure_reaches_the_store_and_leaves_evidence() {
    let place = Place::new();
    let [kept, gone] = [place.write("part-n-b-1.parquet", 0), place.write("part-n-b-2.parquet", 9)];
    let mut uploader = place.uploader();
    settle(&mut uploader);
    let erasing = |file: &PathBuf| {
        let sha256 = digest::file(file).expect("readable");
        let line = |file| Line::Erasing { file, sha256: sha256.clone() };
        note(&place.root, file, line).expect("noted");
    };
    erasing(&kept);
    erasing(&gone);
    let before = place.object(&kept);
    settle(&mut uploader);
    assert_eq!(place.object(&kept), before, "the files are as they were");
    assert_eq!(book::beyond(&place.root).expect("read").0.len(), 2);
    fs::create_dir(place.root.join("_erased")).expect("made");
    place.write("part-n-b-1.parquet", 1);
    fs::remove_file(&gone).expect("removed");
    settle(&mut uploader);
    assert_eq!(place.object(&kept), fs::read(&kept).ok());
    assert_eq!(place.object(&gone), None);
    assert_eq!(book::beyond(&place.root).expect("read"), (vec![], vec![]));
    let told = fs::read_to_string(place.root.join("_erased/objects.jsonl")).expect("evidence");
    let told: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let done = |name: &str| {
        let own =
            told.iter().find(|line| line["object"].as_str().is_some_and(|o| o.contains(name)));
        own.expect("a line")["done"].clone()
    };
    assert_eq!((done("b-1"), done("b-2")), ("rewritten".into(), "deleted".into()));
    // Retention: what is only there has not been looked into.
    fs::remove_file(&kept).expect("removed");
    assert_eq!(book::beyond(&place.root).expect("read").1.len(), 1);
}
