//! Requests from a prediction log of onnxd: what was asked, and when, as its Parquet files have it (docs/logging.md).

mod blobs;
mod cells;
pub mod files;
mod footer;
mod rows;

use std::{
    collections::{BTreeMap, HashSet, btree_map::Entry as Place},
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use serde::{Deserialize, Serialize};

use self::{
    files::Wanted,
    footer::Footer,
    rows::{Reader, Row, Slot},
};
use super::{
    entry::{Entry, LogSource},
    files::fits,
    parquet::LARGEST,
    tensor::{Datatype, Tensor},
    values::batches,
};
use crate::{
    metadata::ModelMetadata,
    moment::Moment,
    plan::{Prepared, Wire},
};

/// What was found in a log, and what of it is not sent again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    /// The entry's name.
    pub name: String,
    pub files: u64,
    /// Requests that are sent again, and their instances.
    pub requests: u64,
    pub instances: u64,
    /// Requests that are not, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// When the first and the last one was received.
    pub first: Option<Moment>,
    pub last: Option<Moment>,
    /// Where the log has only some of what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<Sampled>,
}

/// Of requests that were there with less than certainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    pub requests: u64,
    /// The least of their probabilities.
    pub least_p: f64,
    /// About how many requests all of the log's stand for: the sum of 1 / p.
    pub stand_for: f64,
}

/// Different reasons that are told apart.
const REASONS: usize = 20;

/// Ways on which a request was sent that has a row of its own elsewhere, or is none of the caller's.
const SHADOW: &str = "shadow";
const FALLBACK: &str = "fallback";
const REPLAY: &str = "replay";

/// A request of the log, ready to be sent again.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it was received, microseconds since 1970.
    pub ts: i64,
    pub instances: u64,
    pub wire: Wire,
    sample_p: f64,
    /// It may be there once more, on the way that it was sent first.
    fallback: bool,
    key: u64,
}

/// Makes a request of inputs, and the id that it had where that is known.
type Encode<'a> = &'a dyn Fn(&[Tensor], Option<&str>) -> Result<Wire, String>;

/// The requests of a log that an entry asks for, by the time when they were received.
///
/// # Errors
/// In words, with the file: it cannot be read, is damaged or no file of a log; no request is left; they need more than 4 GiB.
pub fn read(
    source: &LogSource,
    entry: &Entry,
    model: &ModelMetadata,
    encode: Encode<'_>,
) -> Result<(Vec<Asked>, Replayed), String> {
    let wanted = Wanted::of(source, &entry.model);
    let mut taken = Taken { model, encode, asked: Vec::new(), bytes: 0, told: Replayed::default() };
    for file in files::find(&source.paths, &wanted)? {
        taken.file(&file, &wanted).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    let Taken { mut asked, mut told, .. } = taken;
    without_twins(&mut asked, &mut told);
    asked.sort_by_key(|asked| asked.ts);
    if asked.is_empty() {
        return Err(nothing(&told, &wanted));
    }
    told.requests = asked.len() as u64;
    told.instances = asked.iter().map(|asked| asked.instances).sum();
    told.first = asked.first().map(|asked| Moment(asked.ts));
    told.last = asked.last().map(|asked| Moment(asked.ts));
    told.sampled = sampled(&asked);
    Ok((asked, told))
}

/// Why there is no request.
fn nothing(told: &Replayed, wanted: &Wanted<'_>) -> String {
    let model = wanted.model.unwrap_or_default();
    if told.left_out.is_empty() {
        return format!("the log has no requests of the model '{model}' in this time");
    }
    format!("no request of the log's can be sent again: {}", reasons(&told.left_out))
}

fn reasons(left_out: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<String> = left_out.iter().map(|(why, n)| format!("{n}: {why}")).collect();
    reasons.join("; ")
}

fn sampled(asked: &[Asked]) -> Option<Sampled> {
    let some: Vec<f64> = asked.iter().map(|a| a.sample_p).filter(|p| *p < 1.0).collect();
    let stand_for = asked.iter().map(|asked| 1.0 / asked.sample_p.clamp(1e-9, 1.0)).sum();
    let least_p = some.iter().copied().reduce(f64::min)?;
    Some(Sampled { requests: some.len() as u64, least_p, stand_for })
}

/// A request that fell back has a row where it was sent first, and it came once. Where the first one was left alone, there is no other.
fn without_twins(asked: &mut Vec<Asked>, told: &mut Replayed) {
    if !asked.iter().any(|asked| asked.fallback) {
        return;
    }
    let first: HashSet<u64> = asked.iter().filter(|a| !a.fallback).map(|a| a.key).collect();
    let before = asked.len();
    asked.retain(|asked| !asked.fallback || !first.contains(&asked.key));
    told.leave_out("it is the fallback of another one", (before - asked.len()) as u64);
}

impl Replayed {
    fn leave_out(&mut self, why: &str, requests: u64) {
        if requests == 0 {
            return;
        }
        let known = self.left_out.contains_key(why) || self.left_out.len() < REASONS;
        let why = if known { why } else { "other reasons" };
        match self.left_out.entry(why.to_owned()) {
            Place::Occupied(mut at) => *at.get_mut() += requests,
            Place::Vacant(at) => {
                at.insert(requests);
            }
        }
    }

    /// As a person is told it, in lines.
    pub fn lines(&self) -> Vec<String> {
        let time = |at: Option<Moment>| at.map(|at| at.to_string()).unwrap_or_default();
        let mut lines = vec![format!(
            "{}: {} requests ({} instances) of {} files of the log, received from {} to {}",
            self.name,
            self.requests,
            self.instances,
            self.files,
            time(self.first),
            time(self.last)
        )];
        lines.extend(self.left_out.iter().map(|(why, n)| format!("  not sent again, {n}: {why}")));
        if let Some(Sampled { requests, least_p, stand_for }) = self.sampled {
            lines.push(format!(
                "  a sample: {requests} of them were logged with a probability of {least_p} or more; all of them stand for about {stand_for:.0}"
            ));
        }
        lines
    }
}

/// What was taken of the files so far.
struct Taken<'a> {
    model: &'a ModelMetadata,
    encode: Encode<'a>,
    asked: Vec<Asked>,
    bytes: usize,
    told: Replayed,
}

impl Taken<'_> {
    fn file(&mut self, path: &Path, wanted: &Wanted<'_>) -> Result<(), String> {
        let (builder, text) = rows::open(path)?;
        let footer = Footer::parse(&text)?;
        if !wanted.names(&footer.model, &footer.version) {
            return Ok(());
        }
        self.told.files += 1;
        let mut reader = Reader::of((builder, path), &footer, self.model)?;
        // Rows of one request were received at one time, and a file is sorted by that.
        let mut together: Vec<Row> = Vec::new();
        while let Some(rows) = reader.next(|ts| wanted.covers(ts))? {
            for row in rows {
                if together.last().is_some_and(|last| last.ts != row.ts) {
                    self.moment(std::mem::take(&mut together), &reader)?;
                }
                together.push(row);
            }
        }
        self.moment(together, &reader)
    }

    /// The rows of one moment.
    fn moment(&mut self, rows: Vec<Row>, reader: &Reader<'_>) -> Result<(), String> {
        let mut by_id: BTreeMap<(String, String), Vec<Row>> = BTreeMap::new();
        let mut order = Vec::new();
        for row in rows {
            let key = (row.id.clone(), row.route.clone());
            if !by_id.contains_key(&key) {
                order.push(key.clone());
            }
            by_id.entry(key).or_default().push(row);
        }
        for key in order {
            let rows = by_id.remove(&key).unwrap_or_default();
            for request in cut(rows, reader.table) {
                self.request(&request, reader)?;
            }
        }
        Ok(())
    }

    /// The rows of one request.
    fn request(&mut self, rows: &[Row], reader: &Reader<'_>) -> Result<(), String> {
        let Some(first) = rows.first() else { return Ok(()) };
        let left = match &*first.route {
            SHADOW => Err("it is the copy of another one, for a shadow".to_owned()),
            REPLAY => Err("it was a replay itself".to_owned()),
            _ => tensors(rows, self.model, reader.table),
        };
        let tensors = match left.and_then(|tensors| fits(&tensors, self.model).map(|()| tensors)) {
            Ok(tensors) => tensors,
            Err(why) => {
                self.told.leave_out(&why, 1);
                return Ok(());
            }
        };
        let wire = (self.encode)(&tensors, reader.ids.then_some(&*first.id))?;
        self.bytes += size_of::<Asked>() + size_of::<Prepared>() + size(&wire);
        if self.bytes > LARGEST {
            return Err(format!(
                "with request {} they need more than 4 GiB of memory; expected fewer: say from and until",
                self.asked.len() + 1
            ));
        }
        let batch = tensors.first().filter(|_| batches(self.model));
        let instances = batch.and_then(|tensor| tensor.shape.first()).copied();
        let mut key = DefaultHasher::new();
        (first.ts, &first.id).hash(&mut key);
        self.asked.push(Asked {
            ts: first.ts,
            instances: instances.unwrap_or(1),
            wire,
            sample_p: first.sample_p,
            fallback: first.route == FALLBACK,
            key: key.finish(),
        });
        Ok(())
    }
}

fn size(wire: &Wire) -> usize {
    match wire {
        Wire::Http(bytes) => bytes.len(),
        Wire::Grpc { headers, message } => headers.len() + message.len(),
    }
}

/// Rows of one moment, id and way, as the requests that they are: clients may give an id more than once.
fn cut(mut rows: Vec<Row>, table: bool) -> Vec<Vec<Row>> {
    if !table {
        return rows.into_iter().map(|row| vec![row]).collect();
    }
    if rows.iter().filter(|row| row.row == 0).count() <= 1 {
        rows.sort_by_key(|row| row.row);
    }
    let mut requests: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match requests.last_mut() {
            Some(last) if row.row != 0 => last.push(row),
            _ => requests.push(vec![row]),
        }
    }
    requests
}

/// The inputs of a request. The error is the reason why it cannot be sent again.
fn tensors(rows: &[Row], model: &ModelMetadata, table: bool) -> Result<Vec<Tensor>, String> {
    if table && !rows.iter().zip(0..).all(|(row, at)| row.row == at) {
        return Err("some of its rows are missing".to_owned());
    }
    let status = rows.first().map_or(0, |row| row.status);
    let mut slots = Vec::with_capacity(rows.len());
    for row in rows {
        slots.push(row.inputs.as_ref().map_err(Clone::clone)?);
    }
    let sent = |slots: &&Vec<Slot>| slots.iter().any(|slot| matches!(slot, Slot::Sent(_)));
    if status != 200 && !slots.iter().any(sent) {
        return Err(format!("it failed before its inputs were read (status {status})"));
    }
    let mut tensors = Vec::with_capacity(model.inputs.len());
    for (at, input) in model.inputs.iter().enumerate() {
        let unknown = || format!("input '{}' was not logged, or not sent", input.name);
        let absent = slots.iter().filter(|slots| slots[at] == Slot::Absent).count();
        // Of what was answered well, what is not there was not needed.
        if absent == slots.len() && status == 200 {
            continue;
        }
        let mut shape: Option<&[u64]> = None;
        let mut raw = Vec::new();
        for slots in &slots {
            let Slot::Sent(part) = &slots[at] else { return Err(unknown()) };
            if shape.is_some_and(|shape| shape != part.shape) {
                return Err(format!("input '{}' has rows of different shapes", input.name));
            }
            shape = Some(&part.shape);
            raw.extend_from_slice(&part.raw);
        }
        let instances = table.then_some(rows.len() as u64);
        let shape = instances.into_iter().chain(shape.unwrap_or_default().iter().copied());
        tensors.push(Tensor {
            name: input.name.clone(),
            datatype: Datatype::parse(&input.datatype)?,
            shape: shape.collect(),
            raw,
        });
    }
    if tensors.is_empty() {
        return Err("none of its inputs was logged".to_owned());
    }
    Ok(tensors)
}

#[cfg(test)]
#[path = "log/log_tests.rs"]
mod tests;
