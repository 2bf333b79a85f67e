//! `onnxd loadtest merge`: the results of several generators of one load, as one.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Failure,
    output::{self, OutFlags, Output},
};
use crate::{merge, report::json::Report};

/// Put the results of several generators of one load together, without loss
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest merge pod-0.json pod-1.json pod-2.json -o all.json\n  onnxd loadtest merge pod-*.json --html all.html\n\nExit codes: those of `run`, for all of them together."
)]
pub struct Args {
    /// Reports that --json wrote, each of a shard of its own
    #[arg(value_name = "REPORT.json", required = true, num_args = 1..)]
    reports: Vec<PathBuf>,
    /// Write the merged report to a file; - is standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a page for a browser to a file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut merged: Option<Report> = None;
    for path in &args.reports {
        let next = Report::read(path)?;
        merged = Some(match merged {
            None => next,
            Some(so_far) => {
                merge::merge(&so_far, &next).map_err(|e| format!("{}: {e}", path.display()))?
            }
        });
    }
    let merged = merged.ok_or_else(|| Failure::usage("expected reports to merge".into()))?;
    let out = OutFlags {
        json: args.out.clone(),
        html: args.html.clone(),
        output: args.output,
        quiet: true,
    };
    out.check()?;
    out.write(&merged)?;
    Ok(output::code(output::outcome(&merged)))
}
