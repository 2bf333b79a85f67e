//! `onnxd log tail`: the latest rows, and those that come.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use serde_json::Value as Json;

use super::{Failure, Place, Rows, nothing, unread};
use crate::{
    cli::output::Output,
    predlog::{
        export,
        reader::{Filter, Log, LogFile, ReadError, failed, rows},
        value::Value,
    },
};

/// How often the directories are looked at while following.
const LOOK: Duration = Duration::from_millis(250);

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    rows: Rows,
    /// How many of the latest rows
    #[arg(short = 'n', long, value_name = "ROWS", default_value_t = 10)]
    lines: usize,
    /// Go on with the rows that come, until interrupted
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    place: Place,
}

/// A row with what orders it.
type Line = (i64, Vec<(String, Value)>);

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let log = args.place.open()?;
    let filter = args.rows.filter()?;
    let mut known = HashSet::new();
    let latest = latest(&log, &filter, args.lines, &mut known).map_err(unread)?;
    if latest.is_empty() && !args.follow {
        return Err(nothing());
    }
    let mut open = write(&latest, args.place.output);
    while args.follow && open {
        std::thread::sleep(LOOK);
        let lines = fresh(&log, &filter, &mut known).map_err(unread)?;
        open = write(&lines, args.place.output);
    }
    Ok(ExitCode::SUCCESS)
}

/// The latest rows of all files, oldest first. Files are read from the newest hour on, and no more of them than needed.
fn latest(
    log: &Log,
    filter: &Filter,
    count: usize,
    known: &mut HashSet<PathBuf>,
) -> Result<Vec<Line>, ReadError> {
    let mut files = log.files(filter)?;
    known.extend(files.iter().map(|file| file.path.clone()));
    files.sort_by_key(|file| std::cmp::Reverse(file.partition.begins()));
    let mut found: Vec<Line> = Vec::new();
    for hour in files.chunk_by(|a, b| a.partition.begins() == b.partition.begins()) {
        if found.len() >= count {
            break;
        }
        for file in hour {
            found.extend(last_of(file, filter, count)?);
        }
    }
    found.sort_by_key(|(ts, _)| *ts);
    let surplus = found.len().saturating_sub(count);
    Ok(found.split_off(surplus))
}

/// The last rows of a file, by time.
fn last_of(file: &LogFile, filter: &Filter, count: usize) -> Result<Vec<Line>, ReadError> {
    let mut last: VecDeque<Line> = VecDeque::new();
    each(file, filter, |line| {
        last.push_back(line);
        if last.len() > 2 * count.max(512) {
            last.make_contiguous().sort_by_key(|(ts, _)| *ts);
            last.drain(..last.len() - count);
        }
    })?;
    last.make_contiguous().sort_by_key(|(ts, _)| *ts);
    Ok(last.into_iter().rev().take(count).rev().collect())
}

/// The rows of files that were not there before.
fn fresh(log: &Log, filter: &Filter, known: &mut HashSet<PathBuf>) -> Result<Vec<Line>, ReadError> {
    let mut found = Vec::new();
    for file in log.files(filter)? {
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
        // What a compaction made holds rows that were there.
        let old = name.is_some_and(|name| name.starts_with("part-compact-"));
        if known.insert(file.path.clone()) && !old {
            each(&file, filter, |line| found.push(line))?;
        }
    }
    found.sort_by_key(|(ts, _)| *ts);
    Ok(found)
}

fn each(file: &LogFile, filter: &Filter, mut with: impl FnMut(Line)) -> Result<(), ReadError> {
    for batch in rows(file, filter, None)? {
        export::each_row(&batch?, |cells| {
            let ts = cells.iter().find_map(|(name, cell)| match cell {
                Value::Time(us) if *name == "ts" => Some(*us),
                _ => None,
            });
            let set = cells.iter().filter(|(_, cell)| *cell != Value::Null);
            let cells = set.map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
            with((ts.unwrap_or(0), cells));
            Ok(())
        })
        .map_err(|why| failed(&file.path, why))?;
    }
    Ok(())
}

/// Writes the rows; false where nobody reads any more.
fn write(lines: &[Line], output: Output) -> bool {
    let mut out = io::stdout().lock();
    let written = lines.iter().try_for_each(|(_, cells)| match output {
        Output::Json => {
            let object = cells.iter().map(|(name, cell)| (name.clone(), cell.json())).collect();
            writeln!(out, "{}", Json::Object(object))
        }
        Output::Text => writeln!(out, "{}", person(cells)),
    });
    written.and_then(|()| out.flush()).is_ok()
}

/// What stands first in a person's line; inputs and outputs follow.
const FIRST: [&str; 7] =
    ["ts", "model_name", "model_version", "route", "status", "total_us", "request_id"];

fn person(cells: &[(String, Value)]) -> String {
    let text = |cell: &Value| -> String {
        cell.text().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    };
    let head = FIRST
        .iter()
        .map(|name| cells.iter().find(|(n, _)| n == name).map_or("-".to_owned(), |(_, c)| text(c)));
    let mut parts: Vec<String> = head.collect();
    let values = cells.iter().filter(|(name, _)| {
        ["in_", "out_", "pred_"].iter().any(|start| name.starts_with(start)) || name == "error_code"
    });
    parts.extend(values.map(|(name, cell)| format!("{name}={}", text(cell))));
    parts.join(" ")
}
