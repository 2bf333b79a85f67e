//! Requests from a file: JSON lines, arrays of NumPy, Parquet.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::{Map, Value};

use super::{
    entry::Entry,
    json, npy, parquet,
    tensor::{Datatype, Tensor},
    values::batches,
};
use crate::metadata::ModelMetadata;

/// Requests that are taken from a file, at most.
pub(super) const MOST: usize = 1_000_000;

/// The inputs of each request in a file, held against the model.
///
/// # Errors
/// In words, with the place in the file.
pub fn read(file: &Path, entry: &Entry, model: &ModelMetadata) -> Result<Vec<Vec<Tensor>>, String> {
    let shown = file.display();
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or("");
    let requests = match ending {
        "jsonl" | "ndjson" => lines(file, model),
        "npy" | "npz" => arrays(file, entry, model),
        "parquet" => parquet::read(file, entry, model),
        _ => Err("its ending is none of .jsonl, .npy, .npz and .parquet".to_owned()),
    };
    let requests = requests.map_err(|why| format!("the requests {shown}: {why}"))?;
    for (at, request) in requests.iter().enumerate() {
        fits(request, model)
            .map_err(|why| format!("the requests {shown}, request {}: {why}", at + 1))?;
    }
    Ok(requests)
}

/// Each line a request of the protocol, `{"inputs": […]}`, or inputs by their names, `{"x": [[…]]}`.
fn lines(file: &Path, model: &ModelMetadata) -> Result<Vec<Vec<Tensor>>, String> {
    let opened = File::open(file).map_err(|e| e.to_string())?;
    let mut requests = Vec::new();
    for (at, line) in BufReader::new(opened).lines().enumerate() {
        let wrong = |why: String| format!("line {}: {why}", at + 1);
        let line = line.map_err(|e| wrong(e.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        if requests.len() == MOST {
            return Err(format!("there are more than {MOST} requests"));
        }
        let value: Map<String, Value> =
            serde_json::from_str(&line).map_err(|e| wrong(format!("no JSON object: {e}")))?;
        let tensors = match value.get("inputs").and_then(Value::as_array) {
            Some(inputs) => inputs.iter().map(whole).collect::<Result<_, _>>(),
            None => value.iter().map(|(name, data)| named(name, data, model)).collect(),
        };
        requests.push(tensors.map_err(wrong)?);
    }
    Ok(requests)
}

/// An input as the protocol writes it.
fn whole(input: &Value) -> Result<Tensor, String> {
    let text = |key: &str| input[key].as_str().ok_or_else(|| format!("an input has no {key}"));
    let (name, datatype) = (text("name")?, Datatype::parse(text("datatype")?)?);
    let shape = input["shape"].as_array().ok_or("an input has no shape")?;
    let shape: Option<Vec<u64>> = shape.iter().map(Value::as_u64).collect();
    let shape = shape.ok_or_else(|| format!("'{name}': an axis is no number"))?;
    // The protocol lets data be flat or nested.
    let flat = flattened(&input["data"]);
    json::tensor(name, datatype, Some(&shape), &flat)
}

fn flattened(data: &Value) -> Value {
    fn gather(value: &Value, into: &mut Vec<Value>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| gather(item, into)),
            other => into.push(other.clone()),
        }
    }
    let mut flat = Vec::new();
    gather(data, &mut flat);
    Value::Array(flat)
}

/// An input by its name: the model knows the datatype, the lists are the shape.
fn named(name: &str, data: &Value, model: &ModelMetadata) -> Result<Tensor, String> {
    let datatype = Datatype::parse(&of(name, model)?.datatype)?;
    json::tensor(name, datatype, None, data)
}

fn of<'a>(
    name: &str,
    model: &'a ModelMetadata,
) -> Result<&'a crate::metadata::TensorMetadata, String> {
    model.inputs.iter().find(|input| input.name == name).ok_or_else(|| {
        let known: Vec<&str> = model.inputs.iter().map(|input| input.name.as_str()).collect();
        format!("the model '{}' has no input '{name}' (it has {})", model.name, known.join(", "))
    })
}

/// Arrays by the names of inputs; one alone is the only input. Where the model can batch, a request takes `rows` of them, in turn.
fn arrays(file: &Path, entry: &Entry, model: &ModelMetadata) -> Result<Vec<Vec<Tensor>>, String> {
    let mut arrays = npy::read(file)?;
    if let [only] = &mut arrays[..]
        && only.name.is_empty()
    {
        let [input] = &model.inputs[..] else {
            let names: Vec<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(format!(
                "one array for a model with the inputs {}: name them in an .npz",
                names.join(", ")
            ));
        };
        only.name.clone_from(&input.name);
    }
    for array in &mut arrays {
        let datatype = Datatype::parse(&of(&array.name, model)?.datatype)?;
        if array.datatype != datatype {
            return Err(format!(
                "'{}' is {}, the model's input {}",
                array.name,
                array.datatype.name(),
                datatype.name()
            ));
        }
    }
    if !batches(model) {
        return Ok(vec![arrays]);
    }
    let rows = |array: &Tensor| array.shape.first().copied().unwrap_or(0);
    let total = arrays.first().map_or(0, rows);
    if let Some(other) = arrays.iter().find(|array| rows(array) != total) {
        return Err(format!(
            "'{}' has {} rows, '{}' {total}",
            other.name,
            rows(other),
            arrays[0].name
        ));
    }
    let requests = total / entry.rows;
    if requests == 0 {
        return Err(format!("{total} rows make no request of {}", entry.rows));
    }
    (0..requests.min(MOST as u64))
        .map(|at| arrays.iter().map(|array| part(array, at * entry.rows, entry.rows)).collect())
        .collect()
}

/// Rows of an array.
fn part(array: &Tensor, from: u64, rows: u64) -> Result<Tensor, String> {
    let total = array.shape.first().copied().unwrap_or(1).max(1);
    let mut shape = array.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    let elements = array.elements()?;
    let each = elements.len() / total as usize;
    let taken = &elements[from as usize * each..(from + rows) as usize * each];
    let mut raw = Vec::new();
    for element in taken {
        match array.datatype {
            Datatype::Bytes => super::tensor::push_bytes(element, &mut raw)?,
            _ => raw.extend_from_slice(element),
        }
    }
    Ok(Tensor { shape, raw, ..array.clone() })
}

/// Whether a request is one that the model takes.
pub(super) fn fits(request: &[Tensor], model: &ModelMetadata) -> Result<(), String> {
    for tensor in request {
        let input = of(&tensor.name, model)?;
        let name = &tensor.name;
        if input.datatype != tensor.datatype.name() {
            let came = tensor.datatype.name();
            return Err(format!("'{name}' is {came}, the model's input {}", input.datatype));
        }
        let axis = |(model, ours): (&i64, &u64)| *model == -1 || i64::try_from(*ours) == Ok(*model);
        let shape = &tensor.shape;
        if input.shape.len() != shape.len() || !input.shape.iter().zip(shape).all(axis) {
            return Err(format!(
                "'{name}' has the shape {shape:?}, the model's input {:?}",
                input.shape
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
