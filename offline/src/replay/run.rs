//! Runs a replay: rows of the log in their order, as fast as can be or at the speed at which they came.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use arrow_array::{Int32Array, RecordBatch};
use onnxd::predlog::{
    blobs,
    reader::{Filter, LogFile, Opened, ReadError, failed, rows, times},
    stat::Spread,
    value::{self, Value},
};

use super::{
    Target,
    compare::{Findings, Logged, Row, Tolerance, logged},
    elements::values,
    inputs::{Blobs, Plan},
};
use crate::coverage::{column, numbers, texts};

/// What is replayed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows asked at once, of a table.
    pub batch: usize,
    /// At most so many rows.
    pub limit: u64,
    /// Times the speed at which they came; `None`: as fast as can be.
    pub speed: Option<f64>,
    pub tolerance: Tolerance,
    pub routes: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub findings: Findings,
    /// Rows that were not asked, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Rows that the target refused, by what it said.
    pub refused: BTreeMap<String, u64>,
    /// Microseconds of an answer.
    pub took: Spread,
    pub requests: u64,
    pub elapsed: Duration,
    /// By version: rows that were logged of it.
    pub versions: BTreeMap<String, u64>,
}

/// Different reasons that are told apart.
const REASONS: usize = 20;

struct Replay<'a> {
    target: &'a mut dyn Target,
    options: &'a Options,
    outcome: Outcome,
    began: Instant,
    first: Option<i64>,
    left: u64,
}

/// Replays rows that were answered (status 200), oldest hour first. `seen` is told after each file.
pub fn run(
    files: &[LogFile],
    filter: &Filter,
    (target, options): (&mut dyn Target, &Options),
    mut seen: impl FnMut(usize),
) -> Result<Outcome, ReadError> {
    let began = Instant::now();
    let outcome = Outcome::default();
    let mut replay = Replay { target, options, outcome, began, first: None, left: options.limit };
    for (n, file) in files.iter().enumerate() {
        if replay.left == 0 {
            break;
        }
        replay.file(file, filter)?;
        seen(n + 1);
    }
    replay.outcome.elapsed = replay.began.elapsed();
    Ok(replay.outcome)
}

impl Replay<'_> {
    fn file(&mut self, file: &LogFile, filter: &Filter) -> Result<(), ReadError> {
        let roles = Opened::at(&file.path)?.roles()?;
        let plan = Plan::of(&roles, self.target.inputs());
        let columns = logged(&roles);
        let blobs = |reference: &str| match blobs::read(file.root(), reference) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err("a blob of it is there no more".to_owned()),
            Err(why) => Err(why.0),
        };
        for batch in rows(file, filter, None)? {
            let batch = batch?;
            let chosen = self.chosen(&batch).map_err(|why| failed(&file.path, why))?;
            let version = file.partition.version.clone();
            *self.outcome.versions.entry(version).or_default() += chosen.len() as u64;
            match &plan {
                Err(why) => count(&mut self.outcome.skipped, why, chosen.len() as u64),
                Ok(plan) => {
                    self.batch(plan, &columns, (&batch, &blobs), &chosen)
                        .map_err(|why| failed(&file.path, why))?;
                }
            }
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Which rows of a batch are replayed.
    fn chosen(&mut self, batch: &RecordBatch) -> Result<Vec<usize>, String> {
        let (status, routes) = (numbers(batch, "status")?, texts(batch, "route")?);
        let wanted = |row: &usize| {
            status.value(*row) == 200 && self.options.routes.iter().any(|r| r == routes.value(*row))
        };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let chosen: Vec<usize> = (0..batch.num_rows()).filter(wanted).take(most).collect();
        self.left -= chosen.len() as u64;
        Ok(chosen)
    }

    fn batch(
        &mut self,
        plan: &Plan,
        columns: &[Logged],
        (batch, blobs): (&RecordBatch, Blobs<'_>),
        chosen: &[usize],
    ) -> Result<(), String> {
        let times = times(batch)?;
        let size = if plan.table { self.options.batch } else { 1 };
        // Rows asked at once follow one another in the log.
        for run in chosen.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(size)) {
            self.wait(times.value(run[0]));
            match plan.request((batch, blobs), run[0], run.len()) {
                Ok(body) => self.ask(&body, columns, (batch, blobs), run)?,
                // One of them lacks something: the others are asked alone.
                Err(_) if run.len() > 1 => {
                    for row in run {
                        match plan.request((batch, blobs), *row, 1) {
                            Ok(body) => self.ask(&body, columns, (batch, blobs), &[*row])?,
                            Err(why) => count(&mut self.outcome.skipped, &why, 1),
                        }
                    }
                }
                Err(why) => count(&mut self.outcome.skipped, &why, 1),
            }
        }
        Ok(())
    }

    /// Until it is time for a row received at `ts`. A target that is too slow is not waited for.
    fn wait(&mut self, ts: i64) {
        let first = *self.first.get_or_insert(ts);
        let Some(speed) = self.options.speed else { return };
        let due = Duration::from_secs_f64((ts - first).max(0) as f64 / 1e6 / speed);
        thread::sleep(due.saturating_sub(self.began.elapsed()));
    }

    fn ask(
        &mut self,
        body: &serde_json::Value,
        columns: &[Logged],
        (batch, blobs): (&RecordBatch, Blobs<'_>),
        run: &[usize],
    ) -> Result<(), String> {
        let asked = Instant::now();
        let answer = self.target.ask(body);
        self.outcome.requests += 1;
        let outputs = match answer {
            Ok(outputs) => outputs,
            Err(why) => {
                count(&mut self.outcome.refused, &why, run.len() as u64);
                return Ok(());
            }
        };
        self.outcome.took.add(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        let ids = texts(batch, "request_id")?;
        let numbers: &Int32Array = column(batch, "row")?;
        for (at, row) in run.iter().enumerate() {
            let cells: Result<Vec<_>, String> = columns
                .iter()
                .filter_map(|logged| Some((logged, batch.column_by_name(&logged.column)?)))
                .map(|(logged, column)| {
                    let cell = value::at(column.as_ref(), *row)?;
                    Ok((logged, whole(logged, cell, blobs)))
                })
                .collect();
            let name = Row { request_id: ids.value(*row), row: i64::from(numbers.value(*row)) };
            let place = ((at, run.len()), self.options.tolerance);
            self.outcome.findings.add(name, &cells?, &outputs, place);
        }
        Ok(())
    }
}

/// What a cell refers to, where it does; null, as what was not logged, where that is there no more.
fn whole(logged: &Logged, cell: Value, blobs: Blobs<'_>) -> Value {
    let (Some(datatype), Value::Text(reference)) = (logged.blob, &cell) else { return cell };
    let bytes = blobs(reference).ok();
    bytes.and_then(|bytes| values(datatype, &bytes)).map_or(Value::Null, Value::List)
}

fn count(counts: &mut BTreeMap<String, u64>, why: &str, rows: u64) {
    let key = if counts.contains_key(why) || counts.len() < REASONS { why } else { "(other)" };
    if rows > 0 {
        *counts.entry(key.to_owned()).or_default() += rows;
    }
}
