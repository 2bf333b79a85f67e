//! From records in the ring to Parquet, for a table of 30 features: rows per second on one core, and bytes a row. With `PREDLOG_ROWS` and
//! `PREDLOG_DIR` it makes a log of so many rows there instead, with labels for nine of ten: what benches/predlog.py reads back.

use std::{collections::BTreeMap, env, fs, hint::black_box, io::Write, path::Path, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group};
use onnxd::{
    predlog::{
        disk::Real,
        encode::{Anchor, Ids, encode},
        erased::Ledger,
        inventory::Inventory,
        labels::{Label, store::Store},
        large::Larges,
        options::LogOptions,
        record::{CacheUse, Fields, Record, Route, Texts},
        rotate::{Origin, rotate},
        subject::{Parts, Subject},
        wal,
    },
    telemetry::stats::Spans,
    types::{
        datatype::Datatype,
        model::{Dim, Signature, TensorSpec},
        tensor::{Dims, Tensor},
        time::Tick,
    },
};

const FEATURES: usize = 30;
const ROWS: usize = 100_000;
/// Rows of a frame, as a busy server has them.
const FRAME: usize = 3000;
/// When the first row was received, microseconds since 1970, and what lies between two: 30 µs.
const BEGAN: i64 = 1_700_000_000_000_000;
const STEP_NS: u64 = 30_000;
/// The rows of a log that is made are spread over so many days.
const DAYS: u64 = 10;

fn subject() -> Arc<Subject> {
    let spec = |name: &str, datatype, dims: Vec<Dim>| TensorSpec {
        name: name.into(),
        datatype,
        dims: Some(dims),
        optional: false,
        labels: None,
    };
    let batch = || Dim::Symbol("N".into());
    let features = i64::try_from(FEATURES).expect("few");
    let signature = Arc::new(Signature {
        inputs: vec![spec("x", Datatype::Fp32, vec![batch(), Dim::Fixed(features)])],
        outputs: vec![
            spec("label", Datatype::Int64, vec![batch()]),
            spec("probabilities", Datatype::Fp32, vec![batch(), Dim::Fixed(2)]),
        ],
        can_batch: true,
    });
    let names: Vec<String> = (0..FEATURES).map(|n| format!("f{n}")).collect();
    let metadata = BTreeMap::from([("feature_names".to_owned(), names.join(","))]);
    let subject = Subject::new(Parts {
        model: &"bench".into(),
        version: &"1".into(),
        digest: "0000000000000000000000000000000000000000000000000000000000000000",
        signature: &signature,
        metadata: &metadata,
        options: &LogOptions::default(),
        device: "cpu".into(),
        node: "node".into(),
        key: None,
    });
    Arc::new(subject.expect("the options fit"))
}

/// Rows from the `first` on.
fn records(subject: &Arc<Subject>, ids: &mut Ids, first: usize, step_ns: u64) -> Vec<Record> {
    let mut record = |n: usize| {
        let mut record = Record::from(Fields {
            subject: subject.clone(),
            received: Tick(n as u64 * step_ns),
            code: None,
            spans: Spans::default(),
            batch: Some((8, n as u64 / 8)),
            cache: CacheUse::Bypass,
            route: Route::default(),
            protocol: "grpc",
            rows: 1,
            sample_p: 1.0,
            texts: Texts {
                request_id: ids.next(BEGAN).hyphenated().to_string().into(),
                label_key: Some(label_key(n).into()),
                ..Texts::default()
            },
            tensors: (0..3).map(|_| None).collect(),
            data: Vec::new(),
            waiter: None,
            charge: 0,
        });
        let mut float = || (ids.chance() >> 40) as f32 / 1e4;
        let values: Vec<u8> = (0..FEATURES).flat_map(|_| float().to_le_bytes()).collect();
        let score = float();
        let scores = [score, 1.0 - score].iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>();
        let tensor = |datatype, dims: &[i64], data: Vec<u8>| Tensor {
            datatype,
            dims: Dims::from_slice(dims),
            data: data.into(),
        };
        record.hold(0, &tensor(Datatype::Fp32, &[1, 30], values));
        record.hold(1, &tensor(Datatype::Int64, &[1], ((n % 2) as i64).to_le_bytes().to_vec()));
        record.hold(2, &tensor(Datatype::Fp32, &[1, 2], scores));
        record
    };
    (first..first + ROWS).map(&mut record).collect()
}

fn label_key(row: usize) -> String {
    format!("order-{row:012}")
}

fn write_ahead(records: &[Record], subject: &Subject, ids: &mut Ids) -> Vec<u8> {
    let anchor = Anchor { tick: Tick(0), wall_us: BEGAN };
    let mut bytes = Vec::new();
    for (at, records) in records.chunks(FRAME).enumerate() {
        let larges = Larges::of(records, anchor);
        let batch = encode(records, &larges, ids, anchor).expect("encoded");
        let footer = (at == 0).then(|| subject.footer.text());
        bytes.extend(wal::frame(&batch, footer.as_deref()).expect("framed"));
    }
    bytes
}

fn predlog(criterion: &mut Criterion) {
    let (subject, mut ids) = (subject(), Ids::new(1));
    let records = records(&subject, &mut ids, 0, STEP_NS);
    let mut group = criterion.benchmark_group("predlog");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    group.bench_function("write ahead", |bencher| {
        bencher.iter(|| black_box(write_ahead(&records, &subject, &mut ids)));
    });
    let home = tempfile::tempdir().expect("a temporary directory");
    let segment = home.path().join("0.wal");
    let ahead = write_ahead(&records, &subject, &mut ids);
    fs::File::create(&segment).and_then(|mut file| file.write_all(&ahead)).expect("written");
    let inventory = &Inventory::of(home.path(), "node-boot");
    let origin = Origin { node: "node", boot: "boot", segment: 0, profile: None, inventory };
    let to_parquet =
        || rotate(&Real, home.path(), &segment, (origin, &Ledger::default())).expect("rotated");
    let files = to_parquet().files;
    let bytes: u64 = files.iter().map(|file| file.there.bytes).sum();
    println!("bytes a row: {} ahead, {} in Parquet", ahead.len() / ROWS, bytes / ROWS as u64);
    group.bench_function("to parquet", |bencher| bencher.iter(|| black_box(to_parquet())));
    group.finish();
}

/// A log of `rows` rows, and labels for nine rows of ten, each within a day.
fn make(root: &Path, rows: usize) {
    let (subject, mut ids) = (subject(), Ids::new(1));
    let step_ns = DAYS * 86_400_000_000_000 / rows.max(1) as u64;
    let segment = root.join("_wal").join("0.wal");
    fs::create_dir_all(root.join("_wal")).expect("made");
    for (number, first) in (0..rows).step_by(ROWS).enumerate() {
        let mut records = records(&subject, &mut ids, first, step_ns);
        records.truncate(rows - first);
        fs::write(&segment, write_ahead(&records, &subject, &mut ids)).expect("written");
        let (segment_number, inventory) = (number as u64, &Inventory::of(root, "node-boot"));
        let origin = Origin {
            node: "node",
            boot: "boot",
            segment: segment_number,
            profile: Some(1000),
            inventory,
        };
        rotate(&Real, root, &segment, (origin, &Ledger::default())).expect("rotated");
        let said = |n: usize| label(n, step_ns, ids.chance());
        let labels: Vec<Label> = (first..first + records.len()).filter_map(said).collect();
        Store::at(root).put("bench", &labels, 0).expect("labels");
    }
    fs::remove_dir_all(root.join("_wal")).expect("removed");
}

fn label(row: usize, step_ns: u64, chance: u64) -> Option<Label> {
    let late = i64::try_from(chance % 86_400_000_000).expect("a day");
    let received = BEGAN + i64::try_from(row as u64 * step_ns / 1000).expect("few days");
    let value = (chance >> 40) % 2;
    (!chance.is_multiple_of(10)).then(|| Label {
        label_key: label_key(row),
        event_id: None,
        ts_label: received + late,
        ts_event: None,
        label: Some(value.to_string()),
        label_value: Some(value as f64),
        weight: None,
        source: Some("bench".into()),
        revision: 0,
        deleted: false,
    })
}

criterion_group!(benches, predlog);

fn main() {
    match (env::var_os("PREDLOG_DIR"), env::var("PREDLOG_ROWS")) {
        (Some(root), Ok(rows)) => make(Path::new(&root), rows.parse().expect("a number of rows")),
        _ => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
