//! Builds a data set: chooses rows, cuts them by time, writes them sorted, and says what was done.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::{concat::concat_batches, filter::filter_record_batch, take::take_record_batch};
use onnxd::predlog::{
    digest,
    erased::Ledger,
    export::{fitted, properties, united},
    footer::{ColumnRole, LogSchema, Role},
    labels::{Resolved, store::Store},
    reader::{Filter, Log, LogFile, Opened, ReadError, failed, rows, times},
    value::{self, Value, time_text},
};
use parquet::arrow::ArrowWriter;

use super::{
    guards::{Guard, Leak},
    manifest::{self, Manifest, Query, Source, Written},
    select::{Selection, Wanted, select},
    split::{Cuts, Slice},
};
use crate::coverage::{self, column, texts};

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
    let (labels, as_of) = labels(request)?;
    let wanted = wanted(request, &files, &labels, as_of)?;
    let ledger = Ledger::read(&request.log.root)?;
    let group = request.group.as_deref();
    let mut selection = select(&files, &request.filter, (&labels, &ledger), (&wanted, group))?;
    let gap = request.gap.unwrap_or(wanted.maturity);
    if gap < wanted.maturity {
        return Err(Refused::Usage(format!(
            "--gap: expected at least the maturity, {} s, got {} s: labels of rows that train would tell of rows that test",
            wanted.maturity / 1_000_000,
            gap / 1_000_000
        )));
    }
    let mut at: Vec<i64> = selection.chosen.values().map(|row| row.ts).collect();
    let cuts = Cuts::by_share(&mut at, request.valid, request.test, gap);
    let slices = selection.assign(&cuts);
    if slices.is_empty() {
        return Err(Refused::TooLittle(format!(
            "no row of model {} is left: {}",
            request.model,
            left_out(&selection)
        )));
    }
    let pass = Pass { request, columns: &columns, labels: &labels, slices: &slices };
    let part = request.out.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    let done = pass.run(&files, &part, seen).and_then(|(written, leaks)| {
        if !leaks.is_empty() && !request.allow_leaks {
            return Err(Refused::Leaks(leaks));
        }
        let query = query(request, &wanted, &columns, cuts);
        let manifest = describe(request, query, (written, leaks), (&selection, &columns, &files))?;
        publish(&part, request, &columns, &manifest)?;
        Ok(manifest)
    });
    let _ = fs::remove_dir_all(&part);
    done
}

/// Where what is withheld from whoever trains lies: beside the data set, not in it.
pub fn withheld(out: &Path) -> PathBuf {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!("{name}-withheld"))
}

/// The labels that were known at the time of the data set, and that time.
fn labels(request: &Request) -> Result<(Resolved, i64), Refused> {
    let store = Store::at(&request.log.root);
    let mut last = i64::MIN;
    let mut resolved = Resolved::default();
    store.each(&request.model, |label| {
        if request.as_of.is_none_or(|as_of| label.ts_label <= as_of) {
            last = last.max(label.ts_label);
            resolved.add(label);
        }
    })?;
    match request.as_of {
        _ if resolved.seen == 0 => Err(Refused::TooLittle(format!(
            "model {} has no label (`onnxd labels import` brings them in)",
            request.model
        ))),
        Some(as_of) => Ok((resolved, as_of)),
        None => Ok((resolved, last)),
    }
}

fn wanted(
    request: &Request,
    files: &[LogFile],
    labels: &Resolved,
    as_of: i64,
) -> Result<Wanted, Refused> {
    let maturity = match request.maturity {
        Some(maturity) => maturity,
        None => {
            let found =
                coverage::count(files, &request.filter, labels, (i64::MAX, request.horizon))?;
            let seconds = found.delays.quantile(0.9).unwrap_or(0);
            i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000)
        }
    };
    Ok(Wanted { routes: request.routes.clone(), horizon: request.horizon, maturity, as_of })
}

fn left_out(selection: &Selection) -> String {
    let parts: Vec<String> =
        selection.dropped.iter().map(|(why, n)| format!("{} {n}", why.name())).collect();
    format!("{} rows seen, {}", selection.seen, parts.join(", "))
}

/// What of the log goes into the data set.
struct Columns {
    /// By name.
    features: Vec<ColumnRole>,
    signature_digests: Vec<String>,
    /// What is read of each file.
    read: Vec<String>,
    /// What is written, labels included.
    schema: SchemaRef,
}

impl Columns {
    fn of(files: &[LogFile], request: &Request) -> Result<Columns, Refused> {
        let (mut schemas, mut roles): (Vec<SchemaRef>, Vec<LogSchema>) = (Vec::new(), Vec::new());
        for file in files {
            let opened = Opened::at(&file.path)?;
            let role = opened.roles()?;
            if !schemas.contains(&opened.schema) {
                schemas.push(opened.schema.clone());
            }
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        if roles.is_empty() {
            return Err(Refused::TooLittle(format!(
                "no row of model {} is asked for",
                request.model
            )));
        }
        let features = features(&roles, &request.features)?;
        let mut read: Vec<String> = ["event_id", "label_key", "ts", "model_version", "sample_p"]
            .map(str::to_owned)
            .to_vec();
        let has = |name: &str| schemas.iter().any(|schema| schema.index_of(name).is_ok());
        let more = ["subject_key"].into_iter().chain(request.group.as_deref());
        for name in more.filter(|name| has(name)) {
            if !read.iter().any(|known| known == name) {
                read.push(name.to_owned());
            }
        }
        read.extend(features.iter().map(|feature| feature.name.clone()));
        let kept: Vec<SchemaRef> = schemas.iter().map(|schema| only(schema, &read)).collect();
        let from_log = united(&kept).map_err(Refused::Usage)?;
        let mut digests: Vec<String> =
            roles.into_iter().map(|role| role.signature_digest).collect();
        digests.sort_unstable();
        digests.dedup();
        Ok(Columns { features, signature_digests: digests, read, schema: with_labels(&from_log) })
    }
}

fn only(schema: &SchemaRef, names: &[String]) -> SchemaRef {
    let fields = names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// Features of all versions, by name; of those that were asked for, each has to be one.
fn features(roles: &[LogSchema], asked: &[String]) -> Result<Vec<ColumnRole>, Refused> {
    let mut found: BTreeMap<&str, &ColumnRole> = BTreeMap::new();
    for column in roles.iter().flat_map(|role| role.of(Role::Feature)) {
        found.entry(&column.name).or_insert(column);
    }
    if asked.is_empty() {
        return Ok(found.into_values().cloned().collect());
    }
    asked
        .iter()
        .map(|name| {
            found.get(name.as_str()).map(|column| (*column).clone()).ok_or_else(|| {
                let known: Vec<&str> = found.keys().copied().collect();
                Refused::Usage(format!(
                    "--features: {name} is no feature of the log: {}",
                    known.join(", ")
                ))
            })
        })
        .collect()
}

fn with_labels(schema: &SchemaRef) -> SchemaRef {
    let kept = schema.fields().iter().filter(|field| field.name() != "sample_p");
    let mut fields: Vec<Arc<Field>> = kept.cloned().collect();
    fields.push(Arc::new(Field::new("label", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("label_value", DataType::Float64, true)));
    fields.push(Arc::new(Field::new("sample_weight", DataType::Float64, false)));
    Arc::new(Schema::new(fields))
}

/// The second pass: the rows that are in, hour after hour.
struct Pass<'a> {
    request: &'a Request,
    columns: &'a Columns,
    labels: &'a Resolved,
    slices: &'a HashMap<String, (String, Slice)>,
}

/// One slice's file while it is written.
struct Writing {
    path: PathBuf,
    writer: ArrowWriter<File>,
    rows: u64,
    times: Option<(i64, i64)>,
    labels: BTreeMap<String, u64>,
}

impl Pass<'_> {
    fn run(
        &self,
        files: &[LogFile],
        part: &Path,
        mut seen: impl FnMut(usize),
    ) -> Result<(Vec<Written>, Vec<Leak>), Refused> {
        let used: HashSet<Slice> = self.slices.values().map(|(_, slice)| *slice).collect();
        let mut open: BTreeMap<Slice, Writing> = BTreeMap::new();
        for slice in Slice::ALL.into_iter().filter(|slice| used.contains(slice)) {
            open.insert(slice, Writing::create(part, slice, &self.columns.schema)?);
        }
        let mut guard = Guard::default();
        let mut done = 0;
        for hour in files.chunk_by(|a, b| a.partition.begins() == b.partition.begins()) {
            self.hour(hour, &mut open, &mut guard)?;
            done += hour.len();
            seen(done);
        }
        let mut written = Vec::new();
        for (slice, writing) in open {
            written.push(writing.finish(slice)?);
        }
        Ok((written, guard.leaks()))
    }

    fn hour(
        &self,
        hour: &[LogFile],
        open: &mut BTreeMap<Slice, Writing>,
        guard: &mut Guard,
    ) -> Result<(), Refused> {
        let mut kept: BTreeMap<Slice, Vec<RecordBatch>> = BTreeMap::new();
        for file in hour {
            for batch in rows(file, &self.request.filter, Some(&self.columns.read))? {
                let batch = batch?;
                for (slice, mask) in self.masks(&batch).map_err(|why| failed(&file.path, why))? {
                    let rows = filter_record_batch(&batch, &mask)
                        .map_err(|error| failed(&file.path, error))?;
                    let rows = self.labelled(&rows).map_err(|why| failed(&file.path, why))?;
                    kept.entry(slice).or_default().push(rows);
                }
            }
        }
        for (slice, batches) in kept {
            let Some(writing) = open.get_mut(&slice) else { continue };
            let rows =
                sorted(&self.columns.schema, &batches).map_err(|why| failed(&writing.path, why))?;
            if slice == Slice::Train && guard.wants_more() {
                self.look(&rows, guard).map_err(|why| failed(&writing.path, why))?;
            }
            writing.write(&rows)?;
        }
        Ok(())
    }

    /// Which rows of a batch are in which slice.
    fn masks(&self, batch: &RecordBatch) -> Result<Vec<(Slice, BooleanArray)>, String> {
        let (keys, events) = (texts(batch, "label_key")?, texts(batch, "event_id")?);
        let of = |row: usize| {
            self.slices
                .get(keys.value(row))
                .filter(|(event, _)| event == events.value(row))
                .map(|(_, s)| *s)
        };
        let slices: Vec<Option<Slice>> = (0..batch.num_rows()).map(of).collect();
        let mask = |slice: Slice| -> (Slice, BooleanArray) {
            (slice, slices.iter().map(|of| Some(*of == Some(slice))).collect())
        };
        let there = Slice::ALL.into_iter().filter(|slice| slices.contains(&Some(*slice)));
        Ok(there.map(mask).collect())
    }

    /// The rows with their labels and weights, in the schema of the data set.
    fn labelled(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let keys = texts(batch, "label_key")?;
        let shares: Option<&Float64Array> = column(batch, "sample_p").ok();
        let (mut names, mut values, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, ts) in times(batch)?.values().iter().enumerate() {
            let label = self.labels.of(keys.value(row), *ts, self.request.horizon);
            names.push(label.and_then(|label| label.label.clone()));
            values.push(label.and_then(|label| label.label_value));
            let share = shares.map_or(1.0, |shares| shares.value(row));
            let weight = label.and_then(|label| label.weight).unwrap_or(1.0);
            weights.push(if share > 0.0 { weight / share } else { weight });
        }
        let schema = batch.schema();
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        for (name, column) in [
            ("label", Arc::new(StringArray::from(names)) as ArrayRef),
            ("label_value", Arc::new(Float64Array::from(values)) as ArrayRef),
            ("sample_weight", Arc::new(Float64Array::from(weights)) as ArrayRef),
        ] {
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(column);
        }
        let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
        fitted(&all.map_err(|error| error.to_string())?, &self.columns.schema)
    }

    fn look(&self, rows: &RecordBatch, guard: &mut Guard) -> Result<(), String> {
        let (labels, values): (&StringArray, &Float64Array) =
            (column(rows, "label")?, column(rows, "label_value")?);
        let features: Vec<(&str, &ArrayRef)> = self
            .columns
            .features
            .iter()
            .filter_map(|feature| {
                Some((feature.name.as_str(), rows.column_by_name(&feature.name)?))
            })
            .collect();
        for row in 0..rows.num_rows() {
            if !guard.wants_more() {
                break;
            }
            let cells: Result<Vec<(String, Value)>, String> = features
                .iter()
                .map(|(name, column)| Ok(((*name).to_owned(), value::at(column.as_ref(), row)?)))
                .collect();
            let label = (value::at(labels, row)?.text(), value::at(values, row)?.number());
            guard.add(cells?.into_iter(), label);
        }
        Ok(())
    }
}

/// One batch, by time and event id: the same rows give the same bytes.
fn sorted(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, String> {
    let all = concat_batches(schema, batches).map_err(|error| error.to_string())?;
    let (times, events) = (times(&all)?, texts(&all, "event_id")?);
    let mut order: Vec<usize> = (0..all.num_rows()).collect();
    order.sort_by_key(|row| (times.value(*row), events.value(*row)));
    let order: UInt64Array = order.into_iter().map(|row| Some(row as u64)).collect();
    take_record_batch(&all, &order).map_err(|error| error.to_string())
}

impl Writing {
    fn create(part: &Path, slice: Slice, schema: &SchemaRef) -> Result<Writing, Refused> {
        let dir = part.join(slice.name());
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        let path = dir.join("part-0.parquet");
        let file = File::create(&path).map_err(|error| failed(&path, error))?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties(None)))
            .map_err(|error| failed(&path, error))?;
        Ok(Writing { path, writer, rows: 0, times: None, labels: BTreeMap::new() })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), ReadError> {
        self.writer.write(rows).map_err(|error| failed(&self.path, error))?;
        self.rows += rows.num_rows() as u64;
        let of = times(rows).map_err(|why| failed(&self.path, why))?.values();
        if let (Some(first), Some(last)) = (of.first(), of.last()) {
            self.times = Some((self.times.map_or(*first, |(first, _)| first), *last));
        }
        let labels = texts(rows, "label").map_err(|why| failed(&self.path, why))?;
        for label in labels.iter().flatten() {
            // Numbers of many values are no classes to count.
            if self.labels.contains_key(label) || self.labels.len() < 64 {
                *self.labels.entry(label.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn finish(self, slice: Slice) -> Result<Written, ReadError> {
        let bad = |error: String| failed(&self.path, error);
        let file = self.writer.into_inner().map_err(|error| bad(error.to_string()))?;
        file.sync_all().map_err(|error| bad(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| bad(error.to_string()))?.len();
        Ok(Written {
            path: format!("{}/part-0.parquet", slice.name()),
            slice: slice.name(),
            rows: self.rows,
            bytes,
            sha256: digest::file(&self.path)?,
            first: self.times.map(|(first, _)| time_text(first)),
            last: self.times.map(|(_, last)| time_text(last)),
            labels: self.labels,
        })
    }
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
    (files, suspect_columns): (Vec<Written>, Vec<Leak>),
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
