//! Requests, made ready before a run: what is sent is decided here, so that the generator only writes bytes.

pub mod answer;
pub mod encode;
pub mod entry;
pub mod files;
pub mod golden;
pub mod json;
pub mod log;
pub mod npy;
pub mod parquet;
pub mod tensor;
pub mod values;

use std::sync::Arc;

use entry::{Entry, LogSource};
use log::Replayed;
use tensor::Tensor;

use crate::{
    metadata::{self, ModelMetadata},
    plan::{Check, Prepared, Recorded, Target, Variant},
};

/// What a mix comes to.
#[derive(Debug)]
pub struct Mix {
    pub variants: Vec<Variant>,
    pub requests: Vec<Prepared>,
    /// What the server says of each variant's model, in their order.
    pub models: Vec<ModelMetadata>,
    /// What logs have recorded, by time.
    pub recorded: Arc<[Recorded]>,
    /// What was found in those logs.
    pub replayed: Vec<Replayed>,
}

/// Makes the requests of a mix. Asks the server for each model's metadata first.
///
/// # Errors
/// In words, with the entry: the server cannot be reached or has no such model; shapes, files or recorded answers do not fit.
pub fn prepare(target: &Target, entries: &[Entry], seed: u64) -> Result<Mix, String> {
    if entries.is_empty() {
        return Err("nothing is asked for: name a model".to_owned());
    }
    let mut making = Making::default();
    for (at, entry) in entries.iter().enumerate() {
        let model =
            metadata::fetch(target, &entry.model, entry.version.as_deref(), &entry.headers)?;
        let name = name(entry, entries, at);
        let first = making.requests.len();
        let rows = match &entry.log {
            Some(source) => making.add_logged(target, entry, &model, (source, &name)),
            None => making.add_made(target, entry, &model, seed ^ at as u64),
        };
        let rows = rows.map_err(|why| format!("{name}: {why}"))?;
        making.variants.push(Variant {
            name,
            model: entry.model.clone(),
            version: entry.version.clone(),
            weight: entry.weight,
            rows,
            requests: (first..making.requests.len()).collect(),
        });
        making.models.push(model);
    }
    Ok(making.done())
}

/// A mix in the making.
#[derive(Default)]
struct Making {
    variants: Vec<Variant>,
    requests: Vec<Prepared>,
    models: Vec<ModelMetadata>,
    /// When requests of logs were received, microseconds since 1970, and their indices.
    received: Vec<(i64, usize)>,
    replayed: Vec<Replayed>,
}

impl Making {
    /// The requests of an entry that says what they are; gives how many instances each has.
    fn add_made(
        &mut self,
        target: &Target,
        entry: &Entry,
        model: &ModelMetadata,
        seed: u64,
    ) -> Result<u64, String> {
        let requests = inputs(entry, model, seed)?;
        let golden = match &entry.golden {
            None => Vec::new(),
            Some(file) => golden::read(file, model, requests.len())?,
        };
        for (at, tensors) in requests.iter().enumerate() {
            let expected = golden.get(at).map(|outputs| {
                let (outputs, protocol) = (outputs.clone(), target.protocol);
                Arc::new(golden::Expected { outputs, protocol, tolerance: entry.tolerance })
                    as Arc<dyn Check>
            });
            let wire = encode::infer(target, entry, tensors, None)?;
            self.requests.push(Prepared { variant: self.variants.len(), wire, expected });
        }
        Ok(requests.first().map_or(1, |tensors| rows(tensors, entry)))
    }

    /// The requests of an entry that takes them from a log; gives how many instances they have on average.
    fn add_logged(
        &mut self,
        target: &Target,
        entry: &Entry,
        model: &ModelMetadata,
        (source, name): (&LogSource, &str),
    ) -> Result<u64, String> {
        check(entry, model)?;
        let encode = |tensors: &[Tensor], id: Option<&str>| {
            encode::infer(target, entry, tensors, Some(encode::Again { id }))
        };
        let (asked, told) = log::read(source, entry, model, &encode)?;
        let mean = (told.instances as f64 / told.requests as f64).round() as u64;
        for log::Asked { ts, wire, .. } in asked {
            self.received.push((ts, self.requests.len()));
            self.requests.push(Prepared { variant: self.variants.len(), wire, expected: None });
        }
        self.replayed.push(Replayed { name: name.to_owned(), ..told });
        Ok(mean.max(1))
    }

    fn done(mut self) -> Mix {
        // Requests of one moment stay in their entry's order.
        self.received.sort_by_key(|(ts, _)| *ts);
        let first = self.received.first().map_or(0, |(ts, _)| *ts);
        let recorded = |(ts, request): &(i64, usize)| Recorded {
            at: ts.abs_diff(first).saturating_mul(1000),
            request: *request,
        };
        Mix {
            variants: self.variants,
            requests: self.requests,
            models: self.models,
            recorded: self.received.iter().map(recorded).collect(),
            replayed: self.replayed,
        }
    }
}

/// What an entry's figures stand under.
fn name(entry: &Entry, all: &[Entry], at: usize) -> String {
    if let Some(name) = &entry.name {
        return name.clone();
    }
    let mut name = entry.model.clone();
    if let Some(version) = &entry.version {
        name += &format!(":{version}");
    }
    let alike = |other: &&Entry| other.model == entry.model && other.version == entry.version;
    if all.iter().filter(alike).count() > 1 {
        name += &format!("#{}", at + 1);
    }
    name
}

/// The inputs of each of an entry's requests.
fn inputs(entry: &Entry, model: &ModelMetadata, seed: u64) -> Result<Vec<Vec<Tensor>>, String> {
    check(entry, model)?;
    let requests = match &entry.input {
        Some(file) => files::read(file, entry, model)?,
        None => (0..entry.distinct)
            .map(|number| values::generate(entry, model, seed, number))
            .collect::<Result<_, _>>()?,
    };
    if requests.is_empty() {
        return Err("there is no request in it".to_owned());
    }
    Ok(requests)
}

/// What an entry names, the model has; its numbers make sense.
fn check(entry: &Entry, model: &ModelMetadata) -> Result<(), String> {
    let known: Vec<&str> = model.inputs.iter().map(|input| input.name.as_str()).collect();
    for name in entry.shapes.keys().chain(entry.ranges.keys()) {
        if !known.contains(&name.as_str()) {
            return Err(format!(
                "the model '{}' has no input '{name}' (it has {})",
                model.name,
                known.join(", ")
            ));
        }
    }
    if !(entry.weight > 0.0 && entry.weight.is_finite()) {
        return Err(format!("weight: expected a number above 0, got {}", entry.weight));
    }
    if entry.rows == 0 || entry.distinct == 0 {
        return Err("rows and distinct: expected at least 1".to_owned());
    }
    if !(entry.tolerance >= 0.0 && entry.tolerance.is_finite()) {
        return Err(format!("tolerance: expected a number from 0 on, got {}", entry.tolerance));
    }
    Ok(())
}

/// Instances in a request: the first axis, as far as all of its inputs agree.
fn rows(tensors: &[Tensor], entry: &Entry) -> u64 {
    let mut firsts = tensors.iter().map(|tensor| tensor.shape.first().copied());
    match firsts.next().flatten() {
        Some(first) if firsts.all(|other| other == Some(first)) => first,
        _ => entry.rows,
    }
}
