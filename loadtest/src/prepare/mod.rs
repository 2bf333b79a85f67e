//! Requests, made ready before a run: what is sent is decided here, so that the generator only writes bytes.

pub mod answer;
pub mod encode;
pub mod entry;
pub mod files;
pub mod golden;
pub mod json;
pub mod npy;
pub mod parquet;
pub mod tensor;
pub mod values;

use std::sync::Arc;

use entry::Entry;
use tensor::Tensor;

use crate::{
    metadata::{self, ModelMetadata},
    plan::{Check, Prepared, Target, Variant},
};

/// What a mix comes to.
#[derive(Debug)]
pub struct Mix {
    pub variants: Vec<Variant>,
    pub requests: Vec<Prepared>,
    /// What the server says of each variant's model, in their order.
    pub models: Vec<ModelMetadata>,
}

/// Makes the requests of a mix. Asks the server for each model's metadata first.
///
/// # Errors
/// In words, with the entry: the server cannot be reached or has no such model; shapes, files or recorded answers do not fit.
pub fn prepare(target: &Target, entries: &[Entry], seed: u64) -> Result<Mix, String> {
    let mut mix = Mix { variants: Vec::new(), requests: Vec::new(), models: Vec::new() };
    if entries.is_empty() {
        return Err("nothing is asked for: name a model".to_owned());
    }
    for (at, entry) in entries.iter().enumerate() {
        let model =
            metadata::fetch(target, &entry.model, entry.version.as_deref(), &entry.headers)?;
        let name = name(entry, entries, at);
        let wrong = |why: String| format!("{name}: {why}");
        let requests = inputs(entry, &model, seed ^ at as u64).map_err(wrong)?;
        let golden = match &entry.golden {
            None => Vec::new(),
            Some(file) => golden::read(file, &model, requests.len()).map_err(wrong)?,
        };
        let first = mix.requests.len();
        let rows = requests.first().map_or(1, |tensors| rows(tensors, entry));
        for (at, tensors) in requests.iter().enumerate() {
            let expected = golden.get(at).map(|outputs| {
                let (outputs, protocol) = (outputs.clone(), target.protocol);
                Arc::new(golden::Expected { outputs, protocol, tolerance: entry.tolerance })
                    as Arc<dyn Check>
            });
            let wire = encode::infer(target, entry, tensors).map_err(wrong)?;
            mix.requests.push(Prepared { variant: mix.variants.len(), wire, expected });
        }
        mix.variants.push(Variant {
            name,
            model: entry.model.clone(),
            version: entry.version.clone(),
            weight: entry.weight,
            rows,
            requests: (first..mix.requests.len()).collect(),
        });
        mix.models.push(model);
    }
    Ok(mix)
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
