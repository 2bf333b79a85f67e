//! Opens a version: bytes, graph, runtime, sessions, probe, mode; at the end stands what serves, or why not.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::Sender;
use sha2::{Digest, Sha256};

use super::{
    answers::Answers,
    candidate::{self, Checked},
    explain,
    job::Job,
    latency::{LONG_ENOUGH, Latency, OFFERED_WEIGHTS},
    logged,
    manager::Deps,
    measured::{Measurements, Origin},
    options::{BatchAxis, ModelOptions},
    padded::Padded,
    replicas,
    store::{Content, Repository},
    table::Version,
    wrapped::{Budget, Wrapped},
};
use crate::{
    batcher::{
        cost::CostModel,
        device::Devices,
        mode::{self, Choice, Evidence, Execution},
        pool::Pool,
        served::{OnPanic, OnWanted, Served, ServedParts},
    },
    cache::store::Stores,
    predlog::store::Logs,
    runtime::{
        graph::Graph,
        options::{BackendChoice, SessionOptions},
        probe::{self, Probe},
        session::{Backend, ModelSource, Session},
    },
    telemetry::stats::VersionStats,
    types::model::{Dim, Signature},
};

/// What it costs to hand a request to an executor and back: measured, 3 to 5 µs under load and 10 to 19 with one client.
const HANDOVER: Duration = Duration::from_micros(10);

/// Rows of the runs that the probe times: what batches and turns usually hold.
const PROBED_ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The runtimes of this process.
#[derive(Clone)]
pub struct Backends {
    /// ONNX Runtime, or why it is not there.
    pub ort: Result<Arc<dyn Backend>, String>,
    /// tract, where it is built in.
    pub tract: Option<Arc<dyn Backend>>,
}

impl Backends {
    /// The runtime for `choice`, and why this one.
    fn choose(&self, choice: BackendChoice) -> Result<(&Arc<dyn Backend>, String), String> {
        let tract = || self.tract.as_ref().ok_or("tract is not built in");
        match (choice, &self.ort) {
            (BackendChoice::Ort, Ok(ort)) => Ok((ort, AS_SET.into())),
            (BackendChoice::Ort, Err(_)) => Err(format!("backend ort is set, but {NO_ORT}")),
            (BackendChoice::Tract, _) => Ok((tract()?, AS_SET.into())),
            (BackendChoice::Auto, Ok(ort)) => {
                Ok((ort, format!("auto: {} is present", ort.describe())))
            }
            (BackendChoice::Auto, Err(why)) => {
                let tract = tract().map_err(|e| format!("{e}, and {NO_ORT}"))?;
                Ok((tract, format!("auto: {why}")))
            }
        }
    }
}

const AS_SET: &str = "set in model.yaml or the defaults";

/// For clients, who should not read where on this machine the library was looked for; the log of the start says that.
const NO_ORT: &str = "ONNX Runtime could not be loaded at the start (the log says why, --onnxruntime-lib names its \
                      library)";

/// Whether sessions with these options start threads, which would inherit the priority of the one that opens them.
pub fn starts_threads(options: &ModelOptions) -> bool {
    options.session.intra_op_threads != 1 || options.session.wants_device()
}

/// A version that opened and passed its checks, before any request can reach it.
pub struct Opened {
    pub backend: Arc<dyn Backend>,
    pub backend_reason: String,
    pub session: Arc<dyn Session>,
    /// As the graph has it, with what model.yaml overrides.
    pub signature: Arc<Signature>,
    pub source: Arc<ModelSource>,
    /// SHA-256 of all files of the version.
    pub sha256: String,
    /// Bytes of weights, in the model and beside it.
    pub weights: u64,
    /// None: `warmup: false`.
    pub probe: Option<Probe>,
    /// Where the probe's numbers come from.
    pub measured: Origin,
    pub padded: Padded,
    /// How its sessions are opened: with as many threads as one run has.
    pub session_options: SessionOptions,
    /// Where it was measured.
    pub latency: Option<Latency>,
    pub open_time: Duration,
    pub probe_time: Duration,
}

/// What came of a job that went well.
pub enum Outcome {
    Opened(Arc<Version>),
    /// The files are those that serve.
    Same,
}

impl Outcome {
    pub fn version(self) -> Option<Arc<Version>> {
        match self {
            Outcome::Opened(version) => Some(version),
            Outcome::Same => None,
        }
    }
}

/// What a version that serves tells of its runs.
#[derive(Clone, Debug)]
pub struct Told {
    pub model: Arc<str>,
    pub number: u64,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// A run panicked, and what the panic said.
    Panicked(String),
    /// It runs on threads that have no session of their own: more than the turn's.
    Wanted,
}

/// Opens versions and makes them ready to serve.
pub struct Loader {
    backends: Backends,
    pool: Arc<Pool>,
    devices: Arc<Devices>,
    measurements: Measurements,
    told: Sender<Told>,
    budget: Arc<Budget>,
    stores: Stores,
    logs: Arc<Logs>,
}

impl Loader {
    /// `told` hears of every panic around a session that this loader opened, and of versions that want more of them,
    /// unless it is full.
    pub fn new(deps: Deps, measurements: Measurements, told: Sender<Told>) -> Loader {
        let budget = Budget::new(replicas::BUDGET);
        let Deps { backends, pool, devices, logs, .. } = deps;
        let stores = Stores::default();
        Loader { backends, pool, devices, measurements, told, budget, stores, logs }
    }

    /// Opens one version; the error says why it cannot serve. A panic on the way is such an error.
    pub fn load(&self, job: &Job) -> Result<Outcome, String> {
        guarded(|| {
            let start = Instant::now();
            let threads = self.pool.threads.executors;
            let Some(opened) = open(&self.backends, &self.measurements, threads, job)? else {
                return Ok(Outcome::Same);
            };
            // What is opened again after a panic serves already.
            let checked = match job.reopens {
                Some(_) => Checked::default(),
                None => candidate::check(job, &opened)?,
            };
            for warning in opened.session.warnings().iter().chain(&checked.advice) {
                tracing::warn!(model = &*job.model, version = job.number, "{warning}");
            }
            for note in job.options.declared.iter().flat_map(|declared| &declared.notes) {
                tracing::warn!(model = &*job.model, version = job.number, "{note}");
            }
            self.finish(job, opened, &checked, start).map(Outcome::Opened)
        })
    }

    fn finish(
        &self,
        job: &Job,
        mut opened: Opened,
        checked: &Checked,
        start: Instant,
    ) -> Result<Arc<Version>, String> {
        let options = &job.options;
        let device = opened.session.device().map(|device| self.devices.lane(device)).transpose();
        let device = device.map_err(|e| format!("the device's executors do not start: {e}"))?;
        let choice = decide(&opened, options);
        if !choice.gather {
            opened.padded.not_gathered();
        }
        let turn = choice.execution == Execution::Turn;
        let own = replicas::open(&self.budget, self.pool.threads, job, &opened, checked, turn);
        let cost = Arc::new(CostModel::new());
        if let Some(probe) = &opened.probe {
            cost.seed(&probe.rows, probe::row_bytes(opened.session.signature()));
        }
        let label: Arc<str> = job.number.to_string().into();
        let stats = Arc::new(VersionStats::new(&job.model, &label));
        let answers = Answers::decide(job, &opened, &self.stores);
        let log = logged::attach(&self.logs, job, &label, &opened)?;
        let explanation = explain::explanation(&explain::Facts {
            job,
            opened: &opened,
            choice: &choice,
            checked,
            cache: &answers.said,
            replicas: own.given,
            took: start.elapsed(),
        });
        let served = Served::new(ServedParts {
            model: job.model.clone(),
            version: label.clone(),
            sessions: own.sessions,
            signature: opened.signature.clone(),
            choice,
            options: options.batching.clone(),
            padding: opened.padded.plan,
            // In a device's lane they are not what is scarce.
            threads: if device.is_some() { 1 } else { opened.session_options.intra_op_threads },
            cost,
            stats: stats.clone(),
            pool: self.pool.clone(),
            device,
            on_panic: Some(self.on_panic(job)),
            on_wanted: own.lacking.then(|| self.on_wanted(job)),
        });
        let (backend, platform) = names(opened.backend.name());
        Ok(Arc::new(Version {
            model: job.model.clone(),
            number: job.number,
            label,
            signature: opened.signature,
            served,
            stats,
            cache: answers.cached,
            log,
            platform,
            backend,
            providers: opened.session.providers().to_vec(),
            default_timeout: Some(options.default_timeout()).filter(|timeout| !timeout.is_zero()),
            options: options.clone(),
            weight_bytes: opened.weights.saturating_mul(1 + own.given as u64),
            sha256: opened.sha256,
            explanation,
        }))
    }

    fn on_panic(&self, job: &Job) -> OnPanic {
        let tell = self.teller(job);
        Box::new(move |what| tell(Event::Panicked(what.to_owned())))
    }

    fn on_wanted(&self, job: &Job) -> OnWanted {
        let tell = self.teller(job);
        Box::new(move || tell(Event::Wanted))
    }

    fn teller(&self, job: &Job) -> impl Fn(Event) + Send + Sync + use<> {
        let (told, model, number) = (self.told.clone(), job.model.clone(), job.number);
        move |event| {
            // Full: as many panics are known already as it takes to fail a version many times over; and what is not heard of
            // sessions leaves the version with those that it has.
            let _ = told.try_send(Told { model: model.clone(), number, event });
        }
    }
}

/// Where the version runs, by what is known of it.
fn decide(opened: &Opened, options: &ModelOptions) -> Choice {
    let graph = &opened.source.graph;
    let probe = opened.probe.as_ref();
    // Unknown, as where the model does not take made-up input, is no reason against batches: the graph allows them.
    let consistent = probe.is_none_or(|p| p.consistent.is_ok() || p.rows.is_empty());
    let evidence = Evidence {
        probed: probe.map_or(&[], |p| &p.rows),
        can_batch: opened.signature.can_batch,
        control_flow: graph.control_flow,
        data_dependent: graph.data_dependent,
        consistent,
        threads: opened.session_options.intra_op_threads,
        device: opened.session.device().is_some(),
        handover: HANDOVER,
    };
    mode::choose(&evidence, options.batching.mode)
}

/// Runs `work`; a panic inside becomes an error.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What a panic leaves half done is dropped here: nothing that `work` changes is seen by anybody else.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("the runtime panicked while it loaded the model: {text}"))
    })
}

/// Reads, opens and probes a version; a run of it may have so many threads. `None`: its files are those that serve.
pub fn open(
    backends: &Backends,
    measurements: &Measurements,
    threads: usize,
    job: &Job,
) -> Result<Option<Opened>, String> {
    let options = &*job.options;
    let (source, sha256) = read(&job.repository, &job.file)?;
    if job.unless.as_ref() == Some(&sha256) {
        return Ok(None);
    }
    if job.reopens.as_ref().is_some_and(|serving| *serving != sha256) {
        return Err(format!("{}: the files are no longer those that serve", job.file));
    }
    let source = Arc::new(source);
    let fail = |e: String| format!("{}: {e}", job.file);
    if !source.graph.unsupported.is_empty() {
        return Err(fail(source.graph.unsupported.join("; ")));
    }
    let (backend, backend_reason) = backends.choose(options.backend).map_err(fail)?;
    let opening = Opening { backend, source: &source, sha256: &sha256, options, measurements };
    let start = Instant::now();
    let mut session_options = opening.with_threads(options.session.intra_op_threads.min(threads));
    let mut session = opening.session(&session_options).map_err(fail)?;
    let open_time = start.elapsed();
    let start = Instant::now();
    let mut measured = opening.probe(&*session, &session_options);
    let tried = measured.as_ref().and_then(|(probe, _)| opening.latency(&*session, probe, threads));
    let mut latency = None;
    if let Some((found, on_all)) = tried {
        if let Some(on_all) = on_all {
            session_options = opening.with_threads(threads);
            measured = opening.probe(&*on_all, &session_options);
            session = on_all;
        }
        latency = Some(found);
    }
    let (probe, measured) = measured.map_or((None, Origin::Now), |(p, origin)| (Some(p), origin));
    let padded = Padded::decide(&*session, options).map_err(fail)?;
    if let (None, Some(off)) = (&padded.plan, &padded.said) {
        tracing::warn!(model = job.file, "batching.padding is {off}");
    }
    if let Some(error) = probe.as_ref().and_then(|p| p.error.as_ref()) {
        tracing::info!(model = job.file, error, "the model does not take all made-up input");
    }
    Ok(Some(Opened {
        backend: backend.clone(),
        backend_reason,
        signature: session.signature().clone(),
        session,
        weights: opening.weights(),
        source: source.clone(),
        sha256: sha256.clone(),
        probe,
        measured,
        padded,
        session_options,
        latency,
        open_time,
        probe_time: start.elapsed(),
    }))
}

/// What it takes to open a version's sessions.
struct Opening<'a> {
    backend: &'a Arc<dyn Backend>,
    source: &'a Arc<ModelSource>,
    sha256: &'a str,
    options: &'a ModelOptions,
    measurements: &'a Measurements,
}

impl Opening<'_> {
    /// The version's session options, with so many threads a run; one at least.
    fn with_threads(&self, threads: usize) -> SessionOptions {
        SessionOptions { intra_op_threads: threads.max(1), ..self.options.session.clone() }
    }

    fn session(&self, options: &SessionOptions) -> Result<Arc<dyn Session>, String> {
        let opened = self.backend.open(self.source, options);
        let session = opened.map_err(|e| explained(self.backend, &e, self.options))?;
        let signature = adjusted(session.signature(), self.options)?;
        Ok(match Arc::ptr_eq(&signature, session.signature()) {
            true => session,
            false => Arc::new(Wrapped::new(session, signature, None)),
        })
    }

    /// What a run costs; `None` where model.yaml says not to run it.
    fn probe(&self, session: &dyn Session, options: &SessionOptions) -> Option<(Probe, Origin)> {
        let most = self.options.batching.max_batch_size;
        let sizes: Vec<usize> = PROBED_ROWS.into_iter().filter(|rows| *rows <= most).collect();
        let runtime = self.backend.describe();
        let subject = self.measurements.subject(self.sha256, runtime, session, options, &sizes);
        let probe = || self.measurements.probe(&subject, session, SystemTime::now());
        self.options.warmup.then(probe)
    }

    /// What a lone run on all of `threads` takes beside the one on one thread that was probed, where it might be worth
    /// it; with the session that has them where that is to serve.
    fn latency(
        &self,
        on_one: &dyn Session,
        probe: &Probe,
        threads: usize,
    ) -> Option<(Latency, Option<Arc<dyn Session>>)> {
        let asked = self.options.session.intra_op_threads == 0;
        let spreads = self.backend.spreads_runs() && on_one.device().is_none();
        let one = self.options.session.intra_op_threads <= 1 && threads > 1;
        let on_one_took =
            probe.rows.first().map(|(_, took)| *took).filter(|t| *t >= LONG_ENOUGH)?;
        if !spreads || !one || (!asked && self.weights() > OFFERED_WEIGHTS) {
            return None;
        }
        let options = self.with_threads(threads);
        let runtime = self.backend.describe();
        let subject = self.measurements.subject(self.sha256, runtime, on_one, &options, &[1]);
        let known = self.measurements.known(&subject);
        let (on_all, session) = match known {
            Some(known) if !asked => (known, None),
            _ => {
                let session = self.session(&options).ok()?;
                let (probe, _) = self.measurements.probe(&subject, &*session, SystemTime::now());
                (probe, Some(session))
            }
        };
        let on_all = on_all.rows.first().map(|(_, took)| *took)?;
        let mut latency = Latency { threads, on_one: on_one_took, on_all, in_effect: false };
        latency.in_effect = asked && latency.worth_it();
        Some((latency, session.filter(|_| latency.in_effect)))
    }

    /// Bytes of weights, in the model and beside it.
    fn weights(&self) -> u64 {
        let external: u64 = self.source.external.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.source.graph.initializer_bytes.saturating_add(external)
    }
}

/// The files of a version, and one digest of all of them: that of the model where there is nothing beside it.
fn read(repository: &Repository, file: &str) -> Result<(ModelSource, String), String> {
    let manifest = repository.manifest(file)?;
    let listed = |name: &str, content: &Content| {
        let checked = manifest.as_ref().map_or(Ok(()), |m| m.check(name, &content.sha256));
        checked.map_err(|why| format!("{file}: {why}"))
    };
    let model = repository.read_model(file)?;
    listed(file.rsplit('/').next().unwrap_or(file), &model)?;
    let graph = Graph::parse(&model.bytes).map_err(|e| format!("{file}: {e}"))?;
    let mut digest = model.sha256;
    let mut external = Vec::new();
    for location in &graph.external {
        let content = repository.read_external(file, location)?;
        listed(location, &content)?;
        let all = format!("{digest} {} {location}", content.sha256);
        digest = hex::encode(Sha256::digest(all));
        external.push((location.clone(), content.bytes));
    }
    let source = ModelSource {
        label: file.to_string(),
        bytes: model.bytes,
        graph: Arc::new(graph),
        external,
    };
    Ok((source, digest))
}

/// A backend's error, with what it means where `auto` had to take tract.
fn explained(backend: &Arc<dyn Backend>, error: &str, options: &ModelOptions) -> String {
    match options.backend == BackendChoice::Auto && backend.name() == "tract" {
        true => format!("{error}; backend auto took tract because {NO_ORT}"),
        false => error.to_string(),
    }
}

/// The signature with what model.yaml overrides.
fn adjusted(signature: &Arc<Signature>, options: &ModelOptions) -> Result<Arc<Signature>, String> {
    let signature = overridden(signature, options)?;
    if let Some(declared) = &options.declared {
        declared.check(&signature)?;
    }
    Ok(signature)
}

fn overridden(
    signature: &Arc<Signature>,
    options: &ModelOptions,
) -> Result<Arc<Signature>, String> {
    if options.batch_axis == BatchAxis::Auto && options.labels.is_empty() {
        return Ok(signature.clone());
    }
    let mut signature = Signature::clone(signature);
    match options.batch_axis {
        BatchAxis::Auto => {}
        BatchAxis::None => signature.can_batch = false,
        BatchAxis::First => {
            for spec in signature.inputs.iter().chain(&signature.outputs) {
                let first = spec.dims.as_ref().and_then(|d| d.first());
                if !matches!(first, Some(Dim::Any | Dim::Symbol(_))) {
                    return Err(format!(
                        "batch_axis: first: '{}' has the shape {}, expected a dynamic first dimension",
                        spec.name,
                        spec.shape_text()
                    ));
                }
            }
            signature.can_batch = true;
        }
    }
    for (name, labels) in &options.labels {
        let names: Vec<&str> = signature.outputs.iter().map(|o| &*o.name).collect();
        let known = names.join(", ");
        let Some(output) = signature.outputs.iter_mut().find(|o| *o.name == **name) else {
            return Err(format!("labels: there is no output '{name}', the model has {known}"));
        };
        let classes = output.dims.as_ref().and_then(|d| d.last());
        match classes {
            Some(Dim::Fixed(n)) if usize::try_from(*n) != Ok(labels.len()) => {
                return Err(format!("labels: '{name}' has {n} classes, the list {}", labels.len()));
            }
            _ => output.labels = Some(labels.clone().into()),
        }
    }
    Ok(Arc::new(signature))
}

/// Backend and platform, as the protocol and our metrics call them.
fn names(backend: &str) -> (&'static str, &'static str) {
    match backend {
        "ort" => ("ort", "onnxruntime_onnx"),
        "tract" => ("tract", "tract_onnx"),
        _ => ("echo", "echo"),
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
