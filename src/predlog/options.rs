//! What a person can set about the prediction log: of a model (`log` of model.yaml) and of the server (`prediction_log`).

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::redact::Rule;
use crate::objects::{Place, shown};

/// `prediction_log:` of the configuration: where the log of all models goes, and what it may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// The directory of the log. Default: `predictions`, beside the place where the server starts. Several servers may share
    /// one. It is made with the first row that is logged.
    pub dir: PathBuf,
    /// What rows and file names say of this server. Empty (default): the host's name.
    pub node: String,
    /// Bytes that rows of all models together may hold in memory until they are written. Default: 268435456 (256 MiB); what
    /// does not fit is dropped and counted.
    pub memory_bytes: usize,
    /// Milliseconds after which rows are written at the latest. Default: 100: a kill loses no more than that in `best_effort`,
    /// and larger writes save little.
    pub flush_ms: u64,
    /// Milliseconds between two syncs to the disk, in modes other than `durable`. Default: 1000: what a power cut may cost.
    pub fsync_ms: u64,
    /// Bytes of the write-ahead log at which a version's rows become a Parquet file. Default: 134217728 (128 MiB).
    /// That is made on processors that serving leaves idle until 512 MiB, or a quarter of `wal_max_bytes`, wait.
    pub rotate_bytes: u64,
    /// Seconds after which they do in any case. Default: 900.
    pub rotate_seconds: u64,
    /// Bytes that the write-ahead log may take; beyond, rows are dropped and counted. Default: 10737418240 (10 GiB), which is
    /// reached where Parquet files cannot be written.
    pub wal_max_bytes: u64,
    /// A directory with one for each model, in which files of labels are put to be brought in. Empty (default): none.
    pub labels_folder: PathBuf,
    /// A file whose content is the key for what is hashed. Empty (default): none, and a model whose log hashes is refused.
    pub key_file: PathBuf,
    /// Where closed files go as well.
    pub upload: UploadOptions,
    /// Whether small files of hours that are over are put together.
    pub compact: CompactOptions,
    /// What is written beside each file about its rows.
    pub profile: ProfileOptions,
}

/// `profile` of it: counts, moments, categories, sketches and a sample of each column, from which drift is told without the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileOptions {
    /// Whether it is written. Default: true.
    pub enabled: bool,
    /// Rows of the sample, at most. Default: 1000.
    pub sample_rows: usize,
}

impl ProfileOptions {
    /// How many rows the sample of a profile has; `None` where there are no profiles.
    pub fn sample(&self) -> Option<usize> {
        self.enabled.then_some(self.sample_rows)
    }
}

impl Default for ProfileOptions {
    fn default() -> Self {
        ProfileOptions { enabled: true, sample_rows: 1000 }
    }
}

/// `compact` of it: what `onnxd log compact` does, by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompactOptions {
    /// Whether it is done. Default: false: who has listed the files and opens them minutes later, as long Spark jobs do, would miss some.
    pub enabled: bool,
    /// Files of fewer bytes are small. Default: 16777216 (16 MiB).
    pub small_bytes: u64,
    /// How many bytes of small files become one. Default: 134217728 (128 MiB).
    pub target_bytes: u64,
    /// Seconds after its end for which an hour is left alone. Default: 1800: rows of it may still be on their way into a file.
    pub grace_seconds: u64,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions {
            enabled: false,
            small_bytes: 16 << 20,
            target_bytes: 128 << 20,
            grace_seconds: 1800,
        }
    }
}

/// `upload` of it: an object store that has every closed file as well, and labels, below the same paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadOptions {
    /// `s3://bucket/prefix`, `gs://…` or `az://…`; credentials and endpoint come from the environment, as for `models`. Empty
    /// (default): files stay here alone.
    pub uri: String,
    /// Milliseconds that the store may take to answer, beside a second for each 256 KiB that are sent. Default: 10000.
    pub timeout_ms: u64,
}

impl Default for UploadOptions {
    fn default() -> Self {
        UploadOptions { uri: String::new(), timeout_ms: 10_000 }
    }
}

impl UploadOptions {
    /// Whether anything goes up.
    pub fn is_on(&self) -> bool {
        !self.uri.is_empty()
    }

    fn check(&self) -> Result<(), String> {
        if self.timeout_ms == 0 {
            return Err("timeout_ms: expected at least 1, got 0".into());
        }
        if !self.is_on() {
            return Ok(());
        }
        match Place::read(&self.uri) {
            Ok(place) if place.is_web() => {
                let got = shown(&self.uri);
                Err(format!(
                    "uri: expected s3://, gs:// or az://, got '{got}': a web server is for reading"
                ))
            }
            Ok(_) => Ok(()),
            Err(why) => Err(format!("uri: '{}': {why}", shown(&self.uri))),
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            dir: PathBuf::from("predictions"),
            node: String::new(),
            memory_bytes: 256 << 20,
            flush_ms: 100,
            fsync_ms: 1000,
            rotate_bytes: 128 << 20,
            rotate_seconds: 900,
            wal_max_bytes: 10 << 30,
            labels_folder: PathBuf::new(),
            key_file: PathBuf::new(),
            upload: UploadOptions::default(),
            compact: CompactOptions::default(),
            profile: ProfileOptions::default(),
        }
    }
}

impl StoreOptions {
    /// What is wrong with these options, if anything.
    ///
    /// # Errors
    /// The option, what was expected and what came.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("memory_bytes", self.memory_bytes as u64),
            ("flush_ms", self.flush_ms),
            ("fsync_ms", self.fsync_ms),
            ("rotate_bytes", self.rotate_bytes),
            ("rotate_seconds", self.rotate_seconds),
            ("wal_max_bytes", self.wal_max_bytes),
            ("compact.small_bytes", self.compact.small_bytes),
            ("compact.target_bytes", self.compact.target_bytes),
        ] {
            if value == 0 {
                return Err(format!("{key}: expected at least 1, got 0"));
            }
        }
        if self.dir.as_os_str().is_empty() {
            return Err("dir: expected a directory, got nothing".into());
        }
        self.upload.check().map_err(|error| format!("upload.{error}"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !self.node.chars().all(plain) || self.node.starts_with(['.', '_']) {
            return Err(format!(
                "node: expected letters, digits, dots and dashes, got '{}'",
                self.node.escape_debug()
            ));
        }
        Ok(())
    }
}

/// `log:` of model.yaml and of the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// Whether predictions are logged. Default: false, since only the model's owner knows whether they may be kept.
    pub enabled: bool,
    /// What a request pays for its row: `best_effort` (default: nothing, a row that does not fit is dropped and counted),
    /// `backpressure` (it waits for room, for `max_wait_ms`) or `durable` (its answer waits until the row is on the disk).
    pub mode: Mode,
    /// With `backpressure`, milliseconds that an answer waits for room. Default: 5.
    pub max_wait_ms: u64,
    /// With `backpressure`, what happens then: `drop` (default: the row, which is counted) or `reject` (the request, with 503).
    pub on_full: OnFull,
    /// `table` (a row for each row of the batch), `tensor` (a row for each request) or `auto` (default: table where every
    /// tensor has at most two dimensions, of which the first is the batch).
    pub layout: Layout,
    /// Bytes that rows of the model may hold in memory until they are written. Default: 67108864 (64 MiB).
    pub ring_bytes: usize,
    /// Bytes of a tensor, or of its part that belongs to a row, up to which its values are logged. Default: 4096. Of a larger
    /// one, `large` says what is.
    pub max_inline_bytes: usize,
    /// What is logged of a larger tensor: `digest` (default: its SHA-256), `blob` (that, and its bytes as a file beside the rows, which
    /// refer to it) or `none`.
    pub large: Large,
    /// Names of the columns of inputs and outputs of shape [N, d], by tensor. Default: those of the model's metadata
    /// (`feature_names`), else one column that holds a list.
    pub feature_names: BTreeMap<String, Vec<String>>,
    /// Which outputs say what was predicted.
    pub prediction: Prediction,
    /// Request parameters that go into the column `tags`. Default: none.
    pub tags: Vec<String>,
    /// The request parameter, or where there is none of that name the header (gRPC: metadata), that names the tenant for whom
    /// is asked. Empty (default): none, and the column `tenant` is null.
    pub tenant: String,
    /// Which requests are logged.
    pub sampling: Sampling,
    /// Columns that are logged, with `*` for any text; what is not named is not. Default: none named, and every column is.
    pub only: Vec<String>,
    /// What becomes of a column before it is written anywhere, by its name, with `*` for any text: `drop`, `keep`, `hash`,
    /// `{truncate: characters}`, `{bucket: [edges]}`, `{round: step}` or `{mask: regular expression}`. Default: nothing.
    pub redact: BTreeMap<String, Rule>,
    /// Whether text (BYTES) of inputs is logged where `redact` says nothing of it. Default: false: it may hold anything.
    pub text: bool,
    /// The request parameter that names whom a request is about; its keyed hash becomes `subject_key`. Empty (default): none.
    pub subject: String,
    /// How long files are kept.
    pub retention: Retention,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            enabled: false,
            mode: Mode::BestEffort,
            max_wait_ms: 5,
            on_full: OnFull::Drop,
            layout: Layout::Auto,
            ring_bytes: 64 << 20,
            max_inline_bytes: 4096,
            large: Large::Digest,
            feature_names: BTreeMap::new(),
            prediction: Prediction::default(),
            tags: Vec::new(),
            tenant: String::new(),
            sampling: Sampling::default(),
            only: Vec::new(),
            redact: BTreeMap::new(),
            text: false,
            subject: String::new(),
            retention: Retention::default(),
        }
    }
}

/// What a request pays for its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    BestEffort,
    Backpressure,
    Durable,
}

/// What happens where there is no room for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    #[default]
    Drop,
    Reject,
}

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    #[default]
    Auto,
    Table,
    Tensor,
}

/// What is logged of a tensor above `max_inline_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Large {
    #[default]
    Digest,
    Blob,
    None,
}

/// Which outputs say what was predicted; empty: by their names, shapes and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prediction {
    /// The output that names the class, as `pred_label`. Empty (default): one called `label` or `output_label`, else the best
    /// class of the scores where they have labels.
    pub label: String,
    /// The output whose value, or largest value of the row, is `pred_score`. Empty (default): one called `probabilities`,
    /// `output_probability`, `scores` or `variable`, else the only one of floats.
    pub score: String,
}

/// Which requests are logged. A request is logged or not as a whole, by a hash of its id, and `sample_p` says how likely that
/// was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// The share of requests, from 0 to 1. Default: 1.
    pub rate: f64,
    /// The share by class predicted, for those named; a request of several rows has that of the likeliest. Default: none.
    pub per_class: BTreeMap<String, f64>,
    /// Whether every request that fails is logged. Default: true.
    pub errors: bool,
    /// Every request that takes as many milliseconds is logged. 0 (default): not for that.
    pub slow_ms: u64,
    /// Every request with a `pred_score` below is logged. 0 (default): not for that.
    pub unsure_below: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            rate: 1.0,
            per_class: BTreeMap::new(),
            errors: true,
            slow_ms: 0,
            unsure_below: 0.0,
        }
    }
}

/// How long files are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Hours after which a file goes, counted from the end of its hour. 0 (default): never.
    pub max_age_hours: u64,
    /// Bytes that the files of the model may take; the oldest go first. 0 (default): no limit.
    pub max_bytes: u64,
}

impl LogOptions {
    /// What is wrong with these options, if anything.
    ///
    /// # Errors
    /// The option, what was expected and what came.
    pub fn check(&self) -> Result<(), String> {
        let sampling = &self.sampling;
        let classes = sampling.per_class.iter().map(|(class, p)| (format!("per_class.{class}"), p));
        for (key, share) in [("rate".to_owned(), &sampling.rate)].into_iter().chain(classes) {
            if !(0.0..=1.0).contains(share) {
                return Err(format!("sampling.{key}: expected a share from 0 to 1, got {share}"));
            }
        }
        if !sampling.unsure_below.is_finite() || sampling.unsure_below < 0.0 {
            let got = sampling.unsure_below;
            return Err(format!("sampling.unsure_below: expected a number from 0 on, got {got}"));
        }
        for (key, value) in
            [("ring_bytes", self.ring_bytes), ("max_inline_bytes", self.max_inline_bytes)]
        {
            if value == 0 {
                return Err(format!("{key}: expected at least 1, got 0"));
            }
        }
        for (column, rule) in &self.redact {
            rule.check().map_err(|error| format!("redact.{column}: {error}"))?;
        }
        Ok(())
    }

    /// Whether the log's key is needed.
    pub fn hashes(&self) -> bool {
        self.redact.values().any(|rule| *rule == Rule::Hash) || !self.subject.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: LogOptions) -> String {
        options.check().expect_err("refused")
    }

    #[test]
    fn defaults_pass_and_slips_are_named() {
        assert_eq!(LogOptions::default().check(), Ok(()));
        assert_eq!(StoreOptions::default().check(), Ok(()));
        let sampling = Sampling { rate: 1.5, ..Sampling::default() };
        let options = LogOptions { sampling, ..LogOptions::default() };
        assert_eq!(refused(options), "sampling.rate: expected a share from 0 to 1, got 1.5");
        let redact = [("in_name".to_owned(), Rule::Mask("(".into()))].into();
        let options = LogOptions { redact, ..LogOptions::default() };
        assert!(refused(options).starts_with("redact.in_name: mask: "));
        let store = StoreOptions { node: "../x".into(), ..StoreOptions::default() };
        assert!(store.check().expect_err("refused").starts_with("node: "));
        for uri in ["http://host/x", "/a/path", "s3://", "s3://me:pw@bucket"] {
            let upload = UploadOptions { uri: uri.into(), ..UploadOptions::default() };
            let store = StoreOptions { upload, ..StoreOptions::default() };
            let error = store.check().expect_err("refused");
            assert!(error.starts_with("upload.uri: ") && !error.contains("pw"), "{error}");
        }
    }
}
