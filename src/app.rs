//! The composition root: configuration to rooms, rooms to a running server, and the way down again.

pub mod log;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    api::{
        address::Listener,
        answer::Operator,
        auth::{live::Auth, roles::Port},
        body::BodyLimits,
        connection::ListenOptions,
        fast::Front,
        gate::{Gate, Gated},
        http,
        listen::Network,
        observe::{Observed, Observer},
        operator,
        patience::Limits,
        state::Api,
        tls::Tls,
    },
    batcher::{
        budget,
        device::Devices,
        executor::Executors,
        pool::{Pool, Threads},
    },
    config::{Config, Loaded},
    predlog::store::Logs,
    repository::{
        self,
        check::Checked,
        loader::Backends,
        manager::{Deps, Manager},
        options::{Load, Options},
        remote::{Syncer, is_url},
        remote_source::Source,
        remote_status::StoreStatus,
        traffic::Place,
    },
    runtime,
    serving::{
        engine::{Engine, EngineOptions},
        memory::Budget,
        shadow::Shadows,
    },
    shutdown::{self, Announcer, Phase},
    telemetry::{self, logs::Access, prometheus, registry, trace::Traces},
};

/// How long the last phases may take together once connections have ended or were cut.
const LAST_PHASES: Duration = Duration::from_secs(3);

/// Files that are open for anything but connections, generously.
const OTHER_FILES: u64 = 64;

/// How long `onnxd explain` waits for a model to load.
const EXPLAIN_LIMIT: Duration = Duration::from_secs(600);

/// Serves until a signal ends it. Exit code 1: the start failed, and nothing was served.
pub fn serve(loaded: Loaded) -> ExitCode {
    let config = loaded.config;
    let _log = match telemetry::logs::install(&config.log) {
        Ok(guard) => guard,
        Err(error) => return failed(&error),
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    banner(&format!("onnxd: {error}"));
    ExitCode::FAILURE
}

fn run(config: &Config) -> Result<(), String> {
    let files = telemetry::process::raise_open_files();
    if files.is_some_and(|files| files < config.max_connections as u64 + OTHER_FILES) {
        tracing::warn!(?files, "fewer files may be open than max_connections asks for");
    }
    let main = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no event loop: {error}"))?;
    let server = {
        // The exporter of traces has its connection carried by this event loop.
        let _entered = main.enter();
        Server::start(config)?
    };
    server.tell_when_settled(config.models.clone());
    let ended = main.block_on(async {
        let deaf = |error| format!("signals cannot be received: {error}");
        let signal = shutdown::asked().map_err(deaf)?;
        let signal = tokio::select! {
            signal = signal => signal,
            error = hopeless(&server.manager) => return Err(error),
            never = follow(&server.auth) => match never {},
            never = keep_fresh(server.tls.clone()) => match never {},
        };
        // Whoever reads that it stops is heard from then on.
        let again = shutdown::asked().map_err(deaf)?;
        tracing::info!(signal, "stopping");
        server.stop_or_cut(config, again).await;
        Ok(())
    });
    // Without waiting for what was left behind.
    main.shutdown_background();
    ended
}

/// Why nothing will ever serve, once that is so.
async fn hopeless(manager: &Manager) -> String {
    let mut failed = manager.failed.clone();
    match failed.wait_for(Option::is_some).await {
        Ok(error) => error.clone().unwrap_or_default(),
        // All is well, and stays so.
        Err(_) => std::future::pending().await,
    }
}

/// How often the file of callers is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the callers as their file has them. On the main thread, which has nothing else to do: no request waits for it.
async fn follow(auth: &Auth) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        if auth.follows() {
            auth.refresh();
        }
    }
}

/// Takes up certificates that are replaced while the server runs.
async fn keep_fresh(tls: Option<Arc<Tls>>) -> Infallible {
    match tls {
        Some(tls) => tls.keep_fresh().await,
        None => std::future::pending().await,
    }
}

/// One version that `onnxd check` looked at.
pub struct Finding {
    pub model: String,
    /// `None`: the model as a whole.
    pub version: Option<u64>,
    /// The runtime that would serve it, or why it would not serve.
    pub outcome: Result<String, String>,
}

/// Opens every version that a server with this configuration would load, and closes it again.
pub fn check(config: &Config) -> Result<Vec<Finding>, String> {
    Auth::open(&config.auth)?;
    Tls::load(&config.tls)?;
    let (options, _mirror) = mirrored(config)?;
    let verdict = repository::check::check(&options, &backends(config)?)?;
    let finding = |checked: Checked| Finding {
        model: checked.model.to_string(),
        version: checked.version,
        outcome: checked.outcome,
    };
    Ok(verdict.versions.into_iter().map(finding).collect())
}

/// Loads one model as a server would, and tells what was decided about it and why.
pub fn explain(config: &Config, model: &str) -> Result<Value, String> {
    let manager = loaded(config, model)?;
    let version = manager.table.load().resolve(model, "").map_err(|error| error.to_string())?;
    Ok(version.explanation.clone())
}

/// A manager that has loaded this one model.
fn loaded(config: &Config, model: &str) -> Result<Manager, String> {
    let (cores, threads) = threads(config);
    let (mut options, _mirror) = mirrored(config)?;
    options.load = Load::Names(vec![model.to_owned()]);
    let (backends, pool) = (backends(config)?, Pool::new(threads));
    let (devices, state) = (Arc::default(), state(config));
    let logs = Arc::new(Logs::idle(&config.prediction_log)?);
    let deps = Deps { backends, pool, devices, cores, logs, state };
    let manager = Manager::start(&options, deps)?;
    if !manager.wait_initial(EXPLAIN_LIMIT) {
        return Err(format!("model '{model}' did not load within {} s", EXPLAIN_LIMIT.as_secs()));
    }
    Ok(manager)
}

/// What reads the object store, where models come from one.
fn syncer(config: &Config) -> Result<Option<Syncer>, String> {
    let Some(url) = config.models.to_str().filter(|models| is_url(models)) else { return Ok(None) };
    let settle = Duration::from_millis(config.lifecycle.settle_ms);
    Syncer::open(url, &config.store, state(config).as_deref(), settle).map(Some)
}

/// The repository's options. A mirror shows what is complete, and nothing else: there is no settling there.
fn repository_options(config: &Config, syncer: Option<&Syncer>) -> Options {
    let mut options = config.repository();
    if let Some(syncer) = syncer {
        options.models = syncer.place();
        options.lifecycle.settle_ms = 0;
    }
    options
}

/// The same for who looks at the repository once: an object store is mirrored before, and its mirror held meanwhile.
fn mirrored(config: &Config) -> Result<(Options, Option<Syncer>), String> {
    let mut syncer = syncer(config)?;
    if let Some(syncer) = &mut syncer {
        syncer.begin()?;
    }
    Ok((repository_options(config, syncer.as_ref()), syncer))
}

/// The object store that models come from.
struct Followed {
    /// How it goes.
    status: Option<Arc<StoreStatus>>,
    /// Where traffic rules are written, if that is there.
    rules: Option<Arc<Source>>,
}

/// What loads models, and their object store where they come from one.
fn manager(config: &Config, deps: Deps) -> Result<(Manager, Followed), String> {
    let syncer = syncer(config)?;
    let options = repository_options(config, syncer.as_ref());
    let status = syncer.as_ref().map(Syncer::status);
    let rules = syncer.as_ref().and_then(Syncer::rules);
    let manager = match syncer {
        Some(syncer) => Manager::follow(&options, deps, syncer),
        None => Manager::start(&options, deps),
    };
    Ok((manager?, Followed { status, rules }))
}

/// The state directory, where there is one.
fn state(config: &Config) -> Option<PathBuf> {
    (!config.state.as_os_str().is_empty()).then(|| config.state.clone())
}

/// The runtimes that are there.
pub fn backends(config: &Config) -> Result<Backends, String> {
    let explicit = (!config.onnxruntime_lib.as_os_str().is_empty())
        .then_some(config.onnxruntime_lib.as_path());
    let ort = runtime::ort::open_library(explicit);
    if let (Err(error), Some(_)) = (&ort, explicit) {
        return Err(error.clone());
    }
    Ok(Backends { ort, tract: runtime::built_in::tract() })
}

/// The process's threads within its budget of cores.
pub fn threads(config: &Config) -> (usize, Threads) {
    let cores = match config.threads {
        0 => budget::cores(),
        n => n,
    };
    let network = match config.network_threads {
        // Few do much: they carry the bytes and the tiniest models, and share the cores with the executors.
        0 => cores.div_ceil(4),
        n => n,
    };
    (cores, Threads { network, executors: cores })
}

/// Everything that runs.
pub struct Server {
    /// Where HTTP, gRPC and the operator's port listen.
    pub addresses: [String; 3],
    auth: Arc<Auth>,
    tls: Option<Arc<Tls>>,
    announcer: Announcer,
    manager: Arc<Manager>,
    executors: Executors,
    devices: Arc<Devices>,
    network: Network,
    operator: Option<Network>,
    observer: Option<Arc<Observer>>,
    logs: Arc<Logs>,
}

/// The engine, with what it needs beside the table.
fn engine(config: &Config, manager: &Manager) -> Result<Engine, String> {
    let options = EngineOptions {
        request_memory_bytes: config.request_memory_bytes,
        max_deadline: millis(config.max_deadline_ms),
        max_requests: config.max_requests,
        shared_memory: config.shared_memory.clone(),
        max_request_bytes: config.max_request_bytes,
    };
    let engine = Engine::new(manager.table.clone(), &options).with_shadows(Shadows::start()?);
    Ok(match config.lifecycle.model_memory_bytes {
        0 => engine,
        _ => engine.loading_on_demand(manager.control.clone()),
    })
}

impl Server {
    /// Binds first, so that health answers while models load and a port that is taken ends the start at once.
    pub fn start(config: &Config) -> Result<Server, String> {
        let auth = Auth::open(&config.auth)?;
        let tls = Tls::load(&config.tls)?;
        let [http, grpc, operator] = bind(config, tls.as_ref())?;
        let addresses = [&http, &grpc, &operator]
            .map(|l| l.as_ref().map_or("off".to_owned(), Listener::address));
        if auth.callers().is_none() {
            warn_of_open_ports(&addresses[..2]);
        }

        let (cores, threads) = threads(config);
        let backends = backends(config)?;
        tracing::info!(cores, network = threads.network, executors = threads.executors, "starting");
        match &backends.ort {
            Ok(ort) => tracing::info!("models run on {}", ort.describe()),
            Err(why) => tracing::warn!("ONNX Runtime is not here, models run on tract: {why}"),
        }
        let pool = Pool::new(threads);
        let executors = Executors::start(&pool).map_err(no_thread)?;
        let devices = Arc::new(Devices::default());
        let state = state(config);
        let logs = Arc::new(Logs::start(&config.prediction_log)?);
        let own = (devices.clone(), logs.clone());
        let deps = Deps { backends, pool, devices: own.0, cores, logs: own.1, state };
        let (manager, followed) = manager(config, deps)?;
        let manager = Arc::new(manager);
        let engine = Arc::new(engine(config, &manager)?);
        show_memory(engine.budget.clone());
        let (announcer, listener) = shutdown::channel();
        let api = Api {
            table: manager.table.clone(),
            infer: engine.clone(),
            ready: manager.ready.clone(),
            store: followed.status,
            shutdown: listener.clone(),
            control: config.control,
            calls: manager.control.clone(),
            limits: body_limits(config),
            budget: engine.budget.clone(),
            place: Place {
                models: manager.place.clone(),
                state: self::state(config),
                store: followed.rules,
            },
            labels: logs.intake(),
            regions: engine.regions.clone(),
            log_format: config.log.format,
            traced: config.tracing.share(),
        };
        let observer = observer(config)?;
        let watched = observer.as_ref();
        let (engine, listener) = (&engine, &listener);
        let ports = Ports { config, api, engine, auth: &auth, listener, observer: watched };
        let network = ports.data(threads.network, [http, grpc].into_iter().flatten().collect())?;
        let operator = operator.map(|socket| ports.operator(socket)).transpose()?;

        let [http, grpc, operator_at] = &addresses;
        banner(&format!("listening http={http} grpc={grpc} operator={operator_at}"));
        Ok(Server {
            addresses,
            auth,
            tls,
            announcer,
            manager,
            executors,
            devices,
            network,
            operator,
            observer,
            logs,
        })
    }

    /// Waits until every wanted version has been tried; false when `limit` passed first.
    pub fn wait_loaded(&self, limit: Duration) -> bool {
        self.manager.wait_initial(limit)
    }

    /// Prints what is served once every model has been tried.
    fn tell_when_settled(&self, models: PathBuf) {
        let manager = self.manager.clone();
        let told = thread::Builder::new().name("onnxd-banner".into()).spawn(move || {
            while !manager.wait_initial(EXPLAIN_LIMIT) {}
            banner(&repository::banner::banner(&manager.table.load(), &models));
        });
        if let Err(error) = told {
            tracing::warn!(%error, "the banner's thread could not be started");
        }
    }

    /// Goes down, phase by phase, each with its limit; a second signal skips to the end.
    pub async fn stop(self, config: &Config) {
        match shutdown::asked() {
            Ok(again) => self.stop_or_cut(config, again).await,
            Err(_) => self.stop_or_cut(config, std::future::pending()).await,
        }
    }

    /// The same, but for the signal that cuts it short.
    async fn stop_or_cut(self, config: &Config, again: impl Future<Output = &'static str>) {
        let Server { announcer, manager, executors, devices, .. } = self;
        let Server { network, operator, observer, logs, .. } = self;
        tokio::pin!(again);
        announcer.announce(Phase::Unready);
        let hurried = tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(config.drain_delay_ms)) => false,
            _ = &mut again => true,
        };
        let hurry = async {
            // Not polled again where it has ended.
            if !hurried {
                again.await;
            }
        };
        announcer.announce(Phase::Draining);
        let limit = Instant::now() + Duration::from_millis(config.drain_timeout_ms);
        let ended = tokio::task::spawn_blocking(move || {
            network.join();
            if let Some(operator) = operator {
                operator.join();
            }
        });
        tokio::pin!(ended);
        let patience = tokio::time::sleep_until(limit.into());
        tokio::select! {
            _ = &mut ended => {}
            () = patience => {
                tracing::warn!("connections are still open after drain_timeout_ms: they are cut");
                announcer.announce(Phase::Cut);
                let _ = tokio::time::timeout(LAST_PHASES, &mut ended).await;
            }
            () = hurry => {
                tracing::warn!("a second signal: connections are cut");
                announcer.announce(Phase::Cut);
                let _ = tokio::time::timeout(LAST_PHASES, &mut ended).await;
            }
        }
        if !manager.close(LAST_PHASES) {
            tracing::warn!("a model is still being loaded: it is left");
        }
        let executors = tokio::task::spawn_blocking(move || {
            executors.stop();
            devices.stop();
        });
        if tokio::time::timeout(LAST_PHASES, executors).await.is_err() {
            tracing::warn!("a run is still under way: it is left");
        }
        let flushed = tokio::task::spawn_blocking(move || logs.close(LAST_PHASES));
        if !flushed.await.unwrap_or(false) {
            tracing::warn!(
                "the prediction log is not through: the next start makes files of the rest"
            );
        }
        if let Some(observer) = observer {
            let sent = tokio::task::spawn_blocking(move || observer.finish());
            let _ = tokio::time::timeout(LAST_PHASES, sent).await;
        }
        tracing::info!("stopped");
    }
}

/// What watches the requests, where the configuration asks for it.
fn observer(config: &Config) -> Result<Option<Arc<Observer>>, String> {
    let traces = Traces::start(&config.tracing)?;
    let access = config.log.access;
    let asked = traces.is_some() || access != Access::None;
    Ok(asked.then(|| Arc::new(Observer { access, traces })))
}

/// The listeners for HTTP, gRPC and the operator, with TLS where they have it.
fn bind(config: &Config, tls: Option<&Arc<Tls>>) -> Result<[Option<Listener>; 3], String> {
    let one = |address, role| -> Result<Option<Listener>, String> {
        let tls = tls.filter(|_| config.tls.covers(role)).cloned();
        Ok(Listener::bind(address, role)?.map(|listener| listener.with_tls(tls)))
    };
    Ok([
        one(&config.http, registry::Listener::Http)?,
        one(&config.grpc, registry::Listener::Grpc)?,
        one(&config.operator, registry::Listener::Operator)?,
    ])
}

/// What both kinds of port are made of.
struct Ports<'a> {
    config: &'a Config,
    api: Api,
    engine: &'a Arc<Engine>,
    auth: &'a Arc<Auth>,
    listener: &'a shutdown::Listener,
    observer: Option<&'a Arc<Observer>>,
}

impl Ports<'_> {
    fn options(&self) -> ListenOptions {
        ListenOptions {
            max_connections: self.config.max_connections,
            max_streams: self.config.max_streams,
            max_header_bytes: self.config.max_header_bytes,
            limits: Limits {
                head: Duration::from_millis(self.config.header_timeout_ms),
                idle: Duration::from_millis(self.config.idle_timeout_ms),
                write: Duration::from_millis(self.config.write_timeout_ms),
            },
            ping: millis(self.config.http2_ping_ms),
            drain_timeout: Duration::from_millis(self.config.drain_timeout_ms),
        }
    }

    fn data(&self, threads: usize, listeners: Vec<Listener>) -> Result<Network, String> {
        let front = Arc::new(Front {
            engine: self.engine.clone(),
            router: http::router(Arc::new(self.api.clone())),
            limits: self.api.limits,
            gate: Gate::new(self.auth.clone(), Port::Data),
            shutdown: self.listener.clone(),
        });
        let (options, listener) = (self.options(), self.listener.clone());
        let observed = Observed { inner: Gated(front), observer: self.observer.cloned() };
        Network::start(threads, listeners, observed, options, listener).map_err(no_thread)
    }

    fn operator(&self, socket: Listener) -> Result<Network, String> {
        let metrics = self.config.metrics;
        let operator = Gated(Operator {
            router: operator::router(&self.api, Arc::new(move || prometheus::render(metrics))),
            gate: Arc::new(Gate::new(self.auth.clone(), Port::Operator)),
            limits: self.api.limits,
        });
        let (options, listener) = (self.options(), self.listener.clone());
        let observed = Observed { inner: operator, observer: self.observer.cloned() };
        Network::start(1, vec![socket], observed, options, listener).map_err(no_thread)
    }
}

/// Tells who left a data port open to other machines without asking anybody who they are.
fn warn_of_open_ports(addresses: &[String]) {
    let elsewhere = |address: &&String| {
        address.parse::<SocketAddr>().is_ok_and(|at| !at.ip().to_canonical().is_loopback())
    };
    for address in addresses.iter().filter(elsewhere) {
        tracing::warn!(
            %address,
            "other machines reach this port, and no callers are configured: whoever does may use every model (docs/security.md)"
        );
    }
}

fn body_limits(config: &Config) -> BodyLimits {
    BodyLimits {
        max_bytes: config.max_request_bytes,
        timeout: Duration::from_millis(config.body_timeout_ms),
    }
}

/// Puts what requests hold on the metrics page.
fn show_memory(budget: Arc<Budget>) {
    registry::registry().set_memory(move || registry::Memory {
        bytes: budget.used(),
        limit: budget.limit(),
        level: budget.level() as u8,
    });
}

fn millis(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn no_thread(error: std::io::Error) -> String {
    format!("a thread could not be started: {error}")
}

/// What a person sees at the start, apart from the log.
fn banner(text: &str) {
    eprintln!("{text}");
}
