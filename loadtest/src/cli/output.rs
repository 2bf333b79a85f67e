//! Where results go: text or JSON on standard output, files, and the exit code that follows from the verdict.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{Failure, show};
use crate::{
    report::{html, json::Report},
    search::End,
    slo::Outcome,
};

/// `--output`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// Where the result goes.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Results")]
pub struct OutFlags {
    /// Write everything that was measured to a file, for `report`, `compare` and `merge`; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page for a browser to a file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// For people or for machines, on standard output (figures and verdict alone; --json has everything)
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Say nothing while it runs
    #[arg(long)]
    pub quiet: bool,
}

/// Writes to standard output. A reader that has gone is no failure.
pub fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}

impl OutFlags {
    /// Refuses, before any load, files that could not be written after it.
    pub fn check(&self) -> Result<(), Failure> {
        let files = self.json.iter().chain(&self.html).filter(|path| *path != Path::new("-"));
        for path in files {
            let there = path.exists();
            let opened = fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|e| {
                Failure::failed(format!("{}: cannot be written: {e}", path.display()))
            })?;
            if !there {
                // It was only tried: a run that fails leaves no empty report.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Writes a result to wherever it was asked for.
    pub fn write(&self, report: &Report) -> Result<(), Failure> {
        let to_stdout = self.json.as_deref() == Some(Path::new("-"));
        match self.output {
            _ if to_stdout => {}
            Output::Text => say(&show::text(report)),
            Output::Json => {
                let mut figures = serde_json::to_value(report).map_err(|e| e.to_string())?;
                if let Some(map) = figures.as_object_mut() {
                    map.remove("stretches");
                }
                say(&format!("{figures:#}"));
            }
        }
        if let Some(path) = &self.json {
            report.write(path)?;
        }
        if let Some(path) = &self.html {
            let written = fs::write(path, html::page(report));
            written.map_err(|e| format!("{}: cannot be written: {e}", path.display()))?;
        }
        Ok(())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::failed(message)
    }
}

/// The exit code of what was found.
pub fn code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Held => 0,
        Outcome::Broken => 3,
        Outcome::TooLittle => 4,
    })
}

/// What a report comes to as a whole.
pub fn outcome(report: &Report) -> Outcome {
    let searched = report.search.as_ref().map(|found| match (found.end, found.rate) {
        (End::NothingHolds, _) => Outcome::Broken,
        (End::Precise | End::EverythingHolds, Some(_)) => Outcome::Held,
        _ => Outcome::TooLittle,
    });
    let drawn = report.knee.as_ref().map(|curve| {
        let too_little = report.interrupted || curve.points.len() < 2;
        if too_little { Outcome::TooLittle } else { Outcome::Held }
    });
    let compared = report.comparison.as_ref().map(|comparison| {
        let rounds = comparison.rounds.unwrap_or(usize::MAX);
        if rounds < 2 { Outcome::TooLittle } else { comparison.outcome() }
    });
    let mlperf = report.mlperf.as_ref().map(|mlperf| mlperf.outcome);
    let wrong = (report.verdict.wrong > 0).then_some(Outcome::Broken);
    [searched, drawn, compared, mlperf, wrong]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(report.verdict.outcome)
}
