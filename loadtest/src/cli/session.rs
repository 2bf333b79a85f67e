//! A server under a load: everything resolved and checked against it before the first request of a run, and the generator behind one call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::progress::Teller;
use crate::{
    campaign::{Load, Stage},
    plan::{Arrivals, Phase, Plan, Protocol, Recorded, Shard, Target, Tls},
    prepare::{self, log::Replayed},
    record::Measured,
    run::{self, Control, Progress},
    scenario::{Scenario, Sizes},
    scrape::{self, Metrics},
    summary::{Frame, VariantFrame},
    target,
};

/// A server, and the requests for it, ready.
#[derive(Debug)]
pub struct Session {
    /// Without phases; each run brings its own.
    plan: Plan,
    recorded: Arc<[Recorded]>,
    /// What was found in the logs from which requests come.
    pub replayed: Vec<Replayed>,
    pub url: String,
    control: Control,
    teller: Teller,
}

/// Where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);
const STREAMS: usize = 100;
pub const SEED: u64 = 1;

/// Connections where nothing is said: over HTTP each has one request at a time.
fn connections(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Grpc => 4,
        Protocol::Json | Protocol::Binary => 64,
    }
}

impl Session {
    /// Resolves a scenario's target, asks the server for its models and makes the requests ready.
    ///
    /// # Errors
    /// In words: no URL, sizes out of bounds, a server that is not there, a model that it has not, shapes and files that do not fit.
    pub fn open(
        scenario: &Scenario,
        url: &str,
        shard: Shard,
        stop: Arc<AtomicBool>,
        quiet: bool,
    ) -> Result<Session, String> {
        let target = target(scenario, url)?;
        let sizes = Sizes {
            connections: scenario.target.connections.unwrap_or(connections(target.protocol)),
            streams: scenario.target.streams.unwrap_or(STREAMS),
            threads: scenario.threads.unwrap_or(1),
        };
        let sizes = sizes.check()?;
        let seed = scenario.seed.unwrap_or(SEED);
        let mut mix = scenario.mix.clone();
        for entry in &mut mix {
            for (name, value) in &scenario.target.headers {
                entry.headers.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let mix = prepare::prepare(&target, &mix, seed)?;
        let plan = Plan {
            target,
            phases: Vec::new(),
            variants: mix.variants,
            requests: mix.requests,
            seed,
            connections: sizes.connections,
            // HTTP/1.1 has one answer after the other.
            streams: sizes.streams,
            threads: sizes.threads,
            shard,
            timeout: scenario.target.timeout.map_or(TIMEOUT, |timeout| timeout.0),
        };
        let mut session = Session {
            plan,
            recorded: mix.recorded,
            replayed: mix.replayed,
            url: url.to_owned(),
            control: Control { stop },
            teller: Teller::new(quiet),
        };
        for line in session.replayed.iter().flat_map(Replayed::lines) {
            session.teller.line(&line);
        }
        Ok(session)
    }

    /// The plan of a run of these phases; what arrives as recorded gets what was.
    pub fn plan(&self, phases: &[Phase]) -> Plan {
        let mut phases = phases.to_vec();
        for phase in &mut phases {
            if let Arrivals::Recorded { asked, .. } = &mut phase.arrivals {
                *asked = self.recorded.clone();
            }
        }
        Plan { phases, ..self.plan.clone() }
    }

    /// What of the server is to be looked at during a run.
    pub fn scrape(
        &self,
        scenario: &Scenario,
        asked: Option<&str>,
        pids: &[u32],
    ) -> Result<scrape::Options, String> {
        let metrics = match asked.or(scenario.target.metrics.as_deref()) {
            None => Metrics::guess(&self.plan.target),
            Some("off") => Metrics::Off,
            Some(url) => Metrics::At(url.parse()?),
        };
        let mut models: Vec<String> = self.plan.variants.iter().map(|v| v.model.clone()).collect();
        models.sort_unstable();
        models.dedup();
        let pids = if pids.is_empty() { scenario.target.pids.clone() } else { pids.to_vec() };
        let tls = self.plan.target.tls.clone().unwrap_or_default();
        Ok(scrape::Options { metrics, tls, pids, models })
    }

    /// Runs phases, and calls `beside` about four times a second with how it goes; what that returns is told as lines.
    pub fn run_beside(
        &mut self,
        phases: &[Phase],
        seed: u64,
        mut beside: impl FnMut(&Progress) -> Vec<String>,
    ) -> Result<Measured, String> {
        let plan = Plan { seed, ..self.plan(phases) };
        let teller = &mut self.teller;
        teller.begin();
        let measured = run::run(&plan, &self.control, |progress| {
            for line in beside(progress) {
                teller.line(&line);
            }
            teller.progress(phases, progress);
        });
        teller.end();
        measured
    }

    /// The instances in a request, where all have the same.
    pub fn rows(&self) -> Option<u64> {
        let rows = self.plan.variants.first()?.rows;
        self.plan.variants.iter().all(|variant| variant.rows == rows).then_some(rows)
    }

    pub fn callers(&self) -> usize {
        let streams =
            if self.plan.target.protocol == Protocol::Grpc { self.plan.streams } else { 1 };
        self.plan.connections.saturating_mul(streams)
    }

    /// Somebody has asked for the end.
    pub fn stopped(&self) -> bool {
        self.control.stop.load(Ordering::Relaxed)
    }

    pub fn protocol(&self) -> Protocol {
        self.plan.target.protocol
    }

    /// Connections, streams, threads and timeout as they came to be.
    pub fn sizes(&self) -> (Sizes, Duration) {
        let Plan { connections, streams, threads, timeout, .. } = self.plan;
        (Sizes { connections, streams, threads }, timeout)
    }
}

fn target(scenario: &Scenario, url: &str) -> Result<Target, String> {
    let tls = &scenario.target.tls;
    let identity = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => return Err("tls: expected certificate and key together".into()),
    };
    if tls.insecure && tls.authority.is_some() {
        return Err("tls: an authority to trust and insecure exclude each other".into());
    }
    let tls = Tls { authority: tls.authority.clone(), identity, insecure: tls.insecure };
    target::parse(url, scenario.target.protocol, tls)
}

impl Load for Session {
    fn run(&mut self, phases: &[Phase], seed: u64) -> Result<Measured, String> {
        self.run_beside(phases, seed, |_| Vec::new())
    }

    fn variants(&self) -> Vec<VariantFrame> {
        Frame::of(&self.plan, &[]).variants
    }

    fn tell(&mut self, line: &str) {
        self.teller.line(line);
    }

    fn stage(&mut self, stage: Stage) {
        self.teller.stage(stage);
    }
}
