//! `onnxd loadtest mlperf`: a run in the manner of MLPerf's LoadGen.

use std::process::ExitCode;

use super::{
    Failure,
    draft::Draft,
    flags::{RequestFlags, ServerFlags},
    output::{self, OutFlags},
    run::{no_server, now, part},
    session::Session,
    signals,
};
use crate::{
    campaign::{self, Load},
    mlperf::{Asked, Rules, Scenario as Style},
    plan::Shard,
    scenario::Scenario,
    slo::Slo,
    units::{Rate, Span},
    watch::Seen,
};

/// Run in the manner of MLPerf's LoadGen: its scenarios, percentiles and least numbers of queries (MLPerf-style, and no more)
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest mlperf --scenario SingleStream --url grpc://localhost:8001 --model resnet50\n  onnxd loadtest mlperf --scenario Server --rate 200 --latency 15ms --url grpc://localhost:8001 --model resnet50\n  onnxd loadtest mlperf --scenario Offline --duration 60s --rows 8 --url grpc://localhost:8001 --model resnet50\n\nExit codes: 0 valid, 3 an answer failed or the latency limit is broken, 4 fewer queries or a shorter run than asked for."
)]
pub struct Args {
    /// SingleStream: one query after the other, p90 of latency. MultiStream: queries of 8 samples, p99. Server: Poisson arrivals of
    /// --rate, p99 within --latency. Offline: samples a second
    #[arg(long, value_enum, ignore_case = true)]
    scenario: Style,
    /// Queries a second, of the Server scenario
    #[arg(long, value_name = "RATE", required_if_eq("scenario", "Server"))]
    rate: Option<Rate>,
    /// What the 99th percentile may be, of the Server scenario
    #[arg(long, value_name = "SPAN", required_if_eq("scenario", "Server"))]
    latency: Option<Span>,
    /// How long it runs at least; the rules ask for ten minutes
    #[arg(long, value_name = "SPAN")]
    duration: Option<Span>,
    /// Queries under way at once, of the Offline scenario
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    callers: u32,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    requests: RequestFlags,
    #[command(flatten)]
    out: OutFlags,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut scenario = Scenario::default();
    args.server.over(&mut scenario).map_err(Failure::usage)?;
    let mut requests = args.requests.clone();
    let rules = args.scenario.rules();
    let fixed = rules.samples_per_query;
    if args.scenario == Style::MultiStream && requests.rows.is_some_and(|rows| rows != fixed) {
        return Err(Failure::usage(format!("--rows: a MultiStream query has {fixed} samples")));
    }
    if args.scenario != Style::Offline && requests.rows.is_none() && requests.input.is_none() {
        requests.rows = (!requests.model.is_empty()).then_some(fixed);
    }
    requests.over(&mut scenario).map_err(Failure::usage)?;
    let url = scenario.target.url.clone().ok_or_else(no_server)?;
    let [_] = &scenario.mix[..] else {
        return Err(Failure::usage("expected one --model; such a run is of one".into()));
    };
    args.out.check()?;
    let stop = signals::stop()?;
    let mut session = Session::open(&scenario, &url, Shard::WHOLE, stop, args.out.quiet)?;
    let rows = session.rows().unwrap_or(1);
    let asked = Asked {
        scenario: args.scenario,
        rules: Rules {
            min_duration: args.duration.map_or(rules.min_duration, |span| span.0),
            ..rules
        },
        limit: args.latency.map(|span| span.0),
    };
    let begun = now();
    let load = (args.rate.map_or(0.0, |rate| rate.0), args.callers as usize);
    let seed = scenario.seed.unwrap_or(super::session::SEED);
    let (tried, result) = campaign::mlperf(&mut session, &asked, load, rows, seed)?;
    let frame = tried.frame(session.variants(), &Slo::default());
    let draft = Draft::of(&session, &scenario).with_phases(&tried.phases);
    let mut report = draft.report(&tried.measured, frame, Vec::new());
    report.mlperf = Some(result);
    report.parts = vec![part(Shard::WHOLE, begun, Seen::default())];
    args.out.write(&report)?;
    Ok(output::code(output::outcome(&report)))
}
