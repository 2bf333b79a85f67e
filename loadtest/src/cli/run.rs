//! `onnxd loadtest run`: one load on one server, a search, a knee, or two servers in turn.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Failure,
    draft::Draft,
    flags::{LoadFlags, LogFlags, RequestFlags, ServerFlags, ShardFlags},
    many::{self, ManyFlags},
    output::{self, OutFlags},
    session::{SEED, Session},
    signals,
};
use crate::{
    campaign::Load,
    events,
    plan::Shard,
    record::Measured,
    report::{environment::Environment, json::Part},
    scenario::{Resolved, Scenario},
    summary::{Frame, Summary},
    together,
    watch::{self, Seen},
};

/// Put load on a server and say whether it holds its objectives
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest run --url grpc://localhost:8001 --model wine --rate 500 --duration 30s --slo 'p99<20ms'\n  onnxd loadtest run loadtest/scenarios/sidecar.yaml --html report.html --json report.json\n  onnxd loadtest run --url http://localhost:8000 --model wine --slo 'p99<20ms' --search\n  onnxd loadtest run --url http://localhost:8000 --model wine --slo 'p99<20ms' --knee --html knee.html\n  onnxd loadtest run --url grpc://new:8001 --against grpc://old:8001 --model wine --rate 500 --ratio 'p99<1.05'\n  onnxd loadtest run --url grpc://localhost:8001 --log predictions --model wine --from 2h --speed 10\n\nExit codes: 0 the objectives hold (or none were stated), 1 it could not be run, 2 wrong usage, 3 an objective is broken or an answer\nwas wrong, 4 too little was measured to say."
)]
pub struct Args {
    /// A scenario, a YAML file; flags are laid over it
    #[arg(value_name = "SCENARIO")]
    pub scenario: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerFlags,
    #[command(flatten)]
    pub requests: RequestFlags,
    #[command(flatten)]
    pub log: LogFlags,
    #[command(flatten)]
    pub load: LoadFlags,
    #[command(flatten)]
    pub many: ManyFlags,
    #[command(flatten)]
    pub beside: BesideFlags,
    #[command(flatten)]
    pub shard: ShardFlags,
    #[command(flatten)]
    pub out: OutFlags,
}

/// What is looked at beside the load.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Beside the load")]
pub struct BesideFlags {
    /// The server's metrics page, or off [default: http://HOST:8002/metrics, where the server is on its usual port]
    #[arg(long, value_name = "URL")]
    pub metrics: Option<String>,
    /// A process of the server, where it runs on this machine: its CPU and memory are shown; may be repeated
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut scenario = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => Scenario::default(),
    };
    args.server.over(&mut scenario).map_err(Failure::usage)?;
    args.requests.over(&mut scenario).map_err(Failure::usage)?;
    args.log.over(&args.requests, &mut scenario)?;
    let load = args.log.load(&args.load, &scenario).map_err(Failure::usage)?;
    load.over(&mut scenario).map_err(Failure::usage)?;
    let url = scenario.target.url.clone().ok_or_else(no_server)?;
    args.out.check()?;
    let stop = signals::stop()?;
    if args.many.asked() {
        return many::run(args, &scenario, &url, stop);
    }
    plain(args, &scenario, &url, stop)
}

pub fn no_server() -> Failure {
    Failure::usage("no server to load; expected --url, or target.url in a scenario".to_owned())
}

/// One load on one server.
fn plain(
    args: &Args,
    scenario: &Scenario,
    url: &str,
    stop: Arc<AtomicBool>,
) -> Result<ExitCode, Failure> {
    if scenario.phases.is_empty() {
        return Err(Failure::usage(
            "no load to put on it; expected --rate, --arrivals or a scenario with phases"
                .to_owned(),
        ));
    }
    let resolved = scenario.resolve()?;
    let shard = args.shard.shard.unwrap_or(Shard::WHOLE);
    let mut session = Session::open(scenario, url, shard, stop.clone(), args.out.quiet)?;
    if let Some(every) = args.shard.start_every
        && !together::wait(every.0, &stop)
    {
        return Err(Failure { code: 4, message: "interrupted before anything was sent".into() });
    }
    let begun = now();
    let (measured, seen) = watched(args, scenario, &resolved, &mut session, stop)?;
    let frame = Frame::of(&session.plan(&resolved.phases), &resolved.slos);
    let failures = seen.failures();
    let mut report = Draft::of(&session, scenario).report(&measured, frame, resolved.slos.clone());
    report.summary = Summary::of(&measured, &report.frame);
    report.verdict = events::verdict::judge(&resolved.slos, &measured, &report.frame, &seen.own());
    report.parts = vec![part(shard, begun, seen)];
    args.out.write(&report)?;
    if !failures.is_empty() {
        return Err(Failure::failed(failures.join("\n")));
    }
    let says_nothing = report.verdict.findings.is_empty() && report.verdict.wrong == 0;
    if report.summary.total.good == 0 && says_nothing && !measured.interrupted {
        return Err(Failure::failed("no request had a good answer"));
    }
    if shard.of > 1 {
        // What one generator saw is no verdict on the load of all of them, and would end a Job before the others are done.
        return Ok(ExitCode::SUCCESS);
    }
    Ok(output::code(output::outcome(&report)))
}

/// What is said to whoever ends a run, while commands under way are waited for and results are written.
const STOPPED: &str = "interrupted: writing what was measured (again: ends at once)";

/// Runs the load with whatever goes on beside it.
fn watched(
    args: &Args,
    scenario: &Scenario,
    resolved: &Resolved,
    session: &mut Session,
    stop: Arc<AtomicBool>,
) -> Result<(Measured, Seen), Failure> {
    let watch = watch::Options {
        server: session.scrape(scenario, args.beside.metrics.as_deref(), &args.beside.pid)?,
        events: resolved.events.clone(),
        environment: vec![("LOADTEST_URL".to_owned(), session.url.clone())],
        stop,
    };
    let watch = watch.begin()?;
    let seed = scenario.seed.unwrap_or(SEED);
    let run = session.run_beside(&resolved.phases, seed, |progress| {
        watch.progress(progress.phase, progress.elapsed)
    });
    if session.stopped() {
        session.tell(STOPPED);
    }
    let frame = Frame::of(&session.plan(&resolved.phases), &resolved.slos);
    // Also where the run failed: commands under way are waited for.
    let seen = watch.end(run.as_ref().unwrap_or(&Measured::default()), &frame);
    Ok((run?, seen))
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// This generator's part in a load.
pub fn part(shard: Shard, begun_unix_s: f64, seen: Seen) -> Part {
    Part {
        shard,
        begun_unix_s,
        command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        environment: Environment::here(),
        seen,
    }
}
