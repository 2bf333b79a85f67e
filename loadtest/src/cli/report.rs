//! `onnxd loadtest report`: a stored result, shown again.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Failure,
    output::{self, OutFlags, Output},
};
use crate::report::json::Report;

/// Show a stored result again, as text or as a page for a browser
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest report result.json\n  onnxd loadtest report result.json --html result.html\n\nExit codes: those of `run`, as the result says."
)]
pub struct Args {
    /// A report that --json wrote
    #[arg(value_name = "REPORT.json")]
    report: PathBuf,
    /// Write a page for a browser to a file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let report = Report::read(&args.report)?;
    let out = OutFlags { json: None, html: args.html.clone(), output: args.output, quiet: true };
    out.check()?;
    out.write(&report)?;
    Ok(output::code(output::outcome(&report)))
}
