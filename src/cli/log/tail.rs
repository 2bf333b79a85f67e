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
        ahead::Ahead,
        export,
        reader::{Filter, Log, LogFile, ReadError, failed, rows},
        value::Value,
    },
};

/// How often the directories are looked at while following: as often as a server writes ahead by default.
const LOOK: Duration = Duration::from_millis(100);

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
    let (known, ahead) = (HashSet::new(), Ahead::default());
    let mut tail = Tail { log, filter, known, ahead };
    let latest = tail.latest(args.lines).map_err(unread)?;
    if latest.is_empty() && !args.follow {
        return Err(nothing());
    }
    let mut open = write(&latest, args.place.output);
    while args.follow && open {
        std::thread::sleep(LOOK);
        let lines = tail.fresh().map_err(unread)?;
        open = write(&lines, args.place.output);
    }
    Ok(ExitCode::SUCCESS)
}

struct Tail {
    log: Log,
    filter: Filter,
    /// Files whose rows were looked at.
    known: HashSet<PathBuf>,
    ahead: Ahead,
}

impl Tail {
    /// The latest rows of all, oldest first. Files are read from the newest hour on, and no more of them than needed.
    fn latest(&mut self, count: usize) -> Result<Vec<Line>, ReadError> {
        let mut last = Last::of(count);
        self.written_ahead(|line| last.push(line))?;
        let mut found = last.end();
        let mut files = self.log.files(&self.filter)?;
        self.known.extend(files.iter().map(|file| file.path.clone()));
        files.sort_by_key(|file| std::cmp::Reverse(file.partition.begins()));
        for hour in files.chunk_by(|a, b| a.partition.begins() == b.partition.begins()) {
            // What was written ahead may be of an hour that is over.
            let enough = found.iter().filter(|(ts, _)| *ts >= hour[0].partition.ends()).count();
            if enough >= count {
                break;
            }
            for file in hour {
                let mut last = Last::of(count);
                self.each(file, |line| last.push(line))?;
                found.extend(last.end());
            }
        }
        found.sort_by_key(|(ts, _)| *ts);
        let surplus = found.len().saturating_sub(count);
        Ok(found.split_off(surplus))
    }

    /// The rows that were not there before, wherever they are.
    fn fresh(&mut self) -> Result<Vec<Line>, ReadError> {
        let mut found = Vec::new();
        self.written_ahead(|line| found.push(line))?;
        for file in self.log.files(&self.filter)? {
            let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
            // What a compaction made holds rows that were there.
            let old = name.is_some_and(|name| name.starts_with("part-compact-"));
            if self.known.insert(file.path.clone()) && !old {
                self.each(&file, |line| found.push(line))?;
            }
        }
        found.sort_by_key(|(ts, _)| *ts);
        Ok(found)
    }

    fn written_ahead(&mut self, mut with: impl FnMut(Line)) -> Result<(), ReadError> {
        let Tail { log, filter, ahead, .. } = self;
        ahead.read(log, filter, |cells| with(line(cells)))
    }

    /// The rows of a file that were not seen in the write-ahead log.
    fn each(&self, file: &LogFile, mut with: impl FnMut(Line)) -> Result<(), ReadError> {
        for batch in rows(file, &self.filter, None)? {
            let batch = self.ahead.fresh(file, batch?)?;
            let each = |cells: &[(&str, Value)]| {
                with(line(cells));
                Ok(())
            };
            export::each_row(&batch, each).map_err(|why| failed(&file.path, why))?;
        }
        Ok(())
    }
}

/// The last so many by time.
struct Last {
    count: usize,
    lines: VecDeque<Line>,
}

impl Last {
    fn of(count: usize) -> Last {
        Last { count, lines: VecDeque::new() }
    }

    fn push(&mut self, line: Line) {
        self.lines.push_back(line);
        if self.lines.len() > 2 * self.count.max(512) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.lines.make_contiguous().sort_by_key(|(ts, _)| *ts);
        self.lines.drain(..self.lines.len().saturating_sub(self.count));
    }

    fn end(mut self) -> Vec<Line> {
        self.cut();
        self.lines.into()
    }
}

fn line(cells: &[(&str, Value)]) -> Line {
    let ts = cells.iter().find_map(|(name, cell)| match cell {
        Value::Time(us) if *name == "ts" => Some(*us),
        _ => None,
    });
    let set = cells.iter().filter(|(_, cell)| *cell != Value::Null);
    let cells = set.map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
    (ts.unwrap_or(0), cells)
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
