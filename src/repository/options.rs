//! What a person can set about a model (`model.yaml`) and about the repository (the server's configuration).

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value;

use super::{declared::Declared, lifecycle_options::LifecycleOptions};
use crate::{
    batcher::options::BatchOptions,
    cache::options::CacheOptions,
    predlog::options::LogOptions,
    runtime::options::{BackendChoice, Provider, SessionOptions},
};

/// `repository:` of the server's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Where the models are: a repository, one .onnx file, or a directory that holds one. Default: `models`, beside
    /// the place where the server starts.
    pub models: PathBuf,
    /// Which models are loaded at start: `all` (default), `none`, or a list of names.
    pub load: Load,
    /// When the server calls itself ready: `strict` (default) once every model serves, `lenient` once every model
    /// serves or has failed. Strict, so that an orchestrator keeps the old pod while a new one lacks a model.
    pub readiness: Readiness,
    /// Versions that are opened at once, on threads of low priority. 0 (default): one for every two cores of the
    /// budget, at least one, so that loading never takes the machine from what serves.
    pub load_threads: usize,
    /// How versions come and go while the server runs.
    pub lifecycle: LifecycleOptions,
    /// What holds for every model whose model.yaml says nothing else.
    pub defaults: Defaults,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            models: PathBuf::from("models"),
            load: Load::All,
            readiness: Readiness::Strict,
            load_threads: 0,
            lifecycle: LifecycleOptions::default(),
            defaults: Defaults::default(),
        }
    }
}

impl Options {
    /// What is wrong with these options, if anything; for use before a port is bound.
    pub fn check(&self) -> Result<(), String> {
        if !self.defaults.batching.padding.is_empty() {
            return Err(
                "defaults: batching.padding names inputs: it belongs in a model's own model.yaml"
                    .into(),
            );
        }
        self.lifecycle.check().map_err(|e| format!("lifecycle.{e}"))?;
        ModelOptions::from(&self.defaults).check().map_err(|e| format!("defaults: {e}"))
    }
}

/// When the server calls itself ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    #[default]
    Strict,
    Lenient,
}

/// Which models are loaded at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Load {
    #[default]
    All,
    None,
    Names(Vec<String>),
}

impl Load {
    pub fn wants(&self, model: &str) -> bool {
        match self {
            Load::All => true,
            Load::None => false,
            Load::Names(names) => names.iter().any(|n| n == model),
        }
    }
}

/// The form of the command line: `all`, `none` or `NAME,...`.
impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        match text.trim() {
            "all" => Ok(Load::All),
            "none" => Ok(Load::None),
            names => {
                let names: Vec<String> = names.split(',').map(|n| n.trim().to_string()).collect();
                if names.iter().any(String::is_empty) {
                    return Err(format!(
                        "expected all, none or names separated by commas, not '{text}'"
                    ));
                }
                Ok(Load::Names(names))
            }
        }
    }
}

impl Serialize for Load {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Load::All => serializer.serialize_str("all"),
            Load::None => serializer.serialize_str("none"),
            Load::Names(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Load {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Load, D::Error> {
        struct LoadVisitor;
        impl<'de> Visitor<'de> for LoadVisitor {
            type Value = Load;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("all, none or a list of model names")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Load, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Load, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Load::Names(names))
            }
        }
        deserializer.deserialize_any(LoadVisitor)
    }
}

/// `defaults:` of the repository's options: the same blocks as in model.yaml, for every model that does not set them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// As `backend` of model.yaml. Default: `auto`.
    pub backend: BackendChoice,
    /// As `session` of model.yaml.
    pub session: SessionOptions,
    /// As `batching` of model.yaml.
    pub batching: BatchOptions,
    /// As `cache` of model.yaml. Default: none.
    pub cache: CacheOptions,
    /// As `log` of model.yaml. Default: off.
    pub log: LogOptions,
    /// As `default_timeout_ms` of model.yaml. Default: 0, none.
    pub default_timeout_ms: u64,
    /// As `warmup` of model.yaml. Default: true.
    pub warmup: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            backend: BackendChoice::Auto,
            session: SessionOptions::default(),
            batching: BatchOptions::default(),
            cache: CacheOptions::default(),
            log: LogOptions::default(),
            default_timeout_ms: 0,
            warmup: true,
        }
    }
}

/// Whether the first axis of a model's tensors counts as the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchAxis {
    #[default]
    Auto,
    First,
    None,
}

/// `model.yaml`, laid over the server's defaults. A model needs none of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// Version of this file's format. Default: 1, the only one there is.
    pub format: u32,
    /// Versions that serve: `latest` (default: the newest that loads; a broken newest leaves the one before serving),
    /// `latest: N`, `all`, or a list of numbers.
    pub versions: Versions,
    /// The runtime: `auto` (default: ONNX Runtime where its library is present, else tract), `ort` or `tract`.
    pub backend: BackendChoice,
    /// How the runtime opens the model.
    pub session: SessionOptions,
    /// How requests become runs.
    pub batching: BatchOptions,
    /// Which answers are kept.
    pub cache: CacheOptions,
    /// Which predictions are logged, and how.
    pub log: LogOptions,
    /// Milliseconds that a request without a deadline of its own may take. 0 (default): no deadline, since only the
    /// caller knows how long an answer is worth waiting for.
    pub default_timeout_ms: u64,
    /// Run the model on generated input before it serves, which warms it and measures what a run costs, by batch
    /// size. Default: true. Without it, nothing is known: it runs on the executors.
    pub warmup: bool,
    /// Let a version serve whose signature the callers of the one before could not use: an input or output that is gone, of
    /// another datatype, or of a shape that does not fit. Default: false: such a version is refused.
    pub allow_signature_change: bool,
    /// The batch axis: `auto` (default: the first, where every input and output begins with one and the same dynamic
    /// dimension), `first` (it is the first, although the graph names it differently from tensor to tensor) or `none`.
    pub batch_axis: BatchAxis,
    /// Names of the classes, by output, in place of those in the graph's metadata.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Names of versions, for TensorFlow Serving's `/v1/models/NAME/labels/LABEL`. Default: none.
    pub version_labels: BTreeMap<String, u64>,
    /// What else stands in config.pbtxt, where that is what was read.
    #[serde(skip)]
    pub declared: Option<Arc<Declared>>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions::from(&Defaults::default())
    }
}

impl From<&Defaults> for ModelOptions {
    fn from(defaults: &Defaults) -> Self {
        ModelOptions {
            format: FORMAT,
            versions: Versions::default(),
            backend: defaults.backend,
            session: defaults.session.clone(),
            batching: defaults.batching.clone(),
            cache: defaults.cache,
            log: defaults.log.clone(),
            default_timeout_ms: defaults.default_timeout_ms,
            warmup: defaults.warmup,
            allow_signature_change: false,
            batch_axis: BatchAxis::Auto,
            labels: BTreeMap::new(),
            version_labels: BTreeMap::new(),
            declared: None,
        }
    }
}

const FORMAT: u32 = 1;

/// Which versions of a model serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The newest so many that load.
    Latest(usize),
    All,
    Only(Vec<u64>),
}

impl Default for Versions {
    fn default() -> Self {
        Versions::Latest(1)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Versions::Latest(1) => f.write_str("latest"),
            Versions::Latest(n) => write!(f, "latest: {n}"),
            Versions::All => f.write_str("all"),
            Versions::Only(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
                write!(f, "[{}]", numbers.join(", "))
            }
        }
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Versions::Latest(1) => serializer.serialize_str("latest"),
            Versions::Latest(n) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("latest", n)?;
                map.end()
            }
            Versions::All => serializer.serialize_str("all"),
            Versions::Only(numbers) => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Versions, D::Error> {
        deserializer.deserialize_any(VersionsVisitor)
    }
}

struct VersionsVisitor;

const VERSIONS_FORMS: &str = "expected latest, latest: N, all or a list of numbers";

impl<'de> Visitor<'de> for VersionsVisitor {
    type Value = Versions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("latest, latest: N, all or a list of numbers")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Versions, E> {
        match text {
            "latest" => Ok(Versions::Latest(1)),
            "all" => Ok(Versions::All),
            other => Err(E::custom(format!("versions: {VERSIONS_FORMS}, not '{other}'"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Versions, A::Error> {
        let wrong = |key: &str| {
            serde::de::Error::custom(format!("versions: {VERSIONS_FORMS}, not a map with '{key}'"))
        };
        let Some(key) = map.next_key::<String>()? else { return Err(wrong("")) };
        if key != "latest" {
            return Err(wrong(&key));
        }
        let count: usize = map.next_value()?;
        if let Some(key) = map.next_key::<String>()? {
            return Err(wrong(&key));
        }
        if count == 0 {
            return Err(serde::de::Error::custom("versions: latest: expected at least 1, not 0"));
        }
        Ok(Versions::Latest(count))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Versions, A::Error> {
        let mut numbers: Vec<u64> = Vec::new();
        while let Some(number) = seq.next_element()? {
            numbers.push(number);
        }
        numbers.sort_unstable();
        numbers.dedup();
        match numbers.first() {
            None => Err(serde::de::Error::custom("versions: the list is empty")),
            Some(0) => Err(serde::de::Error::custom("versions: 0 is no version, they start at 1")),
            Some(_) => Ok(Versions::Only(numbers)),
        }
    }
}

impl ModelOptions {
    /// The options of a model: `text` of its model.yaml laid over `defaults`, key by key. `file` is its path relative
    /// to the repository, for the error, which names the file, the line and what is wrong with it.
    pub fn read(text: &str, file: &str, defaults: &Defaults) -> Result<ModelOptions, String> {
        let fail = |error: &serde_saphyr::Error| explain(file, text, error);
        let present: Value = parse_yaml(text).map_err(|e| fail(&e))?;
        let base = ModelOptions::from(defaults);
        let present = match present {
            Value::Null => return Ok(base),
            map @ Value::Object(_) => map,
            _ => return Err(format!("{file}: expected keys and values, as in `versions: all`")),
        };
        // The format decides what the other keys mean, so it is looked at before any of them is called unknown.
        match present.get("format") {
            None => {}
            Some(format) if format.as_u64() == Some(u64::from(FORMAT)) => {}
            Some(format) => {
                return Err(format!(
                    "{file}: format {format} is not known here, expected {FORMAT}"
                ));
            }
        }
        let own: ModelOptions = parse_yaml(text).map_err(|e| fail(&e))?;
        let merged = own.over(base, &present).map_err(|e| format!("{file}: {e}"))?;
        merged.check().map_err(|e| format!("{file}: {e}"))?;
        Ok(merged)
    }

    /// These options where `present` has the key, `base` elsewhere.
    fn over(&self, base: ModelOptions, present: &Value) -> Result<ModelOptions, serde_json::Error> {
        let mut merged = serde_json::to_value(base)?;
        overlay(&mut merged, &serde_json::to_value(self)?, present);
        serde_json::from_value(merged)
    }

    /// How long a request without a deadline of its own may take; zero: for ever.
    pub fn default_timeout(&self) -> Duration {
        Duration::from_millis(self.default_timeout_ms)
    }

    fn check(&self) -> Result<(), String> {
        let batching = &self.batching;
        for (key, value) in [
            ("max_batch_size", batching.max_batch_size),
            ("max_queue_requests", batching.max_queue_requests),
            ("max_queue_bytes", batching.max_queue_bytes),
            ("default_priority", usize::from(batching.default_priority)),
        ] {
            if value == 0 {
                return Err(format!("batching.{key}: expected at least 1, not 0"));
            }
        }
        for (input, padding) in &batching.padding {
            padding.check().map_err(|e| format!("batching.padding: {input}: {e}"))?;
        }
        self.session.check().map_err(|e| format!("session: {e}"))?;
        self.log.check().map_err(|e| format!("log.{e}"))?;
        match self.session.providers.iter().find(|p| p.name != Provider::Cpu) {
            Some(p) if self.backend == BackendChoice::Tract => {
                Err(format!("session: provider {} needs backend ort, not tract", p.name))
            }
            _ => Ok(()),
        }
    }
}

/// Copies from `own` into `merged` what `present` has keys for. Lists are replaced as a whole.
fn overlay(merged: &mut Value, own: &Value, present: &Value) {
    match (merged, own, present) {
        (Value::Object(merged), Value::Object(own), Value::Object(present)) => {
            for (key, present) in present {
                let Some(own) = own.get(key) else { continue };
                match merged.get_mut(key) {
                    // `versions` is one value, whichever form it has.
                    Some(merged) if key != "versions" => overlay(merged, own, present),
                    _ => drop(merged.insert(key.clone(), own.clone())),
                }
            }
        }
        (merged, own, _) => *merged = own.clone(),
    }
}

pub fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
}

/// As `explain`, for what may hold a secret: file, line and what would be right, and nothing of what stands there.
pub fn explain_quietly(file: &str, error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let line = error.location().map_or(0, |l| l.line());
    let what = match error {
        Error::SerdeUnknownField { expected, .. } => {
            format!("unknown key (known here: {})", expected.join(", "))
        }
        Error::SerdeUnknownVariant { expected, .. } => format!("expected {}", expected.join(", ")),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("expected {expected}")
        }
        Error::Message { msg, .. } => msg.clone(),
        _ => "this cannot be read as YAML of this kind".into(),
    };
    format!("{file}, line {line}: {what}")
}

/// What is wrong with the YAML `text` of `file`, on one line: file, line, the line itself, what would be right. Used for
/// the server's configuration too.
pub fn explain(file: &str, text: &str, error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter};
    let error = error.without_snippet();
    let line = error.location().map_or(0, |l| l.line());
    let what = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key '{}' (known here: {})", field.escape_debug(), expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("'{}' is none of {}", variant.escape_debug(), expected.join(", "))
        }
        Error::InvalidScalar { ty: "bool", .. } => "expected true or false".into(),
        Error::InvalidScalar { ty: "u64" | "u32" | "u16" | "u8" | "usize", .. } => {
            "expected a whole number, 0 or more".into()
        }
        other => {
            let text = DefaultMessageFormatter.format_message(other);
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        }
    };
    let Some(source) = usize::try_from(line).ok().and_then(|l| text.lines().nth(l.checked_sub(1)?))
    else {
        return format!("{file}: {what}");
    };
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let source: String = source.trim().chars().take(80).map(plain).collect();
    format!("{file}, line {line}: {what}, at '{source}'")
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
