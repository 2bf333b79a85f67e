//! What a server says of itself and of a model: names, versions, inputs and outputs.

use std::{collections::BTreeMap, fmt::Write};

use prost::Message;
use serde::Deserialize;

use crate::{
    drive::ask::{Said, ask},
    plan::{Protocol, Target, Wire},
    prepare::encode,
    proto,
    record::Code,
    target::encoded,
};

/// A model as its server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMetadata {
    pub name: String,
    pub versions: Vec<String>,
    pub platform: String,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TensorMetadata {
    pub name: String,
    pub datatype: String,
    /// An axis of any length is -1.
    pub shape: Vec<i64>,
}

/// A server as it describes itself: `onnxd 0.1.0`.
///
/// # Errors
/// In words: the server cannot be reached, or speaks another protocol.
pub fn server(target: &Target, headers: &BTreeMap<String, String>) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Described {
        name: String,
        version: String,
    }
    let body = match get(target, ("ServerMetadata", &[]), "/v2", headers, "the server")? {
        Ok(body) => body,
        Err((code, said)) => {
            return Err(format!("the server does not say what it is: {code}: {said}"));
        }
    };
    let (name, version) = match target.protocol {
        Protocol::Grpc => {
            let described = proto::ServerMetadataResponse::decode(&body[..]).map_err(not_that)?;
            (described.name, described.version)
        }
        _ => {
            let described: Described = serde_json::from_slice(&body).map_err(not_that)?;
            (described.name, described.version)
        }
    };
    Ok(format!("{name} {version}").trim().to_owned())
}

fn not_that(error: impl std::fmt::Display) -> String {
    format!(
        "the server's description cannot be read: {error}; is it one of the Open Inference Protocol v2?"
    )
}

/// A model's metadata. `headers`: those of the requests, for a server asks whoever asks it for a key.
///
/// # Errors
/// In words: the server cannot be reached, has no such model or version, or speaks another protocol.
pub fn fetch(
    target: &Target,
    model: &str,
    version: Option<&str>,
    headers: &BTreeMap<String, String>,
) -> Result<ModelMetadata, String> {
    let asked = proto::ModelName {
        name: model.to_owned(),
        version: version.unwrap_or_default().to_owned(),
    };
    let what = match version {
        None => format!("the model '{model}'"),
        Some(version) => format!("version {version} of the model '{model}'"),
    };
    let mut path = format!("/v2/models/{}", encoded(model));
    if let Some(version) = version {
        path += &format!("/versions/{}", encoded(version));
    }
    let message = asked.encode_to_vec();
    let body = match get(target, ("ModelMetadata", &message), &path, headers, &what)? {
        Ok(body) => body,
        Err((Code::Http(404) | Code::Grpc(5), said)) => {
            return Err(format!("the server has not {what}: {said}"));
        }
        Err((code, said)) => {
            return Err(format!("the server does not describe {what}: {code}: {said}"));
        }
    };
    match target.protocol {
        Protocol::Grpc => {
            let read = proto::ModelMetadataResponse::decode(&body[..]).map_err(not_that)?;
            let tensors = |of: Vec<proto::TensorMetadata>| {
                let tensor = |t: proto::TensorMetadata| TensorMetadata {
                    name: t.name,
                    datatype: t.datatype,
                    shape: t.shape,
                };
                of.into_iter().map(tensor).collect()
            };
            Ok(ModelMetadata {
                name: read.name,
                versions: read.versions,
                platform: read.platform,
                inputs: tensors(read.inputs),
                outputs: tensors(read.outputs),
            })
        }
        _ => {
            #[derive(Deserialize)]
            struct Read {
                name: String,
                #[serde(default)]
                versions: Option<Vec<String>>,
                #[serde(default)]
                platform: String,
                inputs: Vec<TensorMetadata>,
                outputs: Vec<TensorMetadata>,
            }
            let read: Read = serde_json::from_slice(&body).map_err(not_that)?;
            Ok(ModelMetadata {
                name: read.name,
                versions: read.versions.unwrap_or_default(),
                platform: read.platform,
                inputs: read.inputs,
                outputs: read.outputs,
            })
        }
    }
}

type Answered = Result<Vec<u8>, (Code, String)>;

/// Asks over the target's protocol: the gRPC method with its message, or the path.
fn get(
    target: &Target,
    (method, message): (&str, &[u8]),
    path: &str,
    headers: &BTreeMap<String, String>,
    what: &str,
) -> Result<Answered, String> {
    encode::check_headers(headers)?;
    let wire = if target.protocol == Protocol::Grpc {
        let lower: Vec<_> = headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
        let pairs: Vec<_> = lower.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        encode::call(target, method, &pairs, message)
    } else {
        let host = &target.authority;
        let mut head =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        Wire::Http((head + "\r\n").into_bytes().into())
    };
    match ask(target, wire).map_err(|why| format!("{what} cannot be asked for: {why}"))? {
        Said::Good(body, _) => Ok(Ok(body)),
        Said::Bad(code, said) => Ok(Err((code, error_text(&said)))),
    }
}

/// The text in `{"error": "…"}`, else all of it.
pub fn error_text(said: &str) -> String {
    #[derive(Deserialize)]
    struct Error {
        error: String,
    }
    serde_json::from_str(said).map_or_else(|_| said.to_owned(), |e: Error| e.error)
}
