//! Blobs from a record to a file and back, and which of them go with whose rows.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::predlog::{
    disk::Real,
    encode::{Anchor, Ids, encode},
    inventory::Inventory,
    large::Larges,
    options::{Large, LogOptions},
    reader::{Filter, Log},
    record::Record,
    rotate::{Origin, Place, rotate},
    testing::{bare, classifier, floats, spec, subject, tensor},
    wal,
};
use crate::types::{datatype::Datatype, model::Signature, time::Tick};

const ANCHOR: Anchor = Anchor { tick: Tick(1_000_000), wall_us: 1_757_149_200_000_000 };

fn options() -> LogOptions {
    LogOptions { max_inline_bytes: 8, large: Large::Blob, ..LogOptions::default() }
}

/// A log below a directory, into which one segment after another is written.
struct Below {
    home: TempDir,
    keeper: keep::Keeper,
    segments: u64,
}

impl Below {
    fn new() -> Below {
        let home = tempfile::tempdir().expect("a directory");
        Below { home, keeper: keep::Keeper::default(), segments: 0 }
    }

    fn root(&self) -> &Path {
        self.home.path()
    }

    fn place(&self) -> Place {
        let root = self.root().to_owned();
        Place { disk: std::sync::Arc::new(Real), root, node: "n".into(), boot: "b".into() }
    }

    /// Writes rows about people, each with a first feature, ahead; says where.
    fn ahead(&mut self, rows: &[(&str, f32)]) -> PathBuf {
        let subject = subject(&classifier(), &options());
        let record = |(who, x): &(&str, f32)| -> Record {
            let mut record = bare(&subject, &format!("{who}-{x}"), 1);
            record.hold(0, &tensor(Datatype::Fp32, &[1, 3], floats(&[*x, 0.0, 0.0])));
            record.texts.subject_key = Some((*who).into());
            record
        };
        let records: Vec<Record> = rows.iter().map(record).collect();
        let larges = Larges::of(&records, ANCHOR);
        let place = self.place();
        self.keeper.keep(&place, &larges).expect("kept");
        self.keeper.sync(&Real).expect("synced");
        let batch = encode(&records, &larges, &mut Ids::new(7), ANCHOR).expect("rows");
        let frame = wal::frame(&batch, Some(&subject.footer.text())).expect("a frame");
        let path = place.segment(self.segments);
        self.segments += 1;
        fs::create_dir_all(place.wal()).expect("made");
        fs::write(&path, frame).expect("written");
        path
    }

    fn rotate(&self, segment: &Path, erased: &Ledger) {
        let inventory = Inventory::of(self.root(), "n-b");
        let number = segment.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let segment_number = number.expect("a number");
        let origin = Origin {
            node: "n",
            boot: "b",
            segment: segment_number,
            profile: None,
            inventory: &inventory,
        };
        rotate(&Real, self.root(), segment, (origin, erased)).expect("rotated");
        fs::remove_file(segment).expect("removed");
    }

    fn there(&self) -> usize {
        let log = Log { root: self.root().to_owned() };
        let hours = log.hours(&Filter::default()).expect("listed");
        hours.iter().map(|(hour, _)| of_hour(hour).expect("listed").len()).sum()
    }
}

fn erased(who: &str) -> Ledger {
    Ledger::of(&BTreeSet::from([who.to_owned()]))
}

#[test]
fn a_large_tensor_is_a_file_once_and_comes_back() {
    let mut below = Below::new();
    let segment = below.ahead(&[("alice", 1.0), ("bob", 2.0), ("carol", 1.0)]);
    assert_eq!(below.there(), 2);
    below.rotate(&segment, &Ledger::default());
    let log = Log::open(below.root()).expect("a log");
    let files = log.files(&Filter::default()).expect("listed");
    let opened = Opened::at(&files[0].path).expect("opened");
    let columns = columns(&opened.roles().expect("roles"));
    assert_eq!(columns, ["in_x_ref"]);
    let batch = opened.batches(None).expect("rows").next().expect("one").expect("read");
    let found: Vec<&str> = references(&batch, &columns).collect();
    assert_eq!((found.len(), found[0], found[0] == found[1]), (3, found[2], false));
    let digests = batch.column_by_name("in_x_sha256").expect("digests");
    let digests = digests.as_any().downcast_ref::<StringArray>().expect("texts");
    assert!(found[1].ends_with(digests.value(1)), "{found:?}");
    let bytes = read(below.root(), found[1]).expect("whole").expect("there");
    assert_eq!(bytes, floats(&[2.0, 0.0, 0.0]));
    // Small values stand in their cells, and what is large does not.
    assert!(batch.column_by_name("in_x").is_none() && batch.column_by_name("pred_score").is_some());
    let path = below.root().join(found[1]);
    fs::write(&path, b"other").expect("written");
    let error = read(below.root(), found[1]).expect_err("other bytes").0;
    assert!(error.contains("its bytes have the digest"), "{error}");
    fs::remove_file(path).expect("removed");
    assert_eq!(read(below.root(), found[1]), Ok(None));
}

#[test]
fn texts_are_kept_as_they_were_sent() {
    let inputs = vec![spec("note", Datatype::Bytes, &[-1, 2])];
    let outputs = vec![spec("y", Datatype::Fp32, &[-1, 1])];
    let signature = Signature { can_batch: true, inputs, outputs };
    let subject = subject(&signature.into(), &LogOptions { text: true, ..options() });
    let sent = b"\x09\0\0\0not \xff utf\0\0\0\0\x01\0\0\0a\x01\0\0\0b";
    let mut record = bare(&subject, "r", 2);
    record.hold(0, &tensor(Datatype::Bytes, &[2, 2], sent.to_vec()));
    let records = [record];
    let larges = Larges::of(&records, ANCHOR);
    let kept: Vec<(&str, &[u8])> = larges.kept().collect();
    assert_eq!(kept.len(), 1, "the second row is small");
    assert_eq!(kept[0].1, &sent[..17]);
}

#[test]
fn what_only_erased_rows_refer_to_goes() {
    let mut below = Below::new();
    let closed = below.ahead(&[("alice", 1.0), ("bob", 2.0)]);
    below.rotate(&closed, &Ledger::default());
    below.ahead(&[("carol", 2.0)]);
    let log = Log::open(below.root()).expect("a log");
    let file = log.files(&Filter::default()).expect("listed").remove(0);
    let opened = Opened::at(&file.path).expect("opened");
    let batch = opened.batches(None).expect("rows").next().expect("one").expect("read");
    let columns = ["in_x_ref".to_owned()];
    let all: BTreeSet<String> = references(&batch, &columns).map(str::to_owned).collect();
    // Somebody refers to each of them, in a file or ahead of one.
    for who in ["nobody", "bob", "carol"] {
        let gone = release(below.root(), all.clone(), &erased(who), false).expect("released");
        assert_eq!(gone, [], "{who}");
    }
    let planned = release(below.root(), all.clone(), &erased("alice"), true).expect("released");
    assert_eq!((planned.len(), planned[0].1, below.there()), (1, 12, 2));
    let both = Ledger::of(&["bob", "carol"].map(str::to_owned).into());
    let gone = release(below.root(), all, &both, false).expect("released");
    assert_eq!((gone.len(), below.there()), (1, 1));
    assert_eq!(read(below.root(), &gone[0].0), Ok(None));
}

#[test]
fn a_rotation_leaves_no_blob_of_rows_that_it_leaves_out() {
    let mut below = Below::new();
    let first = below.ahead(&[("alice", 1.0), ("alice", 2.0), ("bob", 2.0)]);
    let second = below.ahead(&[("carol", 3.0), ("alice", 3.0)]);
    below.rotate(&first, &erased("alice"));
    assert_eq!(below.there(), 2, "hers alone is gone");
    below.rotate(&second, &erased("alice"));
    assert_eq!(below.there(), 2);
}

#[test]
fn a_blob_that_went_is_written_again() {
    let mut below = Below::new();
    below.ahead(&[("alice", 1.0)]);
    let (hour, _) =
        Log { root: below.root().to_owned() }.hours(&Filter::default()).expect("one").remove(0);
    fs::remove_dir_all(hour.join(DIR)).expect("removed");
    below.ahead(&[("alice", 1.0)]);
    assert_eq!(below.there(), 1);
    fs::write(hour.join(DIR).join(".left.tmp"), b"half").expect("written");
    assert_eq!(below.there(), 1, "what is hidden is none");
}

#[test]
fn what_is_no_reference_is_never_read() {
    let home = tempfile::tempdir().expect("a directory");
    let hour = Partition::of("m", "1", ANCHOR.wall_us).expect("in the calendar");
    let good = reference(&hour, &"a".repeat(64));
    assert_eq!(read(home.path(), &good), Ok(None));
    for bad in [
        "",
        "/etc/passwd",
        "log/v1/../../etc/passwd",
        &good.replace("_blobs", ".."),
        &good.replace("log/v1", "log/v2"),
        &good.replace("hour=", "hour=9/hour="),
        &good.to_uppercase(),
        &good[..good.len() - 1],
    ] {
        assert!(read(home.path(), bad).expect_err(bad).0.contains("refers to no blob"), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_reference_says_where_and_what(model in "\\PC{1,20}", ts in 0i64..4_000_000_000_000_000, bytes in any::<Vec<u8>>()) {
        let hour = Partition::of(&model, "1", ts).expect("in the calendar");
        let digest = digest::bytes(&bytes);
        let text = reference(&hour, &digest);
        prop_assert_eq!(parse(&text), Some((&*hour.dir(), &*digest)));
    }

    #[test]
    fn any_text_is_a_reference_or_none(text in "(log/v1/)?(model=a/version=1/date=2026-01-01/hour=[0-9]{1,2}/)?(_blobs/)?\\PC{0,70}") {
        if let Some((hour, digest)) = parse(&text) {
            prop_assert!(Partition::parse(hour).is_some() && digest.len() == 64);
        }
    }
}
