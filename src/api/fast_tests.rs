//! Holds the fast lane to tonic: the same call through both gives the same message, or the same error in the same words.

use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::*;
use crate::{
    api::{
        auth::{live::Auth, roles::Port},
        fixture,
        http::router,
        proto,
        state::Api,
    },
    batcher::{
        cost::CostModel,
        executor::Executors,
        mode::{Choice, Execution},
        options::BatchOptions,
        pool::{Pool, Threads},
        served::{Served, ServedParts, Sessions},
    },
    repository::{
        options::ModelOptions,
        table::{Model, State, Table, Version},
    },
    runtime::echo::{Echo, EchoSession, rows_of},
    serving::engine::EngineOptions,
    telemetry::{clock::now, stats::VersionStats},
    types::datatype::Datatype,
};

/// Both ways to the same engine.
struct Both {
    front: Arc<Front>,
    tonic: axum::Router,
}

const MAX_BYTES: usize = 1 << 16;
/// An FP32 that makes the model fail, and one that it calls invalid.
const FAILS: f32 = 13.0;
const INVALID: f32 = 14.0;

/// `echo` answers with its input of FP32 [N, 4]; the models of the fixture are in every state.
fn both() -> Both {
    let pool = Pool::new(Threads { network: 1, executors: 1 });
    // Left to the end of the process, as the executors of a server that is cut are.
    drop(Executors::start(&pool).unwrap());
    let base = fixture::api();
    let mut table = Table { models: base.table.load().models.clone(), ..Table::default() };
    table.models.insert("echo".into(), Arc::new(echo(&pool)));
    let table = Arc::new(ArcSwap::from_pointee(table));
    let options = EngineOptions {
        request_memory_bytes: 1 << 20,
        max_deadline: None,
        max_requests: 100,
        shared_memory: Default::default(),
        max_request_bytes: 1 << 20,
    };
    let engine = Arc::new(Engine::new(table.clone(), &options));
    let limits = BodyLimits { max_bytes: MAX_BYTES, timeout: Duration::from_secs(30) };
    let api = Api {
        table,
        infer: engine.clone(),
        ready: tokio::sync::watch::channel(true).1,
        limits,
        budget: engine.budget.clone(),
        ..base
    };
    let tonic = router(Arc::new(api));
    let gate = Gate::new(Auth::off(), Port::Data);
    let (router, shutdown) = (tonic.clone(), fixture::serving());
    Both { front: Arc::new(Front { engine, router, limits, gate, shutdown }), tonic }
}

fn echo(pool: &Arc<Pool>) -> Model {
    let echo = Echo { fail_on: Some(FAILS), invalid_on: Some(INVALID), ..Echo::default() };
    let session = Arc::new(EchoSession::new(rows_of(Datatype::Fp32, 4), echo));
    let (name, label): (Arc<str>, Arc<str>) = ("echo".into(), "1".into());
    let stats = Arc::new(VersionStats::new("fast-tests-echo", &label));
    let sessions = Sessions::new(session, 0);
    let signature = sessions.signature().clone();
    let choice = Choice {
        execution: Execution::Single,
        gather: false,
        turn_rows: 0,
        reserve: true,
        reason: String::new(),
    };
    let served = Served::new(ServedParts {
        model: name.clone(),
        version: label.clone(),
        sessions,
        signature: signature.clone(),
        choice,
        options: BatchOptions::default(),
        device: None,
        threads: 1,
        padding: None,
        cost: Arc::new(CostModel::new()),
        stats: stats.clone(),
        pool: pool.clone(),
        on_panic: None,
        on_wanted: None,
    });
    let version = Arc::new(Version {
        model: name.clone(),
        number: 1,
        label,
        signature,
        served,
        stats,
        cache: None,
        log: None,
        platform: "echo",
        backend: "echo",
        providers: Vec::new(),
        default_timeout: None,
        options: Arc::new(ModelOptions::default()),
        weight_bytes: 300,
        sha256: String::new(),
        explanation: serde_json::Value::Null,
    });
    let versions = [(1, State::Ready(version.clone()))].into_iter().collect();
    Model { name, versions, current: Some(version), ..Model::default() }
}

/// What a client sees of an answer: status, message and details of either head or trailers, and the body.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    http: u16,
    content_type: Option<HeaderValue>,
    status: Vec<Option<HeaderValue>>,
    body: Bytes,
}

async fn seen<B>(response: Response<B>) -> Seen
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers = parts.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    let names = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
    Seen {
        http: parts.status.as_u16(),
        content_type: headers.get("content-type").cloned(),
        status: names.map(|name| headers.get(name).cloned()).into(),
        body: body.to_bytes(),
    }
}

impl Both {
    /// The same call through the fast lane (over HTTP/2, whose bodies it takes) and through tonic.
    async fn ask(&self, headers: &[(&str, &str)], framed: &[u8]) -> [Seen; 2] {
        let request = || {
            let mut request = Request::post(format!("http://test{GRPC_INFER}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(Full::from(framed.to_vec())).unwrap()
        };
        let (client, server) = tokio::io::duplex(1 << 16);
        let front = self.front.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let lane = Lane::of(&front, request);
            assert!(matches!(lane, Lane::Grpc { .. }), "not the fast lane");
            answer(front.clone(), lane, None, now())
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), service);
        let server = tokio::spawn(async move { server.await.unwrap() });
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let fast = seen(sender.send_request(request()).await.unwrap()).await;
        drop(sender);
        let _ = connection.await;
        server.await.unwrap();
        let tonic = self.tonic.clone().oneshot(request().map(axum::body::Body::new)).await.unwrap();
        [fast, seen(tonic).await]
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn input(
    name: &str,
    datatype: &str,
    shape: &[i64],
) -> proto::model_infer_request::InferInputTensor {
    proto::model_infer_request::InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.into(),
        ..Default::default()
    }
}

/// `echo` asked for as many rows as the values make.
fn rows(values: &[f32]) -> proto::ModelInferRequest {
    let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    proto::ModelInferRequest {
        model_name: "echo".into(),
        inputs: vec![input("x", "FP32", &[values.len() as i64 / 4, 4])],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

fn parameter(
    mut request: proto::ModelInferRequest,
    name: &str,
    choice: proto::infer_parameter::ParameterChoice,
) -> proto::ModelInferRequest {
    let parameter = proto::InferParameter { parameter_choice: Some(choice) };
    request.parameters.insert(name.into(), parameter);
    request
}

#[tokio::test]
async fn answers_are_tonics() {
    let one = || rows(&[1.0, -0.0, f32::NAN, f32::MAX]);
    let mut typed = one();
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = Some(proto::InferTensorContents {
        fp32_contents: vec![1.0, -0.0, f32::INFINITY, f32::MIN],
        ..Default::default()
    });
    let output = proto::model_infer_request::InferRequestedOutputTensor {
        name: "y".into(),
        ..Default::default()
    };
    let number = proto::infer_parameter::ParameterChoice::Int64Param;
    let both = both();
    for request in [
        one(),
        typed,
        rows(&[]),
        rows(&[0.5; 8000]),
        proto::ModelInferRequest { model_version: "1".into(), id: "é 7".into(), ..one() },
        proto::ModelInferRequest { outputs: vec![output], ..one() },
        parameter(one(), "timeout", number(30_000_000)),
        parameter(one(), "priority", number(2)),
    ] {
        let message = framed(&request.encode_to_vec());
        for headers in [&[][..], &[("grpc-timeout", "30S")]] {
            let [fast, tonic] = both.ask(headers, &message).await;
            assert_eq!(fast.status[0], Some(HeaderValue::from_static("0")), "{fast:?}");
            let [ours, theirs] = [&fast, &tonic]
                .map(|seen| proto::ModelInferResponse::decode(&seen.body[5..]).unwrap());
            assert_eq!(ours.id, request.id);
            assert_eq!(ours.outputs[0].shape, request.inputs[0].shape);
            // Compared as bytes first: NaN is no equal of itself.
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            assert_eq!((fast.http, fast.content_type), (tonic.http, tonic.content_type));
        }
    }
}

#[tokio::test]
async fn errors_are_tonics_to_the_word() {
    let one = || rows(&[1.0; 4]);
    let tensor = |name: &str, datatype: &str, shape: &[i64]| proto::ModelInferRequest {
        inputs: vec![input(name, datatype, shape)],
        ..one()
    };
    let named = |model: &str, version: &str| proto::ModelInferRequest {
        model_name: model.into(),
        model_version: version.into(),
        ..one()
    };
    let output = proto::model_infer_request::InferRequestedOutputTensor {
        name: "z".into(),
        ..Default::default()
    };
    let choice = |text: &str| proto::infer_parameter::ParameterChoice::StringParam(text.into());
    let number = proto::infer_parameter::ParameterChoice::Int64Param;
    let both = both();
    for (code, headers, request) in [
        ("5", "", named("nonesuch", "")),
        ("5", "", named("", "")),
        ("5", "", named("echo", "2")),
        ("5", "", named("echo", "one")),
        ("14", "", named("digits", "3")),
        ("14", "", named("digits", "4")),
        ("14", "", named("empty", "")),
        ("3", "", tensor("z", "FP32", &[1, 4])),
        ("3", "", tensor("x", "FP64", &[1, 4])),
        ("3", "", tensor("x", "NONE", &[1, 4])),
        ("3", "", tensor("x", "FP32", &[4])),
        ("3", "", tensor("x", "FP32", &[1, 5])),
        ("3", "", tensor("x", "FP32", &[2, 4])),
        ("3", "", tensor("x", "FP32", &[-1, 4])),
        ("3", "", tensor("x", "FP32", &[i64::MAX, i64::MAX])),
        ("3", "", proto::ModelInferRequest { inputs: vec![], ..one() }),
        ("3", "", proto::ModelInferRequest { raw_input_contents: vec![], ..one() }),
        ("3", "", proto::ModelInferRequest { raw_input_contents: vec![Bytes::new(); 3], ..one() }),
        ("3", "", proto::ModelInferRequest { outputs: vec![output], ..one() }),
        ("3", "", parameter(one(), "timeout", number(-1))),
        ("3", "", parameter(one(), "timeout", choice("soon"))),
        ("3", "soon", one()),
        ("4", "1n", one()),
        ("3", "", rows(&[1.0, INVALID, 1.0, 1.0])),
        ("13", "", rows(&[1.0, FAILS, 1.0, 1.0])),
    ] {
        let headers: Vec<(&str, &str)> =
            [headers].into_iter().filter(|h| !h.is_empty()).map(|h| ("grpc-timeout", h)).collect();
        let [fast, tonic] = both.ask(&headers, &framed(&request.encode_to_vec())).await;
        assert_eq!(fast, tonic, "{request:?}");
        assert_eq!(fast.status[0].as_ref().unwrap(), code, "{fast:?}");
        assert!(fast.status[1].is_some(), "an error says what it is: {request:?}");
    }
}

#[tokio::test]
async fn broken_calls_have_tonics_codes() {
    let both = both();
    let good = framed(&rows(&[1.0; 4]).encode_to_vec());
    let compressed = [&[1], &good[1..]].concat();
    let gzip = [("grpc-encoding", "gzip")];
    let snappy = [("grpc-encoding", "snappy")];
    for (code, headers, call) in [
        ("3", &[][..], vec![]),
        ("3", &[], good[..4].to_vec()),
        ("3", &[], good[..good.len() - 1].to_vec()),
        ("3", &[], framed(&[0xff; 64])),
        ("8", &[], framed(&[0x0a; MAX_BYTES + 1])),
        ("3", &gzip, compressed.clone()),
        ("3", &[], compressed.clone()),
        ("12", &snappy, compressed),
    ] {
        let [fast, tonic] = both.ask(headers, &call).await;
        assert_eq!(fast.status[0].as_ref().unwrap(), code, "{fast:?}");
        assert_eq!(tonic.status[0].as_ref().unwrap(), code, "{tonic:?}");
        assert_eq!((fast.http, fast.content_type), (tonic.http, tonic.content_type));
    }
}

/// Compressed through the fast lane as through the routers: the same answer, packed where that makes it smaller.
#[tokio::test]
async fn compressed_calls_are_answered_in_kind() {
    use std::io::{Read, Write};
    let both = both();
    for (count, packed) in [(4, false), (8000, true)] {
        let message = rows(&vec![0.5; count]).encode_to_vec();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(&message).unwrap();
        let mut call = framed(&encoder.finish().unwrap());
        call[0] = 1;
        let headers = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,gzip")];
        for seen in both.ask(&headers, &call).await {
            assert_eq!(seen.status[0].as_ref().unwrap(), "0", "{seen:?}");
            assert_eq!(seen.body[0] == 1, packed, "{count} numbers");
            let mut message = seen.body[5..].to_vec();
            if packed {
                assert!(message.len() < 1000);
                let sent = std::mem::take(&mut message);
                flate2::read::GzDecoder::new(&*sent).read_to_end(&mut message).unwrap();
            }
            let answer = proto::ModelInferResponse::decode(&*message).unwrap();
            assert_eq!(answer.raw_output_contents[0].len(), count * 4);
        }
        assert_eq!(both.front.engine.budget.used(), 0);
    }
}
