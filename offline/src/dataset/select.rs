//! Which rows of the log can be in a data set, and why the others cannot. The log and its labels are read once, few columns of them, and
//! set aside in parts by their keys; rows are then chosen part by part, so that only one part is in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    mem,
    ops::Range,
    path::{Path, PathBuf},
};

use arrow_array::{Array, RecordBatch, StringArray};
use onnxd::predlog::{
    erased::Ledger,
    labels::{Label, Resolved, store::Store},
    reader::{Filter, LogFile, ReadError, failed, rows, times},
    stat::Spread,
};

use super::{
    spill::{Fields, Parts, Record, Records, Run, Written, hash},
    split::{Cuts, Slice},
};
use crate::coverage::{column, numbers, texts};

/// What a key takes in memory, its row and its label together, as far as one can say beforehand.
const KEY_BYTES: u64 = 800;
/// Parts at most: so many files are open at once.
const MOST_PARTS: u64 = 256;

/// What rows have to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Labels that come later than this after their row are none, microseconds.
    pub horizon: i64,
    /// Rows younger than this at `as_of` may still get a label: they are left out, whether they have one or not, since
    /// early labels are not like late ones. Microseconds.
    pub maturity: i64,
    /// What came to be known later is not looked at, microseconds since 1970.
    pub as_of: i64,
}

/// Why a row is not in the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It failed, or was refused.
    Status,
    Route,
    Immature,
    Unlabelled,
    /// What the label is about happened before the prediction: the features may tell of it.
    KnownBefore,
    /// Another row of the same label key came first.
    Repeated,
    Erased,
    /// Between two parts.
    Gap,
    /// Of a group that trains.
    Group,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Why::Status => "not_ok",
            Why::Route => "other_route",
            Why::Immature => "immature",
            Why::Unlabelled => "unlabelled",
            Why::KnownBefore => "outcome_before_prediction",
            Why::Repeated => "repeated_label_key",
            Why::Erased => "erased",
            Why::Gap => "in_a_gap",
            Why::Group => "group_in_train",
        }
    }
}

/// How many rows are left out, by reason.
pub type Dropped = BTreeMap<Why, u64>;

/// The columns that are read to choose.
const COLUMNS: [&str; 4] = ["label_key", "status", "route", "event_id"];

/// A row that may be in, or that waits for a label at least.
struct Candidate {
    key: String,
    event_id: String,
    ts: i64,
    /// The number of its file, and its own among the file's rows that the filter asks for.
    file: i64,
    row: i64,
    group: Option<u64>,
    /// Of a status and a route that are asked for, and not erased.
    wanted: bool,
    /// It was answered, by no shadow: how long its label took counts.
    waits: bool,
}

impl Record for Candidate {
    fn put(&self, out: &mut Fields) {
        out.text(&self.key);
        out.text(&self.event_id);
        [self.ts, self.file, self.row].into_iter().for_each(|number| out.number(number));
        out.maybe(self.group, |out, group| out.number(group.cast_signed()));
        out.number(i64::from(self.wanted) + 2 * i64::from(self.waits));
    }

    fn get(from: &mut Written<'_>) -> Option<Candidate> {
        let (key, event_id) = (from.text()?, from.text()?);
        let (ts, file, row) = (from.number()?, from.number()?, from.number()?);
        let group = from.maybe(Written::number)?.map(i64::cast_unsigned);
        let flags = from.number()?;
        let (wanted, waits) = (flags & 1 != 0, flags & 2 != 0);
        Some(Candidate { key, event_id, ts, file, row, group, wanted, waits })
    }
}

/// A row that is in, with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub file: i64,
    pub row: i64,
    pub ts: i64,
    pub event_id: String,
    group: Option<u64>,
    pub label: Option<String>,
    pub label_value: Option<f64>,
    pub weight: Option<f64>,
}

impl Record for Chosen {
    fn put(&self, out: &mut Fields) {
        [self.file, self.row, self.ts].into_iter().for_each(|number| out.number(number));
        out.text(&self.event_id);
        out.maybe(self.group, |out, group| out.number(group.cast_signed()));
        out.maybe(self.label.as_deref(), Fields::text);
        out.maybe(self.label_value, Fields::double);
        out.maybe(self.weight, Fields::double);
    }

    fn get(from: &mut Written<'_>) -> Option<Chosen> {
        Some(Chosen {
            file: from.number()?,
            row: from.number()?,
            ts: from.number()?,
            event_id: from.text()?,
            group: from.maybe(Written::number)?.map(i64::cast_unsigned),
            label: from.maybe(Written::text)?,
            label_value: from.maybe(Written::double)?,
            weight: from.maybe(Written::double)?,
        })
    }
}

/// The rows and labels of a log, set aside.
pub struct Aside {
    dir: PathBuf,
    labels: Vec<PathBuf>,
    rows: Vec<PathBuf>,
    /// When the last label became known.
    pub last_label: Option<i64>,
    pub dropped: Dropped,
    pub seen: u64,
}

/// Which rows are looked at.
pub struct Look<'a> {
    pub files: &'a [LogFile],
    pub filter: &'a Filter,
    pub routes: &'a [String],
    /// A column of text.
    pub group: Option<&'a str>,
    pub ledger: &'a Ledger,
}

impl Aside {
    /// Sets the labels of a model aside in `dir`, those known at `as_of`, in as many parts as `bytes` of memory ask for when `rows` rows
    /// join them.
    pub fn labels(
        dir: &Path,
        (store, model, as_of): (&Store, &str, Option<i64>),
        (rows, bytes): (u64, u64),
    ) -> Result<Aside, ReadError> {
        let mut keys = rows;
        for path in store.files(model)? {
            keys += onnxd::predlog::reader::Opened::at(&path)?.rows;
        }
        // Half of the memory: the other half is for what is read and written meanwhile.
        let parts = (keys / 2 * KEY_BYTES).div_ceil((bytes / 2).max(1)).clamp(1, MOST_PARTS);
        let parts = usize::try_from(parts).unwrap_or(1);
        let (mut aside, mut last, mut wrong) = (Parts::create(dir, "labels", parts)?, None, Ok(()));
        store.each(model, |label| {
            if wrong.is_ok() && as_of.is_none_or(|as_of| label.ts_label <= as_of) {
                last = last.max(Some(label.ts_label));
                wrong = aside.add(&label.label_key, &label);
            }
        })?;
        wrong?;
        let (dir, labels) = (dir.to_owned(), aside.finish()?);
        let dropped = Dropped::new();
        Ok(Aside { dir, labels, rows: Vec::new(), last_label: last, dropped, seen: 0 })
    }

    /// Sets the rows aside.
    pub fn add_rows(&mut self, look: &Look<'_>) -> Result<(), ReadError> {
        let mut names: Vec<String> = COLUMNS.map(str::to_owned).to_vec();
        names.push("subject_key".to_owned());
        names.extend(look.group.map(str::to_owned));
        let mut parts = Parts::create(&self.dir, "rows", self.labels.len())?;
        for (n, file) in look.files.iter().enumerate() {
            let mut first = 0;
            for batch in rows(file, look.filter, Some(&names))? {
                let batch = batch?;
                let at = (n as i64, first);
                let found =
                    self.candidates(&batch, at, look).map_err(|why| failed(&file.path, why))?;
                for row in found {
                    parts.add(&row.key, &row)?;
                }
                first += batch.num_rows() as i64;
            }
        }
        self.rows = parts.finish()?;
        Ok(())
    }

    fn candidates(
        &mut self,
        batch: &RecordBatch,
        (file, first): (i64, i64),
        look: &Look<'_>,
    ) -> Result<Vec<Candidate>, String> {
        let (keys, events) = (texts(batch, "label_key")?, texts(batch, "event_id")?);
        let (routes, status) = (texts(batch, "route")?, numbers(batch, "status")?);
        let subjects: Option<&StringArray> = column(batch, "subject_key").ok();
        let groups: Option<&StringArray> =
            look.group.map(|name| column(batch, name)).transpose()?;
        fn text(array: Option<&StringArray>, row: usize) -> Option<&str> {
            array.filter(|array| array.is_valid(row)).map(|array| array.value(row))
        }
        let mut found = Vec::with_capacity(batch.num_rows());
        for (row, ts) in times(batch)?.values().iter().enumerate() {
            self.seen += 1;
            let route = routes.value(row);
            let answered = status.value(row) == 200;
            let why = if !answered {
                Some(Why::Status)
            } else if !look.routes.iter().any(|wanted| wanted == route) {
                Some(Why::Route)
            } else if text(subjects, row).is_some_and(|subject| look.ledger.holds(subject)) {
                Some(Why::Erased)
            } else {
                None
            };
            if let Some(why) = why {
                *self.dropped.entry(why).or_default() += 1;
            }
            let (wanted, waits) = (why.is_none(), answered && route != "shadow");
            if wanted || waits {
                found.push(Candidate {
                    key: keys.value(row).to_owned(),
                    event_id: events.value(row).to_owned(),
                    ts: *ts,
                    file,
                    row: first + row as i64,
                    group: text(groups, row).map(hash),
                    wanted,
                    waits,
                });
            }
        }
        Ok(found)
    }

    /// From a row to its label, seconds.
    pub fn delays(&self, horizon: i64) -> Result<Spread, ReadError> {
        let mut delays = Spread::default();
        for (labels, rows) in self.labels.iter().zip(&self.rows) {
            let labels = resolved(labels)?;
            for row in Records::<Candidate>::open(rows)? {
                let row = row?;
                if row.waits
                    && let Some(label) = labels.of(&row.key, row.ts, horizon)
                {
                    let seconds = (label.ts_label - row.ts) / 1_000_000;
                    delays.add(u64::try_from(seconds).unwrap_or(0));
                }
            }
        }
        Ok(delays)
    }

    /// Chooses: of several rows of one key the first counts.
    pub fn choose(mut self, wanted: &Wanted) -> Result<Selection, ReadError> {
        let (mut runs, mut times) = (Vec::new(), Vec::new());
        let parts: Vec<(PathBuf, PathBuf)> =
            mem::take(&mut self.labels).into_iter().zip(mem::take(&mut self.rows)).collect();
        for (n, (labels, rows)) in parts.iter().enumerate() {
            let mut run = Run::create(self.dir.join(format!("chosen-{n}")))?;
            for row in self.chosen(labels, rows, wanted)? {
                times.push(row.ts);
                run.add(&row)?;
            }
            runs.push(run.finish()?);
            for path in [labels, rows] {
                std::fs::remove_file(path).map_err(|error| failed(path, error))?;
            }
        }
        Ok(Selection { runs, times, dropped: self.dropped, seen: self.seen })
    }

    /// The rows of one part that are in, in the order of the log.
    fn chosen(
        &mut self,
        labels: &Path,
        rows: &Path,
        wanted: &Wanted,
    ) -> Result<Vec<Chosen>, ReadError> {
        let labels = resolved(labels)?;
        let mut first: HashMap<String, Candidate> = HashMap::new();
        for row in Records::<Candidate>::open(rows)? {
            let mut row = row?;
            if !row.wanted {
                continue;
            }
            if let Some(why) = why_not(&labels, &row, wanted) {
                *self.dropped.entry(why).or_default() += 1;
                continue;
            }
            match first.entry(mem::take(&mut row.key)) {
                Entry::Vacant(free) => {
                    free.insert(row);
                }
                Entry::Occupied(mut taken) => {
                    *self.dropped.entry(Why::Repeated).or_default() += 1;
                    let known = taken.get();
                    if (row.ts, &row.event_id) < (known.ts, &known.event_id) {
                        taken.insert(row);
                    }
                }
            }
        }
        let with_label = |(key, row): (String, Candidate)| {
            let label = labels.of(&key, row.ts, wanted.horizon);
            Chosen {
                file: row.file,
                row: row.row,
                ts: row.ts,
                event_id: row.event_id,
                group: row.group,
                label: label.and_then(|label| label.label.clone()),
                label_value: label.and_then(|label| label.label_value),
                weight: label.and_then(|label| label.weight),
            }
        };
        let mut chosen: Vec<Chosen> = first.into_iter().map(with_label).collect();
        chosen.sort_unstable_by_key(|row| (row.file, row.row));
        Ok(chosen)
    }
}

fn resolved(path: &Path) -> Result<Resolved, ReadError> {
    let mut resolved = Resolved::default();
    for label in Records::<Label>::open(path)? {
        resolved.add(label?);
    }
    Ok(resolved)
}

fn why_not(labels: &Resolved, row: &Candidate, wanted: &Wanted) -> Option<Why> {
    if row.ts > wanted.as_of.saturating_sub(wanted.maturity) {
        return Some(Why::Immature);
    }
    match labels.of(&row.key, row.ts, wanted.horizon) {
        Some(label) if label.ts_event.is_some_and(|event| event < row.ts) => Some(Why::KnownBefore),
        Some(_) => None,
        None => Some(Why::Unlabelled),
    }
}

/// The rows that are in.
pub struct Selection {
    /// Files of them, each in the order of the log.
    runs: Vec<PathBuf>,
    /// When they were received, in no order.
    pub times: Vec<i64>,
    pub dropped: Dropped,
    pub seen: u64,
}

impl Selection {
    /// Which slice each row is in. Rows in gaps, and those of a group that trains, go.
    pub fn assign(&mut self, cuts: Cuts) -> Result<Slices, ReadError> {
        let mut slices = Slices {
            runs: mem::take(&mut self.runs),
            cuts,
            trained: HashSet::new(),
            used: BTreeMap::new(),
        };
        let mut trained = HashSet::new();
        slices.each(|row| {
            if let Some(group) = row.group
                && cuts.of(row.ts) == Some(Slice::Train)
            {
                trained.insert(group);
            }
        })?;
        slices.trained = trained;
        let mut used: BTreeMap<Slice, u64> = BTreeMap::new();
        slices.each(|row| match slices.of(row) {
            Ok(slice) => *used.entry(slice).or_default() += 1,
            Err(why) => *self.dropped.entry(why).or_default() += 1,
        })?;
        slices.used = used;
        Ok(slices)
    }
}

/// The rows that are in, each with its part of the data set.
pub struct Slices {
    runs: Vec<PathBuf>,
    cuts: Cuts,
    /// Groups that train.
    trained: HashSet<u64>,
    /// Rows by part.
    pub used: BTreeMap<Slice, u64>,
}

impl Slices {
    fn of(&self, row: &Chosen) -> Result<Slice, Why> {
        let shared = row.group.is_some_and(|group| self.trained.contains(&group));
        match self.cuts.of(row.ts) {
            None => Err(Why::Gap),
            Some(slice) if slice != Slice::Train && shared => Err(Why::Group),
            Some(slice) => Ok(slice),
        }
    }

    fn each(&self, mut with: impl FnMut(&Chosen)) -> Result<(), ReadError> {
        for path in &self.runs {
            for row in Records::<Chosen>::open(path)? {
                with(&row?);
            }
        }
        Ok(())
    }

    /// To be asked once for every row of the log, in its order.
    pub fn read(&self) -> Result<Choices<'_>, ReadError> {
        let runs = self.runs.iter().map(|path| Records::open(path)).collect::<Result<_, _>>()?;
        Ok(Choices { slices: self, runs })
    }
}

/// Reads through the rows that are in.
pub struct Choices<'a> {
    slices: &'a Slices,
    runs: Vec<Records<Chosen>>,
}

impl Choices<'_> {
    /// What is chosen of these rows of a file: for each of them, its part and its label.
    pub fn of(
        &mut self,
        file: i64,
        rows: Range<i64>,
    ) -> Result<Vec<Option<(Slice, Chosen)>>, ReadError> {
        let mut found: Vec<Option<(Slice, Chosen)>> = Vec::new();
        found.resize_with(usize::try_from(rows.end - rows.start).unwrap_or(0), || None);
        for run in &mut self.runs {
            while run.peek().is_some_and(|row| (row.file, row.row) < (file, rows.end)) {
                let Some(row) = run.next().transpose()? else { break };
                let at = usize::try_from(row.row - rows.start).ok().filter(|_| row.file == file);
                let place = at.and_then(|at| found.get_mut(at)).ok_or_else(changed)?;
                *place = self.slices.of(&row).ok().map(|slice| (slice, row));
            }
        }
        Ok(found)
    }

    /// Whether every row that is in was asked for.
    pub fn end(&self) -> Result<(), ReadError> {
        if self.runs.iter().all(|run| run.peek().is_none()) { Ok(()) } else { Err(changed()) }
    }
}

/// Somebody compacted the log or erased rows of it between the two times that it is read.
pub fn changed() -> ReadError {
    ReadError("the log was changed while it was read: build the data set again".to_owned())
}
