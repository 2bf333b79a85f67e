//! `onnxd log verify`: whether the log is what it says it is.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::{Failure, Place, Range, now_us, progress::Progress, relative, unread};
use crate::{
    cli::output::{self, Output},
    predlog::{
        accounts::{self, Rows, Seen, Settled},
        ahead,
        inventory::{self, There},
        reader::{Filter, Log, LogFile, ReadError},
        verify::{self, Checked},
    },
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    place: Place,
}

/// One of the log's files, whatever it is.
#[derive(Serialize)]
struct Line {
    file: String,
    rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Of a segment: of a write that was cut off, or is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<u64>,
    problems: Vec<String>,
}

#[derive(Default)]
struct Findings {
    files: Vec<Line>,
    wal: Vec<Line>,
    starts: Vec<Settled>,
    /// Of what is none of these: `where: what`.
    problems: Vec<String>,
    unlisted: usize,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (log, filter) = (args.place.open()?, args.range.filter()?);
    let findings = look(&log, &filter).map_err(unread)?;
    let problems = findings.lines();
    let rows: u64 = findings.files.iter().map(|line| line.rows).sum();
    let ahead: u64 = findings.wal.iter().map(|line| line.rows).sum();
    let bad = findings.files.iter().filter(|line| !line.problems.is_empty()).count();
    match args.place.output {
        Output::Json => {
            let all = json!({
                "files": findings.files, "wal": findings.wal, "starts": findings.starts,
                "rows": rows, "rows_ahead": ahead, "bad_files": bad, "unlisted_files": findings.unlisted,
                "problems": problems,
            });
            output::show(&all, Output::Json);
        }
        Output::Text => {
            problems.iter().for_each(|problem| output::say(problem));
            output::say(&format!(
                "{} files, {rows} rows read, {bad} files do not hold; {ahead} rows written ahead; {} accounts of rows, one for each start and model",
                findings.files.len(),
                findings.starts.len()
            ));
        }
    }
    match problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Failure::does_not_hold("the log does not hold: 1 problem")),
        n => Err(Failure::does_not_hold(format!("the log does not hold: {n} problems"))),
    }
}

impl Findings {
    fn lines(&self) -> Vec<String> {
        let of_files = self.files.iter().chain(&self.wal).flat_map(|line| {
            line.problems.iter().map(move |problem| format!("{}: {problem}", line.file))
        });
        let of_starts = self.starts.iter().flat_map(|settled| {
            let Settled { start, model, problems, .. } = settled;
            problems
                .iter()
                .map(move |problem| format!("_manifest/{start}.json: {model}: {problem}"))
        });
        of_files.chain(of_starts).chain(self.problems.iter().cloned()).collect()
    }
}

/// In the order in which rows go: the accounts, what is written ahead, the files, the list of them.
fn look(log: &Log, filter: &Filter) -> Result<Findings, ReadError> {
    let mut findings = Findings::default();
    // What parts of the log add up to, no account says.
    let whole = filter.version.is_none() && filter.from.is_none() && filter.to.is_none();
    let (told, problems) = accounts::read(&log.root)?;
    findings.problems = problems;
    let mut rows = Rows::new();
    written_ahead(log, filter, &mut rows, &mut findings)?;
    let from_us = now_us();
    let checked = files(log, filter)?;
    let names: Vec<String> = checked.iter().map(|(file, _)| relative(log, file)).collect();
    let listed = inventory::read(&log.root)?;
    findings.problems.extend(listed.problems.iter().cloned());
    let as_read = |(name, (_, checked)): (_, &(LogFile, Checked))| {
        let Checked { rows, bytes, sha256, .. } = checked.clone();
        Seen { file: String::as_str(name), there: There { rows, bytes, sha256 } }
    };
    let seen: Vec<Seen<'_>> = names.iter().zip(&checked).map(as_read).collect();
    let mut differ = accounts::compare(&log.root, &listed, (filter, from_us), &seen)?;
    findings.unlisted = accounts::unlisted(&listed, &seen);
    for (name, (_, checked)) in names.iter().zip(&checked) {
        let mut problems = checked.problems.clone();
        differ.retain(|(file, problem)| {
            let own = file == name;
            problems.extend(own.then(|| problem.clone()));
            !own
        });
        let (file, sha256) = (name.clone(), Some(checked.sha256.clone()));
        findings.files.push(Line { file, rows: checked.rows, sha256, torn_bytes: None, problems });
    }
    findings
        .problems
        .extend(differ.into_iter().map(|(file, problem)| format!("{file}: {problem}")));
    if whole {
        accounts::rotated(&listed, &mut rows);
        findings.starts = accounts::settle(&told, &rows, filter.model.as_deref());
    }
    Ok(findings)
}

fn written_ahead(
    log: &Log,
    filter: &Filter,
    rows: &mut Rows,
    findings: &mut Findings,
) -> Result<(), ReadError> {
    for written in ahead::segments(&log.root)? {
        let Some(held) = ahead::held(&written.path)? else { continue };
        let other = held
            .model
            .as_ref()
            .is_some_and(|model| filter.model.as_ref().is_some_and(|asked| asked != model));
        if other {
            continue;
        }
        if let Some(model) = held.model {
            *rows.entry((written.start, model)).or_default() += held.rows;
        }
        findings.wal.push(Line {
            file: written
                .path
                .strip_prefix(&log.root)
                .unwrap_or(&written.path)
                .display()
                .to_string(),
            rows: held.rows,
            sha256: None,
            torn_bytes: Some(held.torn_bytes),
            problems: held.problem.into_iter().collect(),
        });
    }
    Ok(())
}

/// Reads every file whole. One that has gone meanwhile is left out: whether it may have, the list says.
fn files(log: &Log, filter: &Filter) -> Result<Vec<(LogFile, Checked)>, ReadError> {
    let files = log.files(filter)?;
    let bar = Progress::of(files.len(), "files");
    let mut all = Vec::new();
    for hour in files.chunk_by(|a, b| a.partition == b.partition) {
        let mut seen = verify::Seen::default();
        for file in hour {
            match verify::file(&log.root, file, &mut seen) {
                Ok(checked) => all.push((file.clone(), checked)),
                Err(_) if !file.path.exists() => {}
                Err(error) => return Err(error),
            }
            bar.at(all.len());
        }
    }
    Ok(all)
}
