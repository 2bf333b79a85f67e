//! What the echo server says: of itself, of its one model under any name, and the inputs of a request as its outputs.

use prost::Message;
use serde_json::{Value, json};

use crate::proto::{
    InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelName,
    ServerMetadataResponse, TensorMetadata,
};

/// The model's input and output: `x` and the same back, floats of any shape of two axes.
const SHAPE: [i64; 2] = [-1, 8];

/// A refusal, as either protocol says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub http: u16,
    pub grpc: u8,
    pub message: String,
}

pub fn refusal(http: u16, grpc: u8, message: impl Into<String>) -> Refusal {
    Refusal { http, grpc, message: message.into() }
}

/// The answer to a GET over HTTP; `None`: there is no such route.
pub fn get(path: &str, version: &str) -> Option<Value> {
    let tensor = |name: &str| json!({"name": name, "datatype": "FP32", "shape": SHAPE});
    Some(match path {
        "/v2" | "/v2/" => {
            json!({"name": "onnxd loadtest echo", "version": env!("CARGO_PKG_VERSION"), "extensions": ["binary_tensor_data"]})
        }
        "/v2/health/live" => json!({"live": true}),
        "/v2/health/ready" => json!({"ready": true}),
        _ => {
            let rest = path.strip_prefix("/v2/models/")?;
            let (model, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let rest = match rest.strip_prefix("versions/") {
                Some(rest) => rest.split_once('/').map_or("", |(_, rest)| rest),
                None => rest,
            };
            match rest {
                "" => json!({
                    "name": model, "versions": [version], "platform": "echo",
                    "inputs": [tensor("x")], "outputs": [tensor("x")],
                }),
                "ready" => json!({"name": model, "ready": true}),
                _ => return None,
            }
        }
    })
}

/// The answer to an infer request over HTTP, and the length of its JSON head where tensors stand behind it.
pub fn infer_http(
    model: &str,
    version: &str,
    body: &[u8],
    header_length: Option<usize>,
) -> Result<(Vec<u8>, Option<usize>), Refusal> {
    let wrong = |why: &str| refusal(400, 3, why);
    let length = header_length.unwrap_or(body.len());
    let (head, raw) = body.split_at_checked(length).ok_or_else(|| wrong("the body is cut off"))?;
    let request: Value = serde_json::from_slice(head).map_err(|e| wrong(&e.to_string()))?;
    let inputs = request["inputs"].as_array().ok_or_else(|| wrong("there are no inputs"))?;
    let mut outputs = Vec::new();
    for input in inputs {
        let mut output = json!({
            "name": input["name"], "datatype": input["datatype"], "shape": input["shape"],
        });
        if let Some(size) = input["parameters"]["binary_data_size"].as_u64() {
            output["parameters"] = json!({"binary_data_size": size});
        } else {
            output["data"] = input["data"].clone();
        }
        outputs.push(output);
    }
    let json =
        json!({"model_name": model, "model_version": version, "outputs": outputs}).to_string();
    // The version stands in front, as servers write it: keys in alphabetical order put it before `outputs`.
    let head_length = (header_length.is_some()).then_some(json.len());
    Ok(([json.as_bytes(), raw].concat(), head_length))
}

/// The answer to a call: its message; the method as in `ModelInfer`. Infer calls come through `infer_grpc`.
pub fn call(method: &str, message: &[u8], version: &str) -> Result<Vec<u8>, Refusal> {
    let tensor = || TensorMetadata {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: SHAPE.to_vec(),
    };
    match method {
        // `live`, `ready`: field 1, true.
        "ServerLive" | "ServerReady" | "ModelReady" => Ok(vec![8, 1]),
        "ServerMetadata" => Ok(ServerMetadataResponse {
            name: "onnxd loadtest echo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
        .encode_to_vec()),
        "ModelMetadata" => {
            let asked = ModelName::decode(message).map_err(|e| refusal(400, 3, e.to_string()))?;
            Ok(ModelMetadataResponse {
                name: asked.name,
                versions: vec![version.to_owned()],
                platform: "echo".to_owned(),
                inputs: vec![tensor()],
                outputs: vec![tensor()],
            }
            .encode_to_vec())
        }
        _ => Err(refusal(404, 12, format!("there is no method {method}"))),
    }
}

/// The answer to an infer call.
pub fn infer_grpc(message: &[u8], version: &str) -> Result<Vec<u8>, Refusal> {
    let asked = ModelInferRequest::decode(message).map_err(|e| refusal(400, 3, e.to_string()))?;
    let output = |input: InferTensor| InferTensor { ..input };
    Ok(ModelInferResponse {
        model_name: asked.model_name,
        model_version: version.to_owned(),
        outputs: asked.inputs.into_iter().map(output).collect(),
        raw_output_contents: asked.raw_input_contents,
    }
    .encode_to_vec())
}
