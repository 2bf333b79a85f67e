//! gRPC and cleartext HTTP/2 as a client speaks them: calls over hyper, with their status and details.

use std::{sync::OnceLock, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onnxd::api::proto::{
    InferParameter, ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use prost::Message;
use tokio::{runtime::Runtime, task::JoinHandle};

const SERVICE: &str = "/inference.GRPCInferenceService/";

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("an event loop")
    })
}

/// What a call came back with.
pub struct Called {
    pub code: i32,
    pub message: String,
    /// `grpc-status-details-bin`, decoded from base64.
    pub details: Option<Vec<u8>>,
    /// The answer's message, without its frame.
    pub body: Bytes,
}

impl Called {
    /// The answer of an inference that went well.
    pub fn infer(&self) -> ModelInferResponse {
        assert_eq!(self.code, 0, "{}", self.message);
        ModelInferResponse::decode(self.body.clone()).expect("an answer decodes")
    }

    /// The first output as FP32.
    pub fn floats(&self) -> Vec<f32> {
        let answer = self.infer();
        let raw = answer.raw_output_contents[0].chunks_exact(4);
        raw.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// A connection.
pub struct Grpc {
    sender: SendRequest<Full<Bytes>>,
    /// Sent with every call.
    metadata: Vec<(&'static str, String)>,
}

impl Grpc {
    /// Connects to `HOST:PORT` or `unix:PATH` with HTTP/2 from the first byte.
    pub fn connect(address: &str) -> Grpc {
        let address = address.to_owned();
        let sender = runtime().block_on(async move {
            if let Some(path) = address.strip_prefix("unix:") {
                let io = tokio::net::UnixStream::connect(path).await.expect("the server listens");
                spoken(TokioIo::new(io)).await
            } else {
                let io = tokio::net::TcpStream::connect(address).await.expect("the server listens");
                io.set_nodelay(true).expect("nodelay");
                spoken(TokioIo::new(io)).await
            }
        });
        Grpc { sender, metadata: Vec::new() }
    }

    /// The same with a caller's key.
    #[must_use]
    pub fn with_key(self, key: &str) -> Grpc {
        self.with_metadata("authorization", &format!("Bearer {key}"))
    }

    /// The same with metadata that goes with every call.
    #[must_use]
    pub fn with_metadata(mut self, name: &'static str, value: &str) -> Grpc {
        self.metadata.push((name, value.to_owned()));
        self
    }

    /// The same over TLS, offering h2.
    pub fn connect_tls(address: &str, client: &super::tls::Client) -> Grpc {
        let connector = tokio_rustls::TlsConnector::from(client.config(b"h2"));
        let sender = runtime().block_on(async move {
            let io = tokio::net::TcpStream::connect(address).await.expect("the server listens");
            let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
            let io = connector.connect(name, io).await.expect("a handshake");
            assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            spoken(TokioIo::new(io)).await
        });
        Grpc { sender, metadata: Vec::new() }
    }

    /// Begins a call; dropping or aborting the handle resets its stream.
    pub fn start(&self, method: &str, timeout: &str, message: &[u8]) -> JoinHandle<Called> {
        let mut request = Request::post(format!("http://test{SERVICE}{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !timeout.is_empty() {
            request = request.header("grpc-timeout", timeout);
        }
        for (name, value) in &self.metadata {
            request = request.header(*name, value);
        }
        let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        let framed = [&[0][..], &length, message].concat();
        let request = request.body(Full::from(framed)).expect("a request");
        let mut sender = self.sender.clone();
        runtime().spawn(async move {
            let response = sender.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), 200, "every gRPC answer is a 200");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("an answer arrives whole");
            let mut headers = parts.headers;
            headers.extend(body.trailers().cloned().unwrap_or_default());
            called(&headers, body.to_bytes())
        })
    }

    pub fn call(&self, method: &str, timeout: &str, message: &[u8]) -> Called {
        finish(self.start(method, timeout, message))
    }

    pub fn infer(&self, timeout: &str, request: &ModelInferRequest) -> Called {
        self.call("ModelInfer", timeout, &request.encode_to_vec())
    }

    /// Begins an HTTP request over this connection; dropping or aborting the handle resets its stream. `headers`: pairs.
    pub fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &serde_json::Value,
    ) -> JoinHandle<(u16, Bytes)> {
        let mut request = Request::post(format!("http://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_string())).expect("a request");
        let mut sender = self.sender.clone();
        runtime().spawn(async move {
            let response = sender.send_request(request).await.expect("an answer");
            let status = response.status().as_u16();
            (status, response.into_body().collect().await.expect("a body").to_bytes())
        })
    }

    /// An ordinary HTTP request over this connection: status and body.
    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Bytes) {
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.body(Full::from(body.to_vec())).expect("a request");
        let mut sender = self.sender.clone();
        runtime().block_on(async move {
            let response = sender.send_request(request).await.expect("an answer");
            let status = response.status().as_u16();
            (status, response.into_body().collect().await.expect("a body").to_bytes())
        })
    }
}

async fn spoken<I>(io: I) -> SendRequest<Full<Bytes>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Waits for a call's end.
pub fn finish<T: Send + 'static>(call: JoinHandle<T>) -> T {
    let patient = async { tokio::time::timeout(Duration::from_secs(60), call).await };
    runtime().block_on(patient).expect("an answer in time").expect("a call that ends")
}

fn called(headers: &HeaderMap, mut body: Bytes) -> Called {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().expect("ASCII"));
    let details = text("grpc-status-details-bin")
        .map(|text| STANDARD_NO_PAD.decode(text.trim_end_matches('=')).expect("base64"));
    Called {
        code: text("grpc-status").expect("a status").parse().expect("a number"),
        message: text("grpc-message").unwrap_or("").to_owned(),
        details,
        body: if body.len() > 5 { body.split_off(5) } else { Bytes::new() },
    }
}

/// A request over raw contents, each input as in `(name, datatype, shape, bytes)`.
pub fn request(model: &str, inputs: &[(&str, &str, &[i64], Vec<u8>)]) -> ModelInferRequest {
    let tensor = |(name, datatype, shape, _): &(&str, &str, &[i64], Vec<u8>)| InferInputTensor {
        name: (*name).to_owned(),
        datatype: (*datatype).to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs.iter().map(tensor).collect(),
        raw_input_contents: inputs.iter().map(|(.., raw)| raw.clone().into()).collect(),
        ..ModelInferRequest::default()
    }
}

/// As `http::burn`.
pub fn burn(x: f32, iters: i64) -> ModelInferRequest {
    let (x, iters) = (x.to_le_bytes().to_vec(), iters.to_le_bytes().to_vec());
    request("burn", &[("X", "FP32", &[1], x), ("ITERS", "INT64", &[1], iters)])
}

/// As `http::four`, of model `model`.
pub fn four(model: &str, x: f32) -> ModelInferRequest {
    request(model, &[("X", "FP32", &[1, 4], x.to_le_bytes().repeat(4))])
}

/// Gives a request the protocol's `timeout` parameter.
pub fn timeout(mut request: ModelInferRequest, us: i64) -> ModelInferRequest {
    let parameter = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(us)) };
    request.parameters.insert("timeout".to_owned(), parameter);
    request
}
