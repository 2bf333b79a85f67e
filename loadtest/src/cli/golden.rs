//! `onnxd loadtest golden`: records a server's answers, for later runs to be held against.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use super::{
    Failure,
    flags::{RequestFlags, ServerFlags},
    output,
    run::no_server,
    session::Session,
};
use crate::{plan::Shard, prepare::golden, scenario::Scenario};

/// Record a server's answers, for `run --golden` to hold others against
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest golden --url grpc://localhost:8001 --model wine --out wine.golden.jsonl\n  onnxd loadtest run --url grpc://localhost:8001 --model wine --golden wine.golden.jsonl --rate 500\n\nThe same seed, rows, shapes and inputs must be asked for in the run."
)]
pub struct Args {
    /// The file to write, a line for each request
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    requests: RequestFlags,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut scenario = Scenario::default();
    args.server.over(&mut scenario).map_err(Failure::usage)?;
    args.requests.over(&mut scenario).map_err(Failure::usage)?;
    let url = scenario.target.url.clone().ok_or_else(no_server)?;
    let [_] = &scenario.mix[..] else {
        return Err(Failure::usage("expected one --model; recorded answers are of one".into()));
    };
    let session = Session::open(&scenario, &url, Shard::WHOLE, Arc::default(), true)?;
    let recorded = golden::record(&session.plan(&[]), &args.out)?;
    output::say(&format!("{recorded} answers recorded in {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
