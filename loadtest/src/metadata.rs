//! What a server says of itself and of a model: names, versions, inputs and outputs.

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
pub fn server(target: &Target) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Described {
        name: String,
        version: String,
    }
    let body = match get(target, "ServerMetadata", &[], "/v2", "the server")? {
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

/// A model's metadata.
///
/// # Errors
/// In words: the server cannot be reached, has no such model or version, or speaks another protocol.
pub fn fetch(target: &Target, model: &str, version: Option<&str>) -> Result<ModelMetadata, String> {
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
    let body = match get(target, "ModelMetadata", &asked.encode_to_vec(), &path, &what)? {
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

/// Asks over the target's protocol: the gRPC method, or the path.
fn get(
    target: &Target,
    method: &str,
    message: &[u8],
    path: &str,
    what: &str,
) -> Result<Answered, String> {
    let wire = match target.protocol {
        Protocol::Grpc => encode::call(target, method, &[], message),
        _ => Wire::Http(
            format!(
                "GET {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n\r\n",
                target.authority
            )
            .into_bytes()
            .into(),
        ),
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
