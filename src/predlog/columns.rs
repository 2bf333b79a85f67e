//! Which columns a model's log has: decided, purely, from its signature, its metadata and what its owner set.

pub mod meta;

use std::{collections::BTreeMap, sync::Arc};

use self::meta::{META, Meta};
use super::{
    footer::Role,
    options::{Large, Layout, LogOptions},
    redact::{self, Rule},
};
use crate::types::{
    datatype::Datatype,
    model::{Dim, Signature, TensorSpec},
};

/// Most columns that one tensor is spread over.
const MOST_NAMED: usize = 512;

/// What a cell, or an element of one, holds. No others: these are what pandas, polars, DuckDB and Spark read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    String,
}

impl Scalar {
    /// What holds every value of a datatype. 64-bit numbers without a sign are text: no type that everybody reads holds them.
    pub fn of(datatype: Datatype) -> Scalar {
        match datatype {
            Datatype::Bool => Scalar::Bool,
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Scalar::Int32,
            Datatype::Uint8 | Datatype::Uint16 => Scalar::Int32,
            Datatype::Int64 | Datatype::Uint32 => Scalar::Int64,
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 => Scalar::Float,
            Datatype::Fp64 => Scalar::Double,
            Datatype::Uint64 | Datatype::Bytes => Scalar::String,
        }
    }

    /// Its name in the footer.
    pub fn name(self) -> &'static str {
        match self {
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Float => "float",
            Scalar::Double => "double",
            Scalar::String => "string",
        }
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Scalar(Scalar),
    List(Scalar),
    /// Microseconds, UTC.
    Timestamp,
    /// Text to text.
    Map,
}

impl Kind {
    /// Its name in the footer.
    pub fn name(self) -> String {
        match self {
            Kind::Scalar(scalar) => scalar.name().into(),
            Kind::List(scalar) => format!("list<{}>", scalar.name()),
            Kind::Timestamp => "timestamp".into(),
            Kind::Map => "map<string,string>".into(),
        }
    }
}

const TEXT: Kind = Kind::Scalar(Scalar::String);

/// Where a column's values come from. `tensor` counts the signature's inputs first, then its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Meta(Meta),
    /// One element of the row's part of a tensor.
    Element {
        tensor: usize,
        at: usize,
    },
    /// All of it.
    Whole {
        tensor: usize,
    },
    /// Its dimensions.
    Shape {
        tensor: usize,
    },
    /// The SHA-256 of its bytes, where they are too many.
    Digest {
        tensor: usize,
    },
    /// The blob that holds them then.
    Reference {
        tensor: usize,
    },
    PredLabel,
    PredScore,
}

impl Source {
    /// The tensor that the values come from, where they do from one.
    pub fn tensor(self) -> Option<usize> {
        match self {
            Source::Meta(_) | Source::PredLabel | Source::PredScore => None,
            Source::Element { tensor, .. }
            | Source::Whole { tensor }
            | Source::Shape { tensor }
            | Source::Digest { tensor }
            | Source::Reference { tensor } => Some(tensor),
        }
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Arc<str>,
    pub kind: Kind,
    pub nullable: bool,
    pub source: Source,
    /// What becomes of its values first.
    pub rule: Rule,
}

impl Column {
    /// What it is to whoever learns from the log: `meta`, `feature` or `prediction`.
    pub fn role(&self, inputs: usize) -> Role {
        match self.source {
            Source::Meta(_) => Role::Meta,
            of if of.tensor().is_some_and(|tensor| tensor < inputs) => Role::Feature,
            _ => Role::Prediction,
        }
    }
}

/// A column that is not there, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    pub name: String,
    pub why: &'static str,
}

/// What a model's log holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    pub columns: Vec<Column>,
    pub absent: Vec<Absent>,
    /// A row for each row of the batch.
    pub table: bool,
    /// The output that names the class; `classes`: by its best score.
    pub label: Option<Labelled>,
    /// The output that scores.
    pub score: Option<usize>,
}

/// How the class predicted is found; outputs count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// It is the value of this output.
    By(usize),
    /// It is the name of the best of this output's.
    Best(usize, Arc<[String]>),
}

/// Decides the columns of a version.
///
/// # Errors
/// What was set does not fit the signature.
pub fn decide(
    signature: &Signature,
    metadata: &BTreeMap<String, String>,
    options: &LogOptions,
) -> Result<Columns, String> {
    let table = is_table(signature, options)?;
    let names = feature_names(signature, metadata, options, table)?;
    let mut found = Found { options, columns: Vec::new(), absent: Vec::new() };
    for (meta, name, kind, nullable) in META {
        found.meta(meta, name, kind, nullable)?;
    }
    let both = signature.inputs.iter().zip(std::iter::repeat("in"));
    let both = both.chain(signature.outputs.iter().zip(std::iter::repeat("out")));
    for (tensor, (spec, prefix)) in both.enumerate() {
        found.tensor(&Part { spec, prefix, tensor, table }, names.get(&tensor));
    }
    let label = labelled(signature, options)?;
    let score = scored(signature, options)?;
    if label.is_some() {
        found.push("pred_label".into(), TEXT, Source::PredLabel, false);
    }
    if score.is_some() {
        found.push("pred_score".into(), Kind::Scalar(Scalar::Double), Source::PredScore, false);
    }
    found.check_rules()?;
    Ok(Columns { columns: found.columns, absent: found.absent, table, label, score })
}

fn is_table(signature: &Signature, options: &LogOptions) -> Result<bool, String> {
    let mut all = signature.inputs.iter().chain(&signature.outputs);
    let flat = all.all(|spec| spec.dims.as_ref().is_some_and(|dims| dims.len() <= 2));
    match options.layout {
        Layout::Auto => Ok(signature.can_batch && flat),
        Layout::Tensor => Ok(false),
        Layout::Table if signature.can_batch => Ok(true),
        Layout::Table => Err("layout: table: the model has no batch axis".into()),
    }
}

/// The names of the elements of tensors that have them.
fn feature_names(
    signature: &Signature,
    metadata: &BTreeMap<String, String>,
    options: &LogOptions,
    table: bool,
) -> Result<BTreeMap<usize, Vec<String>>, String> {
    let all: Vec<&TensorSpec> = signature.inputs.iter().chain(&signature.outputs).collect();
    let mut names = BTreeMap::new();
    for (name, columns) in &options.feature_names {
        let at = all.iter().position(|spec| *spec.name == **name);
        let at = at.ok_or_else(|| {
            format!("feature_names: there is no input or output '{}'", name.escape_debug())
        })?;
        let width = width(all[at], table);
        if width != Some(columns.len()) || columns.len() > MOST_NAMED {
            return Err(format!(
                "feature_names: '{name}' has the shape {}, and {} names are given",
                all[at].shape_text(),
                columns.len()
            ));
        }
        names.insert(at, columns.clone());
    }
    let told = metadata.get("feature_names").map(|text| listed(text)).unwrap_or_default();
    let mut fitting = signature
        .inputs
        .iter()
        .enumerate()
        .filter(|(_, spec)| width(spec, table) == Some(told.len()));
    if let (Some((at, _)), None) = (fitting.next(), fitting.next())
        && !names.contains_key(&at)
        && (2..=MOST_NAMED).contains(&told.len())
    {
        names.insert(at, told);
    }
    Ok(names)
}

/// A JSON array of texts, or names between commas or lines.
fn listed(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| text.split([',', '\n']).map(|name| name.trim().to_owned()).collect())
}

/// How many elements a row has, where its part of the tensor is one list of a fixed length.
fn width(spec: &TensorSpec, table: bool) -> Option<usize> {
    match (part(spec, table)?, table) {
        ([Dim::Fixed(n)], _) => usize::try_from(*n).ok(),
        _ => None,
    }
}

/// The dimensions of what belongs to one row.
fn part(spec: &TensorSpec, table: bool) -> Option<&[Dim]> {
    let dims = spec.dims.as_deref()?;
    if table { dims.get(1..) } else { Some(dims) }
}

/// One tensor of the signature.
struct Part<'a> {
    spec: &'a TensorSpec,
    prefix: &'static str,
    tensor: usize,
    table: bool,
}

struct Found<'a> {
    options: &'a LogOptions,
    columns: Vec<Column>,
    absent: Vec<Absent>,
}

impl Found<'_> {
    fn meta(&mut self, meta: Meta, name: &str, kind: Kind, nullable: bool) -> Result<(), String> {
        let plain = kind == TEXT && !matches!(meta, Meta::EventId | Meta::SchemaId);
        let exact = self.options.redact.get(name);
        let rule = exact.or_else(|| plain.then(|| self.pattern(name)).flatten());
        let rule = rule.cloned().unwrap_or_default();
        let (source, optional) = (Source::Meta(meta), nullable);
        match &rule {
            Rule::Keep => {}
            Rule::Drop if nullable => {
                self.absent(name, DROPPED);
                return Ok(());
            }
            Rule::Drop if exact.is_none() => {
                // A pattern means what a model's rows have, not what every row needs.
                let column = Column { name: name.into(), kind, nullable, source, rule: Rule::Keep };
                self.columns.push(column);
                return Ok(());
            }
            Rule::Drop => return Err(format!("redact.{name}: drop: every row has this column")),
            _ if plain => {}
            rule => {
                return Err(format!(
                    "redact.{name}: {}: this column is as it is, or dropped where it may be null",
                    rule.name()
                ));
            }
        }
        if optional && !self.is_listed(name) {
            self.absent(name, UNLISTED);
            return Ok(());
        }
        self.columns.push(Column { name: name.into(), kind, nullable, source, rule });
        Ok(())
    }

    fn absent(&mut self, name: &str, why: &'static str) {
        self.absent.push(Absent { name: name.into(), why });
    }

    fn pattern(&self, name: &str) -> Option<&Rule> {
        let mut all = self.options.redact.iter().filter(|(pattern, _)| pattern.contains('*'));
        all.find(|(pattern, _)| redact::fits(pattern, name)).map(|(_, rule)| rule)
    }

    fn is_listed(&self, name: &str) -> bool {
        let only = &self.options.only;
        only.is_empty() || only.iter().any(|pattern| redact::fits(pattern, name))
    }

    /// A column of the model's. `text`: of what may hold anything.
    fn push(&mut self, name: String, kind: Kind, source: Source, text: bool) {
        let said = self.options.redact.get(&name).or_else(|| self.pattern(&name));
        let rule = said.cloned();
        let why = match &rule {
            _ if !self.is_listed(&name) => UNLISTED,
            Some(Rule::Drop) => DROPPED,
            None if text && !self.options.text => FREE_TEXT,
            _ => {
                let rule = rule.unwrap_or_default();
                let kind = match (kind, rule.gives_text()) {
                    (Kind::Scalar(_), true) => TEXT,
                    (Kind::List(_), true) => Kind::List(Scalar::String),
                    (kind, _) => kind,
                };
                let name = self.free(name);
                self.columns.push(Column { name, kind, nullable: true, source, rule });
                return;
            }
        };
        self.absent.push(Absent { name, why });
    }

    /// The name, or with a number behind where it is taken: readers that fold case see two columns as well.
    fn free(&self, name: String) -> Arc<str> {
        let taken = |name: &str| {
            self.columns.iter().any(|column| column.name.to_lowercase() == name.to_lowercase())
        };
        let numbered = (2..).map(|n| format!("{name}_{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !taken(name));
        free.unwrap_or(name).into()
    }

    fn tensor(&mut self, part: &Part<'_>, names: Option<&Vec<String>>) {
        let Part { spec, prefix, tensor, table } = *part;
        let scalar = Scalar::of(spec.datatype);
        let text = spec.datatype == Datatype::Bytes && prefix == "in";
        let base = format!("{prefix}_{}", spec.name);
        if let Some(names) = names {
            for (at, name) in names.iter().enumerate() {
                let source = Source::Element { tensor, at };
                self.push(format!("{prefix}_{name}"), Kind::Scalar(scalar), source, text);
            }
            return;
        }
        let dims = self::part(spec, table);
        let fixed = dims.and_then(elements);
        if fixed == Some(1) {
            let source = Source::Element { tensor, at: 0 };
            return self.push(base, Kind::Scalar(scalar), source, text);
        }
        let most = self.options.max_inline_bytes;
        let bytes = fixed.zip(spec.datatype.size()).map(|(n, size)| n.saturating_mul(size));
        let (inline, may_be_large) =
            bytes.map_or((true, true), |bytes| (bytes <= most, bytes > most));
        let before = self.columns.len();
        if inline {
            self.push(base.clone(), Kind::List(scalar), Source::Whole { tensor }, text);
        }
        // What is withheld, or changed, must not be found by trying what has its digest.
        let as_it_is = match inline {
            true => self.columns.get(before).is_some_and(|column| column.rule == Rule::Keep),
            false => match self.options.redact.get(&base).or_else(|| self.pattern(&base)) {
                None => !text || self.options.text,
                Some(rule) => *rule == Rule::Keep,
            },
        };
        if fixed.is_none() && (as_it_is || self.columns.len() > before) {
            let source = Source::Shape { tensor };
            self.push(format!("{base}_shape"), Kind::List(Scalar::Int32), source, false);
        }
        let reference = ("ref", Source::Reference { tensor });
        let digest = ("sha256", Source::Digest { tensor });
        let instead = match self.options.large {
            Large::Blob if may_be_large => &[reference, digest][..],
            Large::Digest if may_be_large => &[digest][..],
            _ => &[],
        };
        for (part, source) in instead {
            let name = format!("{base}_{part}");
            match as_it_is {
                true => self.push(name, TEXT, *source, false),
                false => self.absent(&name, WITHHELD),
            }
        }
    }

    /// A rule for a column that is not there is a slip that would let something through, and one that changes a reference would leave
    /// what it refers to.
    fn check_rules(&self) -> Result<(), String> {
        let changed = |column: &&Column| {
            matches!(column.source, Source::Reference { .. }) && column.rule != Rule::Keep
        };
        if let Some(Column { name, rule, .. }) = self.columns.iter().find(changed) {
            let rule = rule.name();
            return Err(format!("redact.{name}: {rule}: a reference is as it is, or dropped"));
        }
        let known = |name: &str| {
            self.columns.iter().any(|column| *column.name == *name)
                || self.absent.iter().any(|absent| absent.name == name)
        };
        let mut named = self.options.redact.keys().filter(|name| !name.contains('*'));
        match named.find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => {
                let own: Vec<&str> = self.columns.iter().map(|column| &*column.name).collect();
                let own: Vec<&str> = own
                    .into_iter()
                    .filter(|n| n.starts_with("in_") || n.starts_with("out_"))
                    .collect();
                let shown = own.get(..20).unwrap_or(&own).join(", ");
                Err(format!(
                    "redact.{name}: there is no such column (the model's are {shown}); a pattern with * may fit none"
                ))
            }
        }
    }
}

const DROPPED: &str = "redact: drop";
const UNLISTED: &str = "only: does not name it";
const FREE_TEXT: &str = "text of an input, and text is false";
const WITHHELD: &str = "the digest would give away what redact withholds";

fn elements(dims: &[Dim]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, dim| match dim {
        Dim::Fixed(n) => product.checked_mul(usize::try_from(*n).ok()?),
        _ => None,
    })
}

fn output(signature: &Signature, key: &str, name: &str) -> Result<usize, String> {
    let at = signature.outputs.iter().position(|spec| *spec.name == *name);
    at.ok_or_else(|| format!("prediction.{key}: there is no output '{}'", name.escape_debug()))
}

fn is_float(spec: &TensorSpec) -> bool {
    matches!(Scalar::of(spec.datatype), Scalar::Float | Scalar::Double)
}

fn labelled(signature: &Signature, options: &LogOptions) -> Result<Option<Labelled>, String> {
    let outputs = &signature.outputs;
    let set = &options.prediction.label;
    let by = |at: usize| match &outputs[at].labels {
        Some(labels) if is_float(&outputs[at]) => Labelled::Best(at, labels.clone()),
        _ => Labelled::By(at),
    };
    if !set.is_empty() {
        return output(signature, "label", set).map(|at| Some(by(at)));
    }
    let called = outputs
        .iter()
        .position(|spec| matches!(&*spec.name, "label" | "output_label") && !is_float(spec));
    if let Some(at) = called {
        return Ok(Some(Labelled::By(at)));
    }
    let mut scores =
        outputs.iter().enumerate().filter(|(_, spec)| spec.labels.is_some() && is_float(spec));
    Ok(match (scores.next(), scores.next()) {
        (Some((at, _)), None) => Some(by(at)),
        _ => None,
    })
}

fn scored(signature: &Signature, options: &LogOptions) -> Result<Option<usize>, String> {
    let outputs = &signature.outputs;
    let set = &options.prediction.score;
    if !set.is_empty() {
        let at = output(signature, "score", set)?;
        return match is_float(&outputs[at]) {
            true => Ok(Some(at)),
            false => Err(format!(
                "prediction.score: '{set}' is {}: expected an output of floats",
                outputs[at].datatype
            )),
        };
    }
    let names = ["probabilities", "output_probability", "scores", "variable"];
    let called = outputs.iter().position(|spec| names.contains(&&*spec.name) && is_float(spec));
    let mut floats = outputs.iter().enumerate().filter(|(_, spec)| is_float(spec));
    Ok(called.or(match (floats.next(), floats.next()) {
        (Some((at, _)), None) => Some(at),
        _ => None,
    }))
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
