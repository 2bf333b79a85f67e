//! Builds a data set: chooses rows, cuts them by time, writes them sorted, and says what was done.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use onnxd::predlog::{
    digest,
    erased::Ledger,
    footer::ColumnRole,
    labels::store::Store,
    reader::{Filter, Log, LogFile, ReadError, failed},
};

use super::{
    blobs::{self, Blobs},
    columns::Columns,
    guards::Leak,
    manifest::{self, Manifest, Query, Source, Written},
    select::{Aside, Look, Selection, Wanted},
    split::{Cuts, Slice},
    write::Pass,
};

/// What is asked for. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Request {
    pub log: Log,
    pub model: String,
    /// With the model.
    pub filter: Filter,
    pub routes: Vec<String>,
    /// In place of every feature.
    pub features: Vec<String>,
    /// Rows with the same value of this column never both train and test.
    pub group: Option<String>,
    pub horizon: i64,
    /// `None`: the time within which nine of ten labels have come.
    pub maturity: Option<i64>,
    /// `None`: the last label's time.
    pub as_of: Option<i64>,
    /// `None`: the maturity.
    pub gap: Option<i64>,
    pub valid: f64,
    pub test: f64,
    pub allow_leaks: bool,
    pub out: PathBuf,
    /// About so much is held in memory: more waits on the disk, beside `out`.
    pub memory_bytes: u64,
}

/// Why there is no data set.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    Read(ReadError),
    Usage(String),
    TooLittle(String),
    Leaks(Vec<Leak>),
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Refused {
        Refused::Read(error)
    }
}

/// Builds it as `request.out`, which must not be there. `seen` is told how many files are done.
pub fn build(request: &Request, seen: impl FnMut(usize)) -> Result<Manifest, Refused> {
    if request.out.exists() || withheld(&request.out).exists() {
        return Err(Refused::Usage(format!("{}: is there already", request.out.display())));
    }
    let mut files = request.log.files(&request.filter)?;
    files.sort_by_key(|file| (file.partition.begins(), file.clone()));
    let columns = Columns::of(&files, request)?;
    let part = request.out.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    let done = build_as(&part, request, (&files, &columns), seen);
    let _ = fs::remove_dir_all(&part);
    done
}

/// Builds it as `part`, and gives that its name.
fn build_as(
    part: &Path,
    request: &Request,
    (files, columns): (&[LogFile], &Columns),
    seen: impl FnMut(usize),
) -> Result<Manifest, Refused> {
    let aside = part.join("aside");
    fs::create_dir_all(&aside).map_err(|error| failed(&aside, error))?;
    let (mut selection, wanted) = chosen(&aside, request, files, columns)?;
    let gap = request.gap.unwrap_or(wanted.maturity);
    let cuts = Cuts::by_share(&mut selection.times, request.valid, request.test, gap);
    selection.times = Vec::new();
    let slices = selection.assign(cuts)?;
    if slices.used.is_empty() {
        return Err(Refused::TooLittle(format!(
            "no row of model {} is left: {}",
            request.model,
            left_out(&selection)
        )));
    }
    let (filter, bytes) = (&request.filter, request.memory_bytes);
    let pass = Pass { filter, columns, slices: &slices, aside: &aside, bytes };
    let (written, leaks) = pass.run(files, part, seen)?;
    if !leaks.is_empty() && !request.allow_leaks {
        return Err(Refused::Leaks(leaks));
    }
    fs::remove_dir_all(&aside).map_err(|error| failed(&aside, error))?;
    let blobs = blobs::bring(&request.log.root, part, columns)?;
    let query = query(request, &wanted, columns, cuts);
    let found = (&selection, columns, files);
    let manifest = describe(request, query, (written, leaks, blobs), found)?;
    publish(part, request, columns, &manifest)?;
    Ok(manifest)
}

/// The rows that can be in, and what they had to be.
fn chosen(
    aside: &Path,
    request: &Request,
    files: &[LogFile],
    columns: &Columns,
) -> Result<(Selection, Wanted), Refused> {
    let store = Store::at(&request.log.root);
    let labels = (&store, request.model.as_str(), request.as_of);
    let mut aside = Aside::labels(aside, labels, (columns.rows, request.memory_bytes))?;
    let Some(last) = aside.last_label else {
        return Err(Refused::TooLittle(format!(
            "model {} has no label (`onnxd labels import` brings them in)",
            request.model
        )));
    };
    aside.add_rows(&Look {
        files,
        filter: &request.filter,
        routes: &request.routes,
        group: request.group.as_deref(),
        ledger: &Ledger::read(&request.log.root)?,
    })?;
    let maturity = match request.maturity {
        Some(maturity) => maturity,
        None => {
            let seconds = aside.delays(request.horizon)?.quantile(0.9).unwrap_or(0);
            i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000)
        }
    };
    if let Some(gap) = request.gap.filter(|gap| *gap < maturity) {
        return Err(Refused::Usage(format!(
            "--gap: expected at least the maturity, {} s, got {} s: labels of rows that train would tell of rows that test",
            maturity / 1_000_000,
            gap / 1_000_000
        )));
    }
    let as_of = request.as_of.unwrap_or(last);
    let wanted = Wanted { horizon: request.horizon, maturity, as_of };
    Ok((aside.choose(&wanted)?, wanted))
}

/// Where what is withheld from whoever trains lies: beside the data set, not in it.
pub fn withheld(out: &Path) -> PathBuf {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!("{name}-withheld"))
}

fn left_out(selection: &Selection) -> String {
    let parts: Vec<String> =
        selection.dropped.iter().map(|(why, n)| format!("{} {n}", why.name())).collect();
    format!("{} rows seen, {}", selection.seen, parts.join(", "))
}

fn query(request: &Request, wanted: &Wanted, columns: &Columns, cuts: Cuts) -> Query {
    Query {
        model: request.model.clone(),
        version: request.filter.version.clone(),
        from: request.filter.from,
        to: request.filter.to,
        conditions: request.filter.conditions.iter().map(ToString::to_string).collect(),
        routes: request.routes.clone(),
        features: columns.features.iter().map(|feature| feature.name.clone()).collect(),
        group: request.group.clone(),
        horizon_us: request.horizon,
        maturity_us: wanted.maturity,
        as_of: wanted.as_of,
        cuts,
    }
}

fn describe(
    request: &Request,
    query: Query,
    (files, suspect_columns, blobs): (Vec<Written>, Vec<Leak>, Blobs),
    (selection, columns, log): (&Selection, &Columns, &[LogFile]),
) -> Result<Manifest, Refused> {
    let root = &request.log.root;
    let source = |path: &Path| -> Result<Source, ReadError> {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        Ok(Source { path: name, sha256: digest::file(path)? })
    };
    let labels = Store::at(root).files(&request.model)?;
    let left_out: BTreeMap<&'static str, u64> =
        selection.dropped.iter().map(|(why, count)| (why.name(), *count)).collect();
    Ok(Manifest {
        format: 1,
        id: manifest::id(&query, &files),
        query,
        files,
        rows_seen: selection.seen,
        left_out,
        suspect_columns,
        signature_digests: columns.signature_digests.clone(),
        log_files: log.iter().map(|file| source(&file.path)).collect::<Result<_, _>>()?,
        label_files: labels.iter().map(|path| source(path)).collect::<Result<_, _>>()?,
        code: format!("onnxd-offline {}", env!("CARGO_PKG_VERSION")),
        blobs,
    })
}

/// Gives the data set, and what is withheld, their names.
fn publish(
    part: &Path,
    request: &Request,
    columns: &Columns,
    manifest: &Manifest,
) -> Result<(), Refused> {
    let schema = serde_json::json!({
        "format": 1,
        "features": columns.features,
        "label": "label",
        "label_value": "label_value",
        "weight": "sample_weight",
        "meta": ["event_id", "label_key", "ts", "model_version"],
    });
    let mut tensors: BTreeMap<&str, Vec<&ColumnRole>> = BTreeMap::new();
    for feature in &columns.features {
        tensors.entry(feature.tensor.as_deref().unwrap_or("")).or_default().push(feature);
    }
    let inputs: Vec<serde_json::Value> = tensors
        .iter()
        .map(|(tensor, features)| {
            let mut features = features.clone();
            features.sort_by_key(|feature| feature.index);
            let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
            serde_json::json!({"name": tensor, "datatype": features[0].datatype, "columns": names})
        })
        .collect();
    let signature = serde_json::json!({"digests": columns.signature_digests, "inputs": inputs});
    for (name, value) in [
        ("schema.json", serde_json::to_string_pretty(&schema)),
        ("signature.json", serde_json::to_string_pretty(&signature)),
        ("manifest.json", serde_json::to_string_pretty(manifest)),
    ] {
        let path = part.join(name);
        let value = value.map_err(|error| failed(&path, error))?;
        fs::write(&path, value + "\n").map_err(|error| failed(&path, error))?;
    }
    let apart = withheld(&request.out);
    let test = part.join(Slice::Test.name());
    if test.is_dir() {
        fs::create_dir_all(&apart).map_err(|error| failed(&apart, error))?;
        let to = apart.join(Slice::Test.name());
        fs::rename(&test, &to).map_err(|error| failed(&to, error))?;
    }
    fs::rename(part, &request.out).map_err(|error| failed(&request.out, error))?;
    Ok(())
}
