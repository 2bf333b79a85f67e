//! The server's configuration: every room's options under one roof, where each value came from, and the checks that
//! no room can make alone.

use std::{collections::BTreeMap, fmt, path::Path, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    api::{
        address::Address,
        auth::{callers::Callers, options::AuthOptions},
        tls::TlsOptions,
    },
    predlog::options::StoreOptions,
    repository::{
        lifecycle_options::LifecycleOptions,
        options::{Defaults, Load, Options, Readiness, explain, explain_quietly, parse_yaml},
        remote_options::RemoteOptions,
    },
    serving::regions::RegionOptions,
    telemetry::{logs::LogOptions, prometheus::MetricsOptions, trace::TraceOptions},
};

/// Everything a person can set about the server. A file has these keys (`config.example.yaml` has them all), the
/// environment `ONNXD_` and the key in capitals (`ONNXD_HTTP`, `ONNXD_LOG_LEVEL`); `onnxd serve` has flags for the ones
/// that are set most. Flags win over the environment, the environment over the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the models are: a repository, one .onnx file, or a directory that holds one; a local path, or a URL of an
    /// object store (`s3://`, `gs://`, `az://`, and `https://` with an index). Default: `models`.
    pub models: PathBuf,
    /// How an object store is read and mirrored.
    pub store: RemoteOptions,
    /// Which models are loaded at start: `all` (default), `none`, or names separated by commas.
    pub load: Load,
    /// When the server calls itself ready: `strict` (default) once every wanted model serves, so that an orchestrator
    /// keeps the old pod while a new one lacks a model; `lenient` once each serves or has failed.
    pub readiness: Readiness,
    /// Versions opened at once, on threads of low priority. 0 (default): one for every two cores of the budget, so that
    /// loading never takes the machine from what serves.
    pub load_threads: usize,
    /// How versions come and go while the server runs.
    pub lifecycle: LifecycleOptions,

    /// Address of the HTTP port: `HOST:PORT`, `unix:PATH` or `off`. Default: `127.0.0.1:8000`, Triton's port, on
    /// loopback, since whoever reaches the port may use every model.
    #[serde(serialize_with = "address_out", deserialize_with = "address_in")]
    pub http: Address,
    /// Address of the gRPC port. Default: `127.0.0.1:8001`. Both data ports speak both protocols.
    #[serde(serialize_with = "address_out", deserialize_with = "address_in")]
    pub grpc: Address,
    /// Address of the operator's port: metrics and health. Default: `127.0.0.1:8002`.
    #[serde(serialize_with = "address_out", deserialize_with = "address_in")]
    pub operator: Address,
    /// Whether the data ports answer the repository's load and unload calls. False by default: who may ask for an answer
    /// may not take the model from everybody else. The operator's port answers them in any case.
    pub control: bool,

    /// Processors the server may use: executors and network threads together keep to it. 0 (default): what the process may
    /// use, by its affinity and its cgroup's limit.
    pub threads: usize,
    /// Threads that read and write the wire, and run the tiniest models. 0 (default): chosen from the budget.
    pub network_threads: usize,
    /// Path of ONNX Runtime's library. Empty (default): looked for in `ORT_DYLIB_PATH`, beside the executable and in
    /// `../lib`, in the user's data directory and by the loader; without one, models are served on tract.
    pub onnxruntime_lib: PathBuf,
    /// Directory for what the server writes for itself: what models were measured to cost, so that the next start need not
    /// measure again. Empty (default): nothing is kept.
    pub state: PathBuf,

    /// Bytes that one request may have, as sent and once decompressed. Default: 64 MiB, Triton's.
    pub max_request_bytes: usize,
    /// Bytes that all requests under way may hold together: bodies, as sent and decompressed, what is made of them, and
    /// answers until they are written; more are refused (429), from 85% on large bodies and from 95% on all new ones.
    /// Default: 1 GiB: sixteen of the largest requests.
    pub request_memory_bytes: usize,
    /// Requests under way at once; more are refused (429). Default: 16384, far above what queues hold, so that it only
    /// stops a flood.
    pub max_requests: usize,
    /// Connections open at once; further ones wait in the system's queue. Default: 8192. Sidecars share loopback, so there
    /// is no limit per address.
    pub max_connections: usize,
    /// HTTP/2 streams of one connection at once. Default: 1024: some clients send everything over one connection.
    pub max_streams: u32,
    /// Milliseconds that a request's body may take to arrive. Default: 30000, so that a peer that stalls holds its memory
    /// for half a minute at most.
    pub body_timeout_ms: u64,
    /// Milliseconds that a request's head may take to arrive, and a new connection to send its first one. Default: 15000:
    /// heads are small, and only a peer that means harm drips them.
    pub header_timeout_ms: u64,
    /// Milliseconds that a connection may be idle between requests. Default: 75000, longer than the 60 s after which load
    /// balancers let idle connections go, so that they, who know, are the ones to close.
    pub idle_timeout_ms: u64,
    /// Milliseconds in which a peer must take 64 KiB of the answers that wait for it, or all of them. Default: 60000: a
    /// peer that does not read holds its answers' memory for a minute.
    pub write_timeout_ms: u64,
    /// Bytes of a request's head, its line and headers together. Default: 32768, what proxies in front allow.
    pub max_header_bytes: usize,
    /// Milliseconds of silence after which an HTTP/2 peer is asked by a PING whether it lives; one that does not answer
    /// within 20 s is cut. Default: 0, off: the system's keep-alive finds machines that are gone, idleness and slow reading
    /// end the rest, and every frame would pay for the clock. For proxies in between that forget silent connections.
    pub http2_ping_ms: u64,
    /// Milliseconds that a request may wait for its answer, whatever deadline its client gives. Default: 600000; 0: no
    /// such limit. The default is for clients that set none and never give up.
    pub max_deadline_ms: u64,

    /// Milliseconds between "not ready" and closing the ports at a stop, for load balancers that look rarely. Default: 0,
    /// since an orchestrator with a preStop pause has waited already.
    pub drain_delay_ms: u64,
    /// Milliseconds that requests under way get to end at a stop. Default: 25000: with the other phases under 30 s, the
    /// usual patience of an orchestrator.
    pub drain_timeout_ms: u64,

    /// Regions of shared memory that clients of this host may register for their tensors.
    pub shared_memory: RegionOptions,
    /// Who may ask, and for what.
    pub auth: AuthOptions,
    /// TLS of the ports.
    pub tls: TlsOptions,
    /// What is logged, and how.
    pub log: LogOptions,
    /// What the metrics page has.
    pub metrics: MetricsOptions,
    /// Spans of requests, for a collector.
    pub tracing: TraceOptions,
    /// Where predictions are logged. Whether they are, and how, is `log` of the defaults and of a model's model.yaml.
    pub prediction_log: StoreOptions,
    /// What holds for every model whose model.yaml says nothing else.
    pub defaults: Defaults,
}

impl Default for Config {
    fn default() -> Self {
        let repository = Options::default();
        let port = |port| Address::Tcp(format!("127.0.0.1:{port}"));
        Config {
            models: repository.models,
            store: RemoteOptions::default(),
            load: repository.load,
            readiness: repository.readiness,
            load_threads: repository.load_threads,
            lifecycle: repository.lifecycle,
            http: port(8000),
            grpc: port(8001),
            operator: port(8002),
            control: false,
            threads: 0,
            network_threads: 0,
            onnxruntime_lib: PathBuf::new(),
            state: PathBuf::new(),
            max_request_bytes: 64 << 20,
            request_memory_bytes: 1 << 30,
            max_requests: 16_384,
            max_connections: 8192,
            max_streams: 1024,
            body_timeout_ms: 30_000,
            header_timeout_ms: 15_000,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 60_000,
            max_header_bytes: 32 << 10,
            http2_ping_ms: 0,
            max_deadline_ms: 600_000,
            drain_delay_ms: 0,
            drain_timeout_ms: 25_000,
            shared_memory: RegionOptions::default(),
            auth: AuthOptions::default(),
            tls: TlsOptions::default(),
            log: LogOptions::default(),
            metrics: MetricsOptions::default(),
            tracing: TraceOptions::default(),
            prediction_log: StoreOptions::default(),
            defaults: repository.defaults,
        }
    }
}

fn address_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn address_out<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

impl Config {
    /// The repository's part.
    pub fn repository(&self) -> Options {
        Options {
            models: self.models.clone(),
            load: self.load.clone(),
            readiness: self.readiness,
            load_threads: self.load_threads,
            lifecycle: self.lifecycle.clone(),
            defaults: self.defaults.clone(),
        }
    }

    /// What is wrong with these values together, if anything.
    fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("max_request_bytes", self.max_request_bytes),
            ("max_requests", self.max_requests),
            ("max_connections", self.max_connections),
            ("max_streams", self.max_streams as usize),
            ("body_timeout_ms", self.body_timeout_ms as usize),
            ("header_timeout_ms", self.header_timeout_ms as usize),
            ("idle_timeout_ms", self.idle_timeout_ms as usize),
            ("write_timeout_ms", self.write_timeout_ms as usize),
        ] {
            if value == 0 {
                return Err(format!("{key}: expected at least 1, got 0"));
            }
        }
        self.shared_memory.check()?;
        if self.request_memory_bytes < self.max_request_bytes {
            return Err(format!(
                "request_memory_bytes: expected at least max_request_bytes ({}), got {}",
                self.max_request_bytes, self.request_memory_bytes
            ));
        }
        for (key, threads) in [
            ("threads", self.threads),
            ("network_threads", self.network_threads),
            ("load_threads", self.load_threads),
        ] {
            if threads > MAX_THREADS {
                return Err(format!("{key}: expected at most {MAX_THREADS}, got {threads}"));
            }
        }
        if !(1024..=1 << 20).contains(&self.max_header_bytes) {
            let got = self.max_header_bytes;
            return Err(format!("max_header_bytes: expected 1024 to 1048576, got {got}"));
        }
        self.lifecycle.check().map_err(|error| format!("lifecycle.{error}"))?;
        self.store.check().map_err(|error| format!("store.{error}"))?;
        self.tls.check().map_err(|error| format!("tls.{error}"))?;
        self.check_addresses()?;
        self.prediction_log.check().map_err(|error| format!("prediction_log.{error}"))?;
        self.defaults.log.check().map_err(|error| format!("defaults.log.{error}"))?;
        self.tracing.check().map_err(|error| format!("tracing.{error}"))?;
        Callers::new(&self.auth.callers, self.auth.identity, |_, _| Default::default())
            .map_err(|error| format!("auth.callers: {error}"))?;
        self.defaults.session.check().map_err(|error| format!("defaults.session: {error}"))
    }

    fn check_addresses(&self) -> Result<(), String> {
        let ports = [("http", &self.http), ("grpc", &self.grpc), ("operator", &self.operator)];
        let open: Vec<_> = ports.into_iter().filter(|(_, a)| **a != Address::Off).collect();
        if open.is_empty() {
            return Err("http, grpc and operator are all off: nobody could reach the server".into());
        }
        for (at, (key, address)) in open.iter().enumerate() {
            // Port 0 is a different port each time.
            let shared = open[..at].iter().find(|(_, other)| other == address);
            if let Some((other, _)) = shared
                && !address.to_string().ends_with(":0")
            {
                return Err(format!("{other} and {key} have the same address {address}"));
            }
        }
        Ok(())
    }
}

/// More threads than any machine has cores; beyond it, a slip of the finger.
const MAX_THREADS: usize = 4096;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// The file's name.
    File(String),
    /// The variable's name.
    Environment(String),
    /// The flag, as in `--http`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(name) => f.write_str(name),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value given on the command line: the key it sets, the flag, and the value as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    pub key: &'static str,
    pub flag: &'static str,
    pub value: String,
}

/// A configuration, checked, with the origin of every value by its key (`log.level`).
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub origins: BTreeMap<String, Origin>,
    /// What looks like a slip but stops nothing: `ONNXD_…` variables that are no option.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Every key with its value and origin, in the order of the keys; hashes of callers' keys are not shown.
    pub fn values(&self) -> Vec<(String, Value, Origin)> {
        let mut all = serde_json::to_value(&self.config).unwrap_or_default();
        for caller in all["auth"]["callers"].as_array_mut().into_iter().flatten() {
            for hash in caller["keys"].as_array_mut().into_iter().flatten() {
                *hash = "sha256:***".into();
            }
        }
        let origin = |key: &str| self.origins.get(key).cloned().unwrap_or(Origin::Default);
        leaves(&all).into_iter().map(|(key, value)| (key.clone(), value, origin(&key))).collect()
    }
}

/// Reads the file (where one is named), the environment and the flags. The error says where, and what was expected.
pub fn load(file: Option<&Path>, flags: &[Flag]) -> Result<Loaded, String> {
    let file = match file {
        None => None,
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{name}: cannot be read: {error}"))?;
            Some((name, text))
        }
    };
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect();
    resolve(file.as_ref().map(|(name, text)| (&**name, &**text)), &environment, flags)
}

const PREFIX: &str = "ONNXD_";

/// Variables that are ours and no option of the server.
const OTHER_VARIABLES: [&str; 1] = ["ONNXD_CONFIG"];

/// Lays environment and flags over the file, and the whole over the defaults.
fn resolve(
    file: Option<(&str, &str)>,
    environment: &[(String, String)],
    flags: &[Flag],
) -> Result<Loaded, String> {
    let defaults = to_value(&Config::default())?;
    let mut merged = defaults.clone();
    let mut origins = BTreeMap::new();
    if let Some((name, text)) = file {
        let (typed, present) = read_file(name, text)?;
        for (key, _) in leaves(&present) {
            if let Some(value) = get(&typed, &key) {
                set(&mut merged, &key, value.clone());
                origins.insert(key, Origin::File(name.to_owned()));
            }
        }
    }
    let keys: BTreeMap<String, String> = leaves(&defaults)
        .into_iter()
        .map(|(key, _)| (format!("{PREFIX}{}", key.replace('.', "_").to_uppercase()), key))
        .collect();
    let mut warnings = Vec::new();
    for (name, text) in environment {
        match keys.get(name) {
            Some(key) => {
                apply(&mut merged, &defaults, key, text).map_err(|e| format!("{name}: {e}"))?;
                origins.insert(key.clone(), Origin::Environment(name.clone()));
            }
            None if OTHER_VARIABLES.contains(&&**name) || kubernetes(name) => {}
            None => warnings.push(format!("the environment's {name} is no option of onnxd")),
        }
    }
    for Flag { key, flag, value } in flags {
        apply(&mut merged, &defaults, key, value).map_err(|e| format!("{flag}: {e}"))?;
        origins.insert((*key).to_owned(), Origin::Flag(flag));
    }
    let config: Config = from_value(merged)?;
    config.check()?;
    Ok(Loaded { config, origins, warnings })
}

/// The variables that Kubernetes sets in every pod beside a service called `onnxd` or `onnxd-…`.
fn kubernetes(name: &str) -> bool {
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].iter().any(|end| name.ends_with(end))
        || name.contains("_SERVICE_PORT_")
        || name.contains("_PORT_")
}

/// The file's configuration, and the file as it is, for which keys it has.
fn read_file(name: &str, text: &str) -> Result<(Value, Value), String> {
    let complain = |error: &serde_saphyr::Error| match may_hold_a_secret(text, error) {
        true => explain_quietly(name, error),
        false => explain(name, text, error),
    };
    let present: Value = parse_yaml(text).map_err(|error| complain(&error))?;
    match present {
        Value::Null => return Ok((Value::Null, Value::Null)),
        Value::Object(_) => {}
        _ => return Err(format!("{name}: expected keys and values, as in `http: 127.0.0.1:8000`")),
    }
    let typed: Config = parse_yaml(text).map_err(|error| complain(&error))?;
    typed.check().map_err(|error| format!("{name}: {error}"))?;
    Ok((to_value(&typed)?, present))
}

/// Whether an error is about what stands under `auth`, or might: its line must not be shown then.
fn may_hold_a_secret(text: &str, error: &serde_saphyr::Error) -> bool {
    let line = error.location().and_then(|l| usize::try_from(l.line()).ok()).unwrap_or(usize::MAX);
    let top = |line: &&str| !line.starts_with([' ', '\t', '#', '-']) && !line.trim().is_empty();
    match text.lines().take(line).filter(top).last() {
        Some(above) => above.contains("auth") || above.starts_with(['{', '}', '"', '\'']),
        None => text.contains("auth"),
    }
}

/// Sets `key` from text: as it is where the option is text, else as YAML reads it (1 and 0 for a switch too). The change is tried at once, so that
/// the error can name its source.
fn apply(merged: &mut Value, defaults: &Value, key: &str, text: &str) -> Result<(), String> {
    // Nothing of what might be a key.
    let shown =
        if key.starts_with("auth.") { "***".into() } else { text.escape_debug().to_string() };
    let value = match get(defaults, key) {
        Some(Value::String(_)) => Value::String(text.to_owned()),
        // As people write switches in an environment.
        Some(Value::Bool(_)) if matches!(text, "0" | "1") => Value::Bool(text == "1"),
        _ => parse_yaml(text).map_err(|_| format!("'{shown}' cannot be read"))?,
    };
    let mut alone = defaults.clone();
    set(&mut alone, key, value.clone());
    from_value(alone).map_err(|error| match key.starts_with("auth.") {
        true => "expected as config.example.yaml and docs/security.md have it".to_owned(),
        false => format!("'{shown}': {error}"),
    })?;
    set(merged, key, value);
    Ok(())
}

fn to_value(config: &Config) -> Result<Value, String> {
    serde_json::to_value(config).map_err(|error| error.to_string())
}

fn from_value(value: Value) -> Result<Config, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Every value that is no map, by its dotted key.
fn leaves(value: &Value) -> Vec<(String, Value)> {
    let Value::Object(map) = value else { return Vec::new() };
    let mut all = Vec::new();
    for (key, value) in map {
        match value {
            Value::Object(_) => all.extend(
                leaves(value).into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)),
            ),
            value => all.push((key.clone(), value.clone())),
        }
    }
    all
}

fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |value, part| value.get(part))
}

/// Sets what is there already; the defaults have every key.
fn set(value: &mut Value, key: &str, new: Value) {
    let slot = key.split('.').try_fold(value, |value, part| value.get_mut(part));
    if let Some(slot) = slot {
        *slot = new;
    }
}

#[cfg(test)]
mod tests;
