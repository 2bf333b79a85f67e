//! The flags that say what load to put on which server, and how they lie over a scenario file.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    events::Event,
    moment::Moment,
    pattern::Pattern,
    plan::{Protocol, Shard},
    prepare::{
        entry::{Entry, LogSource},
        log,
    },
    scenario::{PhaseSpec, Scenario},
    slo::Slo,
    units::{Rate, Span, Speed},
};

/// Which server, and how it is reached.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub struct ServerFlags {
    /// The server: grpc://HOST:PORT, http://HOST:PORT (with an s for TLS) or unix:PATH
    #[arg(long)]
    pub url: Option<String>,
    /// The protocol [default: what the URL says; json over HTTP]
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// Authorities to trust in place of the system's, a PEM file
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Do not check the server's certificate
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Client certificate to show where the server asks for one, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_key", alias = "cert")]
    pub client_certificate: Option<PathBuf>,
    /// The client certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_certificate", alias = "key")]
    pub client_key: Option<PathBuf>,
    /// A header (gRPC metadata) of every request; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Connections [default: 4 over gRPC, 64 over HTTP]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Requests under way on one connection at most, over gRPC [default: 100]
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// Threads of the generator [default: 1]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// A request without an answer by then has failed, counted from the moment it was due [default: 10s]
    #[arg(long, value_name = "SPAN")]
    pub timeout: Option<Span>,
}

/// What is asked for.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Requests")]
pub struct RequestFlags {
    /// The model to ask; several in turn when repeated
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,
    /// The version to ask [default: the server chooses]
    #[arg(long, value_name = "VERSION", requires = "model")]
    pub model_version: Option<String>,
    /// Instances in a request
    #[arg(long, value_name = "N", requires = "model")]
    pub rows: Option<u64>,
    /// Shape of an input whose axes the model leaves open, without the batch axis; may be repeated
    #[arg(long, value_name = "INPUT=3,224,224", requires = "model")]
    pub shape: Vec<String>,
    /// Least and greatest value of a generated input; may be repeated
    #[arg(long, value_name = "INPUT=0..1", requires = "model")]
    pub range: Vec<String>,
    /// Requests from a file: .jsonl, .npy, .npz or .parquet [default: generated from the model's metadata]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub input: Option<PathBuf>,
    /// Recorded answers to hold the server's against (`onnxd loadtest golden` records them)
    #[arg(long, value_name = "FILE", requires = "model")]
    pub golden: Option<PathBuf>,
    /// The protocol's priority parameter
    #[arg(long, value_name = "N", requires = "model")]
    pub priority: Option<u64>,
    /// What the server is told of how long the caller waits
    #[arg(long, value_name = "SPAN", requires = "model")]
    pub deadline: Option<Span>,
    /// Decides arrivals, generated values and the mix: the same seed, the same load [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Requests that were logged.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Requests from a prediction log")]
pub struct LogFlags {
    /// What onnxd has logged, asked again: the log's folder, a folder in it or its files; may be repeated. Every model that the log has,
    /// where there is no --model
    #[arg(long, value_name = "PATH", conflicts_with_all = ["input", "golden", "rows", "shape", "range"])]
    pub log: Vec<PathBuf>,
    /// Rows of this model [default: those of the one that is asked]
    #[arg(long, value_name = "NAME", requires = "log", requires = "model")]
    pub logged_model: Option<String>,
    /// Rows that this version answered [default: every version's]
    #[arg(long, value_name = "VERSION", requires = "log")]
    pub logged_version: Option<String>,
    /// Received then or later: 2026-01-31, 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "MOMENT", requires = "log")]
    pub from: Option<Moment>,
    /// Received before
    #[arg(long, value_name = "MOMENT", requires = "log")]
    pub until: Option<Moment>,
    /// How many times as fast as they came, or max: each of the connections asks the next as soon as it is answered [default: 1, where
    /// neither --rate nor --arrivals is given]
    #[arg(long, value_name = "SPEED", requires = "log")]
    pub speed: Option<Speed>,
}

impl LogFlags {
    /// Lays these over the scenario's mix, on which those of `requests` lie already.
    pub fn over(&self, requests: &RequestFlags, scenario: &mut Scenario) -> Result<(), String> {
        if self.log.is_empty() {
            return Ok(());
        }
        let source = LogSource {
            paths: self.log.clone(),
            model: self.logged_model.clone(),
            version: self.logged_version.clone(),
            from: self.from,
            until: self.until,
        };
        if requests.model.is_empty() {
            let models = log::files::models(&self.log).map_err(|e| format!("--log {e}"))?;
            if models.is_empty() {
                return Err("--log: no files of a prediction log are there".into());
            }
            scenario.mix = models.iter().map(|model| Entry::of(model)).collect();
        }
        for entry in &mut scenario.mix {
            entry.log = Some(source.clone());
        }
        Ok(())
    }

    /// The load of these flags: as it was recorded, where nothing else is said.
    pub fn load(&self, load: &LoadFlags, scenario: &Scenario) -> Result<LoadFlags, String> {
        let mut load = load.clone();
        let told = load.rate.is_some() || load.arrivals.is_some();
        if told && self.speed.is_some() {
            return Err(
                "--speed is of the arrivals that were recorded; --rate and --arrivals say others"
                    .into(),
            );
        }
        if !told && (self.speed.is_some() || (!self.log.is_empty() && scenario.phases.is_empty())) {
            let speed = self.speed.unwrap_or(Speed::Times(1.0));
            load.arrivals = Some(format!("recorded:{speed}"));
        }
        Ok(load)
    }
}

/// When requests arrive. Any of these takes the place of a scenario's phases.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Load")]
pub struct LoadFlags {
    /// Requests a second; Poisson arrivals unless --arrivals says otherwise
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// How they arrive: poisson, constant (at --rate), bursts:SIZE/GAP, ramp:FROM..TO, steps:RATE,RATE,…/HOLD (even-ramp, even-steps:
    /// at equal gaps), trace:FILE, recorded[:SPEED] (as the log has them) or closed:CALLERS[/THINK]
    #[arg(long, value_name = "PATTERN")]
    pub arrivals: Option<String>,
    /// How long they arrive [default: 10s, where --requests does not say it]
    #[arg(long, value_name = "SPAN")]
    pub duration: Option<Span>,
    /// How many arrive
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// The same load before, which counts for nothing; 0s for none [default: 1s]
    #[arg(long, value_name = "SPAN")]
    pub warm_up: Option<Span>,
    /// An objective; may be repeated: p50, p90, p95, p99, p99.9 (<20ms), error_rate, shed_rate (<1%), throughput (>900),
    /// goodput (>900 or >95%), within=20ms (what goodput counts)
    #[arg(long, value_name = "OBJECTIVE")]
    pub slo: Vec<String>,
    /// A command to call while the load goes on, as in '10s: systemctl restart onnxd'; may be repeated
    #[arg(long, value_name = "AT: COMMAND")]
    pub event: Vec<Event>,
}

/// Several generators of one load.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Several generators")]
pub struct ShardFlags {
    /// Which part of the load is this generator's, as in 0/4: the first of four; the verdict, and its exit code, are those of `merge`
    #[arg(long, value_name = "INDEX/COUNT")]
    pub shard: Option<Shard>,
    /// Begin at the next full multiple of this on the clock, so that all generators begin together
    #[arg(long, value_name = "SPAN")]
    pub start_every: Option<Span>,
}

impl ServerFlags {
    /// Lays these over the scenario's target.
    pub fn over(&self, scenario: &mut Scenario) -> Result<(), String> {
        let target = &mut scenario.target;
        or(&mut target.url, &self.url);
        or(&mut target.connections, &self.connections);
        or(&mut target.streams, &self.streams);
        or(&mut target.timeout, &self.timeout);
        or(&mut target.tls.authority, &self.ca);
        or(&mut target.tls.certificate, &self.client_certificate);
        or(&mut target.tls.key, &self.client_key);
        target.tls.insecure |= self.insecure;
        or(&mut scenario.threads, &self.threads);
        if self.url.is_some() || self.protocol.is_some() {
            target.protocol = self.protocol;
        }
        for header in &self.header {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("--header '{header}': expected NAME: VALUE"))?;
            target.headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(())
    }
}

fn or<T: Clone>(base: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        base.clone_from(flag);
    }
}

impl RequestFlags {
    /// Lays these over the scenario's mix.
    pub fn over(&self, scenario: &mut Scenario) -> Result<(), String> {
        or(&mut scenario.seed, &self.seed);
        if self.model.is_empty() {
            return Ok(());
        }
        let shapes = named("--shape", &self.shape, |text| {
            text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<Vec<u64>>>()
        })?;
        let ranges = named("--range", &self.range, |text| {
            let (from, to) = text.split_once("..")?;
            let (from, to): (f64, f64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (from <= to && from.is_finite() && to.is_finite()).then_some([from, to])
        })?;
        let entry = |model: &String| {
            let base = Entry::of(model);
            Entry {
                version: self.model_version.clone(),
                rows: self.rows.unwrap_or(base.rows),
                shapes: shapes.clone(),
                ranges: ranges.clone(),
                input: self.input.clone(),
                golden: self.golden.clone(),
                priority: self.priority,
                deadline: self.deadline,
                ..base
            }
        };
        scenario.mix = self.model.iter().map(entry).collect();
        Ok(())
    }
}

/// Reads `INPUT=VALUE` flags.
fn named<T>(
    flag: &str,
    given: &[String],
    read: impl Fn(&str) -> Option<T>,
) -> Result<BTreeMap<String, T>, String> {
    let one = |text: &String| {
        let form = if flag == "--shape" { "INPUT=3,224,224" } else { "INPUT=0..1" };
        // Names of inputs may have an equals sign in them; values have none.
        let pair = text.rsplit_once('=').and_then(|(name, v)| Some((name.to_owned(), read(v)?)));
        pair.ok_or_else(|| format!("{flag} '{text}': expected {form}"))
    };
    given.iter().map(one).collect()
}

/// Arrivals where nothing is said of them.
const DEFAULT_DURATION: Span = Span(std::time::Duration::from_secs(10));
const DEFAULT_WARM_UP: Span = Span(std::time::Duration::from_secs(1));

impl LoadFlags {
    /// Lays these over the scenario's phases, objectives and events.
    pub fn over(&self, scenario: &mut Scenario) -> Result<(), String> {
        let mut slo = Slo::default();
        for objective in self.slo.iter().flat_map(|text| text.split(',')) {
            slo.add(objective.trim()).map_err(|e| format!("--slo {e}"))?;
        }
        scenario.slo = slo.over(&scenario.slo);
        scenario.events.extend(self.event.iter().cloned());
        let told = self.rate.is_some()
            || self.arrivals.is_some()
            || self.duration.is_some()
            || self.requests.is_some();
        if !told {
            return match (scenario.phases.is_empty(), self.warm_up) {
                (false, Some(_)) => {
                    Err("--warm-up goes with --rate or --arrivals; the scenario's phases say it themselves".into())
                }
                _ => Ok(()),
            };
        }
        let arrivals = self.pattern(scenario)?;
        let ends = arrivals.ends() || self.requests.is_some();
        let duration = self.duration.or((!ends).then_some(DEFAULT_DURATION));
        let steady = PhaseSpec {
            name: Some("load".into()),
            arrivals,
            duration,
            requests: self.requests,
            warm_up: false,
            slo: Slo::default(),
        };
        scenario.phases = vec![steady];
        self.add_warm_up(scenario);
        Ok(())
    }

    /// The pattern that is asked for, at the rate that is asked for.
    fn pattern(&self, scenario: &Scenario) -> Result<Pattern, String> {
        let name = self.arrivals.as_deref().unwrap_or("poisson");
        match (name, self.rate) {
            ("poisson", Some(rate)) => Ok(Pattern::Poisson(rate)),
            ("constant", Some(rate)) => Ok(Pattern::Constant(rate)),
            ("poisson" | "constant", None) if self.arrivals.is_none() => {
                // Only the duration was given: the scenario's last phase for so long.
                let last = scenario.phases.iter().rev().find(|phase| !phase.warm_up);
                last.map(|phase| phase.arrivals.clone()).ok_or_else(|| {
                    "expected --rate or --arrivals beside --duration or --requests".into()
                })
            }
            ("poisson" | "constant", None) => {
                Err(format!("--arrivals {name}: expected --rate beside it"))
            }
            (other, None) => other.parse().map_err(|e| format!("--arrivals {e}")),
            (other, Some(_)) => Err(format!(
                "--rate goes with poisson and constant; --arrivals {other} has rates of its own"
            )),
        }
    }

    /// What comes before the only phase: the same load, where it is one that goes on as it begins.
    fn add_warm_up(&self, scenario: &mut Scenario) {
        let warm_up = self.warm_up.unwrap_or(DEFAULT_WARM_UP);
        let [phase] = &scenario.phases[..] else { return };
        let steady = matches!(
            phase.arrivals,
            Pattern::Poisson(_)
                | Pattern::Constant(_)
                | Pattern::Closed { .. }
                | Pattern::Bursts { .. }
        );
        if steady && !warm_up.0.is_zero() {
            let spec = PhaseSpec {
                name: Some("warm-up".into()),
                duration: Some(warm_up),
                requests: None,
                warm_up: true,
                ..phase.clone()
            };
            scenario.phases.insert(0, spec);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        requests: RequestFlags,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        load: LoadFlags,
    }

    fn laid(args: &str, file: &str) -> Result<Scenario, String> {
        let args = std::iter::once("x").chain(args.split_whitespace());
        let flags = <Flags as clap::Parser>::try_parse_from(args).map_err(|e| e.to_string())?;
        let mut scenario = Scenario::parse("s.yaml", file)?;
        flags.server.over(&mut scenario)?;
        flags.requests.over(&mut scenario)?;
        flags.log.over(&flags.requests, &mut scenario)?;
        flags.log.load(&flags.load, &scenario)?.over(&mut scenario)?;
        Ok(scenario)
    }

    const FILE: &str = "target: {url: 'grpc://a:1', protocol: grpc, connections: 3}\n\
        mix: [{model: wine, rows: 4}]\n\
        slo: {p99: 10ms, p50: 5ms}\n\
        phases: [{name: steady, arrivals: {poisson: 100}, duration: 60s}]\n";

    #[test]
    fn flags_alone_are_a_scenario() {
        let scenario = laid(
            "--url http://b:2 --model a --model b --rows 8 --shape x=3,4 --range x=-1..1 \
             --rate 2k --duration 30s --slo p99<20ms,error_rate<1% --slo throughput>5 --header A:b",
            "{}",
        )
        .unwrap();
        assert_eq!(scenario.mix.len(), 2);
        assert_eq!(scenario.mix[1].shapes["x"], [3, 4]);
        assert_eq!(scenario.mix[1].ranges["x"], [-1.0, 1.0]);
        assert_eq!(scenario.mix[0].rows, 8);
        assert_eq!(scenario.target.headers["a"], "b");
        assert_eq!(scenario.slo.objectives().len(), 3);
        let phases = scenario.resolve().unwrap().phases;
        let shown: Vec<_> =
            phases.iter().map(|p| (&*p.name, p.warm_up, p.until.duration)).collect();
        let seconds = |n| Some(std::time::Duration::from_secs(n));
        assert_eq!(shown, [("warm-up", true, seconds(1)), ("load", false, seconds(30))]);
    }

    #[test]
    fn flags_lie_over_the_file_key_by_key() {
        let scenario = laid("--connections 9 --slo p99<30ms", FILE).unwrap();
        assert_eq!(scenario.target.url.as_deref(), Some("grpc://a:1"));
        assert_eq!(scenario.target.connections, Some(9));
        assert_eq!(scenario.slo.p99, "30ms".parse().ok());
        assert_eq!(scenario.slo.p50, "5ms".parse().ok());
        assert_eq!((scenario.mix[0].rows, scenario.phases.len()), (4, 1));
        // Another address has its own protocol.
        let other = laid("--url http://b:2", FILE).unwrap();
        assert_eq!(other.target.protocol, None);
        let longer = laid("--duration 90s --warm-up 0s", FILE).unwrap();
        assert_eq!(longer.phases.len(), 1);
        assert_eq!(longer.phases[0].arrivals, Pattern::Poisson(Rate(100.0)));
    }

    #[test]
    fn a_log_is_requests_and_when_they_came() {
        let args = "--url http://b:2 --model wine --log a --log b/c.parquet --from 2026-01-31";
        let scenario = laid(args, "{}").unwrap();
        let source = scenario.mix[0].log.clone().unwrap();
        assert_eq!(source.paths, [PathBuf::from("a"), "b/c.parquet".into()]);
        assert_eq!((source.from, source.until), ("2026-01-31".parse().ok(), None));
        let arrivals = |args: &str, file: &str| {
            let phases = laid(args, file).unwrap().phases;
            phases.last().map(|phase| phase.arrivals.clone()).unwrap()
        };
        // Nothing is sent twice: there is no warm-up.
        assert_eq!(scenario.phases.len(), 1);
        assert_eq!(scenario.phases[0].arrivals, Pattern::Recorded(Speed::Times(1.0)));
        assert_eq!(
            arrivals("--model wine --log a --speed max", "{}"),
            Pattern::Recorded(Speed::Max)
        );
        assert_eq!(arrivals("--model wine --log a --rate 5", "{}"), Pattern::Poisson(Rate(5.0)));
        assert_eq!(arrivals("--model wine --log a", FILE), Pattern::Poisson(Rate(100.0)));
        assert_eq!(
            arrivals("--model wine --log a --speed 3", FILE),
            Pattern::Recorded(Speed::Times(3.0))
        );
        let file = "mix: [{model: wine, log: {paths: [p], from: 2026-01-31, version: 2}}]\n\
            phases: [{arrivals: {recorded: max}}, {arrivals: {recorded: 2.5}}]\n";
        let scenario = laid("", file).unwrap();
        assert!(scenario.resolve().is_ok());
        assert_eq!(scenario.phases[0].arrivals, Pattern::Recorded(Speed::Max));
        assert_eq!(scenario.phases[1].arrivals, Pattern::Recorded(Speed::Times(2.5)));
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        for (args, why) in [
            ("--rows 3", "--model"),
            ("--model m --shape x=a", "--shape 'x=a': expected INPUT=3,224,224"),
            ("--model m --range x=3..1", "--range 'x=3..1': expected INPUT=0..1"),
            ("--header x", "--header 'x': expected NAME: VALUE"),
            ("--slo p99", "--slo 'p99': no <"),
            ("--duration 5s", "expected --rate or --arrivals"),
            ("--arrivals constant", "expected --rate beside it"),
            ("--arrivals waves:3", "--arrivals 'waves:3': 'waves' is no way of arriving"),
            ("--rate 5 --arrivals closed:3", "--rate goes with poisson and constant"),
            ("--rate 0", "no rate"),
            ("--cert a.pem", "--client-key"),
            ("--speed 2", "--log"),
            ("--model m --log a --speed 0", "expected how many times as fast"),
            ("--model m --log a --rate 5 --speed 2", "--speed is of the arrivals"),
            ("--model m --log a --rows 3", "cannot be used with"),
            ("--model m --log a --from soon", "'soon' is no moment"),
            ("--log no/such/folder", "no/such/folder"),
        ] {
            let error = laid(args, "{}").unwrap_err();
            assert!(error.contains(why), "{args}: {error}");
        }
        assert!(laid("--warm-up 3s", FILE).unwrap_err().contains("the scenario's phases"));
    }
}
