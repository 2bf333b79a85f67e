//! `onnxd loadtest echo`: a server whose latencies are known, to check the generator against.

use std::{net::SocketAddr, process::ExitCode, sync::atomic::Ordering, thread, time::Duration};

use super::{Failure, output, signals};
use crate::{
    echo::{self, Options, latency::Distribution},
    units::{Share, Span},
};

/// Serve every model name with its own inputs as the answer, after a time of a stated distribution
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest echo --latency lognormal:4ms,0.5\n  onnxd loadtest echo --listen 127.0.0.1:9000 --latency constant:4ms --servers 8 --queue 100\n  onnxd loadtest run --url grpc://127.0.0.1:9000 --model echo --slo 'p99<100ms' --search"
)]
pub struct Args {
    /// Where it listens, over HTTP/1.1 and HTTP/2, both protocols
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// How long a request takes: constant:2ms, uniform:1ms..5ms, exponential:4ms, lognormal:MEDIAN,SIGMA or bimodal:2ms,20ms,1%
    #[arg(long, value_name = "DISTRIBUTION", default_value = "constant:1ms")]
    latency: Distribution,
    /// Requests that are served at once; further ones wait [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    servers: Option<u32>,
    /// Requests that may wait; more are refused as shed [default: any number]
    #[arg(long, value_name = "N", requires = "servers")]
    queue: Option<usize>,
    /// Share of requests that fail
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    failures: Share,
    /// Every so often nothing is answered for so long, as in 5s/200ms
    #[arg(long, value_name = "EVERY/LENGTH", value_parser = stall)]
    stall: Option<(Duration, Duration)>,
    /// Decides times and failures
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The version that answers say they are from
    #[arg(long, value_name = "VERSION", default_value = "1")]
    model_version: String,
}

fn stall(text: &str) -> Result<(Duration, Duration), String> {
    let (every, length) =
        text.split_once('/').ok_or_else(|| format!("'{text}': expected 5s/200ms"))?;
    let (Span(every), Span(length)) = (every.parse()?, length.parse()?);
    if length >= every {
        return Err(format!("'{text}': expected a stall shorter than the gap between two"));
    }
    Ok((every, length))
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let stop = signals::stop()?;
    let handle = echo::serve(Options {
        address: args.listen,
        latency: args.latency.clone(),
        servers: args.servers.map(|servers| servers as usize),
        queue: args.queue,
        failures: args.failures.0,
        stall: args.stall,
        seed: args.seed,
        version: args.model_version.clone(),
    })?;
    output::say(&format!(
        "echo on grpc://{0} and http://{0}, every model's name, latency {1}",
        handle.address, args.latency
    ));
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(ExitCode::SUCCESS)
}
