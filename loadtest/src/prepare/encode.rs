//! Tensors to a request's bytes, in each form of the protocol.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use serde_json::{Map, Value, json};

use super::{entry::Entry, tensor::Tensor};
use crate::{
    plan::{Protocol, Target, Wire},
    proto::{Choice, InferTensor, ModelInferRequest, Parameter},
    target::encoded,
    units::Span,
    wire::hpack,
};

/// A call of a method of the service, with more headers than every call has.
pub fn call(target: &Target, method: &str, headers: &[(&str, &str)], message: &[u8]) -> Wire {
    let path = format!("/inference.GRPCInferenceService/{method}");
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let usual = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", &path),
        (":authority", &target.authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let block = hpack::encode(usual.into_iter().chain(headers.iter().copied()));
    let mut framed = vec![0; 5];
    framed[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    Wire::Grpc { headers: block.into(), message: framed.into() }
}

/// What is said of a request that is one of a log, asked again.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// The id that it had; `None` where the log does not have it as it was.
    pub id: Option<&'a str>,
}

/// The parameter that tells onnxd that it was asked this before; the protocol lets other servers look past it.
const REPLAY: &str = "replay";

/// The request of an entry over these inputs.
///
/// # Errors
/// In words: a header that is none, values that JSON cannot carry, a request of 2 GiB or more.
pub fn infer(
    target: &Target,
    entry: &Entry,
    inputs: &[Tensor],
    again: Option<Again<'_>>,
) -> Result<Wire, String> {
    check_headers(&entry.headers)?;
    match target.protocol {
        Protocol::Grpc => grpc(target, entry, inputs, again),
        Protocol::Json | Protocol::Binary => http(target, entry, inputs, again),
    }
}

/// Whether these are headers: what a line break in one would do, nobody asked for.
///
/// # Errors
/// In words, with the first that is none.
pub fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in headers {
        let name_ok = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !name_ok || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(format!(
                "'{}: {}' is no header",
                name.escape_debug(),
                value.escape_debug()
            ));
        }
    }
    Ok(())
}

fn grpc(
    target: &Target,
    entry: &Entry,
    inputs: &[Tensor],
    again: Option<Again<'_>>,
) -> Result<Wire, String> {
    let tensor = |input: &Tensor| InferTensor {
        name: input.name.clone(),
        datatype: input.datatype.name().to_owned(),
        shape: input.shape.iter().map(|axis| *axis as i64).collect(),
        contents: None,
    };
    let mut parameters = HashMap::new();
    if let Some(priority) = entry.priority {
        let choice = Some(Choice::Uint64(priority));
        parameters.insert("priority".to_owned(), Parameter { choice });
    }
    if again.is_some() {
        let choice = Some(Choice::Bool(true));
        parameters.insert(REPLAY.to_owned(), Parameter { choice });
    }
    let request = ModelInferRequest {
        id: again.and_then(|again| again.id).unwrap_or_default().to_owned(),
        model_name: entry.model.clone(),
        model_version: entry.version.clone().unwrap_or_default(),
        parameters,
        inputs: inputs.iter().map(tensor).collect(),
        raw_input_contents: inputs.iter().map(|input| input.raw.clone()).collect(),
    };
    let message = request.encode_to_vec();
    if i32::try_from(message.len()).is_err() {
        return Err("a request has 2 GiB or more".to_owned());
    }
    let lower: Vec<(String, &str)> = entry
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect();
    let timeout = entry.deadline.map(grpc_timeout);
    let mut headers: Vec<(&str, &str)> = lower.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    headers.extend(timeout.as_deref().map(|timeout| ("grpc-timeout", timeout)));
    Ok(call(target, "ModelInfer", &headers, &message))
}

/// At most eight digits and a unit.
fn grpc_timeout(deadline: Span) -> String {
    let micros = deadline.0.as_micros().max(1);
    match micros {
        0..100_000_000 => format!("{micros}u"),
        100_000_000..100_000_000_000 => format!("{}m", micros / 1000),
        _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    }
}

fn http(
    target: &Target,
    entry: &Entry,
    inputs: &[Tensor],
    again: Option<Again<'_>>,
) -> Result<Wire, String> {
    let binary = target.protocol == Protocol::Binary;
    let body = body(entry, inputs, again, binary)?;
    let json = Value::Object(body).to_string();
    let mut path = format!("/v2/models/{}", encoded(&entry.model));
    if let Some(version) = &entry.version {
        path += &format!("/versions/{}", encoded(version));
    }
    let mut head = format!("POST {path}/infer HTTP/1.1\r\nhost: {}\r\n", target.authority);
    let mut length = json.len();
    if binary {
        length += inputs.iter().map(|input| input.raw.len()).sum::<usize>();
        head += &format!("inference-header-content-length: {}\r\n", json.len());
        head += "content-type: application/octet-stream\r\n";
    } else {
        head += "content-type: application/json\r\n";
    }
    for (name, value) in &entry.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {length}\r\n\r\n");
    let mut bytes = [head.as_bytes(), json.as_bytes()].concat();
    if binary {
        inputs.iter().for_each(|input| bytes.extend_from_slice(&input.raw));
    }
    Ok(Wire::Http(bytes.into()))
}

/// The JSON of a request; with `binary`, the tensors stand behind it.
fn body(
    entry: &Entry,
    inputs: &[Tensor],
    again: Option<Again<'_>>,
    binary: bool,
) -> Result<Map<String, Value>, String> {
    let mut body = Map::new();
    let id = again.and_then(|again| again.id);
    body.extend(id.map(|id| ("id".to_owned(), id.into())));
    let tensors: Result<Vec<Value>, String> = inputs
        .iter()
        .map(|input| {
            let mut tensor = json!({
                "name": input.name, "shape": input.shape, "datatype": input.datatype.name(),
            });
            if binary {
                tensor["parameters"] = json!({"binary_data_size": input.raw.len()});
            } else {
                tensor["data"] = Value::Array(input.json()?);
            }
            Ok(tensor)
        })
        .collect();
    body.insert("inputs".to_owned(), tensors?.into());
    let mut parameters = Map::new();
    parameters.extend(entry.priority.map(|priority| ("priority".to_owned(), priority.into())));
    if let Some(deadline) = entry.deadline {
        let micros = u64::try_from(deadline.0.as_micros()).unwrap_or(u64::MAX).max(1);
        parameters.insert("timeout".to_owned(), micros.into());
    }
    if binary {
        parameters.insert("binary_data_output".to_owned(), true.into());
    }
    if again.is_some() {
        parameters.insert(REPLAY.to_owned(), true.into());
    }
    if !parameters.is_empty() {
        body.insert("parameters".to_owned(), parameters.into());
    }
    Ok(body)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
